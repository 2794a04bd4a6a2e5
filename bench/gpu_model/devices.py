"""Constants of the GPUs and the assumptions of the model, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dream_accel.errors import DreamAccelError


@dataclass(frozen=True)
class Device:
    """A GPU. Rates are peaks, per second, dense where tensor cores are meant."""

    name: str
    driver_name: str
    """Name that ``torch.cuda.get_device_name`` returns."""
    architecture: int
    """As :mod:`dream_accel.kernels.tiles` numbers them."""
    memory: float
    """Bytes per second of the DRAM."""
    l2_bytes: float
    l2: float
    """Bytes per second out of the L2 cache."""
    tf32: float
    """FLOP per second of the tensor cores."""
    bf16: float
    fp32: float
    """FLOP per second of the CUDA cores; an instruction counts 2."""
    sms: int
    clock: float
    """Cycles per second at which the fp32 figure holds."""
    double_adds: int
    """Per SM and cycle."""
    double_conversions: int
    """Per SM and cycle, from float to double."""
    shared: int
    """Bytes of shared memory per SM."""
    threads: int
    """Resident threads per SM."""
    l2_wait: float
    """Seconds until a load that hits the L2 cache returns."""
    memory_wait: float
    """Seconds until a load from DRAM returns."""


def _hopper(name: str, driver_name: str, memory: float) -> Device:
    return Device(
        name, driver_name, 90, memory, 50e6, 5.5e12, 494.7e12, 989.4e12, 66.9e12, 132, 1.98e9, 64, 16, 228 * 1024, 2048,
        291 / 1.98e9, 700 / 1.98e9,
    )  # fmt: skip


_ALL = (
    _hopper("H100 SXM", "NVIDIA H100 80GB HBM3", 3.35e12),
    _hopper("H200", "NVIDIA H200", 4.8e12),
    Device(
        "A100 80GB SXM", "NVIDIA A100-SXM4-80GB", 80, 2.039e12, 40e6, 5.4e12, 156e12, 312e12, 19.5e12, 108, 1.41e9, 32,
        16, 164 * 1024, 2048, 210 / 1.41e9, 550 / 1.41e9,
    ),
    Device(
        "RTX 4090", "NVIDIA GeForce RTX 4090", 89, 1.008e12, 72e6, 4.9e12, 82.6e12, 165.2e12, 82.6e12, 128, 2.52e9, 2,
        2, 100 * 1024, 1536, 296 / 2.52e9, 636 / 2.52e9,
    ),
)  # fmt: skip
DEVICES = {device.name: device for device in _ALL}


class Constant(NamedTuple):
    """A line of the table of constants."""

    field: str
    meaning: str
    unit: float
    """Divisor of the value where it is shown."""
    source: str


_SHEETS = (
    "NVIDIA H100 and H200 Tensor Core GPU datasheets, product specifications; NVIDIA A100 Tensor Core GPU datasheet, "
    "80GB SXM; NVIDIA Ada GPU Architecture whitepaper, appendix A, GeForce RTX 4090"
)
_PAPERS = (
    "whitepapers: NVIDIA H100 Tensor Core GPU Architecture and NVIDIA A100 Tensor Core GPU Architecture, comparison "
    "and performance tables, without sparsity; NVIDIA Ada GPU Architecture, appendix A. H200 as H100, the same GPU"
)
_GUIDE = "CUDA C++ Programming Guide"

CONSTANTS = (
    Constant("memory", "DRAM bandwidth, peak, TB/s", 1e12, _SHEETS),
    Constant("l2_bytes", "L2 cache, MB", 1e6, _PAPERS),
    Constant(
        "l2",
        "L2 bandwidth, TB/s",
        1e12,
        "A100 and RTX 4090 as measured by asynchronous copies, github.com/smallscientist1/cuda_microbenchmark. "
        "**Assumption** for H100 and H200, of which NVIDIA states none: slightly above the A100",
    ),
    Constant("tf32", "TF32 tensor cores, dense, TFLOP/s", 1e12, "the same whitepapers"),
    Constant("bf16", "BF16 tensor cores, dense, fp32 sums, TFLOP/s", 1e12, "the same whitepapers"),
    Constant("fp32", "fp32 CUDA cores, TFLOP/s", 1e12, "the same whitepapers"),
    Constant("sms", "SMs", 1, "the same whitepapers"),
    Constant("clock", "clock, GHz", 1e9, "the fp32 figure over SMs, cores per SM and 2"),
    Constant("double_adds", "fp64 additions per SM and cycle", 1, f"{_GUIDE}, throughput of arithmetic instructions"),
    Constant("double_conversions", "conversions to fp64 per SM and cycle", 1, "the same table"),
    Constant("shared", "shared memory per SM, KB", 1024, f"{_GUIDE}, technical specifications per compute capability"),
    Constant("threads", "resident threads per SM", 1, "the same table"),
    Constant(
        "l2_wait",
        "latency of the L2 cache, us",
        1e-6,
        "cycles by pointer chasing, over the clock: github.com/markdewing/AI_kernels, latency; H200 as H100",
    ),
    Constant("memory_wait", "latency of the DRAM, us", 1e-6, "the same"),
)


class Assumption(NamedTuple):
    """A number that no datasheet states."""

    value: float
    """A share, or seconds."""
    meaning: str
    reason: str


MEMORY_SHARE = Assumption(
    0.9, "attainable share of the DRAM bandwidth", "copies of large arrays usually reach 0.85 to 0.93 of it"
)
ARITHMETIC_SHARE = Assumption(
    0.5,
    "attainable share of every arithmetic peak",
    "large products on an H100 SXM reach 0.65 in tf32 and 0.53 in fp32 by cuBLAS, and 0.49 in tf32 by a plain "
    "pipelined kernel (a public study, CUDA Performance Study, NVIDIA H100 SXM5); those here are smaller, and some "
    "prepare their operands in the same loop",
)
GRAPH_LAUNCH = Assumption(
    2e-6,
    "per kernel replayed from a graph, beside its work",
    "0.5 us between kernels (of 2.9 us that take 3.4 in a graph: NVIDIA Technical Blog, Getting Started with CUDA "
    "Graphs) and 1.5 us to start and to drain one",
)
EAGER_LAUNCH = Assumption(
    10e-6,
    "of the host, per kernel launched one by one",
    "about 5 us for an operator of PyTorch, 15 us for a Triton kernel, which Python launches",
)
ASSUMPTIONS = (MEMORY_SHARE, ARITHMETIC_SHARE, GRAPH_LAUNCH, EAGER_LAUNCH)


def known_device(name: str) -> str | None:
    """The key of :data:`DEVICES` for what ``torch.cuda.get_device_name()`` returns; None for other GPUs.

    Boards of the same name with other memory or power (PCIe, NVL, laptop) and MIG slices are other GPUs.
    """
    return next((device.name for device in _ALL if name in (device.driver_name, device.name)), None)


def constants_of(name: str) -> Device:
    """The constants of a GPU.

    Raises:
        DreamAccelError: there are none.
    """
    if name not in DEVICES:
        raise DreamAccelError(
            f"the model has no constants of the GPU {name!r}: it knows {', '.join(DEVICES)}; add it to "
            "bench/gpu_model/devices.py"
        )
    return DEVICES[name]
