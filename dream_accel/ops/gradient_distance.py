"""Layerwise distance between two lists of gradients, with its derivative computed in the same pass.

With ``x`` real, ``y`` synthetic, rows = first parameter dimension with the rest flattened:

=============  ======================================================  ==========================================
metric         value                                                   derivative in y
=============  ======================================================  ==========================================
``mse``        sum (x - y)^2                                           2 (y - x)
``l1``         sum |x - y|                                             sign(y - x)
``l1_mean``    sum over rows of mean |x - y|                           sign(y - x) / M, M = length of a row
``cos``        sum over rows of 1 - p/q, p = <x,y>, q = |x||y| + 1e-6  -x/q + p |x| y / (|y| q^2)
``global_*``   ``mse`` or ``cos`` of one concatenated vector
=============  ======================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import choose
from ..errors import DreamAccelError
from .checks import check_choice, result_dtype

METRICS = ("mse", "l1", "l1_mean", "cos", "global_mse", "global_cos")
LAYER_RULES = ("conv", "weights", "all")

torch.library.define(
    "dream_accel::gradient_distance",
    "(Tensor[] real, Tensor[] synthetic, str metric, bool per_class, bool with_grads) -> (Tensor, Tensor[])",
)


def gradient_distance(
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    metric: str = "mse",
    layers: str = "conv",
    *,
    per_class: bool = False,
    return_grads: bool = False,
) -> Any:
    """Distance between the gradients of real and of synthetic images, summed over layers.

    Differentiable once in ``synthetic``; ``real`` is taken as a constant, whether or not it requires gradients. The
    formulas are in the module docstring; sums are accumulated in float32 (float64 for float64 input).

    Args:
        real: L gradients, each (*param) or, with ``per_class``, (G, *param).
        synthetic: L gradients of the same shapes.
        metric: ``"mse"``, ``"l1"``, ``"l1_mean"``, ``"cos"``, ``"global_mse"`` or ``"global_cos"``.
        layers: which tensors count: ``"conv"`` the 4-d ones (IDC, DREAM), ``"weights"`` all but 1-d ones (DC, DSA),
            ``"all"``.
        per_class: the tensors carry a leading class dimension, and one distance is returned per class.
        return_grads: also return the derivative, ready for ``torch.autograd.grad(g_syn, pixels, grad_outputs=grads)``,
            which skips the loss node of the graph.

    Returns:
        A scalar, or (G,) with ``per_class``; with ``return_grads`` a pair of it and a list of L tensors shaped like
        ``synthetic``, zero for the tensors the rule leaves out.

    Raises:
        DreamAccelError: lists or shapes that do not pair, an unknown metric or rule, no layer left, integer tensors,
            mixed devices; also on a second derivative through the operator.
    """
    check_choice("metric", metric, METRICS)
    check_choice("layer rule", layers, LAYER_RULES)
    _check_pairs(real, synthetic, per_class)
    kept = select_layers(synthetic, layers, per_class)
    if not kept:
        dims = sorted({y.dim() - per_class for y in synthetic})
        raise DreamAccelError(
            f'layers="{layers}" leaves no tensor to compare (the lists hold {dims}-dimensional ones): use layers="all"'
        )
    real_kept = [real[i].detach() for i in kept]
    syn_kept = [synthetic[i] for i in kept]
    if not return_grads:
        distance, _ = torch.ops.dream_accel.gradient_distance(
            real_kept, syn_kept, metric, per_class, torch.is_grad_enabled() and any(y.requires_grad for y in syn_kept)
        )
        return distance if per_class else distance.squeeze(0)

    syn_kept = [y.detach() for y in syn_kept]
    distance, kept_grads = torch.ops.dream_accel.gradient_distance(real_kept, syn_kept, metric, per_class, True)
    by_index = dict(zip(kept, kept_grads, strict=True))
    grads = [by_index[i] if i in by_index else torch.zeros_like(y) for i, y in enumerate(synthetic)]
    return (distance if per_class else distance.squeeze(0)), grads


def select_layers(gradients: Sequence[Tensor], layers: str, per_class: bool = False) -> list[int]:
    """Indices of the gradients a layer rule keeps: ``"conv"`` 4-d, ``"weights"`` all but 1-d, ``"all"``."""
    check_choice("layer rule", layers, LAYER_RULES)
    dims = [g.dim() - per_class for g in gradients]
    if layers == "conv":
        return [i for i, dim in enumerate(dims) if dim == 4]
    if layers == "weights":
        return [i for i, dim in enumerate(dims) if dim != 1]
    return list(range(len(dims)))


def _check_pairs(real: Sequence[Tensor], synthetic: Sequence[Tensor], per_class: bool) -> None:
    if len(real) != len(synthetic):
        raise DreamAccelError(
            f"{len(real)} real and {len(synthetic)} synthetic gradients: pass the gradients of the same parameters"
        )
    if not real:
        raise DreamAccelError("empty lists of gradients: pass at least one pair")
    device = synthetic[0].device
    groups = synthetic[0].shape[:1]
    for i, (x, y) in enumerate(zip(real, synthetic, strict=True)):
        if x.shape != y.shape:
            raise DreamAccelError(
                f"pair {i} has shapes {tuple(x.shape)} (real) and {tuple(y.shape)} (synthetic): they must be equal"
            )
        if not (x.is_floating_point() and y.is_floating_point()):
            raise DreamAccelError(f"pair {i} is {x.dtype} and {y.dtype}: gradients must be floating point")
        if x.device != device or y.device != device:
            raise DreamAccelError(f"pair {i} is on {x.device} and {y.device}, pair 0 on {device}: use one device")
        if per_class and (y.dim() == 0 or y.shape[:1] != groups):
            raise DreamAccelError(
                f"pair {i} has shape {tuple(y.shape)}: with per_class every gradient begins with the same number "
                "of classes"
            )


@torch.library.impl("dream_accel::gradient_distance", "default")
def _impl(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, list[Tensor]]:
    args = (real, synthetic, metric, per_class, with_grads)
    check_choice("metric", metric, METRICS)
    _check_pairs(real, synthetic, per_class)
    return choose("gradient_distance", *args).gradient_distance(*args)


@torch.library.register_fake("dream_accel::gradient_distance")
def _fake(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, list[Tensor]]:
    check_choice("metric", metric, METRICS)
    _check_pairs(real, synthetic, per_class)
    first = synthetic[0]
    distance = first.new_empty(first.shape[0] if per_class else 1, dtype=result_dtype(first))
    return distance, [torch.empty_like(y) for y in synthetic] if with_grads else []


class _FirstOrderOnly(torch.autograd.Function):
    """Scales the stored derivative; refuses to be differentiated, where a wrong zero would pass unseen."""

    @staticmethod
    def forward(ctx: Any, upstream: Tensor, n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        grads = tensors[:n]
        return tuple(_scale(upstream, g) for g in grads)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise DreamAccelError(
            "gradient_distance is differentiable once: for a second derivative in the synthetic gradients use "
            "dream_accel.backends.reference.plain_distance"
        )


def _scale(upstream: Tensor, grad: Tensor) -> Tensor:
    if upstream.numel() == 1:
        return grad * upstream.to(grad.dtype).reshape(())
    return grad * upstream.to(grad.dtype).reshape(-1, *[1] * (grad.dim() - 1))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    real, synthetic, _, _, with_grads = inputs
    _, grads = output
    ctx.mark_non_differentiable(*grads)
    ctx.set_materialize_grads(False)
    ctx.n_layers = len(real)
    ctx.with_grads = with_grads
    ctx.save_for_backward(*grads, *synthetic)


def _backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Any, ...]:
    n = ctx.n_layers
    nothing = [None] * n
    if upstream is None:
        return nothing, nothing, None, None, None
    if not ctx.with_grads:
        raise DreamAccelError(
            "gradient_distance was called with_grads=False and then differentiated: pass with_grads=True"
        )
    saved = ctx.saved_tensors
    if torch.is_grad_enabled():
        return nothing, list(_FirstOrderOnly.apply(upstream, n, *saved)), None, None, None
    return nothing, [_scale(upstream, g) for g in saved[:n]], None, None, None


torch.library.register_autograd("dream_accel::gradient_distance", _backward, setup_context=_setup_context)
