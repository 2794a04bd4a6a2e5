"""Devices: the one to run on, and what it can do."""

from __future__ import annotations

import torch

from ..errors import DreamAccelError


def reading_waits(tensor: torch.Tensor) -> bool:
    """Whether reading the values makes the host wait: on every device but the CPU."""
    return tensor.device.type != "cpu"


def find_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, else the CUDA device if there is one, else the CPU.

    Args:
        name: as ``torch.device`` takes it, or ``"auto"``, which is the default.

    Raises:
        DreamAccelError: this machine has no such device, or its driver does not work.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        reason = str(error).splitlines()[0].rstrip(".")
        raise DreamAccelError(
            f"device {str(name)!r} cannot be used here ({reason}): choose one of {', '.join(available)}"
        ) from None
    return device


def bf16_supported(device: torch.device) -> bool:
    """Whether networks can be trained in bfloat16 on a device; a CPU needs AVX-512 for that."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
