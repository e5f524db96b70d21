"""The packages and the machine that a result was computed with."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Self

from packaging.utils import canonicalize_name

DECISIVE = ("charset-normalizer", "httpx", "numpy", "pydantic", "pydantic-core", "ruamel-yaml", "safetensors", "torch")
"""The packages that the code of the stages imports to compute: another version could give other bytes."""


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

    def decisive_differences(self, other: Self) -> list[str]:
        """A line for each of Python and DECISIVE that has another version in `other`.

        Of Python the minor version counts, of a package all but the local one: 2.13.0+cpu and 2.13.0+cu128 are 2.13.0.
        """
        return differences(self._decisive(), other._decisive())

    def _decisive(self) -> dict[str, str]:
        versions = {name: self.packages[name].partition("+")[0] for name in DECISIVE if name in self.packages}
        return {"python": ".".join(self.python.split(".")[:2])} | versions

    def other_differences(self, other: Self) -> list[str]:
        """A line for each other difference of Python and the packages; charlm itself does not count."""
        found = differences(*({"python": e.python} | e.packages | {"charlm": ""} for e in (self, other)))
        decisive = {line.partition(":")[0] for line in self.decisive_differences(other)}
        return [line for line in found if line.partition(":")[0] not in decisive]

    def machine_differences(self, other: Self) -> list[str]:
        """A line if the platform, and if the CPU capability, differs in `other`; neither should change a result."""
        return differences(*({"platform": e.platform, "cpu_capability": e.cpu_capability} for e in (self, other)))


def differences(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """A line for every name with different values."""
    return [
        f"{name}: {recorded.get(name, 'not installed')} on record, {here.get(name, 'not installed')} here"
        for name in sorted(recorded.keys() | here.keys())
        if recorded.get(name) != here.get(name)
    ]
