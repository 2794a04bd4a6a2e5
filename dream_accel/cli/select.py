"""``dream-accel select``: selects real images of every class by a strategy."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import counted
from ..sampling.selection import FORGETTING, SELECTION_NAMES
from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick, option
from .output import Output, output_folder
from .recipe_options import chosen_recipe, with_recipe


@with_recipe
def select(
    settings: dict[str, Any],
    strategy: Annotated[
        str | None,
        option(
            help=f"Rule that chooses the images: {', '.join(SELECTION_NAMES)}.",
            panel="Sampling",
            default="dream, or that of the recipe",
        ),
    ] = None,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Choose --ipc real images of every class by --strategy, in the features of a random network.

    forgetting trains a network for --real-epochs instead, and takes the images that it most often forgets.
    Writes selected.csv (class, class name, rank, index into the training set) and preview.png.
    """
    from ..engine.selection import check_selection, select_real
    from ..engine.splits import images_there_are, load_split
    from ..report import write_preview
    from ..runtime.devices import find_device
    from ..runtime.distributed import launched_ranks
    from .progress import unwatched, watch

    chosen = chosen_recipe(settings, quick)
    strategy = chosen.strategy if strategy is None else strategy
    check_selection(strategy)
    name = f"{chosen.dataset}-select-{strategy}-ipc{chosen.ipc}"
    with ExitStack() as until_end:
        ranks = until_end.enter_context(launched_ranks())
        taken = output_folder(out, name, overwrite, chosen.dataset)
        folder = ranks.from_first(lambda: until_end.enter_context(taken))
        where = find_device(ranks.device(device))
        split = load_split(replace(chosen, limit_train=0), where, data_dir, download)
        if quick and "limit_train" not in settings:
            chosen = replace(chosen, limit_train=images_there_are(chosen.limit_train, split.train))
        shown = watch if ranks.is_first else unwatched
        with shown("training", chosen.real_epochs if strategy == FORGETTING else 0) as tick:
            selection = select_real(chosen, split, strategy=strategy, device=where, on_epoch=tick, ranks=ranks)
        if not ranks.is_first:
            return
        output = Output(folder)

        def write(place: Path) -> None:
            selection.save(place)
            write_preview(*selection.images(), selection.class_names, place)

        output.write("the choice is", write)
    classes = "1 class" if len(selection.rows) == 1 else f"{len(selection.rows)} classes"
    chosen_images = f"{counted(selection.rows.numel(), 'image')} of {classes} chosen by {strategy}"
    print(chosen_images + ("" if output.lost else f"; written to {output.place}/"))
    if output.status:
        raise typer.Exit(output.status)
