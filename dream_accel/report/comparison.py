"""The tables of a comparison: CSV, Markdown, and an HTML page that needs no other file.

comparison.csv has a line for every row, data set, IPC and network, with mean and standard deviation over seeds;
cells.csv one for every cell and network, with its seconds, and the reason of one that failed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.cells import Record
from ..evaluation.grid import WHOLE, Cell
from ..runtime.files import write_text
from . import markup
from .comparison_table import Table, cost, protocol, reasons, tables

TABLE_FILES = ("comparison.csv", "cells.csv", "comparison.md", "comparison.html")


def write_comparison(title: str, rows: Sequence[tuple[Cell, Record]], folder: Path) -> None:
    """Write comparison.csv, cells.csv, comparison.md and comparison.html, each atomically.

    Args:
        title: of the comparison.
        rows: every cell with what is measured of it; cells of which nothing is measured are left open.
        folder: the folder to write to, which must exist.

    Raises:
        OSError: the folder cannot be written to.
    """
    made = tables(rows)
    write_text(folder / "comparison.csv", _summary(made))
    write_text(folder / "cells.csv", _cells(rows))
    write_text(folder / "comparison.md", _markdown(title, rows, made))
    write_text(folder / "comparison.html", _page(title, rows, made))


def _summary(made: Sequence[Table]) -> str:
    columns = ("name", "dataset", "ipc", "network", "accuracy", "std", "seeds", "seeds_asked", "published", "source")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for table in made:
        for name, entries in table.lines:
            for (ipc, network), entry in zip(table.columns, entries, strict=True):
                if entry is None:
                    continue
                there = "" if entry.published is None else entry.published.accuracy
                source = "" if entry.published is None else entry.published.source
                measured = (f"{entry.mean:.2f}", f"{entry.std:.2f}") if entry.seeds else ("", "")
                line = (name, table.dataset, ipc, network, *measured, entry.seeds, entry.asked, there, source)
                writer.writerow(line)
    return text.getvalue()


def _cells(rows: Sequence[tuple[Cell, Record]]) -> str:
    columns = ("name", "recipe", "coreset", "dataset", "images", "ipc", "factor", "seed", "network", "accuracy", "std")
    more = ("networks", "epochs", "iterations", "seconds", "failed", "device", "threads", "torch", "dream-accel")
    text = io.StringIO()
    writer = csv.DictWriter(text, (*columns, *more), lineterminator="\n", restval="")
    writer.writeheader()
    for cell, record in rows:
        recipe = cell.recipe
        own = {
            "name": cell.name,
            "recipe": "" if cell.coreset else recipe.recipe,
            "coreset": cell.coreset or "",
            "dataset": recipe.dataset,
            "images": record.data.get("images", ""),
            "ipc": "" if cell.coreset == WHOLE else recipe.ipc,
            "factor": recipe.factor,
            "seed": recipe.seed,
            "iterations": record.iterations,
            "seconds": record.seconds,
            "device": record.device,
            "threads": record.threads or "",
            **{name: record.versions.get(name, "") for name in ("torch", "dream-accel")},
        }
        for network in cell.networks:
            measured = {"network": network}
            if network in record.accuracies:
                of = record.protocols[network]
                spread = {"accuracy": f"{record.mean(network):.2f}", "std": f"{record.std(network):.2f}"}
                measured |= {**spread, "networks": of["networks"], "epochs": of["epochs"]}
            else:
                measured["failed"] = record.reason or ""
            writer.writerow({**own, **measured})
    return text.getvalue()


def _grids(rows: Sequence[tuple[Cell, Record]], made: Sequence[Table]) -> list[tuple[str, list[list[str]]]]:
    """Heading, and table with its header, of everything that Markdown and HTML show."""
    parts = [(table.dataset, [table.header(), *table.texts()]) for table in made]
    return [*parts, ("Cost", cost(rows))]


def _markdown(title: str, rows: Sequence[tuple[Cell, Record]], made: Sequence[Table]) -> str:
    lines = [f"# {title}", "", *(f"{sentence}\n" for sentence in protocol(rows, made))]
    for heading, (header, *body) in _grids(rows, made):
        lines += [f"## {heading}", "", _pipes(header), "|" + "---|" * len(header), *map(_pipes, body), ""]
    if failed := reasons(rows):
        lines += ["## Not measured", "", *(f"- {reason}" for reason in failed), ""]
    return "\n".join(lines)


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _page(title: str, rows: Sequence[tuple[Cell, Record]], made: Sequence[Table]) -> str:
    parts = [markup.paragraph(line) for line in protocol(rows, made)]
    for heading, (header, *body) in _grids(rows, made):
        parts += [markup.heading(heading), markup.table(body, header)]
    if failed := reasons(rows):
        parts += [markup.heading("Not measured"), markup.bullets(failed)]
    return markup.page(title, parts)
