"""Compute settings that all parts of a run share: device, numeric format, memory format, CUDA graphs."""

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
from ..runtime.devices import bf16_supported, device_errors
from ..runtime.distributed import ALONE, Ranks
from ..runtime.graphs import GraphedFunction
from .sharding import classes_of_rank

SMALLER = "free it for this run, lower clusters, batch, max_synthetic or network_batch, or run on another device"
"""Remedy for a run that does not fit the device."""


@dataclass(frozen=True)
class Compute:
    """The settings of the computation.

    Attributes:
        device: the device of every tensor of the run.
        normalization: applied to images before they enter a network.
        bf16: whether networks compute in bfloat16 by autocast.
        channels_last: whether images and networks are in the channels_last memory format.
        graphs: whether functions are recorded as CUDA graphs, if the device has them.
        classes: the classes that this process matches.
        ranks: the processes that share the classes.
        parts: divides the number of images that are computed at a time, where the device has too little memory.
    """

    device: torch.device
    normalization: Normalization
    bf16: bool
    channels_last: bool
    graphs: bool
    classes: range
    ranks: Ranks = ALONE
    parts: int = 1

    @classmethod
    def of(cls, recipe: Recipe, split: DataSplit, ranks: Ranks = ALONE, parts: int = 1) -> Compute:
        """Take the settings from a recipe, and device and normalisation from the data set.

        Raises:
            DreamAccelError: the recipe sets ``bf16`` and the device does not support it, or there are more ranks than
                classes.
        """
        device = split.train.device
        if recipe.bf16 and not bf16_supported(device):
            raise DreamAccelError(f"bf16 is on, and {device} has no bfloat16: leave bf16 off, or run elsewhere")
        classes = classes_of_rank(recipe, split.train, ranks)
        return cls(device, split.normalization, recipe.bf16, recipe.channels_last, recipe.graphs, classes, ranks, parts)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context of everything a run computes: the same seed gives the same bits, and full memory is refused.

        Raises:
            DreamAccelError: the device is out of memory.
        """
        with repeatable(self.device), device_errors(self.device, SMALLER):
            yield

    def autocast(self) -> torch.autocast:
        """Return the autocast context in which networks are called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def prepared(self, images: Tensor) -> Tensor:
        """Convert images (n, channels, H, W) in [0, 1] to what networks take: normalised, in the memory format."""
        images = self.normalization(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def placed(self, network: nn.Module) -> nn.Module:
        """Move the network to the device and the memory format."""
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def recorded(
        self,
        function: Callable[..., Any],
        in_place: Sequence[str],
        generators: Sequence[torch.Generator] = (),
        on_failure: str = "eager",
    ) -> GraphedFunction:
        """Wrap a function so that it runs as a CUDA graph, if graphs are on and the device has them.

        Args:
            function: a function of tensors, as :class:`dream_accel.runtime.graphs.GraphedFunction` takes it.
            in_place: names of keyword arguments that the graph uses directly, without a copy.
            generators: the random generators that the function draws from.
            on_failure: ``"eager"`` calls a function that cannot be recorded as it is, ``"raise"`` refuses.
        """
        return GraphedFunction(
            function, in_place=in_place, generators=generators, enabled=self.graphs, on_failure=on_failure
        )
