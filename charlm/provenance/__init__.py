"""Where a result comes from: the code, the environment, the repository, and the proof by reproduction."""
