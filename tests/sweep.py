"""A sweep in one process: for every point of a grid the stages from train on, in the project that this runs in.

DVC starts a process for each stage and keeps its cache, which takes some ten seconds a run; here it is one or two.
`python -m tests.sweep '{"learning_rate": [0.01, 0.1]}'` names the values of each key of params.yaml's train section.
"""

import itertools
import json
import os
import sys
from pathlib import Path

from ruamel.yaml import YAML

from stages import download, evaluate, prepare, record, sample, train


def main(grid: dict[str, list[float]]) -> None:
    """Run the whole of `grid`, numbered as DVC numbers the experiments of a queue."""
    Path("dvc.lock").write_text("schema: '2.0'\n")
    Path("data/download").mkdir(parents=True, exist_ok=True)
    run(download, "data/download")
    run(prepare, "data/download", "data/prepare")
    settings = YAML().load(params := Path("params.yaml"))
    for number, values in enumerate(itertools.product(*grid.values()), start=1):
        settings["train"] |= dict(zip(grid, values, strict=True))
        YAML().dump(settings, params)
        os.environ["DVC_EXP_NAME"] = f"sweep-{number}"
        run(train, "data/prepare", "data/train")
        run(evaluate, "data/prepare", "data/train", "data/evaluate")
        run(sample, "data/prepare", "data/train", "data/sample")
        run(record, "data", "data/record")


def run(stage, *arguments: str) -> None:
    stage.main.main(arguments, standalone_mode=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
