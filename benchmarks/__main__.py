"""Measure charlm beside the notebook that it grew from, and write what came out.

The table is measured in one run, the contestants of each row in turn; the growth with the text in another. Each run
writes what it measured to the folder --out, as benchmarks.json or growth.json, and the page benchmarks.md of both.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks import page
from benchmarks.scale import QUICK, Scale
from charlm.config import project_root
from charlm.files import atomic_write, write_text
from charlm.provenance import repository as checkout
from charlm.provenance.environment import Environment

if TYPE_CHECKING:
    from benchmarks.contest import Contest, Result

_PACKAGES = ("charlm", "dvc", "lightning", "mlflow", "numpy", "torch")


def _megabytes(_context: click.Context, _option: click.Parameter, value: str | None) -> list[float]:
    """Different sizes, small ones first."""
    try:
        sizes = {float(size) for size in value.split(",")} if value is not None else set()
    except ValueError as err:
        raise click.BadParameter(f"{value} is not numbers with commas between them, such as 1,10,100.") from err
    if not all(0 < size < math.inf for size in sizes):
        raise click.BadParameter(f"{value} is not sizes of texts in megabytes, such as 1,10,100.")
    return sorted(sizes)


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="KEY", help="Measure this row alone; can be given several times.")
@click.option(
    "--growth",
    "sizes",
    metavar="MB,MB,...",
    callback=_megabytes,
    help="Measure, in place of the table, the stages on texts of these megabytes: 1,10,100,1000.",
)
@click.option("--quick", is_flag=True, help="Take every step, but so little of each that its time means nothing.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Where to write.  [default: the project's docs; nowhere with --only or --quick]",
)
def main(only: tuple[str, ...], sizes: list[float], *, quick: bool, out: Path | None) -> None:
    if sizes and only:
        raise click.UsageError(
            "--only names rows of the table, which --growth does not measure; leave one of them out."
        )
    for name in [name for name in os.environ if name.startswith(("CHARLM_", "MLFLOW_", "DVC_"))]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    root, scale = project_root(), QUICK if quick else Scale()
    if out is None and not only and not quick:
        out = root / "docs"
    if sizes:
        _measure_growth(root, sizes, scale, out)
    else:
        _measure_table(root, scale, set(only), out)


def _measure_table(root: Path, scale: Scale, only: set[str], out: Path | None) -> None:
    """Measure the rows of `only`, or all, and tell them; what was measured before an interrupt is kept."""
    contests = _wanted(root, scale, only)
    settings, results = _settings(root), []
    try:
        for measured in _contests(contests, scale):
            results += measured
            rows = [asdict(result) | {"ratio": result.ratio, "verdict": result.verdict} for result in results]
            _save(out, "benchmarks.json", {"settings": settings, "scale": asdict(scale), "rows": rows})
    finally:
        Console().print(page.terminal(results))
        _write(root, out)


def _wanted(root: Path, scale: Scale, only: set[str]) -> "list[Contest]":
    """All contests with the rows of `only`, or with all of theirs."""
    from benchmarks import parts, pipelines

    contests = [*parts.contests(root, scale), *pipelines.contests(root)]
    known = [row.key for contest in contests for row in contest.rows]
    if unknown := only - set(known):
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    kept = [
        replace(contest, rows=tuple(row for row in contest.rows if not only or row.key in only)) for contest in contests
    ]
    return [contest for contest in kept if contest.rows]


def _contests(contests: "list[Contest]", scale: Scale) -> "Iterator[list[Result]]":
    """What each of them came to; a bar shows how far it is."""
    from benchmarks.contest import measured

    with _progress() as progress:
        bar = progress.add_task("bench", total=len(contests))
        for contest in contests:
            progress.update(bar, description=contest.rows[0].key)
            yield measured(contest, scale.repeats)
            progress.advance(bar)


def _measure_growth(root: Path, sizes: list[float], scale: Scale, out: Path | None) -> None:
    """Measure the stages on texts of `sizes`; what was measured before an interrupt is kept."""
    from benchmarks import growth

    settings, points = _settings(root), []
    try:
        with _progress() as progress:
            bar = progress.add_task("growth", total=len(growth.KINDS) * len(sizes))
            for kind, size in [(kind, size) for kind in growth.KINDS for size in sizes]:
                progress.update(bar, description=f"{size:g} MB, {kind}")
                points += growth.measured(root, kind, size, scale.growth_repeats)
                _save(out, "growth.json", {"settings": settings, "points": [asdict(point) for point in points]})
                progress.advance(bar)
    finally:
        _write(root, out)


def _progress() -> Progress:
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _settings(root: Path) -> dict[str, str]:
    """What is measured, and with what."""
    here, code = Environment.here(), ("charlm", "stages", "benchmarks")
    commit, changed = (
        checkout.run(root, "git", *command).stdout.decode().strip()
        for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", *code))
    )
    versions = ", ".join(f"{name} {here.packages[name]}" for name in _PACKAGES if name in here.packages)
    return {
        "machine": f"{here.platform}, {os.cpu_count()} cores, {here.cpu_capability}",
        "threads": f"{here.threads}, PyTorch's own choice; 1 for charlm's training, as the train stage sets it",
        "versions": f"Python {here.python}, {versions}",
        "code": f"commit {commit or 'unknown'}{', and changes that are not committed' if changed else ''}",
        "texts": "made of tests/tale.txt; a book has 230 kB",
    }


def _save(out: Path | None, name: str, content: dict[str, Any]) -> None:
    if out is not None:
        write_text(out / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write(root: Path, out: Path | None) -> None:
    """The page and its pictures in `out`, of the table and the growth that are saved there."""
    if out is None:
        return
    from benchmarks import plots

    saved = {path.name: path.read_bytes() for path in out.glob("*.json")}
    table = TypeAdapter(page.Table).validate_json(saved.get("benchmarks.json", b"{}"))
    curve = TypeAdapter(page.Curve).validate_json(saved.get("growth.json", b"{}"))
    notes = (root / "benchmarks/notes.md").read_text(encoding="utf-8")
    write_text(out / "benchmarks.md", page.markdown(table, curve, notes))
    pictures = {
        "benchmarks": plots.speedups(table.rows) if table.rows else None,
        "growth": plots.growth(curve.points) if curve.points else None,
    }
    for name, figure in pictures.items():
        if figure is not None:
            with atomic_write(out / f"images/{name}.png") as path:
                figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
