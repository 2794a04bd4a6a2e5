"""``dream-accel experts``: trains the experts whose trajectories `--recipe mtt` matches."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from ..errors import counted
from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick
from .output import INTERRUPTED, artefact_folder, print_data
from .recipe_options import chosen_recipe, with_recipe


@with_recipe
def experts(
    settings: dict[str, Any],
    out: OutFolder = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Train --n-experts networks on the real images for --trajectory-epochs each, and keep every epoch's parameters.

    Writes experts.json and a safetensors file per expert; the recipe is mtt. A folder of experts of the same settings
    is continued: those that are there are kept. Ctrl-C keeps the experts that are trained.
    """
    from ..engine.expert_store import MANIFEST_FILE, Experts
    from ..engine.experts import missing_experts, train_experts
    from ..engine.splits import load_split
    from ..runtime.devices import find_device
    from .progress import watch

    chosen = chosen_recipe({"recipe": "mtt", **settings}, quick)
    name = f"{chosen.dataset}-experts"
    with artefact_folder(out, name, overwrite, chosen.dataset, MANIFEST_FILE, "expert-*.safetensors") as folder:
        where = find_device(device)
        split = load_split(chosen, where, data_dir, download)
        missing = missing_experts(chosen, split, folder)
        print_data(split, where)
        if len(missing) < chosen.n_experts:
            print(f"{chosen.n_experts - len(missing)} of {counted(chosen.n_experts, 'expert')} are there and kept")
        try:
            with watch("training experts", len(missing) * chosen.trajectory_epochs) as tick:
                found = train_experts(chosen, split, out=folder, device=where, on_epoch=tick)
        except KeyboardInterrupt:
            whole = len(Experts(folder)) if any(folder.glob("*.json")) else 0
            print(f"interrupted: {counted(whole, 'expert')} in {folder}/; the same command trains the rest")
            raise typer.Exit(INTERRUPTED) from None
    print(f"{counted(len(found), 'expert')} of {counted(found.epochs, 'epoch')} in {folder}/")
    matching = ("dream-accel", "distill", "--recipe", chosen.recipe, "--experts", str(folder))
    print(f"`{shlex.join(matching)}` with the same data set, network and strategy matches them")
