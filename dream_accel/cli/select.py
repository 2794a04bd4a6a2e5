"""``dream-accel select``: selects real images of every class by a strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick, chosen_recipe, with_recipe
from .output import make_folder, output_folder


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
    from ..engine.splits import load_split
    from ..report import write_preview
    from ..runtime.devices import find_device

    chosen = chosen_recipe(settings, quick)
    folder = output_folder(out, f"{chosen.dataset}-select-{chosen.strategy}-ipc{chosen.ipc}", overwrite)
    where = find_device(device)
    split = load_split(replace(chosen, limit_train=0), where, data_dir, download)
    make_folder(folder)
    selection = select_real(chosen, split, device=where)
    selection.save(folder)
    write_preview(*selection.images(), selection.class_names, folder)
    print(
        f"{selection.rows.numel()} images of {len(selection.rows)} classes chosen by {chosen.strategy}; "
        f"written to {folder}/"
    )
