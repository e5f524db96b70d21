"""Measure charlm beside the notebook that it grew from, and write what came out.

The table is measured in one run, the contestants of each row in turn; the growth with the text in another. Each run
writes what it measured to the folder --out, as benchmarks.json or growth.json, and the page benchmarks.md of both.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks import growth, parts, pipelines
from benchmarks.scale import QUICK, Scale
from charlm import bench
from charlm.config import project_root
from charlm.files import whole, write_text
from charlm.provenance import Environment

_PACKAGES = ("charlm", "dvc", "lightning", "mlflow", "numpy", "torch")


def _megabytes(_context: click.Context, _option: click.Parameter, value: str | None) -> list[float]:
    try:
        sizes = [float(size) for size in value.split(",")] if value else []
    except ValueError as err:
        raise click.BadParameter("expected numbers with commas between them") from err
    return sizes


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="KEY", help="Measure this row alone; can be given several times.")
@click.option(
    "--growth",
    "sizes",
    callback=_megabytes,
    help="Measure, in place of the table, the stages on texts of these megabytes: 1,10,100,1000.",
)
@click.option("--quick", is_flag=True, help="Take every step, but so little of each that its time means nothing.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="[default: docs of the project]")
def main(only: tuple[str, ...], sizes: list[float], *, quick: bool, out: Path | None) -> None:
    for name in [name for name in os.environ if name.startswith(("CHARLM_", "MLFLOW_", "DVC_"))]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    root, scale = project_root(), QUICK if quick else Scale()
    out = out or root / "docs"
    if sizes:
        points = growth.measured(root, sizes)
        _save(out / "growth.json", {"settings": _settings(), "points": [asdict(point) for point in points]})
    else:
        results = _measured(root, scale, set(only))
        Console().print(bench.table(results))
        rows = [result.content() for result in results]
        _save(out / "benchmarks.json", {"settings": _settings(), "scale": asdict(scale), "rows": rows})
    _write(out, (root / "benchmarks/notes.md").read_text(encoding="utf-8"))


def _measured(root: Path, scale: Scale, only: set[str]) -> list[bench.Result]:
    """All rows, those of contests without one of `only` as left out; a bar shows how far it is."""
    contests = [*parts.contests(root, scale), *pipelines.contests(root)]
    known = [row.key for contest in contests for row in contest.rows]
    if unknown := only - set(known):
        raise click.BadParameter(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[bench.Result] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("bench", total=len(contests))
        for contest in contests:
            progress.update(bar, description=contest.rows[0].key)
            if not only or only & {row.key for row in contest.rows}:
                results += bench.measured(contest, scale.repeats)
            else:
                results += [bench.Result(row, reason="left out of this run") for row in contest.rows]
            progress.advance(bar)
    return results


def _settings() -> dict[str, str]:
    """What is measured with."""
    here = Environment.here()
    versions = ", ".join(f"{name} {here.packages[name]}" for name in _PACKAGES if name in here.packages)
    return {
        "machine": f"{here.platform}, {os.cpu_count()} cores, {here.cpu_capability}",
        "threads": f"{here.threads}, PyTorch's own choice; 1 for charlm's training, as the train stage sets it",
        "versions": f"Python {here.python}, {versions}",
        "texts": "made of tests/tale.txt; a book has 230 kB",
    }


def _save(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _load(path: Path) -> dict[str, Any]:
    """What was saved, by this run or one before; nothing where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(out: Path, notes: str) -> None:
    """The page and its pictures in `out`, of the table and the growth that are saved there."""
    from charlm import plots

    table, curve = _load(out / "benchmarks.json"), _load(out / "growth.json")
    results = [bench.Result.of(row) for row in table.get("rows", [])]
    points = [bench.Growth(**point) for point in curve.get("points", [])]
    settings = table.get("settings", curve.get("settings", {}))
    write_text(out / "benchmarks.md", bench.markdown(results, points, settings, notes))
    pictures = {"benchmarks": plots.speedups(bench.bars(results)), "growth": plots.growth(bench.series(points))}
    for name, figure in pictures.items():
        with whole(out / f"images/{name}.png") as path:
            figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
