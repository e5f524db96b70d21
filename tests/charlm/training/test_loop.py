"""The training loop, held against PyTorch's own optimizer, step by step."""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.config import TrainParams
from charlm.evaluation import mean_loss, references
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.text.corpus import SplitTooShortError, batches, pair_counts
from charlm.training.history import Point, to_csv
from charlm.training.loop import DTYPES, DeviceError, DivergedError, resolve_device, train

V = 7
TOKENS = np.random.default_rng(0).choice(V, 500, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.04, 0.01]).astype(np.uint8)
TRAIN, TEST = TOKENS[:400], TOKENS[400:]
SETTINGS = TrainParams(
    seed=1,
    block_size=8,
    batch_size=4,
    max_iters=50,
    learning_rate=0.01,
    weight_decay=0.1,
    eval_interval=10,
    device="cpu",
    dtype="float64",
)


def trained(**changes: object) -> tuple[BigramLanguageModel, list[Point]]:
    """A model after its training with SETTINGS, changed, and the points of its course."""
    settings = TrainParams.model_validate(SETTINGS.model_dump() | changes)
    weights, draws = (seeded_generator(settings.seed, purpose) for purpose in ("weights", "batches"))
    model = BigramLanguageModel(V, generator=weights, dtype=DTYPES[settings.dtype])
    return model, list(train(model, TRAIN, TEST, settings, draws))


def weights(model: BigramLanguageModel) -> bytes:
    return model.table.detach().numpy().tobytes()


# What is computed


@pytest.mark.parametrize(("fused", "tolerance"), [(True, 0.0), (None, 1e-12)], ids=["fused, to the bit", "default"])
def test_steps_are_those_of_pytorchs_adamw(*, fused: bool | None, tolerance: float) -> None:
    """PyTorch's default is not its fused kernel on the CPU: their last bits differ where there is no AVX-512."""
    reference = BigramLanguageModel(V, generator=seeded_generator(1, "weights"))
    drawn = batches(TRAIN, 4, 8, seeded_generator(1, "batches"))
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    losses = []
    for batch in islice(drawn, 50):
        _, loss = reference(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model, points = trained(eval_interval=1)
    torch.testing.assert_close(model.table, reference.table, rtol=tolerance, atol=0)
    assert points[0].batch_loss is None
    assert [point.batch_loss for point in points[1:]] == pytest.approx(losses, rel=tolerance, abs=0)


def test_points_tell_the_losses_of_whole_splits_at_their_step() -> None:
    model = BigramLanguageModel(V, generator=seeded_generator(1, "weights"))
    counts = [torch.from_numpy(pair_counts(tokens, V)) for tokens in (TRAIN, TEST)]
    losses = []
    for point in train(model, TRAIN, TEST, SETTINGS, seeded_generator(1, "batches")):
        assert [point.train_loss, point.test_loss] == [mean_loss(model.table, pairs) for pairs in counts]
        losses.append(point.train_loss)
    assert losses == sorted(set(losses), reverse=True)
    assert len(losses) == 6


@pytest.mark.parametrize(
    ("max_iters", "eval_interval", "steps"),
    [
        (10, 5, [0, 5, 10]),
        (10, 4, [0, 4, 8, 10]),
        (3, 10, [0, 3]),
        (3, 3, [0, 3]),
        (3, 1, [0, 1, 2, 3]),
        (1, 1, [0, 1]),
    ],
)
def test_points_are_at_the_start_each_interval_and_the_end(
    max_iters: int, eval_interval: int, steps: list[int]
) -> None:
    _, points = trained(max_iters=max_iters, eval_interval=eval_interval)
    assert [point.step for point in points] == steps
    assert [point.step for point in points if point.batch_loss is None] == [0]


def test_measuring_changes_no_result() -> None:
    (often, points), (seldom, ends) = trained(eval_interval=1), trained(eval_interval=50)
    assert weights(often) == weights(seldom)
    assert [points[0], points[-1]] == ends


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_long_training_comes_to_the_floor_of_all_bigrams(dtype: str) -> None:
    counts = pair_counts(TRAIN, V)
    floor = references(counts, counts)["bigram_floor"]
    model, points = trained(
        max_iters=400, eval_interval=400, learning_rate=0.05, weight_decay=0.0, batch_size=32, dtype=dtype
    )
    assert model.table.dtype == DTYPES[dtype]
    assert floor < points[-1].train_loss < floor + 0.01


# What decides it


def test_the_seed_decides_the_weights() -> None:
    results = [weights(trained(seed=seed)[0]) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_pytorchs_global_generator_is_neither_used_nor_changed() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(weights(trained()[0]))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1]


def test_another_cpu_with_more_threads_changes_nothing_that_is_published(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """In float32 the weights would be others; the last bits of float64 are not among what is stored."""
    show = (
        f"import runpy; here = runpy.run_path({__file__!r})\n"
        "model, points = here['trained']()\n"
        "print(model.table.detach().float().numpy().tobytes().hex(), here['to_csv'](points), sep='\\n', end='')"
    )
    other = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}
    shown = run(tmp_path, sys.executable, "-c", show, **other).stdout
    model, points = trained()
    assert shown == f"{model.table.detach().float().numpy().tobytes().hex()}\n{to_csv(points)}"


# What goes wrong


@pytest.mark.parametrize(("dtype", "rate"), [("float64", "1e+308"), ("float32", "1e+38")])
def test_a_training_that_diverges_ends_where_it_does(dtype: str, rate: str) -> None:
    with pytest.raises(DivergedError) as err:
        trained(learning_rate=float(rate), dtype=dtype)
    assert str(err.value) == (
        "The loss at step 2 is nan; nothing was saved.\n"
        f"Most likely train.learning_rate={rate} is too high for {dtype}: try a tenth of it."
    )


@pytest.mark.parametrize(("rate", "loss"), [(1e308, "nan"), (1e6, r"\d{3,}")])
def test_divergence_at_the_last_update_is_noticed(rate: float, loss: str) -> None:
    """Only the loss of the batch before an update was looked at: the checkpoint of the last one could hold anything."""
    with pytest.raises(DivergedError, match=rf"The loss at step 1 is {loss}"):
        trained(learning_rate=rate, max_iters=1)


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ((TRAIN[:8], TEST), "The train part of the text has 8 characters"),
        ((TRAIN, TEST[:5]), "The test part of the text has 5 characters"),
    ],
)
def test_a_part_without_a_block_is_refused_before_the_first_point(
    tokens: tuple[np.ndarray, np.ndarray], problem: str
) -> None:
    points = train(BigramLanguageModel(V), *tokens, SETTINGS, torch.Generator())
    with pytest.raises(SplitTooShortError) as err:
        next(points)
    assert str(err.value) == (
        f"{problem}; a block of train.block_size=8 needs at least 9.\n"
        "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction."
    )


# Devices


HAS_CUDA, HAS_MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
without_gpu = pytest.mark.skipif(HAS_CUDA or HAS_MPS, reason="this machine has a GPU")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_is_always_there(dtype: str) -> None:
    assert resolve_device("cpu", dtype) == torch.device("cpu")


@without_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_is_the_cpu_where_there_is_nothing_else(dtype: str) -> None:
    assert resolve_device("auto", dtype) == torch.device("cpu")


@without_gpu
@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("cuda", "float64", "PyTorch finds no such device on this machine"),
        ("cuda", "float32", "PyTorch finds no such device on this machine"),
        ("mps", "float32", "PyTorch finds no such device on this machine"),
        ("mps", "float64", "it cannot compute in train.dtype=float64"),
    ],
)
def test_a_device_that_cannot_train_is_refused_and_those_that_can_are_named(
    name: str, dtype: str, problem: str
) -> None:
    with pytest.raises(DeviceError) as err:
        resolve_device(name, dtype)
    assert str(err.value) == (
        f"train.device={name}: {problem}.\nDevices here that can: cpu; `auto` takes the first of them."
    )
