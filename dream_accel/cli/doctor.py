"""What is installed, what can run, why the rest cannot, and whether it computes the right thing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from ..backends import BACKENDS, OPERATORS, _cuda_image, _native, backend, choose, refusal
from ..random import generator

PACKAGES = ("dream-accel", "torch", "torchvision", "triton", "numpy", "cupy-cuda12x", "cupy-cuda13x", "scikit-learn")


def main() -> int:
    """Print the diagnosis; 0 when everything that claims to run computes the right thing."""
    print("\n".join(_versions()))
    print("\n".join(_devices()))
    print("\nkernels")
    print(f"  {_native.describe()}")
    print(f"  {_cuda_image.describe()}")
    forced = os.environ.get("DREAM_ACCEL_BACKEND")
    print(f"  DREAM_ACCEL_BACKEND: {forced or 'not set, the fastest backend that can run a call is chosen'}")
    failures = 0
    for device in devices():
        print(f"\noperators on {device}")
        for op in OPERATORS:
            args = sample_call(op, device)
            print(f"  {op}: {forced or choose(op, *args).NAME}")
            for name in BACKENDS:
                reason = refusal(name, op, *args)
                if reason is not None:
                    print(f"    {name}: not used: {reason}")
                    continue
                verdict = _verdict(name, op, args)
                failures += verdict != "ok"
                print(f"    {name}: {verdict}")
    for index, origin in _cuda_image.loaded().items():
        print(f"\nCUDA kernels on cuda:{index}: {origin}")
    print("\nself-test " + ("passed" if failures == 0 else f"FAILED in {failures} places"))
    return int(failures > 0)


def devices() -> list[torch.device]:
    """The CPU, and the current CUDA device where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def sample_call(op: str, device: torch.device) -> tuple[Any, ...]:
    """Arguments of a small call of an operator, drawn from a fixed seed."""
    draws = generator(0, "doctor", op)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws).to(device)

    x, offsets = normal(200, 24), torch.tensor([0, 90, 90, 200], device=device)
    centroids = normal(3, 7, 24)
    labels = torch.randint(0, 7, (200,), generator=draws, dtype=torch.int32).to(device)
    if op == "kmeans_assign":
        return x, offsets, centroids, None, None, None, "fp32", True
    if op == "kmeans_iterate":
        return x, offsets, centroids, 5, None, "fp32", "farthest"
    if op == "kmeans_update":
        return x, offsets, labels, 9, normal(200).abs(), None, None, "farthest"
    if op == "group_products":
        return centroids.flatten(0, 1), torch.arange(4, device=device) * 7, x, offsets, normal(3, 24), 128
    if op == "gram_assign":
        active = torch.tensor([True, True, False], device=device)
        return normal(3, 7, 128), normal(3, 7).square(), offsets, active, labels
    if op == "nearest_members":
        return x, offsets, centroids, labels, 3
    shapes = [(4, 8, 3, 3, 3), (4, 5, 8)]
    real, synthetic = ([normal(*shape) for shape in shapes] for _ in range(2))
    if op == "scale_gradients":
        return real, normal(4, 2), True
    return real, synthetic, "cos", True, True


def agrees(name: str, op: str, args: tuple[Any, ...]) -> bool:
    """Whether a backend gives what the reference gives."""
    expected = getattr(backend("reference"), op)(*args)
    found = getattr(backend(name), op)(*args)
    return all(
        (a.shape, a.dtype) == (b.shape, b.dtype)
        and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(_tensors(expected), _tensors(found), strict=True)
    )


def _verdict(name: str, op: str, args: tuple[Any, ...]) -> str:
    try:
        return "ok" if agrees(name, op, args) else "WRONG RESULT: please report this"
    except Exception as error:  # the diagnosis must outlive what it diagnoses
        return f"FAILS, please report this: {type(error).__name__}: {' '.join(str(error).split())}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for part in value:
            yield from _tensors(part)


def _versions() -> Iterator[str]:
    yield "versions"
    yield f"  python: {sys.version.split()[0]}"
    for name in PACKAGES:
        try:
            yield f"  {name}: {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"  {name}: not installed"


def _devices() -> Iterator[str]:
    yield "\ndevices"
    yield f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        yield f"  cuda: none found (torch is {built})"
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"  cuda:{i}: {about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}"
