"""Tables of tensors passed by value: addresses and sizes are arguments of the launch, so nothing is copied beforehand.

A table is a tuple of integers, one column per tensor; a program picks the column of its own tensor. Addresses are
integers, so one compiled kernel serves any tensors of the same shapes, wherever they are stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

MAX_TENSORS = 32
"""Most tensors in one launch: the arguments of a kernel take at most 4 KB."""


class Batch(NamedTuple):
    """Tensors that share a launch."""

    first: int
    """Index of the first one in the caller's lists."""
    table: tuple[int, ...]
    """Fields x columns, flattened; columns beyond the tensors have no programs."""
    columns: int
    blocks: list[int]
    """Programs for one class of every tensor."""
    before: int
    """Programs for one class in earlier launches."""


def batches(fields: Sequence[tuple[int, ...]], blocks: Sequence[int], alike: Sequence[Any]) -> Iterator[Batch]:
    """Divide tensors among launches, in order.

    Args:
        fields: of every tensor; in the table they follow field 0, the first block of the tensor.
        blocks: programs that one class of every tensor takes.
        alike: one key per tensor; the tensors of a launch have equal keys.
    """
    first, before = 0, 0
    while first < len(fields):
        last = first + 1
        while last < len(fields) and last - first < MAX_TENSORS and alike[last] == alike[first]:
            last += 1
        own = list(blocks[first:last])
        starts = [sum(own[:i]) for i in range(len(own))]
        rows = [(start, *of_tensor) for start, of_tensor in zip(starts, fields[first:last], strict=True)]
        columns = triton.next_power_of_2(len(own))
        rows += [(sum(own), *[0] * len(fields[0]))] * (columns - len(own))
        yield Batch(first, tuple(itertools.chain(*zip(*rows, strict=True))), columns, own, before)
        first, before = last, before + sum(own)


@triton.jit
def column_of(table, block, COLUMNS: tl.constexpr):
    """The column that program ``block`` works on: the last that starts at or before it and has programs."""
    column = block * 0
    for i in tl.static_range(1, COLUMNS):
        column = tl.where(block >= table[i], i, column)
    return column


@triton.jit
def field(table, column, FIELD: tl.constexpr, COLUMNS: tl.constexpr):
    """One field of a column; field 0 is the first block."""
    value = column.to(tl.int64) * 0 + table[FIELD * COLUMNS]
    for i in tl.static_range(1, COLUMNS):
        value = tl.where(column == i, table[FIELD * COLUMNS + i], value)
    return value


@triton.jit
def chunk_of(table, block, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """The column of a program, and the positions of its BLOCK elements in one class of that tensor."""
    column = column_of(table, block, COLUMNS)
    return column, (block - field(table, column, 0, COLUMNS).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def typed(address, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The address as a pointer."""
    pointer = address.to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
