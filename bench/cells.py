"""Cells of a comparison of methods: their rows in a CSV, and the table made from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CORESETS = ("random", "herding", "k-center", "kmeans", "forgetting")
"""Cells that choose real images and distil nothing."""


@dataclass(frozen=True)
class Row:
    """One cell."""

    dataset: str
    images: int
    network: str
    ipc: int
    cell: str
    settings: str
    """what the cell changes of its recipe"""
    factor: int
    seed: int
    iterations: int
    """outer iterations within the seconds"""
    seconds: float
    """of the distillation or the choice"""
    start: float
    """accuracy of the initial images, percent"""
    accuracy: float
    """percent"""
    evaluated_on: str
    networks: int
    epochs: int
    device: str
    threads: int
    versions: str
    commit: str


def table(rows: Sequence[Row]) -> str:
    """Render Markdown: one line per cell, mean and population standard deviation over its seeds."""
    if not rows:
        return "(no rows)\n"
    first = rows[0]
    lines = [
        f"{first.dataset}, {first.images:,} training images, {first.network}, IPC {first.ipc}. Accuracy on the "
        f"{first.evaluated_on}, percent, mean ± std over seeds, {first.networks} network each, {first.epochs} epochs. "
        f"{first.device}, {first.threads} thread, {first.versions}.",
        "",
        "| set | factor | initial images | accuracy | outer iterations | seconds | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in dict.fromkeys(row.cell for row in rows):
        own = [row for row in rows if row.cell == cell]
        chosen = cell in CORESETS
        columns = [
            f"{cell} real images" if chosen else cell,
            str(own[0].factor),
            "–" if chosen else _spread([row.start for row in own]),
            _spread([row.accuracy for row in own]),
            "–" if chosen else f"{statistics.fmean(row.iterations for row in own):.0f}",
            f"{statistics.fmean(row.seconds for row in own):.0f}",
            str(len(own)),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} ± {statistics.pstdev(values):.2f}"
