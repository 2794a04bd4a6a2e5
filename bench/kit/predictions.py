"""Predictions of the GPU model beside what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from dream_accel.runtime.gpu_names import mig_profile

from ..measurement import Measurement
from ..words import count, number

KINDS = {
    "time per Lloyd iteration": "kmeans iteration",
    "time of a refresh": "refresh",
    "time of a matching step": "matching step",
    "time of a network update": "network update",
    "time of an outer iteration": "outer iteration",
}
"""Kinds of prediction by the metric they are compared with."""


def predictions(device_name: str, rows: Sequence[Measurement]) -> str | None:
    """A Markdown table of measured and predicted milliseconds of ours; None while there is no model.

    Args:
        device_name: the GPU by the name its driver gives.
        rows: of any benchmarks; those the model has no kind for are passed over.
    """
    try:
        from ..gpu_model import known_device
    except ImportError:
        return None
    profile = mig_profile(device_name)
    if profile is not None:
        return (
            f"{device_name} is a MIG slice ({profile}), and the model predicts whole GPUs: what was measured on the "
            "slice is compared with no prediction; measure on a whole GPU for that.\n"
        )
    device = known_device(device_name)
    if device is None:
        return f"The model has no constants of {device_name}.\n"
    from ..gpu_model import predict  # imports torch, which a part of the kit on another device does without

    lines = []
    for what, measured, kind, shape in _asked(rows):
        try:
            found = predict(kind, device, **shape)
            cells = f"{number(measured)} | {number(found.ms)} | {measured / found.ms:.2f} | {found.bound}"
        except Exception as error:  # one row without a prediction leaves the others theirs
            cells = f"{number(measured)} | – | – | {type(error).__name__}: {error}"
        lines.append(f"| {what} | {cells} |\n")
    head = "| what | measured, ms | predicted, ms | measured / predicted | bound |\n|---|---|---|---|---|\n"
    return head + "".join(lines) if lines else "Nothing was measured that the model predicts.\n"


def _asked(rows: Sequence[Measurement]) -> Iterator[tuple[str, float, str, dict[str, Any]]]:
    fits = [re.fullmatch(r"whole fit, (\d+) iterations", row.metric) for row in rows]
    of_fit = next((int(found[1]) for found in fits if found), None)
    for row in rows:
        kind, how = KINDS.get(row.metric), row.mode.split(", ")
        if kind is None or not row.provider.startswith("dream") or row.unit != "ms":
            continue
        shape: dict[str, Any] = {"graph": bool({"graph", "graphs"} & {*how})}
        what = f"{kind}, {', '.join(how[1:])}"
        if kind == "kmeans iteration":
            shape |= {"groups": row.groups, "rows": row.rows, "features": row.features, "clusters": row.clusters}
            shape |= {"precision": "fp32" if "fp32" in how else "tf32", "empty": "keep", "of_fit": of_fit}
            what += f", {how[0]}, {count(row.groups, 'group')}, {row.rows:,} x {row.features:,}, K {row.clusters}"
        elif kind == "matching step" and how[1] in ("loop", "vmap", "capture"):
            shape["class_gradients"] = how[1]
        yield what, row.p50, kind, shape
