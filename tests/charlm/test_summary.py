"""A finished run in words."""

import json
from pathlib import Path

import numpy as np
import pytest

from charlm import summary
from charlm.evaluation import references
from charlm.results import Results

METRICS = {
    "train": {"loss": 2.5, "bits_per_char": 3.606738, "perplexity": 12.182494},
    "test": {"loss": 2.51234, "bits_per_char": 3.62454, "perplexity": 12.333753},
    "reference": {"uniform": 4.382027, "unigram": 3.144907, "bigram_counts": 2.483704, "bigram_floor": 2.419766},
}
PARAMS = """\
data: {source: books/oz.txt, sha256: null, train_fraction: 0.8}
model: {name: bigram}
train: {seed: 1, block_size: 8, batch_size: 4, max_iters: 10, learning_rate: 0.1, weight_decay: 0, eval_interval: 5,
  device: cpu, dtype: float64}
sample: {seed: 1, prompt: a, max_new_tokens: 10, temperature: 1}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a made-up result."""
    files = {
        "download/book.txt": "Oz",
        "prepare/vocabulary.json": "{}",
        "prepare/train.npy": "",
        "prepare/test.npy": "",
        "train/model.safetensors": "",
        "train/history.csv": "",
        "evaluate/metrics.json": json.dumps(METRICS),
        "evaluate/next_char.csv": "",
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
        ("uniform", 4.382027, "every character equally likely"),
        ("unigram", 3.144907, "how often each character stands in the train split"),
        ("test loss", 2.51234, "this model, whole test split"),
        ("train loss", 2.5, "this model, whole train split"),
        ("bigram_counts", 2.483704, "counted pairs of the train split"),
        ("bigram_floor", 2.419766, "no bigram's train loss can go below"),
    ]


def test_every_reference_is_explained() -> None:
    counts = np.ones((2, 2), dtype=np.int64)
    assert references(counts, counts).keys() == summary.EXPLANATIONS.keys()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\n\na\n \t\n  b\n", "a\n  b"),
        ("".join(f"{n}\n\n" for n in range(20)), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9"),
        ("a\x85b\u2028c", "a\x85b\u2028c"),
        ("\n", ""),
    ],
)
def test_a_sample_is_shown_by_its_first_lines_that_hold_anything(text: str, lines: str) -> None:
    assert summary.sample_lines(text) == lines


def test_the_description_of_a_run_is_this_markdown(data: Path) -> None:
    assert summary.markdown(Results(data), {"model.name": "bigram", "data.source": "books/oz.txt"}) == (
        "**bigram** on books/oz.txt: test loss **2.5123** nats per character (3.6245 bits, perplexity 12.33).\n"
        "\n"
        "| | nats per character | |\n"
        "|---|---|---|\n"
        "| uniform | 4.3820 | every character equally likely |\n"
        "| unigram | 3.1449 | how often each character stands in the train split |\n"
        "| test loss | 2.5123 | this model, whole test split |\n"
        "| train loss | 2.5000 | this model, whole train split |\n"
        "| bigram_counts | 2.4837 | counted pairs of the train split |\n"
        "| bigram_floor | 2.4198 | no bigram's train loss can go below |\n"
        "\n"
        "The beginning of samples/trained.txt:\n"
        "\n"
        "```\n"
        "The [b]cat[/b]\n"
        "sat.\n"
        "```\n"
    )


def test_the_terminal_shows_the_result_of_the_project(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.parent / "dvc.yaml").touch()
    (data.parent / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(data)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    summary.main()
    lines = [line.rstrip() for line in capsys.readouterr().out.split("\n")]
    assert lines[0].strip() == "bigram on books/oz.txt"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [[name, f"{loss:.4f}", meaning] for name, loss, meaning in summary.rows(METRICS)]
    assert lines[lines.index("The [b]cat[/b]") :] == [
        "The [b]cat[/b]",
        "sat.",
        "",
        "Files: data/, one folder a stage; the checkpoint is data/train/model.safetensors",
        "Runs:  . .venv/bin/activate, then `charlm ui`",
        "Text:  `charlm generate 'Dorothy '`",
        "",
    ]
