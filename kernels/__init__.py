"""Triton kernels for ragged batched K-Means and for distances of gradients: device code and its launch, no policy.

Group ``g`` owns rows ``offsets[g]`` to ``offsets[g+1] - 1`` of ``x``; one call serves every group. Nothing here waits
for the device, and sizes on the device only shorten loops, so every function can be captured in a CUDA graph.
Floating-point sums run in a fixed order that depends on the group alone: the same group gives the same bits alone, in a
batch, and twice.

Symbols: G groups, N rows, D features, K clusters, S = K*n slots.
"""

from .assign import kmeans_assign
from .distance import own_distance
from .gradient_distance import gradient_distance
from .gram import gram_assign, group_products
from .members import Members, member_lists
from .nearest import nearest_members
from .scale_gradients import scale_gradients
from .update import kmeans_update

__all__ = [
    "Members",
    "gradient_distance",
    "gram_assign",
    "group_products",
    "kmeans_assign",
    "kmeans_update",
    "member_lists",
    "nearest_members",
    "own_distance",
    "scale_gradients",
]
