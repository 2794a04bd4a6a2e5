"""One's own data: arrays, tensors and map-style Datasets as a :class:`DataSplit`."""

from __future__ import annotations

from typing import Any

from ..errors import DreamAccelError
from .image_set import ImageSet
from .items import is_pil
from .map_style import is_dataset
from .sets import of_two_sets, without_test_set
from .split import DataSplit

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
        return DataSplit("own data", *without_test_set(data, "own data"))
    if is_dataset(data):
        return DataSplit.from_datasets(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        first, second = data
        if isinstance(first, ImageSet) and isinstance(second, ImageSet):
            return DataSplit("own data", *of_two_sets(first, second, "own data"))
        if is_dataset(first) and is_dataset(second):
            return DataSplit.from_datasets(first, second)
        if not any(is_dataset(part) or isinstance(part, ImageSet) for part in data):
            return DataSplit.from_arrays(first, second) if _are_pairs(first, second) else DataSplit.from_arrays(data)
    found = f"a {type(data).__name__}"
    if isinstance(data, (tuple, list)):
        found += f" of {len(data)} ({', '.join(type(part).__name__ for part in data[:4])}{', ...' * (len(data) > 4)})"
    hint = f"; a data set is loaded by its name with load_dataset({data!r})" if isinstance(data, str) else ""
    raise DreamAccelError(f"the data are {found}; allowed are {_FORMS}{hint}")


def _are_pairs(first: Any, second: Any) -> bool:
    """Return True if two parts are (images, labels) each, not the images and the labels of a set of two in lists."""
    if not all(isinstance(part, (tuple, list)) and len(part) == 2 for part in (first, second)):
        return False
    return _axes(second[0]) >= 2


def _axes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return 1 + (_axes(value[0]) if value else 0)
    return 2 if is_pil(value) else int(getattr(value, "ndim", 0))
