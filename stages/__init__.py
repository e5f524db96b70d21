"""The pipeline's stages: one thin command each, run by DVC as `python -m stages.<name>`.

A stage lives for seconds, in which Python's garbage collector would go through all that PyTorch and MLflow bring along,
hundreds of times while they are imported and again at the end: two of the five seconds of a stage that needs both.
"""

import atexit
import gc

gc.set_threshold(10_000)  # new objects between two collections; Python's own is 700
atexit.register(gc.freeze)  # what is there at the end is not looked through once more
