"""Division of a batch into groups fitted on their Gram matrices and groups fitted on their rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..groups import as_offsets
from . import gram
from .lloyd import fit_groups, graphed_fit
from .seeding import Start
from .settings import Fit, LloydSettings


def fit_batch(
    x: Tensor, offsets: Tensor, start: Start, settings: LloydSettings, bounds: Sequence[int] | None, cuda_graph: bool
) -> Fit:
    """Fit every group in the way that its own size determines.

    ``bounds`` are the offsets on the host. Without them no group is fitted on its Gram matrix, because reading the
    sizes of groups from the device would synchronise. A batch that holds groups of both kinds is fitted in two parts.
    """
    run = graphed_fit() if cuda_graph else fit_groups
    known = bounds is not None and x.dtype != torch.float64
    sizes = [stop - start for start, stop in pairwise(bounds or [])] if known else []
    small = [g for g, size in enumerate(sizes) if gram.serves(size, x.shape[1], settings)]
    if not small:
        return run(offsets, start, settings, x=x)
    width = -(-max(sizes[g] for g in small) // gram.WIDTH) * gram.WIDTH
    large = [g for g in range(len(sizes)) if g not in set(small) and sizes[g] > 0]
    if not large:
        return run(offsets, start, settings, width, x=x)

    assert bounds is not None
    parts = [_Part(sorted({*range(len(sizes))} - set(small)), bounds, x.device), _Part(small, bounds, x.device)]
    fits = [
        run(part.offsets, part.start(start), settings, part_width, x=x[part.rows])
        for part, part_width in zip(parts, (None, width), strict=True)
    ]
    return _joined(fits, parts)


def host_bounds(offsets: Any, n_rows: int, check: bool) -> list[int] | None:
    """The offsets as a list on the host; None where reading them would synchronise and ``check`` is False."""
    if offsets is None:
        return [0, n_rows]
    offsets = as_offsets(offsets, n_rows, torch.device("cpu"), check) if check else torch.as_tensor(offsets)
    return offsets.tolist() if offsets.device.type == "cpu" else None


class _Part:
    """Some groups of a batch as a batch of their own."""

    def __init__(self, groups: Sequence[int], bounds: Sequence[int], device: torch.device) -> None:
        sizes = [0, *(bounds[g + 1] - bounds[g] for g in groups)]
        rows = [torch.arange(bounds[g], bounds[g + 1]) for g in groups]
        self.groups = torch.tensor(groups, dtype=torch.int64).to(device, non_blocking=True)
        self.offsets = torch.tensor(sizes).cumsum(0).to(device, non_blocking=True)
        self.rows = torch.cat(rows).to(device, non_blocking=True)

    def start(self, whole: Start) -> Start:
        labels = None if whole.labels is None else whole.labels[self.rows]
        centroids = None if whole.centroids is None else whole.centroids[self.groups]
        return whole._replace(labels=labels, centroids=centroids)


def _joined(fits: Sequence[Fit], parts: Sequence[_Part]) -> Fit:
    results = []
    for name, *pieces in zip(Fit._fields, *fits, strict=True):
        places = [part.rows if name == "labels" else part.groups for part in parts]
        order = torch.argsort(torch.cat(places))
        results.append(torch.cat(pieces)[order])
    return Fit(*results)
