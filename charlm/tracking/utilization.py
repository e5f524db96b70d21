"""Model FLOPs utilisation: the fraction of a machine's peak arithmetic that a training run uses.

The measure of Chowdhery et al. 2022 (PaLM), appendix B: the operations that the model needs, whatever else an
implementation computes, against the most that the machine can do. That is measured here, with a large matrix product.
"""

from copy import deepcopy

import torch
from torch.utils.flop_counter import FlopCounterMode

from charlm.models.base import LanguageModel

_SIZE = 1024  # rows and columns of the matrix product
_SECONDS = 0.1


def flops_per_token(model: LanguageModel) -> float:
    """Floating-point operations of `model` for a character, forwards and backwards: those of matrix products."""
    on_paper = deepcopy(model).compute_in("float32").to("meta")  # shapes without numbers
    index = torch.zeros((1, model.block_size), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        _, loss = on_paper(index, index)
        loss.backward()
    return float(counter.get_total_flops()) / model.block_size


def flops_per_second(model: LanguageModel) -> float:
    """Floating-point operations a second in a matrix product, in the numbers and on the device of `model`."""
    from torch.utils.benchmark import Timer  # a tenth of a second

    weight = next(model.parameters())
    square = torch.ones((_SIZE, _SIZE), dtype=weight.dtype, device=weight.device)
    timer = Timer("square @ square", globals={"square": square}, num_threads=torch.get_num_threads())
    return 2 * _SIZE**3 / float(timer.blocked_autorange(min_run_time=_SECONDS).median)


def utilization_of_a_token(model: LanguageModel) -> float:
    """The utilisation at one token a second."""
    return flops_per_token(model) / flops_per_second(model)
