"""``dream-accel distill``: distils a data set into a few synthetic images per class."""

from __future__ import annotations

from typing import Annotated, Any

from ..errors import DreamAccelError, choices
from .options import (
    EVALUATION,
    OUTPUT,
    DataDir,
    Device,
    Download,
    OutFolder,
    Overwrite,
    Quick,
    chosen_recipe,
    option,
    with_recipe,
)
from .output import (
    EVALUATIONS_FILE,
    as_dict,
    make_folder,
    output_folder,
    print_data,
    print_progress,
    print_table,
    write_evaluations,
)


@with_recipe
def distill(
    settings: dict[str, Any],
    baselines: Annotated[
        str | None,
        option(
            help="Also evaluate: none; real (random and K-Means-selected real images); all (and distillation with "
            "random sampling).",
            panel=EVALUATION,
            default="all for digits, else none",
        ),
    ] = None,
    evaluate: Annotated[bool, option(help="Train and test networks at the end.", panel=EVALUATION)] = True,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, option("--resume", help="Continue the run in --out to the same bits.", panel=OUTPUT)
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
    from ..engine.checkpoint import CHECKPOINT_FILE
    from ..engine.loop import distill as run
    from ..engine.splits import load_split
    from ..evaluation import BASELINES, compare
    from ..report import write_report
    from ..runtime.devices import find_device
    from .progress import watch

    chosen = chosen_recipe(settings, quick)
    baselines = baselines or ("all" if chosen.dataset == "digits" else "none")
    if baselines not in BASELINES:
        raise choices("choice of baselines", baselines, BASELINES)
    if resume and out is None:
        raise DreamAccelError("--resume without --out: name the folder of the run to continue")
    folder = output_folder(out, f"{chosen.dataset}-{chosen.recipe}-ipc{chosen.ipc}", overwrite or resume)
    checkpoint = folder / CHECKPOINT_FILE
    if resume and not checkpoint.exists():
        raise DreamAccelError(f"--resume finds no {checkpoint}: name a run's folder, or begin one without --resume")
    where = find_device(device)
    split = load_split(chosen, where, data_dir, download)
    make_folder(folder)
    if not resume:
        checkpoint.unlink(missing_ok=True)
        (folder / EVALUATIONS_FILE).unlink(missing_ok=True)
    print_data(split, where)
    with watch("distilling", chosen.iterations * chosen.inner_steps) as tick:
        result = run(chosen, split, device=where, checkpoint=checkpoint, on_step=tick)
    result.save(folder)
    write_report(result, folder)
    print_progress(result, folder)

    if evaluate and not result.interrupted:
        rows = compare(result, split, baselines, watch)
        write_report(result, folder, rows)
        write_evaluations(folder, [{"name": row.name, **as_dict(row.evaluation)} for row in rows])
        print_table(rows, chosen.ipc)
    print(f"written to {folder}/ (open {folder}/report.html)")
