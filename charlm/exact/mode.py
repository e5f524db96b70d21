"""The block of `exact`: a mode that sees every operation, one that sees whole functions, and a hook for optimizers."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from charlm.exact.elementary import power
from charlm.exact.errors import NotExact
from charlm.exact.functions import FUNCTIONS
from charlm.exact.operations import HANDLED, MOVES, NOT_MOVES, PARTS, REAL, ROUNDS, WHOLE, aten, sqrt

Rule = Callable[["Operations", OpOverload, tuple[Any, ...], dict[str, Any]], Any]
_OPTIMIZERS = {"ASGD", "Adafactor", "LBFGS", "NAdam", "RAdam"}
"""Those of torch.optim that raise Python's floats to powers other than a beta to the number of steps."""


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes every operation by its rule; NotExact if it has none."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch imports its compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            rule = _RULES.setdefault(func, rule_of(func))
        return rule(self, func, args, kwargs or {})


_RULES: dict[Any, Rule] = {}


def rule_of(func: OpOverload) -> Rule:  # noqa: PLR0911 a rule a line
    """How to compute `func`: the first of its rules, see `charlm.exact.operations`."""
    space, name = func._schema.name.split("::")
    base = name.removesuffix("_") if func._schema.is_mutable else name
    moves = (name in MOVES or base in MOVES) and func._overloadname not in NOT_MOVES
    if space == "profiler" or func.is_view or moves:
        return passed
    if space == "aten" and not any(argument.is_out for argument in func._schema.arguments):
        if base in ROUNDS:
            return rounded
        if name.startswith("_foreach_"):
            return one_by_one
        if name in HANDLED or name in PARTS:
            return handled
        if base in HANDLED or base in PARTS or (base != name and _functional(func) in decomposition_table):
            return in_place
        if func in decomposition_table or func._can_decompose():
            return taken_apart
    return passed if name == "convert_element_type" else whole_or_refused


def passed(_mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As PyTorch computes it."""
    return func(*args, **kwargs)


def rounded(mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One IEEE operation for each number; with alpha, first one that multiplies by it."""
    alpha = kwargs.pop("alpha", args[2] if len(args) > 2 else 1)
    if kwargs.get("rounding_mode") or any(isinstance(x, Tensor) and x.dtype not in REAL | WHOLE for x in args):
        return whole_or_refused(mode, func, args, kwargs)
    if alpha == 1:
        return func(*args[:2], **kwargs)
    with mode:
        return func(args[0], args[1] * alpha)


def handled(mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By the function of its name, inside of the mode if that is made of other operations."""
    name = func._schema.name.removeprefix("aten::")
    if args and isinstance(args[0], Tensor) and args[0].dtype not in REAL:
        if args[0].dtype not in WHOLE:
            raise NotExact(f"{func} of {args[0].dtype}")
        found = func(*args, **kwargs)
        if found.dtype in WHOLE:
            return found
        args = (args[0].to(found.dtype), *args[1:])
    if name in HANDLED:
        return HANDLED[name](*args, **kwargs)
    with mode:
        return PARTS[name](*args, **kwargs)


def _functional(func: OpOverload) -> OpOverload | None:
    """The operation that returns what `func` writes to its first argument."""
    packet = getattr(aten, func._schema.name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, func._overloadname, None)


def in_place(mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By the function of its name, whose result is copied to the first argument."""
    name = func._schema.name.removeprefix("aten::")
    function = HANDLED.get(name.removesuffix("_"))
    if name == "_fused_adamw_":
        return HANDLED["_fused_adamw"](*args, **kwargs)
    if function is not None and args[0].dtype in REAL:
        return args[0].copy_(function(*args, **kwargs))
    with mode:
        found = PARTS.get(name.removesuffix("_"), _functional(func))(*args, **kwargs)  # type: ignore[misc]
    return args[0].copy_(found)


def one_by_one(mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation on a list of tensors: on each."""
    name = func._schema.name.removeprefix("aten::_foreach_")
    function = {"norm": aten.linalg_vector_norm}.get(name) or getattr(aten, name)
    found = []
    with mode:
        for number in range(len(args[0])):
            own = [value[number] if isinstance(value, list | tuple) else value for value in args]
            if name.startswith(("addcmul", "addcdiv")) and len(own) == 4:
                kwargs["value"] = own.pop()
            found.append(function(*own, **kwargs))
    return found if func._schema.returns else None


def taken_apart(mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As PyTorch expresses it in other operations, which the mode then sees."""
    try:
        with mode:
            return decomposition_table.get(func, func.decompose)(*args, **kwargs)
    except NotExact as err:  # of a part, which nobody wrote
        raise NotExact(str(func)) from err


def whole_or_refused(_mode: Operations, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As PyTorch computes it if all numbers are whole; NotExact if not."""
    flat = [y for x in (*args, *kwargs.values()) for y in (x if isinstance(x, list | tuple) else [x])]
    if all(x.dtype in WHOLE for x in flat if isinstance(x, Tensor)):
        found = func(*args, **kwargs)
        every = found if isinstance(found, list | tuple) else [found]
        if all(x.dtype in WHOLE for x in every if isinstance(x, Tensor)):
            return found
    raise NotExact(str(func))


class Functions(TorchFunctionMode):
    """Computes those functions as a whole that take fewer steps so than their operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = FUNCTIONS.get(func)
        if function is not None:
            found = function(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


class _Beta(float):
    """A coefficient of an optimizer, whose powers are not the C library's."""

    def __pow__(self, exponent: Any, _modulus: None = None) -> Any:
        if exponent == 0.5:
            return float(sqrt(torch.tensor(float(self), dtype=torch.float64)))
        return _Beta(power(float(self), int(exponent))) if exponent == int(exponent) else NotImplemented

    def __rsub__(self, other: float) -> "_Beta":
        return _Beta(float(other) - float(self))


class Exact(ExitStack):
    """See `charlm.exact.exact`."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._groups: list[tuple[dict[str, Any], Any]] = []
        self.callback(self._restore)
        # Recurrent layers and convolutions of oneDNN, and fused attention, cannot be taken apart.
        for enabled, enable in (
            (torch._C._get_mkldnn_enabled(), torch._C._set_mkldnn_enabled),
            (torch._C._get_flash_sdp_enabled(), torch._C._set_sdp_use_flash),
        ):
            self.callback(enable, enabled)
            enable(False)
        for register, hook in (
            (register_optimizer_step_pre_hook, self._prepare),
            (register_optimizer_step_post_hook, self._restore),
        ):
            self.callback(register(hook).remove)
        self.enter_context(Operations())  # type: ignore[no-untyped-call]
        self.enter_context(Functions())
        return self

    def _prepare(self, optimizer: Optimizer, *_: Any) -> None:
        if _OPTIMIZERS & {kind.__name__ for kind in type(optimizer).__mro__}:
            raise NotExact(f"torch.optim.{type(optimizer).__name__}", "Adam, AdamW, Muon, SGD and RMSprop are.")
        for group in optimizer.param_groups:
            if "betas" in group:
                self._groups.append((group, group["betas"]))
                group["betas"] = tuple(map(_Beta, group["betas"]))

    def _restore(self, *_: Any) -> None:
        while self._groups:
            group, betas = self._groups.pop()
            group["betas"] = betas
