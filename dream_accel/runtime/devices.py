"""Devices: the one to run on, and what it can do."""

from __future__ import annotations

import gc
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import DeviceMemoryError, DreamAccelError, DreamAccelWarning

REASON = 160
"""Characters of a foreign error that are repeated in a sentence of ours."""

DEVICE_ERRORS = (RuntimeError, AssertionError, NotImplementedError, torch.cuda.DeferredCudaCallError)
"""Types of errors that PyTorch raises for a device that is missing, full, gone, or not served by it."""
DRIVER_ERROR = "CUDA error"
"""Beginning of the message of an error that the driver reported; after most of them no call of the process succeeds."""


def reading_waits(tensor: torch.Tensor) -> bool:
    """Return True if reading the values makes the host wait: on every device but the CPU."""
    return tensor.device.type != "cpu"


def all_stopped(active: torch.Tensor) -> bool:
    """Return True if no flag is set, where reading the flags does not synchronise; False elsewhere.

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
        reason = why_unusable(torch.device("cuda"))
        if reason is not None:
            warnings.warn(
                f"the CUDA device cannot be used ({reason}): running on the CPU, which is slower",
                DreamAccelWarning,
                stacklevel=2,
            )
            return torch.device("cpu")
        return torch.device("cuda")
    try:
        device = torch.device(name)
        reason = why_unusable(device)
    except RuntimeError as error:
        reason = reason_of(error)
    if reason is not None:
        available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise DreamAccelError(
            f"device {str(name)!r} cannot be used here ({reason}): choose one of {', '.join(available)}"
        )
    return device


def why_unusable(device: torch.device) -> str | None:
    """Return why a device cannot be used, in the words of its driver; None if it can.

    A tensor is allocated and filled, because a PyTorch without code for a GPU fails at its first kernel only.
    """
    try:
        torch.zeros(1, device=device)
    except DEVICE_ERRORS as error:
        return reason_of(error)
    return None


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with the instruction set that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "cpu"
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def bf16_supported(device: torch.device) -> bool:
    """Return True if networks can be trained in bfloat16 on a device; a CPU needs AVX-512 for that."""
    if device.type == "cuda":
        # PyTorch answers for the current device.
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def is_capturing(device: torch.device) -> bool:
    """Return True while the current stream of a device is being recorded in a CUDA graph."""
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
    """Return the first line of a foreign error, shortened; the name of its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[0], REASON, placeholder=" ...").rstrip(".") if lines else type(error).__name__


@contextmanager
def device_errors(device: torch.device, remedy: str) -> Iterator[None]:
    """Turn running out of device memory, and a GPU that stops answering, into one sentence.

    Args:
        device: where the computation runs.
        remedy: what needs less memory.

    Raises:
        DeviceMemoryError: the device is out of memory.
        DreamAccelError: its driver reports an error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"{device} is out of memory ({reason_of(error)}): {remedy}") from error
    except RuntimeError as error:
        if not str(error).startswith(DRIVER_ERROR):
            raise
        raise DreamAccelError(
            f"{device} does not answer any more ({reason_of(error)}): continue in another process, from the last "
            "checkpoint if there is one, or on the CPU, which is slower"
        ) from error
