"""How parameters change: the learning rate by step, gradient clipping, and the update rule.

AdamW is that of Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), with beta1 0.9 and epsilon 1e-8.
Muon is that of Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), with PyTorch's defaults.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon
from torch.optim.adamw import adamw

from charlm.config import TrainParams
from charlm.errors import CharlmError


def learning_rate(step: int, highest: float, settings: TrainParams) -> float:
    """The rate of `step`, counted from 1.

    It rises to `highest` in a line over the first warmup_iters, then stays, or falls to zero in a line or half a
    cosine, which it would reach at the step after the last.
    """
    if step <= settings.warmup_iters:
        return highest * step / settings.warmup_iters
    progress = (step - 1 - settings.warmup_iters) / (settings.max_iters - settings.warmup_iters)
    factors = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return highest * factors[settings.schedule]


def clip(gradients: Sequence[Tensor], largest: float | None) -> None:
    """Scale `gradients` in place so that their norm over all is at most `largest`."""
    if largest is not None:
        norm = get_total_norm(gradients)
        torch._foreach_mul_(list(gradients), torch.clamp(largest / (norm + 1e-6), max=1.0))


def optimizer(
    parameters: Sequence[Tensor], matrices: Sequence[Tensor], settings: TrainParams
) -> Callable[[Sequence[Tensor], int], None]:
    """A function that makes the given step in `parameters` from their gradients.

    With train.optimizer=muon, Muon changes those that are `matrices`, and AdamW the others. Both are PyTorch's
    functional forms: constructing one of torch.optim's classes imports its compiler, which takes over a second, and
    every step costs more. The results are those of AdamW(fused=True) and Muon() to the bit.
    """
    by_muon = set(matrices) if settings.optimizer == "muon" else set()
    if settings.optimizer == "muon" and not by_muon:
        raise CharlmError(
            "train.optimizer is muon, but this model has no matrix between its embeddings and its head.",
            "Muon is for such matrices alone.",
            "Set train.optimizer to adamw, or choose another model (model.name).",
        )
    groups = [(_adamw, [number for number, parameter in enumerate(parameters) if parameter not in by_muon])]
    if by_muon:
        groups.append((_muon, [number for number, parameter in enumerate(parameters) if parameter in by_muon]))
    updates = [(rule([parameters[n].detach() for n in numbers], settings), numbers) for rule, numbers in groups]

    @torch.no_grad()
    def update(gradients: Sequence[Tensor], step: int) -> None:
        clip(gradients, settings.grad_clip)
        for change, numbers in updates:
            change([gradients[number] for number in numbers], step)

    return update


def _adamw(weights: list[Tensor], settings: TrainParams) -> Callable[[list[Tensor], int], None]:
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    steps = [torch.zeros((), dtype=torch.float32, device=weight.device) for weight in weights]

    def change(gradients: list[Tensor], step: int) -> None:
        adamw(
            weights,
            gradients,
            means,
            squares,
            max_exp_avg_sqs=[],
            state_steps=steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=settings.beta2,
            lr=learning_rate(step, settings.learning_rate, settings),
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    return change


def _muon(weights: list[Tensor], settings: TrainParams) -> Callable[[list[Tensor], int], None]:
    momenta = [torch.zeros_like(weight) for weight in weights]

    def change(gradients: list[Tensor], step: int) -> None:
        muon(
            weights,
            gradients,
            momenta,
            lr=learning_rate(step, settings.muon_learning_rate, settings),
            weight_decay=settings.weight_decay,
            momentum=0.95,
            nesterov=True,
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
            ns_steps=DEFAULT_NS_STEPS,
            eps=EPS,
            adjust_lr_fn=None,
            has_complex=False,
        )

    return change
