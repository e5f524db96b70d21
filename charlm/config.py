"""params.yaml as frozen, typed models, checked as a whole; the registry of models; and the project's folder.

Tracking is not set up here: MLflow's address and experiment are environment variables, MLflow's own, for a renamed
experiment must not retrain. The file is read as YAML 1.2, as DVC reads it: PyYAML (YAML 1.1) takes `3e-4` for a
string and `no` for false.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from charlm.errors import TOKEN, CharlmError, indented, without_password

PARAMS_FILE = "params.yaml"
CREDENTIALS = "credentials belong in ~/.netrc or in CHARLM_AUTHORIZATION (docs/how-it-works.md, Credentials)"
LONGEST_NAME = 300
"""Characters of a source where it is named."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # MLflow's largest integer


def _as_sources(value: object) -> object:
    """One text, or a list of them, as a list; pydantic's own union would report a problem for each of its types."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise PydanticCustomError("source", "some text, or a list of one or more")
    if secret := next(filter(_has_password, texts), None):
        raise PydanticCustomError("password", "{address}", {"address": without_password(secret)})
    return texts


def _has_password(source: str) -> bool:
    """Whether a source is an address with a user, a password or a token in it."""
    try:
        parts = urlsplit(source)
        has_user = parts.port != 0 and "@" in parts.netloc
    except ValueError:  # no valid address, as the download will report
        has_user = "@" in source
    return "://" in source and (has_user or bool(TOKEN.search(source)))


def _as_encoding(name: str) -> str:
    """The name of one of Python's encodings of texts."""
    if not is_encoding(name):
        raise PydanticCustomError("encoding", "an encoding that Python knows, such as utf-8 or cp1252")
    return name


def is_encoding(name: str) -> bool:
    """Whether Python has an encoding of texts with this name."""
    try:
        return "A\n".encode(name).decode(name) == "A\n"
    except (LookupError, ValueError):
        return False


class Section(BaseModel):
    """A section of params.yaml: values of the right type already, no key beside the known ones."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class DataParams(Section):
    """Which texts to learn from, and how much of them trains."""

    source: Annotated[list[str], BeforeValidator(_as_sources)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    encoding: Annotated[str, AfterValidator(_as_encoding)] | None = None
    train_fraction: Fraction


class MLPParams(Section):
    """How many characters an MLP sees, the size of an embedding, and the hidden units."""

    n_context: Count
    n_embd: Count
    n_hidden: Count


class GRUParams(Section):
    """The size of a GRU's embeddings, its hidden units, and the fraction of both that training drops."""

    n_embd: Count
    n_hidden: Count
    dropout: Dropout


class GPTParams(Section):
    """A GPT's blocks, heads in each, width, characters summed at its input, and the fraction that training drops."""

    n_layer: Count
    n_head: Count
    n_embd: Count
    n_window: Count
    dropout: Dropout

    @field_validator("n_embd")
    @classmethod
    def _require_even_heads(cls, n_embd: int, info: ValidationInfo) -> int:
        n_head = info.data.get("n_head", 1)
        if n_embd % (2 * n_head):
            raise PydanticCustomError("heads", f"a multiple of {2 * n_head}: an even size for each of n_head={n_head}")
        return n_embd


class Registered(NamedTuple):
    """A model by the name that params.yaml gives it: its settings, and where its classes are, below charlm.models."""

    settings: type[Section]
    trainable: str
    """`module:class` of the LanguageModel that learns."""
    predictor: str
    """`module:class` of what a checkpoint is loaded as."""


MODELS = {
    "bigram": Registered(Section, "bigram:BigramLanguageModel", "table:BigramTable"),
    "mlp": Registered(MLPParams, "mlp:MLP", "mlp:MLP"),
    "gru": Registered(GRUParams, "gru:GRU", "gru:GRU"),
    "gpt": Registered(GPTParams, "gpt:GPT", "gpt:GPT"),
}
"""The registry. A model is an entry here, a file in charlm/models/ and a section in params.yaml."""

_fields: dict[str, Any] = {name: (model.settings | None, None) for name, model in MODELS.items()}
_Sections: Any = create_model("_Sections", __base__=Section, **_fields)


def _registered(name: str) -> str:
    if name not in MODELS:
        raise PydanticCustomError("model", f"{' or '.join(difflib.get_close_matches(name, MODELS, n=1) or MODELS)}")
    return name


class ModelParams(_Sections):  # type: ignore[misc]  # it has a field for each entry of MODELS
    """Which model to train, and the settings of each that the file has a section for."""

    name: Annotated[str, AfterValidator(_registered)]

    @model_validator(mode="after")
    def _require_settings(self) -> "ModelParams":
        if getattr(self, self.name) is None:
            raise PydanticCustomError("no_settings", f"{self.name}: missing, the section of model.name")
        return self

    @property
    def settings(self) -> Section:
        """Those of the model that `name` names."""
        settings: Section = getattr(self, self.name)
        return settings


class TrainParams(Section):
    """How to train it."""

    seed: Seed
    block_size: Count
    batch_size: Count
    gradient_accumulation_steps: Count
    max_iters: Count
    optimizer: Literal["adamw", "muon"]
    learning_rate: Positive
    muon_learning_rate: Positive
    beta2: Fraction
    weight_decay: NotNegative
    warmup_iters: WholeNumber
    schedule: Literal["constant", "cosine", "linear"]
    grad_clip: Positive | None
    eval_interval: Count
    eval_iters: Count
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["exact", "float64", "float32"]


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

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{where} has {count}:{indented(problems)}", fix="Fix the file, then run again.")


def project_root() -> Path:
    """The folder of the project, where its data and the MLflow store are: the nearest one at or above with a dvc.yaml.

    Inside `dvc exp run --temp` and the queue's workers that is a copy of the repository, and the project is where it
    was copied from: DVC names it, and only then DVC_ROOT counts. It can also be that of an outer pipeline, or of a
    repository with this project in a subfolder.

    Raises CharlmError if there is none.
    """
    here = Path.cwd()
    folder = _nearest(here, "dvc.yaml")
    if folder is None:
        raise CharlmError(
            f"No dvc.yaml in {here} or above it.", fix="Go to the folder of the project, then run this again."
        )
    original, copy = Path(os.environ.get("DVC_ROOT") or here).resolve(), _nearest(folder, ".git")
    if copy and copy.is_relative_to(original / ".dvc/tmp/exps"):
        return (_nearest(original, ".git") or original) / folder.relative_to(copy)
    return folder


def _nearest(folder: Path, name: str) -> Path | None:
    """The nearest folder, `folder` itself or above it, that has a `name`."""
    return next((place for place in (folder, *folder.parents) if (place / name).exists()), None)


def address(variable: str, root: Path) -> str:
    """The address or path in an environment variable, a relative path in `root`; empty if it is unset or empty.

    So it means the same wherever DVC runs a stage.
    """
    value = os.environ.get(variable, "")
    if value.startswith("sqlite"):
        return sqlite_address(value, root)
    is_path = value and ":" not in value and not value.startswith("databricks")  # MLflow's name of a service
    return str(root / value) if is_path else value


def sqlite_address(value: str, root: Path) -> str:
    """The address of a SQLite database, the path of its file in `root` if it is relative."""
    from sqlalchemy import make_url

    url = make_url(value)
    if not url.database or url.database.startswith((":memory:", "file:")):
        return value
    path = str(root / url.database)
    url = url.set(database=path)
    plain = url.render_as_string(hide_password=False)
    # MLflow creates the folder in a plain address, but takes its quoting for part of the name.
    return plain if path in plain else url.set(drivername="sqlite+pysqlite").render_as_string(hide_password=False)


def load_params(path: Path = Path(PARAMS_FILE)) -> Params:
    """Read and check `path`.

    Raises ParamsError for a file that is not there, is not YAML, or has any wrong, missing or unknown key.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

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


def flatten(params: Params, *sections: str) -> dict[str, Any]:
    """Every parameter of these sections, or of all, by dotted key as DVC and MLflow show it: `train.learning_rate`.

    Of the sections of `model` only that of the model it names; a single `data.source` is that text.
    """
    values = {
        f"{section}.{key}": value
        for section in sections or Params.model_fields
        for key, value in getattr(params, section)
        if section != "model" or key == "name"
    }
    if "model.name" in values:
        values |= {f"model.{params.model.name}.{key}": value for key, value in params.model.settings}
    if len(values.get("data.source", [])) == 1:
        values["data.source"] = params.data.source[0]
    return values


def short_source(sources: Sequence[str]) -> str:
    """`data.source` in few words: the only one, or its beginning, or how many there are."""
    if len(sources) > 1:
        return f"{len(sources)} texts"
    return sources[0] if len(sources[0]) <= LONGEST_NAME else f"{sources[0][:LONGEST_NAME]}…"


def is_pattern(source: str) -> bool:
    """Whether a source can stand for several paths: it contains one of pathlib's wildcards."""
    return any(wildcard in source for wildcard in "*?[")


def _problem(error: Any) -> str:
    """One line for one of pydantic's errors: the key, what was found, what was expected."""
    key = ".".join(str(name) for name in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(error['loc'])}"
    if error["type"] == "missing":
        return f"{key}: missing"
    if error["type"] == "no_settings":
        return f"{key}.{error['msg']}"
    if error["type"] == "password":
        return f"{key}: found an address with a password ({error['msg']}), expected one without; {CREDENTIALS}"
    plain = {
        "string_too_short": "some text",
        "string_pattern_mismatch": "64 hexadecimal digits in lower case",
        "model_type": "a section of keys",
        "invalid_key": "a key that is text",
    }
    expected = plain.get(error["type"]) or error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    found = without_password(repr(error["input"]))
    field = _fields_beside(error["loc"]).get(error["loc"][-1])
    or_null = ", or null" if field and type(None) in get_args(field.annotation) else ""
    return f"{key}: found {found}, expected {expected}{or_null}"


def _fields_beside(location: tuple[int | str, ...]) -> Mapping[Any, FieldInfo]:
    """The known keys of the section, or of the top, that `location` is in."""
    section: Any = Params
    for name in location[:-1]:
        section = MODELS[str(name)].settings if section is ModelParams else section.model_fields[name].annotation
    fields: Mapping[Any, FieldInfo] = section.model_fields
    return fields


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The known name nearest to the last of `location`, for an unknown key in a section or at the top."""
    known = list(_fields_beside(location))
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known) or 'no key'}"
