"""Memory layout of pairs of tensors as the compiled distances take it: ``csrc/gradient_pair.h`` in Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""``Dtype`` of csrc/dtype.h."""
METRIC_CODES = {"mse": 0, "l1": 1, "l1_mean": 2, "cos": 3, "global_mse": 4, "global_cos": 5}
"""``Metric`` of csrc/metrics.h."""

_ROW_MAJOR, _CHANNELS_LAST = "row major", "channels last"


def derivative_like(y: Tensor, per_class: bool, n_averaged: int) -> Tensor:
    """An uninitialised tensor for the derivative in ``y``: laid out like ``y``, or contiguous where ``y`` is copied."""
    if n_averaged:
        lead = int(per_class)
        return y.new_empty((*y.shape[:lead], *y.shape[lead + n_averaged :]))
    if _inner_layout(y, per_class) is None:
        return torch.empty_like(y, memory_format=torch.contiguous_format)
    return torch.empty_like(y)


class Pairs:
    """The arguments of a compiled distance. It keeps the tensors alive whose memory they address.

    Attributes:
        table: one tuple per pair with the fields of ``GradientPair``, in their order.
        n_groups: G, 1 without ``per_class``.
        grads: the derivatives, written by the call.
        distance: (G,) float32, written by the call.
        per_layer: (G, L) float32, or (G, 1) for the global metrics, written by the call.
    """

    def __init__(
        self,
        real: Sequence[Tensor],
        synthetic: Sequence[Tensor],
        metric: str,
        per_class: bool,
        with_grads: bool,
        n_averaged: int = 0,
    ) -> None:
        first = synthetic[0]
        self.n_groups = first.shape[0] if per_class else 1
        self.distance = first.new_empty(self.n_groups, dtype=torch.float32)
        n_columns = 1 if metric.startswith("global_") else len(synthetic)
        self.per_layer = first.new_empty((self.n_groups, n_columns), dtype=torch.float32)
        self.grads: list[Tensor] = []
        self.table: list[tuple[int, ...]] = []
        self._alive: list[Tensor] = []
        describe = _features if n_averaged else _gradients
        for x, y in zip(real, synthetic, strict=True):
            x, y, shape = describe(x, y, per_class)
            self._alive += (x, y)
            address = 0
            if with_grads:
                self.grads.append(derivative_like(y, per_class, n_averaged) if n_averaged else torch.empty_like(y))
                address = self.grads[-1].data_ptr()
            self.table.append((x.data_ptr(), y.data_ptr(), address, *shape, DTYPES[x.dtype], DTYPES[y.dtype]))


class Scaling:
    """The arguments of a compiled ``scale_gradients``.

    Attributes:
        table: one tuple per tensor with the fields of ``ScaledGradient``, in their order.
        scale: (G, L) float32, contiguous.
        scaled: the products, written by the call.
    """

    def __init__(self, gradients: Sequence[Tensor], scale: Tensor, per_class: bool) -> None:
        self.scale = scale.to(torch.float32).contiguous()
        self.scaled = [derivative_like(g, per_class, 0) for g in gradients]
        self._alive = [_known(g, per_class)[0] for g in gradients]
        self.table: list[tuple[int, ...]] = []
        for g, out in zip(self._alive, self.scaled, strict=True):
            size = g.shape[1:].numel() if per_class else g.numel()
            stride = g.stride(0) if per_class else 0
            self.table.append((g.data_ptr(), out.data_ptr(), size, stride, DTYPES[g.dtype]))


def _gradients(x: Tensor, y: Tensor, per_class: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Both tensors, copied where their layout is not supported, and the fields from ``rows`` to ``interleave``."""
    x, x_layout = _known(x, per_class)
    y, y_layout = _known(y, per_class)
    params = y.shape[1:] if per_class else y.shape
    rows, length = (params[0] if params else 1), params[1:].numel()
    interleave = 1
    if x_layout != y_layout and length:
        channels = params[1]
        interleave = channels if y_layout == _CHANNELS_LAST else length // channels
    strides = (x.stride(0), y.stride(0)) if per_class else (0, 0)
    return x, y, (rows, length, *strides, 1, 1, interleave)


def _features(x: Tensor, y: Tensor, per_class: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The same for batches whose means are compared."""
    x, y = x.contiguous(), y.contiguous()
    lead = int(per_class)
    feature = y.shape[lead + 1 :]
    rows = feature[0] if len(feature) > 1 else 1
    length = feature[1:].numel() if len(feature) > 1 else feature.numel()
    strides = (x.stride(0), y.stride(0)) if per_class else (0, 0)
    return x, y, (rows, length, *strides, x.shape[lead], y.shape[lead], 1)


def _known(tensor: Tensor, per_class: bool) -> tuple[Tensor, str]:
    layout = _inner_layout(tensor, per_class)
    return (tensor, layout) if layout else (tensor.contiguous(), _ROW_MAJOR)


def _inner_layout(tensor: Tensor, per_class: bool) -> str | None:
    """The layout of one class, if its elements fill one block of memory row after row; None otherwise."""
    if tensor.is_contiguous():
        return _ROW_MAJOR
    lead = int(per_class)
    shape, strides = tensor.shape[lead:], tensor.stride()[lead:]
    dims = len(shape)
    if _dense(shape, strides, range(dims - 1, -1, -1)):
        return _ROW_MAJOR
    if dims in (4, 5) and _dense(shape, strides, (1, *range(dims - 1, 1, -1), 0)):
        return _CHANNELS_LAST
    return None


def _dense(shape: Sequence[int], strides: Sequence[int], order: Sequence[int]) -> bool:
    """Return True if the dimensions, fastest first, fill memory without gaps."""
    expected = 1
    for d in order:
        if shape[d] != 1 and strides[d] != expected:
            return False
        expected *= shape[d]
    return True
