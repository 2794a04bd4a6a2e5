"""Gradients of a batch computed in parts, which several ranks share with the bits of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..runtime.distributed import ALONE, Ranks


@dataclass(frozen=True)
class BatchParts:
    """The parts into which a training batch is divided.

    The gradient of a batch is the sum of those of its parts, added in their order. One rank computes each part, and
    the images of a part do not depend on the number of ranks, so that number changes no bit. Ranks exchange the
    gradients of the parts through host memory, once per batch.

    Attributes:
        count: the number of parts, nearly equal; at 1 every rank computes the whole batch, and nothing is exchanged.
        ranks: the processes that share them, neighbouring parts to each.
    """

    count: int = 1
    ranks: Ranks = ALONE

    @property
    def exchanged(self) -> bool:
        """True if other ranks compute some of the parts."""
        return self.count > 1 and self.ranks.count > 1

    def own(self, n: int) -> list[slice]:
        """Return the rows of the parts that this rank computes, none of them empty.

        Args:
            n: images of the batch.
        """
        count = min(self.count, n)
        bounds = [n * part // count for part in range(count + 1)]
        return list(self.ranks.neighbours([slice(*pair) for pair in pairwise(bounds)]))

    def added(self, n: int, of_part: Callable[[slice], Sequence[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        """Return sums over all parts.

        Args:
            n: images of the batch.
            of_part: returns the tensors of the part with these rows.
            like: tensors of the same shapes, float32.

        Raises:
            LostRankError, StoppedRankError: as :meth:`dream_accel.runtime.distributed.Ranks.joined` does.
        """
        size = sum(each.numel() for each in like)
        own = [torch.cat([each.detach().flatten() for each in of_part(rows)]) for rows in self.own(n)]
        every = self.ranks.joined(torch.stack(own) if own else like[0].new_empty(0, size))
        total = every[0]
        for part in every[1:]:
            total = total + part
        pieces = total.split([each.numel() for each in like])
        return [piece.view(each.shape) for piece, each in zip(pieces, like, strict=True)]


WHOLE = BatchParts()
"""A batch in one part, computed by every rank."""
