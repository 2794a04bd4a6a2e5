"""``dream-accel pool``: computes the real side of cached matching steps, which `--real cached --pool DIR` reads."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick
from .output import INTERRUPTED, artefact_folder, print_data
from .recipe_options import chosen_recipe, with_recipe


@with_recipe
def pool(
    settings: dict[str, Any],
    out: OutFolder = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Train --trajectories networks and keep states, picks, and the gradients or mean features of the real images.

    Writes pool.json and a safetensors file per trajectory, which serve every IPC, factor and metric. A pool of the same
    settings is continued: trajectories that are there are kept. Ctrl-C keeps those that are complete.
    """
    from ..engine.pool_filling import fill_pool, missing_trajectories
    from ..engine.pool_store import MANIFEST_FILE, PATTERN, StoredPool
    from ..engine.splits import load_split
    from ..runtime.devices import find_device
    from .progress import watch

    chosen = chosen_recipe({"real": "cached", **settings}, quick)
    name = f"{chosen.dataset}-{chosen.recipe}-pool"
    with artefact_folder(out, name, overwrite, chosen.dataset, MANIFEST_FILE, PATTERN) as folder:
        where = find_device(device)
        split = load_split(chosen, where, data_dir, download)
        missing = missing_trajectories(chosen, split, folder)
        print_data(split, where)
        if len(missing) < chosen.trajectories:
            print(f"trajectories there and kept: {chosen.trajectories - len(missing)} of {chosen.trajectories}")
        try:
            with watch("filling the pool", len(missing) * chosen.stages * chosen.draws) as tick:
                whole = fill_pool(chosen, split, out=folder, device=where, on_entry=tick).whole()
        except KeyboardInterrupt:
            kept = StoredPool(folder).whole() if (folder / MANIFEST_FILE).exists() else []
            print(f"interrupted: trajectories in {folder}/: {len(kept)}; the same command computes the rest")
            raise typer.Exit(INTERRUPTED) from None
        size = sum((path.stat().st_size for path in folder.glob(PATTERN)), 0) / 1e9
    print(f"trajectories in {folder}/: {len(whole)}, of {chosen.stages} states and {chosen.draws} draws; {size:.3g} GB")
    matching = ("dream-accel", "distill", "--recipe", chosen.recipe, "--real", "cached", "--pool", str(folder))
    print(f"`{shlex.join(matching)}` with the same data set and settings reads it")
