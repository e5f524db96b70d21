"""How parameters change: the learning rate by step, gradient clipping, and the update rule.

AdamW as in Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), with PyTorch's default betas
(0.9, 0.999) and epsilon 1e-8. It knows neither the model nor the data.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.adamw import adamw

from charlm.config import TrainParams


def learning_rate(step: int, settings: TrainParams) -> float:
    """The rate of `step`, counted from 1.

    It rises in a line over the first warmup_iters, then stays, or falls to zero in a line or half a cosine, which it
    would reach at the step after the last.
    """
    if step <= settings.warmup_iters:
        return settings.learning_rate * step / settings.warmup_iters
    progress = (step - 1 - settings.warmup_iters) / (settings.max_iters - settings.warmup_iters)
    factors = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return settings.learning_rate * factors[settings.schedule]


def optimizer(parameters: Sequence[Tensor], settings: TrainParams) -> Callable[[Sequence[Tensor], int], None]:
    """A function that makes the given step of AdamW in `parameters` from their gradients.

    PyTorch's functional form: constructing torch.optim.AdamW imports its compiler, which takes over a second, and
    every step of it costs more. The result is that of AdamW(fused=True) to the bit.
    """
    weights = [parameter.detach() for parameter in parameters]
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    steps = [torch.zeros((), dtype=torch.float32, device=weight.device) for weight in weights]

    @torch.no_grad()
    def update(gradients: Sequence[Tensor], step: int) -> None:
        if settings.grad_clip is not None:  # scaled so that their norm over all is at most that
            scale = torch.clamp(settings.grad_clip / (get_total_norm(gradients) + 1e-6), max=1.0)
            torch._foreach_mul_(list(gradients), scale)
        adamw(
            weights,
            list(gradients),
            means,
            squares,
            max_exp_avg_sqs=[],
            state_steps=steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate(step, settings),
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    return update
