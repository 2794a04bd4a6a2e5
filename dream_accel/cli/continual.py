"""``dream-accel continual``: learns the classes step by step from a memory of few images per class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import DataSplit
from ..engine.assembly import matches_trajectories
from ..errors import DreamAccelError, choices
from ..evaluation.continual import Memory, OrderMean, StepAccuracy, check_protocol, class_incremental, over_orders
from ..recipes import RECIPES, Recipe
from ..runtime.csv_rows import read_rows, write_rows
from ..sampling.selection import SELECTION_NAMES
from .options import EVALUATION, DataDir, Device, Download, OutFolder, Overwrite, Quick, option
from .output import Output, artefact_folder, print_data
from .recipe_options import chosen_recipe, with_recipe
from .rows import SETTINGS_FILE, RowWriter, settings_of

NAME = "continual"
MEANS = f"{NAME}-mean.csv"
MEMORIES = "memories"
IPC = 20
"""Images kept per class, as published for CIFAR-100."""
DISTILLED = tuple(name for name in RECIPES if not matches_trajectories(Recipe(recipe=name)))
REAL = tuple(name for name in SELECTION_NAMES if name not in RECIPES)


@with_recipe
def continual(
    settings: dict[str, Any],
    # Named as the setting whose option it replaces.
    recipe: Annotated[
        str,
        option(
            "--memory",
            help=f"What the memory is made by, several joined by commas: {', '.join((*DISTILLED, *REAL))}.",
            panel="Data",
        ),
    ] = "random,herding,dream",
    steps: Annotated[int, option(help="Steps that the classes arrive in.", panel=EVALUATION)] = 5,
    orders: Annotated[int, option(help="Orders of the classes.", panel=EVALUATION)] = 5,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Learn the classes in steps, keeping --ipc images of each, and test on all classes seen after every step.

    Writes continual.csv, continual-mean.csv, continual.png and continual.svg. The memory of every step is kept, and the
    same command in the same folder continues; more --orders and another --memory are added to what is there.
    """
    from ..engine.splits import load_split
    from ..runtime.devices import find_device

    memories = [_memory(name, settings, quick) for name in dict.fromkeys(map(str.strip, recipe.split(",")))]
    chosen = memories[0].recipe
    name = f"{chosen.dataset}-{NAME}"
    known_by = [SETTINGS_FILE, f"{NAME}.csv"]
    with artefact_folder(out, name, overwrite, chosen.dataset, known_by, f"{MEMORIES}/*.safetensors") as folder:
        where = find_device(device)
        split = load_split(chosen, where, data_dir, download, at_most=quick and "limit_train" not in settings)
        for memory in memories:
            check_protocol(memory, split, steps, orders)
        described, before = _continued(folder, memories, split, steps)
        output = Output(folder)
        writer = RowWriter(NAME, StepAccuracy, output, described, before)
        writer.flush()  # the settings, without which the memories could not be continued
        print_data(split, where)
        if before:
            print(f"{len(before)} steps are measured, and kept")
        for memory in memories:
            done = {(row.order, row.step) for row in before if row.memory == memory.name}
            files = folder / MEMORIES
            writer.take(_told(class_incremental(memory, split, steps, orders, folder=files, done=done)))
        means = over_orders(writer.rows)
        output.write("the means are", lambda place: write_rows(place / MEANS, OrderMean, means))
        writer.draw(split)
    for mean in means:
        print(f"{mean.memory}: {mean.n_seen} classes, {mean.mean:.1f} ± {mean.std:.1f} % over {mean.orders} orders")
    if not output.lost:
        print(f"written to {output.place}/{NAME}.csv, {MEANS}, .png and .svg")
    if output.status:
        raise typer.Exit(output.status)


def _memory(name: str, settings: dict[str, Any], quick: bool) -> Memory:
    """The memory of a name: distilled by the recipe of that name, or real images chosen by that rule."""
    if name not in (*DISTILLED, *REAL):
        raise choices("memory", name, (*DISTILLED, *REAL))
    given = {"eval_networks": 1, **settings}
    if given.get("dataset", "digits") != "digits":
        given = {"ipc": IPC, **given}
    if name in DISTILLED:
        return Memory(name, chosen_recipe({**given, "recipe": name}, quick))
    return Memory(name, chosen_recipe({**given, "recipe": "dream", "factor": 1}, quick), name)


def _continued(
    folder: Path, memories: list[Memory], split: DataSplit, steps: int
) -> tuple[dict[str, Any], list[StepAccuracy]]:
    """Describe the run, and read the rows that an earlier command left in the folder.

    Raises:
        DreamAccelError: the earlier command had other steps, other data or other settings, or its files are damaged.
    """
    made_by = {memory.name: {"strategy": memory.strategy, "recipe": asdict(memory.recipe)} for memory in memories}
    described = settings_of(split, steps=steps, memories=made_by)
    file, rows = folder / SETTINGS_FILE, folder / f"{NAME}.csv"
    if not file.exists():
        return described, []
    try:
        earlier = json.loads(file.read_text())
        pairs = list(_both(described, earlier))
        before = read_rows(rows, StepAccuracy) if rows.exists() else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DreamAccelError(
            f"{file} or {rows.name} beside it is damaged ({type(error).__name__}: {error}): name another folder, or "
            "give --overwrite"
        ) from None
    for what, here, there in pairs:
        if here != there:
            raise DreamAccelError(
                f"{folder} holds a run with another {what}, {there}, and this one has {here}: name another folder, or "
                "give --overwrite"
            )
    described["memories"] = {**earlier["memories"], **described["memories"]}
    return described, before


def _both(here: dict[str, Any], there: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield everything that two runs must agree in, with its value in each."""
    yield "number of steps", here["steps"], there["steps"]
    yield from ((f"data set ({key})", value, there["data"].get(key)) for key, value in here["data"].items())
    for name, made in here["memories"].items():
        if name in there["memories"]:
            earlier = there["memories"][name]["recipe"]
            yield from ((f"{key} of {name}", value, earlier.get(key)) for key, value in made["recipe"].items())


def _told(rows: Iterable[StepAccuracy]) -> Iterator[StepAccuracy]:
    """Print rows as they come."""
    for row in rows:
        print(
            f"{row.memory}, order {row.order}, step {row.step}: {row.accuracy:.1f} % of {row.n_seen} classes",
            flush=True,
        )
        yield row
