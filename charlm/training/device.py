"""Where a model trains: the device of train.device, and the numbers that it computes in."""

import torch

from charlm.errors import CharlmError

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def resolve_device(name: str, dtype: str) -> torch.device:
    """The device `name`, or for `auto` the fastest one here that computes in `dtype`; else CharlmError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    unable = {"mps"} if dtype == "float64" else set()
    choices = [device for device, here in present.items() if here and device not in unable]
    if name == "auto":
        return torch.device(choices[0])
    if name in choices:
        return torch.device(name)
    raise CharlmError(
        f"train.device={name}: "
        + (f"it cannot compute in train.dtype={dtype}." if name in unable else "PyTorch finds none on this machine."),
        f"Expected a device that can: {', '.join(choices)}; `auto` takes the first of them.",
    )
