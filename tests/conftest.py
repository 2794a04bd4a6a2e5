"""Shared by all tests: the backends that serve this machine, refusals, and a guard against host round trips."""

from __future__ import annotations

import os

# Threads that spin while they wait make thousands of small calls crawl on a machine that has other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import hypothesis
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dream_accel.backends import BACKENDS, DISTANCE_OPERATORS, KMEANS_OPERATORS, refusal
from dream_accel.backends.selftest import devices, sample_call
from dream_accel.errors import DreamAccelError

hypothesis.settings.register_profile(
    "dream_accel",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dream_accel")


@dataclass(frozen=True)
class Served:
    """A backend and a device whose calls it runs."""

    name: str
    device: torch.device

    def __str__(self) -> str:
        return self.name if self.name in ("cpu", "cuda") else f"{self.name}-{self.device.type}"


@cache
def served_here(operators: tuple[str, ...]) -> list[Served]:
    return [
        Served(name, device)
        for name in BACKENDS
        for device in devices()
        if all(refusal(name, op, *sample_call(op, device)) is None for op in operators)
    ]


KMEANS_BACKENDS = served_here(KMEANS_OPERATORS)
GRADIENT_BACKENDS = served_here(DISTANCE_OPERATORS)
# On CUDA plain PyTorch adds up rows in any order; all others give the same bits again.
REPEATABLE_BACKENDS = [
    served for served in KMEANS_BACKENDS if (served.name, served.device.type) != ("reference", "cuda")
]


def pytest_configure(config: pytest.Config) -> None:
    # In a pure Python installation every call would announce its fallback, and announcements are errors in the tests.
    for served_by in (KMEANS_BACKENDS, GRADIENT_BACKENDS):
        if next(served.name for served in served_by if served.device.type == "cpu") == "reference":
            os.environ.setdefault("DREAM_ACCEL_BACKEND", "reference")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


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


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The sentence a call is refused with."""
    with pytest.raises(DreamAccelError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused_unlaunched(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The same of a call that must not get as far as looking for a backend to run an operator."""
    launched = AssertionError("an operator was launched before the call was refused")
    with mock.patch("dream_accel.backends.refusal", side_effect=launched):
        return refused(call, *args, **kwargs)


_ASKS = {"item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "masked_select", "unique", "equal", "allclose"}
_ASKS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__"}
_ASKING_ATEN = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "item",
    "bincount",
}


class _NoAskingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in _ASKS, f"Tensor.{name} waits for the device"
        return func(*args, **(kwargs or {}))


class _NoAskingOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        assert name not in _ASKING_ATEN, f"aten::{name} waits for the device"
        sized = name != "repeat_interleave" or (kwargs or {}).get("output_size") is not None
        assert sized, "aten::repeat_interleave without output_size waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"aten::{name} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_round_trip() -> Iterator[set[str]]:
    """Fail on anything that would make the host wait for the device; yields the names of the operators seen.

    Python methods are watched besides aten operators, since ``tolist`` reads a CPU tensor without calling any. What
    runs is what an accelerator would run: CPU tensors are taken for tensors that are not to be looked at.
    """
    operators = _NoAskingOperators()
    as_on_accelerators = mock.patch("dream_accel.runtime.devices.reading_waits", return_value=True)
    with as_on_accelerators, _NoAskingFunctions(), operators:
        yield operators.seen
