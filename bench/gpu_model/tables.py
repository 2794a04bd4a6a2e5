"""The tables of ``docs/gpu-model.md``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dream_accel.matching.class_gradients import CLASS_GRADIENTS

from ..kmeans_problems import SHAPES, Shape
from ..words import count, number
from . import changes, step
from .devices import ASSUMPTIONS, CONSTANTS, DEVICES
from .predicting import launches, predict
from .work import Prediction, seconds

_SECTION = re.compile(r"(<!-- gpu-model: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEAST_US = 1.0
"""Kernels that take less are left out of the table of kernels."""
_PYTORCH = ".".join(torch.__version__.split(".")[:2])
COUNTED_WITH = f"Launches are counted with PyTorch {_PYTORCH}; other versions launch a few more or less."
"""Said below the table of the step, whose launches are those of PyTorch's operators."""


def table() -> str:
    """Every table, in Markdown: constants, assumptions, and the predictions for the standard problems."""
    return "\n".join(f"### {name}\n\n{make()}" for name, make in SECTIONS.items())


def renewed(document: str) -> str:
    """A document with the text between ``<!-- gpu-model: NAME -->`` and ``<!-- end -->`` made again."""
    return _SECTION.sub(lambda found: found[1] + SECTIONS[found["name"]]() + found[3], document)


def _constants() -> str:
    rows = [
        [c.meaning, *(f"{getattr(device, c.field) / c.unit:,.4g}" for device in DEVICES.values()), c.source]
        for c in CONSTANTS
    ]
    return _markdown(["", *DEVICES, "source"], rows)


def _assumptions() -> str:
    values = (f"{1e6 * a.value:g} us" if a.value < 1e-3 else f"{a.value:g}" for a in ASSUMPTIONS)
    rows = [[a.meaning, value, a.reason] for a, value in zip(ASSUMPTIONS, values, strict=True)]
    return _markdown(["assumption", "value", "reason"], rows)


def _kmeans() -> str:
    rows = []
    for shape in SHAPES["cuda"]:
        s = changes.rows_of(shape)
        sizes: dict[str, Any] = {"groups": s.groups, "rows": s.rows, "features": s.features, "clusters": s.clusters}
        for precision in ("tf32", "fp32", "bf16"):
            found = [predict("kmeans iteration", device, precision=precision, **sizes) for device in DEVICES]
            rows.append([_named(shape), precision, *map(_cell, found)])
    return _markdown(["problem", "products", *DEVICES], rows)


def _kernels() -> str:
    device, s = DEVICES["H100 SXM"], changes.rows_of(changes.CIFAR10)
    rows = []
    for precision in ("tf32", "fp32"):
        of_changes = step.lloyd_iteration(s, device, precision, "farthest", full=False)[-1]
        for kernel in (*step.lloyd_iteration(s, device, precision, "farthest"), of_changes):
            memory, arithmetic = seconds(kernel, device)
            if max(memory, arithmetic) * 1e6 >= LEAST_US:
                work = [kernel.memory / 1e6, kernel.l2 / 1e6, 1e6 * memory, 1e6 * arithmetic]
                rows.append([f"`{kernel.name.strip('_')}`", precision, *map(number, work)])
    heads = ["kernel", "products", "DRAM, MB", "L2, MB", "memory, us", "arithmetic, us"]
    return _markdown(heads, rows)


def _step() -> str:
    """The parts of an outer iteration: recorded, and launched one by one."""
    parts = [("refresh", ""), *(("matching step", way) for way in CLASS_GRADIENTS), ("network update", "")]
    rows = []
    for kind, way in [*parts, ("outer iteration", "")]:
        chosen = {"class_gradients": way} if way else {}
        for graph in (True, False):
            found = [predict(kind, device, graph=graph, **chosen) for device in DEVICES]
            name = f"{kind}, {way}" if way else kind
            n = f"{launches(kind, 'H100 SXM', **chosen):,}" if graph else ""
            rows.append([name, "graph" if graph else "eager", n, *map(_cell, found)])
    return _markdown(["part", "", "launches", *DEVICES], rows) + f"\n{COUNTED_WITH}\n"


def _changes() -> str:
    rows = []
    for change in changes.CHANGES:
        cells = []
        for device in DEVICES.values():
            before, after = changes.milliseconds(change, device)
            cells.append(f"{number(before)} to {number(after)}")
        rows.append([change.name, f"{_named(change.shape)}, {change.precision}", *cells])
    return _markdown(["change", "problem", *DEVICES], rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "constants": _constants,
    "assumptions": _assumptions,
    "kmeans": _kmeans,
    "kernels": _kernels,
    "step": _step,
    "changes": _changes,
}


def _named(shape: Shape) -> str:
    groups = count(len(shape.sizes), "group")
    return f"{shape.mode}, {groups}, {sum(shape.sizes):,} x {shape.features:,}, K {shape.clusters}"


def _cell(prediction: Prediction) -> str:
    return f"{number(prediction.ms)} ({prediction.bound})"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
