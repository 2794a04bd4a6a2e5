"""Lloyd's iteration of all groups, with a fixed number of launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dream_accel.runtime.devices import all_stopped

from . import tiles
from .assign import kmeans_assign
from .common import compile_options, dense, on_device_of
from .prepare import TileMaps
from .update import kmeans_update


@triton.jit(do_not_specialize=["G"])
def _groups_go_on_kernel(
    Changed_ptr,  # IN and OUT (G,) int8; cleared for the next iteration
    Active_ptr,  # IN  (G,) bool
    Going_ptr,  # OUT (G,) bool, active groups that changed
    Fixed_ptr,  # IN and OUT (G,) bool, groups at their fixpoint
    Count_ptr,  # IN and OUT (G,) int32, updates of a group
    G,
    BLOCK: tl.constexpr,
):
    """With unchanged labels the centroids are the means of exactly these members, which is a fixpoint."""
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = g < G
    active = tl.load(Active_ptr + g, mask=inside, other=0) != 0
    changed = tl.load(Changed_ptr + g, mask=inside, other=0) != 0
    fixed = tl.load(Fixed_ptr + g, mask=inside, other=0) != 0
    count = tl.load(Count_ptr + g, mask=inside, other=0)
    going = active & changed
    tl.store(Going_ptr + g, going, mask=inside)
    tl.store(Fixed_ptr + g, fixed | (active & (changed == 0)), mask=inside)
    tl.store(Count_ptr + g, count + going.to(tl.int32), mask=inside)
    tl.store(Changed_ptr + g, tl.zeros([BLOCK], tl.int8), mask=inside)


def kmeans_iterate(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    max_iter: int,
    tolerance: Tensor | None = None,
    precision: str = "fp32",
    empty: str = "keep",
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign and update in turn until every group is at its fixpoint; later launches skip the groups that are.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        centroids: (G, K, D) float32.
        max_iter: updates of a group at most.
        tolerance: (G,) float32; a group whose centroids have moved by no more, as a sum of squares, stops. None: never.
        precision: as in :func:`kmeans_assign`; labels of groups that are not at a fixpoint of fp32 are computed again.
        empty: as in :func:`kmeans_update`.

    Returns:
        labels (N,) int32, the centroids (G, K, D) they are nearest to, and updates of every group (G,) int32.
    """
    x, offsets = dense(x), dense(offsets)
    n_groups, start = len(offsets) - 1, centroids
    maps = TileMaps(offsets, len(x))
    labels = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
    active = torch.ones(n_groups, dtype=torch.bool, device=x.device)
    fixed = torch.zeros_like(active)
    changed = torch.zeros(n_groups, dtype=torch.int8, device=x.device)
    n_iter = torch.zeros(n_groups, dtype=torch.int32, device=x.device)
    for _ in range(max_iter):
        if all_stopped(active):
            break
        previous = centroids
        labels, _ = kmeans_assign(
            x, offsets, centroids, active, labels, None, precision, with_distance=False, changed=changed, maps=maps
        )
        active = _groups_go_on(changed, active, fixed, n_iter)
        centroids, _ = kmeans_update(x, offsets, labels, centroids.shape[1], None, previous, active, empty, maps)
        if tolerance is not None:
            shift = (centroids - previous).square().nan_to_num(nan=0.0).sum(dim=(1, 2))
            active = active & (shift > tolerance)
    # At its fixpoint a group has the labels of its centroids, provided that they were computed at fp32.
    stale = ~fixed if precision == "fp32" else torch.ones_like(fixed)
    if not all_stopped(stale):
        labels, _ = kmeans_assign(x, offsets, centroids, stale, labels, None, "fp32", with_distance=False, maps=maps)
    # An operator must not return its input, which is what is left after no iteration at all.
    return labels, centroids.clone() if centroids is start else centroids, n_iter


def _groups_go_on(changed: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor) -> Tensor:
    """The groups that go on, (G,) bool; the other tensors are brought up to date in place."""
    going = torch.empty_like(active)
    n_groups = len(active)
    if n_groups:
        with on_device_of(active):
            _groups_go_on_kernel[(triton.cdiv(n_groups, tiles.FLAGS),)](
                changed, active, going, fixed, n_iter, n_groups, BLOCK=tiles.FLAGS, **compile_options(4)
            )
    return going
