"""Assignment of every row to the nearest centroid of its own group."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_centroids, check_choice, check_device, check_rows, check_shape, result_dtype
from .registration import operator

PRECISIONS = ("fp32", "tf32", "bf16")


def _check(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    active: Tensor | None,
    labels: Tensor | None,
    distance: Tensor | None,
    precision: str,
    with_distance: bool,
) -> None:
    check_rows(x, offsets)
    check_centroids(x, offsets, centroids)
    check_choice("precision", precision, PRECISIONS)
    check_shape("active", active, (len(offsets) - 1,), torch.bool)
    check_shape("labels", labels, (len(x),), torch.int32)
    check_shape("distance", distance, (len(x),), result_dtype(x))
    check_device("x", x, active=active, labels=labels, distance=distance)
    if active is not None and (labels is None or (with_distance and distance is None)):
        kept = "labels and distance" if with_distance else "labels"
        raise DreamAccelError(f"active is given without {kept}: inactive groups need values to keep")


def _outputs(x: Tensor, with_distance: bool) -> tuple[Tensor, Tensor]:
    n_rows = x.shape[0]
    return x.new_empty(n_rows, dtype=torch.int32), x.new_empty(n_rows if with_distance else 0, dtype=result_dtype(x))


@operator(check=_check, outputs=_outputs)
def kmeans_assign(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    *,
    active: Tensor | None = None,
    labels: Tensor | None = None,
    distance: Tensor | None = None,
    precision: str = "fp32",
    with_distance: bool = True,
) -> tuple[Tensor, Tensor]:
    """Label every row with the nearest centroid of its group.

    ``label_i = argmin_k |x_i - c_gk|^2``, ties to the lowest ``k``; computed through ``|c|^2 - 2 x.c`` after
    subtracting the mean centroid from both sides. A centroid that is not finite is dead: it is never chosen.

    Args:
        x: (N, D) float32, float16 or bfloat16; the rows of all groups one after another.
        offsets: (G+1,) int64; group ``g`` owns rows ``offsets[g]`` to ``offsets[g+1] - 1``. Must start at 0, never fall
            and end at N. :class:`dream_accel.BatchedKMeans` checks this; the operator does not read the values.
        centroids: (G, K, D) float32.
        active: (G,) bool; rows of inactive groups keep the given ``labels`` and ``distance``. Default: all active.
        labels: (N,) int32, needed beside ``active``.
        distance: (N,) float32, needed beside ``active`` where distances are returned.
        precision: of the products that decide the label: ``"fp32"``, ``"tf32"`` or ``"bf16"``. CPUs always use fp32.
        with_distance: False returns labels alone and saves a second pass over ``x``.

    Returns:
        labels (N,) int32 within the group, and the squared Euclidean distance (N,) float32 to the chosen centroid, (0,)
        without distances; 0 and infinity where a group has no live centroid.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
