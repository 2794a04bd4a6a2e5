"""The figures by which the paper explains DREAM, one file each: functions of recipe and data set that yield rows."""

from .evenness import evenness
from .gradient_difference import gradient_difference
from .gradient_fidelity import gradient_fidelity
from .gradient_norms import gradient_norms, pick_norms
from .registry import ANALYSES, Analysis, find_analysis

__all__ = [
    "ANALYSES",
    "Analysis",
    "evenness",
    "find_analysis",
    "gradient_difference",
    "gradient_fidelity",
    "gradient_norms",
    "pick_norms",
]
