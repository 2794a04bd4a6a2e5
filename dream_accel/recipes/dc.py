"""DC: gradients of real and synthetic images matched along networks that learn from the synthetic set.

Zhao, Mopuri and Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021, arXiv 2006.05929. Every outer
iteration draws a network; it is trained on the synthetic set between the matching steps. One step moves the pixels of
all classes along the gradient of the summed loss, in which class c has::

    loss_c = sum over tensors but 1-d ones, sum over rows of 1 - cos(grad CE(real_c), grad CE(synthetic_c))

The published learning rate is that of normalised images. Unlike in the published loop, pixels are clamped to [0, 1]
when an outer iteration begins.
"""

from __future__ import annotations

from typing import Any

from ..matching.gradients import GradientMatching
from ..matching.objective import Objective
from .settings import SHARED, Recipe

NAME = "dc"

DEFAULTS: dict[str, Any] = {
    "strategy": "random",
    "init": "noise",
    "batch": 256,
    "factor": 1,
    "iterations": 1000,
    "metric": "cos",
    "layers": "weights",
    "match_augment": "",
    "pixel_lr": 0.1,
    "pixel_lr_rule": "normalized",
    "pixel_momentum": 0.5,
    "pixel_sweep": "joint",
    "network_lr": 0.01,
    "synthetic_batch": 256,
    "synthetic_augment": "",
}
"""The published settings, for any data set."""

BY_IPC: dict[int, dict[str, Any]] = {
    1: {"inner_steps": 1, "synthetic_epochs": 1},
    10: {"inner_steps": 10, "synthetic_epochs": 50},
    20: {"inner_steps": 20, "synthetic_epochs": 25},
    30: {"inner_steps": 30, "synthetic_epochs": 20},
    40: {"inner_steps": 40, "synthetic_epochs": 15},
    50: {"inner_steps": 50, "synthetic_epochs": 10},
}
"""The published settings that depend on the images per class, from that number on."""

_NO_FLIP = "color_crop_scale_rotate"

BY_DATASET: dict[str, dict[str, Any]] = {
    "mnist": {"train_augment": _NO_FLIP},
    "svhn": {"train_augment": _NO_FLIP},
    # Not published: a run of seconds.
    "digits": {
        "ipc": 5,
        "batch": 64,
        "iterations": 10,
        "inner_steps": 5,
        "synthetic_epochs": 10,
        "width": 32,
        "depth": 2,
        "train_augment": "color_crop",
        "cutmix": 0.0,
        "eval_epochs": 300,
        "eval_networks": 5,
    },
}

BY_SIZE: dict[int, dict[str, Any]] = {}
"""The published rate is that of normalised images of any size, and nothing else is published for large ones."""

PACKED: dict[str, dict[str, Any]] = {}

USES = SHARED | {
    "interval",
    "metric",
    "layers",
    "class_gradients",
    "synthetic_epochs",
    "synthetic_batch",
    "synthetic_augment",
}

WITHOUT: dict[str, str] = {"real": "its networks learn from the synthetic set, so nothing of them can be computed once"}
"""The reason why a setting of other methods makes no sense here."""

SCHEDULE = "trained_on_synthetic"


def objective(settings: Recipe) -> Objective:
    """Return the distance of the gradients of the matched layers."""
    return GradientMatching(settings.metric, settings.layers)
