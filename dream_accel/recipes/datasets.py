"""What the methods prescribe for each data set (DREAM's published settings), and ours for the handwritten digits."""

from __future__ import annotations

from typing import Any

_NO_FLIP = "color_crop_scale_rotate"
_SMALL: dict[str, Any] = {"metric": "l1", "pixel_lr": 1e-4, "network_images": 500}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "ipc": 5,
        "factor": 1,
        "iterations": 3,
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
        "eval_networks": 5,
    },
    "mnist": {**_SMALL, "base_size": 28, "train_augment": _NO_FLIP},
    "fashion-mnist": _SMALL,
    "svhn": {"network_images": 500, "train_augment": _NO_FLIP},
    "cifar10": {"network_images": 2000},
    "cifar100": {"network_images": 2000},
    "tiny-imagenet": {"network_images": 1000, "clusters": 64, "depth": 4},
}


_MNIST_PACKED: dict[str, Any] = {"match_augment": "color_crop", "cutmix": 0.0}
"""Half-size digits do not survive being cut out or mixed."""


def dataset_defaults(dataset: str, factor: int | None = None) -> dict[str, Any]:
    """Settings prescribed for a data set, in any spelling ``load_dataset`` takes; none for one's own images.

    Args:
        dataset: its name.
        factor: the multi-formation factor, where the caller chose one.
    """
    name = dataset.strip().lower().replace("_", "-")
    if name == "mnist" and factor != 1:
        return {**_DEFAULTS[name], **_MNIST_PACKED}
    return _DEFAULTS.get(name, {})
