"""The content of the tables of a comparison: means over seeds, published figures, protocol, cost, reasons."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import counted
from ..evaluation.cells import Record
from ..evaluation.grid import WHOLE, Cell
from ..evaluation.published import Published, published

Rows = Sequence[tuple[Cell, Record]]


@dataclass(frozen=True)
class Entry:
    """One place of a table.

    Attributes:
        means: mean accuracy over the networks of every seed that is measured, percent.
        spread: accuracy of every network where there is one seed, percent.
        asked: seeds of the grid.
        failed: seeds whose cells failed.
        published: the figure of the papers.
    """

    means: tuple[float, ...]
    spread: tuple[float, ...]
    asked: int
    failed: int
    published: Published | None

    @property
    def seeds(self) -> int:
        """Number of seeds measured."""
        return len(self.means)

    @property
    def mean(self) -> float:
        """Mean over seeds, percent."""
        return statistics.fmean(self.means)

    @property
    def std(self) -> float:
        """Population standard deviation over seeds, or over networks if the grid has one seed."""
        return statistics.pstdev(self.means if self.asked > 1 else self.spread)

    def __str__(self) -> str:
        there = "" if self.published is None else f" ({self.published.accuracy:.1f})"
        if not self.seeds:
            return ("failed" if self.failed else "–") + there
        left = "" if self.seeds == self.asked else f", {self.seeds} of {self.asked} seeds"
        return f"{self.mean:.1f} ± {self.std:.1f}{left}{there}"


@dataclass(frozen=True)
class Table:
    """The accuracies on one data set.

    Attributes:
        dataset: its name.
        columns: images per class and network.
        lines: the name of a row, and an entry for every column, or None where the grid has no cell.
    """

    dataset: str
    columns: tuple[tuple[int, str], ...]
    lines: tuple[tuple[str, tuple[Entry | None, ...]], ...]

    def header(self) -> list[str]:
        """The names of the columns; the network is named where there are several."""
        several = len({network for _, network in self.columns}) > 1
        return ["set", *(f"IPC {ipc}" + (f", {network}" if several else "") for ipc, network in self.columns)]

    def texts(self) -> list[list[str]]:
        """The rows in words."""
        return [[name, *("" if entry is None else str(entry) for entry in entries)] for name, entries in self.lines]


def tables(rows: Rows) -> list[Table]:
    """Make one table per data set, rows and columns in the order of the grid."""
    made = []
    for dataset in dict.fromkeys(cell.recipe.dataset for cell, _ in rows):
        own = [(cell, record) for cell, record in rows if cell.recipe.dataset == dataset]
        # The whole training set has no IPC, and stands in the columns of all others.
        of_columns = [cell for cell, _ in own if cell.coreset != WHOLE] or [cell for cell, _ in own]
        pairs = {(cell.recipe.ipc, network) for cell in of_columns for network in cell.networks}
        networks = [*dict.fromkeys(network for cell, _ in own for network in cell.networks)]
        columns = tuple(sorted(pairs, key=lambda pair: (pair[0], networks.index(pair[1]))))
        lines = []
        for name in dict.fromkeys(cell.name for cell, _ in own):
            named = [(cell, record) for cell, record in own if cell.name == name]
            lines.append((name, tuple(_entry(named, *column) for column in columns)))
        made.append(Table(dataset, columns, tuple(lines)))
    return made


def _entry(rows: Rows, ipc: int, network: str) -> Entry | None:
    here = [
        (cell, record)
        for cell, record in rows
        if network in cell.networks and (cell.coreset == WHOLE or cell.recipe.ipc == ipc)
    ]
    if not here:
        return None
    measured = [record for _, record in here if network in record.accuracies]
    first = here[0][0]
    return Entry(
        tuple(record.mean(network) for record in measured),
        tuple(measured[0].accuracies[network]) if measured else (),
        len(here),
        sum(record.reason is not None and network not in record.accuracies for _, record in here),
        published(first.recipe, first.coreset, network),
    )


def protocol(rows: Rows, made: Sequence[Table]) -> list[str]:
    """Say how the accuracies were measured, on what, and where the published ones come from."""
    chosen = [cell for cell, _ in rows if cell.coreset != WHOLE] or [cell for cell, _ in rows]
    recipes = [cell.recipe for cell in chosen]
    seeds = _listed(cell.recipe.seed for cell, _ in rows)
    over = "over seeds of the mean over networks" if "," in seeds else "over networks"
    networks = _listed(recipe.eval_networks for recipe in recipes)
    epochs = _listed(recipe.eval_epochs for recipe in recipes)
    each = f"networks per set {networks}, epochs {epochs}"
    whole = [cell.recipe.real_epochs for cell, _ in rows if cell.coreset == WHOLE]
    each += f" ({_listed(whole)} on the whole training set)" if whole else ""
    said = [
        f"Test accuracy in percent, mean ± standard deviation {over}; seeds {seeds}. Networks are trained from scratch "
        f"on the set alone and tested once after the last epoch: {each}, batch "
        f"{_listed(r.eval_batch for r in recipes)}, "
        f"augmentation {_listed(r.train_augment or 'none' for r in recipes)}.",
        _data(rows),
    ]
    sources = {
        entry.published.source: None for t in made for _, line in t.lines for entry in line if entry and entry.published
    }
    if sources:
        said.append(
            "In brackets: published figures of the methods as they are, ConvNet, by the papers' own protocols; "
            f"sources: {'; '.join(sources)}."
        )
    machines = {(record.device, record.threads, record.versions.get("torch", "")): None for _, record in rows}
    known = [f"{d}, {counted(n, 'thread')} per process, torch {torch}" for d, n, torch in machines if d]
    return [*said, *([f"Measured on {'; '.join(known)}."] if known else [])]


def _data(rows: Rows) -> str:
    images: dict[str, str] = {}
    for cell, record in rows:
        dataset, data = cell.recipe.dataset, record.data
        if data:
            images[dataset] = f"{dataset}, {data['images']:,} training images of {'x'.join(map(str, data['shape']))}"
        images.setdefault(dataset, dataset)
    networks = _listed(
        cell.recipe.network + (f" of width {cell.recipe.width}" if cell.recipe.network == "convnet" else "")
        for cell, _ in rows
        if cell.coreset != WHOLE
    )
    return f"Data: {'; '.join(images.values())}." + (f" Sets are made with {networks}." if networks else "")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))


def cost(rows: Rows) -> list[list[str]]:
    """Outer iterations and seconds of every row that is distilled or chosen, means over seeds, with a header."""
    lines = [["set", "data set", "IPC", "factor", "outer iterations", "seconds"]]
    kinds: dict[tuple[str, str, int, int], list[Record]] = {}
    for cell, record in rows:
        if cell.coreset != WHOLE and record.accuracies:
            key = (cell.name, cell.recipe.dataset, cell.recipe.ipc, cell.recipe.factor)
            kinds.setdefault(key, []).append(record)
    for (name, dataset, ipc, factor), records in kinds.items():
        iterations = statistics.fmean(record.iterations for record in records)
        seconds = statistics.fmean(record.seconds for record in records)
        lines.append([name, dataset, str(ipc), str(factor), f"{iterations:.0f}", f"{seconds:.1f}"])
    return lines


def reasons(rows: Rows) -> list[str]:
    """The cells that failed, each with its reason."""
    return [f"{cell}: {record.reason}" for cell, record in rows if record.reason is not None]
