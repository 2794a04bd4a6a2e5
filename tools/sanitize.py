"""Builds the compiled module with sanitizers of GCC and runs the tests of the CPU kernels on it: ``make sanitize``.

The sanitizers are those of addresses and of undefined behaviour. The package is a folder of links to the files of this
checkout, with the sanitized module in the place of the usual one. ``python tools/sanitize.py TESTS...`` runs others.
The threads of the module have a test of their own, tests/test_threads.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitize"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so.6")
TESTS = ("test_native.py", "test_norm_relu_pool.py", "test_kmeans_measures.py")
# Its tolerance is for sums in vectors, which a sanitized build adds one number at a time.
LESS_EXACT = "tests/test_norm_relu_pool.py::test_compiled_kernels_agree_with_pytorch_in_double"
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def build() -> Path:
    """Compile the module; return the folder that has the package with it."""
    package = FOLDER / "package" / "dream_accel"
    package.mkdir(parents=True, exist_ok=True)
    entries = [entry for entry in (ROOT / "dream_accel").iterdir() if not entry.name.startswith("_C")]
    for entry in (*entries, ROOT / "bench", ROOT / "kernels"):
        link = package / entry.name
        link.unlink(missing_ok=True)
        link.symlink_to(entry)
    pybind11 = _output(sys.executable, "-m", "pybind11", "--cmakedir")
    settings = {
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_CXX_COMPILER": "g++",
        "CMAKE_CXX_FLAGS": FLAGS,
        "DREAM_OUTPUT": str(package),
        "pybind11_DIR": pybind11,
        "Python_EXECUTABLE": sys.executable,
    }
    options = [f"-D{name}={value}" for name, value in settings.items()]
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", FOLDER / "build", *options], check=True)
    subprocess.run(["cmake", "--build", FOLDER / "build"], check=True)
    return package.parent


def main() -> int:
    """Build, test, and return the exit status of the tests."""
    package = build()
    # They must be loaded before everything else.
    libraries = [_output("g++", f"-print-file-name={name}") for name in LIBRARIES]
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": str(package),
        "DREAM_ACCEL_REQUIRE_NATIVE": "1",
    }
    pytest = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--deselect", LESS_EXACT]
    tests = sys.argv[1:] or TESTS
    return subprocess.run([*pytest, *tests], cwd=ROOT / "tests", env=environment, check=False).returncode


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
