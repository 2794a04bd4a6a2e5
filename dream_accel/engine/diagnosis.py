"""Diagnosis of a run that diverged: repeats the iteration to find where values first stop being finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import DataSplit
from ..errors import DreamAccelError
from ..matching.objective import Match, Objective, Target
from ..matching.trajectories import TrajectoryMatching
from ..recipes import RECIPES, Recipe
from .assembly import assemble
from .stored_run import Checkpoint


def first_fault(recipe: Recipe, split: DataSplit, state: Checkpoint, parts: int) -> str | None:
    """Repeat the iteration after a state, looking at every value, and describe the first that is NaN or Inf.

    A loop that looked at every value would wait for the device in every step. So a run looks after each outer
    iteration, and this function finds the place afterwards, at the price of one iteration.

    Args:
        recipe: the settings of the run, with everything decided.
        split: its data set.
        state: the state before the iteration.
        parts: as in :func:`.assembly.assemble`.

    Returns:
        step, class and layer in words; None if the repetition has only finite values.
    """
    objective = RECIPES[recipe.recipe].objective(recipe)
    assert not isinstance(objective, TrajectoryMatching)
    watch = _Watch(objective, split.train.class_names)
    try:
        distiller = assemble(replace(recipe, graphs=False), split, state, parts=parts, watch=watch)
        distiller.outer_iteration(len(state.history), watch.count)
    except _FaultError as fault:
        return str(fault)
    except DreamAccelError:
        return None
    return None


class _FaultError(Exception):
    """Ends the repetition; its text says where."""


class _Watch:
    """Looks at networks, gradients or features, and distances, in the order in which they are computed."""

    def __init__(self, objective: Objective, class_names: tuple[str, ...]) -> None:
        self._objective = objective
        self._class_names = class_names
        self._step = 1

    def count(self) -> None:
        self._step += 1

    def __call__(self, network: nn.Module, classes: range, target: Target, match: Match) -> None:
        for name, parameter in network.named_parameters():
            if not parameter.isfinite().all():
                raise _FaultError(f"first in step {self._step} of the iteration, in {name} of the network")
        kinds = (("real", list(_leaves(target))), ("synthetic", match.outputs))
        for side, tensors in kinds:
            for layer, tensor in zip(self._layers(network), tensors, strict=False):
                self._look(classes, tensor, f"in the {side} images' {layer}")
        self._look(classes, match.distance, "in the distance")

    def _layers(self, network: nn.Module) -> Iterator[str]:
        yield from (f"gradient of {name}" for name in self._objective.parameters(network))
        while True:
            yield "features"

    def _look(self, classes: range, tensor: Tensor, what: str) -> None:
        bad = ~tensor.detach().reshape(len(classes), -1).isfinite().all(dim=1)
        if bad.any():
            c = classes[int(torch.nonzero(bad)[0])]
            raise _FaultError(f"first in step {self._step} of the iteration, class {self._class_names[c]!r}, {what}")


def _leaves(target: Target) -> Iterator[Tensor]:
    for part in target:
        if isinstance(part, Tensor):
            yield part
        else:
            yield from _leaves(part)
