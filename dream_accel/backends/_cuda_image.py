"""Machine code of the CUDA kernels, and its loading at first use.

The image that nvcc compiled at build time is loaded if it serves the device. Otherwise NVRTC compiles the sources that
the module contains, once, and the result is kept on disk. Neither can happen while a CUDA graph is captured.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import DreamAccelError, DreamAccelWarning
from ..runtime.devices import is_capturing, reason_of
from ..runtime.files import UnwritableError, cache_folder, write_bytes
from . import _native, _nvrtc

# NVRTC takes generic lambdas for host functions unless it is told that there are none.
NVRTC_OPTIONS = ("--std=c++17", "--device-as-default-execution-space")


class Image(NamedTuple):
    """Machine code of all kernels for one device."""

    origin: str
    """The compiler and the architecture."""
    code: bytes
    kept: bool = False
    """True if it was read from the cache."""


def unavailable() -> str | None:
    """Return the reason why no CUDA kernels can run in this process; None if they can."""
    module: Any = _native.load()
    if module is None:
        return _native.why_not()
    if not module.build_info()["cuda"]:
        return "dream_accel._C launches CUDA kernels on Linux alone"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if torch.version.hip is not None:
        return "PyTorch is built for ROCm and the kernels are written for NVIDIA GPUs"
    if module.build_info()["nvcc"]:
        return None
    compiler = _nvrtc.find()
    reason = f"dream_accel._C was built without nvcc, and there is no NVRTC: {compiler}"
    return reason if isinstance(compiler, str) else None


def load(device: int) -> str | None:
    """Load the kernels of a device unless they are loaded; returns why they cannot be, or None.

    Raises:
        DreamAccelError: they are not loaded and a CUDA graph is being captured.
    """
    if _native_module().cuda_loaded(device) or device in _refusals:
        return _refusals.get(device)
    if is_capturing(torch.device("cuda", device)):
        raise DreamAccelError(
            "the CUDA kernels are loaded when first used, which cannot be while a CUDA graph is captured: run the step "
            "once before capturing it"
        )
    reasons: list[str] = []
    try:
        capability = torch.cuda.get_device_capability(device)
    except RuntimeError as error:
        _refusals[device] = f"the driver does not answer ({reason_of(error)})"
        return _refusals[device]
    for image in _candidates(capability, reasons):
        try:
            _native_module().cuda_load(device, image.code)
        except RuntimeError as error:
            reasons.append(f"{image.origin}: {error}")
            continue
        _origins[device] = image.origin
        return None
    _refusals[device] = "; ".join(reasons)
    return _refusals[device]


def loaded() -> dict[int, str]:
    """The origin of the kernels loaded for each device."""
    return dict(_origins)


def describe() -> str:
    """One line for reports: how this module gets its CUDA kernels."""
    module: Any = _native.load()
    if module is None or not module.build_info()["cuda"]:
        return "no CUDA kernels (Triton may serve): " + (_native.why_not() or "they are for Linux")
    info = module.build_info()
    if info["nvcc"]:
        return f"CUDA kernels built by nvcc {info['nvcc']} for {info['cuda_archs']}"
    compiler = _nvrtc.find()
    if isinstance(compiler, str):
        return f"no CUDA kernels (Triton may serve): built without nvcc, and there is no NVRTC: {compiler}"
    try:
        return f"CUDA kernels compiled at first use by {compiler.name}, kept in {cache_folder()}"
    except DreamAccelError as error:
        return f"no CUDA kernels (Triton may serve): there is no place to keep them: {error}"


def compiled_at_run_time(capability: tuple[int, int], again: bool = False) -> Image:
    """The kernels compiled by NVRTC, or read from the cache unless ``again``.

    Raises:
        DreamAccelError: NVRTC is not there, does not work or does not compile them.
    """
    compiler = _nvrtc.find()
    if isinstance(compiler, str):
        raise DreamAccelError(f"the CUDA kernels cannot be compiled: {compiler}")
    arch = f"sm_{capability[0]}{capability[1]}"
    sources = _native_module().cuda_sources()
    options = (*NVRTC_OPTIONS, f"--gpu-architecture={arch}")
    key = hashlib.sha256(repr((sources, options, compiler.name)).encode()).hexdigest()[:32]
    path = cache_folder() / f"kernels-{arch}-{key}.cubin"
    image_origin = f"{compiler.name} for {arch}"
    if not again and (kept := _kept(path)):
        return Image(image_origin, kept, True)
    warnings.warn(
        f"{compiler.name} compiles the CUDA kernels for {arch}, once: they are kept in {path}", DreamAccelWarning, 2
    )
    try:
        code = compiler.compile(sources, options)
    except (OSError, AttributeError, RuntimeError) as error:
        # A library that lacks what it needs, or a function that a newer one has.
        raise DreamAccelError(f"{compiler.name} does not work ({reason_of(error)})") from error
    _keep(path, code)
    return Image(image_origin, code)


_origins: dict[int, str] = {}
_refusals: dict[int, str] = {}
"""Reasons why kernels cannot be loaded for a device, stored so that compilation is tried once."""


def _candidates(capability: tuple[int, int], reasons: list[str]) -> Iterator[Image]:
    info = _native_module().build_info()
    if info["nvcc"]:
        oldest = min(int(arch) for arch in re.findall(r"\d+", info["cuda_archs"]))
        if 10 * capability[0] + capability[1] >= oldest:
            yield Image(f"nvcc {info['nvcc']} for {info['cuda_archs']}", _native_module().cuda_image())
        else:
            reasons.append(f"nvcc compiled for sm_{oldest} and later (DREAM_ACCEL_CUDA_ARCHS)")
    try:
        image = compiled_at_run_time(capability)
        yield image
        # The device did not take it. One from the cache may be damaged.
        if image.kept:
            yield compiled_at_run_time(capability, again=True)
    except DreamAccelError as error:
        reasons.append(str(error))


def _kept(path: Path) -> bytes | None:
    """The cache; None where there is none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _keep(path: Path, code: bytes) -> None:
    """Write the cache. One that cannot be written is done without."""
    try:
        write_bytes(path, code)
    except (OSError, UnwritableError) as error:
        warnings.warn(f"the compiled CUDA kernels cannot be kept ({error})", DreamAccelWarning, 2)


def _native_module() -> Any:
    return _native.load()
