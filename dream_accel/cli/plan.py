"""``dream-accel plan``: the expected time and memory of a run, from a small one that is measured first."""

from __future__ import annotations

import sys
from typing import Any

import typer

from .options import DataDir, Device, Download, Quick
from .output import MISSING, print_data
from .recipe_options import chosen_recipe, with_recipe


@with_recipe
def plan(
    settings: dict[str, Any],
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Predict time and memory of `distill` with the same options, in about a minute, and say what will not fit.

    The parts of a run are measured on some images and scaled. Exit status 1 if the run does not fit the memory.
    """
    from ..engine.splits import load_split
    from ..errors import counted
    from ..evaluation.plan import plan_run
    from ..runtime.devices import find_device

    chosen = chosen_recipe(settings, quick)
    where = find_device(device)
    split = load_split(chosen, where, data_dir, download)
    print_data(split, where)
    found = plan_run(chosen, split)
    networks = counted(chosen.eval_networks, "network")
    lines = [
        ("initial images", duration(found.start), ""),
        ("refresh", duration(found.refresh), f"every {counted(chosen.interval, 'step')}" if found.refresh else "none"),
        ("filling the pool", duration(found.filling), "") if found.filling else None,
        ("matching step", duration(found.step), ""),
        ("network update", duration(found.update), "after every step") if found.update else None,
        ("outer iteration", duration(found.iteration), counted(chosen.inner_steps, "step")),
        ("run", duration(found.run), counted(chosen.iterations, "outer iteration")),
        ("evaluation", duration(found.evaluation), f"{networks}, {counted(chosen.eval_epochs, 'epoch')}"),
        ("memory", f"{found.total / 1e9:.2f} GB", f"of {found.available / 1e9:.2f} GB"),
    ]
    for line in lines:
        if line is not None:
            print(f"{line[0]:<17} {line[1]:>12}   {line[2]}".rstrip())
    if (refusal := found.refusal()) is not None:
        print(f"error: {refusal}", file=sys.stderr)
        raise typer.Exit(MISSING)


def duration(seconds: float) -> str:
    """Format a duration with the unit that suits it: ``12 ms``, ``3.4 s``, ``5 min``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min"
