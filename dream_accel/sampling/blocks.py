"""Blocks of classes that are embedded and clustered at a time, so that their features fit a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

FEATURE_BYTES = 1 << 30
"""Most bytes of the float32 features of a block, unless one class alone has more."""
_WIDEST = 8192


class ClassBlocks:
    """Computes something of every class from its features, for as many classes at a time as the budget allows.

    What a class gets does not depend on the classes it is computed with, so neither do blocks change it. The size of a
    feature is known after the first block, which is therefore a single class where all of them might not fit.

    Args:
        sizes: rows of every class; these are numbers of the host, so that no block waits for the device.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._ends = [0, *accumulate(self._sizes)]
        self._width: int | None = None

    def map(self, rows: Tensor, offsets: Tensor, call: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> Tensor:
        """Call a function for every block and join what it gives.

        Args:
            rows: (N,) the rows of all classes, class after class.
            offsets: (C+1,) int64, at which each class begins among them.
            call: takes rows and offsets of a block; returns (classes, ...) results and the number D of features.

        Returns:
            (C, ...) the results of all classes.
        """
        found = []
        for first, stop in self._blocks():
            own, within = rows[self._ends[first] : self._ends[stop]], offsets[first : stop + 1]
            part, self._width = call(own, within if first == 0 else within - offsets[first])
            found.append(part)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        first, n_classes = 0, len(self._sizes)
        while first < n_classes:
            most = FEATURE_BYTES // (4 * (self._width or _WIDEST))
            stop = first + 1
            if self._width is not None or self._ends[-1] <= most:
                while stop < n_classes and self._ends[stop + 1] - self._ends[first] <= most:
                    stop += 1
            yield first, stop
            first = stop
