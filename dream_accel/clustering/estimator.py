"""BatchedKMeans, the public estimator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..arrays import converter_like, whole_number
from ..errors import DreamAccelError
from ..groups import as_offsets
from ..ops.checks import check_centroids
from ..runtime.devices import find_device
from ..runtime.distributed import ALONE, Ranks
from .distances import distances_to_centroids
from .lloyd import inertia, unscaled_sums
from .parameters import Parameters, check_parameters, streamed_rows
from .routing import fit_batch, host_bounds
from .rows import as_rows, collect, in_precision_of, is_chunked
from .scaling import Scaling, find_scaling
from .seeding import Start, given_start, random_start
from .settings import Fit, LloydSettings
from .streaming import fit_stream, stream_inertia


class BatchedKMeans(Parameters):
    """Lloyd's K-Means for every group in one call.

    Each iteration assigns every row to the nearest centroid of its group, then replaces every centroid by the mean of
    its members; a group stops at its fixpoint and costs nothing afterwards. A group's result is the same, bit for bit,
    alone, in a batch, and in any order of groups. Lloyd (1982); k-means++ from Arthur and Vassilvitskii (2007).

    An estimator in the manner of scikit-learn: it has parameters, can be cloned, and works as a step of a pipeline, for
    one group. A copy or pickle of a fitted one includes the rows, which :meth:`representatives` and ``inertia_`` read.

    A group whose longest row is outside 1e-12 ... 1e14, where sums of squares leave float32, is multiplied by a power
    of two while it is fitted or compared, which changes no digit, and the results are divided by it.

    Args:
        n_clusters: K per group, at least 1. A group with fewer rows gets one cluster per row; the centroids left over
            are NaN, have count 0 and are never picked.
        max_iter: largest number of Lloyd iterations, at least 0.
        tol: a group also stops when the squared shift of its centroids is at most ``tol`` times the mean variance of
            its features, as in scikit-learn. At least 0, which stops at the fixpoint only.
        init: ``"random"`` rows without replacement, ``"k-means++"``, ``"labels"`` (the partition of the last fit), or
            centroids (G, K, D).
        seed: of the random initialisations, any whole number.
        precision: of the products that decide labels while iterating, on GPUs: ``"fp32"``, ``"tf32"`` or ``"bf16"``.
            The final pass is always fp32.
        empty: policy for empty clusters: take the row ``"farthest"`` from its centroid, or ``"keep"`` the own centroid.
        cuda_graph: on CUDA, record the second fit of a kind (sizes, dtypes, settings, address of ``x``) in a CUDA graph
            and replay it for later ones. A graph keeps about as much memory as a fit takes beside ``x``.
        gram: iterate on the Gram matrix of every group that has at least 64 rows and fewer than D/2, where ``tol`` is 0
            and ``empty`` is ``"farthest"``. An iteration then reads rows x rows numbers instead of rows x D, after one
            product that costs as much as rows / K iterations, which pays in fits of very many iterations. Needs the
            offsets on the host, or ``check``.

    Attributes:
        labels_: (N,) int32, nearest centroid of every row.
        cluster_centers_: (G, K, D) float32, the centroids ``labels_`` were computed with.
        counts_: (G, K) int32, rows per label.
        inertia_: (G,) float32, sum of squared distances to the own centroid; computed from ``x`` when first asked for.
            float64 where a group needed scaling, as float32 might not hold its squares.
        n_iter_: (G,) int32, iterations until the group stopped.
    """

    labels_: Any
    cluster_centers_: Any
    counts_: Any
    n_iter_: Any

    def __init__(
        self,
        n_clusters: int,
        max_iter: int = 20,
        tol: float = 0.0,
        init: str | Any = "random",
        seed: int = 0,
        precision: str = "tf32",
        empty: str = "farthest",
        cuda_graph: bool = True,
        gram: bool = False,
    ) -> None:
        check_parameters(n_clusters, max_iter, tol, init, seed, precision, empty)
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.seed = seed
        self.precision = precision
        self.empty = empty
        self.cuda_graph = cuda_graph
        self.gram = gram
        self._fitted: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._scaling: Scaling | None = None

    @torch.no_grad()
    def fit(
        self,
        x: Any,
        offsets: Any = None,
        *,
        init: str | Any | None = None,
        check: bool = True,
        chunk_rows: int | None = None,
        device: torch.device | str | None = None,
        ranks: Ranks = ALONE,
    ) -> BatchedKMeans:
        """Cluster the rows of every group.

        Rows that do not fit the device stay in host memory with ``chunk_rows``: every iteration streams them through
        ``device``, a chunk at a time, on CUDA through two pinned buffers. The centroids, and a label and a distance per
        row, stay on the device.

        Args:
            x: (N, D) float32, float16 or bfloat16; torch, NumPy or CuPy. Results come back in the same kind of array.
                Or an iterator, list or tuple of such arrays (n, D), N rows together, as an embedding loop yields them:
                each is copied into one array as it comes. float64 gives float64 centroids and runs in plain PyTorch,
                which is slower and is said once in a warning; convert to float32 for the compiled kernels.
            offsets: (G+1,) integers; group ``g`` owns rows ``offsets[g]`` to ``offsets[g+1] - 1``. Default: one group.
            init: overrides the constructor's for this fit.
            check: refuse NaN, Inf and malformed offsets, and scale groups of very large or very small rows, which
                synchronises once. False trusts the caller: no row is scaled, so rows outside 1e-12 ... 1e14 are
                clustered wrongly.
            chunk_rows: most rows streamed at a time, a whole number, at least 1. Default: all rows are used at once.
            device: the device that computes with streamed rows. Default: that of ``x``.
            ranks: processes that share the chunks of streamed rows. Each passes the same rows, a mapped file for
                example, reads its own chunks, and has the results of one process, to the same bits on CPUs.

        Returns:
            self.

        Raises:
            DreamAccelError: x is not (N, D) floating point, holds NaN or Inf, or offsets or centroids do not fit.
        """
        chunk_rows = streamed_rows(chunk_rows, device, ranks)
        if is_chunked(x):
            x, back = collect(x, offsets)
        else:
            back = converter_like(x)
        x = as_rows(x)
        place = x.device if device is None else find_device(device)
        bounds = host_bounds(offsets, len(x), check) if self.gram else None
        offsets = as_offsets(offsets, len(x), place, check)
        start = self._start(x, offsets, self.init if init is None else init)
        scaling = find_scaling(x, offsets, start.centroids, chunk_rows) if check else None
        if scaling is not None and start.centroids is not None:
            start = start._replace(centroids=scaling.centroids(start.centroids))
        precision = self.precision if place.type == "cuda" else "fp32"
        settings = LloydSettings(int(self.n_clusters), int(self.max_iter), self.tol, precision, self.empty, self.gram)
        if chunk_rows is not None:
            found = fit_stream(x, offsets, start, settings, chunk_rows, scaling, ranks)
            self._inertia = partial(stream_inertia, x, offsets, found.centroids, scaling, chunk_rows)
        else:
            rows = x if scaling is None else scaling.rows(x, offsets)
            found = fit_batch(rows, offsets, start, settings, bounds, self.cuda_graph)
            self._inertia = partial(inertia, x, offsets, found.centroids, scaling)
        if scaling is not None:
            found = found._replace(centroids=scaling.undo_centroids(found.centroids))
        self._keep(x, offsets, found, back, scaling)
        return self

    def fit_predict(self, x: Any, offsets: Any = None, **options: Any) -> Any:
        """``fit(x, offsets, **options).labels_``."""
        return self.fit(x, offsets, **options).labels_

    @torch.no_grad()
    def predict(self, x: Any, offsets: Any = None) -> Any:
        """(N,) int32: the nearest of the fitted centroids for other rows of the same G groups.

        Rows are converted to the precision of the fit, as in :meth:`transform`.
        """
        back = converter_like(x)
        x, offsets, centroids, _ = self._other_rows("predict()", x, offsets)
        return back(ops.kmeans_assign(x, offsets, centroids, with_distance=False)[0])

    @torch.no_grad()
    def transform(self, x: Any, offsets: Any = None) -> Any:
        """Euclidean distances of other rows of the same G groups to all fitted centroids of their group.

        Args:
            x: (N, D), as for :meth:`fit`; converted to float32 after a fit of float32 or half precision, to float64
                after one of float64.
            offsets: (G+1,) integers. Default: one group.

        Returns:
            (N, K) float32, float64 after a fit of float64 rows. Infinity where the centroid is NaN, because the group
            had fewer rows than clusters: the smallest distance of a row is the one to the centroid that :meth:`predict`
            names.

        Raises:
            DreamAccelError: before a fit, rows that do not fit it, or a distance that exceeds float32.
        """
        back = converter_like(x)
        return back(_distances(*self._other_rows("transform()", x, offsets)))

    @torch.no_grad()
    def fit_transform(self, x: Any, offsets: Any = None, **options: Any) -> Any:
        """``fit(x, offsets, **options)``, then :meth:`transform` of the same rows."""
        self.fit(x, offsets, **options)
        x, offsets, _, centroids = self._state("fit_transform()")
        return self._back(_distances(*self._scaled(x, offsets, centroids)))

    @torch.no_grad()
    def score(self, x: Any, offsets: Any = None) -> float:
        """Minus the sum of the squared distances from all rows to the nearest fitted centroid of their group.

        For one group this is the score of scikit-learn's KMeans; for several it is the sum of theirs. Minus infinity
        where a row is in a group that has no centroid, 0 without rows. Waits for the device.
        """
        x, offsets, centroids, scaling = self._other_rows("score()", x, offsets)
        _, distance = ops.kmeans_assign(x, offsets, centroids)
        if scaling is None:
            return 0.0 - distance.double().sum().item()
        return 0.0 - unscaled_sums(distance, offsets, scaling).sum().item()

    @torch.no_grad()
    def representatives(self, n: int = 1) -> Any:
        """(G, K*n) int64 rows: the ``n`` nearest each centroid, distinct; -1 where a group has too few rows."""
        x, offsets, labels, centroids = self._state("representatives()")
        n = whole_number(n, "n", least=1)
        x, offsets, centroids, _ = self._scaled(x, offsets, centroids)
        return self._back(ops.nearest_members(x, offsets, centroids, labels, n).flatten(1))

    @cached_property
    def inertia_(self) -> Any:
        """(G,) float32, sum of squared distances to the own centroid."""
        x, *_ = self._state("inertia_")
        return self._back(self._inertia().to(x.device))

    def __sklearn_is_fitted__(self) -> bool:
        """Return True after :meth:`fit`; scikit-learn asks it."""
        return self._fitted is not None

    def _other_rows(self, asked: str, x: Any, offsets: Any) -> tuple[Tensor, Tensor, Tensor, Scaling | None]:
        """Rows in the precision of the fit, offsets and fitted centroids, scaled alike."""
        *_, centroids = self._state(asked)
        x = in_precision_of(as_rows(x), centroids)
        offsets = as_offsets(offsets, len(x), x.device)
        check_centroids(x, offsets, centroids)
        scaling = find_scaling(x, offsets, centroids)
        if scaling is not None:
            x, centroids = scaling.rows(x, offsets), scaling.centroids(centroids)
        return x, offsets, centroids, scaling

    def _scaled(self, x: Tensor, offsets: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Scaling | None]:
        """Rows and centroids of the last fit, scaled as they were in it."""
        if self._scaling is not None:
            x, centroids = self._scaling.rows(x, offsets), self._scaling.centroids(centroids)
        return x, offsets, centroids, self._scaling

    def _state(self, asked: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._fitted is None:
            raise DreamAccelError(f"{asked} before fit(): call fit(x, offsets) first")
        return self._fitted

    def _start(self, x: Tensor, offsets: Tensor, init: str | Any) -> Start:
        expected = (len(offsets) - 1, int(self.n_clusters), x.shape[1])
        if not isinstance(init, str):
            return given_start(init, expected, ops.result_dtype(x), offsets.device)
        if init != "labels":
            return random_start(init, int(self.n_clusters), self.seed, offsets.device)
        *_, labels, last = self._state('fit(init="labels")')
        if labels.shape != x.shape[:1]:
            raise DreamAccelError(
                f'init="labels" with {len(x)} rows after a fit of {len(labels)}: the rows must be the same ones'
            )
        previous = last.to(offsets.device, ops.result_dtype(x)) if tuple(last.shape) == expected else None
        return Start("labels", labels=labels.to(offsets.device), centroids=previous)

    def _keep(
        self, x: Tensor, offsets: Tensor, found: Fit, back: Callable[[Tensor], Any], scaling: Scaling | None
    ) -> None:
        found = Fit(*(result.to(x.device) for result in found))
        self._fitted = (x, offsets.to(x.device), found.labels, found.centroids)
        self._scaling = None if scaling is None else scaling.to(x.device)
        self._back = back
        shown = tuple(map(back, found))
        if isinstance(shown[0], np.ndarray):
            # A pool moves pickled tensors to shared memory, which would leave arrays that view them behind.
            shown = tuple(array.copy() for array in shown)
        self.labels_, self.cluster_centers_, self.counts_, self.n_iter_ = shown
        self.__dict__.pop("inertia_", None)


def _distances(x: Tensor, offsets: Tensor, centroids: Tensor, scaling: Scaling | None) -> Tensor:
    scaled = distances_to_centroids(x, offsets, centroids)
    if scaling is None:
        return scaled
    distances = scaling.undo_distances(scaled, offsets)
    if bool((distances.isinf() & scaled.isfinite()).any()):
        raise DreamAccelError(f"x is so far from a centroid that {distances.dtype} cannot hold it: scale x down")
    return distances
