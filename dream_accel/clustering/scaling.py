"""Powers of two that bring groups of very large or very small rows to where squares of distances fit their format.

A power of two changes no digit, so a scaled group gets the labels, and the digits of the centroids, that it would have
at any ordinary magnitude. Ordinary groups have the exponent 0 and keep their bits; so each group's result still
depends on its own rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..groups import group_of_rows
from ..runtime import devices
from .rows import check_finite


class Range(NamedTuple):
    """Exponents of two between which the largest row of a group must be for its squares to fit a format."""

    low: int
    """A longest row of 2^low keeps differences in its last digit, whose squares do not underflow."""
    target: int
    """Exponent of a scaled group: as high as 12 |x|^2, which no intermediate result exceeds, fits, so that rows far
    smaller than the longest one keep their digits."""
    high: int
    """Below it even the sum of the squares of 2^28 rows does not overflow."""


RANGES = {torch.float32: Range(-39, 60, 48), torch.float64: Range(-458, 508, 480)}
"""By the dtype in which distances are computed."""


class Scaling(NamedTuple):
    """A power of two for every group, by which its rows and centroids are multiplied."""

    exponents: Tensor
    """(G,) int64"""

    def to(self, device: torch.device) -> Scaling:
        """The same on another device."""
        return Scaling(self.exponents.to(device))

    def part(self, groups: slice | Tensor) -> Scaling:
        """The same of some groups."""
        return Scaling(self.exponents[groups])

    def rows(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(N, D) scaled rows."""
        return _times_power(x, self.exponents[group_of_rows(offsets, len(x))])

    def centroids(self, centroids: Tensor) -> Tensor:
        """(G, K, D) scaled centroids."""
        return _times_power(centroids, self.exponents)

    def undo_centroids(self, centroids: Tensor) -> Tensor:
        """(G, K, D) centroids of the rows as they were given."""
        return _times_power(centroids, -self.exponents)

    def undo_distances(self, distances: Tensor, offsets: Tensor) -> Tensor:
        """(N, K) distances of the rows as they were given."""
        return _times_power(distances, -self.exponents[group_of_rows(offsets, len(distances))])

    def undo_squares(self, sums: Tensor) -> Tensor:
        """(G,) float64 sums of squared distances of the rows as they were given."""
        return _times_power(sums, -2 * self.exponents)


def find_scaling(
    x: Tensor, offsets: Tensor, centroids: Tensor | None = None, chunk_rows: int | None = None
) -> Scaling | None:
    """Refuse rows that contain NaN or Inf, and return the scaling that the groups need, None where none does.

    Reads ``x`` once, ``chunk_rows`` at a time, and synchronises once; again where a group is out of the ordinary.

    Args:
        x: (N, D) float32, float16, bfloat16 or float64.
        offsets: (G+1,) int64, valid, on any device.
        centroids: (G, K, D) that rows are compared with, on any device. Those that are not finite do not count.
        chunk_rows: most rows read at a time. Default: all.

    Raises:
        DreamAccelError: NaN or Inf in ``x``.
    """
    dtype = ops.result_dtype(x)
    limits = RANGES[dtype]
    offsets = offsets.to(x.device)
    longest = _group_max(_of_chunks(_lengths, x, dtype, chunk_rows), offsets)
    if centroids is not None:
        # A dead centroid of infinities only leads to the second look.
        lengths = _lengths(centroids.to(x.device, dtype), dtype).nan_to_num(nan=0.0, posinf=torch.inf)
        longest = torch.maximum(longest, lengths.amax(dim=1))
    longest = torch.where(offsets.diff() > 0, longest, 1.0)
    # A NaN is both the least and the largest, and compares as False.
    least, most = torch.stack(torch.aminmax(longest)).tolist()
    if least >= 2.0**limits.low and most < 2.0**limits.high:
        return None
    check_finite(x, chunk_rows=chunk_rows)
    largest = _group_max(_of_chunks(_magnitudes, x, dtype, chunk_rows), offsets)
    if centroids is not None:
        live = centroids.isfinite().all(dim=2)
        beside = _magnitudes(centroids, dtype).where(live, 0.0).amax(dim=1)
        largest = torch.maximum(largest, beside.to(x.device))
    exponents = _exponents(longest, largest, x.shape[1], limits)
    return Scaling(exponents.to(offsets.device)) if exponents.any() else None


def scaled_rows(x: Tensor, offsets: Tensor) -> Tensor:
    """(N, D) rows as :func:`find_scaling` would have them scaled, without a check and without a host round trip.

    On an accelerator the rows are multiplied by 1 where no group needs a scaling, because asking would synchronise;
    that changes no bit. Groups that hold NaN or Inf stay unusable.

    Args:
        x: (N, D) float32, float16, bfloat16 or float64.
        offsets: (G+1,) int64, valid, on the device of ``x``.
    """
    dtype = ops.result_dtype(x)
    longest = _group_max(_lengths(x, dtype), offsets)
    exponents = _exponents(longest, _group_max(_magnitudes(x, dtype), offsets), x.shape[1], RANGES[dtype])
    if not devices.reading_waits(x) and not exponents.any():
        return x
    return Scaling(exponents).rows(x, offsets)


def _exponents(longest: Tensor, largest: Tensor, n_features: int, limits: Range) -> Tensor:
    """(G,) int64 exponents, 0 for ordinary groups, from the length of the longest row and the largest number."""
    _, exponent = torch.frexp(largest)
    root_of_features = math.ceil(math.log2(n_features) / 2)
    # Infinite lengths are of numbers that are too large for their squares, or of dead centroids, which do not count.
    longest = torch.where(longest.isinf(), largest, longest)
    ordinary = (longest >= 2.0**limits.low) & (longest < 2.0**limits.high)
    return torch.where(~ordinary & (largest > 0), limits.target - root_of_features - exponent.long(), 0)


def _group_max(values: Tensor, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(values, "max", offsets=offsets, initial=0.0, unsafe=True)


def _of_chunks(
    measure: Callable[[Tensor, torch.dtype], Tensor], x: Tensor, dtype: torch.dtype, chunk_rows: int | None
) -> Tensor:
    """(N,) measures of rows, of ``chunk_rows`` rows at a time."""
    if chunk_rows is None:
        return measure(x, dtype)
    return torch.cat([measure(chunk, dtype) for chunk in x.split(chunk_rows)])


def _lengths(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, dtype=dtype)


def _magnitudes(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest absolute value of every row, which squares do not take out of any format."""
    return torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, dtype=dtype)


def _times_power(values: Tensor, exponents: Tensor) -> Tensor:
    """``values * 2**exponents``, with the exponents along the first dimension. Exact wherever the result is normal."""
    exponents = exponents.view(-1, *[1] * (values.dim() - 1))
    half = exponents >> 1
    # Twice, because a power that takes a subnormal number to an ordinary one is too large for the format itself.
    return values * _power(half, values.dtype) * _power(exponents - half, values.dtype)


def _power(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponents`` from its bits, as no function promises to be exact on every device."""
    return ((exponents + 1023) << 52).view(torch.float64).to(dtype)
