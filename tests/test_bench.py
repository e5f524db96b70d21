"""What `python -m benchmarks` prints and writes, its baselines and its texts."""

import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from matplotlib.colors import to_hex

from benchmarks import gpt, growth, notebook, operations, page, peak, pipelines, plots, texts
from benchmarks.__main__ import main
from benchmarks.comparison import Aim, Comparison, Result, Row, Spread, measure
from benchmarks.growth import Growth
from benchmarks.scale import QUICK
from charlm.errors import CharlmError
from charlm.text.corpus import Split, load_splits

PROJECT = Path(__file__).resolve().parent.parent
ROW = Row("a", "Title", "call", "ours", "theirs", Aim(0.5))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The threads of PyTorch wait for each other when tests run in parallel."""
    with operations.one_thread():
        yield


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """A function that runs the command in the project, in this process."""
    monkeypatch.chdir(PROJECT / "docs")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # mostly in memory, where SQLite is faster
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command deletes from it
    return lambda *arguments: main.main(arguments, standalone_mode=False)


def comparison(rows: tuple[Row, ...], times: dict[str, list[float]], calls: list[str]) -> Comparison:
    """Timers that take `times` one after the other, then fail. Their names go to `calls`."""
    left = {name: iter(values) for name, values in times.items()}

    def timed(name: str) -> float:
        calls.append(name)
        if (seconds := next(left[name], None)) is None:
            raise CharlmError(f"{name} broke")
        return seconds

    @contextmanager
    def timers() -> Iterator[dict[str, Callable[[], float]]]:
        yield {name: partial(timed, name) for name in times}

    return Comparison(rows, timers)


def test_timers_take_turns_and_the_medians_are_compared() -> None:
    calls: list[str] = []
    times = {"ours": [1.0, 9.0, 2.0, 3.0, 2.0], "theirs": [8.0, 8.0, 1.0, 7.0, 9.0], "of no row": [1.0] * 5}
    [result] = measure(comparison((ROW,), times, calls), 5)
    assert calls == ["ours", "theirs"] * 5
    assert result.ours == Spread((1.0, 9.0, 2.0, 3.0, 2.0), median=2.0, low=2.0, high=3.0)
    assert result.baseline is not None
    assert result.baseline.median == 8.0
    assert (result.ratio, result.verdict) == (0.25, "yes")


def test_timer_that_fails_fails_its_rows_and_no_others() -> None:
    calls: list[str] = []
    rows = (ROW, Row("b", "Other", "call", "ours", "third"))
    times = {"ours": [1.0] * 3, "theirs": [1.0], "third": [4.0] * 3}
    failed, good = measure(comparison(rows, times, calls), 3)
    assert (failed.reason, failed.ratio, failed.verdict) == ("theirs broke", None, "")
    assert good.ratio == 0.25
    assert calls == ["ours", "theirs", "third"] * 2 + ["ours", "third"]


@pytest.mark.parametrize(
    ("aim", "shown", "ratio"),
    [
        (Aim(0.5), "≤ 0.5 ×", 0.5),
        (Aim(0.5, "seconds"), "≤ 0.5 s", 0.25),
        (Aim(0.5, "seconds more"), "≤ 0.5 s more", 1.25),
    ],
)
def test_aim_is_a_ratio_a_difference_or_seconds(aim: Aim, shown: str, ratio: float) -> None:
    assert (str(aim), aim.ratio(2.0)) == (shown, ratio)


def test_page_shows_misses_and_reasons() -> None:
    @contextmanager
    def timers() -> Iterator[dict[str, Callable[[], float]]]:
        raise CharlmError("no such thing | here")
        yield {}

    [absent] = measure(Comparison((ROW,), timers), 5)
    missed = Result(ROW, Spread.of([3e-3]), Spread.of([4e-3]))
    shown = page.markdown(
        page.Table({"machine": "this"}, [absent, missed]), page.Learning(), page.Curve(), "## By hand\n"
    )
    assert "| Title (per call) | ours | theirs |  | ≤ 0.5 × | not measured: no such thing \\| here |" in shown
    assert "| ours 3 ms (3 ms – 3 ms) | theirs 4 ms (4 ms – 4 ms) | 0.75 × | ≤ 0.5 × | missed |" in shown
    assert shown.endswith("\n\n## By hand\n")
    (axes,) = plots.speedups([absent, missed, Result(ROW, Spread.of([1.0]), Spread.of([4.0]))]).axes
    bars = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]
    gray, red, green = (to_hex(plots.COLORS[verdict]) for verdict in ("", "missed", "yes"))
    assert bars == [(0, gray), (0.75, red), (0.25, green)]
    assert [label.get_text().endswith("not measured") for label in axes.get_yticklabels()] == [True, False, False]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(7200, "2 h"), (90, "1.5 min"), (1, "1 s"), (0.0123, "12.3 ms"), (5e-6, "5 µs"), (5e-9, "5 ns"), (0, "0 ns")],
)
def test_duration_has_the_unit_that_fits(seconds: float, shown: str) -> None:
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
    assert "| t | train | 50 min | 0 MB |" in page.markdown(page.Table(), page.Learning(), page.Curve({}, points), "")
    seconds, memory = plots.growth(points).axes
    lines = [[list(line.get_ydata()) for line in axes.lines] for axes in (seconds, memory)]
    assert lines == [[[9, 2, 11], [1], [1]], [[9e-6, 5e-5, 5e-5], [1e-6], [1e-6]]]


def test_table_is_written_where_the_command_says(bench: Callable[..., Any], tmp_path: Path) -> None:
    keys = [
        "elementwise-cpu",
        "matmul-cpu",
        "encode-book",
        "wide-float32",
        "wide-float64",
        "generate-3x5",
        "generate-gpt",
        "loss",
    ]
    keys += ["tracking", "help"]
    only = [word for key in keys for word in ("--only", key)]
    bench("--quick", "--out", os.path.relpath(tmp_path), *only)
    rows = {row["row"]["key"]: row for row in json.loads((tmp_path / "benchmarks.json").read_text())["rows"]}
    assert list(rows) == keys
    assert {row["reason"] for row in rows.values()} == {""}
    assert all(row["ratio"] > 0 for row in rows.values())
    shown = (tmp_path / "benchmarks.md").read_text()
    assert all(f"| {row['row']['title']} (per " in shown for row in rows.values())
    assert "Not measured yet: run `python -m benchmarks --growth" in shown
    pictures = re.findall(r"\]\((images/.*\.png)\)", shown)
    assert [(tmp_path / picture).read_bytes()[:4] for picture in pictures] == [b"\x89PNG"]


def test_growth_has_seconds_and_memory_of_every_stage(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by a git hook, the copy of the project used to commit to the repository of the hook."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hook"))
    monkeypatch.setattr(growth, "KINDS", ("multilingual",))
    bench("--growth", "0.1", "--quick", "--out", str(tmp_path))
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [point["stage"] for point in points] == ["download", "prepare", "train", "evaluate", "sample", "record"]
    assert [point["problem"] for point in points] == [""] * 6
    assert all(point["seconds"] > 0 and point["peak"] > 10_000_000 for point in points)
    assert "| multilingual | 0.1 | download |" in (tmp_path / "benchmarks.md").read_text()
    assert not (tmp_path / "hook").exists()


def test_learning_curves_of_both_take_turns_on_the_prepared_text(
    bench: Callable[..., Any], finished_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(folder: Path, size: int) -> tuple[Split, Split]:
        train, test = load_splits(folder, size)
        return train, Split("test", test.tokens[:1000], size)

    monkeypatch.setattr(gpt, "load_splits", short)  # all of the split is measured, again and again
    monkeypatch.chdir(finished_project)
    bench("--gpt", "--quick", "--out", str(tmp_path))
    curves = json.loads((tmp_path / "gpt.json").read_text())["curves"]
    assert [curve["name"] for curve in curves] == [gpt.OURS, gpt.BASELINE]
    assert curves[1]["iterations"] == QUICK.gpt_iterations
    for curve in curves:
        assert len(curve["losses"]) == len(curve["seconds"]) == QUICK.gpt_turns + 1
        assert curve["seconds"] == sorted(curve["seconds"])
        assert curve["losses"][-1] < curve["losses"][0]
    ours, baseline = (gpt.LearningCurve(**curve) for curve in curves)
    reached = "never" if ours.seconds_to(baseline.losses[-1]) is None else "after"
    assert f"has the baseline's last loss {reached}" in (tmp_path / "benchmarks.md").read_text()
    assert (tmp_path / "images/gpt.png").read_bytes()[:4] == b"\x89PNG"


def test_learning_curve_knows_when_it_reached_a_loss() -> None:
    curve = gpt.LearningCurve("a", 1, 3, [0.0, 1.0, 2.5, 4.0], [4.0, 3.0, 2.0, 2.1])
    assert [curve.seconds_to(loss) for loss in (5.0, 2.5, 2.0, 1.9)] == [0.0, 2.5, 2.5, None]


def test_page_in_the_docs_is_what_its_figures_and_notes_give(bench: Callable[..., Any], tmp_path: Path) -> None:
    """If not: `python -m benchmarks --page`."""
    for name in ("benchmarks.json", "gpt.json", "growth.json"):
        shutil.copy(PROJECT / "docs" / name, tmp_path)
    bench("--page", "--out", str(tmp_path))
    assert (tmp_path / "benchmarks.md").read_text() == (PROJECT / "docs/benchmarks.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "no row speed; there are elementwise-cpu, "),
        (["--growth", "1,many"], "1,many: expected numbers with commas between them, such as 1,10,100."),
        (["--growth", "1,0"], "1,0: expected megabytes above 0, such as 1,10,100."),
        (["--growth", "nan"], "nan: expected megabytes above 0, such as 1,10,100."),
        (["--growth", "1", "--only", "help"], "--only selects rows of the table, which --growth does not measure."),
        (["--gpt", "--only", "help"], "--only selects rows of the table, which --gpt does not measure."),
    ],
)
def test_what_cannot_be_measured_is_refused(bench: Callable[..., Any], arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as err:
        bench(*arguments)
    assert message in err.value.message


@pytest.mark.parametrize("kind", growth.KINDS)
def test_texts_have_their_size_and_are_the_same_each_time(kind: texts.Kind, tmp_path: Path) -> None:
    text = texts.text(PROJECT, kind, 100_000)
    widths = {len(character.encode()) for character in text}
    assert widths == ({1} if kind == "ASCII" else {1, 2, 3, 4})
    assert 100_000 <= len(text.encode()) < 110_000
    assert text.endswith("\n\n")
    texts.write(tmp_path / "text", PROJECT, kind, 100_000)
    assert (tmp_path / "text").read_text(encoding="utf-8") == text
    assert set(texts.text(PROJECT, kind, 1_000_000)) == set(text)
    texts.write_books(tmp_path / "books", PROJECT, kind, 500_000)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "books").iterdir())]
    assert [230_000 <= size < 240_000 for size in sizes] == [True, True, False]
    assert 500_000 <= sum(sizes) < 530_000


def test_notebook_learns_and_generates() -> None:
    torch.manual_seed(1337)
    text = texts.text(PROJECT, "ASCII", 30_000)
    string_to_int, _ = notebook.dictionaries(text)
    data, model = notebook.encode(text, string_to_int), notebook.BigramLanguageModel(len(string_to_int))
    before = notebook.estimate_loss(model, {"train": data})["train"]
    notebook.train(model, data)
    assert notebook.estimate_loss(model, {"train": data})["train"] < before - 0.1
    _, generated = notebook.notebook(text, max_iters=1)
    assert {name: len(made) for name, made in generated.items()} == {"untrained.txt": 501, "trained.txt": 501}
    assert set("".join(generated.values())) <= set(text)


def test_notebook_estimates_the_loss_about_right() -> None:
    torch.manual_seed(1337)
    data = notebook.encode("ab" * 500, notebook.dictionaries("ab")[0])
    model = notebook.BigramLanguageModel(2)
    with torch.no_grad():
        model.token_embedding_table.weight.copy_(torch.tensor([[0.0, 9.0], [9.0, 0.0]]))
    loss = notebook.estimate_loss(model, {"train": data})["train"]
    assert loss == pytest.approx(math.log1p(math.exp(-9)), rel=1e-3)


def test_notebook_logs_to_mlflow_as_a_script(tmp_path: Path, empty_store: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "text").write_text(texts.text(PROJECT, "ASCII", 2000))
    shutil.copy(empty_store, tmp_path / "store.db")
    script = [sys.executable, "-m", "benchmarks.notebook", tmp_path / "text", "--mlflow", tmp_path / "store.db"]
    run(PROJECT, *map(str, script))
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        steps = [step for (step,) in store.execute("select step from metrics where key = 'loss' order by step")]
    assert steps == list(range(100, 1001, 100))


def test_peak_is_the_command_s_own_and_not_its_parent_s() -> None:
    kept = bytearray(400_000_000)
    command = peak.watching(sys.executable, "-c", "b = bytearray(99_000_000); exit(3)")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout)
    assert (code, len(kept)) == (3, 400_000_000)
    assert seconds > 0
    assert 99_000_000 < memory < 200_000_000


def test_command_that_fails_is_named_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(CharlmError, match=r"`python -c exit\(3\)` exited with 3"):
        pipelines.run(tmp_path, "python", "-c", "exit(3)")
