"""Class labels of any library, checked and converted to int64 (N,), with one name per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..arrays import whole_number
from ..errors import DreamAccelError
from .convert import as_tensor, dtype_name

NUMBERING = "np.unique(labels, return_inverse=True)[1]"
"""The expression that turns any labels into 0..C-1, quoted by refusals."""


def to_labels(
    labels: Any, n_images: int, n_classes: int | None, class_names: Sequence[str] | None, allow_empty: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """Checked labels and the names of their classes.

    Args:
        labels: (N,) or (N, 1) integers 0..C-1, of any library.
        n_images: N.
        n_classes: C; default: the number of names, else the highest label + 1.
        class_names: C names; default: ``"0"`` to ``"C-1"``.
        allow_empty: accept classes without an image.

    Returns:
        int64 (N,) and C names.

    Raises:
        DreamAccelError: labels that are strings, one-hot, of another dtype or number, or outside 0..C-1; a class
            without an image, unless ``allow_empty``; ``n_classes`` that is no whole number, names that are no list.
    """
    _refuse_strings(labels)
    tensor = as_tensor(labels, "labels")
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2:
        raise DreamAccelError(
            f"labels have shape {tuple(tensor.shape)}, {tensor.shape[1]} numbers for image 0; allowed is (N,), one "
            "class index per image, which labels.argmax(1) makes of one-hot or soft labels"
        )
    if tensor.ndim != 1:
        raise DreamAccelError(f"labels have shape {tuple(tensor.shape)}; allowed is (N,), one class index per image")
    if tensor.shape[0] != n_images:
        first = min(n_images, tensor.shape[0])
        without = f"image {first} has no label" if tensor.shape[0] == first else f"label {first} has no image"
        raise DreamAccelError(
            f"there are {n_images} images and {tensor.shape[0]} labels: {without}; each image needs exactly one label"
        )
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise DreamAccelError(f"labels are {dtype_name(tensor)}; allowed are integers 0..C-1, so cast them to int64")
    tensor = tensor.to(torch.int64).contiguous()

    n_classes = None if n_classes is None else whole_number(n_classes, "n_classes", 1)
    names = None if class_names is None else _to_names(class_names)
    if names is not None and n_classes is not None and len(names) != n_classes:
        raise DreamAccelError(f"there are {len(names)} class names for {n_classes} classes; give one name per class")
    present = torch.unique(tensor).tolist()
    count = len(names) if names is not None else n_classes if n_classes is not None else present[-1] + 1
    if present[0] < 0 or present[-1] >= count:
        allowed = f"0..{count - 1} for {count} classes" if present[-1] >= 0 else "0..C-1"
        stray = int(((tensor < 0) | (tensor >= count)).int().argmax())
        raise DreamAccelError(
            f"labels reach from {present[0]} to {present[-1]} (label {stray} is {int(tensor[stray])}); allowed are the "
            f"integers {allowed}, so renumber them, for example by {NUMBERING}"
        )
    if not allow_empty:
        _refuse_empty_classes(present, count, names)
    return tensor, names if names is not None else tuple(str(c) for c in range(count))


def _to_names(class_names: Any) -> tuple[str, ...]:
    if isinstance(class_names, (str, bytes)) or not isinstance(class_names, Iterable):
        raise DreamAccelError(f"class_names is {class_names!r}: it must be a list of names, one per class")
    return tuple(str(name) for name in class_names)


def _refuse_strings(labels: Any) -> None:
    numeric = getattr(getattr(labels, "dtype", None), "kind", "O") not in "OSU"
    if isinstance(labels, Tensor) or numeric or not hasattr(labels, "__iter__"):
        return
    first = next(((i, label) for i, label in enumerate(labels) if isinstance(label, (str, bytes))), None)
    if first is not None:
        raise DreamAccelError(
            f"labels are strings (label {first[0]} is {str(first[1])!r}); allowed are integers 0..C-1, which "
            f"{NUMBERING} makes of them"
        )


def _refuse_empty_classes(present: list[int], count: int, names: tuple[str, ...] | None) -> None:
    if len(present) == count:
        return
    used = set(present)
    # Not all of them: one stray label of 10**12 would leave as many classes empty.
    empty = list(islice((c for c in range(count) if c not in used), 6))
    shown = [str(c) if names is None else f"{c} ({names[c]!r})" for c in empty[:5]]
    shown += ["..."] if len(empty) > 5 else []
    noun = "class" if len(empty) == 1 else "classes"
    raise DreamAccelError(
        f"no image carries the label of {noun} {', '.join(shown)}; labels must use every index "
        f"0..{count - 1}, so renumber them, for example by {NUMBERING}"
    )
