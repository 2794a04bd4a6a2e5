"""Checks and conversion of rows, before anything is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..arrays import converter_like, to_tensor
from ..errors import DreamAccelError
from ..ops.checks import ROW_DTYPES, result_dtype


def as_rows(x: Any) -> Tensor:
    """``x`` as a contiguous (N, D) floating-point tensor without autograd history.

    Raises:
        DreamAccelError: it is something else.
    """
    cast = "x.float()" if isinstance(x, Tensor) else 'x.astype("float32")'
    x = to_tensor(x).detach()
    if x.dim() != 2:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must be 2-d (N, D); flatten the features first")
    if x.shape[1] < 1:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must have at least 1 feature")
    if x.dtype not in ROW_DTYPES:
        raise DreamAccelError(
            f"x is {x.dtype}: features must be floating point (float32, float16, bfloat16 or float64); "
            f"convert with {cast}"
        )
    return x.contiguous()


def in_precision_of(x: Tensor, centroids: Tensor) -> Tensor:
    """Rows that the centroids can be compared with: float64 beside float64, at most float32 beside float32.

    Raises:
        DreamAccelError: numbers that the conversion would make infinite.
    """
    if result_dtype(x) == centroids.dtype:
        return x
    converted = x.to(centroids.dtype)
    if bool((converted.isinf() & x.isfinite()).any()):
        raise DreamAccelError(
            f"x holds numbers beyond {centroids.dtype}, in which the centroids were fitted: fit float64 rows, or scale "
            "both down"
        )
    return converted


def is_chunked(x: Any) -> bool:
    """Return True if ``x`` yields arrays instead of being one: an iterator, or a list or tuple of arrays."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(hasattr(chunk, "shape") for chunk in x)
    return isinstance(x, Iterator)


def collect(chunks: Iterable[Any], offsets: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Rows (N, D) from chunks (n, D), and the function that converts results to their kind of array.

    Only one chunk is held beside the rows, so an iterator may compute its chunks one at a time.

    Raises:
        DreamAccelError: no offsets to give N, no chunks, or chunks that differ in D, dtype or device or do not add up.
    """
    if offsets is None:
        raise DreamAccelError("x comes in chunks and offsets is missing: it says how many rows will come; pass [0, N]")
    n_rows = int(offsets[-1])
    rows: Tensor | None = None
    filled = 0
    for chunk in chunks:
        part = as_rows(chunk)
        if rows is None:
            rows, back = part.new_empty(max(n_rows, 0), part.shape[1]), converter_like(chunk)
        if (part.shape[1], part.dtype, part.device) != (rows.shape[1], rows.dtype, rows.device):
            raise DreamAccelError(
                f"a chunk of x is {part.dtype} {tuple(part.shape)} on {part.device} and the first one is {rows.dtype} "
                f"(n, {rows.shape[1]}) on {rows.device}: they must be alike"
            )
        if filled + len(part) <= n_rows:
            rows[filled : filled + len(part)] = part
        filled += len(part)
    if rows is None:
        raise DreamAccelError("x comes in chunks and there is none: pass at least one, (n, D)")
    if filled != n_rows:
        raise DreamAccelError(f"the chunks of x hold {filled} rows and offsets end at {n_rows}: they must agree")
    return rows, back


def check_finite(x: Tensor, what: str = "x", chunk_rows: int | None = None) -> None:
    """Refuse rows that contain NaN or Inf. Reads x once, ``chunk_rows`` at a time, and synchronises once."""
    chunks = [x] if chunk_rows is None else x.split(chunk_rows)
    suspect = ~torch.cat([finite_rows(chunk) for chunk in chunks])
    if not suspect.any():
        return
    # Rows of large numbers may only have a sum that overflows.
    rows = suspect.nonzero().squeeze(1)
    step = chunk_rows or max(len(rows), 1)
    rows = torch.cat([some[~x[some].isfinite().all(dim=1)] for some in rows.split(step)])
    if len(rows) > 0:
        raise DreamAccelError(
            f"{what} holds NaN or Inf in {len(rows)} of {len(x)} rows (the first is row {int(rows[0])}): "
            "remove or repair them"
        )


def finite_rows(x: Tensor) -> Tensor:
    """(N,) bool: rows without NaN or Inf, by their sum, which may also overflow where numbers exceed 1e30."""
    return x.sum(dim=1, dtype=torch.float32 if x.element_size() < 8 else None).isfinite()
