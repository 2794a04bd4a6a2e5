"""What rows must be, checked before anything is launched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arrays import to_tensor
from ..errors import DreamAccelError


def as_rows(x: Any) -> Tensor:
    """x as a contiguous (N, D) floating-point tensor without autograd history.

    Raises:
        DreamAccelError: it is something else.
    """
    x = to_tensor(x).detach()
    if x.dim() != 2:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must be 2-d (N, D); flatten the features first")
    if not x.is_floating_point():
        raise DreamAccelError(f"x is {x.dtype}: features must be floating point; convert with x.float()")
    return x.contiguous()


def check_finite(x: Tensor, what: str = "x") -> None:
    """Refuse rows that hold NaN or Inf. One pass over x and one wait for the device."""
    bad = ~finite_rows(x)
    if bad.any():
        rows = bad.nonzero().squeeze(1)
        raise DreamAccelError(
            f"{what} holds NaN or Inf in {len(rows)} of {len(x)} rows (the first is row {int(rows[0])}): "
            "remove or repair them"
        )


def finite_rows(x: Tensor) -> Tensor:
    """(N,) bool: rows without NaN or Inf, told by their sum, which is finite unless squares would overflow anyway."""
    return x.sum(dim=1, dtype=torch.float32 if x.element_size() < 8 else None).isfinite()
