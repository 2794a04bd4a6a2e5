"""Evaluation of a distilled set: the accuracy on real images of networks trained on it from scratch."""

from .architectures import evaluate_networks
from .baselines import Row, check_baselines, compare, row_names
from .contestants import CONTESTANTS, GROUPS
from .protocol import evaluate, evaluate_images
from .settings import Evaluation, Protocol

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
    "evaluate_networks",
    "row_names",
]
