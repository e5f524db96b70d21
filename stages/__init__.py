"""The pipeline's stages: one thin command each, run by DVC as `python -m stages.<name>`."""
