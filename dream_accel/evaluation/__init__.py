"""How good a distilled set is: networks trained on it from scratch, tested on real images."""

from .protocol import Evaluation, Protocol, evaluate, evaluate_images

__all__ = ["Evaluation", "Protocol", "evaluate", "evaluate_images"]
