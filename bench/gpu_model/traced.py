"""The work of PyTorch code, counted by running it on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .devices import Device
from .work import Kernel

NO_KERNEL = {"_unsafe_view", "empty", "new_empty", "empty_like", "empty_strided"}
"""Operators that launch nothing, beside the views."""

LAUNCHES = {
    "affine_grid_generator": 7,
    "constant_pad_nd": 2,
    "cumsum": 3,
    "gradient_distance": 2,
    "feature_distance": 2,
    "native_group_norm": 3,
    "native_group_norm_backward": 5,
    "upsample_bilinear2d_backward": 2,
}
"""Kernels of operators that launch several, read from PyTorch's CUDA sources and ``csrc/cuda``."""
LARGE_SORT, SMALL_SORT, SMALL = 12, 3, 4096
"""Kernels of a sort: by radix, eight bits of an int64 at a time, or within a block up to ``SMALL`` keys."""
CONV_TILE = 128 * 128
"""Outputs of a convolution that one block computes."""
SPARSE_READS = {"index", "gather"}
"""Operators that read as much of their first input as they write."""


class Op(NamedTuple):
    """A call of an operator that launches something."""

    name: str
    tensors: tuple[int, ...]
    """Bytes of every input and output."""
    flops: float
    unit: str
    """``"tf32"``, ``"bf16"`` or ``"fp32"``"""
    programs: float
    launches: int
    arguments: dict[str, Any]
    """Of the operators of this package: numbers and texts, and the shapes of tensors."""

    def kernel(self, device: Device) -> Kernel:
        """Its work. A tensor that fits the L2 cache has just been written and is found there."""
        large = float(sum(size for size in self.tensors if size > device.l2_bytes / 2))
        return Kernel(
            self.name,
            memory=large,
            l2=float(sum(self.tensors)),
            tf32=self.flops if self.unit == "tf32" else 0.0,
            bf16=self.flops if self.unit == "bf16" else 0.0,
            fp32=self.flops if self.unit == "fp32" else 0.0,
            programs=self.programs,
            launches=self.launches,
        )


class Trace(TorchDispatchMode):
    """Notes every operator that runs and launches something."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        view = bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write
        if func.namespace != "prim" and not view and func.overloadpacket.__name__ not in NO_KERNEL:
            self.ops.append(_noted(func, args, kwargs or {}, out))
        return out


def traced(function: Callable[[], object]) -> tuple[Op, ...]:
    """The operators a function runs."""
    with Trace() as trace:
        function()
    return tuple(trace.ops)


def _noted(func: Any, args: Any, kwargs: Any, out: Any) -> Op:
    name = func.overloadpacket.__name__
    tensors = [*_tensors(args), *_tensors(list(kwargs.values())), *_tensors(out)]
    sizes = [_bytes(tensor) for tensor in tensors]
    if name in SPARSE_READS:
        sizes[0] = min(sizes[0], out.numel() * tensors[0].element_size())
    count = flop_registry.get(func.overloadpacket)
    flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
    narrow = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors)
    # PyTorch's defaults: TF32 in convolutions, not in matrix products.
    unit = "bf16" if narrow else "tf32" if "convolution" in name else "fp32"
    own = {}
    if func.namespace == "dream_accel":
        bound = {argument.name: argument.default_value for argument in func._schema.arguments}
        bound.update(zip(bound, args, strict=False))
        bound.update(kwargs)
        own = {key: tuple(value.shape) if isinstance(value, Tensor) else value for key, value in bound.items()}
    return Op(name, tuple(sizes), flops, unit, _programs(name, args, out), _launches(name, args), own)


def _programs(name: str, args: Any, out: Any) -> float:
    """Blocks of a convolution; weight gradients are split along their sum until they fill the GPU."""
    if name == "convolution":
        return max(1.0, out.numel() / CONV_TILE)
    if name == "convolution_backward":
        needs_input, needs_weight, _ = args[10]
        return max(1.0, args[1].numel() / CONV_TILE) if needs_input and not needs_weight else 0.0
    return 0.0


def _launches(name: str, args: Any) -> int:
    if name == "convolution":
        return 1 if args[2] is None else 2
    if name == "convolution_backward":
        return sum(args[10])
    if name == "sort":
        return LARGE_SORT if args[0].numel() > SMALL else SMALL_SORT
    return LAUNCHES.get(name, 1)


def _bytes(tensor: Tensor) -> int:
    """Bytes read or written; a value that is repeated by its strides counts once."""
    n = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        n *= size if stride else min(size, 1)
    return n * tensor.element_size()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
