"""scikit-learn's handwritten digits: 1,797 real images inside the library, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .image_set import ImageSet
from .sources import Reading, require
from .split import DataSplit
from .stratified import train_test_split

N_TEST = 500


def load_digits(data_dir: Path, how: Reading) -> DataSplit:
    """1x8x8 images, 10 classes.

    There is no official split: 500 stratified test images are drawn with seed 0, always the same; 1,297 images are the
    training set.

    Args:
        data_dir: not read; the images are inside the library.
        how: not read.

    Raises:
        DreamAccelError: scikit-learn cannot be imported.
    """
    bunch = require("sklearn.datasets", "scikit-learn", "the digits data set").load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 0..16
    train, test = train_test_split(ImageSet.from_arrays(pixels, bunch.target), N_TEST)
    return DataSplit("digits", train, test)
