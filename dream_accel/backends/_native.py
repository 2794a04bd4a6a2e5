"""Loading of the compiled kernels, ``dream_accel._C``, at first use."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

from ..errors import DreamAccelWarning

_HERE = Path(__file__).resolve().parents[1]


def load() -> ModuleType | None:
    """The compiled module, or None where no working one was found; ``why_not`` gives the reason."""
    return _found()[0]


def why_not() -> str | None:
    """Return the reason why there are no compiled kernels, one sentence; None if there are."""
    return _found()[1]


def describe() -> str:
    """One line for reports: how the compiled kernels were built, or why there are none."""
    module = load()
    if module is None:
        return f"no compiled kernels: {why_not()}"
    info = module.build_info()
    cuda = "no CUDA kernels"
    if info["cuda"]:
        cuda = f"CUDA kernels (nvcc {info['nvcc']}; {info['cuda_archs']})" if info["nvcc"] else "CUDA kernels by NVRTC"
    return f"CPU kernels ({info['compiler']}; {module.isa()} of {', '.join(module.isas())}), {cuda}"


@cache
def _found() -> tuple[ModuleType | None, str | None]:
    if not any(_HERE.glob("_C.*")):
        shadowed = _shadowed_installation()
        if shadowed is None:
            return None, (
                f"{_HERE} has no dream_accel._C, as this copy was installed without a C++ compiler or never built; "
                "reinstall with DREAM_ACCEL_REQUIRE_NATIVE=1 to see what is missing"
            )
        reason = (
            f"the source folder {_HERE} has no compiled kernels and hides the installed {shadowed}, which has; "
            "run from another folder, or build in place with `pip install -e .`"
        )
        warnings.warn(reason, DreamAccelWarning, stacklevel=2)
        return None, reason
    try:
        return importlib.import_module("dream_accel._C"), None
    except ImportError as error:
        return None, f"dream_accel._C does not load ({error}); reinstall dream-accel for this Python and system"


def _shadowed_installation() -> Path | None:
    """Another installed dream_accel package that does have compiled kernels."""
    for distribution in importlib.metadata.distributions(name="dream-accel"):
        package = Path(str(distribution.locate_file("dream_accel"))).resolve()
        if package != _HERE and any(package.glob("_C.*")):
            return package
    return None
