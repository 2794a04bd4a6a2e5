"""The labels of a result in the order of the classes of the data set it is evaluated on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import DataSplit
from ..data.class_names import places
from ..results import Result


def in_data_order(labels: Tensor, result: Result, split: DataSplit) -> Tensor:
    """Bring labels (n,), or distributions (n, C), into the order of the data set's classes, matched by name.

    Raises:
        DreamAccelError: both sides have names, and they are not those of the same classes.
    """
    # Labels of a run are those of its data; the classes of a folder of images have no order but that of their names.
    ordered = not (result.source or "").startswith("folder:")
    whose = "the distilled set" if result.source is None else f"the distilled set ({result.source})"
    order = places(result.class_names, split.test.class_names, whose, split.name, ordered=ordered)
    if order == tuple(range(len(order))):
        return labels
    index = torch.tensor(order, device=labels.device)
    return index[labels] if labels.dim() == 1 else torch.empty_like(labels).index_copy_(1, index, labels)
