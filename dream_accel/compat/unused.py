"""Gradients that are None, as ``torch.autograd.grad(..., allow_unused=True)`` gives them for unused parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DreamAccelError


def pair_used(real: Sequence[Tensor | None], synthetic: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    """Pair the gradients of the parameters that are used.

    A parameter that neither side uses is left out, since nothing is known of its distance that depends on the synthetic
    images. One that a single side uses has a gradient of zero on the other.

    Args:
        real: L gradients, or None.
        synthetic: L gradients, or None.

    Returns:
        two lists of the same length without None; lists of different lengths are returned as they are, for the distance
        to refuse.

    Raises:
        DreamAccelError: every gradient is None.
    """
    pairs = list(zip(real, synthetic, strict=False))
    if len(real) != len(synthetic) or not any(x is None or y is None for x, y in pairs):
        return list(real), list(synthetic)  # type: ignore[arg-type]
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    for x, y in pairs:
        one = x if x is not None else y
        if one is not None:
            xs.append(torch.zeros_like(one) if x is None else x)
            ys.append(torch.zeros_like(one) if y is None else y)
    if not xs:
        raise DreamAccelError(
            f"all {len(pairs)} gradients are None: no parameter is used; pass the parameters that the loss depends on"
        )
    return xs, ys
