"""``KMeans`` and ``MultiKMeans`` with the interface of fast_pytorch_kmeans 0.2: only the import has to change.

They differ from that package where it is wrong; ``as_published=True`` restores its behaviour:

- The package draws the first centroids with replacement, so some coincide; here they are drawn without replacement.
- The package moves empty clusters, and with minibatches every cluster without a member, to the origin. Here an empty
  cluster takes the row farthest from its centroid, and a cluster without a member in the minibatch stays.
- The labels of the package belong to the centroids before the last update, and with minibatches only the last minibatch
  is labelled. Here all rows are labelled by the final centroids.

``init_method="gaussian"`` works for any number of rows and features; in the package it fails with fewer rows than
features.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import ops
from ..clustering import BatchedKMeans, check_finite
from ..errors import DreamAccelError, choices

_MODES = ("euclidean", "cosine")
_INITS = {"random": "random", "kmeans++": "k-means++", "gaussian": "gaussian"}


class MultiKMeans:
    """K-Means of several sets of rows at once; all sets have the same number of rows.

    Args:
        n_clusters: K, at most the number of rows.
        max_iter: maximum number of Lloyd iterations.
        tol: stop when the sum of the squared shifts of all centroids is at most this; each set stops on its own.
        verbose: 1 prints a line per fit.
        mode: ``"euclidean"``, or ``"cosine"``, which assigns by the highest cosine and averages the rows without
            normalising them.
        init_method: ``"random"`` rows, ``"kmeans++"``, or ``"gaussian"``: draws with the rows' mean and covariance.
        minibatch: number of rows per iteration; None uses all rows.
        seed: seed of every random draw; None draws a seed from torch's global generator at every fit, so that results
            follow ``torch.manual_seed`` as those of the original do.
        as_published: make the original's choices, including the wrong ones listed above. Every iteration then waits for
            the device.

    Attributes:
        centroids: (n_kmeans, K, n_features), of the rows' dtype and device; None before the first fit. As in the
            original, the next fit starts from them unless it is given others.

    Raises:
        DreamAccelError: ``mode`` or ``init_method`` is unknown.
    """

    _batch_dims = 1

    def __init__(
        self,
        n_clusters: int,
        max_iter: int = 100,
        tol: float = 0.0001,
        verbose: int = 0,
        mode: str = "euclidean",
        init_method: str = "random",
        minibatch: int | None = None,
        *,
        seed: int | None = None,
        as_published: bool = False,
    ) -> None:
        if mode not in _MODES:
            raise choices("mode", mode, _MODES)
        if init_method not in _INITS:
            raise choices("init_method", init_method, _INITS)
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.mode = mode
        self.init_method = init_method
        self.minibatch = minibatch
        self.seed = seed
        self.as_published = as_published
        self.centroids: Tensor | None = None

    @staticmethod
    def cos_sim(a: Tensor, b: Tensor) -> Tensor:
        """Compute the cosines (..., m, n) of the rows of ``a`` (..., m, d) and ``b`` (..., n, d)."""
        return normalize(a, dim=-1) @ normalize(b, dim=-1).transpose(-2, -1)

    @staticmethod
    def euc_sim(a: Tensor, b: Tensor) -> Tensor:
        """Compute the negated squared distances (..., m, n) of the rows of ``a`` (..., m, d) and ``b`` (..., n, d)."""
        norms = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
        return 2 * a @ b.transpose(-2, -1) - norms

    def max_sim(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Find the row of ``b`` that is most similar to every row of ``a``. No (m, n) matrix is stored.

        Args:
            a: (m, d), or (n_kmeans, m, d).
            b: (n, d), or (n_kmeans, n, d).

        Returns:
            (..., m) similarities of ``a``'s dtype, and (..., m) int64 indices, ties to the lowest index.
        """
        rows, offsets = _as_groups(a if a.dim() == 3 else a[None])
        centroids = b if b.dim() == 3 else b[None]
        if self.mode == "cosine":
            rows, centroids = normalize(rows, dim=-1), normalize(centroids, dim=-1)
        labels, distance = ops.kmeans_assign(rows, offsets, centroids.to(ops.result_dtype(rows)))
        # For vectors of length 1: |a - b|^2 = 2 - 2 <a, b>.
        similarity = 1 - distance / 2 if self.mode == "cosine" else -distance
        return similarity.to(a.dtype).view(a.shape[:-1]), labels.long().view(a.shape[:-1])

    def fit_predict(self, X: Tensor, centroids: Tensor | None = None) -> Tensor:
        """Cluster and label the rows.

        Args:
            X: (n_kmeans, n_samples, n_features) float16, float32 or float64.
            centroids: (n_kmeans, K, n_features) to start from; default: those of the last fit, else ``init_method``.

        Returns:
            (n_kmeans, n_samples) int64 labels.

        Raises:
            DreamAccelError: X has another shape or dtype, holds NaN or Inf, or has fewer rows than clusters.
        """
        start = self.centroids if centroids is None else centroids
        return self._fit(self._checked(X), start)

    def predict(self, X: Tensor) -> Tensor:
        """Label rows by their most similar centroids: (n_kmeans, n_samples) int64 of X as in :meth:`fit_predict`.

        Raises:
            DreamAccelError: there was no fit, or X has another shape or dtype, or holds NaN or Inf.
        """
        if self.centroids is None:
            raise DreamAccelError("predict() before fit(): call fit(X) first")
        return self.max_sim(self._checked(X), self.centroids)[1]

    def fit(self, X: Tensor, centroids: Tensor | None = None) -> None:
        """Cluster the rows as :meth:`fit_predict`, without returning labels."""
        self.fit_predict(X, centroids)

    def _checked(self, X: Tensor) -> Tensor:
        dims = 2 + self._batch_dims
        if not isinstance(X, Tensor) or X.dim() != dims or X.dtype not in (torch.half, torch.float, torch.double):
            found = f"{X.dtype} of shape {tuple(X.shape)}" if isinstance(X, Tensor) else type(X).__name__
            shape = "(n_kmeans, n_samples, n_features)" if self._batch_dims else "(n_samples, n_features)"
            raise DreamAccelError(f"X is {found}: it must be a floating point tensor {shape}")
        check_finite(X.flatten(0, -2), "X")
        return X

    @torch.no_grad()
    def _fit(self, X: Tensor, start: Tensor | None) -> Tensor:
        """Labels of X (n_kmeans, n_samples, n_features); sets ``centroids``."""
        if self.n_clusters > X.shape[1] and not self.as_published:
            raise DreamAccelError(
                f"n_clusters is {self.n_clusters} and there are {X.shape[1]} rows: request at most that many"
            )
        began = time.perf_counter()
        # The global generator stays untouched where the fit makes no random decision.
        random = self.minibatch is not None or (start is None and not self.as_published)
        seed = int(torch.randint(1 << 62, ())) if random and self.seed is None else self.seed or 0
        if self.as_published or self.minibatch is not None or self.mode == "cosine":
            if start is None:
                start = torch.stack([self._start(x, seed) for x in X])
            labels, self.centroids, n_iter = self._iterate(X, start, seed)
        else:
            labels, self.centroids, n_iter = self._batched(X, start, seed)
        if self.verbose:
            print(
                f"used {n_iter} iterations ({time.perf_counter() - began:.4f}s) to cluster "
                f"{'x'.join(map(str, X.shape[:-1]))} items into {self.n_clusters} clusters"
            )
        return labels

    def _batched(self, X: Tensor, start: Tensor | None, seed: int) -> tuple[Tensor, Tensor, int]:
        if start is None and self.init_method == "gaussian":
            start = torch.stack([self._start(x, seed) for x in X])
        rows, offsets = _as_groups(X)
        # BatchedKMeans measures tol in units of the mean variance of a feature. The smallest variance of all sets makes
        # this criterion at least as strict as the original.
        spread = float(X.var(dim=1, correction=0).mean(dim=1).min()) if self.tol else 1.0
        km = BatchedKMeans(
            self.n_clusters,
            max_iter=self.max_iter,
            tol=self.tol / max(spread, torch.finfo(torch.float32).tiny),
            init=_INITS[self.init_method] if start is None else start,
            seed=seed,
            precision="fp32",
        ).fit(rows, offsets, check=False)
        n_iter = int(km.n_iter_.max()) if self.verbose else 0
        return km.labels_.long().view(X.shape[:2]), km.cluster_centers_.to(X.dtype), n_iter

    def _iterate(self, X: Tensor, centroids: Tensor, seed: int) -> tuple[Tensor, Tensor, int]:
        """Run Lloyd's iteration step by step, for the options that :class:`dream_accel.BatchedKMeans` lacks."""
        draws = torch.Generator().manual_seed(seed)
        seen = torch.ones(*X.shape[:1], self.n_clusters, device=X.device)
        labels, n_iter = None, 0
        for n_iter in range(1, self.max_iter + 1):  # noqa: B007 (returned afterwards)
            x = X if self.minibatch is None else X[:, torch.randperm(X.shape[1], generator=draws)[: self.minibatch]]
            similarity, labels = self.max_sim(x, centroids)
            means, counts = self._means(x, labels, centroids, similarity)
            shift = (means - centroids).square().sum()
            if self.minibatch is not None:
                rate = 0.9 / seen[..., None].to(X.dtype) + 0.1
                seen += counts
                means = centroids * (1 - rate) + means * rate
            centroids = means
            if shift <= self.tol * len(X):
                break
        if labels is None or not self.as_published:
            labels = self.max_sim(X, centroids)[1]
        return labels, centroids, n_iter

    def _means(self, x: Tensor, labels: Tensor, centroids: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
        rows, offsets = _as_groups(x)
        keeps = self.as_published or self.minibatch is not None
        previous = torch.zeros_like(centroids) if self.as_published else centroids
        means, counts = ops.kmeans_update(
            rows,
            offsets,
            labels.flatten().int(),
            self.n_clusters,
            # A lower similarity means a larger distance.
            distance=(similarity.max() - similarity).flatten().to(ops.result_dtype(rows)),
            previous=previous.to(ops.result_dtype(rows)),
            empty="keep" if keeps else "farthest",
        )
        return means.to(x.dtype), counts

    def _start(self, x: Tensor, seed: int) -> Tensor:
        if self.as_published:
            return self._published_start(x)
        if self.init_method == "gaussian":
            draws = torch.Generator().manual_seed(seed)
            return _gaussian_rows(x, torch.randn(self.n_clusters, len(x), generator=draws))
        km = BatchedKMeans(self.n_clusters, max_iter=0, init=_INITS[self.init_method], seed=seed)
        return km.fit(x, check=False).cluster_centers_[0].to(x.dtype)

    def _published_start(self, x: Tensor) -> Tensor:
        """Initial centroids drawn with replacement, from torch's global generators in the original's order."""
        if self.init_method == "random":
            return x[torch.randint(0, len(x), size=[self.n_clusters], device=x.device)]
        if self.init_method == "gaussian":
            return _gaussian_rows(x, torch.randn(self.n_clusters, len(x), device=x.device))
        picks = x[torch.randint(len(x), [1])]
        for _ in range(1, self.n_clusters):
            distance = torch.cdist(picks, x).amin(dim=0)
            share = (distance / distance.sum()).cumsum(dim=0)
            row = torch.searchsorted(share, torch.rand(1).to(x.device)).clamp(max=len(x) - 1)
            picks = torch.cat([picks, x[row]])
        return picks


class KMeans(MultiKMeans):
    """K-Means of one set of rows; DREAM's code imports this class.

    Arguments and errors are those of :class:`MultiKMeans`; shapes lack the leading dimension. Every fit starts from
    ``init_method`` unless it is given centroids.

    Attributes:
        centroids: (K, n_features), of the rows' dtype and device; None before the first fit.
    """

    _batch_dims = 0

    def fit_predict(self, X: Tensor, centroids: Tensor | None = None) -> Tensor:
        """Cluster and label the rows as :meth:`MultiKMeans.fit_predict`.

        Args:
            X: (n_samples, n_features) float16, float32 or float64.
            centroids: (K, n_features) to start from; default: ``init_method``.

        Returns:
            (n_samples,) int64 labels.
        """
        labels = self._fit(self._checked(X)[None], None if centroids is None else centroids[None])[0]
        assert self.centroids is not None
        self.centroids = self.centroids[0]
        return labels


def _as_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (G * N, D) of x (G, N, D), and offsets (G+1,) int64 at which each group begins."""
    offsets = torch.arange(x.shape[0] + 1, device=x.device) * x.shape[1]
    return x.flatten(0, 1).contiguous(), offsets


def _gaussian_rows(x: Tensor, weights: Tensor) -> Tensor:
    """Draws (K, D) with the mean and covariance of the rows (N, D).

    They are ``mean + weights @ (x - mean) / sqrt(N - 1)`` with standard normal weights (K, N). No covariance matrix is
    formed, so N may be smaller than D.
    """
    mean = x.mean(dim=0)
    return mean + weights.to(x) @ (x - mean) / max(len(x) - 1, 1) ** 0.5
