"""Pool of networks: states kept along a few training trajectories on real images, with the picks of each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..sampling import RepresentativeSampler


class NetworkPool:
    """States of one network and the real images that a strategy picks in their features.

    Both depend on the real images alone, so they are computed once. Everything is on the network's device: a state
    takes the memory of the network, the picks 8 bytes per image.

    Args:
        network: the network that states are taken from and loaded into, in place.
        sampler: picks the real images.
    """

    def __init__(self, network: nn.Module, sampler: RepresentativeSampler) -> None:
        self.network = network
        self.sampler = sampler
        self._states: list[list[Tensor]] = []
        self._picks: list[Tensor | None] = []

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self._states)

    def keep(self, *keys: object) -> None:
        """Add the network as it is, with the picks in its features.

        Args:
            keys: name the random streams of the picks.
        """
        self._states.append([tensor.clone() for tensor in self._tensors()])
        if not self.sampler.strategy.needs_features:
            self._picks.append(None)
            return
        self.sampler.restart(*keys)
        self.sampler.refresh(self.network)
        self._picks.append(self.sampler.indices)

    def truncate(self, count: int) -> None:
        """Forget all states but the first ``count``."""
        del self._states[count:], self._picks[count:]

    def load(self, entry: int) -> None:
        """Set the network to a state, and the sampler to its picks; a strategy without features draws new ones.

        Args:
            entry: the number of the state, from 0 in the order of :meth:`keep`.
        """
        torch._foreach_copy_(list(self._tensors()), self._states[entry])
        picks = self._picks[entry]
        if picks is None:
            self.sampler.update()
        else:
            self.sampler.indices = picks

    @torch.no_grad()
    def _tensors(self) -> Iterable[Tensor]:
        return self.network.state_dict().values()
