"""params.yaml as frozen, typed models, checked as a whole; and the folder that the project lives in.

It is not where tracking is set up: MLflow's address and experiment are environment variables, MLflow's own,
for a renamed experiment must not retrain. The file is read as YAML 1.2, as DVC reads it: PyYAML (YAML 1.1)
takes `3e-4` for a string and `no` for false.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from charlm.errors import CharlmError

PARAMS_FILE = "params.yaml"

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # MLflow's largest integer


def _checked_source(value: object) -> object:
    """`value` if it is a text or a list of them: of a union pydantic itself tells a complaint for each of its kinds."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise PydanticCustomError("source", "some text, or a list of one or more")
    return value


Source = Annotated[str | list[str], BeforeValidator(_checked_source)]


class Section(BaseModel):
    """A section of params.yaml: values of the right type already, no key beside the known ones."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class DataParams(Section):
    """Which text to learn from, and how much of it trains."""

    source: Source
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    train_fraction: Fraction


class ModelParams(Section):
    """Which model to train."""

    name: Literal["bigram"]


class TrainParams(Section):
    """How to train it."""

    seed: Seed
    block_size: Count
    batch_size: Count
    max_iters: Count
    learning_rate: Positive
    weight_decay: NotNegative
    eval_interval: Count
    device: Literal["auto", "cpu", "cuda", "mps"]
    dtype: Literal["float64", "float32"]


class SampleParams(Section):
    """What text to draw from it."""

    seed: Seed
    prompt: Annotated[str, Field(min_length=1)]
    max_new_tokens: Count
    temperature: Positive


class Params(Section):
    """The whole of params.yaml."""

    data: DataParams
    model: ModelParams
    train: TrainParams
    sample: SampleParams


class ParamsError(CharlmError):
    """params.yaml cannot be used; the message lists every problem in it."""

    def __init__(self, where: str, problems: list[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{where} has {count}:{lines}\nMend the file, then run again.")


class NoProjectError(CharlmError):
    """The current folder is in no project."""

    def __init__(self, here: Path) -> None:
        super().__init__(f"No dvc.yaml in {here} or above it.\nGo to the folder of the project, then run this again.")


def project_root() -> Path:
    """The folder of the project: where the data, the MLflow store and `.dvc` are.

    DVC names it in DVC_ROOT for every stage, and inside `dvc exp run --temp` and the queue's workers it is the
    repository that the experiment was started from, not the temporary folder. Elsewhere it is the current folder or the
    nearest one above it that holds a dvc.yaml; NoProjectError if none does.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise NoProjectError(here)


def load_params(path: Path = Path(PARAMS_FILE)) -> Params:
    """Read and check `path`.

    Raises ParamsError for a file that is not there, is not YAML, or has any wrong, missing or unknown key.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_bytes())
    except OSError as err:
        raise ParamsError(str(path), [f"it cannot be read: {err.strerror}"]) from err
    except MarkedYAMLError as err:
        line = f"line {err.problem_mark.line + 1}: " if err.problem_mark else ""
        raise ParamsError(str(path), [f"{line}not valid YAML: {err.problem}"]) from err
    except (YAMLError, ValueError) as err:
        raise ParamsError(str(path), [f"not valid YAML: {err}"]) from err
    return parse_params(content, str(path))


def parse_params(content: object, where: str) -> Params:
    """Check values that were read from the file `where`; ParamsError lists every problem."""
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise ParamsError(where, [f"found {found}, expected the sections {', '.join(Params.model_fields)}"])
    try:
        return Params.model_validate(content)
    except ValidationError as err:
        raise ParamsError(where, [_problem(error) for error in err.errors()]) from err


def flatten(**sections: Section) -> dict[str, Any]:
    """Every parameter of `sections` by its dotted key: `train.learning_rate`, as DVC and MLflow show it."""
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section}


def shown_source(source: str | Sequence[str]) -> str:
    """`data.source` in few words: itself, or how many texts it lists."""
    if isinstance(source, str):
        return source
    return f"{len(source)} texts" if len(source) > 1 else source[0]


def is_pattern(source: str) -> bool:
    """Whether a source can stand for several paths: it holds one of pathlib's wildcards."""
    return any(wildcard in source for wildcard in "*?[")


def _problem(error: Any) -> str:
    """One line for one of pydantic's errors: the key, what was found, what was expected."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(error['loc'])}"
    if error["type"] == "missing":
        return f"{key}: missing"
    plainly = {
        "string_too_short": "some text",
        "string_pattern_mismatch": "64 hexadecimal digits in lower case, or null",
        "model_type": "a section of keys",
        "invalid_key": "a key that is text",
    }
    expected = plainly.get(error["type"]) or error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{key}: found {error['input']!r}, expected {expected}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The known name nearest to the last part of `location`, for an unknown key in a section or at the top."""
    model: Any = Params
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    near = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(model.model_fields)}"
