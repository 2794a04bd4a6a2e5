"""What the DC family calls: ``get_images(c, n)`` (DC, DSA, DM, DataDAM, CAFE, IDM, IID), ``match_loss`` (DC, DSA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import choices
from ..ops import gradient_distance
from ..sampling import RepresentativeSampler

_METRICS = {"ours": ("cos", "weights"), "mse": ("global_mse", "all"), "cos": ("global_cos", "all")}


class GetImages(RepresentativeSampler):
    """The closure ``get_images(c, n)``: representatives at the matching size, random images at every other.

    Two lines replace the closure and tell it of the network::

        get_images = GetImages(images_all, labels_all, args.batch_real)
        get_images.update(net)  # once per matching step, after the network is built or has changed

    The images are taken as the network takes them, that is normalised, as this family holds them; with pixels in [0, 1]
    pass ``normalize=``, which is applied before embedding alone. Until the first ``update`` random images can be had,
    as DC's initialisation asks for them. Called alike in every process of a distributed run, it gives each the same
    images.

    Args:
        images, labels, n_clusters: ``images_all``, ``labels_all`` and the size of the real batch.
        clip: give a class's every image where more are asked for than it has, as the original closure does without a
            word; by default that is refused.
        options: the others of :class:`dream_accel.RepresentativeSampler`.
    """

    def __init__(self, images: Any, labels: Any, n_clusters: int = 256, *, clip: bool = False, **options: Any) -> None:
        super().__init__(images, labels, n_clusters, **options)
        self.clip = clip

    def __call__(self, c: int | None, n: int | None = None, representative: bool | None = None) -> Any:
        """Images (n, ...) of class ``c``; for ``c=None`` (IDM, IID) the pair of ``n`` random images of any class and
        their labels (n,) int64.

        Args:
            c: the class, or None.
            n: how many; the size of the real batch, which None stands for, gives representatives.
            representative: True or False decides that whatever ``n`` is.

        Raises:
            DreamAccelError: no such class; more images than there are; representatives before the first ``update``.
        """
        if c is None:
            total = len(self.images)
            return self.sample_mixed(total if n is None or (self.clip and n > total) else n)
        if self.clip and n is not None and n != self.batch_size and 0 <= c < self.n_classes:
            n = min(n, self._sizes[c])
            representative = bool(representative)
        return self.sample(c, n, representative)


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
