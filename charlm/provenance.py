"""Where a result comes from: the git commit of the code, and the DVC experiment it was made by."""

import os
import subprocess


def tags() -> dict[str, str]:
    """What the code's origin is, by the names of MLflow's tags; a fact that is not known is left out."""
    commit = _git("rev-parse", "HEAD")
    # DVC is rewriting its lock and the results while a stage runs; they are not what the run was made from.
    changes = _git("status", "--porcelain", "--", ".", ":!dvc.lock", ":!data")
    found = {
        "mlflow.source.git.commit": commit,
        "charlm.git_dirty": None if changes is None else str(bool(changes)).lower(),
        "charlm.dvc_experiment": experiment_name(),
    }
    return {key: value for key, value in found.items() if value is not None}


def experiment_name() -> str | None:
    """The name of the DVC experiment that this process runs in, or None outside of one."""
    return os.environ.get("DVC_EXP_NAME")


def _git(*arguments: str) -> str | None:
    """What git answers in the current folder, or None where it cannot: no git, no repository, no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
