"""Builds dream_accel._C with CMake as far as the machine allows, and says in one line how far and why.

DREAM_ACCEL_REQUIRE_NATIVE  1: fail unless the CPU kernels build (and the CUDA kernels, where nvcc is found)
                            cuda: fail unless both build
DREAM_ACCEL_CUDA_ARCHS      architectures to compile for (default: 80;90;100, as far as nvcc knows them)
CXX, CUDACXX, CUDA_HOME     which compilers to use
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent


class Tool(NamedTuple):
    """A compiler that runs, or the reason there is none."""

    command: str | None
    version: str = ""
    missing: str = ""


class Plan(NamedTuple):
    """Parts to build, and the line that says so."""

    cpu: bool
    cuda: bool
    line: str


def find_compiler(env: dict[str, str]) -> Tool:
    for command in [env["CXX"]] if env.get("CXX") else ["c++", "g++", "clang++"]:
        words = shlex.split(command)
        path = shutil.which(words[0], path=env.get("PATH"))
        version = path and _version([path, *words[1:]], r"(\d+\.\d+)")
        if version:
            return Tool(shlex.join([path, *words[1:]]), f"{Path(words[0]).name} {version}")
    tried = f"CXX={env['CXX']} does not run" if env.get("CXX") else "no C++ compiler was found"
    return Tool(None, missing=f"{tried} (install g++ or clang++, or set CXX)")


def find_nvcc(env: dict[str, str]) -> Tool:
    home = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    candidates = [env.get("CUDACXX"), home and f"{home}/bin/nvcc", "nvcc"]
    found = [path for c in candidates if c and (path := shutil.which(c, path=env.get("PATH")))]
    if not found:
        return Tool(None, missing="nvcc was not found (set CUDA_HOME or put nvcc on PATH)")
    version = _version([found[0]], r"release (\d+\.\d+)")
    if not version:
        return Tool(None, missing=f"{found[0]} does not run (set CUDA_HOME to a working CUDA toolkit)")
    return Tool(found[0], version)


def _version(command: list[str], pattern: str) -> str:
    try:
        output = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(pattern, output)
    return match.group(1) if match else ""


def cuda_archs(env: dict[str, str], nvcc_version: str) -> str:
    if env.get("DREAM_ACCEL_CUDA_ARCHS"):
        return env["DREAM_ACCEL_CUDA_ARCHS"].replace(",", ";").replace(" ", "")
    nvcc = tuple(map(int, nvcc_version.split(".")))
    return ";".join(arch for arch, since in (("80", (11, 0)), ("90", (11, 8)), ("100", (12, 8))) if nvcc >= since)


def required(env: dict[str, str]) -> str:
    """Parts that must be built: "1" the CPU kernels, "cuda" both, the empty string nothing."""
    value = env.get("DREAM_ACCEL_REQUIRE_NATIVE", "").lower()
    if value not in ("", "0", "1", "cuda"):
        raise SystemExit(f"DREAM_ACCEL_REQUIRE_NATIVE={value}: use 1 (CPU kernels), cuda (both) or leave it unset")
    return value.strip("0")


def decide(compiler: Tool, nvcc: Tool, env: dict[str, str]) -> Plan:
    require = required(env)
    if require and not compiler.command:
        raise SystemExit(f"DREAM_ACCEL_REQUIRE_NATIVE={require}, but {compiler.missing}")
    if require == "cuda" and not nvcc.command:
        raise SystemExit(f"DREAM_ACCEL_REQUIRE_NATIVE=cuda, but {nvcc.missing}")
    if not compiler.command:
        return Plan(False, False, f"dream_accel: pure Python, no compiled kernels: {compiler.missing}")
    line = f"dream_accel: building CPU kernels ({compiler.version})"
    if not nvcc.command:
        return Plan(True, False, f"{line}; CUDA kernels left to NVRTC: {nvcc.missing}")
    archs = cuda_archs(env, nvcc.version)
    return Plan(True, True, f"{line} and CUDA kernels (nvcc {nvcc.version}; {archs})")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class BuildNative(build_ext):
    """Compiles by the plan; what does not compile is left out, with a line that says so."""

    def run(self) -> None:
        if not self.extensions:
            return
        env = dict(os.environ)
        compiler, nvcc = find_compiler(env), find_nvcc(env)
        plan = decide(compiler, nvcc, env)
        say(plan.line)
        self._target().unlink(missing_ok=True)
        built = plan.cuda and self._compile(compiler, nvcc)
        if plan.cuda and not built:
            self._fall_back("the CUDA kernels did not compile; building CPU kernels, NVRTC may serve at first use", env)
        if plan.cpu and not built:
            built = self._compile(compiler, None)
            if not built:
                self._fall_back("the CPU kernels did not compile; installing pure Python", env)
        if not built:
            self.extensions = self.distribution.ext_modules = []

    def _fall_back(self, what: str, env: dict[str, str]) -> None:
        if required(env):
            raise SystemExit(f"DREAM_ACCEL_REQUIRE_NATIVE={required(env)}, but {what.split(';')[0]}: see the log above")
        say(f"dream_accel: {what} (the log above says why)")

    def _target(self) -> Path:
        return Path(self.get_ext_fullpath("dream_accel._C")).resolve()

    def _compile(self, compiler: Tool, nvcc: Tool | None) -> bool:
        build = Path(self.build_temp).resolve() / "cmake"
        try:
            import pybind11

            cmake = _program("cmake")
            options = {
                "CMAKE_MAKE_PROGRAM": _program("ninja"),
                "Python_EXECUTABLE": sys.executable,
                "pybind11_DIR": pybind11.get_cmake_dir(),
                "DREAM_OUTPUT": self._target().parent,
            }
            if nvcc:
                archs = cuda_archs(dict(os.environ), nvcc.version)
                options |= {"DREAM_NVCC": nvcc.command, "DREAM_NVCC_VERSION": nvcc.version, "DREAM_CUDA_ARCHS": archs}
            configure = [cmake, "--fresh", "-GNinja", "-S", str(ROOT), "-B", str(build)]
            configure += [f"-D{name}={value}" for name, value in options.items()]
            for command in (configure, [cmake, "--build", str(build)]):
                subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "CXX": compiler.command})
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            say(str(error))
            return False
        return True


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise OSError(f"{name} was not found: pip install {name}")
    return found


class Wheel(bdist_wheel):
    """Builds first, so that a wheel without compiled kernels is named py3-none-any."""

    def run(self) -> None:
        self.run_command("build")
        self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


if __name__ == "__main__":
    setup(
        license="Apache-2.0",
        ext_modules=[Extension("dream_accel._C", sources=[])],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
    )
