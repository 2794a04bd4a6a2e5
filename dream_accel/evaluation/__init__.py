"""Evaluation of a distilled set: the accuracy on real images of networks trained on it from scratch."""

from .architectures import evaluate_networks
from .baselines import BASELINES, Row, compare, row_names
from .protocol import evaluate, evaluate_images
from .settings import Evaluation, Protocol

__all__ = [
    "BASELINES",
    "Evaluation",
    "Protocol",
    "Row",
    "compare",
    "evaluate",
    "evaluate_images",
    "evaluate_networks",
    "row_names",
]
