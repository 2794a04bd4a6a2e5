"""Triton kernels for K-Means, gradient distances and blocks of networks: device code and its launch, no policy.

The host function that launches a kernel is in the same file, under it: ``assign.py`` (:func:`kmeans_assign`),
``update.py`` (:func:`kmeans_update`), ``shift.py`` (means from what has changed), ``iterate.py``
(:class:`LloydSteps`), ``nearest.py`` (:func:`nearest_members`), ``members.py`` (:func:`member_lists`), ``slots.py``
(the slots of clusters filled), ``distance.py`` (:func:`own_distance`), ``gram.py`` (Gram matrices),
``gradient_distance.py``, ``global_cosine.py``, ``scale_gradients.py`` and ``norm_relu_pool.py``. ``common.py`` has what
all launches share.

Group ``g`` owns rows ``offsets[g]`` to ``offsets[g+1] - 1`` of ``x``; one call serves every group. No function
synchronises with the device, and sizes that only the device knows shorten loops but change no launch, so every function
can be captured in a CUDA graph. Floating-point sums run in a fixed order that depends on the group alone: a group gives
the same bits alone, in any batch, and on every run.

Symbols: G groups, N rows, D features, K clusters, S = K*n slots.
"""

from .assign import kmeans_assign
from .distance import own_distance
from .gradient_distance import gradient_distance
from .gram import gram_assign, group_products
from .iterate import LloydSteps
from .members import Members, member_lists
from .nearest import nearest_members
from .norm_relu_pool import norm_relu_pool, norm_relu_pool_backward, norm_relu_pool_double_backward
from .scale_gradients import scale_gradients
from .update import kmeans_update

__all__ = [
    "LloydSteps",
    "Members",
    "gradient_distance",
    "gram_assign",
    "group_products",
    "kmeans_assign",
    "kmeans_update",
    "member_lists",
    "nearest_members",
    "norm_relu_pool",
    "norm_relu_pool_backward",
    "norm_relu_pool_double_backward",
    "own_distance",
    "scale_gradients",
]
