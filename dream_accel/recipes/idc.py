"""IDC: gradients matched on random real images, several small images packed into each synthetic one.

Kim, Kim, Oh, Yun, Song, Jeong, Ha and Song, *Dataset Condensation via Efficient Synthetic-Data Parameterization*, ICML
2022, arXiv 2205.14959. The objective, the packing and the training of the networks are those DREAM builds on; the real
batch is drawn anew for every step, and the synthetic set begins with random real images.
"""

from __future__ import annotations

from typing import Any

from . import dream
from .dream import BY_DATASET, PACKED, SCHEDULE, USES, objective

__all__ = ["BY_DATASET", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "objective"]

NAME = "idc"

DEFAULTS: dict[str, Any] = {**dream.DEFAULTS, "strategy": "random", "init": "random", "batch": 64, "interval": 1}
