"""A store for each test, and small things to put in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import save_checkpoint
from charlm.files import sha256
from charlm.history import Point
from charlm.models import BigramLanguageModel
from charlm.seeding import seeded_generator
from charlm.tracking.record import Content, Part
from charlm.tracking.store import Store
from charlm.vocabulary import Vocabulary

POINTS = [Point(0, 3.0, 3.1, None), Point(10, 2.0, 2.1, 2.05), Point(15, 1.5, 1.6, 1.55)]
PARAMS = {
    "data.source": "a.txt",
    "train.seed": 1,
    "train.max_iters": 15,
    "sample.prompt": "a",
    "sample.max_new_tokens": 500,
    "sample.temperature": 1.0,
    "sample.seed": 1337,
}

MakeContent = Callable[..., Content]


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def content(root: Path) -> MakeContent:
    """A function that makes what a run holds, of a real checkpoint; `changes` are other fields than the usual."""
    vocabulary = Vocabulary("abc")
    model = BigramLanguageModel(3, generator=seeded_generator(1, "weights"))
    files = {"checkpoint": root / "model.safetensors", "vocabulary": root / "vocabulary.json"}
    save_checkpoint(files["checkpoint"], model, "bigram", vocabulary)
    files["vocabulary"].write_text(vocabulary.to_json())

    def make(**changes: Any) -> Content:
        usual = {
            "checkpoint_sha256": sha256(files["checkpoint"]),
            "results_sha256": "b" * 64,
            "params": PARAMS,
            "points": POINTS,
            "metrics": {"perplexity/test": 4.9},
            "source": "a.txt",
            "parts": [Part("train", "c" * 64, "d" * 64), Part("test", "e" * 64, "d" * 64)],
            "files": {},
            "model_files": files,
            "texts": {},
            "figures": {},
            "note": "A note",
        }
        return Content(**usual | changes)

    return make


@pytest.fixture
def course() -> Callable[[Store, str, str], dict[int, float]]:
    return course_of


def course_of(store: Store, run_id: str, key: str) -> dict[int, float]:
    """Value by step of a metric, no step twice, in order."""
    metrics = store.client.get_metric_history(run_id, key)
    steps = [metric.step for metric in metrics]
    assert len(steps) == len(set(steps))
    return {metric.step: metric.value for metric in metrics}
