"""Trials of peers before they are timed: each in a process beside this one, with a time limit.

A peer that hangs, crashes or breaks the CUDA context of its process therefore costs its own row alone. What it compiles
is cached on disk, so that it is not compiled again where it is timed.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dream_accel.groups import sum_groups
from dream_accel.ops import kmeans_assign

from .harness import type_and_message
from .kmeans_problems import Problem, Shape, make_problem
from .kmeans_providers import Fitted, Provider, Unable

LIMIT = 60.0
"""Seconds a peer has for its first fit of a problem, compilation included."""
STARTING = 120.0
"""Seconds the process has to start."""
TOLERANCE = 0.01
"""Excess over our total inertia allowed to a peer: reduced precision alone takes some to 0.5 % after 20 iterations."""


class Tried(NamedTuple):
    """Outcome of a trial: total inertia and iterations, or the reason why there are none."""

    inertia: float = 0.0
    iterations: float = 0.0
    reason: str = ""
    broke: bool = False
    """whether it raised, after which a CUDA context may serve nobody else"""


def inertia(problem: Problem, centroids: Tensor) -> float:
    """Total inertia over all groups of a provider's centroids, assigned in float32 by one measure for all."""
    _, distance = kmeans_assign(problem.x, problem.offsets, centroids.float().contiguous())
    return float(sum_groups(distance, problem.offsets).double().sum())


def verdict(found: float, ours: float) -> str:
    """The reason why a provider with this total inertia is not timed; empty if it is at most 1 % above ours.

    A provider that ends below ours has found better centroids, and is timed.
    """
    above = found / ours - 1
    if above <= TOLERANCE:
        return ""
    return (
        f"its total inertia is {above:+.2%} from ours, at most {TOLERANCE:+.1%} is allowed: "
        "not the same computation, so not timed"
    )


def attempt(provider: Provider, problem: Problem) -> Tried:
    """Prepare a provider and fit once, in this process."""
    try:
        fitted: Fitted = provider.prepare(problem)()
        return Tried(inertia(problem, fitted.centroids), fitted.iterations)
    except Unable as reason:
        return Tried(reason=str(reason))
    except Exception as error:  # a peer that breaks takes no other with it
        return Tried(reason=type_and_message(error), broke=True)


class Trials:
    """A process that tries providers one after another, started anew after one that did not return.

    Args:
        device: where providers run.
        limit: seconds for each trial.
        apart: try in the process beside this one; otherwise in this process, without a time limit.
    """

    def __init__(self, device: torch.device, limit: float = LIMIT, apart: bool = True) -> None:
        self.device, self.limit, self.apart = device, limit, apart
        self._process: Any = None
        self._link: Any = None

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, provider: Provider, shape: Shape, problem: Problem) -> Tried:
        """Try a provider on the problem, which the other process makes from its shape."""
        tried = self._ask(provider, shape, problem) if self.apart else attempt(provider, problem)
        if tried.broke:
            self._end()
        if self.apart and tried.reason.startswith("OutOfMemoryError"):  # the device does not hold the problem twice
            return attempt(provider, problem)
        return tried

    def _ask(self, provider: Provider, shape: Shape, problem: Problem) -> Tried:
        try:
            if self._process is None:
                self._start()
            self._link.send((provider, shape, problem.iterations))
            if self._link.poll(self.limit):
                return Tried(*self._link.recv())
            return Tried(reason=f"no answer within {self.limit:g} s", broke=True)
        except (EOFError, OSError):
            self._process.join(5)
            return Tried(reason=f"its process ended with status {self._process.exitcode}", broke=True)

    def _start(self) -> None:
        # Not forked: a CUDA context does not survive that.
        context = multiprocessing.get_context("spawn")
        self._link, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, str(self.device)), daemon=True)
        self._process.start()
        other.close()
        if self._link.poll(STARTING):  # not counted as the peer's time
            self._link.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._link.close()
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(link: Connection, device: str) -> None:
    """Answer trials until the other end is closed."""
    link.send("ready")
    made: tuple[Any, Any] = (None, None)
    while True:
        try:
            provider, shape, iterations = link.recv()
        except EOFError:
            return
        try:
            if made[0] != (shape, iterations):
                made = (None, None)  # the memory of the last problem is free before the next is made
                made = ((shape, iterations), make_problem(shape, torch.device(device), iterations))
            tried = attempt(provider, made[1])
        except Exception as error:
            tried = Tried(reason=type_and_message(error), broke=True)
        link.send(tuple(tried))
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
