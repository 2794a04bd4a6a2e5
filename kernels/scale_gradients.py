"""Multiplication of derivatives by one factor per class and layer, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .common import compile_options, on_device_of
from .pair_table import batches, chunk_of, field, typed
from .pairs import SIZES, TYPES

BLOCK = 4096
"""Elements per program."""


@triton.jit
def _scale_kernel(
    Scale_ptr,  # IN (G, n_layers) float32
    n_layers,
    first_layer,
    table,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """scaled = scale * gradient over one chunk of one class; fields: gradient, scaled, size, stride."""
    block = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    column, position = chunk_of(table, block, COLUMNS, BLOCK)
    size = field(table, column, 3, COLUMNS)
    gradient = typed(field(table, column, 1, COLUMNS), TYPE, ALIGNED) + group * field(table, column, 4, COLUMNS)
    scaled = typed(field(table, column, 2, COLUMNS), TYPE, ALIGNED) + group * size
    factor = tl.load(Scale_ptr + group * n_layers + first_layer + column)
    value = tl.load(gradient + position, mask=position < size, other=0.0).to(tl.float32) * factor
    tl.store(scaled + position, value.to(TYPE), mask=position < size)


def scale_gradients(table: Sequence[tuple[int, ...]], scale: Tensor) -> None:
    """Multiply every tensor by its column of ``scale``, class by class.

    Args:
        table: the fields of ``ScaledGradient`` in ``csrc/gradient_pair.h`` for every tensor.
        scale: (G, L) float32, contiguous.
    """
    n_groups, n_layers = scale.shape
    blocks = [triton.cdiv(size, BLOCK) for _, _, size, _, _ in table]
    with on_device_of(scale):
        for batch in batches([of_tensor[:4] for of_tensor in table], blocks, [of_tensor[4] for of_tensor in table]):
            own = table[batch.first : batch.first + len(batch.blocks)]
            if not sum(batch.blocks) or not n_groups:
                continue
            width = SIZES[own[0][4]]
            aligned = all(
                v % 16 == 0
                for source, target, size, stride, _ in own
                for v in (source, target, (size * width) if n_groups > 1 else 0, stride * width)
            )
            _scale_kernel[(sum(batch.blocks), n_groups)](
                scale,
                n_layers,
                batch.first,
                batch.table,
                TYPE=TYPES[own[0][4]],
                ALIGNED=aligned,
                COLUMNS=batch.columns,
                BLOCK=BLOCK,
                **compile_options(8),
            )
