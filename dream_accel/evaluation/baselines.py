"""Baselines: sets that a distilled set is compared with, evaluated under the same protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

from ..data import DataSplit
from ..engine.loop import distill
from ..errors import DivergenceError, DreamAccelWarning, choices, counted
from ..recipes.settings import Recipe
from ..results import Result
from .protocol import Evaluation, Protocol, evaluate

BASELINES = ("none", "real", "all")
"""``none``: no baseline. ``real``: real images, random and selected by K-Means. ``all``: also distillation with random
sampling from random initialisation, for the same number of steps."""

Tick = Callable[[], None]
"""Advances a progress display by one."""
Watch = Callable[[str, int], AbstractContextManager[Tick]]
"""``(name, total)`` to a context manager that shows a progress display of ``total`` ticks and yields its tick."""


class Row(NamedTuple):
    """One row of the accuracy table.

    Attributes:
        name: the set that was evaluated.
        evaluation: its test accuracies.
        seconds: duration of its distillation; 0 if nothing was distilled.
    """

    name: str
    evaluation: Evaluation
    seconds: float


def compare(result: Result, data: DataSplit, baselines: str, watch: Watch) -> Iterator[Row]:
    """Evaluate a result and its baselines; every row trains the same networks in the same way.

    Args:
        result: a distilled set.
        data: the data set it was made from, on the device where the evaluation computes.
        baselines: one of :data:`BASELINES`.
        watch: opens a progress display.

    Yields:
        the rows of the table as they are measured: the baselines, then the result; their names are those of
        :func:`row_names`, and say how far a baseline came that diverged.

    Raises:
        DreamAccelError: the choice of baselines is unknown.
        KeyboardInterrupt: Ctrl-C was pressed. If networks of a row had been tested by then, it is yielded before, with
            their accuracies alone. An interrupted distillation of a baseline is discarded, since it would not be
            comparable.
    """
    return _rows(result, data, _contestants(result.recipe, baselines), watch)


def row_names(recipe: Recipe, baselines: str) -> list[str]:
    """The names of the rows of :func:`compare`, in order.

    Raises:
        DreamAccelError: the choice of baselines is unknown.
    """
    return [name for name, _ in _contestants(recipe, baselines)]


def _contestants(recipe: Recipe, baselines: str) -> list[tuple[str, Recipe | None]]:
    """Name and recipe of every row; None for the result itself."""
    if baselines not in BASELINES:
        raise choices("choice of baselines", baselines, BASELINES)
    found: list[tuple[str, Recipe | None]] = []
    if baselines != "none":
        found += [
            ("random real images", replace(recipe, init="random", factor=1, iterations=0)),
            ("K-Means-selected real images", replace(recipe, init="kmeans", factor=1, iterations=0)),
        ]
    if baselines == "all" and recipe.experts:
        # The strategy is that of the experts, which are given.
        if recipe.init != "random":
            found += [("distilled from random initialisation", replace(recipe, init="random"))]
    elif baselines == "all":
        random = replace(recipe, init="random", strategy="random")
        found += [("distilled, random sampling from random initialisation", random)]
    own = recipe.recipe.upper() if recipe.strategy == "dream" or recipe.experts else f"{recipe.strategy} sampling"
    return [*found, (f"distilled, {own}", None)]


def _rows(
    result: Result, data: DataSplit, contestants: Sequence[tuple[str, Recipe | None]], watch: Watch
) -> Iterator[Row]:
    recipe = result.recipe
    for name, changed in contestants:
        candidate = result if changed is None else _baseline(name, changed, data, watch)
        if changed is not None and candidate.diverged:
            name += f" (diverged after {counted(len(candidate.history), 'iteration')})"
        seconds = candidate.history[-1].seconds if candidate.history else 0.0
        tested: list[float] = []
        try:
            with watch(f"evaluating: {name}", recipe.eval_networks * recipe.eval_epochs) as tick:
                evaluation = evaluate(candidate, data, device=data.test.device, on_epoch=tick, on_network=tested.append)
        except KeyboardInterrupt:
            if tested:
                yield Row(name, Evaluation(tuple(tested), Protocol.of(candidate.recipe, data.test.shape)), seconds)
            raise
        yield Row(name, evaluation, seconds)


def _baseline(name: str, recipe: Recipe, data: DataSplit, watch: Watch) -> Result:
    doing = f"distilling: {name}" if recipe.iterations else f"choosing {name}"
    with watch(doing, recipe.iterations * recipe.inner_steps) as tick, warnings.catch_warnings():
        # The distillation of the result itself has already given these warnings.
        warnings.simplefilter("ignore", DreamAccelWarning)
        try:
            baseline = distill(recipe, data, device=data.train.device, on_step=tick)
        except DivergenceError as error:
            baseline = error.result
    if baseline.interrupted:
        raise KeyboardInterrupt
    return baseline
