"""Assignment of every row to the nearest centroid of its group, computed from inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_device, check_shape
from .registration import operator


def _check(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> None:
    if products.dim() != 3 or products.shape[1] < 1 or products.dtype != torch.float32:
        raise DreamAccelError(
            f"products is {products.dtype} of shape {tuple(products.shape)}: it must be (G, K, W) float32 with K >= 1"
        )
    check_shape("norms", norms, tuple(products.shape[:2]), torch.float32)
    check_shape("offsets", offsets, (products.shape[0] + 1,), torch.int64)
    check_shape("active", active, (products.shape[0],), torch.bool)
    check_shape("labels", labels, (labels.numel(),), torch.int32)
    check_device("products", products, norms=norms, offsets=offsets, active=active, labels=labels)


def _outputs(labels: Tensor) -> Tensor:
    return torch.empty_like(labels)


@operator(check=_check, outputs=_outputs)
def gram_assign(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    """Label every row with the nearest centroid of its group.

    ``label_i = argmin_k norms_gk - 2 products_gki``, which is ``argmin_k |x_i - c_gk|^2`` where ``products_gki`` is
    ``<c_gk, x_i>`` and ``norms_gk`` is ``|c_gk|^2``; ties to the lowest ``k``. A score that is NaN counts as infinite,
    so a dead centroid is never chosen; 0 where all are.

    Args:
        products: (G, K, W) float32; column ``i`` belongs to the i-th row of the group.
        norms: (G, K) float32.
        offsets: (G+1,) int64; no group may have more than W rows, which is not checked.
        active: (G,) bool; rows of inactive groups keep ``labels``.
        labels: (N,) int32.

    Returns:
        labels (N,) int32.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
