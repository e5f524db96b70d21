"""The models by their names, and what a trained one is kept in and asked for."""
