"""Predicted times on GPUs, from bytes, FLOPs and launches; nothing here is measured.

``python -m dream_accel.bench.gpu_model`` prints the tables of ``docs/gpu-model.md``. :mod:`.devices` holds the
constants, :mod:`.work` the formula, :mod:`.kmeans` the work of the K-Means kernels, :mod:`.traced` and :mod:`.step`
that of the networks, counted from the code. Names are loaded when first used: a GPU is looked up without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from .devices import known_device

_HOMES = {"Prediction": "work", "launches": "predicting", "predict": "predicting", "table": "tables"}

__all__ = ["Prediction", "known_device", "launches", "predict", "table"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
