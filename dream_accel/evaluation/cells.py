"""One cell of a comparison: its folder, its record, and the work of a process that measures it.

A folder holds ``cell.json`` (the record, written whenever something is measured), the checkpoint of a run, and the
distilled set as a result. Its name ends in a hash of the settings and of the training images: other settings or images
are another cell, and a cell that is there was measured with these.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSplit
from ..engine.checkpoint import CHECKPOINT_FILE
from ..engine.compute import Compute
from ..engine.loop import Run
from ..engine.manifest import digest_of
from ..engine.selection import select_rows
from ..engine.splits import fingerprint, load_split
from ..errors import DivergenceError, DreamAccelError, DreamAccelWarning, counted
from ..recipes import Recipe
from ..results import Result, versions
from ..runtime.devices import device_name
from ..runtime.files import write_text
from ..runtime.folders import take_folder
from ..synthetic import SyntheticSet
from .grid import WHOLE, Cell
from .protocol import evaluate, evaluate_images
from .settings import Protocol

RECORD_FILE = "cell.json"


@dataclass
class Record:
    """The measured part of a cell.

    Attributes:
        accuracies: the test accuracy of every network trained on the set, percent, by the name of the network; only
            networks of which all were tested.
        protocols: the settings of these evaluations, by the name of the network.
        reason: the sentence the cell failed with; None if it did not.
        iterations: completed outer iterations.
        seconds: duration of the distillation, or of the choice of images.
        data: the fingerprint of the training set.
        device: the processor or GPU by its own name.
        threads: of the process.
        versions: of the packages.
        notes: what the program remarked.
    """

    accuracies: dict[str, list[float]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    reason: str | None = None
    iterations: int = 0
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def mean(self, network: str) -> float:
        """Mean accuracy over the networks of one kind, percent."""
        return statistics.fmean(self.accuracies[network])

    def std(self, network: str) -> float:
        """Population standard deviation over the networks of one kind, percentage points."""
        return statistics.pstdev(self.accuracies[network])


@dataclass(frozen=True)
class Task:
    """A cell with everything that a process needs to measure it.

    Attributes:
        cell: the cell, its recipe complete.
        data: the fingerprint of the whole training set.
        parent: the folder of all cells.
        device: the device to run on.
        data_dir: the folder of named data sets.
    """

    cell: Cell
    data: dict[str, Any]
    parent: Path
    device: str
    data_dir: str | None

    @functools.cached_property
    def key(self) -> str:
        """The hash of settings and data, 12 hexadecimal digits. The name and the networks are not part of it."""
        return digest_of(asdict(self.cell.recipe), self.cell.coreset, self.data, size=6)

    @property
    def folder(self) -> Path:
        """The folder of the cell."""
        recipe = self.cell.recipe
        words = f"{self.cell.coreset or recipe.recipe}-{recipe.dataset[-40:]}-ipc{recipe.ipc}-seed{recipe.seed}"
        return self.parent / ("".join(c if c.isalnum() or c in "-_+." else "-" for c in words) + f"-{self.key}")

    def record(self) -> Record:
        """Read what is measured; a new record if nothing is, or the file is damaged."""
        try:
            return Record(**json.loads((self.folder / RECORD_FILE).read_text(encoding="utf-8"))["record"])
        except (OSError, ValueError, KeyError, TypeError):
            return Record()

    def left(self, record: Record | None = None) -> list[str]:
        """The networks that are still to be trained on the set."""
        measured = (self.record() if record is None else record).accuracies
        return [network for network in self.cell.networks if network not in measured]

    def write(self, record: Record) -> None:
        """Write cell.json."""
        cell = {"name": self.cell.name, "coreset": self.cell.coreset, "recipe": asdict(self.cell.recipe)}
        write_text(self.folder / RECORD_FILE, json.dumps({**cell, "record": asdict(record)}, indent=2) + "\n")


def measure(task: Task) -> None:
    """Distil or choose the set of a cell and evaluate it on the networks that are left, writing its record as it goes.

    A refusal, a divergence and any other error become the reason in the record. Ctrl-C keeps the checkpoint of a run.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        OSError: the folder cannot be written to.
        DreamAccelError: another process measures the cell.
    """
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", DreamAccelWarning)
        with take_folder(task.folder):
            record = replace(task.record(), reason=None)
            record.device, record.threads = device_name(torch.device(task.device)), torch.get_num_threads()
            record.versions = versions()
            try:
                _measure(task, record)
            except DreamAccelError as error:
                record.reason = str(error)
            except Exception as error:  # of a network of the user's own, say: the other cells go on
                record.reason = " ".join(f"{type(error).__name__}: {error}".split())
            finally:
                said = [str(remark.message) for remark in remarks if issubclass(remark.category, DreamAccelWarning)]
                record.notes = [*dict.fromkeys([*record.notes, *said])]
                task.write(record)


def _measure(task: Task, record: Record) -> None:
    split = _split(_of_data(task.cell.recipe), torch.device(task.device), task.data_dir)
    result = _made(task, split, record)
    for network in task.left(record):
        if result is None:
            settings = replace(task.cell.recipe, eval_epochs=task.cell.recipe.real_epochs)
            protocol = Protocol.of(settings, split.test.shape, network=network)
            whole = (split.train.images, split.train.labels, split.test, split.normalization)
            evaluation = evaluate_images(*whole, protocol)
        else:
            evaluation = evaluate(result, split, device=task.device, network=network)
        record.accuracies[network] = list(evaluation.accuracies)
        record.protocols[network] = asdict(evaluation.protocol)
        task.write(record)


def _of_data(recipe: Recipe) -> Recipe:
    """A recipe that has nothing but what determines the data set, so that cells of one data set share it."""
    read = ("dataset", "size", "skip_unreadable", "image_memory", "image_disk")
    made = Recipe(**{name: getattr(recipe, name) for name in read})
    return replace(made, limit_train=recipe.limit_train, seed=recipe.seed) if recipe.limit_train else made


@functools.lru_cache(maxsize=1)
def _split(recipe: Recipe, device: torch.device, data_dir: str | None) -> DataSplit:
    return load_split(recipe, device, data_dir)


def _made(task: Task, split: DataSplit, record: Record) -> Result | None:
    """The set of the cell; None for the whole training set."""
    record.data = fingerprint(split.train)
    if task.cell.coreset == WHOLE:
        return None
    result = _distilled(task, split, record) if task.cell.coreset is None else _chosen(task, split, record)
    result.save(task.folder)
    return result


def _distilled(task: Task, split: DataSplit, record: Record) -> Result:
    run = Run(task.cell.recipe, split, task.folder / CHECKPOINT_FILE, task.data_dir)
    try:
        result = run.complete()
    except DivergenceError as error:
        _note_progress(record, error.result)
        done = counted(record.iterations, "outer iteration")
        raise DreamAccelError(f"diverged after {done}: {error}") from None
    _note_progress(record, result)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def _note_progress(record: Record, result: Result) -> None:
    record.iterations = len(result.history)
    record.seconds = round(result.history[-1].seconds, 2) if result.history else 0.0


def _chosen(task: Task, split: DataSplit, record: Record) -> Result:
    recipe, train = task.cell.recipe, split.train
    began = time.perf_counter()
    rows = select_rows(recipe, train, Compute.of(recipe, split), str(task.cell.coreset), repeat=True)
    images = SyntheticSet(train.batch(rows).cpu())
    record.seconds = round(time.perf_counter() - began, 2)
    return Result(images, recipe, split.normalization, train.class_names, data=record.data)
