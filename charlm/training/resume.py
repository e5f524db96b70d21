"""A training run that was cut off goes on where it stopped: its whole state in a file, saved as it goes.

The file is named after a digest of all that decides the result, so that only a run which comes to the same bytes goes
on from it. It is no result: a finished run removes it, and neither git nor DVC sees it.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
from safetensors.torch import save
from torch import Tensor

from charlm.files import atomic_write
from charlm.training.history import Point

FOLDER = ".charlm/unfinished"
"""Below the project's folder, also for an experiment that DVC runs in a temporary one."""
INTERVAL = 5.0
"""Seconds of work that may be lost: saving at each of a small model's measurements would take longer than these."""


@dataclass(frozen=True)
class State:
    """A training run after the step of the last of its `points`: weights and optimizer in full precision."""

    points: Sequence[Point]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """The step that was made last."""
        return self.points[-1].step


class Unfinished:
    """Where the state of a training run is kept, below `root`; `decisive` is all that decides its result."""

    def __init__(self, root: Path, decisive: Mapping[str, str]) -> None:
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        self.path = root / FOLDER / f"{digest[:32]}.safetensors"
        self._saved = float("-inf")

    def others(self) -> list[Path]:
        """States of runs with another result."""
        return sorted(set(self.path.parent.glob("*.safetensors")) - {self.path})

    def load(self) -> State | None:
        """The state to go on from; None if there is none, or its file is damaged."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                points = [Point(**values) for values in json.loads(file.metadata()["points"])]
                return State(points, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 not a dict
        except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
            return None

    def save(self, state: State) -> None:
        """Keep `state` in place of the one before, unless that was less than INTERVAL seconds ago."""
        if time.monotonic() - self._saved < INTERVAL:
            return
        points = json.dumps([asdict(point) for point in state.points])  # floats as they are: JSON has all their digits
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors.items()}
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(save(tensors, {"points": points}))
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Forget the state: the run has finished."""
        self.path.unlink(missing_ok=True)
