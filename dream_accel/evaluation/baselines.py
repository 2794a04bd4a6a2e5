"""Baselines: sets that a distilled set is compared with, evaluated under the same protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

from ..data import DataSplit
from ..engine.loop import distill
from ..errors import DreamAccelWarning, choices
from ..recipes.settings import Recipe
from ..results import Result
from .protocol import Evaluation, evaluate

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


def compare(result: Result, data: DataSplit, baselines: str, watch: Watch) -> list[Row]:
    """Evaluate a result and its baselines; every row trains the same networks in the same way.

    Args:
        result: a distilled set.
        data: the data set it was made from, on the device where the evaluation computes.
        baselines: one of :data:`BASELINES`.
        watch: opens a progress display.

    Returns:
        the rows of the table: the baselines, then the result.

    Raises:
        DreamAccelError: the choice of baselines is unknown.
        KeyboardInterrupt: Ctrl-C was pressed, also during a baseline's distillation. An interrupted baseline is
            discarded, since it would not be comparable.
    """
    if baselines not in BASELINES:
        raise choices("choice of baselines", baselines, BASELINES)
    recipe = result.recipe
    variants: list[tuple[str, dict[str, object]]] = []
    if baselines != "none":
        variants += [
            ("random real images", {"init": "random", "factor": 1, "iterations": 0}),
            ("K-Means-selected real images", {"init": "kmeans", "factor": 1, "iterations": 0}),
        ]
    if baselines == "all":
        variants += [
            ("distilled, random sampling from random initialisation", {"init": "random", "strategy": "random"})
        ]

    results = []
    for name, changes in variants:
        changed = replace(recipe, **changes)  # type: ignore[arg-type]
        doing = f"distilling: {name}" if changed.iterations else f"choosing {name}"
        with watch(doing, _steps(changed)) as tick, warnings.catch_warnings():
            # The distillation of the result itself has already given these warnings.
            warnings.simplefilter("ignore", DreamAccelWarning)
            baseline = distill(changed, data, device=data.train.device, on_step=tick)
        if baseline.interrupted:
            raise KeyboardInterrupt
        results.append((name, baseline))
    own = (
        f"distilled, {recipe.recipe.upper()}"
        if recipe.strategy == "dream"
        else f"distilled, {recipe.strategy} sampling"
    )
    results.append((own, result))

    rows = []
    for name, candidate in results:
        with watch(f"evaluating: {name}", recipe.eval_networks * recipe.eval_epochs) as tick:
            evaluation = evaluate(candidate, data, device=data.test.device, on_epoch=tick)
        rows.append(Row(name, evaluation, candidate.history[-1].seconds if candidate.history else 0.0))
    return rows


def _steps(recipe: Recipe) -> int:
    return recipe.iterations * recipe.inner_steps
