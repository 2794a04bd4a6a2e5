"""Evaluation of a distilled set: the accuracy on real images of networks trained on it from scratch."""

from .baselines import BASELINES, Row, compare, row_names
from .protocol import Evaluation, Protocol, evaluate, evaluate_images

__all__ = ["BASELINES", "Evaluation", "Protocol", "Row", "compare", "evaluate", "evaluate_images", "row_names"]
