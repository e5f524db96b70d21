"""Measure charlm beside the notebook that it grew from, and write docs/benchmarks.md.

One run measures the table, one with --gpt how fast a GPT learns, one with --growth how the stages grow with the text.
Each writes what it measured to benchmarks.json, gpt.json or growth.json, and the page from all of them.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks import page
from benchmarks.scale import QUICK, Scale
from charlm.config import project_root
from charlm.files import atomic_write, write_text
from charlm.provenance import repository
from charlm.provenance.environment import Environment

if TYPE_CHECKING:
    from benchmarks.comparison import Comparison, Result

T = TypeVar("T")
_PACKAGES = ("charlm", "dvc", "lightning", "mlflow", "numpy", "torch")


def _megabytes(_context: click.Context, _option: click.Parameter, value: str | None) -> list[float]:
    """Distinct sizes, the smallest first."""
    try:
        sizes = {float(size) for size in value.split(",")} if value is not None else set()
    except ValueError as err:
        raise click.BadParameter(f"{value}: expected numbers with commas between them, such as 1,10,100.") from err
    if not all(0 < size < math.inf for size in sizes):
        raise click.BadParameter(f"{value}: expected megabytes above 0, such as 1,10,100.")
    return sorted(sizes)


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="KEY", help="Measure only this row; can be given several times.")
@click.option(
    "--growth",
    "sizes",
    metavar="MB,MB,...",
    callback=_megabytes,
    help="Measure the stages on texts of these megabytes instead of the table: 1,10,100,1000.",
)
@click.option("--gpt", is_flag=True, help="Measure a GPT's loss by time beside nanoGPT's recipe instead of the table.")
@click.option("--page", "page_only", is_flag=True, help="Measure nothing: write the page from what is saved.")
@click.option("--quick", is_flag=True, help="Run every step, but so little of each that the times mean nothing.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="The folder to write to.  [default: the project's docs; none with --only or --quick]",
)
def main(
    only: tuple[str, ...], sizes: list[float], *, gpt: bool, page_only: bool, quick: bool, out: Path | None
) -> None:
    if (sizes or gpt) and only:
        other = "--growth" if sizes else "--gpt"
        raise click.UsageError(f"--only selects rows of the table, which {other} does not measure. Give one of them.")
    for name in [name for name in os.environ if name.startswith(("CHARLM_", "MLFLOW_", "DVC_"))]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    root, scale = project_root(), QUICK if quick else Scale()
    if out is None and not only and not quick:
        out = root / "docs"
    if page_only:
        _write_page(root, out)
    elif sizes:
        _measure_growth(root, sizes, scale.growth_repeats, out)
    elif gpt:
        _measure_gpt(root, scale.gpt_iterations, scale.gpt_turns, out)
    else:
        _measure_table(root, scale, set(only), out)


def _measure_table(root: Path, scale: Scale, only: set[str], out: Path | None) -> None:
    """Measure the rows in `only`, or all. An interrupt leaves what was measured before it."""
    from benchmarks.comparison import measure

    comparisons = _selected(root, scale, only)
    settings = _settings(root)
    results: list[Result] = []
    try:
        for comparison in _shown([(comparison.rows[0].key, comparison) for comparison in comparisons]):
            results += measure(comparison, scale.repeats)
            rows = [asdict(result) | {"ratio": result.ratio, "verdict": result.verdict} for result in results]
            _save(out, "benchmarks.json", {"settings": settings, "scale": asdict(scale), "rows": rows})
    finally:
        Console().print(page.terminal(results))
        _write_page(root, out)


def _selected(root: Path, scale: Scale, only: set[str]) -> "list[Comparison]":
    """All comparisons, with the rows in `only` or with all their rows."""
    from benchmarks import operations, pipelines

    comparisons = [*operations.comparisons(root, scale), *pipelines.comparisons(root)]
    known = [row.key for comparison in comparisons for row in comparison.rows]
    if unknown := only - set(known):
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    selected = [replace(c, rows=tuple(row for row in c.rows if not only or row.key in only)) for c in comparisons]
    return [comparison for comparison in selected if comparison.rows]


def _measure_growth(root: Path, sizes: list[float], repeats: int, out: Path | None) -> None:
    """Measure the stages on texts of `sizes`. An interrupt leaves what was measured before it."""
    from benchmarks import growth

    settings, points = _settings(root), []
    texts = [(f"{size:g} MB, {kind}", (kind, size)) for kind in growth.KINDS for size in sizes]
    try:
        for kind, size in _shown(texts):
            points += [asdict(point) for point in growth.measure(root, kind, size, repeats)]
            _save(out, "growth.json", {"settings": settings, "points": points})
    finally:
        _write_page(root, out)


def _measure_gpt(root: Path, iterations: int, turns: int, out: Path | None) -> None:
    """Measure the learning curves of charlm's GPT and of a baseline that makes `iterations`."""
    from benchmarks import gpt

    settings, runs = _settings(root) | gpt.SETTINGS, gpt.start(root, iterations, turns)
    for run in _shown([(run.curve.name, run) for _ in range(turns) for run in runs]):
        run.advance()
    _save(out, "gpt.json", {"settings": settings, "curves": [asdict(run.curve) for run in runs]})
    _write_page(root, out)


def _shown(named: Sequence[tuple[str, T]]) -> Iterator[T]:
    """Each of `named`, with its name on a progress bar."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(named))
        for name, value in named:
            progress.update(bar, description=name)
            yield value
            progress.advance(bar)


def _settings(root: Path) -> dict[str, str]:
    """What was measured, and on what machine."""
    here, code = Environment.here(), ("charlm", "stages", "benchmarks")
    commit, changed = (
        repository.run(root, "git", *command).stdout.decode().strip()
        for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", *code))
    )
    versions = ", ".join(f"{name} {here.packages[name]}" for name in _PACKAGES if name in here.packages)
    return {
        "machine": f"{here.platform}, {os.cpu_count()} cores, {here.cpu_capability}",
        "threads": f"{here.threads}, PyTorch's default; 1 where charlm trains, as in its train stage",
        "versions": f"Python {here.python}, {versions}",
        "code": f"commit {commit or 'unknown'}{', with uncommitted changes' if changed else ''}",
        "texts": "from the paragraphs of tests/tale.txt; a book has 230 kB",
    }


def _save(out: Path | None, name: str, content: dict[str, Any]) -> None:
    if out is not None:
        write_text(out / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_page(root: Path, out: Path | None) -> None:
    """Write the page and its pictures to `out`, from the table and the growth that are saved there."""
    if out is None:
        return
    from benchmarks import plots

    saved = {path.name: path.read_bytes() for path in out.glob("*.json")}
    table = TypeAdapter(page.Table).validate_json(saved.get("benchmarks.json", b"{}"))
    curve = TypeAdapter(page.Curve).validate_json(saved.get("growth.json", b"{}"))
    learning = TypeAdapter(page.Learning).validate_json(saved.get("gpt.json", b"{}"))
    notes = (root / "benchmarks/notes.md").read_text(encoding="utf-8")
    write_text(out / "benchmarks.md", page.markdown(table, learning, curve, notes))
    pictures = {
        "benchmarks": plots.speedups(table.rows) if table.rows else None,
        "gpt": plots.learning(learning.curves) if learning.curves else None,
        "growth": plots.growth(curve.points) if curve.points else None,
    }
    for name, figure in pictures.items():
        if figure is not None:
            with atomic_write(out / f"images/{name}.png") as path:
                figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
