"""The command line: ``dream-accel distill | evaluate | select | convert | bench | doctor``.

The options of a recipe are derived from :class:`dream_accel.Recipe`, so a setting added there is a flag here.
"""

from __future__ import annotations

import csv
import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.command import app as bench
from ..errors import DreamAccelError, DreamAccelWarning, choices
from ..recipes import Recipe, recipe
from .convert import convert
from .options import (
    DataDir,
    Dataset,
    Device,
    Download,
    Experiment,
    Factor,
    Mean,
    Overwrite,
    Quick,
    Std,
    normalization_of,
    with_recipe,
)
from .output import (
    EVALUATIONS_FILE,
    as_dict,
    make_folder,
    output_folder,
    print_table,
    say_how_it_went,
    write_evaluations,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(bench, name="bench")
app.command()(convert)

QUICK: dict[str, Any] = {
    "limit_train": 200,
    "clusters": 8,
    "iterations": 1,
    "inner_steps": 2,
    "width": 8,
    "network_images": 64,
    "eval_epochs": 5,
    "eval_networks": 1,
}
"""What ``--quick`` changes: everything still runs, on little data."""


def main() -> None:
    """Run the command line; a refusal is one sentence on standard error and exit status 2."""
    warnings.formatwarning = _format_warning
    try:
        app()
    except DreamAccelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@app.command()
@with_recipe
def distill(
    settings: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: a new one under runs/]")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same bits.")] = False,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="Also evaluate: none; real (random and K-Means-selected real images); all (and distillation with "
            "random sampling). [default: all for digits, else none]",
            show_default=False,
        ),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Train and test networks at the end.")] = True,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Distil a data set into a few synthetic images per class.

    Without options: scikit-learn's handwritten digits, 5 images per class, in about a minute on two CPU cores. Writes
    distilled.safetensors, config.json, metrics.jsonl, preview.png and report.html. Ctrl-C keeps what is done.
    """
    from ..engine.loop import distill as run
    from ..engine.loop import load_split
    from ..evaluation import BASELINES, compare
    from ..report.page import write_report
    from ..runtime.devices import find_device
    from .progress import watch

    chosen = _recipe(settings, quick)
    baselines = baselines or ("all" if chosen.dataset == "digits" else "none")
    if baselines not in BASELINES:
        raise choices("choice of baselines", baselines, BASELINES)
    if resume and out is None:
        raise DreamAccelError("--resume without --out: name the folder of the run to continue")
    folder = output_folder(out, f"{chosen.dataset}-{chosen.recipe}-ipc{chosen.ipc}", overwrite or resume)
    checkpoint = folder / "checkpoint.safetensors"
    if resume and not checkpoint.exists():
        raise DreamAccelError(f"--resume finds no {checkpoint}: name a run's folder, or begin one without --resume")
    where = find_device(device)
    split = load_split(chosen, where, data_dir, download)
    make_folder(folder)
    if not resume:
        checkpoint.unlink(missing_ok=True)
        (folder / EVALUATIONS_FILE).unlink(missing_ok=True)
    print(
        f"{split.name}: {len(split.train)} training and {len(split.test)} test images of "
        f"{'x'.join(map(str, split.train.shape))}, {split.train.n_classes} classes, on {where}"
    )
    with watch("distilling", chosen.iterations * chosen.inner_steps) as tick:
        result = run(chosen, split, device=where, checkpoint=checkpoint, on_step=tick)
    result.save(folder)
    write_report(result, folder)
    say_how_it_went(result, folder)

    if evaluate and not result.interrupted:
        rows = compare(result, split, baselines, watch)
        write_report(result, folder, rows)
        write_evaluations(folder, [{"name": row.name, **as_dict(row.evaluation)} for row in rows])
        print_table(rows, chosen.ipc)
    print(f"written to {folder}/ (open {folder}/report.html)")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a file or folder of another program's results.")],
    networks: Annotated[int | None, typer.Option(help="Networks trained from scratch. [default: the run's]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs over the synthetic set. [default: the run's]")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of every block. [default: the run's]")] = None,
    depth: Annotated[int | None, typer.Option(help="Blocks of the network. [default: the run's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of networks and batches. [default: the run's]")] = None,
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
    from ..engine.loop import load_split
    from ..evaluation import evaluate as run_evaluation
    from ..results import load
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
        evaluation = run_evaluation(
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
    if "source" not in result.synthetic.metadata:  # a run of this program: nothing is written among others' files
        write_evaluations(run if run.is_dir() else run.parent, [{"name": run.name, **as_dict(evaluation)}])
    print(
        f"test accuracy {evaluation} % (mean ± std of {evaluation.protocol.networks} networks, "
        f"{evaluation.protocol.epochs} epochs)"
    )


@app.command()
@with_recipe
def select(
    settings: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: a new one under runs/]")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Choose --ipc real images of every class by --strategy, in the features of a random network.

    Writes selected.csv (class, class name, rank, index into the training set) and preview.png.
    """
    import torch

    from ..data.splits import stratified_rows
    from ..engine.loop import load_split
    from ..networks import make_network
    from ..networks.features import embed_rows
    from ..report.page import PREVIEW_FILE, render_grid
    from ..runtime.files import write_bytes, write_text
    from ..runtime.devices import find_device
    from ..sampling import select as pick

    chosen = _recipe(settings, quick)
    folder = output_folder(out, f"{chosen.dataset}-select-{chosen.strategy}-ipc{chosen.ipc}", overwrite)
    split = load_split(replace(chosen, limit_train=0), find_device(device), data_dir, download)
    limit = chosen.limit_train or len(split.train)
    of_train = stratified_rows(split.train, limit, chosen.seed)
    train = split.train.take(of_train)
    make_folder(folder)
    network = make_network(
        chosen.network, train.shape, train.n_classes, chosen.width, chosen.depth_for(train.shape), chosen.seed, "select"
    ).to(train.device)
    rows = torch.arange(len(train), device=train.device)
    features = embed_rows(train.images, rows, network, split.normalization)
    picks = pick(
        features, train.labels, chosen.ipc, chosen.strategy, seed=chosen.seed, max_iter=chosen.kmeans_iterations
    )

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "class_name", "rank", "index"])
    for c, indices in enumerate(of_train[picks.cpu()].tolist()):
        writer.writerows([c, train.class_names[c], rank, index] for rank, index in enumerate(indices))
    write_text(folder / "selected.csv", table.getvalue())
    images = train.batch(picks.flatten()).cpu()
    labels = torch.arange(train.n_classes).repeat_interleave(chosen.ipc)
    write_bytes(folder / PREVIEW_FILE, render_grid(images, labels, train.class_names))
    print(f"{picks.numel()} images of {train.n_classes} classes chosen by {chosen.strategy}; written to {folder}/")


@app.command()
def doctor() -> None:
    """Print versions, devices, which kernels can run and why the rest cannot, and test those that can."""
    from .doctor import main as diagnose

    raise typer.Exit(diagnose())


def _recipe(settings: dict[str, Any], quick: bool) -> Recipe:
    settings = {**QUICK, **settings} if quick else dict(settings)
    return recipe(settings.pop("recipe", "dream"), settings.pop("dataset", "digits"), **settings)


def _format_warning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    if issubclass(category, DreamAccelWarning):
        return f"note: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
