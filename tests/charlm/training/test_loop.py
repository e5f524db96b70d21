"""The training loop, compared with PyTorch's own optimizer, step by step."""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.errors import CharlmError
from charlm.models.base import LanguageModel
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.text.references import references
from charlm.training.device import resolve_device
from charlm.training.history import Point, to_csv
from charlm.training.loop import train
from tests.models_for_tests import TEST, TRAIN, Mean, V, bigram, settings


def trained(kind: Callable[..., LanguageModel] = bigram, **changes: Any) -> tuple[LanguageModel, list[Point]]:
    """A model after its training with the settings of these tests, changed, and the points of its course."""
    given = settings(**changes)
    model = bigram(V, given.seed) if kind is bigram else kind(V, given.block_size, generator(given.seed, "weights"))
    model = model.compute_in(given.precision)
    return model, list(train(model, (TRAIN, TEST), given, generator(given.seed, "batches")))


def weights(model: LanguageModel) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


# What is computed


@pytest.mark.parametrize("kind", [bigram, Mean])
@pytest.mark.parametrize(("fused", "tolerance"), [(True, 1e-13), (None, 1e-12)], ids=["fused", "default"])
def test_steps_are_those_of_pytorchs_adamw(kind: Any, *, fused: bool | None, tolerance: float) -> None:
    """In float64 up to the last step, after which the weights are in float32."""
    reference = bigram() if kind is bigram else kind(V, 8, generator(1, "weights"))
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.01, fused=fused)
    losses = []
    for windows in islice(TRAIN.random_windows(4, 8, generator(1, "batches")), 50):
        batch = torch.from_numpy(windows)
        _, loss = reference(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model, points = trained(kind, eval_interval=1)
    assert points[0].batch_loss is None
    assert [point.batch_loss for point in points[1:]] == pytest.approx(losses, rel=tolerance, abs=0)
    for name, tensor in reference.float().state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_micro_batches_come_to_the_batch_that_they_make_up() -> None:
    model, points = trained(Mean, gradient_accumulation_steps=4, batch_size=2)
    whole, expected = trained(Mean, batch_size=8)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    assert [point.batch_loss for point in points[1:]] == pytest.approx([p.batch_loss for p in expected[1:]])


def test_gradient_beyond_its_limit_is_scaled_and_others_are_not() -> None:
    assert weights(trained(grad_clip=1e6)[0]) == weights(trained()[0])
    free, tight = (trained(grad_clip=limit, weight_decay=0.0, max_iters=1)[0] for limit in (None, 1e-12))
    start = bigram().float().state_dict()["token_embedding_table.weight"]
    moved = [(m.state_dict()["token_embedding_table.weight"] - start).abs().max() for m in (free, tight)]
    assert moved[1] < moved[0] / 100  # Adam's own scale is 1e-8, far above such gradients


def test_last_point_is_exact_and_of_the_weights_that_a_checkpoint_keeps() -> None:
    for kind in (bigram, Mean):
        model, points = trained(kind)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        assert [points[-1].train_loss, points[-1].test_loss] == [model.loss_over(split) for split in (TRAIN, TEST)]


def test_points_of_a_bigram_are_exact_and_those_of_others_estimates() -> None:
    model = bigram()
    for point in train(model, (TRAIN, TEST), settings(), generator(1, "batches")):
        assert [point.train_loss, point.test_loss] == [model.loss_over(split) for split in (TRAIN, TEST)]
    other = Mean(V, 8, generator(1, "weights"))
    first = next(train(other, (TRAIN, TEST), settings(eval_iters=3), generator(1, "batches")))
    windows = torch.from_numpy(TEST.even_windows(12, 8))
    assert first.test_loss == pytest.approx(other(windows[:, :-1], windows[:, 1:])[1].item(), rel=1e-12)


@pytest.mark.parametrize(
    ("max_iters", "eval_interval", "steps"),
    [(10, 5, [0, 5, 10]), (10, 4, [0, 4, 8, 10]), (3, 10, [0, 3]), (3, 1, [0, 1, 2, 3]), (1, 1, [0, 1])],
)
def test_points_are_at_the_start_each_interval_and_the_end(
    max_iters: int, eval_interval: int, steps: list[int]
) -> None:
    _, points = trained(max_iters=max_iters, eval_interval=eval_interval)
    assert [point.step for point in points] == steps
    assert [point.step for point in points if point.batch_loss is None] == [0]


@pytest.mark.parametrize("kind", [bigram, Mean])
def test_measuring_changes_no_result(kind: Any) -> None:
    (often, points), (seldom, ends) = trained(kind, eval_interval=1), trained(kind, eval_interval=50)
    assert weights(often) == weights(seldom)
    assert [points[0], points[-1]] == ends


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_long_training_comes_to_the_floor_of_all_bigrams(precision: str) -> None:
    floor = references(TRAIN, TRAIN)["bigram_floor"]
    _, points = trained(
        max_iters=400, eval_interval=400, learning_rate=0.05, weight_decay=0.0, batch_size=32, precision=precision
    )
    assert floor < points[-1].train_loss < floor + 0.01


# What decides it


def test_the_seed_decides_the_weights() -> None:
    results = [weights(trained(seed=seed)[0]) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_global_generators_are_neither_used_nor_changed() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 the one that must not count
        state = torch.get_rng_state()
        results.append(weights(trained()[0]))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1]


def test_another_cpu_with_more_threads_changes_nothing_that_is_published(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """In float32 the weights would differ; the last bits of float64 are not among what is stored."""
    show = (
        f"import runpy; here = runpy.run_path({__file__!r})\n"
        "model, points = here['trained']()\n"
        "print(here['weights'](model).hex(), here['to_csv'](points), sep='\\n', end='')"
    )
    other = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}
    project = Path(__file__).parents[3]
    shown = run(project, sys.executable, "-c", show, **other).stdout
    model, points = trained()
    assert shown == f"{weights(model).hex()}\n{to_csv(points)}"


# What goes wrong


@pytest.mark.parametrize(("precision", "rate"), [("float64", "1e+308"), ("float32", "1e+38")])
def test_a_training_that_diverges_ends_where_it_does(precision: str, rate: str) -> None:
    with pytest.raises(CharlmError) as err:
        trained(learning_rate=float(rate), precision=precision)
    assert str(err.value) == (
        "The loss at step 2 is nan; nothing was saved.\n"
        f"Most likely train.learning_rate={rate} is too high for {precision}: try a tenth of it."
    )


@pytest.mark.parametrize(("rate", "loss"), [(1e308, "nan"), (1e6, r"\d{3,}")])
def test_divergence_at_the_last_update_is_noticed(rate: float, loss: str) -> None:
    """Only the loss of the batch before an update was looked at: the checkpoint of the last one could be anything."""
    with pytest.raises(CharlmError, match=rf"The loss at step 1 is {loss}"):
        trained(learning_rate=rate, max_iters=1)


@pytest.mark.parametrize(("name", "lengths"), [("train", (8, 100)), ("test", (100, 5))])
def test_a_split_without_a_block_is_refused_before_the_first_point(name: str, lengths: tuple[int, int]) -> None:
    splits = [Split(n, TRAIN.tokens[:size], V) for n, size in zip(("train", "test"), lengths, strict=True)]
    with pytest.raises(CharlmError) as err:
        next(train(bigram(), splits, settings(), generator(1, "batches")))
    assert str(err.value) == (
        f"The {name} split of the text has {min(lengths)} characters.\n"
        "A block of train.block_size=8 needs at least 9.\n"
        "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction."
    )


# Devices


HAS_CUDA, HAS_MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
without_gpu = pytest.mark.skipif(HAS_CUDA or HAS_MPS, reason="this machine has a GPU")


@pytest.mark.parametrize("precision", ["exact", "float64", "float32"])
def test_the_cpu_is_always_there(precision: str) -> None:
    assert resolve_device("cpu", precision) == torch.device("cpu")


@without_gpu
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert resolve_device("auto", "float64") == resolve_device("auto", "float32") == torch.device("cpu")


@without_gpu
@pytest.mark.parametrize(
    ("name", "precision", "problem"),
    [
        ("cuda", "float64", "PyTorch finds none on this machine"),
        ("mps", "float32", "PyTorch finds none on this machine"),
        ("mps", "float64", "it cannot compute in train.precision=float64"),
    ],
)
def test_a_device_that_cannot_train_is_refused_and_those_that_can_are_named(
    name: str, precision: str, problem: str
) -> None:
    with pytest.raises(CharlmError) as err:
        resolve_device(name, precision)
    assert str(err.value) == (
        f"train.device={name}: {problem}.\nExpected a device that can: cpu; `auto` takes the first of them."
    )
