"""``dream-accel evaluate``: measures the test accuracy of networks trained on a distilled set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    EVALUATION,
    QUICK,
    THE_RUNS,
    DataDir,
    Dataset,
    Device,
    Download,
    Experiment,
    Factor,
    Mean,
    Quick,
    Std,
    normalization_of,
    option,
)
from .output import as_dict, print_accuracy, write_evaluations


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
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Train networks on a distilled set, test them on the real test set, print mean ± std of the last epoch."""
    from ..engine.splits import load_split
    from ..evaluation import evaluate as measure
    from ..formats import load
    from ..runtime.devices import find_device
    from .progress import watch

    result = load(run, dataset, factor=factor, normalization=normalization_of(mean, std), experiment=experiment)
    if quick:
        networks = QUICK["eval_networks"] if networks is None else networks
        epochs = QUICK["eval_epochs"] if epochs is None else epochs
    where = find_device(device)
    split = load_split(result.recipe, where, data_dir, download)
    total = (networks or result.recipe.eval_networks) * (epochs or result.recipe.eval_epochs)
    with watch("evaluating", total) as tick:
        evaluation = measure(
            result,
            split,
            networks=networks,
            epochs=epochs,
            seed=seed,
            device=where,
            on_epoch=tick,
            width=width,
            depth=depth,
        )
    if result.source is None:  # a run of this program; folders of other programs are left unchanged
        write_evaluations(run if run.is_dir() else run.parent, [{"name": run.name, **as_dict(evaluation)}])
    print_accuracy(evaluation)
