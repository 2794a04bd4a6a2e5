"""``dream-accel select``: selects real images of every class by a strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ..errors import counted
from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick
from .output import Output, output_folder
from .recipe_options import chosen_recipe, with_recipe


@with_recipe
def select(
    settings: dict[str, Any],
    out: OutFolder = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Choose --ipc real images of every class by --strategy, in the features of a random network.

    Writes selected.csv (class, class name, rank, index into the training set) and preview.png.
    """
    from ..engine.selection import select_real
    from ..engine.splits import images_there_are, load_split
    from ..report import write_preview
    from ..runtime.devices import find_device

    chosen = chosen_recipe(settings, quick)
    name = f"{chosen.dataset}-select-{chosen.strategy}-ipc{chosen.ipc}"
    with output_folder(out, name, overwrite, chosen.dataset) as folder:
        where = find_device(device)
        split = load_split(replace(chosen, limit_train=0), where, data_dir, download)
        if quick and "limit_train" not in settings:
            chosen = replace(chosen, limit_train=images_there_are(chosen.limit_train, split.train))
        selection = select_real(chosen, split, device=where)
        output = Output(folder)

        def write(place: Path) -> None:
            selection.save(place)
            write_preview(*selection.images(), selection.class_names, place)

        output.write("the choice is", write)
    classes = "1 class" if len(selection.rows) == 1 else f"{len(selection.rows)} classes"
    chosen_images = f"{counted(selection.rows.numel(), 'image')} of {classes} chosen by {chosen.strategy}"
    print(chosen_images + ("" if output.lost else f"; written to {output.place}/"))
    if output.status:
        raise typer.Exit(output.status)
