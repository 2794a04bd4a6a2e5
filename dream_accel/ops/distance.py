"""What the two distances share: metrics, checks, the operator's schema and fake version, and its derivative.

Both operators take two lists of L tensors and give, beside the distance of every class, that of every layer, and the
derivative in the second list. The derivative is computed with the value; a second one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import choose
from ..backends.pairs import derivative_like
from ..errors import DreamAccelError
from .checks import check_choice

METRICS = ("mse", "l1", "l1_mean", "cos", "global_mse", "global_cos")

Lists = Sequence[Tensor]
Result = tuple[Tensor, Tensor, list[Tensor]]

torch.library.define("dream_accel::scale_gradients", "(Tensor[] gradients, Tensor scale, bool per_class) -> Tensor[]")


def register(name: str, check: Callable[[Lists, Lists, bool], None], n_averaged: int) -> None:
    """Register ``name(real, synthetic, metric, per_class, with_grads) -> (distance, per_layer, grads)``.

    Args:
        name: of the operator, and of the function of a backend that computes it.
        check: refuses lists that do not pair.
        n_averaged: how many dimensions (behind that of classes) the distance averages over before comparing; the
            derivative has the shape of the mean.
    """
    qualified = f"dream_accel::{name}"

    def compute(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool) -> Result:
        check_choice("metric", metric, METRICS)
        check(real, synthetic, per_class)
        args = (real, synthetic, metric, per_class, with_grads)
        return getattr(choose(name, *args), name)(*args)

    def fake(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool) -> Result:
        check_choice("metric", metric, METRICS)
        check(real, synthetic, per_class)
        first, dtype = synthetic[0], distance_dtype([*real, *synthetic])
        n_groups = first.shape[0] if per_class else 1
        n_columns = 1 if metric.startswith("global_") else len(synthetic)
        grads = [derivative_like(y, per_class, n_averaged) for y in synthetic] if with_grads else []
        return first.new_empty(n_groups, dtype=dtype), first.new_empty((n_groups, n_columns), dtype=dtype), grads

    torch.library.define(
        qualified,
        "(Tensor[] real, Tensor[] synthetic, str metric, bool per_class, bool with_grads) "
        "-> (Tensor, Tensor, Tensor[])",
    )
    torch.library.impl(qualified, "default", compute)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, _backward, setup_context=_setup_context)


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
    """The tensors without their graphs."""
    return [t.detach() if t.requires_grad else t for t in tensors]


@torch.library.impl("dream_accel::scale_gradients", "default")
def _scale(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    args = (gradients, scale, per_class)
    return choose("scale_gradients", *args).scale_gradients(*args)


@torch.library.register_fake("dream_accel::scale_gradients")
def _scale_fake(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    return [derivative_like(g, per_class, 0) for g in gradients]


class _FirstOrderOnly(torch.autograd.Function):
    """Scales the stored derivative; refuses to be differentiated, where a wrong zero would pass unseen."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, n: int, per_class: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.dream_accel.scale_gradients(list(tensors[:n]), scale, per_class))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise DreamAccelError(
            "the distance is differentiable once: for a second derivative in the synthetic list use "
            "dream_accel.backends.reference.plain_distance"
        )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    _, synthetic, _, ctx.per_class, ctx.with_grads = inputs
    grads = output[2]
    ctx.mark_non_differentiable(*grads)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*grads, *synthetic)
    ctx.n_layers = len(synthetic)


def _backward(ctx: Any, of_class: Tensor | None, of_layer: Tensor | None, _: Any) -> tuple[Any, ...]:
    n = ctx.n_layers
    nothing = [None] * n
    if of_class is None and of_layer is None:
        return nothing, nothing, None, None, None
    if not ctx.with_grads:
        raise DreamAccelError("the distance was computed with_grads=False and then differentiated: use with_grads=True")
    parts = [part for part in (of_class.unsqueeze(1) if of_class is not None else None, of_layer) if part is not None]
    scale = (parts[0] if len(parts) == 1 else parts[0] + parts[1]).expand(-1, n)
    grads, synthetic = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
    if torch.is_grad_enabled():
        scaled = _FirstOrderOnly.apply(scale, n, ctx.per_class, *grads, *synthetic)
    elif _is_one(scale):
        scaled = grads
    else:
        scaled = torch.ops.dream_accel.scale_gradients(list(grads), scale, ctx.per_class)
    return nothing, [_as_input(g, y, ctx.per_class) for g, y in zip(scaled, synthetic, strict=True)], None, None, None


def _is_one(scale: Tensor) -> bool:
    """Whether there is nothing to scale. Asked on the CPU alone, where nothing waits for the answer."""
    return type(scale) is Tensor and scale.device.type == "cpu" and bool((scale == 1).all())


def _as_input(derivative: Tensor, y: Tensor, per_class: bool) -> Tensor:
    """The derivative in the mean of a batch is that in each of its members."""
    return derivative if derivative.shape == y.shape else derivative.unsqueeze(int(per_class)).expand_as(y)
