"""The packages and the machine that a result was computed with."""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Self

from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Environment:
    """What a result was computed with, as environment.json in a run's artifacts keeps it."""

    python: str
    platform: str
    cpu_capability: str
    """The widest instructions that PyTorch uses: DEFAULT, AVX2 or AVX512 on x86."""
    threads: int
    packages: dict[str, str]
    """Version of every installed package by canonical name."""

    @classmethod
    def here(cls) -> Self:
        """The environment of this process."""
        import torch

        installed = (distribution.metadata for distribution in distributions())  # .name and .version parse it each time
        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            packages=dict(sorted((canonicalize_name(d["Name"]), d["Version"]) for d in installed if d["Name"])),
        )

    @classmethod
    def from_json(cls, content: str | bytes) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(content))

    def to_json(self) -> str:
        """As JSON, one package a line."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def software_differences(self, other: Self) -> list[str]:
        """A line for Python and each package with another version in `other`; charlm itself does not count."""
        mine, others = ({"python": e.python} | e.packages for e in (self, other))
        return [
            f"{name}: {mine.get(name, 'not installed')} on record, {others.get(name, 'not installed')} here"
            for name in sorted(mine.keys() | others.keys())
            if name != "charlm" and mine.get(name) != others.get(name)
        ]

    def machine_differences(self, other: Self) -> list[str]:
        """A line if the platform, and if the CPU capability, differs in `other`; neither should change a result."""
        mine, others = asdict(self), asdict(other)
        facts = [fact for fact in ("platform", "cpu_capability") if mine[fact] != others[fact]]
        return [f"{fact}: {mine[fact]} on record, {others[fact]} here" for fact in facts]
