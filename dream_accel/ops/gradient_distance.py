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

A sum beyond float32 is infinite. A cosine is computed for gradients of any finite size on a CPU, where norms are formed
in double if their squares leave float32; the CUDA kernels need rows of a length below 1e18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_choice
from .distance import METRICS, Lists, check_lists, constants, differentiable, register
from .layers import Gradients, Layers, paired, select_layers


@overload
def gradient_distance(
    real: Gradients,
    synthetic: Gradients,
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[False] = False,
    return_grads: Literal[False] = False,
) -> Tensor: ...


@overload
def gradient_distance(
    real: Gradients,
    synthetic: Gradients,
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[True],
    return_grads: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...


@overload
def gradient_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[False] = False,
    return_grads: Literal[True],
) -> tuple[Tensor, list[Tensor]]: ...


@overload
def gradient_distance(
    real: Mapping[str, Tensor],
    synthetic: Mapping[str, Tensor],
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[False] = False,
    return_grads: Literal[True],
) -> tuple[Tensor, dict[str, Tensor]]: ...


@overload
def gradient_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[True],
    return_grads: Literal[True],
) -> tuple[Tensor, Tensor, list[Tensor]]: ...


@overload
def gradient_distance(
    real: Mapping[str, Tensor],
    synthetic: Mapping[str, Tensor],
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[True],
    return_grads: Literal[True],
) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...


@overload
def gradient_distance(
    real: Gradients,
    synthetic: Gradients,
    metric: str = ...,
    layers: Layers = ...,
    *,
    per_class: bool = ...,
    return_layers: bool = ...,
    return_grads: bool = ...,
) -> Any: ...


def gradient_distance(
    real: Gradients,
    synthetic: Gradients,
    metric: str = "mse",
    layers: Layers = "conv",
    *,
    per_class: bool = False,
    return_layers: bool = False,
    return_grads: bool = False,
) -> Any:
    """Distance between the gradients of real and of synthetic images, summed over layers.

    Differentiable once in ``synthetic``; ``real`` is taken as a constant, whether or not it requires gradients. The
    formulas are in the module docstring; sums are accumulated in float32 or better (float64 for float64 input).
    Contiguous and channels_last tensors, also in pairs of one each, and slices of a larger buffer of classes are read
    in place; tensors of other layouts are copied first.

    Args:
        real: L gradients, each (*param) or, with ``per_class``, (G, *param); a sequence, or a mapping from names.
        synthetic: L gradients of the same shapes; names are paired by name, sequences by position. Dtypes may differ.
        metric: ``"mse"``, ``"l1"``, ``"l1_mean"``, ``"cos"``, ``"global_mse"`` or ``"global_cos"``.
        layers: which tensors count: ``"conv"`` the 4-d ones (IDC, DREAM), ``"weights"`` all but 1-d ones (DC, DSA),
            ``"all"``, or a list of names out of the mappings.
        per_class: the tensors carry a leading class dimension, and one distance is returned per class.
        return_layers: also return the distance of every layer that counts, in order.
        return_grads: also return the derivative, ready for ``torch.autograd.grad(g_syn, pixels, grad_outputs=grads)``,
            which skips the loss node of the graph.

    Returns:
        The distance, a scalar or (G,) with ``per_class``; float64 if any tensor is, else float32. With
        ``return_layers`` or ``return_grads`` a tuple of it and, in this order,

        - the distance of every layer, (L,) or (G, L), whose sum is the distance; a single one for the ``global_*``
          metrics, which have no layers. Differentiable like the distance.
        - the derivative, tensors shaped and typed like ``synthetic``, zero for those that do not count; a list, or a
          dict where ``synthetic`` has names.

    Raises:
        DreamAccelError: lists, names or shapes that do not pair, an unknown metric, rule or name, no layer left,
            integer tensors, mixed devices; also on a second derivative through the operator.
    """
    check_choice("metric", metric, METRICS)
    xs, ys = paired(real, synthetic)
    check_gradients(xs, ys, per_class)
    kept = select_layers(synthetic, layers, per_class)
    if not kept:
        dims = sorted({y.dim() - per_class for y in ys})
        raise DreamAccelError(
            f'layers={layers!r} leaves no tensor to compare (the lists hold {dims}-dimensional ones): use layers="all"'
        )
    real_kept, syn_kept = constants([xs[i] for i in kept]), [ys[i] for i in kept]
    if return_grads:
        syn_kept = constants(syn_kept)
    with_grads = return_grads or (torch.is_grad_enabled() and any(y.requires_grad for y in syn_kept))
    distance, per_layer, kept_grads = differentiable(
        "gradient_distance", real_kept, syn_kept, metric, per_class, with_grads
    )
    outputs: list[Any] = [distance, per_layer] if return_layers else [distance]
    outputs = outputs if per_class else [output.squeeze(0) for output in outputs]
    if return_grads:
        outputs.append(_put_back(kept_grads, kept, ys, synthetic))
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def check_gradients(real: Lists, synthetic: Lists, per_class: bool) -> None:
    """Refuse lists of gradients that do not pair."""
    check_lists(real, synthetic, per_class, "gradients")
    for i, (x, y) in enumerate(zip(real, synthetic, strict=True)):
        if x.shape != y.shape:
            raise DreamAccelError(
                f"pair {i} has shapes {tuple(x.shape)} (real) and {tuple(y.shape)} (synthetic): they must be equal"
            )


def _put_back(grads: list[Tensor], kept: list[int], ys: Sequence[Tensor], synthetic: Gradients) -> Any:
    """The derivatives at the positions of their tensors, zeros at the others."""
    by_place = dict(zip(kept, grads, strict=True))
    whole = [by_place[i] if i in by_place else torch.zeros_like(y) for i, y in enumerate(ys)]
    return dict(zip(synthetic, whole, strict=True)) if isinstance(synthetic, Mapping) else whole


register("gradient_distance", check_gradients, n_averaged=0)
