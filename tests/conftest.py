"""Fixtures of all tests: the backends that serve this machine, forced in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Threads that spin while they wait make thousands of small calls crawl on a machine that has other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import torch
from support.served import GRADIENT_BACKENDS, KMEANS_BACKENDS, REPEATABLE_BACKENDS, Served

hypothesis.settings.register_profile(
    "dream_accel",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dream_accel")


def pytest_configure(config: pytest.Config) -> None:
    # In a pure Python installation every call would announce its fallback, and announcements are errors in the tests.
    for served_by in (KMEANS_BACKENDS, GRADIENT_BACKENDS):
        if next(served.name for served in served_by if served.device.type == "cpu") == "reference":
            os.environ.setdefault("DREAM_ACCEL_BACKEND", "reference")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for small tensors: on a busy machine waiting for a second costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=KMEANS_BACKENDS, ids=str)
def any_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Every backend that runs the K-Means operators on this machine in turn, forced."""
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", request.param.name)
    return request.param


@pytest.fixture(params=REPEATABLE_BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The same without the one that does not give the same bits twice."""
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", request.param.name)
    return request.param


@pytest.fixture(params=GRADIENT_BACKENDS, ids=str)
def gradient_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Every backend that runs the gradient distance on this machine in turn, forced."""
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", request.param.name)
    return request.param


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", "reference")
