"""The steps of every part: commands, time limits, and which of them decide."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {1: "build, self-test, tests", 2: "K-Means and tiles", 3: "distances, steps and sanitizer"}
BUDGET = 535.0
"""Seconds of a part, installation included: some GPUs are lent by commands of ten minutes."""

FIRST: tuple[str, ...] = ("reference", "kmeans_measures", "distance", "gram", "clustering", "graphs", "matching_ways")
FIRST += ("backends", "ops", "doctor", "streaming", "sampling", "cuda_image", "estimator_manners")
FIRST += ("triton_distance", "triton_kernels")
"""Tests that reach a GPU where there is one, those of the kernels first; not those that only compile kernels."""
SANITIZED = {"memcheck": 50, "racecheck": 45, "synccheck": 25, "initcheck": 35}
"""Tools of compute-sanitizer and their seconds, each over the self-test."""
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""PyTorch otherwise cuts tensors out of large segments, within which memcheck sees no boundary."""


@dataclass(frozen=True)
class Step:
    """One command of a part."""

    name: str
    command: Sequence[str]
    """empty where it cannot run here"""
    seconds: float
    decides: bool = False
    """whether the part fails with it"""
    missing: str = ""
    """why the command is empty"""
    env: Mapping[str, str] = field(default_factory=dict)
    """beside the variables that are set"""


def of_part(part: int, options: Namespace) -> list[Step]:
    """The steps of a part: what it needs, then what it is for. Every part may meet a fresh machine."""
    return [*_setup(options), *{1: _tests, 2: _kmeans, 3: _rest}[part](options)]


def _python(*words: object) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def _setup(options: Namespace) -> list[Step]:
    here = (ROOT / "setup.py").is_file()
    wheels = ["--wheels", options.wheels] if options.wheels else []
    module = f"{__package__}.installing"
    return [
        Step("packages", _python(module, "packages", *wheels), 45),
        Step("install", _python(module, "install") if here else [], 130, here, f"{ROOT} holds no setup.py"),
    ]


def _tests(options: Namespace) -> list[Step]:
    tests = ROOT / "tests"
    missing = "" if tests.is_dir() else f"there is no {tests}"
    run = _python("pytest", "-o", "addopts=--strict-markers", "-v", "--tb=short", "-p", "no:cacheprovider")
    run += ["-o", "faulthandler_timeout=60"]
    if importlib.util.find_spec("pytest_timeout"):
        run += ["--timeout=90"]
    files = [str(tests / f"test_{name}.py") for name in FIRST]
    marked, others = ([*run, "-m", "gpu", str(tests)], [*run, "-m", "not slow and not gpu", *files])
    if options.quick:
        marked, others = [*run, "-m", "gpu", str(tests / "test_graphs.py")], [*run, str(tests / "test_arrays.py")]
    return [
        Step("doctor", _python("dream_accel", "doctor"), 40, True),
        Step("gpu-tests", [] if missing else marked, 100, True, missing),
        Step("tests", [] if missing else others, 215, True, missing),
    ]


def _kmeans(options: Namespace) -> list[Step]:
    tiles = _python("dream_accel.kernels.tuning", "--device", options.device, "--out", options.out / "tiles.json")
    on_gpu = _on_gpu(options)
    return [
        _measure("kmeans", 240, options),
        Step("tiles", tiles if on_gpu else [], 115, missing="tiles are measured on a CUDA device"),
    ]


def _rest(options: Namespace) -> list[Step]:
    measured = [_measure(name, seconds, options) for name, seconds in {"step": 70, "outer": 60, "distance": 70}.items()]
    return [*measured, *_sanitized(options)]


def _sanitized(options: Namespace) -> list[Step]:
    on_gpu = _on_gpu(options)
    tool = options.sanitizer or (shutil.which("compute-sanitizer") if on_gpu else None)
    missing = (
        "compute-sanitizer was not found: it comes with the CUDA toolkit"
        if on_gpu
        else f"it checks no {options.device}"
    )
    found = []
    for name, seconds in SANITIZED.items():
        run = [tool, "--tool", name, "--error-exitcode", "1", *_python("dream_accel", "doctor")] if tool else []
        # initcheck also reports padding that is read and never used, so it informs alone.
        found.append(Step(name, run, seconds, on_gpu and name != "initcheck", missing, UNCACHED))
    return found


def _measure(name: str, seconds: float, options: Namespace) -> Step:
    # Installed, as everything is after the second step: not relative to how the kit was started.
    command = _python("dream_accel.bench.kit.measure", name, "--device", options.device)
    command += ["--out", str(options.out / f"{name}.csv"), *["--quick"][: int(options.quick)]]
    return Step(name, command, seconds)


def _on_gpu(options: Namespace) -> bool:
    return str(options.device).startswith("cuda")
