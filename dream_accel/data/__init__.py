"""Data sets as uint8 tensors in memory, converted to floats one batch at a time.

    split = load_dataset("digits")                     # DataSplit(name, train, test)
    split = DataSplit.from_arrays((images, labels))    # one's own; also from_datasets
    x = split.normalization(split.train.batch(rows))   # float32, normalised, on the set's device
    order, offsets = split.train.by_class()            # rows as the K-Means operators take them

A set is two tensors, ``images`` (N, C, H, W) uint8 and ``labels`` (N,) int64, so moving it to a GPU is one copy and
reading a batch is one gather: no loader, no worker processes, no per-sample Python. The sources are listed in
``DATASETS``; each kind of source has one file here.
"""

from .convert import to_float
from .image_set import ImageSet
from .normalization import Normalization
from .own import as_split
from .registry import DATASETS, load_dataset
from .split import DataSplit, resize, subset

__all__ = [
    "DATASETS",
    "DataSplit",
    "ImageSet",
    "Normalization",
    "as_split",
    "load_dataset",
    "resize",
    "subset",
    "to_float",
]
