"""DM: mean features of real and synthetic images matched in random networks.

Zhao and Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181. Every step draws a
network, which is never trained, and moves the pixels of all classes along the gradient of the summed loss, in which
class c has::

    loss_c = |mean f(augment(real_c)) - mean f(augment(synthetic_c))|^2

No parameter is differentiated, so a step costs a fraction of one of gradient matching. The published learning rate is
that of normalised images. Unlike in the published loop, pixels are clamped to [0, 1] once per outer iteration.
"""

from __future__ import annotations

from typing import Any

from ..matching.features import FeatureMatching
from ..matching.objective import Objective
from .settings import SETTINGS, TRAJECTORIES, Recipe

NAME = "dm"

_NO_FLIP = "color_crop_cutout_scale_rotate"

DEFAULTS: dict[str, Any] = {
    "strategy": "random",
    "init": "random",
    "batch": 256,
    "factor": 1,
    "iterations": 200,
    "inner_steps": 100,
    "match_augment": "color_crop_cutout_flip_scale_rotate",
    "pixel_lr": 1.0,
    "pixel_lr_rule": "normalized",
    "pixel_momentum": 0.5,
    "pixel_sweep": "joint",
}
"""The published settings, for any data set: 20,000 steps with a network each."""

BY_IPC: dict[int, dict[str, Any]] = {}

BY_DATASET: dict[str, dict[str, Any]] = {
    "mnist": {"match_augment": _NO_FLIP},
    "svhn": {"match_augment": _NO_FLIP},
    # Not published: a run of seconds.
    "digits": {
        "ipc": 5,
        "batch": 64,
        "iterations": 3,
        "inner_steps": 100,
        "width": 32,
        "depth": 2,
        "match_augment": "color_crop",
        "train_augment": "color_crop",
        "cutmix": 0.0,
        "eval_epochs": 300,
        "eval_networks": 5,
    },
}
"""The published settings that differ between data sets."""

PACKED: dict[str, dict[str, Any]] = {}

USES = (
    SETTINGS
    - TRAJECTORIES
    - {
        "metric",
        "layers",
        "feature_weight",
        "class_gradients",
        "base_size",
        "network_batch",
        "network_images",
        "pretrain_epochs",
        "synthetic_epochs",
        "synthetic_batch",
        "synthetic_augment",
    }
)

SCHEDULE = "fresh_networks"


def objective(settings: Recipe) -> Objective:
    """Return the squared distance of the mean features."""
    return FeatureMatching("mse")
