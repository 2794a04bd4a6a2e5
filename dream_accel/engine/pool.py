"""Pool of networks: states along a few training trajectories, with their picks and the real side of matching steps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..errors import DreamAccelError
from ..matching.objective import Target, map_tensors
from ..matching.step import MatchingStep
from ..random import Streams, derive_seed
from ..recipes.settings import Recipe
from ..sampling import RepresentativeSampler
from .compute import Compute
from .pool_store import StoredPool, named

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Formats of stored targets by the name that recipes use."""


@dataclass
class State:
    """One network of the pool.

    Attributes:
        tensors: parameters and buffers, in the order of the network's ``state_dict``.
        picks: (C, n) int64, the real images picked in its features; None if the strategy reads no features.
        real: targets and augmentations by the number of the draw, as far as they have been computed.
    """

    tensors: list[Tensor]
    picks: Tensor | None
    real: dict[int, tuple[Target, Tensor]] = field(default_factory=dict)


class NetworkPool:
    """States of one network, the real images that a strategy picks in their features, and the targets of these images.

    All of it depends on the real images alone, so it is computed once: states and picks when a trajectory is trained,
    targets when they are first asked for. Everything is on the network's device. Trajectories of a stored pool are not
    computed but read from there, one entry at a time.

    Args:
        recipe: the settings of the pool.
        train: the real images.
        network: the network that states are taken from and loaded into, in place.
        sampler: picks the real images.
        matching: computes targets.
        compute: numeric format and recording.
        stored: a pool of the same settings on disk; None if there is none.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        network: nn.Module,
        sampler: RepresentativeSampler,
        matching: MatchingStep,
        compute: Compute,
        stored: StoredPool | None = None,
    ) -> None:
        self.network = network
        self.stored = stored
        self._recipe = recipe
        self._train = train
        self._sampler = sampler
        self._matching = matching
        self._compute = compute
        self._dtype = DTYPES[recipe.pool_dtype]
        self._trajectories: dict[int, list[State]] = {}
        self._of_picks = compute.recorded(self._target_of_picks, ("images",))

    def __contains__(self, number: int) -> bool:
        """Return whether all states of a trajectory are kept, or in the stored pool."""
        return self._is_whole(number) or (self.stored is not None and number in self.stored)

    def __len__(self) -> int:
        """Return the number of states in memory."""
        return sum(map(len, self._trajectories.values()))

    def keep_only(self, numbers: Collection[int]) -> None:
        """Forget all other trajectories, and those that were interrupted."""
        self._trajectories = {
            number: states
            for number, states in self._trajectories.items()
            if number in numbers and self._is_whole(number)
        }
        if self.stored is not None:
            self.stored.keep_only(numbers)

    def add(self, number: int) -> None:
        """Add the network as it is as the next state of a trajectory, with the picks in its features.

        Picks are renewed every ``interval`` states.

        Raises:
            DreamAccelError: the whole pool would take more than ``pool_memory``.
        """
        states = self._trajectories.setdefault(number, [])
        picks: Tensor | None = None
        if self._sampler.strategy.needs_features:
            if len(states) % self._recipe.interval == 0:
                self._sampler.restart("trajectory", number, len(states))
                self._sampler.refresh(self.network)
                picks = self._sampler.indices
            else:
                picks = states[-1].picks
        states.append(State([tensor.clone() for tensor in self.network.state_dict().values()], picks))
        if len(self) == 1:
            self._check_memory(number)

    def load(self, number: int, stage: int) -> None:
        """Set the network to a state, and the sampler to its picks; a strategy without features draws new ones."""
        state = self._trajectories[number][stage]
        self._load_network(state.tensors)
        if state.picks is None:
            self._sampler.update()
        else:
            self._sampler.indices = state.picks

    def target(self, number: int, stage: int, draw: int) -> tuple[Target, Tensor]:
        """Set the network to a state, and return the real side of a step through it.

        Args:
            number: the trajectory.
            stage: the state of it, from 0.
            draw: the number of the augmentation draw, from 0.

        Returns:
            the target of all classes, float32, and the augmentations (C, k) it was computed with.
        """
        device = self._compute.device
        if number not in self._trajectories and self.stored is not None:
            self._load_network(self.stored.state(number, stage))
            target, augmentations = self.stored.real(number, stage, draw)
            own = slice(self._matching.classes.start, self._matching.classes.stop)
            return map_tensors(lambda tensor: tensor[own].to(device).float(), target), augmentations[own].to(device)
        state = self._trajectories[number][stage]
        self._load_network(state.tensors)
        if draw not in state.real:
            state.real[draw] = self._compute_target(state, number, stage, draw)
        target, augmentations = state.real[draw]
        return map_tensors(lambda tensor: tensor.float(), target), augmentations

    def entries(self, number: int, on_entry: Callable[[], None]) -> dict[str, Tensor]:
        """Compute all targets of a trajectory in memory, and return everything that is stored of it, by name.

        Args:
            number: the trajectory, all states of which are in memory.
            on_entry: called after every target.

        Returns:
            contiguous tensors on the CPU, under the names that :class:`.pool_store.StoredPool` reads.
        """
        found: dict[str, Tensor] = {}
        for stage, state in enumerate(self._trajectories[number]):
            found |= named(f"state.{stage}", state.tensors)
            if state.picks is not None:
                found[f"picks.{stage}"] = state.picks.cpu().clone()  # several states share them
            for draw in range(self._recipe.draws):
                self.target(number, stage, draw)
                target, augmentations = state.real[draw]
                found |= named(f"target.{stage}.{draw}", target)
                found[f"augmentations.{stage}.{draw}"] = augmentations.cpu()
                on_entry()
        return found

    def _is_whole(self, number: int) -> bool:
        return len(self._trajectories.get(number, ())) == self._recipe.stages

    def _load_network(self, tensors: list[Tensor]) -> None:
        own = list(self.network.state_dict().values())
        if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in own]:
            assert self.stored is not None
            raise DreamAccelError(
                f"the pool in {self.stored.folder} has states of other shapes than the network of this run, whose code "
                "has changed since: fill another pool with it"
            )
        with torch.no_grad():
            torch._foreach_copy_(own, tensors)

    def _compute_target(self, state: State, *keys: int) -> tuple[Target, Tensor]:
        seed, device = self._recipe.seed, self._compute.device
        classes = self._sampler.classes
        draws = Streams(len(classes), device)
        draws.restart([derive_seed(seed, "pool", c, *keys) for c in classes])
        augmentations = self._matching.draw_augmentations(draws)
        if self._recipe.real_batch == "class":
            target = self._target_of_classes(augmentations)
        else:
            picks = state.picks
            if picks is None:
                self._sampler.restart("pool", *keys)
                self._sampler.update()
                picks = self._sampler.indices
            target = self._of_picks(picks, augmentations, images=self._sampler.images)
        # In the memory format of a file, so that a pool on disk has the same bits.
        kept = partial(torch.Tensor.to, dtype=self._dtype, copy=True, memory_format=torch.contiguous_format)
        return map_tensors(kept, target), augmentations

    def _target_of_picks(self, picks: Tensor, augmentations: Tensor, *, images: Tensor) -> Target:
        with self._compute.autocast():
            return self._matching.target(self.network, images, picks, augmentations)

    def _target_of_classes(self, augmentations: Tensor) -> Target:
        """The mean of the targets of all images of every class, in chunks of about a batch."""
        targets = []
        for c, rows in enumerate(self._rows_of_classes[self._matching.classes.start : self._matching.classes.stop]):
            parts = rows.split(self._sampler.batch_size)
            with self._compute.autocast():
                found = [
                    self._matching.target_of_class(self.network, self._train.images, part, augmentations, c)
                    for part in parts
                ]
            weights = [len(part) / len(rows) for part in parts]
            targets.append(map_tensors(partial(_weighted_sum, weights), *found))
        return map_tensors(lambda *of_classes: torch.cat(of_classes), *targets)

    @cached_property
    def _rows_of_classes(self) -> tuple[Tensor, ...]:
        # Asked for once, because reading the sizes of the classes waits for the device.
        order, offsets = self._train.by_class()
        return order.split(offsets.diff().tolist())

    def _check_memory(self, number: int) -> None:
        recipe, state = self._recipe, self._trajectories[number][0]
        each = size_in_bytes([state.tensors, [] if state.picks is None else [state.picks]])
        if recipe.real == "cached":
            self.target(number, 0, 0)
            each += recipe.draws * size_in_bytes(state.real[0][0])
        # Stored trajectories are not in memory.
        stored = () if self.stored is None else self.stored
        count = max(1, sum(i not in stored for i in range(recipe.trajectories))) * recipe.stages
        if count * each > recipe.pool_memory * 1e9:
            raise DreamAccelError(
                f"a pool of {count} networks takes {count * each / 1e9:.3g} GB, and pool_memory is "
                f"{recipe.pool_memory:g}: lower trajectories, stages or draws, store it as bf16, or raise pool_memory"
            )


def _weighted_sum(weights: list[float], *tensors: Tensor) -> Tensor:
    return torch.stack([weight * tensor.float() for weight, tensor in zip(weights, tensors, strict=True)]).sum(dim=0)


def size_in_bytes(target: Target) -> int:
    """The bytes of all tensors of a nested list."""
    return sum(part.nbytes if isinstance(part, Tensor) else size_in_bytes(part) for part in target)
