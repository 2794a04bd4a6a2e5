"""PyTorch's modes of a thread and of the process, set to their defaults while the program computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def default_modes() -> Iterator[None]:
    """Compute as if the caller had set no mode: with gradients, in float32, on the CPU unless a device is named.

    The caller may be under ``torch.no_grad()``, ``torch.inference_mode()``, ``torch.autocast()``, or have called
    ``torch.set_default_dtype`` or ``torch.set_default_device``; the same seed then gives the same bits as without. The
    default dtype belongs to the process, so other threads find it to be float32 until the block ends. May be nested,
    and serves as a decorator.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        # A device as a context costs time in every call, so it is entered only where it changes something.
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            modes.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
