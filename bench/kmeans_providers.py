"""The peers of the K-Means benchmark: how each is called so that it computes the same thing."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .kmeans import Problem


class Fitted(NamedTuple):
    """What one whole fit came to."""

    centroids: Tensor
    """(G, K, D)."""
    iterations: float
    """Lloyd iterations done, mean over rows: some stop a group at its fixpoint."""


Fit = Callable[[], Fitted]


class Unable(Exception):  # noqa: N818 (an answer, not an error)
    """Why a provider cannot take a problem."""


@dataclass(frozen=True)
class Provider:
    """A peer, and how it is called."""

    name: str
    packages: tuple[str, ...]
    devices: tuple[str, ...]
    mode: str
    prepare: Callable[[Problem], Fit]


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Unable(f"{module} is not installed")


def _groups(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and start of every group that can be clustered as it is."""
    bounds = problem.offsets.tolist()
    for first, last, start in zip(bounds, bounds[1:], problem.start, strict=False):
        if last - first < len(start):
            raise Unable("a group has fewer rows than clusters")
        yield problem.x[first:last], start


def _one_by_one(
    problem: Problem, fit_one: Callable[[Any, Any], tuple[Any, int]], convert: Callable[[Tensor], Any]
) -> Fit:
    """A provider that takes one group at a time and returns its centroids and iterations; conversion is not timed."""
    groups = [(convert(x), convert(start)) for x, start in _groups(problem)]

    def fit() -> Fitted:
        found = [fit_one(x, start) for x, start in groups]
        centroids = torch.stack([torch.as_tensor(centroids, device=problem.x.device) for centroids, _ in found])
        work = sum(iterations * len(x) for (_, iterations), (x, _) in zip(found, groups, strict=True))
        return Fitted(centroids, work / len(problem.x))

    return fit


def _scikit_learn(problem: Problem) -> Fit:
    _need("sklearn")
    from sklearn.cluster import KMeans

    def fit_one(x: Any, start: Any) -> tuple[Any, int]:
        km = KMeans(len(start), init=start, n_init=1, max_iter=problem.iterations, tol=0.0, algorithm="lloyd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces that max_iter was reached, as it should be
            km.fit(x)
        return km.cluster_centers_, km.n_iter_

    return _one_by_one(problem, fit_one, lambda tensor: tensor.cpu().numpy())


def _fast_pytorch_kmeans(problem: Problem) -> Fit:
    _need("fast_pytorch_kmeans")
    _need("psutil")
    from fast_pytorch_kmeans import KMeans

    def fit_one(x: Tensor, start: Tensor) -> tuple[Tensor, int]:
        # A negative tolerance keeps it iterating; it overwrites the start it is given.
        km = KMeans(len(start), max_iter=problem.iterations, tol=-1.0, mode="euclidean")
        km.fit_predict(x, centroids=start.clone())
        return km.centroids, problem.iterations

    return _one_by_one(problem, fit_one, lambda tensor: tensor)


def _faiss(problem: Problem) -> Fit:
    _need("faiss")
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())

    def fit_one(x: Any, start: Any) -> tuple[Any, int]:
        km = faiss.Kmeans(
            x.shape[1],
            len(start),
            niter=problem.iterations,
            max_points_per_centroid=len(x),
            min_points_per_centroid=1,
            gpu=problem.x.is_cuda,
        )
        km.train(x, init_centroids=start)
        return km.centroids, problem.iterations

    return _one_by_one(problem, fit_one, lambda tensor: tensor.cpu().numpy())


def _flash_kmeans(problem: Problem) -> Fit:
    _need("flash_kmeans")
    from flash_kmeans import batch_kmeans_Euclid

    sizes = problem.offsets.diff()
    if int(sizes.min()) != int(sizes.max()):
        raise Unable("it takes groups of one size only")
    x = problem.x.view(len(sizes), -1, problem.x.shape[1])

    def fit() -> Fitted:
        _, centroids, _ = batch_kmeans_Euclid(
            x, problem.start.shape[1], max_iters=problem.iterations, tol=-1.0, init_centroids=problem.start.clone()
        )
        return Fitted(centroids, problem.iterations)

    return fit


PROVIDERS = (
    Provider("scikit-learn", ("scikit-learn",), ("cpu",), "one fit per group", _scikit_learn),
    Provider(
        "fast-pytorch-kmeans", ("fast-pytorch-kmeans",), ("cpu", "cuda"), "one fit per group", _fast_pytorch_kmeans
    ),
    Provider("faiss", ("faiss-cpu", "faiss-gpu"), ("cpu", "cuda"), "one fit per group", _faiss),
    Provider("flash-kmeans", ("flash-kmeans",), ("cuda",), "one batch", _flash_kmeans),
)
