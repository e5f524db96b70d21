"""From an address to tokens, and what counting makes of them; no model, no torch."""
