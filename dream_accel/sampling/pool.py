"""A seeded pool of every class, and the case that needs one: a network drawn anew for every step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import accumulate
from types import MethodType

import torch
from torch import Tensor, nn

from ..groups import random_rows
from ..networks.features import unwrap
from .blocks import ClassBlocks

POOL_BATCHES = 4
"""Size of the pool that is taken where nobody gave one, in batches of a class."""


class NetworkPerStep:
    """Recognises code that draws a network for every step.

    A network is another one if it is another module object; its wrappers (DataParallel, torch.compile) and its bound
    methods count as the module itself. Parameters are not compared: on a GPU every step would wait for the result, and
    a step of training cannot be told from loaded weights with certainty. Other callables tell nothing.
    """

    def __init__(self) -> None:
        self._last: weakref.ref[nn.Module] | None = None
        self._steps = 0

    def count(self, source: object) -> bool:
        """Count a step.

        Args:
            source: the network of the step, or a callable.

        Returns:
            whether its network is another one than that of the step before, which had that one step alone.
        """
        source = source.__self__ if isinstance(source, MethodType) else source
        if not isinstance(source, nn.Module):
            self._last, self._steps = None, 0
            return False
        network = unwrap(source)
        if self._last is not None and self._last() is network:
            self._steps += 1
            return False
        replaced_after_one = self._steps == 1
        self._last, self._steps = weakref.ref(network), 1
        return replaced_after_one

    def __reduce__(self) -> tuple[type[NetworkPerStep], tuple[()]]:
        # References to objects of this process mean nothing in a copy of another.
        return NetworkPerStep, ()


def pool_sizes(sizes: Sequence[int], size: int) -> list[int]:
    """The rows of every class that a pool of up to ``size`` rows of each has."""
    return [min(size, of_class) for of_class in sizes]


class Pools:
    """Draws pools of up to ``size`` rows of every class.

    Args:
        sizes: images of every class.
        size: rows of a pool, at least 1.
        device: of the rows.

    Attributes:
        offsets: (C+1,) int64, at which each class begins in a pool.
        blocks: of the classes of a pool.
    """

    def __init__(self, sizes: Sequence[int], size: int, device: torch.device) -> None:
        taken = pool_sizes(sizes, size)
        # Built on the host from sizes it knows, so that no draw waits for the device.
        self.offsets = torch.tensor([0, *accumulate(taken)], device=device)
        self.blocks = ClassBlocks(taken)
        self._places = torch.cat([torch.arange(n) + c * size for c, n in enumerate(taken)]).to(device)
        self._size = size
        self._total = sum(sizes)

    def draw(self, offsets: Tensor, seed: int) -> Tensor:
        """Draw distinct rows of every class.

        Args:
            offsets: (C+1,) int64, at which each class begins among all rows.
            seed: names the pool.

        Returns:
            (n,) int64 rows, class after class, each in ascending order: so a pool of all images is read as they are.
        """
        return random_rows(offsets, self._total, self._size, seed, "pool").flatten()[self._places].sort().values
