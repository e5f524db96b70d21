"""Make the MLflow run of the results complete, or make one of the files if there is none.

The digest that it leaves is the one that the run is found by: search for tags.`charlm.checkpoint_sha256`.
"""

from pathlib import Path

import click

from charlm import summary
from charlm.config import PARAMS_FILE, flatten, load_params, project_root
from charlm.files import sha256, write_text
from charlm.provenance.code import Origin
from charlm.results import Results
from charlm.tracking.record import record
from charlm.tracking.store import RECORD_LATER, Store, enabled


@click.command(help=__doc__)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(data: Path, out: Path) -> None:
    params = load_params()
    values = flatten(params)
    results = Results(data)
    if enabled():
        pipeline = {name: Path(name).read_text(encoding="utf-8") for name in (PARAMS_FILE, "dvc.lock")}
        content = results.content(values, pipeline, summary.markdown(results, values))
        ids = record(Store(project_root()), content, Origin.here())
        click.echo(f"Recorded as MLflow run {', '.join(ids)}; `charlm ui` shows it.")
    else:
        click.echo(f"CHARLM_TRACKING=off: nothing is recorded; `{RECORD_LATER}` does it later.")
    write_text(out / "checkpoint.sha256", f"{sha256(results.checkpoint)}  {results.checkpoint.name}\n")


if __name__ == "__main__":
    main()
