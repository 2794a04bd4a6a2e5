"""DSA: DC with one augmentation draw shared by the real and the synthetic images of a class.

Zhao and Bilen, *Dataset Condensation with Differentiable Siamese Augmentation*, ICML 2021, arXiv 2102.08259. The loss
is DC's on augmented images. The synthetic set begins with random real images, and the network is trained on it with the
same kind of augmentation.
"""

from __future__ import annotations

from typing import Any

from . import dc
from .dc import BY_IPC, BY_SIZE, PACKED, SCHEDULE, USES, WITHOUT, objective

__all__ = ["BY_DATASET", "BY_IPC", "BY_SIZE", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "WITHOUT", "objective"]

NAME = "dsa"

_AUGMENT = "color_crop_cutout_flip_scale_rotate"
_NO_FLIP = "color_crop_cutout_scale_rotate"

DEFAULTS: dict[str, Any] = {**dc.DEFAULTS, "init": "random", "match_augment": _AUGMENT, "synthetic_augment": _AUGMENT}

BY_DATASET: dict[str, dict[str, Any]] = {
    "mnist": {**dc.BY_DATASET["mnist"], "match_augment": _NO_FLIP, "synthetic_augment": _NO_FLIP},
    "svhn": {**dc.BY_DATASET["svhn"], "match_augment": _NO_FLIP, "synthetic_augment": _NO_FLIP},
    "digits": {**dc.BY_DATASET["digits"], "match_augment": "color_crop", "synthetic_augment": "color_crop"},
}
"""The published settings that differ between data sets; those of the digits are not published."""
