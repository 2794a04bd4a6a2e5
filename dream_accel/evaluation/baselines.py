"""Baselines: sets that a distilled set is compared with, evaluated under the same protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from ..data import DataSplit
from ..engine.compute import Compute
from ..engine.distill import distill
from ..engine.forgetting import check_forgetting
from ..engine.selection import select_rows
from ..errors import DivergenceError, DreamAccelWarning, counted
from ..recipes.settings import Recipe
from ..results import Result
from ..runtime.distributed import ALONE, Ranks
from ..sampling.selection import FORGETTING
from ..synthetic import SyntheticSet
from .contestants import Contestant, chosen_baselines, contestants
from .protocol import evaluate, evaluate_images
from .settings import Evaluation, Protocol

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


def compare(result: Result, data: DataSplit, baselines: str, watch: Watch, ranks: Ranks = ALONE) -> Iterator[Row]:
    """Evaluate a result and its baselines; every row trains the same networks in the same way.

    Networks train on the whole training set for ``real_epochs`` instead of ``eval_epochs``, in batches of the same
    size: ``eval_epochs`` over it would take thousands of times as many steps as over a few images per class, and as
    many steps as over these would leave the ceiling too low.

    Args:
        result: a distilled set.
        data: the data set it was made from, on the device where the evaluation computes.
        baselines: names joined by commas, as :func:`dream_accel.evaluation.contestants.chosen_baselines` takes them.
        watch: opens a progress display.
        ranks: the processes that share the work of each row; all of them take every row.

    Yields:
        the rows of the table as they are measured: the baselines, then the result; their names are those of
        :func:`row_names`, and say how far a baseline came that diverged.

    Raises:
        DreamAccelError: the choice of baselines is unknown.
        KeyboardInterrupt: Ctrl-C was pressed. If networks of a row had been tested by then, it is yielded before, with
            their accuracies alone. An interrupted distillation of a baseline is discarded, since it would not be
            comparable.
    """
    return _rows(result, data, contestants(result.recipe, baselines), watch, ranks)


def row_names(recipe: Recipe, baselines: str) -> list[str]:
    """The names of the rows of :func:`compare`, in order.

    Raises:
        DreamAccelError: the choice of baselines is unknown.
    """
    return [contestant.name for contestant in contestants(recipe, baselines)]


def check_baselines(baselines: str, data: DataSplit) -> None:
    """Refuse a choice of baselines that is unknown or cannot be made from a data set, before anything is computed.

    Raises:
        DreamAccelError: the choice is refused.
    """
    if FORGETTING in chosen_baselines(baselines):
        check_forgetting(data.train.n_classes)


def _rows(result: Result, data: DataSplit, rows: Sequence[Contestant], watch: Watch, ranks: Ranks) -> Iterator[Row]:
    for contestant in rows:
        name = contestant.name
        settings = contestant.recipe or result.recipe
        candidate = None if contestant.whole else _candidate(contestant, result, data, watch, ranks)
        seconds = 0.0
        if candidate is not None:
            if candidate is not result and candidate.diverged:
                name += f" (diverged after {counted(len(candidate.history), 'iteration')})"
            seconds = candidate.history[-1].seconds if candidate.history else 0.0
        tested: list[float] = []
        protocol = Protocol.of(settings, data.test.shape)
        try:
            with watch(f"evaluating: {name}", protocol.networks * protocol.epochs) as tick:
                if candidate is None:
                    evaluation = evaluate_images(
                        data.train.images,
                        data.train.labels,
                        data.test,
                        data.normalization,
                        protocol,
                        on_epoch=tick,
                        on_network=tested.append,
                        ranks=ranks,
                    )
                else:
                    where = data.test.device
                    evaluation = evaluate(
                        candidate, data, device=where, on_epoch=tick, on_network=tested.append, ranks=ranks
                    )
        except KeyboardInterrupt:
            if tested:
                yield Row(name, Evaluation(tuple(tested), protocol), seconds)
            raise
        yield Row(name, evaluation, seconds)


def _candidate(contestant: Contestant, result: Result, data: DataSplit, watch: Watch, ranks: Ranks) -> Result:
    """The set of a row: the result, real images chosen by a rule, or a run."""
    if contestant.recipe is None:
        return result
    if contestant.strategy is None:
        return _run(contestant.name, contestant.recipe, data, watch, ranks)
    return _selected(contestant.name, contestant.recipe, contestant.strategy, data, watch)


def _selected(name: str, recipe: Recipe, strategy: str, data: DataSplit, watch: Watch) -> Result:
    train = data.train
    with watch(f"choosing {name}", recipe.real_epochs if strategy == FORGETTING else 0) as tick:
        rows = select_rows(recipe, train, Compute.of(recipe, data), strategy, repeat=True, on_epoch=tick)
    return Result(SyntheticSet(train.batch(rows).cpu()), recipe, data.normalization, train.class_names)


def _run(name: str, recipe: Recipe, data: DataSplit, watch: Watch, ranks: Ranks) -> Result:
    doing = f"distilling: {name}" if recipe.iterations else f"choosing {name}"
    with watch(doing, recipe.iterations * recipe.inner_steps) as tick, warnings.catch_warnings():
        # The distillation of the result itself has already given these warnings.
        warnings.simplefilter("ignore", DreamAccelWarning)
        try:
            baseline = distill(recipe, data, device=data.train.device, on_step=tick, ranks=ranks)
        except DivergenceError as error:
            baseline = error.result
    if baseline.interrupted:
        raise KeyboardInterrupt
    return baseline
