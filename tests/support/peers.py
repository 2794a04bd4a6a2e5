"""Peers of the K-Means benchmark that misbehave; importable by name, so that another process can be given them."""

from __future__ import annotations

import functools
import os
import time

import torch

from dream_accel import BatchedKMeans
from dream_accel.bench.kmeans_providers import Fitted, Provider, Unable
from dream_accel.bench.kmeans_trial import inertia


def _near(problem, shift):
    """Our centroids, moved towards the start until the total inertia is ``shift`` higher, relatively."""
    km = BatchedKMeans(problem.start.shape[1], max_iter=problem.iterations, init=problem.start, empty="keep")
    ours = km.fit(problem.x, problem.offsets).cluster_centers_
    wanted = (1 + shift) * inertia(problem, ours)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        above = inertia(problem, ours.lerp(problem.start, middle)) > wanted
        low, high = (low, middle) if above else (middle, high)
    return lambda: Fitted(ours.lerp(problem.start, low), problem.iterations)


def _better(problem):
    """Ours with more iterations than are allowed."""
    km = BatchedKMeans(problem.start.shape[1], max_iter=100, init=problem.start, empty="keep")
    return lambda: Fitted(km.fit(problem.x, problem.offsets).cluster_centers_, problem.iterations)


def _wrong(problem):
    return lambda: Fitted(problem.start.nan_to_num(1e3), 1)


def _nan(problem):
    return lambda: Fitted(torch.full_like(problem.start, torch.nan), 1)


def _raising(problem):
    raise RuntimeError("no kernel image is available")


def _hanging(problem):
    time.sleep(600)


def _crashing(problem):
    os._exit(139)


def _absent(problem):
    raise Unable("peer is not installed")


def _later(problem):
    """Agrees when it is tried, raises when it is timed."""
    calls = iter(range(2))
    fit = _near(problem, 0.0)

    def sometimes():
        next(calls)
        return fit()

    return sometimes


def peer(name: str, prepare) -> Provider:
    return Provider(name, (), ("cpu",), "one fit per group", prepare)


SLIGHTLY_OFF = [peer(f"off by {shift}", functools.partial(_near, shift=shift)) for shift in (2.5e-3, 4.6e-3)]
BETTER, LATER = peer("better", _better), peer("later", _later)
BAD = {
    "wrong": (peer("wrong", _wrong), r"its total inertia is \+.*% from ours, at most \+1.0% is allowed"),
    "nan": (peer("nan", _nan), r"its total inertia is .*not the same computation, so not timed"),
    "raising": (peer("raising", _raising), "RuntimeError: no kernel image is available"),
    "absent": (peer("absent", _absent), "peer is not installed"),
    "hanging": (peer("hanging", _hanging), r"no answer within [\d.]+ s"),
    "crashing": (peer("crashing", _crashing), "its process ended with status 139"),
}
"""Peers by what is wrong with them, with the reason to be given; the last two need a process of their own."""
