"""One's own data: arrays, tensors and map-style Datasets as a :class:`DataSplit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DreamAccelError
from .image_set import DataSplit, ImageSet
from .items import is_pil
from .map_style import class_names_of, is_dataset, read_dataset
from .sources import naming
from .splits import hold_out_test_set

_FORMS = (
    "a DataSplit, ((x_train, y_train), (x_test, y_test)), (images, labels), a map-style Dataset, or a pair of them "
    "(train, test)"
)


def as_split(data: Any) -> DataSplit:
    """Make a :class:`DataSplit` of the data that a user passes to a run.

    Args:
        data: a :class:`DataSplit`; a pair of pairs of arrays ``((x_train, y_train), (x_test, y_test))`` or one pair
            ``(images, labels)``, as :meth:`DataSplit.from_arrays` takes them; a map-style torch Dataset or a pair of
            them ``(train, test)``, as :meth:`DataSplit.from_datasets` takes them; an :class:`ImageSet` or a pair of
            them.

    Returns:
        the data set; without a test set, a fifth of the images, stratified by class and drawn with seed 0, becomes it.

    Raises:
        DreamAccelError: another form, or data that the constructors refuse.
    """
    if isinstance(data, DataSplit):
        return data
    if isinstance(data, ImageSet):
        return _without_test_set(data, "own data")
    if is_dataset(data):
        return split_from_datasets(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        first, second = data
        if isinstance(first, ImageSet) and isinstance(second, ImageSet):
            return DataSplit("own data", first, second)
        if is_dataset(first) and is_dataset(second):
            return split_from_datasets(first, second)
        if not any(is_dataset(part) or isinstance(part, ImageSet) for part in data):
            return split_from_arrays(first, second) if _are_pairs(first, second) else split_from_arrays(data)
    found = f"a {type(data).__name__}"
    if isinstance(data, (tuple, list)):
        found += f" of {len(data)} ({', '.join(type(part).__name__ for part in data[:4])}{', ...' * (len(data) > 4)})"
    hint = f"; a data set is loaded by its name with load_dataset({data!r})" if isinstance(data, str) else ""
    raise DreamAccelError(f"the data are {found}; allowed are {_FORMS}{hint}")


def split_from_arrays(
    train: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "own data",
    layout: str = "auto",
) -> DataSplit:
    """See :meth:`DataSplit.from_arrays`."""
    if test is None:
        with naming(name):
            images = ImageSet.from_arrays(*_pair(train), class_names=class_names, layout=layout)
        return _without_test_set(images, name)
    with naming(f"{name}, training set"):
        train_set = ImageSet.from_arrays(*_pair(train), class_names=class_names, layout=layout)
    with naming(f"{name}, test set"):
        test_set = ImageSet.from_arrays(
            *_pair(test), class_names=train_set.class_names, layout=layout, allow_empty=True
        )
    return DataSplit(name, train_set, test_set)


def split_from_datasets(
    train: Any, test: Any = None, *, class_names: Sequence[str] | None = None, name: str = "own data"
) -> DataSplit:
    """See :meth:`DataSplit.from_datasets`."""
    names = class_names_of(train) if class_names is None else class_names
    if test is None:
        with naming(name):
            images, labels = read_dataset(train)
        return split_from_arrays((images, labels), class_names=names, name=name, layout="nchw")
    test_names = class_names_of(test) if class_names is None else None
    if names is not None and test_names is not None and tuple(names) != test_names:
        raise DreamAccelError(
            f"{name}: the classes of the training set are {_listed(names)} and those of the test set "
            f"{_listed(test_names)}; both must have the same classes in the same order, or class_names= says which"
        )
    with naming(f"{name}, training set"):
        train_arrays = read_dataset(train)
    with naming(f"{name}, test set"):
        test_arrays = read_dataset(test)
    return split_from_arrays(train_arrays, test_arrays, class_names=names, name=name, layout="nchw")


def _without_test_set(images: ImageSet, name: str) -> DataSplit:
    with naming(name):
        train, test = hold_out_test_set(images)
    note = f"{len(test):,} of {len(images):,} images, stratified by class with seed 0, are the test set"
    return DataSplit(name, train, test, note)


def _are_pairs(first: Any, second: Any) -> bool:
    """Whether two parts are (images, labels) each, and not the images and the labels of one set of two in lists."""
    if not all(isinstance(part, (tuple, list)) and len(part) == 2 for part in (first, second)):
        return False
    return _axes(second[0]) >= 2


def _axes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return 1 + (_axes(value[0]) if value else 0)
    return 2 if is_pil(value) else int(getattr(value, "ndim", 0))


def _pair(part: Any) -> tuple[Any, Any]:
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        size = f" of {len(part)}" if isinstance(part, (tuple, list)) else ""
        raise DreamAccelError(f"found a {type(part).__name__}{size}; give a pair (images, labels)")
    return part[0], part[1]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:5])) + (f", ... ({len(names)})" if len(names) > 5 else "")
