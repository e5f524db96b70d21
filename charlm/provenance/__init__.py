"""Where a result comes from: the code's version, the environment, the repository, and the proof."""
