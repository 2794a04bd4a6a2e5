"""One result evaluated on several networks: the cross-architecture table of the field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..data import DataSplit
from ..networks import make_network
from ..results import Result
from ..runtime.distributed import ALONE, Ranks
from .baselines import Row, Watch
from .protocol import evaluate
from .settings import Evaluation, Protocol


def evaluate_networks(
    result: Result, data: DataSplit, names: Sequence[str], watch: Watch, ranks: Ranks = ALONE, **protocol: Any
) -> Iterator[Row]:
    """Evaluate a result on several networks, each trained and tested under the same protocol.

    All of them are made once before the first is trained, so that one that does not fit is refused before any work.

    Args:
        result: a distilled set.
        data: the data set it was made from, on the device where the evaluation computes.
        names: networks by name or import path, as :func:`dream_accel.networks.make_network` takes them.
        watch: opens a progress display.
        ranks: the processes that share the networks of a row.
        protocol: other fields of :class:`Protocol` to override; None keeps the recipe's value.

    Yields:
        one row per network, named after it, as soon as it is measured.

    Raises:
        DreamAccelError: a network is unknown, does not fit the images or does not read a setting.
        KeyboardInterrupt: Ctrl-C was pressed. If networks of a row had been tested by then, it is yielded before, with
            their accuracies alone.
    """
    shape, settings = data.test.shape, dict[str, Protocol]()
    for name in names:
        one = settings[name] = Protocol.of(result.recipe, shape, **{**protocol, "network": name})
        one.check()
        make_network(name, shape, data.test.n_classes, one.width, one.depth, one.seed, **one.layer_kinds)
    for name, one in settings.items():
        tested: list[float] = []
        try:
            with watch(f"evaluating: {name}", one.networks * one.epochs) as tick:
                evaluation = evaluate(
                    result,
                    data,
                    device=data.test.device,
                    on_epoch=tick,
                    on_network=tested.append,
                    ranks=ranks,
                    **{**protocol, "network": name},
                )
        except KeyboardInterrupt:
            if tested:
                yield Row(name, Evaluation(tuple(tested), one), 0.0)
            raise
        yield Row(name, evaluation, 0.0)
