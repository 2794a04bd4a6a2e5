"""Distance between the mean features of two batches, with its derivative computed in the same pass.

The formulas are those of :mod:`dream_accel.ops.gradient_distance`, with ``x`` and ``y`` the means of the real and of
the synthetic batch. Features of several dimensions are compared like a gradient, with one row per channel; a flat
feature vector is one row. The mean is computed as the features are read and never stored.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_choice
from .distance import METRICS, Lists, check_lists, constants, differentiable, register


@overload
def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[False] = False,
    return_grads: Literal[False] = False,
) -> Tensor: ...


@overload
def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[True],
    return_grads: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...


@overload
def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[False] = False,
    return_grads: Literal[True],
) -> tuple[Tensor, list[Tensor]]: ...


@overload
def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    *,
    per_class: bool = ...,
    return_layers: Literal[True],
    return_grads: Literal[True],
) -> tuple[Tensor, Tensor, list[Tensor]]: ...


@overload
def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = ...,
    *,
    per_class: bool = ...,
    return_layers: bool = ...,
    return_grads: bool = ...,
) -> Any: ...


def feature_distance(
    real: Lists,
    synthetic: Lists,
    metric: str = "mse",
    *,
    per_class: bool = False,
    return_layers: bool = False,
    return_grads: bool = False,
) -> Any:
    """Distance between batch means of features (DM; the term DREAM+ adds; IDC's feature matching), summed over layers.

    Differentiable once in ``synthetic``; ``real`` is taken as a constant. Sums over a batch are accumulated in float32
    or better. Features that are not contiguous are copied first.

    Args:
        real: L tensors, each (n, *feature) or, with ``per_class``, (G, n, *feature); n >= 1 may differ between tensors.
        synthetic: L tensors, (m, *feature) or (G, m, *feature). Dtypes may differ.
        metric: of :func:`dream_accel.gradient_distance`.
        per_class: the tensors carry a leading class dimension, and one distance is returned per class.
        return_layers: also return the distance of every layer.
        return_grads: also return the derivative, tensors shaped like ``synthetic``. It is equal for all members of a
            batch, so it is stored once and expanded.

    Returns:
        As :func:`dream_accel.gradient_distance`.

    Raises:
        DreamAccelError: lists or shapes that do not pair, an unknown metric, an empty batch, integer tensors, mixed
            devices; also on a second derivative through the operator.
    """
    check_choice("metric", metric, METRICS)
    xs, ys = constants(real), constants(synthetic) if return_grads else list(synthetic)
    with_grads = return_grads or (torch.is_grad_enabled() and any(y.requires_grad for y in ys))
    distance, per_layer, grads = differentiable("feature_distance", xs, ys, metric, per_class, with_grads)
    outputs: list[Any] = [distance, per_layer] if return_layers else [distance]
    outputs = outputs if per_class else [output.squeeze(0) for output in outputs]
    if return_grads:
        outputs.append([g.unsqueeze(int(per_class)).expand_as(y) for g, y in zip(grads, ys, strict=True)])
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def check_features(real: Lists, synthetic: Lists, per_class: bool) -> None:
    """Refuse lists of features that do not pair."""
    check_lists(real, synthetic, per_class, "features")
    lead = 2 if per_class else 1
    for i, (x, y) in enumerate(zip(real, synthetic, strict=True)):
        if x.dim() < lead or y.dim() < lead or x.shape[lead:] != y.shape[lead:]:
            raise DreamAccelError(
                f"pair {i} has shapes {tuple(x.shape)} (real) and {tuple(y.shape)} (synthetic): features are "
                f"{'(G, n, ...)' if per_class else '(n, ...)'} and equal but for n, the size of the batch"
            )
        if x.shape[lead - 1] < 1 or y.shape[lead - 1] < 1:
            raise DreamAccelError(
                f"pair {i} has shapes {tuple(x.shape)} (real) and {tuple(y.shape)} (synthetic): an empty batch has no "
                "mean, pass at least one image of each"
            )


register("feature_distance", check_features, n_averaged=1)
