"""params.yaml: what is read from it, what is refused and with which words, and where the project is."""

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dump_yaml, load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from charlm.config import (
    DataParams,
    Params,
    ParamsError,
    SampleParams,
    Section,
    TrainParams,
    flatten,
    load_params,
    parse_params,
    project_root,
    short_source,
)
from charlm.errors import CharlmError

SHIPPED = Path(__file__).parents[2] / "params.yaml"

# YAML by dotted key: a whole params.yaml that is as short as one can be.
GOOD = {
    "data.source": "book.txt",
    "data.sha256": "null",
    "data.encoding": "null",
    "data.train_fraction": "0.5",
    "model.name": "bigram",
    "model.bigram": "{}",
    "train.seed": "1",
    "train.block_size": "2",
    "train.batch_size": "3",
    "train.gradient_accumulation_steps": "1",
    "train.max_iters": "4",
    "train.optimizer": "adamw",
    "train.learning_rate": "0.1",
    "train.muon_learning_rate": "0.2",
    "train.beta2": "0.9",
    "train.weight_decay": "0.0",
    "train.warmup_iters": "0",
    "train.schedule": "constant",
    "train.grad_clip": "null",
    "train.eval_interval": "5",
    "train.eval_iters": "6",
    "train.device": "cpu",
    "train.precision": "exact",
    "sample.seed": "6",
    "sample.prompt": "a",
    "sample.max_new_tokens": "7",
    "sample.temperature": "1.0",
}


def load(folder: Path, changes: dict[str, str]) -> dict[str, Any]:
    """What is read from a file in `folder` with the YAML in GOOD, changed; every value by its dotted key."""
    sections: dict[str, str] = {}
    for key, value in (GOOD | changes).items():
        section, _, name = key.partition(".")
        sections[section] = sections.get(section, "") + f"  {name}: {value}\n"
    path = folder / "params.yaml"
    path.write_text("".join(f"{section}:\n{lines}" for section, lines in sections.items()))
    return flatten(load_params(path))


def problems(err: pytest.ExceptionInfo[ParamsError], where: Path) -> list[str]:
    """The problems that the message lists, when all around them is as it is to be."""
    head, *lines, end = str(err.value).split("\n")
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert (head, end) == (f"{where} has {count}:", "Fix the file, then run again.")
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


# What is read


def test_the_shipped_file_has_the_notebooks_values() -> None:
    assert flatten(load_params(SHIPPED)) == {
        "data.source": "https://www.gutenberg.org/ebooks/22566",
        "data.sha256": "8e74cda23435d7e7ea953cdf23b8f722629f0a62c9ba767465d91a0c44cb5e19",
        "data.encoding": None,
        "data.train_fraction": 0.8,
        "model.name": "bigram",
        "train.seed": 1337,
        "train.block_size": 8,
        "train.batch_size": 4,
        "train.gradient_accumulation_steps": 1,
        "train.max_iters": 1000,
        "train.optimizer": "adamw",
        "train.learning_rate": 3e-4,
        "train.muon_learning_rate": 0.02,
        "train.beta2": 0.999,
        "train.weight_decay": 0.01,
        "train.warmup_iters": 0,
        "train.schedule": "constant",
        "train.grad_clip": None,
        "train.eval_interval": 100,
        "train.eval_iters": 20,
        "train.device": "cpu",
        "train.precision": "exact",
        "sample.seed": 1337,
        "sample.prompt": "\n",
        "sample.max_new_tokens": 500,
        "sample.temperature": 1.0,
    }


@pytest.mark.parametrize(
    ("key", "yaml", "value"),
    [
        ("train.learning_rate", "3e-4", 0.0003),
        ("train.learning_rate", "1", 1.0),
        ("train.max_iters", "0o17", 15),
        ("train.weight_decay", "0", 0.0),
        ("train.seed", str(2**63 - 1), 2**63 - 1),
        ("sample.prompt", "no", "no"),
        ("sample.prompt", r'"\n"', "\n"),
        ("data.sha256", "", None),
        ("data.sha256", "~", None),
        ("data.encoding", "windows-1252", "windows-1252"),
        ("train.device", "auto", "auto"),
    ],
)
def test_values_are_those_of_yaml_1_2(tmp_path: Path, key: str, yaml: str, value: object) -> None:
    found = load(tmp_path, {key: yaml})[key]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("section", ["data", "model", "train", "sample"])
def test_params_cannot_be_changed(section: str) -> None:
    params = load_params(SHIPPED)
    values: Section = getattr(params, section)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(values, next(iter(type(values).model_fields)), 1)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(params, section, values)


# What is refused


def test_all_mistakes_are_told_at_once_and_by_their_keys() -> None:
    content = {
        "data": {"source": "book.txt", "sha256": None, "train_fraction": 1.5},
        "modell": {"name": "bigram"},
        "train": {
            "seed": "no",
            "block_size": 0,
            "batchsize": 4,
            "max_iters": 10.0,
            "optimizer": "sgd",
            "learning_rate": float("nan"),
            "muon_learning_rate": 0,
            "beta2": 1.0,
            "weight_decay": 0.01,
            "gradient_accumulation_steps": 1,
            "warmup_iters": -1,
            "schedule": "step",
            "grad_clip": 0,
            "eval_interval": True,
            "eval_iters": 1,
            "device": "gpu",
            "precision": "exact",
            "momentum": 0.9,
        },
        "sample": {"seed": -1, "prompt": "a", "max_new_tokens": 5, "temperature": 0},
    }
    with pytest.raises(ParamsError) as err:
        parse_params(content, "params.yaml")
    assert str(err.value) == (
        "params.yaml has 20 problems:\n"
        "  data.train_fraction: found 1.5, expected less than 1\n"
        "  model: missing\n"
        "  train.seed: found 'no', expected integer\n"
        "  train.block_size: found 0, expected greater than or equal to 1\n"
        "  train.batch_size: missing\n"
        "  train.max_iters: found 10.0, expected integer\n"
        "  train.optimizer: found 'sgd', expected 'adamw' or 'muon'\n"
        "  train.learning_rate: found nan, expected a finite number\n"
        "  train.muon_learning_rate: found 0, expected greater than 0\n"
        "  train.beta2: found 1.0, expected less than 1\n"
        "  train.warmup_iters: found -1, expected greater than or equal to 0\n"
        "  train.schedule: found 'step', expected 'constant', 'cosine' or 'linear'\n"
        "  train.grad_clip: found 0, expected greater than 0, or null\n"
        "  train.eval_interval: found True, expected integer\n"
        "  train.device: found 'gpu', expected 'auto', 'cpu', 'cuda' or 'mps'\n"
        "  train.batchsize: unknown key; did you mean batch_size?\n"
        "  train.momentum: unknown key; known here: seed, block_size, batch_size, "
        "gradient_accumulation_steps, max_iters, optimizer, learning_rate, muon_learning_rate, beta2, weight_decay, "
        "warmup_iters, schedule, grad_clip, "
        "eval_interval, eval_iters, device, precision\n"
        "  sample.seed: found -1, expected greater than or equal to 0\n"
        "  sample.temperature: found 0, expected greater than 0\n"
        "  modell: unknown key; did you mean model?\n"
        "Fix the file, then run again."
    )


@pytest.mark.parametrize(
    ("key", "yaml", "found", "expected"),
    [
        ("train.seed", "no", "'no'", "integer"),
        ("train.learning_rate", "on", "'on'", "number"),
        ("train.learning_rate", "true", "True", "number"),
        ("train.learning_rate", '"3e-4"', "'3e-4'", "number"),
        ("train.learning_rate", ".inf", "inf", "a finite number"),
        ("train.learning_rate", "0", "0", "greater than 0"),
        ("train.weight_decay", ".inf", "inf", "a finite number"),
        ("train.weight_decay", ".nan", "nan", "a finite number"),
        ("train.weight_decay", "-0.1", "-0.1", "greater than or equal to 0"),
        ("train.max_iters", "1e3", "1000.0", "integer"),
        ("train.seed", str(2**63), str(2**63), f"less than {2**63}"),
        ("train.precision", "float16", "'float16'", "'exact', 'float64' or 'float32'"),
        ("data.train_fraction", "0", "0", "greater than 0"),
        ("data.train_fraction", "1.0", "1.0", "less than 1"),
        ("data.train_fraction", ".nan", "nan", "less than 1"),
        ("sample.temperature", ".nan", "nan", "a finite number"),
        *(
            ("data.encoding", name, f"'{name}'", "an encoding that Python knows, such as utf-8 or cp1252, or null")
            for name in ("klingon", "rot13", "hex")
        ),
        ("model.name", "bigrm", "'bigrm'", "bigram"),
        ("model.name", "0", "0", "string"),
    ],
)
def test_a_value_out_of_place_is_refused(tmp_path: Path, key: str, yaml: str, found: str, expected: str) -> None:
    with pytest.raises(ParamsError) as err:
        load(tmp_path, {key: yaml})
    assert problems(err, tmp_path / "params.yaml") == [f"{key}: found {found}, expected {expected}"]


@pytest.mark.parametrize(("key", "yaml"), [("data.source", '""'), ("data.sha256", '"8E74"'), ("sample.prompt", '""')])
def test_text_of_the_wrong_form_is_refused_by_its_key(tmp_path: Path, key: str, yaml: str) -> None:
    with pytest.raises(ParamsError) as err:
        load(tmp_path, {key: yaml})
    (problem,) = problems(err, tmp_path / "params.yaml")
    value = yaml.strip('"')
    assert problem.startswith(f"{key}: found {value!r}, expected ")


def test_a_source_is_a_text_or_a_list_of_texts(tmp_path: Path) -> None:
    assert load(tmp_path, {"data.source": "[b.txt, 'books/*.txt', b.txt]"})["data.source"] == [
        "b.txt",
        "books/*.txt",
        "b.txt",
    ]


@pytest.mark.parametrize(
    ("yaml", "found"), [("[]", "[]"), ("[a.txt, 55]", "['a.txt', 55]"), ('[""]', "['']"), ("55", "55"), ("~", "None")]
)
def test_a_source_of_anything_else_is_refused_in_one_line(tmp_path: Path, yaml: str, found: str) -> None:
    with pytest.raises(ParamsError) as err:
        load(tmp_path, {"data.source": yaml})
    expected = f"data.source: found {found}, expected some text, or a list of one or more"
    assert problems(err, tmp_path / "params.yaml") == [expected]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("http://ann:s3cret@example.org/a.txt", "http://example.org/a.txt"),
        ("https://s3cret@example.org/a.txt", "https://example.org/a.txt"),
        ("https://ann:pa/s3cret@example.org/a.txt", "https://example.org/a.txt"),
        ("https://example.org/a.txt?page=2&Token=s3cret&b=c", "https://example.org/a.txt?page=2&Token=...&b=c"),
        ("https://example.org/a.txt?X-Amz-Signature=s3cret", "https://example.org/a.txt?X-Amz-Signature=..."),
    ],
)
@pytest.mark.parametrize("beside", ["b.txt", 55, "http://ann:s3cret@[/"])
def test_a_source_with_a_password_is_refused_without_showing_it(source: str, shown: str, beside: object) -> None:
    """It used to be a parameter, a dataset's source and a part of the description of the run."""
    content = load_params(SHIPPED).model_dump()
    for sources in (source, [source, beside]):
        content["data"]["source"] = sources
        with pytest.raises(ParamsError) as err:
            parse_params(content, "params.yaml")
        assert "s3cret" not in str(err.value)
        if beside != 55 or sources == source:
            assert problems(err, Path("params.yaml")) == [
                f"data.source: found an address with a password ({shown}), expected one without; credentials belong in "
                "~/.netrc or in CHARLM_AUTHORIZATION (docs/how-it-works.md, Credentials)"
            ]


@pytest.mark.parametrize(
    "source",
    ["http://example.org:80/@ann/a@b.txt", "https://example.org/a?tokens=5&page=1", "a@b:c.txt", "gutenberg:55"],
)
def test_a_source_without_a_password_is_not_refused(source: str) -> None:
    content = load_params(SHIPPED).model_dump()
    content["data"]["source"] = source
    assert parse_params(content, "params.yaml").data.source == [source]


def test_a_source_is_shown_in_few_words() -> None:
    assert (short_source(["a.txt"]), short_source(["a.txt", "b.txt"])) == ("a.txt", "2 texts")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.bigram": "null"}, "model.bigram: missing, the section of model.name"),
        ({"model.bigram": "{n_layer: 1}"}, "model.bigram.n_layer: unknown key; known here: no key"),
        ({"model.bigrm": "{}"}, "model.bigrm: unknown key; did you mean bigram?"),
    ],
)
def test_settings_of_the_model_are_checked(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    with pytest.raises(ParamsError) as err:
        load(tmp_path, changes)
    assert problems(err, tmp_path / "params.yaml") == [problem]


def test_settings_of_the_named_model_alone_are_parameters(tmp_path: Path) -> None:
    class Settings(Section):
        width: int

    params = load_params(SHIPPED)
    model = params.model.model_copy(update={"name": "other", "other": Settings(width=3)})
    assert not [key for key in flatten(params) if key.startswith("model.bigram")]
    assert flatten(params.model_copy(update={"model": model}), "model") == {
        "model.name": "other",
        "model.other.width": 3,
    }


def test_the_shipped_file_is_the_notebooks_recipe() -> None:
    title, text = (SHIPPED.parent / "recipes/notebook.yaml").read_text().split("\n", 1)
    assert title.startswith("# ")
    assert text == SHIPPED.read_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "found nothing, expected the sections data, model, train, sample"),
        (b"# nothing yet\n", "found nothing, expected the sections data, model, train, sample"),
        (b"- data\n- model\n", "found list, expected the sections data, model, train, sample"),
        (b"data\n", "found str, expected the sections data, model, train, sample"),
        (
            b"data:\n  source: a\n source: b\n",
            "line 3: not valid YAML: expected <block end>, but found '<block mapping start>'",
        ),
        (
            b"data:\n  source: a\n  source: b\n",
            'line 3: not valid YAML: found duplicate key "source" with value "b" (original value: "a")',
        ),
        (b"data: {}\n---\nmodel: {}\n", "line 2: not valid YAML: but found another document"),
        (
            b"data: !!python/name:os.system\n",
            "line 1: not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/name:os.system'",
        ),
    ],
)
def test_a_file_that_holds_no_sections_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError) as err:
        load_params(path)
    assert problems(err, path) == [problem]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"data: \xff\n")
    with pytest.raises(ParamsError, match="not valid YAML: unacceptable character #x00ff"):
        load_params(path)


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ParamsError) as err:
        load_params(tmp_path / name)
    assert problems(err, tmp_path / name) == [f"it cannot be read: {reason}"]


# Where the project is


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, two below tmp_path."""
    folder = tmp_path / "project/inside"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("place", ["", "standalone"])
@pytest.mark.parametrize("dvc", ["", "ml", "ml/charlm"])
def test_the_root_of_an_experiments_copy_is_in_the_repository_that_dvc_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, dvc: str
) -> None:
    """Of a project in a subfolder it used to be the whole repository."""
    copy = tmp_path / dvc / ".dvc/tmp/exps" / place / "tmp123"
    for repository in (tmp_path, copy):
        (repository / "ml/charlm/stages").mkdir(parents=True, exist_ok=True)
        (repository / "ml/charlm/dvc.yaml").touch()
        (repository / ".git").mkdir()
    for folder in ("ml/charlm", "ml/charlm/stages"):
        monkeypatch.chdir(copy / folder)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / dvc))
        assert project_root() == tmp_path / "ml/charlm"
        monkeypatch.delenv("DVC_ROOT")
        assert project_root() == copy / "ml/charlm"


@pytest.mark.parametrize("root", ["..", ".", "../../elsewhere"])
def test_the_root_is_here_whatever_pipeline_is_around(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """A command in a stage of an outer pipeline, whose DVC_ROOT it has, used to look in the outer project."""
    for folder in (tmp_path, inside):
        (folder / "dvc.yaml").touch()
        (folder / ".git").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(inside / root))
    assert project_root() == inside


def test_the_root_is_the_nearest_folder_above_with_a_pipeline(inside: Path, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    assert project_root() == tmp_path
    (inside.parent / "dvc.yaml").touch()
    assert project_root() == inside.parent
    (inside / "dvc.yaml").touch()
    assert project_root() == inside


def test_a_folder_outside_of_a_project_has_no_root(inside: Path) -> None:
    with pytest.raises(CharlmError) as err:
        project_root()
    assert err.value.message == (
        f"No dvc.yaml in {inside} or above it.\nGo to the folder of the project, then run this again."
    )


# ruamel.yaml, by which DVC writes, does not bring back the character "next line".
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), min_size=1)
SOURCES = st.lists(TEXTS, min_size=1)


@settings(max_examples=50)
@given(
    st.builds(
        Params,
        data=st.builds(DataParams, source=SOURCES, sha256=st.none(), train_fraction=st.floats(0.01, 0.99)),
        model=st.just(load_params(SHIPPED).model),
        train=st.builds(
            TrainParams,
            seed=st.integers(0, 2**63 - 1),
            warmup_iters=st.integers(0, 9),
            schedule=st.sampled_from(["constant", "cosine", "linear"]),
            grad_clip=st.none() | st.floats(0.1, 9),
            learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_subnormal=False),
            muon_learning_rate=st.floats(0.001, 9),
            beta2=st.floats(0.001, 0.999),
            weight_decay=st.floats(0, 10),
            device=st.just("cpu"),
            precision=st.just("float64"),
        ),
        sample=st.builds(SampleParams, prompt=TEXTS, seed=st.integers(0, 9), temperature=st.floats(0.1, 9)),
    )
)
def test_params_that_dvc_writes_are_read_the_same_by_dvc_and_by_us(
    tmp_path_factory: pytest.TempPathFactory, params: Params
) -> None:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    dump_yaml(path, params.model_dump())
    assert load_params(path) == params
    assert load_yaml(path) == params.model_dump()


@pytest.mark.parametrize(
    "scalar", ["3e-4", "1_000", "no", "0o17", "~", "1e3", ".5", "0x10", "017", "on", "3", "1.0", "1:30"]
)
def test_scalar_is_to_us_what_it_is_to_dvc(tmp_path: Path, scalar: str) -> None:
    """PyYAML, which reads YAML 1.1, takes 3e-4 for text, no for false and 017 for 15."""
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text().replace("3.0e-4", scalar))
    value = load_yaml(path)["train"]["learning_rate"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert load_params(path).train.learning_rate == value
    else:
        with pytest.raises(ParamsError, match=rf"  train\.learning_rate: found {value!r}, expected "):
            load_params(path)
