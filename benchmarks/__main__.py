"""Measure charlm beside the notebook that it grew from, and write what came out.

Every row is measured in this one run, its contestants in turn. benchmarks.md, benchmarks.json and two pictures are
written to the folder --out.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks import growth, parts, pipelines
from benchmarks.scale import QUICK, Scale
from charlm import bench
from charlm.config import project_root
from charlm.files import whole, write_text
from charlm.provenance import Environment

CURVE = "growth"
_PACKAGES = ("charlm", "dvc", "lightning", "mlflow", "numpy", "torch")


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="KEY", help="Measure this row alone; can be given several times.")
@click.option("--sizes", help="Megabytes of text for the growth, as 1,10,100,1000.")
@click.option("--quick", is_flag=True, help="Take every step, but so little of each that its time means nothing.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="[default: docs of the project]")
def main(only: tuple[str, ...], sizes: str | None, *, quick: bool, out: Path | None) -> None:
    for name in [name for name in os.environ if name.startswith(("CHARLM_", "MLFLOW_", "DVC_"))]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    root, scale = project_root(), QUICK if quick else Scale()
    if sizes is not None:
        scale = dataclasses.replace(scale, growth=tuple(float(size) for size in sizes.split(",")))
    contests = [*parts.contests(root, scale), *pipelines.contests(root)]
    known = [*(row.key for contest in contests for row in contest.rows), CURVE]
    if unknown := set(only) - set(known):
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = set(only or known)
    results, points = _measured(root, scale, contests, chosen)
    Console().print(bench.table(results))
    _write(out or root / "docs", root, scale, results, points)


def _measured(
    root: Path, scale: Scale, contests: Sequence[bench.Contest], chosen: set[str]
) -> tuple[list[bench.Result], list[bench.Growth]]:
    """All contests with a chosen row, and the growth if it is chosen; a bar shows how far it is."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[bench.Result] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("bench", total=len(contests) + 1)
        for contest in contests:
            progress.update(bar, description=contest.rows[0].key)
            if chosen & {row.key for row in contest.rows}:
                results += bench.measured(contest, scale.repeats)
            else:
                results += [bench.Result(row, reason="left out of this run") for row in contest.rows]
            progress.advance(bar)
        progress.update(bar, description=CURVE)
        points = growth.measured(root, scale.growth) if CURVE in chosen else []
        progress.advance(bar)
    return results, points


def _settings(scale: Scale) -> dict[str, str]:
    """What the table was measured with."""
    here = Environment.here()
    versions = ", ".join(f"{name} {here.packages[name]}" for name in _PACKAGES if name in here.packages)
    return {
        "machine": f"{here.platform}, {os.cpu_count()} cores, {here.cpu_capability}",
        "threads": f"{here.threads}, PyTorch's own choice; 1 for charlm's training, as the train stage sets it",
        "versions": f"Python {here.python}, {versions}",
        "samples": f"{scale.repeats} of each contestant, in turn",
        "texts": "made of tests/tale.txt; a book has 230 kB",
    }


def _write(
    out: Path, root: Path, scale: Scale, results: Sequence[bench.Result], points: Sequence[bench.Growth]
) -> None:
    """The two files and the two pictures in `out`."""
    from charlm import plots

    settings = _settings(scale)
    content = {
        "settings": settings,
        "scale": asdict(scale),
        "rows": [result.content() for result in results],
        "growth": [asdict(point) for point in points],
    }
    write_text(out / "benchmarks.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    notes = (root / "benchmarks/notes.md").read_text(encoding="utf-8")
    write_text(out / "benchmarks.md", bench.markdown(results, points, settings, notes))
    pictures = {"benchmarks": plots.speedups(bench.bars(results)), "growth": plots.growth(bench.series(points))}
    for name, figure in pictures.items():
        with whole(out / f"images/{name}.png") as path:
            figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
