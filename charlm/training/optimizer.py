"""How parameters change: the learning rate by step, gradient clipping, and the update rule.

AdamW is that of Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), with beta1 0.9 and epsilon 1e-8.
Muon is that of Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), with PyTorch's defaults.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon
from torch.optim.adamw import adamw

from charlm.config import TrainParams
from charlm.errors import CharlmError
from charlm.models.elementary import cosine
from charlm.training import exact_rules

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
        return highest * ((1 + cosine(progress)) / 2)
    return highest * (1 - progress) if settings.schedule == "linear" else highest


class Optimizer:
    """The update rule of `parameters`: AdamW, but Muon for those that are `matrices` if train.optimizer is muon.

    With train.precision exact both are those of `charlm.training.exact_rules`, otherwise PyTorch's functional forms:
    constructing one of torch.optim's classes imports its compiler, which takes over a second, and every step costs
    more. The results are those of AdamW(fused=True) and Muon() to the bit.
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
        self._exact = settings.precision == "exact"
        self._of_adamw = [number for number, parameter in enumerate(parameters) if parameter not in by_muon]
        self._of_muon = [number for number, parameter in enumerate(parameters) if parameter in by_muon]
        self._weights = [parameters[number].detach() for number in self._of_adamw]
        self._means, self._squares = ([torch.zeros_like(weight) for weight in self._weights] for _ in range(2))
        self._steps = [torch.zeros((), dtype=torch.float32, device=weight.device) for weight in self._weights]
        self._matrices = [parameters[number].detach() for number in self._of_muon]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]

    @property
    def state(self) -> dict[str, Tensor]:
        """What the rules remember of the steps before, by name: to be saved, or to be copied into."""
        lists = {"mean": self._means, "square": self._squares, "step": self._steps, "momentum": self._momenta}
        return {f"{name}.{number}": tensor for name, held in lists.items() for number, tensor in enumerate(held)}

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], step: int) -> None:
        """Make the given step, counted from 1, from the gradients of all parameters."""
        if self._settings.grad_clip is not None:  # scaled so that their norm over all is at most that
            norm = exact_rules.norm(gradients) if self._exact else get_total_norm(gradients)
            scale = torch.clamp(self._settings.grad_clip / (torch.as_tensor(norm) + 1e-6), max=1.0)
            torch._foreach_mul_(list(gradients), scale)
        if self._weights:
            self._update_by_adamw([gradients[number] for number in self._of_adamw], step)
        if self._matrices:
            self._update_by_muon([gradients[number] for number in self._of_muon], step)

    def _update_by_adamw(self, gradients: list[Tensor], step: int) -> None:
        rate = learning_rate(step, self._settings.learning_rate, self._settings)
        if self._exact:
            for tensors in zip(self._weights, gradients, self._means, self._squares, strict=True):
                exact_rules.adamw(
                    *(tensor.numpy() for tensor in tensors),
                    step=step,
                    rate=rate,
                    beta1=BETA1,
                    beta2=self._settings.beta2,
                    epsilon=EPSILON,
                    weight_decay=self._settings.weight_decay,
                )
            return
        adamw(
            self._weights,
            gradients,
            self._means,
            self._squares,
            max_exp_avg_sqs=[],
            state_steps=self._steps,
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=self._settings.beta2,
            lr=rate,
            weight_decay=self._settings.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _update_by_muon(self, gradients: list[Tensor], step: int) -> None:
        rate = learning_rate(step, self._settings.muon_learning_rate, self._settings)
        if self._exact:
            for tensors in zip(self._matrices, gradients, self._momenta, strict=True):
                exact_rules.muon(*tensors, rate=rate, decay=MOMENTUM, weight_decay=self._settings.weight_decay)
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
