"""``dream-accel evaluate``: measures the test accuracy of networks trained on a distilled set."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    EVALUATION,
    THE_RUNS,
    DataDir,
    Dataset,
    Device,
    Download,
    Experiment,
    Factor,
    Mean,
    Quick,
    SkipUnreadable,
    Std,
    named_network,
    normalization_of,
    option,
)
from .output import INTERRUPTED, Output, as_dict, print_accuracy, write_evaluations
from .recipe_options import QUICK


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a file or folder of another program's results.")],
    networks: Annotated[
        int | None, option(help="Networks trained from scratch.", panel=EVALUATION, default=THE_RUNS)
    ] = None,
    epochs: Annotated[
        int | None, option(help="Epochs over the synthetic set.", panel=EVALUATION, default=THE_RUNS)
    ] = None,
    network: Annotated[
        str | None,
        option(help="Network, or several joined by commas, as in distill.", panel=EVALUATION, default=THE_RUNS),
    ] = None,
    width: Annotated[
        int | None,
        option(help="Channels of every ConvNet block; 128: as published.", panel=EVALUATION, default=THE_RUNS),
    ] = None,
    depth: Annotated[int | None, option(help="Blocks of the ConvNet.", panel=EVALUATION, default=THE_RUNS)] = None,
    norm: Annotated[str | None, option(help="Norm of the network.", panel=EVALUATION, default=THE_RUNS)] = None,
    activation: Annotated[
        str | None, option(help="Activation of the network.", panel=EVALUATION, default=THE_RUNS)
    ] = None,
    pooling: Annotated[str | None, option(help="Pooling of the ConvNet.", panel=EVALUATION, default=THE_RUNS)] = None,
    seed: Annotated[
        int | None, option(help="Seed of networks and batches.", panel=EVALUATION, default=THE_RUNS)
    ] = None,
    dataset: Dataset = None,
    factor: Factor = None,
    mean: Mean = None,
    std: Std = None,
    experiment: Experiment = 0,
    skip_unreadable: SkipUnreadable = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Train networks on a distilled set, test them on the real test set, print mean ± std of the last epoch."""
    from ..engine.splits import load_split
    from ..evaluation import Row, evaluate_networks
    from ..formats import load
    from ..runtime.devices import find_device
    from ..runtime.distributed import launched_ranks
    from ..runtime.files import UnwritableError
    from ..runtime.folders import take_folder
    from .progress import unwatched, watch

    result = load(run, dataset, factor=factor, normalization=normalization_of(mean, std), experiment=experiment)
    if skip_unreadable:
        result = replace(result, recipe=replace(result.recipe, skip_unreadable=True))
    if quick:
        networks = QUICK["eval_networks"] if networks is None else networks
        epochs = QUICK["eval_epochs"] if epochs is None else epochs
    # A run of this program keeps its accuracies; folders of other programs are left unchanged.
    folder = None if result.source is not None else run if run.is_dir() else run.parent
    names = [name.strip() for name in named_network(result.recipe, network).split(",")]
    rows: list[Row] = []
    interrupted = False
    with ExitStack() as taken:
        ranks = taken.enter_context(launched_ranks())
        if not ranks.is_first:
            folder = None
        try:
            if folder is not None:
                taken.enter_context(take_folder(folder))
        except UnwritableError as error:
            print(f"note: the accuracy is printed, and kept elsewhere: {error}", file=sys.stderr)
        where = find_device(ranks.device(device))
        split = load_split(result.recipe, where, data_dir, download)
        output = None if folder is None else Output(folder)
        shown = watch if ranks.is_first else unwatched
        settings = {"networks": networks, "epochs": epochs, "seed": seed, "width": width, "depth": depth}
        layers = {"norm": norm, "activation": activation, "pooling": pooling}
        try:
            for row in evaluate_networks(result, split, names, shown, ranks, **settings, **layers):
                rows.append(row)
                if ranks.is_first:
                    print_accuracy(row.evaluation, row.name if len(names) > 1 else None)
                if output is not None:
                    line = {"name": run.name, **as_dict(row.evaluation)}
                    output.write("the accuracy is", partial(write_evaluations, lines=[line]))
        except KeyboardInterrupt:
            if not rows:
                raise
            interrupted = True
    if interrupted:
        left = [name for name in names if name not in {row.name for row in rows if row.evaluation.complete}]
        print(f"interrupted: not measured to the end: {', '.join(left)}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if output is not None and output.status:
        raise typer.Exit(output.status)
