"""Drop-in for DREAM's own code, called once per class: ``NEW_Strategy(images, net).query(n)`` and its two variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import DreamAccelError
from ..networks.features import Embedder, embed_rows
from .fast_pytorch_kmeans import KMeans

TINY_CHUNK = 256
"""Maximum number of images that ``query_tiny`` embeds at a time."""


class NEW_Strategy:  # noqa: N801 (the name in the code base)
    """Picks the images of one class nearest the centres of a K-Means of their embeddings.

    It differs from the original where the original is wrong. Picks are distinct, and each comes from its own cluster;
    the original searches the whole class for the nearest image, so its picks repeat and leave their cluster. Seeds are
    distinct, and empty clusters take real rows. Images are embedded in chunks, by the network in evaluation mode, and
    ``normalize`` can convert them to what the network was trained on. ``as_published=True`` restores the seeding, the
    empty clusters at the origin and the search in the whole class.

    Args:
        images: (N, channels, H, W) images of one class, uint8 or as the network takes them.
        net: a network or a callable from images to features.
        normalize: applied to the images before they are embedded.
        max_iter: maximum number of K-Means iterations.
        seed: seed of the K-Means; None draws it from torch's global generator, as the original does.
        as_published: make the original's choices, given the same state of torch's generator.
        chunk_size: number of images embedded at a time.

    Raises:
        DreamAccelError: at a query, if more images are requested than there are, or features hold NaN or Inf.
    """

    def __init__(
        self,
        images: Tensor,
        net: nn.Module | Embedder,
        *,
        normalize: Embedder | None = None,
        max_iter: int = 100,
        seed: int | None = None,
        as_published: bool = False,
        chunk_size: int = 1024,
    ) -> None:
        self.images = images
        self.net = net
        self.normalize = normalize
        self.max_iter = max_iter
        self.seed = seed
        self.as_published = as_published
        self.chunk_size = chunk_size

    def query(self, n: int) -> Tensor:
        """Pick the image nearest to each of ``n`` centres.

        Returns:
            (n,) int64 rows of ``images``, on their device.
        """
        return self._query(n, 1, self.chunk_size)

    def query_match(self, n: int, per_cluster: int = 1) -> Tensor:
        """Pick the ``per_cluster`` images nearest to each of ``n`` centres.

        Returns:
            (n * per_cluster,) int64 rows of ``images``, on their device, centre after centre.
        """
        return self._query(n, per_cluster, self.chunk_size)

    def query_tiny(self, n: int) -> Tensor:
        """Pick as :meth:`query`, embedding at most 256 images at a time, for images of 64x64 and more."""
        return self._query(n, 1, min(self.chunk_size, TINY_CHUNK))

    @torch.no_grad()
    def _query(self, n: int, per_cluster: int, chunk_size: int) -> Tensor:
        if n < 1 or per_cluster < 1 or n * per_cluster > len(self.images):
            raise DreamAccelError(
                f"{n} clusters of {per_cluster} images requested from a class that has {len(self.images)}: request at "
                "least 1 of each, and at most that many images"
            )
        rows = torch.arange(len(self.images), device=self.images.device)
        x = embed_rows(self.images, rows, self.net, self.normalize, chunk_size)
        options: dict[str, Any] = {"max_iter": self.max_iter, "seed": self.seed, "as_published": self.as_published}
        km = KMeans(n, **options)
        labels = km.fit_predict(x)
        assert km.centroids is not None
        if self.as_published:
            nearest = torch.cdist(km.centroids, x).argsort(dim=1, stable=True)[:, :per_cluster]
            return nearest.flatten().to(self.images.device)
        offsets = torch.tensor([0, len(x)], device=x.device)
        picks = ops.nearest_members(x, offsets, km.centroids.to(ops.result_dtype(x))[None], labels.int(), per_cluster)
        return picks.flatten().to(self.images.device)
