"""A finished run in words."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from charlm import summary
from charlm.config import load_params
from charlm.errors import CharlmError
from charlm.results import Results
from charlm.text.references import references
from tests.models_for_tests import TEST, TRAIN

METRICS = {
    "train": {"loss": 2.5, "bits_per_char": 3.606738, "perplexity": 12.182494},
    "test": {"loss": 2.51234, "bits_per_char": 3.62454, "perplexity": 12.333753},
    "reference": {"uniform": 4.382027, "unigram": 3.144907, "bigram_counts": 2.483704, "bigram_floor": 2.419766},
}
NOT_COUNTED = "kneser_ney: not counted for texts over 20 million characters"
PARAMS = (
    (Path(__file__).parents[2] / "params.yaml")
    .read_text()
    .replace("https://www.gutenberg.org/ebooks/22566", "books/oz.txt")
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a made-up result."""
    files = {
        "download/book.txt": "Oz",
        "download/sources.json": json.dumps([{"source": "books/oz.txt", "encoding": "cp1251 (detected)"}]),
        "prepare/vocabulary.json": "{}",
        "prepare/train.npy": "",
        "prepare/test.npy": "",
        "train/model.safetensors": "",
        "train/history.csv": "",
        "evaluate/metrics.json": json.dumps(METRICS),
        "evaluate/next_char.csv": "",
        "evaluate/context.csv": "",
        "evaluate/surprise.csv": "",
        "sample/untrained.txt": "zzz",
        "sample/trained.txt": "\n\nThe [b]cat[/b]\n  \nsat.\n",
    }
    for name, text in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "data"


def test_rows_go_from_the_worst_loss_to_the_best() -> None:
    assert summary.rows(METRICS) == [
        ("uniform", 4.382027, "test split: every character equally likely"),
        ("unigram", 3.144907, "test split: each character as often as in the train split"),
        ("test loss", 2.51234, "this model, whole test split"),
        ("train loss", 2.5, "this model, whole train split"),
        ("bigram_counts", 2.483704, "test split: pairs as often as in the train split"),
        ("bigram_floor", 2.419766, "train split: the lowest loss of any bigram"),
    ]


def test_every_reference_is_explained() -> None:
    assert references(TRAIN, TEST).keys() == summary.EXPLANATIONS.keys()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\n\na\n \t\n  b\n", "a\n  b"),
        ("".join(f"{n}\n\n" for n in range(20)), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9"),
        ("a\x85b\u2028c", "a\x85b\u2028c"),
        ("\n", ""),
        ("x" * 20_000, "x" * 1000 + "…"),
        ("x" * 900 + "\n\n" + "y" * 900, "x" * 900 + "\n" + "y" * 99 + "…"),
    ],
)
def test_a_sample_is_shown_by_its_first_lines_that_are_not_blank(text: str, lines: str) -> None:
    assert summary.sample_lines(text) == lines


def test_description_of_a_run_is_this_markdown(data: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    assert summary.markdown(Results(data), load_params(tmp_path / "params.yaml")) == (
        "**bigram** on books/oz.txt: test loss **2.5123** nats per character (3.6245 bits, perplexity 12.33).\n"
        "\n"
        "| | nats per character | |\n"
        "|---|---|---|\n"
        "| uniform | 4.3820 | test split: every character equally likely |\n"
        "| unigram | 3.1449 | test split: each character as often as in the train split |\n"
        "| test loss | 2.5123 | this model, whole test split |\n"
        "| train loss | 2.5000 | this model, whole train split |\n"
        "| bigram_counts | 2.4837 | test split: pairs as often as in the train split |\n"
        "| bigram_floor | 2.4198 | train split: the lowest loss of any bigram |\n"
        "\n"
        f"{NOT_COUNTED}\n"
        "\n"
        "Decoded from cp1251 (detected).\n"
        "\n"
        "The beginning of samples/trained.txt:\n"
        "\n"
        "```\n"
        "The [b]cat[/b]\n"
        "sat.\n"
        "```\n"
    )


@pytest.mark.parametrize(("sample", "fence"), [("x" * 20_000, "```"), ("a ```` b ` c\n", "`````")])
def test_description_fits_into_a_tag_and_its_fence_is_closed(
    data: Path, tmp_path: Path, sample: str, fence: str
) -> None:
    """One without line ends was cut at 8,000 characters, and one with a fence in it closed the description's own."""
    (data / "sample/trained.txt").write_text(sample)
    (tmp_path / "params.yaml").write_text(PARAMS.replace("books/oz.txt", "a" * 5000))
    description = summary.markdown(Results(data), load_params(tmp_path / "params.yaml"))
    assert len(description) < 4000
    assert [line for line in description.splitlines() if line.startswith("```")] == [fence, fence]
    assert f"{'a' * 300}…" in description


@pytest.mark.parametrize("counted", [{}, {"kneser_ney": 1.457127}], ids=["a long text", "all references"])
def test_terminal_shows_the_result_of_the_project(
    data: Path, counted: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = METRICS | {"reference": METRICS["reference"] | counted}
    (data / "evaluate/metrics.json").write_text(json.dumps(metrics))
    (data.parent / "dvc.yaml").touch()
    (data.parent / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(data)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    lines = [line.rstrip() for line in CliRunner().invoke(summary.main).output.split("\n")]
    assert lines[0].strip() == "bigram on books/oz.txt"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [[name, f"{loss:.4f}", meaning] for name, loss, meaning in summary.rows(metrics)]
    assert (NOT_COUNTED in lines) == (not counted)
    assert "Decoded from cp1251 (detected)." in lines
    assert lines[lines.index("The [b]cat[/b]") :] == [
        "The [b]cat[/b]",
        "sat.",
        "",
        "Files: data/, one folder a stage; the checkpoint is data/train/model.safetensors",
        "Runs:  . .venv/bin/activate, then `charlm ui`",
        "Text:  `charlm generate`",
        "",
    ]


def test_encodings_are_counted_where_texts_differ_and_absent_in_an_old_result(data: Path) -> None:
    texts = [{"source": name, "encoding": "utf-8" if name in "bc" else "cp1252"} for name in "abc"]
    (data / "download/sources.json").write_text(json.dumps(texts))
    assert summary.decoded(Results(data).read_encodings()) == "Decoded from utf-8 (2), cp1252 (1).\n\n"
    (data / "download/sources.json").unlink()
    assert summary.decoded(Results(data).read_encodings()) == ""


def test_missing_file_is_named_with_what_creates_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the terminal it was a traceback."""
    (data / "train/history.csv").unlink()
    with pytest.raises(CharlmError, match=r"data/train/history\.csv is missing\.\n`dvc repro` creates it"):
        Results(data)
    (data.parent / "dvc.yaml").touch()
    (data.parent / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(data)
    assert re.match(r"Error: .*history\.csv is missing\.\n`dvc repro`", CliRunner().invoke(summary.main).output)
