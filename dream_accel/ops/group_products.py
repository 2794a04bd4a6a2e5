"""Products of the rows of every group: Gram matrices, and products of centroids with rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_device, check_rows, check_shape
from .registration import operator


def _check(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> None:
    check_rows(x, offsets)
    check_rows(a, a_offsets)
    for name, rows in (("a", a), ("x", x)):
        check_shape(name, rows, (rows.shape[0], x.shape[1]), torch.float32)
    check_shape("a_offsets", a_offsets, tuple(offsets.shape), torch.int64)
    check_shape("centre", centre, (len(offsets) - 1, x.shape[1]), torch.float32)
    check_device("x", x, a=a, centre=centre)
    if width < 1:
        raise DreamAccelError(f"width is {width}: it must be at least 1 and the rows of any group")


def _outputs(a: Tensor, width: int) -> Tensor:
    return a.new_empty((a.shape[0], width))


@operator(check=_check, outputs=_outputs)
def group_products(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> Tensor:
    """Multiply the rows ``a`` of every group with its rows ``x``, both relative to a centre.

    ``out[r, i] = <a_r - m_g, x_i - m_g>`` in float32, ``i`` counted from the first row of group ``g`` in ``x``. Where
    ``a`` is ``x`` the result is symmetric. An entry depends on the two rows and the centre alone.

    Args:
        a: (R, D) float32; the rows of all groups one after another.
        a_offsets: (G+1,) int64, of ``a``.
        x: (N, D) float32.
        offsets: (G+1,) int64, of ``x``.
        centre: (G, D) float32, m.
        width: columns of the result; at least the rows of ``x`` in any group, which is not checked.

    Returns:
        (R, width) float32; 0 beyond the rows of the group.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
