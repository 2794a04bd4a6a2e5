"""Published accuracies: those that the papers, or others who quote them, print for ConvNets.

Test accuracy in percent, by method, data set, images per class and factor. A missing figure is one that we could not
read, not one that does not exist. Protocols differ between the papers, and some report the best epoch of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

from ..recipes import Recipe, recipe

SOURCES: dict[str, str] = {
    "dream": "Liu et al., arXiv 2302.14416, as quoted by others",
    "idc": "Kim et al., arXiv 2205.14959; on CIFAR as quoted by others",
    "idc-i": "Kim et al., arXiv 2205.14959",
    "mtt": "Cazenavette et al., arXiv 2203.11932",
    "dsa": "Zhao and Bilen, arXiv 2102.08259",
    "dm": "Zhao and Bilen, arXiv 2110.04181",
    "dc": "Zhao et al., arXiv 2006.05929",
    "herding": "quoted beside these methods",
    "random": "quoted beside these methods",
    "whole": "quoted beside these methods",
}
"""Origin of the figures of a method or coreset."""


class Published(NamedTuple):
    """A published accuracy.

    Attributes:
        accuracy: percent.
        source: its origin.
    """

    accuracy: float
    source: str


_CIFAR10: dict[str, tuple[float, float, float]] = {
    "dream": (51.1, 69.4, 74.8),
    "idc": (50.6, 67.5, 74.5),
    "mtt": (46.3, 65.6, 71.6),
    "dsa": (28.8, 52.1, 60.6),
    "dm": (26.0, 48.9, 63.0),
    "dc": (28.3, 44.9, 53.9),
    "herding": (21.5, 31.6, 40.4),
    "random": (15.4, 31.0, 50.6),
}
_CIFAR100: dict[str, tuple[float | None, ...]] = {
    "dream": (29.5, 46.8),
    "idc": (None, 45.1),
    "mtt": (24.3, 40.1),
    "dsa": (13.9, 32.3),
    "dm": (11.4, 29.7),
    "dc": (12.8, 25.2),
    "herding": (8.4, 17.3),
    "random": (4.2, 14.6),
}
_SVHN: dict[str, tuple[float, float, float]] = {
    "idc-i": (46.7, 77.0, 87.9),
    "idc": (68.5, 87.5, 90.1),
    "dc": (31.2, 76.1, 82.3),
    "dsa": (27.5, 79.2, 84.4),
}
_MNIST: dict[str, tuple[float, float, float]] = {
    "idc-i": (88.9, 98.0, 98.8),
    "idc": (94.2, 98.4, 99.1),
    "dc": (91.7, 97.4, 98.8),
    "dsa": (88.7, 97.8, 99.2),
}
_FASHION_MNIST: dict[str, tuple[float, float, float]] = {
    "idc-i": (70.7, 85.3, 89.1),
    "idc": (81.0, 86.0, 86.2),
    "dc": (70.5, 82.3, 83.6),
    "dsa": (70.6, 84.6, 88.7),
}
_TINY_IMAGENET: dict[str, tuple[float, float, float]] = {
    "random": (1.4, 5.0, 15.0),
    "dm": (3.9, 12.9, 24.1),
    "mtt": (8.8, 23.2, 28.0),
}
_TABLES: Mapping[str, Mapping[str, tuple[float | None, ...]]] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "svhn": _SVHN,
    "mnist": _MNIST,
    "fashion-mnist": _FASHION_MNIST,
    "tiny-imagenet": _TINY_IMAGENET,
}
_IPCS = (1, 10, 50)
_WHOLE = {"cifar10": 84.8, "cifar100": 56.2}

FACTORS = {"dream": 2, "idc": 2}
"""The factor of methods that pack images; others store them whole."""

PUBLISHED: Mapping[tuple[str, str, int, int], float] = {
    (method, dataset, ipc, FACTORS.get(method, 1)): accuracy
    for dataset, table in _TABLES.items()
    for method, row in table.items()
    for ipc, accuracy in zip(_IPCS, row, strict=False)
    if accuracy is not None
}
"""Accuracy, percent, by (method or coreset, data set, images per class, factor)."""

_OWN = ("sampling", "matching", "pixels")
"""The panels of settings that make a method what it is."""
_FREE = ("iterations", "inner_steps", "pixel_lr", "kmeans_iterations", "match_augment", "max_synthetic", "base_size")
"""Settings of these panels that may differ: a shorter run, tuned to its length, is still one of the method."""


def published(settings: Recipe, coreset: str | None, network: str) -> Published | None:
    """Look up the published accuracy of a method as it is, or of a coreset.

    Args:
        settings: of the run, or of the choice.
        coreset: the rule that chose real images, ``"whole"`` for the training set, or None for a run.
        network: the network that is trained on the set; the figures are those of ConvNets.

    Returns:
        None where nothing is printed, for a method whose sampling, initialisation or objective is not its own (DC with
        DREAM's batches is not DC), and for other networks.
    """
    if network != "convnet" or settings.network != "convnet":
        return None
    dataset = settings.dataset.strip().lower().replace("_", "-")
    method = settings.recipe if coreset is None else coreset
    if method == "whole":
        found = _WHOLE.get(dataset)
    elif coreset is None and not _as_published(settings):
        return None
    else:
        found = PUBLISHED.get((method, dataset, settings.ipc, settings.factor))
    return None if found is None else Published(found, SOURCES[method])


def _as_published(settings: Recipe) -> bool:
    prescribed = recipe(settings.recipe, settings.dataset, ipc=settings.ipc)
    names = [field.name for field in fields(Recipe) if field.metadata["panel"] in _OWN and field.name not in _FREE]
    return all(getattr(settings, name) == getattr(prescribed, name) for name in (*names, "factor"))
