"""Ragged groups: the rows of many classes in one array, class after class, delimited by offsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DreamAccelError
from .random import hash_rows


def as_offsets(offsets: Any, n_rows: int, device: torch.device, check: bool = True) -> Tensor:
    """Offsets as a (G+1,) int64 tensor on ``device``; None means one group of all rows.

    Raises:
        DreamAccelError: fewer than two offsets, offsets that do not rise from 0 to ``n_rows``, or that hold no data.
            Reading offsets on an accelerator synchronises with it; ``check=False`` trusts them unread.
    """
    if offsets is None:
        return torch.tensor([0, n_rows], dtype=torch.int64).to(device, non_blocking=True)
    if isinstance(offsets, np.ndarray) and not offsets.dtype.isnative:
        offsets = offsets.astype(offsets.dtype.newbyteorder("="))
    try:
        offsets = torch.as_tensor(offsets)
    except (TypeError, ValueError, RuntimeError):
        raise DreamAccelError(f"offsets is {offsets!r}: it must be (G+1,) integers") from None
    if offsets.is_floating_point() or offsets.is_complex() or offsets.dtype == torch.bool or offsets.dim() != 1:
        raise DreamAccelError(f"offsets is {offsets.dtype} of shape {tuple(offsets.shape)}: it must be (G+1,) integers")
    if offsets.is_meta:
        raise DreamAccelError("offsets is on meta, which holds no data: pass integers on the host or on x's device")
    if len(offsets) < 2:
        raise DreamAccelError("offsets describes no group: it must hold G+1 integers for G >= 1 groups")
    if check:
        values = offsets.tolist()
        falls = next((g for g in range(len(values) - 1) if values[g + 1] < values[g]), None)
        if falls is not None:
            raise DreamAccelError(
                f"offsets falls from {values[falls]} to {values[falls + 1]} at group {falls}: it must never decrease"
            )
        if values[0] != 0 or values[-1] != n_rows:
            raise DreamAccelError(
                f"offsets runs from {values[0]} to {values[-1]}: it must run from 0 to the number of rows, {n_rows}"
            )
    return offsets.to(device=device, dtype=torch.int64, non_blocking=True)


def group_of_rows(offsets: Tensor, n_rows: int) -> Tensor:
    """(N,) int64: the group of every row. No host round trip."""
    rows = torch.arange(n_rows, device=offsets.device)
    return torch.searchsorted(offsets, rows, right=True) - 1


def first_rows(order: Tensor, offsets: Tensor, n: int) -> Tensor:
    """(G, n) the first ``n`` rows of every group in an order sorted by group; -1 where a group has fewer."""
    position = offsets[:-1, None] + torch.arange(n, device=offsets.device)
    exists = position < offsets[1:, None]
    if len(order) == 0:
        return torch.full_like(position, -1)
    return torch.where(exists, order[position.clamp(max=len(order) - 1)], -1)


def sort_within_groups(keys: Tensor, offsets: Tensor, descending: bool = False) -> Tensor:
    """(N,) int64 row order: groups stay in place, the rows of a group are sorted by key, ties to the lowest row."""
    by_key = torch.argsort(keys, stable=True, descending=descending)
    group = group_of_rows(offsets, len(keys))
    return by_key[torch.argsort(group[by_key], stable=True)]


def random_rows(offsets: Tensor, n_rows: int, n: int, seed: int | Tensor, *keys: object) -> Tensor:
    """(G, n) distinct random rows of every group, -1 where it has fewer.

    The draw depends on the seed, the names and the position of a row in its group, so a group gets the same rows at any
    position in the batch.
    """
    position = torch.arange(n_rows, device=offsets.device) - offsets[group_of_rows(offsets, n_rows)]
    return first_rows(sort_within_groups(hash_rows(position, seed, *keys), offsets), offsets, n)


def sum_groups(values: Tensor, offsets: Tensor) -> Tensor:
    """(G,) float64 sums over the rows of every group; a group's bits do not depend on the other groups."""
    return torch.segment_reduce(values.double(), "sum", offsets=offsets, initial=0.0, unsafe=True)


def any_in_groups(flags: Tensor, offsets: Tensor) -> Tensor:
    """(G,) bool: whether any row of the group is flagged."""
    running = torch.nn.functional.pad(flags.cumsum(0), (1, 0))
    return running[offsets[1:]] > running[offsets[:-1]]


def count_in_groups(labels: Tensor, group: Tensor, n_groups: int, n_clusters: int) -> Tensor:
    """(G, K) int32: number of rows with each label 0..K-1 in every group; ``group`` (N,) from :func:`group_of_rows`."""
    cluster = group * n_clusters + labels
    counts = torch.zeros(n_groups * n_clusters, dtype=torch.int32, device=labels.device)
    return counts.index_add_(0, cluster, torch.ones_like(labels)).view(n_groups, n_clusters)
