"""Drop-ins for the DC family: ``get_images(c, n)`` (DC, DSA, DM, DataDAM, CAFE, IDM, IID), ``match_loss`` (DC, DSA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from torch import Tensor

from ..errors import choices
from ..ops import gradient_distance
from ..sampling import RepresentativeSampler
from .unused import pair_used

_METRICS = {"ours": ("cos", "weights"), "mse": ("global_mse", "all"), "cos": ("global_cos", "all")}


class GetImages(RepresentativeSampler):
    """The closure ``get_images(c, n)``: representatives if ``n`` is the size of the real batch, else random images.

    Two lines replace the closure and pass it the network::

        get_images = GetImages(images_all, labels_all, args.batch_real)
        get_images.update(net)  # once per matching step, after the network is built or has changed

    A refresh embeds every image of the data set. Where each matching step has a network of its own, as at one image per
    class, ``pool=`` is enough of each class.

    Images are expected as the network takes them, that is normalised, as this family stores them; for pixels in [0, 1]
    pass ``normalize=``, which is applied only before embedding. Before the first ``update`` random images are
    available, which DC's initialisation needs. In a distributed run, processes that make the same calls get the same
    images.

    Args:
        images: ``images_all``, (N, channels, H, W).
        labels: ``labels_all``, (N,) integers 0..C-1.
        n_clusters: the size of the real batch.
        clip: if more images are requested than the class has, return all of them, as the original closure does without
            notice; by default that is refused.
        options: the other arguments of :class:`dream_accel.RepresentativeSampler`.

    Raises:
        DreamAccelError: as :class:`dream_accel.RepresentativeSampler`.
    """

    def __init__(self, images: Any, labels: Any, n_clusters: int = 256, *, clip: bool = False, **options: Any) -> None:
        super().__init__(images, labels, n_clusters, **options)
        self.clip = clip

    @overload
    def __call__(self, c: int, n: int | None = None, representative: bool | None = None) -> Tensor: ...

    @overload
    def __call__(self, c: None, n: int | None = None, representative: bool | None = None) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self, c: int | None, n: int | None = None, representative: bool | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return images of class ``c``, or random images of all classes with their labels for ``c=None`` (IDM, IID).

        Args:
            c: the class, or None for all classes.
            n: number of images; the size of the real batch, or None, returns representatives. With ``c=None``, None
                returns all images.
            representative: True returns representatives and False random images, for any ``n``. It has no effect with
                ``c=None``.

        Returns:
            images (n, ...); for ``c=None`` the pair of images (n, ...) and labels (n,) int64.

        Raises:
            DreamAccelError: the class does not exist, more images are requested than there are, or representatives are
                requested before the first ``update``.
        """
        if c is None:
            total = len(self.images)
            return self.sample_mixed(total if n is None or (self.clip and n > total) else n)
        if self.clip and n is not None and n != self.batch_size and 0 <= c < self.n_classes:
            n = min(n, self._sizes[c])
            representative = bool(representative)
        return self.sample(c, n, representative)


def match_loss(gw_syn: Sequence[Tensor | None], gw_real: Sequence[Tensor | None], args: Any) -> Tensor:
    """Compute the distance between two lists of gradients, differentiable with respect to the first.

    Under ``no_grad`` and in inference mode the value alone is computed.

    Args:
        gw_syn: gradients of the synthetic images, one per parameter. None, for a parameter that is not used, is left
            out where both lists have it, and is a gradient of zero where one has it.
        gw_real: gradients of the real images, of the same shapes.
        args: any object with ``dis_metric``: ``"ours"`` (row-wise cosine, 1-d tensors skipped), or ``"mse"`` or
            ``"cos"`` of one concatenated vector. ``args.device`` is ignored; the device is that of the gradients.

    Returns:
        () the distance.

    Raises:
        DreamAccelError: ``dis_metric`` is another one, the gradients do not pair, or all are None.
    """
    if args.dis_metric not in _METRICS:
        raise choices("dis_metric", args.dis_metric, _METRICS)
    metric, layers = _METRICS[args.dis_metric]
    real, synthetic = pair_used(list(gw_real), list(gw_syn))
    return gradient_distance(real, synthetic, metric, layers)
