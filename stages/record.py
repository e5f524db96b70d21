"""Complete the MLflow run of the results, or create one from the files if there is none.

The digest that this writes finds the run: search for tags.`charlm.checkpoint_sha256`.
"""

import os
from pathlib import Path

import click

from charlm.config import PARAMS_FILE, load_params, project_root
from charlm.errors import CharlmError
from charlm.files import sha256, write_text
from charlm.provenance.code import Origin
from charlm.provenance.repository import LOCK, require_intact
from charlm.results import Results
from charlm.tracking.content import content_of
from charlm.tracking.record import record
from charlm.tracking.store import RECORD_LATER, Store, enabled


@click.command(help=__doc__)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(data: Path, out: Path) -> None:
    params, results = load_params(), Results(data)
    if "DVC_STAGE" in os.environ:  # of stages that were run by hand DVC has not heard
        require_intact(Path.cwd(), Path(LOCK).read_bytes())
    if enabled():
        texts = {name: Path(name).read_text(encoding="utf-8") for name in (PARAMS_FILE, LOCK)}
        content, root = content_of(results, params, texts), project_root()
        try:
            ids = record(Store(root), content, Origin.here())
        except CharlmError as err:
            if root.resolve() == Path.cwd():
                raise  # the next `dvc repro` records
            # A failure here would lose the experiment with the temporary folder that DVC runs it in.
            click.secho(f"Not recorded: {err.message}\n`charlm sync` does it later.", err=True, fg="yellow")
        else:
            click.echo(f"Recorded as MLflow run {', '.join(ids)}; `charlm ui` shows it.")
    else:
        click.echo(f"CHARLM_TRACKING=off: nothing is recorded; `{RECORD_LATER}` does it later.")
    write_text(out / "checkpoint.sha256", f"{sha256(results.checkpoint)}  {results.checkpoint.name}\n")


if __name__ == "__main__":
    main()
