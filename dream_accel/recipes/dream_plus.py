"""DREAM+: DREAM with an additional distance of mean features, on networks trained before the first step.

Liu, Gu, Wang, Zhu, Zhang, Jiang and You, *DREAM+: Efficient Dataset Distillation by Bidirectional Representative
Matching*, arXiv 2310.15052. Each new network is trained for one epoch before its first matching step. The loss of class
c is::

    loss_c = DREAM's loss_c + feature_weight * d(mean f(augment(real_c)), mean f(augment(synthetic_c)))

with ``d`` the metric that is also used for the gradients.
"""

from __future__ import annotations

from typing import Any

from ..matching.features import FeatureMatching
from ..matching.objective import Objective, Sum
from . import dream
from .dream import BY_DATASET, BY_IPC, BY_SIZE, PACKED, SCHEDULE
from .settings import Recipe

__all__ = ["BY_DATASET", "BY_IPC", "BY_SIZE", "DEFAULTS", "NAME", "PACKED", "SCHEDULE", "USES", "objective"]

NAME = "dream+"

DEFAULTS: dict[str, Any] = {**dream.DEFAULTS, "feature_weight": 1.0, "pretrain_epochs": 1}

USES = dream.USES | {"feature_weight", "pretrain_epochs"}


def objective(settings: Recipe) -> Objective:
    """Return DREAM's objective, plus the distance of mean features unless its weight is 0."""
    gradients = dream.objective(settings)
    if settings.feature_weight == 0:
        return gradients
    return Sum((gradients, FeatureMatching(settings.metric, settings.feature_weight)))
