"""Predicted times on GPUs, from bytes, FLOPs and launches; nothing here is measured.

``python -m dream_accel.bench.gpu_model`` prints the tables of ``docs/gpu-model.md``. :mod:`.devices` holds the
constants, :mod:`.work` the formula, :mod:`.kmeans` the work of the K-Means kernels, :mod:`.traced` and :mod:`.step`
that of the networks, counted from the code.
"""

from .devices import known_device
from .predict import launches, predict
from .tables import table
from .work import Prediction

__all__ = ["Prediction", "known_device", "launches", "predict", "table"]
