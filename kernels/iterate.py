"""Steps of Lloyd's iteration in nine launches, or thirteen where empty clusters are filled."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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
    """going = active and changed; active groups that are not are at their fixpoint."""
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


class LloydSteps:
    """The steps of an iteration over groups of rows, which share what depends on the rows alone.

    Args:
        x: (N, D) float32, float16 or bfloat16.
        offsets: (G+1,) int64.
        empty: as in :func:`kmeans_update`.
    """

    def __init__(self, x: Tensor, offsets: Tensor, empty: str) -> None:
        self._x, self._offsets, self._empty = dense(x), dense(offsets), empty
        self._maps = TileMaps(self._offsets, len(x))
        self._changed = torch.zeros(len(offsets) - 1, dtype=torch.int8, device=x.device)

    def assign(self, centroids: Tensor, active: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Labels of the rows of active groups, as :func:`kmeans_assign`; it is noted which groups have new ones."""
        args = self._x, self._offsets, centroids, active, labels, None, precision
        return kmeans_assign(*args, with_distance=False, changed=self._changed, maps=self._maps)[0]

    def going_on(self, labels: Tensor, before: Tensor, active: Tensor, fixed: Tensor, n_iter: Tensor) -> Tensor:
        """The active groups that :meth:`assign` gave a new label, (G,) bool; the next one notes anew.

        The other active groups are added to ``fixed``, (G,) bool, and these counted in ``n_iter``, (G,) int32.
        """
        going = torch.empty_like(active)
        if len(active):
            with on_device_of(active):
                _groups_go_on_kernel[(triton.cdiv(len(active), tiles.FLAGS),)](
                    self._changed,
                    active,
                    going,
                    fixed,
                    n_iter,
                    len(active),
                    BLOCK=tiles.FLAGS,
                    **compile_options(4),
                )
        return going

    def update(self, labels: Tensor, previous: Tensor, active: Tensor) -> Tensor:
        """Centroids of active groups, as :func:`kmeans_update`."""
        args = self._x, self._offsets, labels, previous.shape[1], None, previous, active, self._empty
        return kmeans_update(*args, self._maps)[0]
