"""The data set of a run: named by the recipe or given by the caller, resized and subsampled as the recipe says."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ..data import DataSplit, ImageSet, as_split, load_dataset, resize, subset
from ..random import hash_rows
from ..recipes.settings import Recipe
from ..runtime.devices import device_errors

SAMPLED_IMAGES = 512
"""Number of images whose pixels a fingerprint reads."""


def load_split(
    recipe: Recipe,
    device: torch.device,
    data_dir: str | None = None,
    download: bool = False,
    data: Any = None,
    at_most: bool = False,
) -> DataSplit:
    """Load the data set of a run, apply the recipe's ``size`` and ``limit_train``, and move it to a device.

    Args:
        recipe: names the data set if ``data`` is None.
        device: the device to move the images to.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        data: the caller's own data set, as :func:`dream_accel.data.as_split` takes it.
        at_most: take :func:`images_there_are` instead of refusing a ``limit_train`` that does not fit the data set.

    Returns:
        the data set.

    Raises:
        DreamAccelError: the data set is not found, cannot be read, is smaller than ``limit_train``, or does not fit the
            device.
    """
    size = recipe.size or None
    if data is None:
        split = load_dataset(
            recipe.dataset,
            data_dir,
            download,
            size,
            recipe.skip_unreadable,
            image_memory=recipe.image_memory,
            image_disk=recipe.image_disk,
        )
    else:
        split = resize(as_split(data), size)
    limit = images_there_are(recipe.limit_train, split.train) if at_most else recipe.limit_train
    if 0 < limit != len(split.train):
        split = subset(split, limit, recipe.seed)
    with device_errors(device, "choose a smaller size or limit_train, or another device"):
        return split.to(device)


def images_there_are(limit: int, train: ImageSet) -> int:
    """Return a number of training images that a data set allows: ``limit``, but one per class at least and all at most.

    Args:
        limit: the number asked for; 0, for all, stays 0.
        train: the training set.
    """
    return limit and min(max(limit, train.n_classes), len(train))


def fingerprint(train: ImageSet) -> dict[str, Any]:
    """Describe a training set so that another one is recognised.

    Args:
        train: the training set of a run, resized and subsampled.

    Returns:
        ``images``, their number; ``shape``, (channels, height, width); ``class_names``; and ``sample``, a hash of all
        labels and of the pixels of at most :data:`SAMPLED_IMAGES` seeded images. The values are those that JSON gives
        back, and the same on every device.
    """
    order = hash_rows(torch.arange(len(train)), 0, "fingerprint").argsort()
    rows = order[:SAMPLED_IMAGES].sort().values.to(train.device)
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (train.labels, train.images.index_select(0, rows)):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return {
        "images": len(train),
        "shape": list(train.shape),
        "class_names": list(train.class_names),
        "sample": digest.hexdigest(),
    }


def data_difference(stored: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Say in words what differs between two fingerprints; None if they are equal."""
    for key, words in _WORDS.items():
        if stored.get(key) != found[key]:
            return (
                f"{words} {_shown(stored.get(key))} there and {_shown(found[key])} here" if key != "sample" else words
            )
    return None


_WORDS = {
    "images": "training images:",
    "shape": "channels, height and width:",
    "class_names": "class names:",
    "sample": "pixels or labels differ",
}


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ", ".join(map(str, value[:20])) + (f", ... ({len(value)})" if len(value) > 20 else "")
