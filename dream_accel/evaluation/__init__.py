"""Evaluation of a distilled set: the accuracy on real images of networks trained on it from scratch."""

from .baselines import Row, check_baselines, compare, row_names
from .contestants import CONTESTANTS, GROUPS
from .protocol import Evaluation, Protocol, evaluate, evaluate_images

__all__ = [
    "CONTESTANTS",
    "GROUPS",
    "Evaluation",
    "Protocol",
    "Row",
    "check_baselines",
    "compare",
    "evaluate",
    "evaluate_images",
    "row_names",
]
