"""Lloyd iterations of many groups: ours beside every peer that is installed.

All start from the same centroids, are allowed the same number of iterations, and must reach the same inertia before
they are timed. Times are per iteration done: some, ours among them, stop a group at its fixpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dream_accel import BatchedKMeans, DreamAccelError
from dream_accel.groups import random_rows, sum_groups
from dream_accel.ops import kmeans_assign
from dream_accel.random import generator

from .harness import Measurement, commit, device_name, quantiles, time_interleaved, versions
from .kmeans_providers import PROVIDERS, Fit, Fitted, Unable

INERTIA_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Shape:
    """Groups of rows to cluster."""

    sizes: tuple[int, ...]
    features: int
    clusters: int

    @property
    def mode(self) -> str:
        """Whether all groups have one size."""
        return "equal" if len(set(self.sizes)) == 1 else "ragged"


def _ragged(groups: int, least: int, most: int) -> tuple[int, ...]:
    draws = generator(0, "ragged sizes", groups)
    return tuple(torch.randint(least, most + 1, (groups,), generator=draws).tolist())


SVHN_SIZES = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)

SHAPES = {
    "cpu": (
        Shape((5000,) * 10, 128, 128),
        Shape((5000,) * 10, 512, 128),
        Shape((5000,) * 10, 2048, 128),
        Shape(_ragged(100, 300, 700), 512, 64),
    ),
    "cuda": (
        Shape((5000,) * 10, 2048, 128),
        Shape((500,) * 100, 2048, 64),
        Shape((5000,) * 10, 128, 128),
        Shape((1300,) * 1000, 512, 50),
        Shape((5000,) * 10, 8192, 128),
        Shape(SVHN_SIZES, 2048, 128),
    ),
}
QUICK = (Shape((300,) * 3, 32, 8), Shape((50, 0, 200, 120), 48, 8))


@dataclass(frozen=True)
class Problem:
    """Data, offsets and the common start."""

    x: Tensor
    offsets: Tensor
    start: Tensor
    iterations: int


def make_problem(shape: Shape, device: torch.device, iterations: int) -> Problem:
    """Rows near a 16-dimensional subspace, as features are, so that no one reaches the fixpoint at once."""
    draws = generator(0, "bench", shape.features, *shape.sizes, device=device)
    n_rows = sum(shape.sizes)
    latent = torch.randn(n_rows, 16, generator=draws, device=device)
    spread = torch.randn(16, shape.features, generator=draws, device=device)
    x = torch.randn(n_rows, shape.features, generator=draws, device=device).mul_(0.3).addmm_(latent, spread)
    offsets = torch.nn.functional.pad(torch.tensor(shape.sizes, device=device).cumsum(0), (1, 0))
    rows = random_rows(offsets, n_rows, shape.clusters, 0, "bench start")
    start = x[rows.clamp(min=0)].masked_fill((rows < 0).unsqueeze(2), torch.nan)
    return Problem(x, offsets, start, iterations)


def run(device: torch.device, quick: bool, rounds: int = 7, iterations: int = 10) -> Iterator[Measurement]:
    """Measure every shape of the device with every provider that can take it.

    Args:
        device: CPU or CUDA.
        quick: tiny shapes, few rounds.
        rounds: timed fits of each provider.
        iterations: Lloyd iterations per fit.
    """
    shapes: Sequence[Shape] = QUICK if quick else SHAPES[device.type]
    rounds, iterations = (3, 3) if quick else (rounds, iterations)
    for shape in shapes:
        problem = make_problem(shape, device, iterations)
        contestants, modes, done = _contestants(problem, shape, device)
        times = time_interleaved(contestants, device, rounds)
        floor = float(f"{_matmul_floor(problem, rounds) * 1e3:.4g}")
        for name, seconds in times.items():
            yield Measurement(
                kernel="kmeans",
                provider=name,
                mode=modes[name],
                groups=len(shape.sizes),
                rows=sum(shape.sizes),
                features=shape.features,
                clusters=shape.clusters,
                dtype="float32",
                metric="time per Lloyd iteration",
                **quantiles(seconds, 1e3 / done[name]),
                unit="ms",
                floor=floor,
                device=device_name(device),
                threads=torch.get_num_threads(),
                versions=versions(*(package for provider in PROVIDERS for package in provider.packages)),
                commit=commit(),
            )


def _contestants(
    problem: Problem, shape: Shape, device: torch.device
) -> tuple[dict[str, Fit], dict[str, str], dict[str, float]]:
    """The providers whose inertia agrees with ours, how each takes the problem, and the iterations each does."""
    own = f"dream-{device.type}"
    ours = _fit(problem)
    expected = _inertia(problem, ours.centroids)
    contestants: dict[str, Fit] = {own: lambda: _fit(problem)}
    modes, done = {own: shape.mode}, {own: ours.iterations}
    for provider in PROVIDERS:
        if device.type not in provider.devices:
            continue
        try:
            fit = provider.prepare(problem)
            fitted = fit()
        except Unable as reason:
            print(f"  {provider.name}: not run: {reason}")
            continue
        off = float((_inertia(problem, fitted.centroids) / expected - 1).abs().max())
        if off > INERTIA_TOLERANCE:
            raise DreamAccelError(
                f"{provider.name} ends {off:.2%} from our inertia, allowed is {INERTIA_TOLERANCE:.1%}: "
                "not the same computation, so not timed"
            )
        contestants[provider.name] = fit
        modes[provider.name] = f"{shape.mode}, {provider.mode}"
        done[provider.name] = fitted.iterations
    return contestants, modes, done


def _fit(problem: Problem) -> Fitted:
    km = BatchedKMeans(problem.start.shape[1], max_iter=problem.iterations, init=problem.start, empty="keep")
    km.fit(problem.x, problem.offsets, check=False)
    # n_iter_ leaves out the iteration that finds the fixpoint; peers count it.
    iterations = (km.n_iter_ + 1).clamp(max=problem.iterations)
    return Fitted(km.cluster_centers_, float((iterations * problem.offsets.diff()).sum() / len(problem.x)))


def _inertia(problem: Problem, centroids: Tensor) -> Tensor:
    """(G,) inertia of a provider's centroids, by one measure for all; empty groups count 1."""
    _, distance = kmeans_assign(problem.x, problem.offsets, centroids.float().contiguous())
    return sum_groups(distance, problem.offsets).where(problem.offsets.diff() > 0, 1.0)


def _matmul_floor(problem: Problem, rounds: int) -> float:
    """Median seconds of the bare products rows x centroids, which no exact Lloyd iteration can skip."""
    bounds = problem.offsets.tolist()
    pairs = [(problem.x[first:last], c.T) for first, last, c in zip(bounds, bounds[1:], problem.start, strict=False)]
    out = [torch.empty(len(x), c.shape[1], device=x.device) for x, c in pairs]

    def products() -> None:
        for (x, c), target in zip(pairs, out, strict=True):
            torch.mm(x, c, out=target)

    times = time_interleaved({"matmul": products}, problem.x.device, rounds)["matmul"]
    return sorted(times)[len(times) // 2]
