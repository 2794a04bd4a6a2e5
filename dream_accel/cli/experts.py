"""``dream-accel experts``: trains the experts whose trajectories `--recipe mtt` matches."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..errors import counted
from .options import DataDir, Device, Download, OutFolder, Overwrite, Quick
from .output import INTERRUPTED, output_folder, print_data
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
    from ..engine.expert_store import Experts
    from ..engine.experts import missing_experts, train_experts
    from ..engine.splits import load_split
    from ..runtime.devices import find_device
    from .progress import watch

    chosen = chosen_recipe({"recipe": "mtt", **settings}, quick)
    with _folder(out, f"{chosen.dataset}-experts", overwrite, chosen.dataset) as folder:
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


@contextmanager
def _folder(out: Path | None, name: str, overwrite: bool, dataset: str) -> Iterator[Path]:
    """Take the folder to write to, as every command does; one that holds experts need not be empty."""
    from ..engine.expert_store import MANIFEST_FILE
    from ..runtime.folders import take_folder

    holds_experts = out is not None and (out / MANIFEST_FILE).exists()
    with (
        take_folder(out) if out is not None and holds_experts else output_folder(out, name, overwrite, dataset) as place
    ):
        if overwrite:
            for path in (place / MANIFEST_FILE, *place.glob("expert-*.safetensors")):
                path.unlink(missing_ok=True)
        yield place
