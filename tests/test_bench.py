"""What `charlm bench` says and writes, its baselines and its texts."""

import json
import math
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import growth, notebook, peak, pipelines, texts
from benchmarks.parts import contests
from benchmarks.scale import QUICK
from charlm import plots
from charlm.bench import (
    Aim,
    Contest,
    Growth,
    NotMeasuredError,
    Result,
    Row,
    Spread,
    bars,
    markdown,
    measured,
    predictions,
)

PROJECT = Path(__file__).resolve().parent.parent
ROW = Row("a", "Title", "call", "ours", "theirs", Aim(0.5))


def test_contestants_take_turns_and_the_medians_are_compared() -> None:
    course: list[str] = []
    times = {"ours": iter([1.0, 9.0, 2.0, 3.0, 2.0]), "theirs": iter([8.0, 8.0, 1.0, 7.0, 9.0])}

    @contextmanager
    def opened() -> Iterator[dict[str, Callable[[], float]]]:
        def timed(name: str) -> float:
            course.append(name)
            return next(times[name])

        yield {name: partial(timed, name) for name in times}

    [result] = measured(Contest((ROW,), opened), 5)
    assert course == ["ours", "theirs"] * 5
    assert result.ours == Spread((1.0, 9.0, 2.0, 3.0, 2.0), median=2.0, low=2.0, high=3.0)
    assert result.baseline is not None
    assert result.baseline.median == 8.0
    assert (result.ratio, result.verdict) == (0.25, "yes")
    assert bars([result]) == [("Title: ours / theirs", 0.25, 0.5)]


@pytest.mark.parametrize(
    ("aim", "shown", "met"),
    [
        (Aim(0.5), "≤ 0.5 ×", True),
        (Aim(0.4), "≤ 0.4 ×", False),
        (Aim(0.5, "seconds"), "≤ 0.5 s", False),
        (Aim(-0.5, "seconds more"), "≤ -0.5 s more", True),
    ],
)
def test_aim_is_of_the_ratio_of_a_difference_or_of_seconds(aim: Aim, shown: str, met: bool) -> None:  # noqa: FBT001
    assert (str(aim), aim.is_met(1.0, 2.0)) == (shown, met)


def test_row_that_cannot_be_measured_says_why_and_the_miss_of_one_that_can_is_told() -> None:
    @contextmanager
    def opened() -> Iterator[dict[str, Callable[[], float]]]:
        raise NotMeasuredError("no such thing | here")
        yield {}

    [absent] = measured(Contest((ROW,), opened), 5)
    missed = Result(ROW, Spread.of([3e-3]), Spread.of([4e-3]))
    page = markdown([absent, missed], [], {"machine": "this"}, "## By hand\n")
    assert "| Title (per call) | ours | theirs |  | ≤ 0.5 × | not measured: no such thing \\| here |" in page
    assert "| ours 3 ms (3 ms – 3 ms) | theirs 4 ms (4 ms – 4 ms) | 0.75 × | ≤ 0.5 × | missed |" in page
    assert page.endswith("\n\n## By hand\n")
    assert [Result.of(json.loads(json.dumps(result.content()))) for result in (absent, missed)] == [absent, missed]


def test_prediction_is_on_the_line_through_the_two_largest_sizes() -> None:
    points = [
        Growth("t", size, "train", seconds, peak) for size, seconds, peak in ((1, 9, 9), (10, 2, 50), (100, 11, 50))
    ]
    points += [
        Growth("t", 1, "record", 1, 1),
        Growth("t", 1, "sample", 1, 1),
        Growth("t", 10, "sample", 1, 1, "failed"),
    ]
    assert predictions(points, 1000) == {("t", "train"): (101, 50), ("t", "record"): None, ("t", "sample"): None}
    assert "| t | train | about 50 min, 0 MB |" in markdown([], points, {}, "")


def test_pictures_have_a_bar_for_each_row_and_a_line_for_each_stage_and_text() -> None:
    (axes,) = plots.speedups([("a", 0.1, 0.5), ("b", 2.0, None), ("c", 0.9, 0.5)]).axes
    assert [bar.get_width() for bar in axes.patches] == [0.1, 2.0, 0.9]
    figure = plots.growth({("ASCII", "train"): [(1, 2, 3), (10, 4, 5)], ("other", "train"): [(1, 1, 1)]})
    assert isinstance(figure, Figure)
    seconds, memory = figure.axes
    assert [list(line.get_ydata()) for line in seconds.lines] == [[2, 4], [1]]
    assert [list(line.get_ydata()) for line in memory.lines] == [[3, 5], [1]]


def test_command_writes_every_row(tmp_path: Path) -> None:
    keys = ["elementwise-cpu", "encode-book", "iteration", "wide-float64", "generate-3x5", "tracking"]
    only = [word for key in keys for word in ("--only", key)]
    command = [sys.executable, "-m", "charlm.cli", "bench", "--quick", "--out", str(tmp_path), *only]
    done = subprocess.run(command, cwd=PROJECT / "docs", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    every = [*contests(PROJECT, QUICK), *pipelines.contests(PROJECT)]
    assert [row["row"]["key"] for row in content["rows"]] == [row.key for contest in every for row in contest.rows]
    found = {row["row"]["key"]: row for row in content["rows"]}
    for key in keys:
        assert found[key]["ratio"] == found[key]["ours"]["median"] / found[key]["baseline"]["median"]
        assert found[key]["verdict"] in ("yes", "missed", "")
    assert found["cold"]["reason"] == "left out of this run"
    page = (tmp_path / "benchmarks.md").read_text()
    assert all(f"| {row['row']['title']} (per " in page for row in content["rows"])
    for picture in re.findall(r"\]\((images/.*\.png)\)", page):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_row_that_is_not_known_is_refused_with_those_that_are() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "speed"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no row speed; there are elementwise-cpu, " in done.stderr


@pytest.mark.parametrize("kind", growth.KINDS)
def test_texts_have_their_size_and_come_out_again(kind: texts.Kind, tmp_path: Path) -> None:
    text = texts.text(PROJECT, kind, 100_000)
    assert text.isascii() == (kind == "ASCII")
    assert 100_000 <= len(text.encode()) < 110_000
    assert text.endswith("\n\n")
    texts.write(tmp_path / "text", PROJECT, kind, 100_000)
    assert (tmp_path / "text").read_text(encoding="utf-8") == text
    assert set(texts.text(PROJECT, kind, 1_000_000)) == set(text)


def test_multilingual_text_has_characters_of_every_length() -> None:
    text = texts.text(PROJECT, "multilingual", 100_000)
    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}


def test_notebook_learns_what_a_bigram_of_the_tale_can() -> None:
    torch.manual_seed(1337)
    text = texts.text(PROJECT, "ASCII", 30_000)
    loss, generated = notebook.notebook(text, max_iters=1000)
    size = len(set(text))
    assert loss < math.log(size) + 0.8  # from about half a nat above, N(0, 1) logits cost that
    assert {name: len(made) for name, made in generated.items()} == {"untrained.txt": 501, "trained.txt": 501}
    assert set("".join(generated.values())) <= set(text)


def test_notebook_estimates_the_loss_about_right() -> None:
    torch.manual_seed(1337)
    data = notebook.encode("ab" * 500, notebook.dictionaries("ab")[0])
    model = notebook.BigramLanguageModel(2)
    with torch.no_grad():
        model.token_embedding_table.weight.copy_(torch.tensor([[0.0, 9.0], [9.0, 0.0]]))
        assert notebook.estimate_loss(model, {"train": data})["train"] == pytest.approx(
            math.log1p(math.exp(-9)), rel=1e-3
        )


def test_notebook_logs_to_mlflow_as_a_script(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(texts.text(PROJECT, "ASCII", 2000))
    command = [
        sys.executable,
        "-m",
        "benchmarks.notebook",
        str(tmp_path / "text"),
        "--mlflow",
        str(tmp_path / "store.db"),
    ]
    subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        steps = [step for (step,) in store.execute("select step from metrics where key = 'loss' order by step")]
    assert steps == list(range(100, 1001, 100))


def test_peak_is_the_command_s_own_and_not_that_of_who_starts_it() -> None:
    held = bytearray(400_000_000)
    command = [sys.executable, "-I", "-S", peak.__file__, sys.executable, "-c", "b = bytearray(99_000_000); exit(3)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout)
    assert (code, len(held)) == (3, 400_000_000)
    assert seconds > 0
    assert 99_000_000 < memory < 200_000_000


def test_copy_of_the_project_runs_and_is_set_to_its_text(tmp_path: Path) -> None:
    folder = pipelines.copy_project(PROJECT, tmp_path / "project")
    (folder / "book.txt").write_text(texts.text(PROJECT, "ASCII", 3000))
    pipelines.run(folder, "python", "-m", "stages.download", "data/download")
    assert (
        (folder / "data/download/book.txt")
        .read_text()
        .startswith((folder / "book.txt").read_text()[:1000].strip()[:50])
    )
    with pytest.raises(NotMeasuredError, match=r"`python -c exit\(3\)` exited with 3"):
        pipelines.run(folder, "python", "-c", "exit(3)")
