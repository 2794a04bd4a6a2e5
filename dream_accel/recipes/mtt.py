"""MTT: parameters after training on the synthetic set brought to those of networks trained on real images.

Cazenavette, Wang, Torralba, Efros and Zhu, *Dataset Distillation by Matching Training Trajectories*, CVPR 2022,
arXiv 2203.11932. Experts are trained on the real images beforehand, and their parameters theta*_t are kept after every
epoch (:func:`dream_accel.train_experts`). A step draws an expert and a start epoch t below ``max_start_epoch``; a
student starts from theta*_t and takes ``synthetic_steps`` SGD steps of a learned size on augmented synthetic images,
which leads to theta. The loss is::

    |theta - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2        with M = expert_epochs

and moves the pixels of all classes and the step size. Real images are used to train the experts and to initialise the
synthetic set, and nowhere else.

The published learning rate is that of normalised images. Unlike in the published loop, images are not whitened (ZCA),
pixels are clamped to [0, 1] when an outer iteration begins, and the step size is learned through its logarithm.
"""

from __future__ import annotations

from typing import Any

from ..matching.trajectories import TrajectoryMatching
from .settings import SHARED, TRAJECTORIES, Recipe

NAME = "mtt"

_AUGMENT = "color_crop_cutout_flip_scale_rotate"
_NO_FLIP = "color_crop_cutout_scale_rotate"

DEFAULTS: dict[str, Any] = {
    "strategy": "random",
    "init": "random",
    "factor": 1,
    "iterations": 50,
    "inner_steps": 100,
    "n_experts": 100,
    "trajectory_epochs": 50,
    "synthetic_steps": 20,
    "expert_epochs": 3,
    "max_start_epoch": 25,
    "student_lr": 0.01,
    "student_lr_lr": 1e-5,
    "pixel_lr": 1000.0,
    "pixel_lr_rule": "normalized",
    "pixel_momentum": 0.5,
    "pixel_sweep": "joint",
    "network_lr": 0.01,
    "network_batch": 256,
    "train_augment": _AUGMENT,
    "cutmix": 0.0,
    "synthetic_batch": 0,
    "synthetic_augment": _AUGMENT,
}
"""The defaults of the published code, for any data set: 5,000 steps."""

BY_IPC: dict[int, dict[str, Any]] = {}

BY_DATASET: dict[str, dict[str, Any]] = {
    # Not published for these: their digits have no mirror image.
    "mnist": {"train_augment": _NO_FLIP, "synthetic_augment": _NO_FLIP},
    "svhn": {"train_augment": _NO_FLIP, "synthetic_augment": _NO_FLIP},
    "tiny-imagenet": {"depth": 4},
    # Not published; chosen on a held-out part of the training set. A run of minutes, experts included.
    "digits": {
        "ipc": 5,
        "clusters": 64,
        "pixel_lr": 30.0,
        "iterations": 4,
        "inner_steps": 25,
        "n_experts": 4,
        "trajectory_epochs": 24,
        "synthetic_steps": 20,
        "expert_epochs": 2,
        "max_start_epoch": 20,
        "student_lr": 0.03,
        "width": 32,
        "depth": 2,
        "network_batch": 16,
        "train_augment": "color_crop",
        "synthetic_augment": "color_crop",
        "eval_epochs": 300,
        "eval_networks": 5,
    },
}
"""The settings that differ between data sets."""

BY_SIZE: dict[int, dict[str, Any]] = {}
"""Nothing is published for large images but settings of single subsets of ImageNet."""

BY_DATASET_AND_IPC: dict[str, dict[int, dict[str, Any]]] = {
    "cifar10": {
        1: {"synthetic_steps": 50, "expert_epochs": 2, "max_start_epoch": 2, "pixel_lr": 100.0, "student_lr_lr": 1e-7},
        10: {"synthetic_steps": 30, "expert_epochs": 2, "max_start_epoch": 20, "pixel_lr": 100.0, "student_lr": 1e-3},
        50: {"synthetic_steps": 30, "expert_epochs": 2, "max_start_epoch": 40, "student_lr": 1e-3},
    },
    "cifar100": {
        1: {"synthetic_steps": 20, "expert_epochs": 3, "max_start_epoch": 20},
        10: {"synthetic_steps": 20, "expert_epochs": 2, "max_start_epoch": 20},
        50: {"synthetic_steps": 80, "expert_epochs": 2, "max_start_epoch": 40, "synthetic_batch": 125},
    },
    "tiny-imagenet": {
        1: {"synthetic_steps": 10, "expert_epochs": 2, "max_start_epoch": 10, "pixel_lr": 1e4, "student_lr_lr": 1e-4},
        10: {
            "synthetic_steps": 20,
            "expert_epochs": 2,
            "max_start_epoch": 40,
            "pixel_lr": 1e4,
            "student_lr_lr": 1e-4,
            "synthetic_batch": 200,
        },
        50: {
            "synthetic_steps": 20,
            "expert_epochs": 2,
            "max_start_epoch": 40,
            "pixel_lr": 1e4,
            "student_lr_lr": 1e-4,
            "synthetic_batch": 300,
        },
    },
}
"""The published settings of a data set that depend on the images per class, from that number on."""

PACKED: dict[str, dict[str, Any]] = {}

USES = (
    (SHARED - {"match_augment", "max_synthetic"})
    | TRAJECTORIES
    | {
        "interval",
        "network_batch",
        "synthetic_batch",
        "synthetic_augment",
    }
)
"""The settings that the method reads; those of sampling are read when the experts are trained."""

SCHEDULE = "trajectories"


def objective(settings: Recipe) -> TrajectoryMatching:
    """Return the normalised distance of student and expert."""
    return TrajectoryMatching()
