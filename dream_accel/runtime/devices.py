"""Devices: the one to run on, and what it can do."""

from __future__ import annotations

import gc
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import DreamAccelError, DreamAccelWarning

REASON = 160
"""Characters of a foreign error that are repeated in a sentence of ours."""


def reading_waits(tensor: torch.Tensor) -> bool:
    """Whether reading the values makes the host wait: on every device but the CPU."""
    return tensor.device.type != "cpu"


def all_stopped(active: torch.Tensor) -> bool:
    """Whether no flag is set, where reading the flags does not synchronise; False elsewhere.

    On an accelerator the launches for groups that have stopped cost less than asking whether all have.
    """
    return not reading_waits(active) and not bool(active.any())


def find_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, else the CUDA device if there is one, else the CPU.

    A CUDA device that does not work, because it is full, held by another process or not served by this PyTorch, is
    passed over with a :class:`DreamAccelWarning` where no device was named.

    Args:
        name: as ``torch.device`` takes it, or ``"auto"``, which is the default.

    Raises:
        DreamAccelError: this machine has no such device, or its driver does not work.
    """
    if name is None or name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        try:
            _try(torch.device("cuda"))
        except RuntimeError as error:
            warnings.warn(
                f"the CUDA device cannot be used ({reason_of(error)}): running on the CPU, which is slower",
                DreamAccelWarning,
                stacklevel=2,
            )
            return torch.device("cpu")
        return torch.device("cuda")
    try:
        device = torch.device(name)
        _try(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise DreamAccelError(
            f"device {str(name)!r} cannot be used here ({reason_of(error)}): choose one of {', '.join(available)}"
        ) from None
    return device


def _try(device: torch.device) -> None:
    """Allocate and launch: a PyTorch without code for a GPU fails at its first kernel only."""
    torch.zeros(1, device=device)


def bf16_supported(device: torch.device) -> bool:
    """Whether networks can be trained in bfloat16 on a device; a CPU needs AVX-512 for that."""
    if device.type == "cuda":
        # PyTorch answers for the current device.
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream of a device is being recorded in a CUDA graph."""
    if device.type != "cuda":
        return False
    # PyTorch answers for the current device.
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def release_memory() -> None:
    """Free tensors that only cycles refer to, and give cached device memory back to the driver."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reason_of(error: BaseException) -> str:
    """What a foreign error says, shortened to one line; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[0], REASON, placeholder=" ...").rstrip(".") if lines else type(error).__name__


@contextmanager
def memory_needed(device: torch.device, remedy: str) -> Iterator[None]:
    """Turn running out of device memory into one sentence.

    Args:
        device: where the memory is needed.
        remedy: what makes less do.

    Raises:
        DreamAccelError: the device is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DreamAccelError(f"{device} is out of memory ({reason_of(error)}): {remedy}") from error
