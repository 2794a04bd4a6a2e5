"""``dream-accel evaluate``: measures the test accuracy of networks trained on a distilled set."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
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
    width: Annotated[int | None, option(help="Channels of every block.", panel=EVALUATION, default=THE_RUNS)] = None,
    depth: Annotated[int | None, option(help="Blocks of the network.", panel=EVALUATION, default=THE_RUNS)] = None,
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
    from ..evaluation import Evaluation, Protocol
    from ..evaluation import evaluate as measure
    from ..formats import load
    from ..runtime.devices import find_device
    from ..runtime.files import UnwritableError
    from ..runtime.folders import take_folder
    from .progress import watch

    result = load(run, dataset, factor=factor, normalization=normalization_of(mean, std), experiment=experiment)
    if skip_unreadable:
        result = replace(result, recipe=replace(result.recipe, skip_unreadable=True))
    if quick:
        networks = QUICK["eval_networks"] if networks is None else networks
        epochs = QUICK["eval_epochs"] if epochs is None else epochs
    # A run of this program keeps its accuracies; folders of other programs are left unchanged.
    folder = None if result.source is not None else run if run.is_dir() else run.parent
    tested: list[float] = []
    interrupted = False
    with ExitStack() as taken:
        try:
            if folder is not None:
                taken.enter_context(take_folder(folder))
        except UnwritableError as error:
            print(f"note: the accuracy is printed, and kept elsewhere: {error}", file=sys.stderr)
        where = find_device(device)
        split = load_split(result.recipe, where, data_dir, download)
        protocol = {"networks": networks, "epochs": epochs, "seed": seed, "width": width, "depth": depth}
        total = (networks or result.recipe.eval_networks) * (epochs or result.recipe.eval_epochs)
        try:
            with watch("evaluating", total) as tick:
                evaluation = measure(
                    result,
                    split,
                    device=where,
                    on_epoch=tick,
                    on_network=tested.append,
                    **protocol,  # type: ignore[arg-type]
                )
        except KeyboardInterrupt:
            if not tested:
                raise
            interrupted = True
            given = {name: value for name, value in protocol.items() if value is not None}
            settings = replace(Protocol.of(result.recipe, split.test.shape), **given)  # type: ignore[arg-type]
            evaluation = Evaluation(tuple(tested), settings)
        print_accuracy(evaluation)
        status = 0
        if folder is not None:
            output = Output(folder)
            line = {"name": run.name, **as_dict(evaluation)}
            output.write("the accuracy is", lambda place: write_evaluations(place, [line]))
            status = output.status
    if interrupted:
        print(f"interrupted: {len(tested)} of {settings.networks} networks were tested", file=sys.stderr)
        status = INTERRUPTED
    if status:
        raise typer.Exit(status)
