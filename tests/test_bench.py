"""What `charlm bench` says and writes, its baselines and its texts."""

import json
import math
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import click
import pytest
import torch
from matplotlib.colors import to_hex

from benchmarks import growth, notebook, page, peak, pipelines, plots, texts
from benchmarks.contest import Aim, Contest, NotMeasuredError, Result, Row, Spread, measured
from benchmarks.growth import Growth

PROJECT = Path(__file__).resolve().parent.parent
ROW = Row("a", "Title", "call", "ours", "theirs", Aim(0.5))
BENCH = (sys.executable, "-m", "charlm.cli", "bench")


def contest(rows: tuple[Row, ...], times: dict[str, list[float]], course: list[str]) -> Contest:
    """One whose contestants take these times one after the other, then fail; `course` tells who was timed."""
    left = {name: iter(values) for name, values in times.items()}

    def timed(name: str) -> float:
        course.append(name)
        if (seconds := next(left[name], None)) is None:
            raise NotMeasuredError(f"{name} broke")
        return seconds

    @contextmanager
    def opened() -> Iterator[dict[str, Callable[[], float]]]:
        yield {name: partial(timed, name) for name in times}

    return Contest(rows, opened)


def test_contestants_take_turns_and_the_medians_are_compared() -> None:
    course: list[str] = []
    times = {"ours": [1.0, 9.0, 2.0, 3.0, 2.0], "theirs": [8.0, 8.0, 1.0, 7.0, 9.0], "of no row": [1.0] * 5}
    [result] = measured(contest((ROW,), times, course), 5)
    assert course == ["ours", "theirs"] * 5
    assert result.ours == Spread((1.0, 9.0, 2.0, 3.0, 2.0), median=2.0, low=2.0, high=3.0)
    assert result.baseline is not None
    assert result.baseline.median == 8.0
    assert (result.ratio, result.verdict) == (0.25, "yes")


def test_contestant_that_fails_takes_its_rows_along_and_no_others() -> None:
    course: list[str] = []
    rows = (ROW, Row("b", "Other", "call", "ours", "third"))
    times = {"ours": [1.0] * 3, "theirs": [1.0], "third": [4.0] * 3}
    lost, good = measured(contest(rows, times, course), 3)
    assert (lost.reason, lost.ratio, lost.verdict) == ("theirs broke", None, "")
    assert good.ratio == 0.25
    assert course == ["ours", "theirs", "third"] * 2 + ["ours", "third"]


@pytest.mark.parametrize(
    ("aim", "shown", "ratio"),
    [
        (Aim(0.5), "≤ 0.5 ×", 0.5),
        (Aim(0.5, "seconds"), "≤ 0.5 s", 0.25),
        (Aim(0.5, "seconds more"), "≤ 0.5 s more", 1.25),
    ],
)
def test_aim_is_of_the_ratio_of_a_difference_or_of_seconds(aim: Aim, shown: str, ratio: float) -> None:
    assert (str(aim), aim.ratio(2.0)) == (shown, ratio)


def test_row_that_cannot_be_measured_says_why_and_the_miss_of_one_that_can_is_told() -> None:
    @contextmanager
    def opened() -> Iterator[dict[str, Callable[[], float]]]:
        raise NotMeasuredError("no such thing | here")
        yield {}

    [absent] = measured(Contest((ROW,), opened), 5)
    missed = Result(ROW, Spread.of([3e-3]), Spread.of([4e-3]))
    told = page.markdown(page.Table({"machine": "this"}, [absent, missed]), page.Curve(), "## By hand\n")
    assert "| Title (per call) | ours | theirs |  | ≤ 0.5 × | not measured: no such thing \\| here |" in told
    assert "| ours 3 ms (3 ms – 3 ms) | theirs 4 ms (4 ms – 4 ms) | 0.75 × | ≤ 0.5 × | missed |" in told
    assert told.endswith("\n\n## By hand\n")
    (axes,) = plots.speedups([absent, missed, Result(ROW, Spread.of([1.0]), Spread.of([4.0]))]).axes
    bars = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]
    gray, red, green = (to_hex(plots.COLORS[verdict]) for verdict in ("", "missed", "yes"))
    assert bars == [(0, gray), (0.75, red), (0.25, green)]
    assert [label.get_text().endswith("not measured") for label in axes.get_yticklabels()] == [True, False, False]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(7200, "2 h"), (90, "1.5 min"), (1, "1 s"), (0.0123, "12.3 ms"), (5e-6, "5 µs"), (5e-9, "5 ns"), (0, "0 ns")],
)
def test_duration_is_told_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert page.duration(seconds) == shown


def test_prediction_is_on_the_line_through_the_two_largest_sizes() -> None:
    sizes = ((1, 9.0, 9), (100, 11.0, 50), (10, 2.0, 50))
    points = [Growth("t", size, "train", seconds, peak) for size, seconds, peak in sizes]
    points += [
        Growth("t", 1, "record", 1, 1),
        Growth("t", 1, "sample", 1, 1),
        Growth("t", 10, "sample", 1, 1, "failed"),
    ]
    assert page.predictions(points, 1000) == {("t", "train"): (101, 50), ("t", "record"): None, ("t", "sample"): None}
    assert "| t | train | 50 min | 0 MB |" in page.markdown(page.Table(), page.Curve({}, points), "")
    seconds, memory = plots.growth(points).axes
    lines = [[list(line.get_ydata()) for line in axes.lines] for axes in (seconds, memory)]
    assert lines == [[[9, 2, 11], [1], [1]], [[9e-6, 5e-5, 5e-5], [1e-6], [1e-6]]]


def test_command_writes_what_it_measured_where_it_is_told_to(tmp_path: Path) -> None:
    keys = [
        "elementwise-cpu",
        "matmul-cpu",
        "encode-book",
        "iteration",
        "wide-float64",
        "generate-3x5",
        "tracking",
        "help",
    ]
    only = [word for key in keys for word in ("--only", key)]
    done = subprocess.run(
        [*BENCH, "--quick", "--out", os.path.relpath(tmp_path, PROJECT / "docs"), *only],
        cwd=PROJECT / "docs",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["row"]["key"]: row for row in json.loads((tmp_path / "benchmarks.json").read_text())["rows"]}
    assert list(rows) == keys
    assert {row["reason"] for row in rows.values()} == {""}
    assert all(row["ratio"] > 0 for row in rows.values())
    told = (tmp_path / "benchmarks.md").read_text()
    assert all(f"| {row['row']['title']} (per " in told for row in rows.values())
    pictures = re.findall(r"\]\((images/.*\.png)\)", told)
    assert [(tmp_path / picture).read_bytes()[:4] for picture in pictures] == [b"\x89PNG"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "speed"], "no row speed; there are elementwise-cpu, "),
        (["--growth", "1,many"], "1,many is not numbers with commas between them, such as 1,10,100."),
        (["--growth", "1,0"], "1,0 is not sizes of texts in megabytes, such as 1,10,100."),
        (["--growth", "nan"], "nan is not sizes of texts in megabytes, such as 1,10,100."),
        (["--growth", "1", "--only", "help"], "--only names rows of the table, which --growth does not measure"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.__main__ import main

    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # of which it leaves out some
    with pytest.raises(click.UsageError) as err:
        main.main(arguments, standalone_mode=False)
    assert told in err.value.message


def test_project_without_benchmarks_is_told(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    done = subprocess.run(BENCH, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: No folder benchmarks in {tmp_path}, where the baselines are.\n"
        "Run this in a clone of charlm's repository.\n"
    )


def test_growth_tells_seconds_and_memory_of_every_stage() -> None:
    points = growth.measured(PROJECT, "multilingual", 0.5, 1)
    assert [point.stage for point in points] == ["download", "prepare", "train", "evaluate", "sample", "record"]
    assert [point.problem for point in points] == [""] * 6
    assert all(point.seconds > 0 and point.peak > 10_000_000 for point in points)


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
    command = peak.watching(sys.executable, "-c", "b = bytearray(99_000_000); exit(3)")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout)
    assert (code, len(held)) == (3, 400_000_000)
    assert seconds > 0
    assert 99_000_000 < memory < 200_000_000


def test_command_that_fails_is_not_measured_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotMeasuredError, match=r"`python -c exit\(3\)` exited with 3"):
        pipelines.run(tmp_path, "python", "-c", "exit(3)")


def test_copy_of_the_project_is_a_repository_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from a git hook, it used to commit to the repository of the hook."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    folder = pipelines.copy_project(PROJECT, tmp_path / "project", "books/*.txt")
    assert (folder / ".git/HEAD").is_file()
    assert not (tmp_path / "another").exists()
    texts.write_shelf(folder / "books", PROJECT, "ASCII", 500_000)
    assert [path.stat().st_size > 30_000 for path in sorted((folder / "books").iterdir())] == [True] * 3
