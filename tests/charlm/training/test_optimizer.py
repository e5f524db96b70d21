"""The update rules, held against PyTorch's own optimizers, step by step."""

import pytest
import torch

from charlm.errors import CharlmError
from charlm.training.optimizer import Optimizer, learning_rate, orthogonalized
from tests.models_for_tests import settings

MUON = settings(optimizer="muon", muon_learning_rate=0.02, beta2=0.99, warmup_iters=4, schedule="linear")


def parameters() -> list[torch.nn.Parameter]:
    """An embedding, two hidden matrices, one wide and one tall, and a bias."""
    draws = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=draws)) for shape in ((7, 4), (4, 12), (12, 4), (12,))]


@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_steps_are_those_of_pytorchs_optimizers(rule: str, grad_clip: float | None) -> None:
    """AdamW to the bit; Muon but for PyTorch's bfloat16, in which a step of 0.02 is off by a hundredth."""
    given = MUON.model_copy(update={"optimizer": rule, "grad_clip": grad_clip})
    ours, theirs = parameters(), parameters()
    hidden, rest = ([1, 2], [0, 3]) if rule == "muon" else ([], [0, 1, 2, 3])
    decay = {"weight_decay": given.weight_decay}
    adamw = torch.optim.AdamW([theirs[n] for n in rest], lr=0.01, betas=(0.9, 0.99), fused=True, **decay)
    rules: list[tuple[torch.optim.Optimizer, float]] = [(adamw, 0.01)]
    if hidden:
        rules.append((torch.optim.Muon([theirs[n] for n in hidden], lr=0.02, **decay), 0.02))
    rule_of_ours = Optimizer(ours, ours[1:3], given)
    draws = torch.Generator().manual_seed(1)
    for step in range(1, 21):
        gradients = [torch.randn(parameter.shape, generator=draws) for parameter in ours]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        if grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs, grad_clip)
        for reference, highest in rules:
            reference.param_groups[0]["lr"] = learning_rate(step, highest, given)
            reference.step()
        rule_of_ours.update(gradients, step)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(mine, other, rtol=0, atol=0.01 if number in hidden else 0)


def test_orthogonal_matrices_are_those_of_the_singular_vectors_for_every_shape_at_once() -> None:
    draws = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=draws) for shape in ((6, 20), (20, 6), (6, 20), (9, 9))]
    for matrix, found in zip(matrices, orthogonalized(matrices), strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = values > values.max() / 20
        sizes = torch.linalg.svdvals(found)[: kept.sum()]
        assert sizes.sub(1).abs().max() < 0.35
        of_each = (left.T @ found @ right.T).diagonal()
        torch.testing.assert_close(of_each[kept].sort(descending=True)[0], sizes, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 2, [0.5, 1.0, 1.0, 1.0]),
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1.0, 1.0, 0.5]),
        ("cosine", 0, [1.0, 0.853553, 0.5, 0.146447]),
        ("cosine", 4, [0.25, 0.5, 0.75, 1.0]),
        ("linear", 8, [0.125, 0.25, 0.375, 0.5]),
    ],
)
def test_rate_rises_then_stays_or_falls(schedule: str, warmup: int, expected: list[float]) -> None:
    given = settings(max_iters=4, warmup_iters=warmup, schedule=schedule)
    rates = [learning_rate(step, 0.3, given) / 0.3 for step in range(1, 5)]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_muon_needs_a_hidden_matrix() -> None:
    with pytest.raises(CharlmError) as err:
        Optimizer(parameters(), [], MUON)
    assert str(err.value) == (
        "train.optimizer is muon, but this model has no matrix between its embeddings and its head.\n"
        "Muon is for such matrices alone.\n"
        "Set train.optimizer to adamw, or choose another model (model.name)."
    )
