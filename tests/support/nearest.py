"""The judge of an assignment: float64, and the one bound on what rounding may cost."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

ROUNDING = 2**-20
"""Cost of rounding at most, in units of the spread of a row and its group's centroids around the mean row of the group.

Products of float32 numbers err by 2^-24 of their size each, and the errors of many features may add up; the operators
subtract a centre from both sides first, so the distance from the origin is no part of it.
"""
UNDERFLOW = torch.finfo(torch.float32).tiny
"""Part of a squared distance that a feature may add unseen: less than the smallest normal number may count as 0."""


def assert_nearest(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, distance: Tensor) -> None:
    """Every label is that of the nearest live centroid, or of one as near within rounding, at its true distance."""
    for group, (start, stop) in enumerate(pairwise(offsets.tolist())):
        rows, own = x[start:stop].double().cpu(), centroids[group].double().cpu()
        live = own.isfinite().all(dim=1)
        label = labels[start:stop].long().cpu()
        if not live.any() or start == stop:
            assert (label == 0).all()
            continue
        assert live[label].all()
        exact = (rows.unsqueeze(1) - own).square().sum(dim=2)
        exact[:, ~live] = torch.inf
        chosen = exact.gather(1, label.unsqueeze(1)).squeeze(1)
        centre = rows.mean(dim=0)
        spread = (rows - centre).square().sum(dim=1) + (own[live] - centre).square().sum(dim=1).max()
        underflow = x.shape[1] * UNDERFLOW
        assert (chosen - exact.min(dim=1).values <= ROUNDING * spread + underflow).all()
        torch.testing.assert_close(distance[start:stop].double().cpu(), chosen, rtol=1e-5, atol=underflow)
