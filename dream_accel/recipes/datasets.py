"""What the methods prescribe for each data set (DREAM's published settings), and ours for the handwritten digits."""

from __future__ import annotations

from typing import Any

_NO_FLIP = "color_crop_scale_rotate"
_SMALL: dict[str, Any] = {"metric": "l1", "pixel_lr": 1e-4, "network_images": 500}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "ipc": 5,
        "factor": 1,
        "iterations": 5,
        "inner_steps": 20,
        "clusters": 64,
        "width": 32,
        "depth": 2,
        "base_size": 8,
        "pixel_lr": 5e-3,
        "network_images": 500,
        "match_augment": "color_crop",
        "train_augment": "color_crop",
        "cutmix": 0.0,
        "eval_epochs": 300,
    },
    "mnist": {**_SMALL, "base_size": 28, "match_augment": "color_crop", "train_augment": _NO_FLIP, "cutmix": 0.0},
    "fashion-mnist": {**_SMALL, "base_size": 28},
    "svhn": {"network_images": 500, "train_augment": _NO_FLIP},
    "cifar10": {"network_images": 2000},
    "cifar100": {"network_images": 2000},
    "tiny-imagenet": {"network_images": 1000, "clusters": 64, "depth": 4},
}


def dataset_defaults(dataset: str) -> dict[str, Any]:
    """Settings prescribed for a data set, in any spelling ``load_dataset`` takes; none for one's own images."""
    return _DEFAULTS.get(dataset.strip().lower().replace("_", "-"), {})
