"""How good a distilled set is: networks trained on it from scratch, tested on real images."""

from .baselines import BASELINES, Row, compare
from .protocol import Evaluation, Protocol, evaluate, evaluate_images

__all__ = ["BASELINES", "Evaluation", "Protocol", "Row", "compare", "evaluate", "evaluate_images"]
