"""How parameters change: the learning rate by step, gradient clipping, and the update rule.

AdamW is that of Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), with beta1 0.9 and epsilon 1e-8.
Muon is that of Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), with PyTorch's defaults.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon

from charlm.config import TrainParams
from charlm.errors import CharlmError
from charlm.exact import exact
from charlm.exact.elementary import sine_and_cosine
from charlm.exact.operations import fused_adamw

BETA1, EPSILON, MOMENTUM = 0.9, 1e-8, 0.95


def learning_rate(step: int, highest: float, settings: TrainParams) -> float:
    """The rate of `step`, counted from 1.

    It rises to `highest` in a line over the first warmup_iters, then stays, or falls to zero in a line or half a
    cosine, which it would reach at the step after the last.
    """
    if step <= settings.warmup_iters:
        return highest * step / settings.warmup_iters
    progress = (step - 1 - settings.warmup_iters) / (settings.max_iters - settings.warmup_iters)
    if settings.schedule == "cosine":
        return highest * ((1 + float(sine_and_cosine(np.array(math.pi * progress))[1])) / 2)
    return highest * (1 - progress) if settings.schedule == "linear" else highest


class Optimizer:
    """The update rule of `parameters`: AdamW, but Muon for those that are `matrices` if train.optimizer is muon.

    AdamW is PyTorch's fused kernel: constructing one of torch.optim's classes imports its compiler, which takes over
    a second. The results are those of AdamW(fused=True) to the bit. Muon orthogonalises in float32 on a CPU; PyTorch's
    does in bfloat16, which takes a CPU without such products twenty times as long.
    """

    def __init__(self, parameters: Sequence[Tensor], matrices: Sequence[Tensor], settings: TrainParams) -> None:
        by_muon = set(matrices) if settings.optimizer == "muon" else set()
        if settings.optimizer == "muon" and not by_muon:
            raise CharlmError(
                "train.optimizer is muon, but this model has no matrix between its embeddings and its head.",
                "Muon is for such matrices alone.",
                "Set train.optimizer to adamw, or choose another model (model.name).",
            )
        self._settings = settings
        is_exact = settings.precision == "exact"
        self._arithmetic: Callable[[], AbstractContextManager[object]] = exact if is_exact else nullcontext
        self._fused_adamw = fused_adamw if is_exact else torch._fused_adamw_  # what it is in the block, without one
        self._of_adamw = [number for number, parameter in enumerate(parameters) if parameter not in by_muon]
        self._of_muon = [number for number, parameter in enumerate(parameters) if parameter in by_muon]
        self._weights = [parameters[number].detach() for number in self._of_adamw]
        self._means, self._squares = ([torch.zeros_like(weight) for weight in self._weights] for _ in range(2))
        self._steps = [torch.zeros((), device=weight.device) for weight in self._weights[:1]] * len(self._weights)
        self._matrices = [parameters[number].detach() for number in self._of_muon]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]

    @property
    def state(self) -> dict[str, Tensor]:
        """What the rules remember of the steps before, by name: to be saved, or to be copied into."""
        lists = {"mean": self._means, "square": self._squares, "momentum": self._momenta}
        return {f"{name}.{number}": tensor for name, held in lists.items() for number, tensor in enumerate(held)}

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], step: int) -> None:
        """Make the given step, counted from 1, from the gradients of all parameters."""
        if self._settings.grad_clip is not None:  # scaled so that their norm over all is at most that
            with self._arithmetic():
                scale = torch.clamp(self._settings.grad_clip / (get_total_norm(gradients) + 1e-6), max=1.0)
                torch._foreach_mul_(list(gradients), scale)
        if self._weights:
            self._update_by_adamw([gradients[number] for number in self._of_adamw], step)
        if self._matrices:
            with self._arithmetic():
                self._update_by_muon([gradients[number] for number in self._of_muon], step)

    def _update_by_adamw(self, gradients: list[Tensor], step: int) -> None:
        rate = learning_rate(step, self._settings.learning_rate, self._settings)
        self._steps[0].fill_(step)
        self._fused_adamw(
            self._weights,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=rate,
            beta1=BETA1,
            beta2=self._settings.beta2,
            weight_decay=self._settings.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def _update_by_muon(self, gradients: list[Tensor], step: int) -> None:
        rate = learning_rate(step, self._settings.muon_learning_rate, self._settings)
        if not self._matrices[0].is_cuda:
            self._update_on_cpu(gradients, rate)
            return
        muon(
            self._matrices,
            gradients,
            self._momenta,
            lr=rate,
            weight_decay=self._settings.weight_decay,
            momentum=MOMENTUM,
            nesterov=True,
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
            ns_steps=DEFAULT_NS_STEPS,
            eps=EPS,
            adjust_lr_fn=None,
            has_complex=False,
        )

    def _update_on_cpu(self, gradients: list[Tensor], rate: float) -> None:
        """The same, orthogonalised in float32."""
        torch._foreach_lerp_(self._momenta, gradients, 1 - MOMENTUM)
        torch._foreach_lerp_(gradients, self._momenta, MOMENTUM)
        for matrix, update in zip(self._matrices, orthogonalized(gradients), strict=True):
            rows, columns = matrix.shape
            matrix.mul_(1 - rate * self._settings.weight_decay)
            matrix.sub_(update * (rate * math.sqrt(max(1, rows / columns))))


def orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """For each of `matrices` the nearest one whose singular values are about 1, by Muon's five Newton-Schulz steps.

    A step is X <- p(X X') X. As the polynomials p of one matrix commute, X X' is carried along instead of X. All but
    the first and the last product are then of the shorter side's size, and matrices that share it share the call.
    """
    by_shape, by_side = defaultdict(list), defaultdict(list)
    for number, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(number)
    stacks = {}
    for shape, numbers in by_shape.items():
        x = torch.stack([matrices[number] for number in numbers])  # (N, R, C)
        x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=EPS)
        stacks[shape] = x if shape[0] <= shape[1] else x.mT
        by_side[min(shape)].append(shape)
    found: dict[int, Tensor] = {}
    for shapes in by_side.values():
        products = _newton_schulz(torch.cat([stacks[shape] @ stacks[shape].mT for shape in shapes]))
        split = torch.split(products, [len(by_shape[shape]) for shape in shapes])
        for shape, product in zip(shapes, split, strict=True):
            x = product @ stacks[shape]
            found.update(zip(by_shape[shape], x if shape[0] <= shape[1] else x.mT, strict=True))
    return [found[number] for number in range(len(matrices))]


def _newton_schulz(gram: Tensor) -> Tensor:
    """The product of the steps' polynomials (N, R, R), from X X' (N, R, R)."""
    product = None
    for step in range(DEFAULT_NS_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=DEFAULT_B, alpha=DEFAULT_C)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(DEFAULT_A)
        product = polynomial if product is None else polynomial @ product
        if step + 1 < DEFAULT_NS_STEPS:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product
