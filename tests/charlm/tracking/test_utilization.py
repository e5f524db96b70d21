"""Model FLOPs utilisation: PyTorch's count against one by hand."""

import pytest

from charlm.models import trainable_class
from charlm.random import generator
from charlm.tracking.utilization import flops_per_second, flops_per_token, utilization_of_a_token


@pytest.mark.parametrize("precision", ["exact", "float32"])
def test_operations_are_those_of_the_matrix_products(precision: str) -> None:
    """Two for each weight of a matrix forwards, four backwards; attention compares every position with every other."""
    weights = generator(1, "weights")
    mlp = trainable_class("mlp").initial(80, 16, weights, precision, n_context=8, n_embd=24, n_hidden=256)
    assert flops_per_token(mlp) == 6 * (8 * 24 * 256 + 256 * 80)
    gpt = trainable_class("gpt").initial(
        80, 16, weights, precision, n_layer=2, n_head=2, n_embd=32, n_window=3, dropout=0.1
    )
    matrices = 2 * 12 * 32**2 + 32 * 80
    assert flops_per_token(gpt) == 6 * (matrices + 2 * 2 * 16 * 32)


def test_utilization_is_what_a_token_needs_of_what_a_second_has() -> None:
    model = trainable_class("mlp").initial(80, 16, generator(1, "weights"), n_context=2, n_embd=8, n_hidden=16)
    assert flops_per_second(model) > 1e8
    assert 0 < utilization_of_a_token(model) < 1e-2
