"""IDC-I: IDC with whole images, not packed.

Kim et al., ICML 2022, arXiv 2205.14959: the ablation without multi-formation, which stores one image in each slot.
"""

from __future__ import annotations

from typing import Any

from . import idc
from .idc import BY_IPC, PACKED, SCHEDULE, USES, objective

__all__ = ["BY_DATASET", "BY_IPC", "BY_SIZE", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "objective"]

NAME = "idc-i"

DEFAULTS: dict[str, Any] = {**idc.DEFAULTS, "init": "random", "factor": 1}

BY_DATASET: dict[str, dict[str, Any]] = {name: {**own, "factor": 1} for name, own in idc.BY_DATASET.items()}

BY_SIZE: dict[int, dict[str, Any]] = {side: {**own, "factor": 1} for side, own in idc.BY_SIZE.items()}
