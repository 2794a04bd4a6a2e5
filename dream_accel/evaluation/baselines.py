"""What a distilled set must be better than, under the same protocol."""

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
"""``real``: real images, random and selected by K-Means. ``all``: also distillation with random sampling from random
initialisation, for the same number of steps."""

Tick = Callable[[], None]
Watch = Callable[[str, int], AbstractContextManager[Tick]]
"""Opens a progress display for something named, of so many ticks."""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    evaluation: Evaluation
    seconds: float
    """of distillation; 0 where nothing was distilled."""


def compare(result: Result, data: DataSplit, baselines: str, watch: Watch) -> list[Row]:
    """Evaluate a result and its baselines; every row trains the same networks in the same way.

    Args:
        result: a distilled set.
        data: the data set it was made from, on the device where everything shall run.
        baselines: ``"none"``, ``"real"`` or ``"all"``.
        watch: opens a progress display.

    Raises:
        DreamAccelError: an unknown choice of baselines.
        KeyboardInterrupt: Ctrl-C, also where it ended a baseline's distillation: half a rival is no rival.
    """
    if baselines not in BASELINES:
        raise choices("choice of baselines", baselines, BASELINES)
    recipe = result.recipe
    rivals: list[tuple[str, dict[str, object]]] = []
    if baselines != "none":
        rivals += [
            ("random real images", {"init": "random", "factor": 1, "iterations": 0}),
            ("K-Means-selected real images", {"init": "kmeans", "factor": 1, "iterations": 0}),
        ]
    if baselines == "all":
        rivals += [("distilled, random sampling from random initialisation", {"init": "random", "strategy": "random"})]

    results = []
    for name, changes in rivals:
        changed = replace(recipe, **changes)  # type: ignore[arg-type]
        doing = f"distilling: {name}" if changed.iterations else f"choosing {name}"
        with watch(doing, _steps(changed)) as tick, warnings.catch_warnings():
            # What there is to note about the data was noted when the result itself was distilled.
            warnings.simplefilter("ignore", DreamAccelWarning)
            rival = distill(changed, data, device=data.train.device, on_step=tick)
        if rival.interrupted:
            raise KeyboardInterrupt
        results.append((name, rival))
    own = (
        f"distilled, {recipe.recipe.upper()}"
        if recipe.strategy == "dream"
        else f"distilled, {recipe.strategy} sampling"
    )
    results.append((own, result))

    rows = []
    for name, rival in results:
        with watch(f"evaluating: {name}", recipe.eval_networks * recipe.eval_epochs) as tick:
            evaluation = evaluate(rival, data, device=data.test.device, on_epoch=tick)
        rows.append(Row(name, evaluation, rival.history[-1].seconds if rival.history else 0.0))
    return rows


def _steps(recipe: Recipe) -> int:
    return recipe.iterations * recipe.inner_steps
