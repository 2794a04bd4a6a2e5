"""A comparison: the cells of a grid measured in worker processes, in a folder that the same call continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import DataSplit, subset
from ..engine.assembly import matches_trajectories
from ..engine.expert_store import experts_for
from ..engine.forgetting import check_forgetting
from ..engine.splits import fingerprint, images_there_are, load_split
from ..errors import DreamAccelError
from ..networks import make_network
from ..recipes import Recipe
from ..runtime.devices import find_device
from ..runtime.files import write_text
from ..runtime.folders import LOCK_FILE
from ..runtime.processes import Died, spread
from ..sampling.selection import FORGETTING
from .cells import Record, Task, measure
from .grid import Cell, Grid
from .settings import Protocol

GRID_FILE = "grid.toml"
CELLS_FILE = "grid.json"
CELLS_FOLDER = "cells"


class Comparison:
    """The cells of a grid in a folder, with what is measured of them.

    Everything is checked before any work: data sets are read once, and every network is made.

    Args:
        grid: from :func:`dream_accel.evaluation.grid.read_grid`.
        folder: the folder to write to, taken by the caller; a comparison of the same grid that is there is continued.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        at_most: take as many training images as there are where ``limit_train`` asks for more.

    Attributes:
        grid: the grid.
        folder: the folder.
        tasks: one for every cell, in the order of the grid.

    Raises:
        DreamAccelError: a data set cannot be loaded or is too small, a network does not fit its images, experts are
            missing, the device is not there, or the folder holds another comparison or other files.
    """

    def __init__(
        self,
        grid: Grid,
        folder: str | os.PathLike[str],
        *,
        device: str | None = None,
        data_dir: str | None = None,
        download: bool = False,
        at_most: bool = False,
    ) -> None:
        self.grid = grid
        self.folder = Path(folder)
        where = str(find_device(device))
        data_dir = None if data_dir is None else os.path.abspath(data_dir)
        found: dict[Cell, Task] = {}
        for source in dict.fromkeys(map(_source, grid.cells)):
            cells = [cell for cell in grid.cells if _source(cell) == source]
            split = _loaded(cells[0], data_dir, download)
            data = fingerprint(split.train)
            if at_most:
                there = images_there_are(max(cell.recipe.limit_train for cell in cells), split.train)
                complete = [replace(cell, recipe=replace(cell.recipe, limit_train=there)) for cell in cells]
            else:
                complete = cells
            _check(complete, split)
            parent = self.folder.absolute() / CELLS_FOLDER
            tasks = [Task(cell, data, parent, where, data_dir) for cell in complete]
            found.update(zip(cells, tasks, strict=True))
        self.tasks = tuple(found[cell] for cell in grid.cells)
        self._take()

    def _take(self) -> None:
        keys = [task.key for task in self.tasks]
        listed = self.folder / CELLS_FILE
        if not listed.exists() and any(entry.name != LOCK_FILE for entry in self.folder.iterdir()):
            raise DreamAccelError(f"{self.folder} is not empty and holds no comparison: name another folder")
        if listed.exists():
            try:
                theirs = set(json.loads(listed.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                theirs = set()
            if not theirs & set(keys):
                raise DreamAccelError(
                    f"{self.folder} holds the comparison of another grid, other settings or other data: none of its "
                    f"{len(theirs)} cells is one of these {len(keys)}; name another folder"
                )
        write_text(listed, json.dumps(keys) + "\n")
        write_text(self.folder / GRID_FILE, self.grid.text)

    def rows(self) -> list[tuple[Cell, Record]]:
        """Every cell with what is measured of it so far."""
        return [(task.cell, task.record()) for task in self.tasks]

    def left(self) -> list[Task]:
        """The tasks that are not done; those that failed are tried again."""
        return [task for task in self.tasks if task.left()]

    def measure(self, jobs: int = 1) -> Iterator[tuple[Cell, Record]]:
        """Measure the cells that are left, as :func:`measure_tasks` does."""
        return measure_tasks(self.left(), jobs)


def measure_tasks(tasks: Sequence[Task], jobs: int = 1) -> Iterator[tuple[Cell, Record]]:
    """Measure the cells of some tasks.

    Args:
        tasks: the tasks.
        jobs: worker processes at once, each with its share of the threads.

    Yields:
        each cell with its record as soon as it is measured or has failed.

    Raises:
        DreamAccelError: ``jobs`` is below 1.
        KeyboardInterrupt: Ctrl-C was pressed; runs have written their checkpoints.
        OSError: the folder cannot be written to.
    """
    for place, outcome in spread(measure, tasks, jobs):
        task, record = tasks[place], tasks[place].record()
        if isinstance(outcome, Died):
            record.reason = outcome.reason
            task.write(record)
        yield task.cell, record


def _source(cell: Cell) -> tuple[Any, ...]:
    recipe = cell.recipe
    return recipe.dataset, recipe.size, recipe.skip_unreadable


def _loaded(cell: Cell, data_dir: str | None, download: bool) -> DataSplit:
    try:
        return load_split(replace(cell.recipe, limit_train=0), find_device("cpu"), data_dir, download)
    except DreamAccelError as error:
        raise DreamAccelError(f"cell {cell}: {error}") from None


def _check(cells: list[Cell], split: DataSplit) -> None:
    """Refuse cells that cannot run on a data set."""
    fits: set[Any] = set()
    for cell in cells:
        recipe = cell.recipe
        try:
            if 0 < recipe.limit_train != len(split.train):
                subset(split, recipe.limit_train, recipe.seed)
            if cell.coreset == FORGETTING:
                check_forgetting(split.train.n_classes)
            for network in dict.fromkeys((recipe.network, *cell.networks)):
                protocol = Protocol.of(recipe, split.train.shape, network=network)
                made = (network, protocol.width, protocol.depth, *protocol.layer_kinds.items())
                if made not in fits:
                    _make(protocol, split)
                    fits.add(made)
            if cell.coreset is None and matches_trajectories(recipe):
                _check_experts(recipe, split)
        except DreamAccelError as error:
            raise DreamAccelError(f"cell {cell}: {error}") from None


def _make(protocol: Protocol, split: DataSplit) -> None:
    shape, n_classes = split.train.shape, split.train.n_classes
    kinds = protocol.layer_kinds
    make_network(protocol.network, shape, n_classes, protocol.width, protocol.depth, protocol.seed, **kinds)


def _check_experts(recipe: Recipe, split: DataSplit) -> None:
    small = 0 < recipe.limit_train != len(split.train)
    train = subset(split, recipe.limit_train, recipe.seed).train if small else split.train
    experts_for(replace(recipe, depth=recipe.depth_for(train.shape)), train)
