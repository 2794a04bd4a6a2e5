"""The matching loss of the DC family (DC, DSA; Zhao and Bilen), by its name and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import choices
from ..ops import gradient_distance

_METRICS = {"ours": ("cos", "weights"), "mse": ("global_mse", "all"), "cos": ("global_cos", "all")}


def match_loss(gw_syn: Sequence[Tensor], gw_real: Sequence[Tensor], args: Any) -> Tensor:
    """Distance between two lists of gradients, differentiable in the first.

    Args:
        gw_syn: gradients of the synthetic images, one per parameter.
        gw_real: gradients of the real images.
        args: anything with ``dis_metric``: ``"ours"`` (row-wise cosine, 1-d tensors skipped), ``"mse"`` or ``"cos"`` of
            one concatenated vector. ``args.device`` is not looked at: the gradients know where they are.

    Returns:
        () the distance.

    Raises:
        DreamAccelError: another ``dis_metric``, or gradients that do not pair.
    """
    if args.dis_metric not in _METRICS:
        raise choices("dis_metric", args.dis_metric, _METRICS)
    metric, layers = _METRICS[args.dis_metric]
    return gradient_distance(list(gw_real), list(gw_syn), metric, layers)
