"""A guard against host round trips."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ASKS = {"item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "masked_select", "unique", "equal", "allclose"}
_ASKS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__"}
_ASKING_ATEN = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "item",
    "bincount",
}


class _NoAskingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in _ASKS, f"Tensor.{name} waits for the device"
        return func(*args, **(kwargs or {}))


class _NoAskingOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        assert name not in _ASKING_ATEN, f"aten::{name} waits for the device"
        sized = name != "repeat_interleave" or (kwargs or {}).get("output_size") is not None
        assert sized, "aten::repeat_interleave without output_size waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"aten::{name} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_round_trip() -> Iterator[set[str]]:
    """Fail on anything that would make the host wait for the device; yields the names of the operators seen.

    Python methods are watched besides aten operators, since ``tolist`` reads a CPU tensor without calling any. What
    runs is what an accelerator would run: CPU tensors are taken for tensors that are not to be looked at.
    """
    operators = _NoAskingOperators()
    as_on_accelerators = mock.patch("dream_accel.runtime.devices.reading_waits", return_value=True)
    with as_on_accelerators, _NoAskingFunctions(), operators:
        yield operators.seen
