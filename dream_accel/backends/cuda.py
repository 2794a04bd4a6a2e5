"""The gradient distance in CUDA C++. Only memory is arranged here; the arithmetic is in ``csrc/cuda``."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .pairs import METRICS, Pairs

NAME = "cuda"


@cache
def unavailable() -> str | None:
    """Why the compiled CUDA kernels cannot be used, or None."""
    reason = _native.why_not()
    if reason is not None:
        return reason
    if not _build_info()["cuda"]:
        return "dream_accel._C was built without CUDA kernels; reinstall with nvcc on PATH"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return None


def refuses(op: str, *args: Any) -> str | None:
    """Why this call cannot run here, or None."""
    if op != "gradient_distance":
        return "it serves gradient_distance alone"
    for tensor in [*args[0], *args[1]]:
        if tensor.device.type != "cuda":
            return f"the tensors are on {tensor.device}, it serves CUDA devices"
        if tensor.dtype != torch.float32:
            return f"{tensor.dtype} input, it serves torch.float32"
    return _device_too_old(args[1][0].device)


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Distance and its closed-form derivative: two launches per tensor for all classes (three for ``global_cos``)."""
    module: Any = _native.load()
    device = synthetic[0].device
    with torch.cuda.device(device):
        real, synthetic = [x.contiguous() for x in real], [y.contiguous() for y in synthetic]
        pairs = Pairs(real, synthetic, metric, per_class, with_grads)
        size = module.cuda_gradient_workspace(pairs.table, pairs.n_groups, METRICS[metric])
        workspace = torch.empty(size, dtype=torch.float64, device=device)
        module.cuda_gradient_distance(
            pairs.table,
            pairs.n_groups,
            METRICS[metric],
            pairs.per_layer.data_ptr(),
            workspace.data_ptr(),
            pairs.distance.get_device(),
            torch.cuda.current_stream(device).cuda_stream,
        )
    return pairs.per_layer.sum(dim=1), pairs.per_layer, pairs.grads


def _build_info() -> dict[str, Any]:
    module: Any = _native.load()
    return module.build_info()


@cache
def _device_too_old(device: torch.device) -> str | None:
    oldest = min(int(arch) for arch in re.findall(r"\d+", _build_info()["cuda_archs"]))
    major, minor = torch.cuda.get_device_capability(device)
    if 10 * major + minor >= oldest:
        return None
    return f"{device} is sm_{major}{minor}, compiled for is sm_{oldest} and later (DREAM_ACCEL_CUDA_ARCHS)"
