"""The operators: one file each, with its signature, checks, fake version and autograd. No arithmetic.

They are registered with ``torch.library`` as ``torch.ops.dream_accel.*``; the functions exported here call them. The
backend that computes a call is chosen in :mod:`dream_accel.backends`.
"""

from .checks import result_dtype
from .distance import METRICS
from .feature_distance import feature_distance
from .gradient_distance import gradient_distance
from .gram_assign import gram_assign
from .group_products import group_products
from .kmeans_assign import PRECISIONS, kmeans_assign
from .kmeans_iterate import kmeans_iterate
from .kmeans_update import EMPTY_POLICIES, kmeans_update
from .layers import LAYER_RULES, select_layers
from .nearest_members import nearest_members

__all__ = [
    "EMPTY_POLICIES",
    "LAYER_RULES",
    "METRICS",
    "PRECISIONS",
    "feature_distance",
    "gradient_distance",
    "gram_assign",
    "group_products",
    "kmeans_assign",
    "kmeans_iterate",
    "kmeans_update",
    "nearest_members",
    "result_dtype",
    "select_layers",
]
