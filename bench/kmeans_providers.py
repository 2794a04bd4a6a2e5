"""The peers of the K-Means benchmark: how each is called so that it computes the same thing."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .kmeans_problems import Problem


class Fitted(NamedTuple):
    """Result of one whole fit."""

    centroids: Tensor
    """(G, K, D)."""
    iterations: float
    """Lloyd iterations done, mean over rows, because some providers stop a group at its fixpoint."""


Fit = Callable[[], Fitted]


class Unable(Exception):  # noqa: N818 (an answer, not an error)
    """The reason a provider cannot take a problem."""


@dataclass(frozen=True)
class Provider:
    """A peer and one way to call it. The same peer may be listed with several ways."""

    name: str
    packages: tuple[str, ...]
    devices: tuple[str, ...]
    mode: str
    prepare: Callable[[Problem], Fit]


MOST_IN_A_LOOP = 200
"""Largest number of groups for which peers that take one problem at a time are timed on a GPU."""


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Unable(f"{module} is not installed")


def _groups(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and start of every group. Raises Unable if a group cannot be clustered as it is."""
    bounds = problem.offsets.tolist()
    if problem.x.is_cuda and len(problem.start) > MOST_IN_A_LOOP:
        raise Unable(f"{len(problem.start)} fits one after another")
    for first, last, start in zip(bounds, bounds[1:], problem.start, strict=False):
        if last - first < len(start):
            raise Unable("a group has fewer rows than clusters")
        yield problem.x[first:last], start


def _one_by_one(
    problem: Problem, fit_one: Callable[[Any, Any], tuple[Any, int]], convert: Callable[[Tensor], Any]
) -> Fit:
    """A fit by a provider that takes one group at a time. Conversion of the data is not timed."""
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

    return _fits_of_scikit_learn(problem, KMeans)


def _scikit_learn_intelex(problem: Problem) -> Fit:
    _need("sklearnex")
    import daal4py
    from sklearnex.cluster import KMeans

    daal4py.daalinit(torch.get_num_threads())
    return _fits_of_scikit_learn(problem, KMeans)


def _fits_of_scikit_learn(problem: Problem, estimator: Callable[..., Any]) -> Fit:
    """Fits by scikit-learn's estimator or one that takes the same arguments."""

    def fit_one(x: Any, start: Any) -> tuple[Any, int]:
        km = estimator(len(start), init=start, n_init=1, max_iter=problem.iterations, tol=0.0, algorithm="lloyd")
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


def _fastkmeans(problem: Problem) -> Fit:
    _need("fastkmeans")
    from fastkmeans import FastKMeans

    seed, n_clusters = 0, problem.start.shape[1]

    def rearranged(x: Tensor) -> Any:
        """Reorder the rows so that those it draws as its start, from its seed, are the common start."""
        first = next(starts)
        places = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        others = torch.ones(len(x), dtype=torch.bool).index_fill_(0, first, False)
        order = torch.empty(len(x), dtype=torch.int64)
        order[places] = torch.cat([first, others.nonzero().squeeze(1)])
        return x.cpu()[order].numpy()

    starts = iter([(own - begin).cpu() for own, begin in zip(problem.rows, problem.offsets.tolist(), strict=False)])
    groups = [rearranged(x) for x, _ in _groups(problem)]

    def fit() -> Fitted:
        found = []
        for x in groups:
            # It computes in float16 on GPUs unless told otherwise, and a negative tolerance keeps it iterating.
            km = FastKMeans(
                x.shape[1],
                n_clusters,
                niter=problem.iterations,
                tol=-1.0,
                gpu=problem.x.is_cuda,
                seed=seed,
                dtype=torch.float32,
            )
            km.train(x)
            found.append(torch.as_tensor(km.centroids, device=problem.x.device))
        return Fitted(torch.stack(found), problem.iterations)

    return fit


def _superkmeans(problem: Problem) -> Fit:
    _need("superkmeans")
    from superkmeans import SuperKMeans

    def fit_one(x: Any, start: Any) -> tuple[Any, int]:
        # It takes no start: it draws rows. By default it reads a third of the rows, at most 256 per cluster.
        km = SuperKMeans(
            len(start),
            x.shape[1],
            hierarchical=False,
            iters=problem.iterations,
            sampling_fraction=1.0,
            max_points_per_cluster=len(x),
            n_threads=torch.get_num_threads(),
            seed=0,
            early_termination=False,
        )
        return km.train(x), problem.iterations

    return _one_by_one(problem, fit_one, lambda tensor: tensor.cpu().numpy())


class Batch(NamedTuple):
    """Groups of one size, for peers that take no other."""

    x: Tensor
    """(G, n, D)."""
    start: Tensor
    """(G, K, D), or (G, K+1, D) padded."""


def equal_batch(problem: Problem) -> Batch:
    """The groups unchanged. Raises Unable if their sizes differ."""
    sizes = problem.offsets.diff()
    if int(sizes.min()) != int(sizes.max()):
        raise Unable("it takes groups of one size only")
    return Batch(problem.x.view(len(sizes), -1, problem.x.shape[1]), problem.start)


def padded_batch(problem: Problem) -> Batch:
    """Pad every group to one row more than the largest with a point far from its rows, which gets its own centroid.

    The padding changes no other cluster, at the cost of one cluster more.
    """
    sizes = problem.offsets.diff().tolist()
    if min(sizes) == max(sizes):
        raise Unable("the groups have one size: nothing to pad")
    x = problem.x
    far = 4 * x.abs().max()
    padded = far.expand(len(sizes), max(sizes) + 1, x.shape[1]).clone()
    for own, (rows, _) in zip(padded, _groups(problem), strict=True):
        own[: len(rows)] = rows
    return Batch(padded, torch.cat([problem.start, far.expand(len(sizes), 1, x.shape[1])], dim=1))


def _flash_kmeans(make_batch: Callable[[Problem], Batch], problem: Problem) -> Fit:
    _need("flash_kmeans")
    from flash_kmeans import batch_kmeans_Euclid

    batch = make_batch(problem)

    def fit() -> Fitted:
        _, centroids, _ = batch_kmeans_Euclid(
            batch.x,
            batch.start.shape[1],
            max_iters=problem.iterations,
            tol=-1.0,
            init_centroids=batch.start.clone(),
        )
        return Fitted(centroids[:, : problem.start.shape[1]], problem.iterations)

    return fit


def _flashlib(make_batch: Callable[[Problem], Batch], problem: Problem) -> Fit:
    _need("flashlib")
    from flashlib import flash_kmeans

    batch = make_batch(problem)

    def fit() -> Fitted:
        # Without a tolerance it does not ask the device whether to go on; it writes over the start it is given.
        _, centroids, _ = flash_kmeans(
            batch.x,
            batch.start.shape[1],
            max_iters=problem.iterations,
            tol=0.0,
            init_centroids=batch.start.clone(),
            backend="triton",
        )
        return Fitted(centroids[:, : problem.start.shape[1]], problem.iterations)

    return fit


PADDED = "padded to one size with one cluster more"

PROVIDERS = (
    Provider("scikit-learn", ("scikit-learn",), ("cpu",), "one fit per group", _scikit_learn),
    Provider("scikit-learn-intelex", ("scikit-learn-intelex",), ("cpu",), "one fit per group", _scikit_learn_intelex),
    Provider(
        "fast-pytorch-kmeans", ("fast-pytorch-kmeans",), ("cpu", "cuda"), "one fit per group", _fast_pytorch_kmeans
    ),
    Provider("faiss", ("faiss-cpu", "faiss-gpu"), ("cpu", "cuda"), "one fit per group", _faiss),
    Provider("fastkmeans", ("fastkmeans",), ("cpu", "cuda"), "one fit per group", _fastkmeans),
    Provider("superkmeans", ("superkmeans",), ("cpu",), "one fit per group", _superkmeans),
    Provider("flash-kmeans", ("flash-kmeans",), ("cuda",), "one batch, tf32", partial(_flash_kmeans, equal_batch)),
    Provider("flash-kmeans", (), ("cuda",), f"{PADDED}, tf32", partial(_flash_kmeans, padded_batch)),
    Provider("flashlib", ("flashlib",), ("cuda",), "one batch, tf32", partial(_flashlib, equal_batch)),
    Provider("flashlib", (), ("cuda",), f"{PADDED}, tf32", partial(_flashlib, padded_batch)),
)
