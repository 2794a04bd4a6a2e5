"""Map-style torch Datasets, read once, in order, into arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from ..errors import DreamAccelError
from .items import read_images
from .labels import NUMBERING

_ARRAY_PROTOCOLS = ("__array__", "__dlpack__", "__cuda_array_interface__")


def is_dataset(data: Any) -> bool:
    """Return True if ``data`` is to be read item by item: a torch Dataset, or an object that looks like one."""
    if isinstance(data, (Dataset, DataLoader)):
        return True
    if isinstance(data, (str, bytes, list, tuple, Mapping)) or any(hasattr(data, name) for name in _ARRAY_PROTOCOLS):
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def read_dataset(dataset: Any) -> tuple[Tensor, list[int]]:
    """Images and labels of a map-style Dataset, in the order of its indices.

    Every item is asked for once, ``dataset[0]`` to ``dataset[len(dataset) - 1]``, so a random transform is drawn once
    per image.

    Args:
        dataset: its items are pairs (image, label): an image as :func:`read_images` takes it; a label that is an
            integer, or an array or tensor of one.

    Returns:
        uint8 (N, C, H, W), and N labels.

    Raises:
        DreamAccelError: an iterable-style or empty Dataset, or an item of another form; the message names its index.
    """
    n = _length(dataset)
    labels: list[int] = []

    def images() -> Iterator[Any]:
        for i in range(n):
            image, label = _pair(dataset[i], i)
            labels.append(_label(label, i))
            yield image

    return read_images(images(), n), labels


def class_names_of(dataset: Any) -> tuple[str, ...] | None:
    """The names in ``dataset.classes``, looked for behind Subset and ConcatDataset; None where there are none.

    A Dataset that changes its labels by a ``target_transform`` or joint ``transforms`` has none: its names belong to
    the labels before.
    """
    if isinstance(dataset, Subset):
        return class_names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        found = {class_names_of(part) for part in dataset.datasets}
        return found.pop() if len(found) == 1 else None
    joint = getattr(dataset, "transforms", None) is not None and getattr(dataset, "transform", None) is None
    classes = getattr(dataset, "classes", None)
    if joint or getattr(dataset, "target_transform", None) is not None or not isinstance(classes, (list, tuple)):
        return None
    # torchvision's ImageNet has a tuple of synonyms for every class.
    return tuple(str(name[0] if isinstance(name, (list, tuple)) and name else name) for name in classes) or None


def _length(dataset: Any) -> int:
    kind = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise DreamAccelError(f"the data are a {kind}, which yields batches; pass its Dataset, loader.dataset")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise DreamAccelError(
            f"{kind} is an iterable-style Dataset, which has no index; collect it first, "
            "images, labels = zip(*dataset), and pass (images, labels)"
        )
    try:
        n = len(dataset)
    except (TypeError, NotImplementedError):
        raise DreamAccelError(f"{kind} has no length; a map-style Dataset defines __len__ and __getitem__") from None
    if n == 0:
        raise DreamAccelError(f"{kind} is empty; at least one image per class is needed")
    return n


def _pair(item: Any, i: int) -> tuple[Any, Any]:
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        found = f"a {type(item).__name__} with the keys {', '.join(map(str, item))}"
    elif isinstance(item, (tuple, list)):
        found = f"a {type(item).__name__} of {len(item)}"
    elif isinstance(item, (Tensor, np.ndarray)):
        found = f"one {type(item).__name__} of shape {tuple(item.shape)}"
    else:
        found = f"one {type(item).__name__}"
    raise DreamAccelError(
        f"index {i} yields {found}; a Dataset must yield pairs (image, label), so wrap it in one whose __getitem__ "
        "returns such a pair"
    )


def _label(label: Any, i: int) -> int:
    if isinstance(label, (str, bytes)):
        raise DreamAccelError(
            f"index {i} has the label {str(label)!r}; allowed are integers 0..C-1, so map names to numbers, by a "
            f"target_transform such as names.index or by {NUMBERING}"
        )
    if isinstance(label, (Tensor, np.ndarray)):
        if label.size != 1 if isinstance(label, np.ndarray) else label.numel() != 1:
            raise DreamAccelError(
                f"index {i} has a label of shape {tuple(label.shape)}; allowed is one class index per image, which "
                "labels.argmax(1) makes of one-hot or soft labels, and label.argmax() of a single one"
            )
        label = label.item()
        if isinstance(label, str):
            return _label(label, i)
    if isinstance(label, (bool, np.bool_)) or not isinstance(label, Integral):
        raise DreamAccelError(
            f"index {i} has the label {label!r}, a {type(label).__name__}; allowed are integers 0..C-1, so convert it "
            "to int"
        )
    return int(label)
