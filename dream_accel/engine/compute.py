"""The numeric format, memory format and recording that all parts of a run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSplit, Normalization
from ..errors import DreamAccelError
from ..recipes.settings import Recipe
from ..runtime.determinism import repeatable
from ..runtime.devices import bf16_supported, memory_needed
from ..runtime.graphs import GraphedFunction

SMALLER = "free it for this run, lower clusters, batch, max_synthetic or network_batch, or run on another device"
"""What to do where a run does not fit."""


@dataclass(frozen=True)
class Compute:
    """Settings of the computation.

    Attributes:
        device: of every tensor of the run.
        normalization: applied to images before a network sees them.
        bf16: networks compute in bfloat16 by autocast.
        channels_last: memory format of images and networks.
        graphs: functions are recorded as CUDA graphs.
    """

    device: torch.device
    normalization: Normalization
    bf16: bool
    channels_last: bool
    graphs: bool

    @classmethod
    def of(cls, recipe: Recipe, split: DataSplit) -> Compute:
        """What a recipe asks for, on the device of the data set.

        Raises:
            DreamAccelError: bfloat16 on a device that has none.
        """
        device = split.train.device
        if recipe.bf16 and not bf16_supported(device):
            raise DreamAccelError(f"bf16 is on, and {device} has no bfloat16: leave bf16 off, or run elsewhere")
        return cls(device, split.normalization, recipe.bf16, recipe.channels_last, recipe.graphs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context of everything a run computes: the same seed gives the same bits, and full memory is refused.

        Raises:
            DreamAccelError: the device is out of memory.
        """
        with repeatable(self.device), memory_needed(self.device, SMALLER):
            yield

    def autocast(self) -> torch.autocast:
        """The context in which networks are called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def prepared(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as networks take them: normalised, in the memory format."""
        images = self.normalization(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def placed(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the memory format."""
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def recorded(
        self,
        function: Callable[..., Any],
        in_place: Sequence[str],
        generators: Sequence[torch.Generator] = (),
        on_failure: str = "eager",
    ) -> GraphedFunction:
        """The function recorded as a CUDA graph and replayed, where graphs are on and the device has them.

        Arguments as of :class:`dream_accel.runtime.graphs.GraphedFunction`.
        """
        return GraphedFunction(
            function, in_place=in_place, generators=generators, enabled=self.graphs, on_failure=on_failure
        )
