"""Problems of the K-Means benchmark: shapes by device, and data with a start common to all providers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dream_accel.groups import random_rows
from dream_accel.random import generator


@dataclass(frozen=True)
class Shape:
    """Groups of rows to cluster."""

    sizes: tuple[int, ...]
    features: int
    clusters: int

    @property
    def mode(self) -> str:
        """``equal`` if all groups have one size, else ``ragged``."""
        return "equal" if len(set(self.sizes)) == 1 else "ragged"


def _ragged(groups: int, least: int, most: int) -> tuple[int, ...]:
    draws = generator(0, "ragged sizes", groups)
    return tuple(torch.randint(least, most + 1, (groups,), generator=draws).tolist())


SVHN_SIZES = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)

SHAPES = {
    "cpu": (
        Shape((5000,) * 10, 128, 128),
        Shape((5000,) * 10, 512, 128),
        Shape((5000,) * 10, 2048, 128),
        Shape(_ragged(100, 300, 700), 512, 64),
    ),
    "cuda": (
        Shape((5000,) * 10, 2048, 128),
        Shape(SVHN_SIZES, 2048, 128),
        Shape((500,) * 100, 2048, 64),
        Shape((5000,) * 10, 128, 128),
        Shape((5000,) * 10, 8192, 128),
        Shape((1300,) * 1000, 512, 50),
    ),
}
QUICK = (Shape((300,) * 3, 32, 8), Shape((50, 0, 200, 120), 48, 8))


@dataclass(frozen=True)
class Problem:
    """Data, offsets and the common start."""

    x: Tensor
    """(N, D)."""
    offsets: Tensor
    """(G+1,)."""
    rows: Tensor
    """(G, K) the rows that are the start, -1 where a group has fewer."""
    start: Tensor
    """(G, K, D) these rows; NaN where there is none."""
    iterations: int
    """Lloyd iterations every provider may do."""


def make_problem(shape: Shape, device: torch.device, iterations: int) -> Problem:
    """Draw rows near a 16-dimensional subspace, as features are, so that no provider is at its fixpoint at once."""
    draws = generator(0, "bench", shape.features, *shape.sizes, device=device)
    n_rows = sum(shape.sizes)
    latent = torch.randn(n_rows, 16, generator=draws, device=device)
    spread = torch.randn(16, shape.features, generator=draws, device=device)
    x = torch.randn(n_rows, shape.features, generator=draws, device=device).mul_(0.3).addmm_(latent, spread)
    offsets = torch.nn.functional.pad(torch.tensor(shape.sizes, device=device).cumsum(0), (1, 0))
    rows = random_rows(offsets, n_rows, shape.clusters, 0, "bench start")
    start = x[rows.clamp(min=0)].masked_fill((rows < 0).unsqueeze(2), torch.nan)
    return Problem(x, offsets, rows, start, iterations)
