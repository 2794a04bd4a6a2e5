"""IDC: gradient matching on random real images, with several small images packed into each synthetic one.

Kim, Kim, Oh, Yun, Song, Jeong, Ha and Song, *Dataset Condensation via Efficient Synthetic-Data Parameterization*, ICML
2022, arXiv 2205.14959. DREAM takes its objective, its packing and the training of its networks from this method. Here
the real batch is drawn at random for every step, and the synthetic set is initialised with random real images, packed.
"""

from __future__ import annotations

from typing import Any

from . import dream
from .dream import BY_IPC, BY_SIZE, PACKED, SCHEDULE, USES, objective

__all__ = ["BY_DATASET", "BY_IPC", "BY_SIZE", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "objective"]

NAME = "idc"

DEFAULTS: dict[str, Any] = {**dream.DEFAULTS, "strategy": "random", "init": "mix", "batch": 64, "interval": 1}

BY_DATASET: dict[str, dict[str, Any]] = {
    **dream.BY_DATASET,
    "imagenet-100": {**dream.BY_DATASET["imagenet-100"], "batch": 128},
}
"""As DREAM's, which takes them from IDC, but for the real batch of 100 classes of ImageNet."""
