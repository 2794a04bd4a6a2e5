"""DREAM: gradient matching on representative real images.

Liu, Gu, Wang, Zhu, Jiang and You, *DREAM: Efficient Dataset Distillation by Representative Matching*, ICCV 2023,
arXiv 2302.14416. Every ``interval`` steps the current network embeds each class, and K-Means splits it into
``clusters`` sub-clusters; the ``per_cluster`` real images nearest each centre are matched until the next refresh. The
synthetic set is initialised with real images chosen by the same clustering. The loss of class c is::

    loss_c = sum over conv layers of d(grad CE(augment(real_c)), grad CE(augment(synthetic_c)))

with ``d`` the metric. Between the matching steps networks are trained on real images, as in IDC (Kim et al., ICML
2022).
"""

from __future__ import annotations

from typing import Any

from ..matching.gradients import GradientMatching
from ..matching.objective import Objective
from .settings import POOL, SHARED, Recipe

NAME = "dream"

DEFAULTS: dict[str, Any] = {
    "strategy": "dream",
    "init": "kmeans",
    "clusters": 128,
    "per_cluster": 1,
    "interval": 10,
    "kmeans_iterations": 100,
    "factor": 2,
    "iterations": 2000,
    "inner_steps": 100,
    "metric": "mse",
    "layers": "conv",
    "match_augment": "color_crop_cutout",
    "pixel_lr": 5e-3,
    "pixel_momentum": 0.5,
    "pixel_sweep": "per_class",
    "network": "convnet",
    "width": 128,
    "network_lr": 0.01,
    "network_images": 500,
    "cutmix": 0.5,
}
"""The published settings, for any data set."""

BY_IPC: dict[int, dict[str, Any]] = {}
"""The published settings that depend on the images per class: none but the pixel learning rate, by its rule."""

_L1: dict[str, Any] = {"metric": "l1", "pixel_lr": 1e-4}
_LARGE: dict[str, Any] = {"metric": "l1", "pixel_lr": 3e-3, "base_size": 224, "factor": 3, "iterations": 500}
_IMAGENET: dict[str, Any] = {**_LARGE, "size": 224, "network_images": 500}
_NO_FLIP = "color_crop_scale_rotate"

BY_DATASET: dict[str, dict[str, Any]] = {
    "mnist": {**_L1, "network_images": 500, "base_size": 28, "train_augment": _NO_FLIP},
    "fashion-mnist": {**_L1, "network_images": 500},
    "svhn": {"network_images": 500, "train_augment": _NO_FLIP},
    "cifar10": {"network_images": 2000},
    "cifar100": {"network_images": 2000},
    "tiny-imagenet": {"network_images": 1000, "clusters": 64, "depth": 4},
    # Subsets of ImageNet, of which the user passes the images; published for ResNet-10 with average pooling.
    "imagenet-10": _IMAGENET,
    "imagenet-100": {**_IMAGENET, "pixel_lr": 1e-3},
    # Not published; chosen on a held-out part of the training set.
    "digits": {
        "ipc": 5,
        "factor": 1,
        "iterations": 3,
        "inner_steps": 20,
        "clusters": 64,
        "width": 32,
        "depth": 2,
        "base_size": 8,
        "network_images": 500,
        "match_augment": "color_crop",
        "train_augment": "color_crop",
        "cutmix": 0.0,
        "eval_epochs": 300,
        "eval_networks": 5,
    },
}
"""The published settings that depend on the data set."""

BY_SIZE: dict[int, dict[str, Any]] = {64: {"network_images": 1000, "clusters": 64}, 128: _LARGE}
"""The settings of other data sets by their image size: those of Tiny-ImageNet from 64 pixels on, those of ImageNet-10
from 128 pixels on. The depth of the network follows the size in any case."""

PACKED: dict[str, dict[str, Any]] = {"mnist": {"match_augment": "color_crop", "cutmix": 0.0}}
"""Settings applied if the multi-formation factor is above 1: half-size digits do not survive cutout and CutMix."""

USES = (
    SHARED
    | POOL
    | {"interval", "metric", "layers", "class_gradients", "base_size"}
    | {"network_batch", "network_parts", "network_images"}
)
"""The settings that the method reads."""

SCHEDULE = "trained_on_real"


def objective(settings: Recipe) -> Objective:
    """Return the distance between the gradients of the matched layers."""
    return GradientMatching(settings.metric, settings.layers)
