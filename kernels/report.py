"""Registers, spills, shared memory and instructions of every Triton kernel, compiled without a GPU.

Run ``python -m dream_accel.kernels.report [ARCH ...]``. The host functions are called as a user would call them, with
launches recorded instead of run, so the table has every kernel that the operators use without a list kept by hand. A
kernel that spills registers, or needs more of them or of shared memory than the device has, is marked, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from .cases import cases
from .common import REGISTERS

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
    products: str = ""
    """Instruction of the tensor cores, such as ``"HGMMA"``; empty without any."""
    loads: tuple[int, ...] = ()
    """Bits that a thread reads from global memory at a time, all widths that occur, widest first."""
    stores: tuple[int, ...] = ()
    """The same of what it writes."""


def launches(arch: int) -> list[Launch]:
    """Every different kernel that operators launch on one architecture, over precisions, dtypes and shape classes."""
    found: dict[str, Launch] = {}
    for case, call in cases():
        for launch in _record(arch, case, call):
            found.setdefault(launch.key(), launch)
    return list(found.values())


def compile_launch(launch: Launch) -> Resources:
    """Compile one launch for its architecture, with no GPU."""
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source = ASTSource(kernel, launch.signature, launch.constants, launch.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", launch.arch, 32), options=launch.options)
    said = _disassembled(compiled.asm["cubin"])
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    tensor_cores = re.search(r"\b(HGMMA|HMMA|UTCHMMA)\b", said)
    return Resources(
        usage["REG"],
        usage["STACK"] + usage["LOCAL"],
        compiled.metadata.shared,
        launch.options.get("num_warps", 4),
        tensor_cores[0] if tensor_cores else "",
        _widths(said, "LDG(?:STS)?"),
        _widths(said, "STG"),
    )


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


def _disassembled(cubin: bytes) -> str:
    """Resources and instructions of a kernel, as cuobjdump prints them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", "-sass", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _widths(said: str, instruction: str) -> tuple[int, ...]:
    """Bits of such instructions, widest first: a width is a suffix, and 32 without one."""
    suffixes = re.findall(rf"\b{instruction}\.E\b([.\w]*)", said)
    found = (re.search(r"\.[US]?(8|16|64|128|256)\b", suffix) for suffix in suffixes)
    return tuple(sorted({int(width[1]) if width else 32 for width in found}, reverse=True))


def _listed(widths: tuple[int, ...]) -> str:
    return " ".join(map(str, widths)) or "–"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a kernel must not ship."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("arch", nargs="*", type=int, default=[*ARCHITECTURES, *UNKNOWN_ARCHITECTURES])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    todo = [launch for arch in args.arch for launch in launches(arch)]
    failed = 0
    print("| sm | kernel | case | warps | registers | spilled B | shared KB | products | bits loaded | bits stored |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for launch, used in compile_all(todo, args.processes):
        trouble = problem(launch, used)
        failed += trouble is not None
        print(
            f"| {launch.arch} | {launch.kernel.strip('_')} | {launch.case} | {used.warps} | {used.registers} "
            f"| {used.spilled} | {used.shared / 1024:.1f} | {used.products or '–'} | {_listed(used.loads)} "
            f"| {_listed(used.stores)} |" + (f" {trouble}" if trouble else ""),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
