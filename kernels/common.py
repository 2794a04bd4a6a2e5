"""Common parts of all launches: the device guard, the memory layout that kernels read, and the interpreter check."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

REGISTERS = 64 * 1024
"""Of a multiprocessor, and thus of a program."""
MOST_REGISTERS = 255
"""Of a thread."""


def compile_options(warps: int) -> dict[str, Any]:
    """Options of a kernel whose programs have this many warps.

    Fusion is set because its default, and with it the bits, differs between Triton versions; the limit of registers
    because without one ptxas aims for more programs per multiprocessor and spills a few. It never admits more than the
    threads of a program have together: ptxas takes the limit as given, and the launch would fail.
    """
    most = min(MOST_REGISTERS, REGISTERS // (32 * warps))
    return {"num_warps": warps, "enable_fp_fusion": True, "maxnreg": most}


def interpreted() -> bool:
    """Return True if kernels run in Triton's interpreter, on tensors of any device."""
    return bool(triton.knobs.runtime.interpret)


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Launch on the current stream of ``x``'s device, whichever device is current."""
    return torch.cuda.device_of(x) if x.is_cuda else contextlib.nullcontext()


def dense(x: Tensor) -> Tensor:
    """``x`` itself where it is contiguous and begins at a multiple of 16 bytes, else a copy.

    Triton compiles a separate kernel for every alignment, and its sums may run in another order. With all inputs
    aligned, one kernel serves a group at any position, also as a slice of a larger tensor.
    """
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def maybe_dense(x: Tensor | None) -> Tensor | None:
    """:func:`dense` of an optional argument; None stays None."""
    return None if x is None else dense(x)
