"""Common parts of the two distances: metrics, checks, registration, and the derivative.

Both operators take two lists of L tensors and return the distance of every class, that of every layer, and the
derivative in the second list, which is computed together with the value. A second derivative is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.pairs import METRIC_CODES, derivative_like
from ..errors import DreamAccelError
from .checks import check_choice
from .registration import operator
from .scale_gradients import scale_gradients

METRICS = tuple(METRIC_CODES)

Lists = Sequence[Tensor]
Result = tuple[Tensor, Tensor, list[Tensor]]


def register(name: str, check: Callable[[Lists, Lists, bool], None], n_averaged: int) -> None:
    """Register ``name(real, synthetic, metric, per_class, with_grads) -> (distance, per_layer, grads)``.

    Args:
        name: of the operator, and of the function of a backend that computes it.
        check: refuses lists that do not pair.
        n_averaged: number of dimensions, after that of classes, which the distance averages over before comparing; the
            derivative has the shape of the mean.
    """

    def check_all(real: Lists, synthetic: Lists, metric: str, per_class: bool) -> None:
        check_choice("metric", metric, METRICS)
        check(real, synthetic, per_class)

    def outputs(real: Lists, synthetic: Lists, metric: str, per_class: bool, with_grads: bool) -> Result:
        first, dtype = synthetic[0], distance_dtype([*real, *synthetic])
        n_groups = first.shape[0] if per_class else 1
        n_columns = 1 if metric.startswith("global_") else len(synthetic)
        grads = [derivative_like(y, per_class, n_averaged) for y in synthetic] if with_grads else []
        return first.new_empty(n_groups, dtype=dtype), first.new_empty((n_groups, n_columns), dtype=dtype), grads

    @operator(name=name, check=check_all, outputs=outputs, backward=_op_backward, setup_context=_op_setup_context)
    def distance(
        real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]: ...


def differentiable(
    name: str, real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> Result:
    """Call the operator ``name`` such that its results are differentiable in ``synthetic``.

    In eager mode an autograd function encloses the operator. The derivative registered with the operator itself, which
    compiled code needs, walks its lists of tensors in Python several times, which takes as long as the kernel.
    """
    op = getattr(torch.ops.dream_accel, name).default
    args = (metric, per_class, with_grads)
    wanted = with_grads and torch.is_grad_enabled() and any(y.requires_grad for y in synthetic)
    if not wanted or torch.compiler.is_compiling():
        return op(real, synthetic, *args)
    distance, per_layer, *grads = _Differentiable.apply(op, len(real), args, *real, *synthetic)
    return distance, per_layer, grads


def distance_dtype(tensors: Lists) -> torch.dtype:
    """Dtype of a distance: float64 where any tensor is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_lists(real: Lists, synthetic: Lists, per_class: bool, what: str) -> None:
    """Refuse lists of different length or none, integers, several devices, and stacks of different classes."""
    if len(real) != len(synthetic):
        raise DreamAccelError(
            f"{len(real)} real and {len(synthetic)} synthetic {what}: pass those of the same layers in both lists"
        )
    if not real:
        raise DreamAccelError(f"empty lists of {what}: pass at least one pair")
    device, groups = synthetic[0].device, synthetic[0].shape[:1]
    for i, (x, y) in enumerate(zip(real, synthetic, strict=True)):
        if not (x.is_floating_point() and y.is_floating_point()):
            raise DreamAccelError(f"pair {i} is {x.dtype} and {y.dtype}: {what} must be floating point")
        if x.device != device or y.device != device:
            raise DreamAccelError(f"pair {i} is on {x.device} and {y.device}, pair 0 on {device}: use one device")
        if per_class and (y.dim() == 0 or y.shape[:1] != groups or x.shape[:1] != groups):
            raise DreamAccelError(
                f"pair {i} has shapes {tuple(x.shape)} and {tuple(y.shape)}: with per_class every tensor begins with "
                "the same number of classes"
            )


def constants(tensors: Lists) -> list[Tensor]:
    """The tensors, detached from their graphs."""
    return [t.detach() if t.requires_grad else t for t in tensors]


class _FirstOrderOnly(torch.autograd.Function):
    """Scales the stored derivative, and refuses to be differentiated instead of returning a wrong zero."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, n: int, per_class: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(scale_gradients(list(tensors[:n]), scale, per_class))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise DreamAccelError(
            "the distance is differentiable once: for a second derivative in the synthetic list use "
            "dream_accel.backends.formulas.plain_distance"
        )


class _Differentiable(torch.autograd.Function):
    """Calls an operator; its two lists and its derivatives are passed as single tensors, as autograd functions need."""

    @staticmethod
    def forward(op: Any, n_layers: int, args: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        distance, per_layer, grads = op(list(tensors[:n_layers]), list(tensors[n_layers:]), *args)
        return distance, per_layer, *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, n_layers, (_, per_class, _), *tensors = inputs
        _keep(ctx, tensors[n_layers:], output[2:], per_class)

    @staticmethod
    def backward(ctx: Any, of_class: Tensor | None, of_layer: Tensor | None, *_: Any) -> tuple[Any, ...]:
        scaled = _scaled(ctx, of_class, of_layer)
        return None, None, None, *[None] * len(scaled), *scaled


# ``apply`` reads the signature at every call, and deriving it each time is slow.
_Differentiable.forward.__signature__ = inspect.signature(_Differentiable.forward)  # type: ignore[attr-defined]


def _op_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    _, synthetic, _, per_class, ctx.with_grads = inputs
    _keep(ctx, synthetic, output[2], per_class)


def _op_backward(ctx: Any, of_class: Tensor | None, of_layer: Tensor | None, _: Any) -> tuple[Any, ...]:
    if not ctx.with_grads and (of_class is not None or of_layer is not None):
        raise DreamAccelError("the distance was computed with_grads=False and then differentiated: use with_grads=True")
    scaled = _scaled(ctx, of_class, of_layer)
    return [None] * len(scaled), scaled, None, None, None


def _keep(ctx: Any, synthetic: Lists, grads: Lists, per_class: bool) -> None:
    ctx.mark_non_differentiable(*grads)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*grads, *synthetic)
    ctx.n_layers, ctx.per_class = len(synthetic), per_class


def _scaled(ctx: Any, of_class: Tensor | None, of_layer: Tensor | None) -> list[Tensor | None]:
    """The stored derivatives times the upstream ones, (G,) and (G, L), shaped like ``synthetic``."""
    n = ctx.n_layers
    scale = of_layer
    if of_class is not None:
        scale = of_class.unsqueeze(1) if scale is None else of_class.unsqueeze(1) + scale
    if scale is None:
        return [None] * n
    saved = ctx.saved_tensors
    grads, synthetic = saved[:n], saved[n:]
    if torch.is_grad_enabled():
        scaled = _FirstOrderOnly.apply(scale.expand(-1, n), n, ctx.per_class, *grads, *synthetic)
    elif _is_one(scale):
        scaled = grads
    else:
        scaled = scale_gradients(list(grads), scale.expand(-1, n), ctx.per_class)
    return [_as_input(g, y, ctx.per_class) for g, y in zip(scaled, synthetic, strict=True)]


def _is_one(scale: Tensor) -> bool:
    """Return True if the factors change nothing. Read on the CPU only, where reading a value does not synchronise."""
    if type(scale) is not Tensor or not scale.is_cpu:
        return False
    return scale.item() == 1 if scale.numel() == 1 else bool((scale == 1).all())


def _as_input(derivative: Tensor, y: Tensor, per_class: bool) -> Tensor:
    """The derivative, expanded over the batch where it was computed for the mean of the batch."""
    return derivative if derivative.shape == y.shape else derivative.unsqueeze(int(per_class)).expand_as(y)
