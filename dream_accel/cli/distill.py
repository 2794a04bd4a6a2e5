"""``dream-accel distill``: distils a data set into a few synthetic images per class.

Its options are the parameters of :func:`distill` and, through ``with_recipe``, the settings of a run, such as
--interval: the fields of ``Recipe`` in ``recipes/settings.py``.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DivergenceError, counted
from ..evaluation.contestants import CONTESTANTS, chosen_baselines
from ..recipes import Recipe
from ..results import Progress
from ..runtime.distributed import Ranks
from .options import (
    EVALUATION,
    OUTPUT,
    DataDir,
    Device,
    Download,
    OutFolder,
    Overwrite,
    Quick,
    option,
)
from .output import (
    DIVERGED,
    INTERRUPTED,
    Output,
    Table,
    as_dict,
    continuing,
    output_folder,
    print_data,
    print_progress,
    remove_earlier_run,
    write_evaluations,
)
from .recipe_options import chosen_recipe, with_recipe
from .resume import folder_to_continue, recipe_to_continue


@with_recipe
def distill(
    settings: dict[str, Any],
    baselines: Annotated[
        str | None,
        option(
            help="Also evaluate: none; real (random and K-Means-selected real images); all (and distillation with "
            f"random sampling); or several, joined by commas: {', '.join(CONTESTANTS)}.",
            panel=EVALUATION,
            default="all for digits, else none",
        ),
    ] = None,
    evaluate: Annotated[bool, option(help="Train and test networks at the end.", panel=EVALUATION)] = True,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        str | None,
        option(
            help="Continue the run in this folder to the same bits, with its settings; --iterations, --pixel-lr, "
            "--network-lr and --device may change.",
            panel=OUTPUT,
            default="a new run",
        ),
    ] = None,
    checkpoint_every: Annotated[
        float,
        option(
            help="Seconds between two checkpoints of a run, at least; 0: one after every outer iteration.", panel=OUTPUT
        ),
    ] = 60.0,
    tensorboard: Annotated[
        bool, option("--tensorboard", help="Also write scalars and image grids for TensorBoard.", panel=OUTPUT)
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Distil a data set into a few synthetic images per class.

    Without options: scikit-learn's handwritten digits, 5 images per class, in about a minute on two CPU cores. Writes
    distilled.safetensors, config.json, metrics.jsonl, preview.png and report.html. Ctrl-C keeps completed iterations.
    """
    from ..engine.checkpoint import CHECKPOINT_FILE, recover
    from ..engine.loop import Run
    from ..engine.splits import load_split
    from ..engine.stored_run import StoredRun, read_checkpoint
    from ..evaluation import check_baselines
    from ..recipes.registry import size_remark
    from ..report import TENSORBOARD_FOLDER, TensorBoardLog, check_tensorboard, described
    from ..runtime.devices import find_device
    from ..runtime.distributed import launched_ranks
    from ..runtime.folders import take_folder

    def begin() -> tuple[Path, Recipe, StoredRun | None]:
        """Take the folder, and decide the settings."""
        if resume is None:
            chosen = chosen_recipe(settings, quick)
            name = f"{chosen.dataset}-{chosen.recipe}-ipc{chosen.ipc}"
            taken = output_folder(out, name, overwrite, chosen.dataset)
        else:
            taken = take_folder(folder_to_continue(resume, out, overwrite, quick))
        if baselines is not None:
            chosen_baselines(baselines)  # an unknown choice is refused before any work
        if tensorboard:
            check_tensorboard()
        folder = until_end.enter_context(taken)
        if resume is None:
            return folder, chosen, None
        recover(folder / CHECKPOINT_FILE)
        stored = read_checkpoint(folder / CHECKPOINT_FILE)
        return folder, recipe_to_continue(stored, settings), stored

    with ExitStack() as until_end:
        ranks = until_end.enter_context(launched_ranks())
        folder, chosen, stored = ranks.from_first(begin)
        if stored is not None:
            # Where the run computed is one of its settings, until another device is named; ranks have a GPU each.
            before = stored.origin.device.partition(":")[0] if ranks.count > 1 else stored.origin.device
            device = before or device if device == "auto" else device
            data_dir = data_dir or stored.origin.data_dir
        where = find_device(ranks.device(device))
        split = load_split(chosen, where, data_dir, download, at_most=quick and "limit_train" not in settings)
        chosen = replace(chosen, dataset=split.name, limit_train=chosen.limit_train and len(split.train))
        baselines = baselines or ("all" if chosen.dataset == "digits" else "none")
        check_baselines(baselines, split)
        checkpoint = folder / CHECKPOINT_FILE
        run = Run(chosen, split, None if stored is None else checkpoint, data_dir, checkpoint_every, ranks)
        if not ranks.is_first:
            raise typer.Exit(_take_part(run, split, baselines, evaluate, ranks))
        if stored is None:
            remove_earlier_run(folder)
            run.keep(checkpoint)
        print_data(split, where)
        if ranks.count > 1:
            print(f"{ranks.count} ranks share the {counted(split.train.n_classes, 'class', 'classes')}")
        if remark := size_remark(run.recipe, split.train.shape):
            print(remark)
        if plan := run.pool_plan():
            print(plan)
        if stored is not None:
            changes = [change for change in run.origin.changes if change not in stored.origin.changes]
            print(described(changes[-1]) if changes else f"continued after iteration {len(run.history)}")
        log = None
        if tensorboard:
            log = until_end.enter_context(
                TensorBoardLog(folder / TENSORBOARD_FOLDER, run.recipe.iterations, len(run.history))
            )
        status = _run_and_measure(run, split, Output(folder), baselines, evaluate, log, ranks)
    if status:
        raise typer.Exit(status)


def _take_part(run: Any, split: Any, baselines: str, evaluate: bool, ranks: Ranks) -> int:
    """The work of a rank that neither writes nor prints.

    Returns:
        the exit status.
    """
    from ..evaluation import compare
    from .progress import unwatched

    try:
        result = run.complete()
    except DivergenceError:
        return DIVERGED
    if result.interrupted:
        return INTERRUPTED
    if evaluate:
        for _ in compare(result, split, baselines, unwatched, ranks):
            pass
    return 0


def _run_and_measure(
    run: Any, split: Any, output: Output, baselines: str, evaluate: bool, log: Any, ranks: Ranks
) -> int:
    """Complete a run, write its result, and evaluate it.

    Args:
        run: the run.
        split: its data set.
        output: its folder.
        baselines: the baselines to evaluate as well.
        evaluate: whether to evaluate at all.
        log: a :class:`dream_accel.report.tensorboard.TensorBoardLog`, or None.
        ranks: the processes that share the work.

    Returns:
        the exit status.
    """
    from .progress import watch

    def on_iteration(line: Progress) -> None:
        if log is not None:
            result = run.result()
            log.iteration(line, result.images, result.labels, result.class_names)

    diverged: DivergenceError | None = None
    steps = (run.recipe.iterations - len(run.history)) * run.recipe.inner_steps
    with watch("distilling", steps) as tick:
        try:
            result = run.complete(tick, on_iteration)
        except DivergenceError as error:
            diverged, result = error, error.result
    interrupted = result.interrupted
    try:
        _write_result(run, result, split.train, output)
    except KeyboardInterrupt:  # the result exists only here
        interrupted = True
        _write_result(run, result, split.train, output)
    print_progress(result)
    if diverged is not None:
        rate = "pixel_lr" if "pixel_lr" in str(diverged) else "network_lr"
        lower = (f"--{rate.replace('_', '-')}", f"{getattr(run.recipe, rate) / 10:g}")
        print(f"written to {output.place}/ (open {output.place}/report.html)")
        print(
            f"error: {diverged}; what is written are the images after {counted(len(result.history), 'iteration')}, the "
            f"last that were finite, and {continuing(output.place, *lower)} "
            "continues from them at a lower rate",
            file=sys.stderr,
        )
        return DIVERGED
    status = output.status
    if interrupted:
        print(f"interrupted: the result of the iterations completed is kept; {continuing(output.place)} continues")
        status = INTERRUPTED
    elif evaluate:
        status = _measure(result, split, baselines, output, log, ranks)
    if not output.lost:
        print(f"written to {output.place}/ (open {output.place}/report.html)")
    return status


def _write_result(run: Any, result: Any, train: Any, output: Output) -> None:
    from ..engine.checkpoint import CHECKPOINT_FILE
    from ..report import write_report

    folder = output.place

    def write(place: Path) -> None:
        result.save(place)
        write_report(result, place, train=train)
        if place != folder or not run.is_saved:
            run.save(place / CHECKPOINT_FILE)

    output.write("the result is", write)


def _measure(result: Any, split: Any, baselines: str, output: Output, log: Any, ranks: Ranks) -> int:
    """Evaluate a result and its baselines; every row is printed and written as soon as it is measured.

    Returns:
        the exit status.
    """
    from ..evaluation import compare, row_names
    from ..report import write_report
    from .progress import watch

    names = row_names(result.recipe, baselines)
    rows: list[Any] = []
    table, written = Table(names), dict[Path, int]()

    def write(place: Path) -> None:
        measured = sum(row.evaluation.complete for row in rows)
        write_report(result, place, rows, names[measured:], split.train)
        lines = [{"name": row.name, **as_dict(row.evaluation)} for row in rows[written.get(place, 0) :]]
        if lines:
            write_evaluations(place, lines)
        written[place] = len(rows)

    interrupted = False
    try:
        for row in compare(result, split, baselines, watch, ranks):
            rows.append(row)
            if log is not None:
                log.accuracy(row)
            table.add(row, result.recipe.ipc)
            output.write("the accuracies are", write)
    except KeyboardInterrupt:
        interrupted = True
        output.write("the accuracies are", write)
    print()
    if interrupted:
        left = names[sum(row.evaluation.complete for row in rows) :]
        again = continuing(output.place, "--baselines", baselines)
        print(f"interrupted: not measured: {'; '.join(left)}; the distilled set is kept, and {again} measures all")
        return INTERRUPTED
    return output.status
