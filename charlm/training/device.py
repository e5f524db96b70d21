"""Where a model trains: the device of train.device."""

import torch

from charlm.errors import CharlmError
from charlm.models.predictor import Precision

_UNABLE: dict[Precision, set[str]] = {"exact": {"cuda", "mps"}, "float64": {"mps"}, "float32": set()}
"""`exact` needs correctly rounded kernels, which are known of the CPU alone."""


def resolve_device(name: str, precision: Precision) -> torch.device:
    """The device `name`, or for `auto` the fastest one here that computes in `precision`; else CharlmError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    unable = _UNABLE[precision]
    choices = [device for device, here in present.items() if here and device not in unable]
    if name == "auto":
        return torch.device(choices[0])
    if name in choices:
        return torch.device(name)
    raise CharlmError(
        f"train.device={name}: "
        + (
            f"it cannot compute in train.precision={precision}."
            if name in unable
            else "PyTorch finds none on this machine."
        ),
        f"Expected a device that can: {', '.join(choices)}; `auto` takes the first of them.",
    )
