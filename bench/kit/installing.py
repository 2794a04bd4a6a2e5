"""Installation on a machine without internet: packages from a folder of wheels, then this source tree in place.

    python -m bench.kit.installing packages --wheels FOLDER
    python -m bench.kit.installing install

It goes into the Python that runs it, which must be the one that has PyTorch. Nothing is fetched and nothing that is
installed is replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .steps import ROOT

BUILDS = ("setuptools", "wheel", "pybind11", "cmake", "ninja")
RUNS = {"typer": "typer", "rich": "rich", "safetensors": "safetensors", "scikit-learn": "sklearn"}
TESTS = {"matplotlib": "matplotlib", "pytest": "pytest", "hypothesis": "hypothesis"}
PEERS = {
    "psutil": "psutil",
    "tqdm": "tqdm",
    "fast-pytorch-kmeans": "fast_pytorch_kmeans",
    "flash-kmeans": "flash_kmeans",
    "flashlib": "flashlib",
}
NEEDED = {**{name: name for name in BUILDS}, **RUNS, **TESTS, **PEERS}
"""Packages by the module that shows whether they are there."""
STAMP = ROOT / "build" / "kit-installed"
"""Hash of the sources that were installed."""
WORKS = """
from importlib.util import find_spec
from dream_accel.backends import _native
if not (find_spec("dream_accel.bench") and find_spec("dream_accel.kernels")):
    raise SystemExit("dream_accel is not installed as a whole")
print("dream_accel:", _native.describe())
raise SystemExit(0 if _native.load() else 3)
"""
WITHOUT_KERNELS = 3
PIP = [sys.executable, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", "--no-input"]


def packages(wheels: Path | None) -> int:
    """Install every missing package that the folder has; 1 if dream_accel cannot run without one that it has not."""
    lacking = []
    for name, module in NEEDED.items():
        if _there(name, module):
            continue
        reason = "no folder of wheels was named" if wheels is None else _from_folder(name, wheels)
        print(f"{name}: {reason or 'installed'}", flush=True)
        lacking += [name] if reason and name in RUNS else []
    return int(bool(lacking))


def install() -> int:
    """Build and install the source tree in place, unless that was done; its exit status."""
    digest = _digest()
    stamp = STAMP.read_text() if STAMP.exists() else None
    if (stamp is None and _works() == 0) or (stamp == digest and _works() in (0, WITHOUT_KERNELS)):
        print("already installed")
        return 0
    command = [*PIP, "--no-build-isolation", "--no-deps", "--verbose", "--editable", str(ROOT)]
    status = subprocess.run(command, env={**_environment(), **_architecture()}, check=False).returncode
    status = status or _works()
    if status in (0, WITHOUT_KERNELS):
        status = 0
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(digest)
    return status


def _there(name: str, module: str) -> bool:
    if name in ("cmake", "ninja") and shutil.which(name):
        return True
    return importlib.util.find_spec(module) is not None


def _from_folder(name: str, wheels: Path) -> str:
    """Install a package; the reason if that fails. Its own needs may be missing where it does without them."""
    if not wheels.is_dir():
        return f"there is no folder {wheels}"
    command = [*PIP, "--quiet", "--find-links", str(wheels)]
    for more in ([], ["--no-deps"]):
        done = subprocess.run([*command, *more, name], env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
    return " ".join((done.stderr or done.stdout).split())[-300:]


def _works() -> int:
    # From another folder: the checkout's own would be found without being installed.
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run([sys.executable, "-c", WORKS], cwd=elsewhere, check=False).returncode


def _environment() -> dict[str, str]:
    # The Python of a rented machine may be the system's, which pip otherwise refuses.
    return {**os.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore"}


def _architecture() -> dict[str, str]:
    """Compile for the GPU that is here alone, which takes a third of the time."""
    if os.environ.get("DREAM_ACCEL_CUDA_ARCHS"):
        return {}
    try:
        asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return {}
    archs = sorted({cap.replace(".", "") for cap in found if cap.replace(".", "").isdigit()}, key=int)
    return {"DREAM_ACCEL_CUDA_ARCHS": ";".join(archs)} if archs else {}


def _digest() -> str:
    files = [ROOT / name for name in ("pyproject.toml", "setup.py", "CMakeLists.txt")]
    files += sorted(file for file in (ROOT / "csrc").rglob("*") if file.is_file())
    found = hashlib.sha256()
    for file in files:
        found.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("packages", "install"))
    parser.add_argument("--wheels", type=Path)
    given = parser.parse_args()
    raise SystemExit(packages(given.wheels) if given.what == "packages" else install())
