"""Benchmark of the drop-ins beside what they replace, called as existing code calls it.

``KMeans`` beside fast_pytorch_kmeans; the sampler, on features it is given, beside DREAM's query of one class after
another; ``match_loss`` with its backward pass beside the formula of the DC family. Both sides do the same iterations
from the same data, and results that must agree are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dream_accel import DreamAccelError, RepresentativeSampler
from dream_accel.compat import KMeans, match_loss
from dream_accel.networks import ConvNet
from dream_accel.random import generator

from .harness import commit, device_name, quantiles, time_interleaved, versions
from .measurement import Measurement

ITERATIONS = 20
PEER = "fast-pytorch-kmeans"


@dataclass(frozen=True)
class Contest:
    """One call and its contestants."""

    what: str
    groups: int
    rows: int
    features: int
    clusters: int
    contestants: Mapping[str, Callable[[], Any]]
    rounds: int = 5
    """timings of each"""


def run(device: torch.device, quick: bool) -> Iterator[Measurement]:
    """Measure every drop-in.

    Args:
        device: CPU or CUDA.
        quick: tiny shapes, few rounds.
    """
    rows, features, clusters, width = (200, 32, 8, 8) if quick else (5000, 2048, 128, 128)
    for prepare in (_kmeans, _query, _match_loss):
        contest = prepare(device, rows, features, clusters, width)
        times = time_interleaved(contest.contestants, device, 2 if quick else contest.rounds)
        for name, seconds in times.items():
            yield Measurement(
                kernel="dropin",
                provider=name,
                mode=contest.what,
                groups=contest.groups,
                rows=contest.rows,
                features=contest.features,
                clusters=contest.clusters,
                dtype="float32",
                metric="time per call",
                **quantiles(seconds, 1e3),
                unit="ms",
                floor=0.0,
                device=device_name(device),
                threads=torch.get_num_threads(),
                versions=versions("fast_pytorch_kmeans"),
                commit=commit(),
            )


def _features(device: torch.device, rows: int, features: int) -> Tensor:
    """Rows near a 16-dimensional subspace, as features are."""
    draws = generator(0, "bench dropin", rows, features, device=device)
    latent = torch.randn(rows, 16, generator=draws, device=device)
    spread = torch.randn(16, features, generator=draws, device=device)
    return torch.randn(rows, features, generator=draws, device=device).mul_(0.3).addmm_(latent, spread)


def _peer() -> Any:
    try:
        import fast_pytorch_kmeans
    except ImportError:
        raise DreamAccelError(f"{PEER} is not installed: pip install dream-accel[bench]") from None
    return fast_pytorch_kmeans.KMeans


def _kmeans(device: torch.device, rows: int, features: int, clusters: int, width: int) -> Contest:
    x = _features(device, rows, features)
    start = x[torch.randperm(rows, generator=generator(0, "bench dropin start"))[:clusters].to(device)]
    fits: dict[str, Any] = {
        name: kind(clusters, max_iter=ITERATIONS) for name, kind in (("dream-compat", KMeans), (PEER, _peer()))
    }
    inertia = []
    for km in fits.values():
        km.fit_predict(x, start)
        inertia.append(float(torch.cdist(x, km.centroids).amin(dim=1).square().sum()))
    _must_agree("inertia", inertia, 1e-3)
    contestants = {name: partial(km.fit_predict, x, start) for name, km in fits.items()}
    return Contest(f"KMeans of {ITERATIONS} iterations", 1, rows, features, clusters, contestants)


def _query(device: torch.device, rows: int, features: int, clusters: int, width: int) -> Contest:
    n_classes = 10
    x = _features(device, n_classes * rows, features)
    labels = torch.arange(n_classes, device=device).repeat_interleave(rows)
    sampler = RepresentativeSampler(x, labels, clusters, features=lambda rows: rows, max_iter=ITERATIONS)
    kind = _peer()

    def query_every_class() -> None:
        # What that code does per class: cluster, then seek the row nearest each centre in the whole class.
        for own in x.split(rows):
            km = kind(clusters, max_iter=ITERATIONS, mode="euclidean")
            km.fit_predict(own)
            torch.cdist(km.centroids, own).argmin(dim=1)

    contestants = {"dream-compat": sampler.refresh, PEER: query_every_class}
    return Contest("query of every class", n_classes, n_classes * rows, features, clusters, contestants)


def _match_loss(device: torch.device, rows: int, features: int, clusters: int, width: int) -> Contest:
    draws = generator(0, "bench dropin gradients")
    shapes = [p.shape for p in ConvNet((3, 32, 32), 10, width, 3).parameters()]
    real, synthetic = ([torch.randn(s, generator=draws).to(device) for s in shapes] for _ in range(2))
    for gradient in synthetic:
        gradient.requires_grad_()
    args = SimpleNamespace(dis_metric="ours", device=device)

    def formula() -> Tensor:
        total = torch.zeros((), device=device)
        for r, s in zip(real, synthetic, strict=True):
            if r.dim() == 1:
                continue
            r, s = r.reshape(len(r), -1), s.reshape(len(s), -1)
            total = total + (1 - (r * s).sum(-1) / (r.norm(dim=-1) * s.norm(dim=-1) + 1e-6)).sum()
        return total

    matched = [s for s in synthetic if s.dim() > 1]

    def derive(loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(), matched)

    losses: dict[str, Callable[[], Tensor]] = {
        "dream-compat": partial(match_loss, synthetic, real, args),
        "formula": formula,
    }
    _must_agree("match_loss", [float(loss().detach()) for loss in losses.values()], 1e-5)
    contestants = {name: partial(derive, loss) for name, loss in losses.items()}
    elements = sum(s.numel() for s in matched)
    return Contest("match_loss and its gradient", 1, len(matched), elements, 0, contestants, rounds=100)


def _must_agree(what: str, values: list[float], tolerance: float) -> None:
    ours, theirs = values
    off = abs(ours / theirs - 1)
    if off > tolerance:
        raise DreamAccelError(
            f"{what} is {off:.2%} from the original's, allowed is {tolerance:.3%}: not the same computation, not timed"
        )
