"""The formula: the time of a kernel from its work, and of kernels one after another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .devices import ARITHMETIC_SHARE, EAGER_LAUNCH, GRAPH_LAUNCH, MEMORY_SHARE, Device

SM_REGISTERS = 65536


@dataclass(frozen=True)
class Kernel:
    """The work of a kernel, or of several that are launched for one operator."""

    name: str
    memory: float = 0.0
    """Bytes to and from DRAM."""
    l2: float = 0.0
    """Bytes to and from the L2 cache, those of the DRAM included."""
    tf32: float = 0.0
    """FLOP of the tensor cores."""
    bf16: float = 0.0
    fp32: float = 0.0
    """FLOP of the CUDA cores; instructions that are no multiply-add count 2."""
    doubles: float = 0.0
    """Floats converted to doubles and added."""
    programs: float = 0.0
    """Programs, or thread blocks; 0 for as many as fill the GPU."""
    threads: int = 128
    """Per program."""
    registers: int = 64
    """Per thread."""
    shared: int = 0
    """Bytes of shared memory per program."""
    waits: float = 1.0
    """Loads of a program that wait for one another."""
    launches: int = 1


class Prediction(NamedTuple):
    """A predicted time."""

    ms: float
    bound: str
    """Part that takes most of the time: ``"memory"``, ``"compute"`` or ``"launches"``."""


def seconds(kernel: Kernel, device: Device) -> tuple[float, float]:
    """Seconds that memory and arithmetic take; the longer of the two is the kernel's, beside its launch.

    Memory is the longest of DRAM traffic, L2 traffic and loads waiting for one another. Arithmetic of one kernel adds
    up: its operands are prepared in the loop that multiplies them.
    """
    resident = min(device.threads // kernel.threads, SM_REGISTERS // (kernel.registers * kernel.threads))
    if kernel.shared:
        resident = min(resident, device.shared // kernel.shared)
    rounds = math.ceil(kernel.programs / (device.sms * max(resident, 1)))
    wait = device.memory_wait if kernel.memory else device.l2_wait
    memory = max(
        kernel.memory / (MEMORY_SHARE.value * device.memory),
        kernel.l2 / device.l2,
        rounds * kernel.waits * wait,
    )
    arithmetic = kernel.tf32 / device.tf32 + kernel.bf16 / device.bf16 + kernel.fp32 / device.fp32
    per_double = 1 / device.double_adds + 1 / device.double_conversions
    arithmetic += kernel.doubles * per_double / (device.sms * device.clock)
    # The last SMs to finish have one program more than the mean.
    share = kernel.programs / device.sms
    imbalance = math.ceil(share) / share if share else 1.0
    return memory, imbalance * arithmetic / ARITHMETIC_SHARE.value


def total(kernels: Iterable[tuple[float, Sequence[Kernel]]], device: Device, graph: bool) -> Prediction:
    """The time of kernels one after another, given as (times, kernels).

    In a graph every launch adds its share. Launched one by one, the host works beside the GPU and the slower is waited
    for.
    """
    spent = {"memory": 0.0, "compute": 0.0, "launches": 0.0}
    host = 0.0
    for times, sequence in kernels:
        for kernel in sequence:
            memory, arithmetic = seconds(kernel, device)
            spent["memory" if memory >= arithmetic else "compute"] += times * max(memory, arithmetic)
            spent["launches"] += times * kernel.launches * GRAPH_LAUNCH.value
            host += times * kernel.launches * EAGER_LAUNCH.value
    on_device = sum(spent.values())
    if not graph and host > on_device:
        return Prediction(1e3 * host, "launches")
    return Prediction(1e3 * on_device, max(spent, key=lambda bound: spent[bound]))
