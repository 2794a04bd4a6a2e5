"""Registers, spills and shared memory of every Triton kernel, compiled without a GPU.

Run ``python -m dream_accel.kernels.report [ARCH ...]``. The host functions are called as a user would call them, with
launches recorded instead of run, so the table has every kernel that the operators use without a list kept by hand. A
kernel that spills registers, or needs more of them or of shared memory than the device has, is marked, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from . import tiles
from .assign import DOT_PRECISION, kmeans_assign
from .common import REGISTERS
from .gradient_distance import gradient_distance
from .gram import gram_assign, group_products
from .iterate import LloydSteps
from .nearest import nearest_members
from .norm_relu_pool import norm_relu_pool, norm_relu_pool_backward, norm_relu_pool_double_backward
from .scale_gradients import scale_gradients
from .update import kmeans_update

ARCHITECTURES = (80, 90, 100)
"""Architectures in the table of tiles: A100, H100 and H200, B200."""
UNKNOWN_ARCHITECTURES = (89, 120)
"""Consumer GPUs of the same generations, as examples of GPUs that the table does not list."""
SHARED_LIMIT = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
"""Largest shared memory of one program, in KB."""

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
_DIVISIBLE = [["tt.divisibility", 16]]


class Launch(NamedTuple):
    """One specialisation of one kernel, as Triton's compiler takes it; can be pickled."""

    arch: int
    case: str
    module: str
    kernel: str
    signature: dict[str, str | tuple[str, ...]]
    constants: dict[str | tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[Any]]
    options: dict[str, int]

    def key(self) -> str:
        """Equal for launches that compile to the same code."""
        return repr((self.arch, *self[2:]))


class Resources(NamedTuple):
    """Resources that a compiled kernel uses."""

    registers: int
    """Per thread."""
    spilled: int
    """Bytes of local memory per thread; 0 unless registers run out."""
    shared: int
    """Bytes per program."""
    warps: int


def launches(arch: int) -> list[Launch]:
    """Every different kernel that operators launch on one architecture, over precisions, dtypes and shape classes."""
    found: dict[str, Launch] = {}
    for case, call in _cases():
        for launch in _record(arch, case, call):
            found.setdefault(launch.key(), launch)
    return list(found.values())


def compile_launch(launch: Launch) -> Resources:
    """Compile one launch for its architecture, with no GPU."""
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source = ASTSource(kernel, launch.signature, launch.constants, launch.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", launch.arch, 32), options=launch.options)
    registers, spilled = _usage(compiled.asm["cubin"])
    return Resources(registers, spilled, compiled.metadata.shared, launch.options.get("num_warps", 4))


def problem(launch: Launch, resources: Resources) -> str | None:
    """Return the reason why a kernel must not ship; None if it may."""
    limit = SHARED_LIMIT[launch.arch] * 1024
    if resources.spilled:
        return f"spills {resources.spilled} bytes per thread"
    registers = -(-resources.registers // 8) * 8 * 32 * resources.warps  # given out by eights
    if registers > REGISTERS:
        return (
            f"takes {registers} registers for {resources.warps} warps, the device has {REGISTERS}: it does not launch"
        )
    if resources.shared > limit:
        return f"takes {resources.shared} bytes of shared memory, the device has {limit}"
    return None


def compile_all(todo: list[Launch], processes: int = 2) -> Iterator[tuple[Launch, Resources]]:
    """Compile on several processes, in order."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from zip(todo, pool.map(compile_launch, todo), strict=True)


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls that reach every kernel, precision, dtype and shape class."""
    shapes = (
        (128, 2048, torch.float32),
        (128, 2048, torch.bfloat16),
        (100, 15, torch.float32),
        (100, 80, torch.float32),
        (64, 2048, torch.float32),
        (20, 2048, torch.float16),
    )
    for precision, (n_clusters, n_features, dtype) in itertools.product(DOT_PRECISION, shapes):
        x, offsets, centroids, active, labels, distance = _inputs(n_clusters, n_features, dtype)
        name = f"{precision} K={n_clusters} D={n_features}"
        for with_distance in (True, False):
            assign = partial(kmeans_assign, x, offsets, centroids, active, labels, precision=precision)
            yield name, partial(assign, distance=distance, with_distance=with_distance)
    for n_clusters, n_features, dtype in ((128, 2048, torch.float32), (4095, 15, torch.bfloat16)):
        x, offsets, centroids, active, labels, distance = _inputs(n_clusters, n_features, dtype)
        name = f"K={n_clusters} D={n_features}"
        for empty in ("keep", "farthest"):
            update = partial(kmeans_update, x, offsets, labels, n_clusters, empty=empty)
            yield f"{name} {empty}", partial(update, previous=centroids, active=active)
            yield f"{name} {empty}", partial(_iteration, x, offsets, centroids, active, labels, empty)
        yield name, partial(kmeans_update, x, offsets, labels, n_clusters)
        yield name, partial(nearest_members, x, offsets, centroids, labels, 3)
    for n_features, width in ((2048, 512), (15, 64)):
        x, offsets, _, active, labels, _ = _inputs(1, n_features, torch.float32)
        centre = torch.zeros(1, n_features)
        name = f"D={n_features} W={width}"
        yield name, partial(group_products, x, offsets, x, offsets, centre, width)
        yield name, partial(gram_assign, torch.zeros(1, 8, width), torch.zeros(1, 8), offsets, active, labels)
    yield from _map_cases()
    yield from _distance_cases()


def _iteration(
    x: torch.Tensor,
    offsets: torch.Tensor,
    centroids: torch.Tensor,
    active: torch.Tensor,
    labels: torch.Tensor,
    empty: str,
) -> None:
    steps, count = LloydSteps(x, offsets, empty), torch.zeros(1, dtype=torch.int32)
    found = steps.assign(centroids, active, labels, "fp32")
    new, going = steps.update(found, labels, centroids, active, active, count)
    steps.assign(new, going, found, "fp32")


def _map_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for height, width in ((32, 32), (7, 9), (2, 2)):
        y, pooled = torch.zeros(2, 16, height, width), torch.zeros(2, 16, height // 2, width // 2)
        weight, bias, mean, rstd = torch.zeros(16), torch.zeros(16), torch.zeros(2, 16), torch.zeros(2, 16)
        name = f"maps of {height} x {width}"
        yield name, partial(norm_relu_pool, y, weight, bias, 1e-5)
        yield name, partial(norm_relu_pool_backward, y, weight, bias, mean, rstd, pooled)
        yield name, partial(norm_relu_pool_double_backward, y, weight, bias, mean, rstd, pooled, y)


def _distance_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """As many gradients as one launch takes, and features in half precision averaged over a batch."""
    f32, f16, bf16 = 0, 1, 2
    address = 2**46  # as on a device: a small integer would be compiled as 32 bits
    for n, batch, x_type, y_type, metrics in (
        (32, 1, f32, f32, ("mse", "l1_mean", "cos", "global_mse", "global_cos")),
        (1, 128, bf16, f16, ("l1", "cos", "global_cos")),
    ):
        pair = (address, address, address, 128, 1152, 147456, 147456, batch, batch, 9, x_type, y_type)
        for metric in metrics:
            outputs = torch.zeros(3), torch.zeros(3, 1 if metric.startswith("global_") else n)
            yield f"{metric} of {n}, batch {batch}", partial(gradient_distance, [pair] * n, 3, metric, *outputs)
        scaled = [(address, address, 147456, 147456, y_type)] * n
        yield f"{n} tensors", partial(scale_gradients, scaled, torch.zeros(3, n))


def _inputs(n_clusters: int, n_features: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    n_rows = 64
    return (
        torch.zeros(n_rows, n_features, dtype=dtype),
        torch.tensor([0, n_rows]),
        torch.zeros(1, n_clusters, n_features),
        torch.ones(1, dtype=torch.bool),
        torch.zeros(n_rows, dtype=torch.int32),
        torch.zeros(n_rows),
    )


def _record(arch: int, case: str, call: Callable[[], object]) -> list[Launch]:
    """The launches that a call makes; none of them is run."""
    noted: list[Launch] = []

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        noted.append(_launch(arch, case, kernel, args, options))

    with mock.patch.object(JITFunction, "run", note), mock.patch.object(tiles, "architecture", return_value=arch):
        call()
    return noted


def _launch(arch: int, case: str, kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """Specialise as Triton does at launch: multiples of 16 are marked, 1 and None become constants."""
    signature: dict[str, str | tuple[str, ...]] = {}
    constants: dict[str | tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[Any]] = {}
    for param in kernel.params:
        value = args[param.num] if param.num < len(args) else options.pop(param.name)
        is_one = isinstance(value, int) and value == 1 and not param.do_not_specialize
        if param.is_constexpr or value is None or is_one:
            signature[param.name] = "constexpr"
            constants[param.name] = value
            continue
        if isinstance(value, tuple):
            signature[param.name] = tuple("constexpr" if v == 1 else _integer(v) for v in value)
            constants.update({(param.num, i): v for i, v in enumerate(value) if v == 1})
            attributes.update({(param.num, i): _DIVISIBLE for i, v in enumerate(value) if v % 16 == 0})
            continue
        is_tensor = isinstance(value, torch.Tensor)
        signature[param.name] = _POINTERS[value.dtype] if is_tensor else _integer(value)
        if (value.data_ptr() if is_tensor else value) % 16 == 0 and not param.do_not_specialize:
            attributes[(param.num,)] = _DIVISIBLE
    return Launch(arch, case, kernel.fn.__module__, kernel.fn.__name__, signature, constants, attributes, options)


def _integer(value: int) -> str:
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of local memory per thread, as cuobjdump prints them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", out)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a kernel must not ship."""
    parser = argparse.ArgumentParser(
        description="Registers, spills and shared memory of every Triton kernel, without a GPU."
    )
    parser.add_argument("arch", nargs="*", type=int, default=[*ARCHITECTURES, *UNKNOWN_ARCHITECTURES])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    todo = [launch for arch in args.arch for launch in launches(arch)]
    failed = 0
    print("| sm | kernel | case | warps | registers | spilled B | shared KB |")
    print("|---|---|---|---|---|---|---|")
    for launch, used in compile_all(todo, args.processes):
        trouble = problem(launch, used)
        failed += trouble is not None
        print(
            f"| {launch.arch} | {launch.kernel.strip('_')} | {launch.case} | {used.warps} | {used.registers} "
            f"| {used.spilled} | {used.shared / 1024:.1f} |" + (f" {trouble}" if trouble else ""),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
