"""DM+: mean features matched in a pool of trained networks that also classify the synthetic images.

Not of the DREAM paper: a recipe for short runs. DM (Zhao and Bilen, WACV 2023, arXiv 2110.04181) draws a random network
per step. Here ``trajectories`` networks are trained on real images, and ``stages`` states of each are kept with the
images that K-Means picks in their features; a step takes one of these states, and class c has the loss::

    loss_c = |mean f(augment(real_c)) - mean f(augment(synthetic_c))|^2
             + calibration_weight * mean CE(h(f(augment(synthetic_c))), c)

with ``h`` the last layer of that network. Networks, features and clusterings are computed once, and no step
differentiates twice. Encoders along training trajectories and a class-calibration loss are those of TGDD (*Trajectory
Guided Dataset Distillation with Balanced Distribution*, AAAI 2026); sampling, pool and settings are this program's own.
"""

from __future__ import annotations

from typing import Any

from ..matching.calibrated_features import CalibratedFeatureMatching
from ..matching.objective import Objective
from . import dm
from .dm import BY_IPC, BY_SIZE
from .dream import PACKED
from .settings import POOL, SHARED, Recipe

__all__ = ["BY_DATASET", "BY_IPC", "BY_SIZE", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "objective"]

NAME = "dm+"

DEFAULTS: dict[str, Any] = {
    **dm.DEFAULTS,
    "strategy": "dream",
    "init": "kmeans",
    "factor": 2,
    "batch": 128,
    "interval": 1,
    "trajectories": 5,
    "stages": 10,
    "stage_epochs": 1,
    "calibration_weight": 1.0,
}
"""The settings for any data set."""

BY_DATASET: dict[str, dict[str, Any]] = {
    "mnist": dm.BY_DATASET["mnist"],
    "svhn": dm.BY_DATASET["svhn"],
    "digits": {**dm.BY_DATASET["digits"], "factor": 1, "trajectories": 3, "stages": 3},
}
"""The settings that differ between data sets."""

USES = SHARED | POOL | {"interval", "network_batch", "network_parts", "stage_epochs", "calibration_weight"}

SCHEDULE = "trained_pool"


def objective(settings: Recipe) -> Objective:
    """Return the squared distance of the mean features plus the cross-entropy."""
    return CalibratedFeatureMatching(settings.calibration_weight)
