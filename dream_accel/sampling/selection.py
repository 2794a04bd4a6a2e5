"""One-time selection: picks real images of every class from given features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arrays import to_tensor, whole_number
from ..clustering import check_finite, scaled_rows
from ..errors import DreamAccelError
from .classes import class_order, labels_beside
from .strategies import find_strategy


@torch.inference_mode(False)
def select(
    features: Any, labels: Any, k: int, strategy: str = "dream", *, seed: int = 0, max_iter: int = 100
) -> Tensor:
    """Pick ``k`` images of every class.

    Args:
        features: (N, D) floating point array of torch, NumPy or CuPy, one row per image.
        labels: (N,) integers 0..C-1, every class present.
        k: images per class; at most the size of the smallest class.
        strategy: ``"dream"``, ``"random"``, ``"central"`` or ``"boundary"``.
        seed: of every random draw.
        max_iter: maximum number of K-Means iterations.

    Returns:
        (C, k) int64 row indices, distinct, on the features' device.

    Raises:
        DreamAccelError: features or labels have a wrong shape or dtype, features hold NaN or Inf, the strategy is
            unknown, or a class is smaller than ``k``.
    """
    picker = find_strategy(strategy)
    x = to_tensor(features, "features").detach()
    if x.dim() < 2:
        raise DreamAccelError(f"features has shape {tuple(x.shape)}: they must be (N, D), one row per image")
    if not x.is_floating_point():
        raise DreamAccelError(f"features is {x.dtype}: they must be floating point; convert with features.float()")
    order, offsets = class_order(x, labels_beside(x, labels))
    k = whole_number(k, "k", 1)
    smallest, size = min(enumerate(offsets.diff().tolist()), key=lambda pair: pair[1])
    if k > size:
        raise DreamAccelError(f"k is {k} and class {smallest} has {size} images: pick at most that many per class")
    x = x.flatten(1)[order]
    check_finite(x, "features")
    return order[picker.pick(scaled_rows(x, offsets), offsets, k, 1, seed, max_iter)]
