"""``dream-accel doctor``: prints versions, devices, backends and why some cannot run, and runs a self-test."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata

import torch
import typer

from ..backends import BACKENDS, OPERATORS, _cuda_image, _native, choose, refusal
from ..backends.selftest import devices, sample_call, verdict
from ..runtime.determinism import repeatable
from ..runtime.devices import DEVICE_ERRORS, reason_of, why_unusable
from ..runtime.gpu_names import mig_profile

SLOWER = "everything runs on the CPU, which is slower"

PACKAGES = ("dream-accel", "torch", "torchvision", "triton", "numpy", "cupy-cuda12x", "cupy-cuda13x", "scikit-learn")


def doctor() -> None:
    """Print versions, devices, which kernels can run and why the rest cannot, and test those that can."""
    raise typer.Exit(diagnose())


def diagnose() -> int:
    """Print the diagnosis.

    Returns:
        the exit status: 0 if every usable backend computes the right values, else 1.
    """
    print("\n".join(_versions()))
    print("\n".join(_devices()))
    print("\nkernels")
    print(f"  {_native.describe()}")
    print(f"  {_cuda_image.describe()}")
    forced = os.environ.get("DREAM_ACCEL_BACKEND")
    print(f"  DREAM_ACCEL_BACKEND: {forced or 'not set, the fastest backend that can run a call is chosen'}")
    failures = sum(_operators(device, forced) for device in devices())
    for index, origin in _cuda_image.loaded().items():
        print(f"\nCUDA kernels on cuda:{index}: {origin}")
    places = "1 place" if failures == 1 else f"{failures} places"
    print("\nself-test " + ("passed" if failures == 0 else f"FAILED in {places}"))
    return int(failures > 0)


def _operators(device: torch.device, forced: str | None) -> int:
    """Print the backend that runs each operator on a device, and test all backends.

    Args:
        device: the device.
        forced: the backend that DREAM_ACCEL_BACKEND names, or None.

    Returns:
        the number of failures.
    """
    failures = 0
    print(f"\noperators on {device}")
    unusable = why_unusable(device)
    if unusable is not None:
        print(f"  not tested, because the device cannot be used ({unusable}): {SLOWER}")
        return 1
    with repeatable(device):
        for op in OPERATORS:
            args = sample_call(op, device)
            print(f"  {op}: {forced or choose(op, *args).NAME}")
            for name in BACKENDS:
                reason = refusal(name, op, *args)
                found = f"not used: {reason}" if reason is not None else verdict(name, op, args)
                failures += reason is None and found != "ok"
                print(f"    {name}: {found}")
    return failures


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
    with warnings.catch_warnings(record=True) as said:
        # PyTorch warns of a driver that is too old or does not work, and finds no device then.
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        driver = f": {reason_of(said[0].message)}: {SLOWER}" if said and isinstance(said[0].message, Warning) else ""
        yield f"  cuda: none found (torch is {built}){driver}"
    for i in range(torch.cuda.device_count()):
        yield f"  cuda:{i}: {_gpu(i)}"


def _gpu(index: int) -> str:
    """One line on a GPU; a driver that does not answer is said, not raised."""
    try:
        about = torch.cuda.get_device_properties(index)
    except DEVICE_ERRORS as error:
        return f"its driver does not answer ({reason_of(error)}): {SLOWER}"
    size = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}"
    profile = mig_profile(about.name)
    if profile is None:
        return size
    return (
        f"{size}, {about.multi_processor_count} multiprocessors: a MIG slice ({profile}), on which everything runs, "
        "but slower than on the whole GPU, so that figures of whole GPUs do not hold"
    )
