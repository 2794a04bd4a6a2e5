"""The work of the parts of an outer iteration, traced from the engine's own functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dream_accel.backends.iteration import iterate
from dream_accel.clustering import finite_rows
from dream_accel.data import Normalization
from dream_accel.engine.assembly import build_matching, build_trainer
from dream_accel.engine.compute import Compute
from dream_accel.kernels import tiles
from dream_accel.matching.pixels import PixelSGD
from dream_accel.matching.trajectories import TrajectoryMatching
from dream_accel.networks import make_network
from dream_accel.networks.features import embed_rows, images_at_a_time
from dream_accel.recipes import RECIPES, Recipe, recipe
from dream_accel.sampling.classes import fill_picks
from dream_accel.sampling.strategies import find_strategy

from ..matching_problem import COMMON, PROBLEMS, SHAPES
from . import kmeans
from .devices import Device
from .kmeans import Rows
from .traced import Op, traced
from .work import Kernel

MOVING = 25
"""Iterations of a refresh until every group is at its fixpoint. An assumption: it depends on the features."""
PRECISION = "tf32"
"""Of the iterations of a refresh: the default of BatchedKMeans on a GPU, where a trace without one sees fp32."""
FILLS = 2
"""Kernels that every replay of a graph launches for each generator registered with it, the default one included."""

Work = list[tuple[float, list[Kernel]]]
"""Kernels one after another, and how many times."""


@dataclass(frozen=True)
class Problem:
    """A distillation; the default is that of the benchmarks on CUDA."""

    recipe: Recipe
    image: tuple[int, int, int]
    classes: int
    images: int
    way: str = field(compare=False)
    """Of the class gradients; not compared, since all but the matching is the same."""


def make_problem(**changes: Any) -> Problem:
    """The problem of ``bench step`` on CUDA with other settings of the recipe, image shape, classes or images.

    ``problem_recipe`` replaces all settings by those of a recipe.
    """
    settings: dict[str, Any] = {**COMMON, **PROBLEMS["cuda"]}
    dataset = settings.pop("dataset")
    image, classes = changes.pop("image", SHAPES[dataset]), changes.pop("classes", 10)
    images, chosen = changes.pop("images", 50000), changes.pop("problem_recipe", None)
    chosen = recipe("dream", dataset, **{**settings, **changes}) if chosen is None else replace(chosen, **changes)
    return Problem(replace(chosen, class_gradients="auto"), image, classes, images, chosen.class_gradients)


@cache
def _around_iterations(groups: int, rows: int) -> tuple[Op, ...]:
    """The operators of PyTorch before and after; on meta tensors, as on a GPU, no value can be asked for."""
    x, offsets = torch.empty(rows, 1, device="meta"), torch.empty(groups + 1, dtype=torch.int64, device="meta")
    centroids = torch.empty(groups, 1, 1, device="meta")
    labels = torch.empty(rows, dtype=torch.int32, device="meta")
    backend: Any = SimpleNamespace(
        kmeans_assign=lambda *_, **__: (labels, None), kmeans_update=lambda *_: (centroids, None)
    )
    return traced(lambda: iterate(backend, x, offsets, centroids, 0, None, PRECISION, "keep"))


def lloyd_iteration(
    s: Rows, device: Device, precision: str, empty: str, moving: bool = True, full: bool = True
) -> list[Kernel]:
    """One Lloyd iteration after the first: assignment and update, which reads all rows or what has changed."""
    assignment = kmeans.assign(s, device, precision, moving=moving, updated=True)
    update = (kmeans.update if full else kmeans.shifted)(s, device, empty, moving=moving)
    return _without_maps([*assignment, *update])


def lloyd_iterations(s: Rows, device: Device, precision: str, empty: str, moving: bool = True) -> Work:
    """The mean Lloyd iteration of a fit."""
    every = 1 if s.features < tiles.SHIFTED_FEATURES else tiles.FULL_EVERY
    full, shifted = (lloyd_iteration(s, device, precision, empty, moving, full) for full in (True, False))
    return [(1 / every, full), (1 - 1 / every, shifted)]


def fit(s: Rows, device: Device, precision: str, empty: str, iterations: int, moving: int) -> Work:
    """A fit from given centroids: iterations in which rows move, those in which no group does, and the final pass."""
    moving = min(moving, iterations)
    return [
        (1, [kmeans.live_centroids(s)]),
        *_times(moving, lloyd_iterations(s, device, precision, empty)),
        *_times(iterations - moving, lloyd_iterations(s, device, precision, empty, moving=False)),
        (1, kmeans.tile_maps(s, device, precision, empty)),
        (1, [op.kernel(device) for op in _around_iterations(s.groups, s.rows)]),
        (1, _without_maps(kmeans.assign(s, device, "fp32", updated=iterations > 0))),
    ]


def _times(n: float, work: Work) -> Work:
    return [(n * times, kernels) for times, kernels in work]


def _without_maps(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels of an iteration: the maps were made before the first."""
    return [kernel for kernel in kernels if kernel.name != kmeans.TILE_MAP]


def refresh(problem: Problem, device: Device) -> Work:
    """Embedding of every image, the fit, the picks."""
    chunk = images_at_a_time(torch.device("cuda"))
    whole, rest = divmod(problem.images, chunk)
    work: Work = [(whole, [op.kernel(device) for op in _embedding(problem, chunk)])]
    if rest:
        work.append((1, [op.kernel(device) for op in _embedding(problem, rest)]))
    for op in _picking(problem):
        own = op.arguments
        if op.name == "kmeans_iterate":
            s = _rows_of(own)
            work += fit(s, device, PRECISION, own["empty"], own["max_iter"], MOVING)
        elif op.name == "nearest_members":
            work.append((1, kmeans.nearest(_rows_of(own), device, own["n"])))
        else:
            work.append((1, [op.kernel(device)]))
    return work


def matching_step(problem: Problem, device: Device, way: str) -> Work:
    """Distances and pixel gradients of all classes by one of the class-gradient implementations; the pixels move."""
    return [(1, [*_fills(0), *(op.kernel(device) for op in _matching(problem, way))])]


def network_update(problem: Problem, device: Device) -> Work:
    """The network's own training between two matching steps."""
    return [(1, [*_fills(1), *(op.kernel(device) for op in _training(problem))])]


def _fills(generators: int) -> list[Kernel]:
    return [Kernel("generators and inputs of a graph", launches=FILLS * (generators + 1) + 1)]


def _rows_of(own: dict[str, Any]) -> Rows:
    (rows, features), (groups, clusters, _) = own["x"], own["centroids"]
    return Rows(groups, rows, features, clusters)


def _parts(problem: Problem) -> tuple[Any, Compute, Any]:
    """Data set, settings and network as :mod:`dream_accel.engine.assembly` takes and makes them."""
    split: Any = SimpleNamespace(train=SimpleNamespace(shape=problem.image, n_classes=problem.classes))
    channels = problem.image[0]
    one = Normalization((0.5,) * channels, (0.5,) * channels)
    chosen, shape, classes = problem.recipe, problem.image, range(problem.classes)
    compute = Compute(torch.device("cpu"), one, chosen.bf16, chosen.channels_last, False, classes)
    # Not assembly.build_network: tensors without values cannot be moved to a device.
    depth = chosen.depth_for(shape)
    network = make_network(chosen.network, shape, problem.classes, chosen.width, depth, 0, **chosen.layer_kinds)
    return split, compute, network


def _images(problem: Problem) -> torch.Tensor:
    return torch.empty(problem.images, *problem.image, dtype=torch.uint8)


def _index(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@cache
def _embedding(problem: Problem, chunk: int) -> tuple[Op, ...]:
    with FakeTensorMode():
        _, compute, network = _parts(problem)
        images, rows = _images(problem), _index(chunk)
        with compute.autocast():
            return traced(lambda: embed_rows(images, rows, network, compute.prepared, chunk))


@cache
def _picking(problem: Problem) -> tuple[Op, ...]:
    chosen = problem.recipe
    pick = find_strategy(chosen.strategy).pick
    with FakeTensorMode():
        _, compute, network = _parts(problem)
        with compute.autocast():
            features = embed_rows(_images(problem), _index(1), network, compute.prepared)
        x = features.new_empty(problem.images, features.shape[1])
        offsets = _index(problem.classes + 1)

        def choose() -> None:
            finite_rows(x).all()
            fill_picks(pick(x, offsets, chosen.n_clusters, chosen.per_cluster, 0, chosen.kmeans_iterations))

        return traced(choose)


@cache
def _matching(problem: Problem, way: str) -> tuple[Op, ...]:
    chosen = replace(problem.recipe, class_gradients=way)
    with FakeTensorMode():
        split, compute, network = _parts(problem)
        objective = RECIPES[chosen.recipe].objective(chosen)
        assert not isinstance(objective, TrajectoryMatching)
        step = build_matching(chosen, split, compute, objective)
        step.device = torch.device("cuda")  # which decides how many classes are one batch
        images, indices = _images(problem), _index(problem.classes, chosen.n_clusters * chosen.per_cluster)
        pixels = torch.zeros(problem.classes, chosen.ipc, *problem.image)
        optimiser = PixelSGD(pixels, 1.0, chosen.pixel_momentum, chosen.pixel_sweep)

        def match() -> None:
            with compute.autocast():
                distances, gradient = step(network, images, indices, pixels)
            optimiser.step(gradient)
            distances.sum()

        return traced(match)


@cache
def _training(problem: Problem) -> tuple[Op, ...]:
    chosen = problem.recipe
    with FakeTensorMode():
        _, compute, network = _parts(problem)
        trainer = build_trainer(chosen, compute, network)
        images, labels, rows = _images(problem), _index(problem.images), _index(chosen.network_images)

        def train() -> None:
            with compute.autocast():
                trainer.steps(rows, images=images, labels=labels, batch=chosen.network_batch, lr=chosen.network_lr)

        return traced(train)
