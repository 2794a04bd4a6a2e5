"""Builds: the decision of setup.py, the line it prints, and the search for the compiled module."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dream_accel.backends import _native
from dream_accel.errors import DreamAccelWarning

setuptools = pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("dream_accel_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


class TestDecision:
    def tools(self, build, has_compiler, has_nvcc):
        compiler = build.Tool("/bin/g++", "g++ 12.2") if has_compiler else build.find_compiler({"PATH": ""})
        nvcc = build.Tool("/bin/nvcc", "12.9") if has_nvcc else build.find_nvcc({"PATH": ""})
        return compiler, nvcc

    @pytest.mark.parametrize(
        ("has_compiler", "has_nvcc", "cpu", "cuda", "words"),
        [
            (True, True, True, True, ["CPU kernels (g++ 12.2)", "CUDA kernels (nvcc 12.9; 80;90;100)"]),
            (
                True,
                False,
                True,
                False,
                ["CPU kernels (g++ 12.2)", "CUDA kernels left to NVRTC: nvcc was not found", "CUDA_HOME"],
            ),
            (False, True, False, False, ["pure Python", "no C++ compiler was found", "set CXX"]),
            (False, False, False, False, ["pure Python", "no C++ compiler was found", "set CXX"]),
        ],
    )
    def test_each_outcome_is_one_line_with_its_reason(self, build, has_compiler, has_nvcc, cpu, cuda, words):
        plan = build.decide(*self.tools(build, has_compiler, has_nvcc), {})
        assert (plan.cpu, plan.cuda) == (cpu, cuda)
        assert "\n" not in plan.line
        assert all(word in plan.line for word in words)

    @pytest.mark.parametrize(
        ("value", "has_compiler", "has_nvcc", "missing"),
        [
            ("1", False, True, "no C++ compiler was found"),
            ("cuda", True, False, "nvcc was not found"),
            ("cuda", False, False, "no C++ compiler was found"),
        ],
    )
    def test_a_required_part_that_is_missing_is_an_error(self, build, value, has_compiler, has_nvcc, missing):
        with pytest.raises(SystemExit, match=f"DREAM_ACCEL_REQUIRE_NATIVE={value}, but {re.escape(missing)}"):
            build.decide(*self.tools(build, has_compiler, has_nvcc), {"DREAM_ACCEL_REQUIRE_NATIVE": value})

    @pytest.mark.parametrize("value", ["", "0", "1"])
    def test_nvcc_is_only_needed_where_cuda_is_required(self, build, value):
        assert build.decide(*self.tools(build, True, False), {"DREAM_ACCEL_REQUIRE_NATIVE": value}).cpu

    def test_an_unknown_requirement_is_refused(self, build):
        with pytest.raises(SystemExit, match="DREAM_ACCEL_REQUIRE_NATIVE=yes: use 1"):
            build.required({"DREAM_ACCEL_REQUIRE_NATIVE": "yes"})

    @pytest.mark.parametrize(
        ("nvcc", "override", "archs"),
        [("13.0", None, "80;90;100"), ("12.4", None, "80;90"), ("11.2", None, "80"), ("13.0", "75, 86", "75;86")],
    )
    def test_architectures_are_those_nvcc_knows_or_the_ones_asked_for(self, build, nvcc, override, archs):
        assert build.cuda_archs({"DREAM_ACCEL_CUDA_ARCHS": override} if override else {}, nvcc) == archs


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins for compilers are shell scripts")
class TestFindingCompilers:
    def test_cxx_is_used_with_all_its_words(self, build, tmp_path):
        launcher = program(tmp_path / "ccache", '[ "$1" = g++ ] && echo "g++ (Debian) 14.1.0"')
        found = build.find_compiler({"CXX": f"{launcher} g++", "PATH": "/usr/bin:/bin"})
        assert found == (f"{launcher} g++", "ccache 14.1", "")

    def test_cxx_that_does_not_run_is_named(self, build, tmp_path):
        broken = program(tmp_path / "c++", "exit 1")
        assert f"CXX={broken} does not run" in build.find_compiler({"CXX": broken}).missing

    def test_nvcc_of_cuda_home_comes_before_the_path(self, build, tmp_path):
        ours = program(tmp_path / "cuda" / "bin" / "nvcc", 'echo "release 12.4, V12.4.99"')
        program(tmp_path / "bin" / "nvcc", 'echo "release 11.8, V11.8.89"')
        env = {"CUDA_HOME": str(tmp_path / "cuda"), "PATH": str(tmp_path / "bin")}
        assert build.find_nvcc(env) == (ours, "12.4", "")
        assert build.find_nvcc({"PATH": env["PATH"]}).version == "11.8"

    def test_nvcc_that_does_not_run_is_named(self, build, tmp_path):
        broken = program(tmp_path / "nvcc", "exit 1")
        assert f"{broken} does not run" in build.find_nvcc({"PATH": str(tmp_path)}).missing


class TestFallingBack:
    @pytest.fixture
    def run(self, build, monkeypatch, capsys, tmp_path):
        """Runs build_ext where the named parts do not compile; what was tried, what stands, what was said."""

        def run(*failing, require=""):
            monkeypatch.setenv("DREAM_ACCEL_REQUIRE_NATIVE", require)
            monkeypatch.setattr(build, "find_compiler", lambda env: build.Tool("/bin/g++", "g++ 12.2"))
            monkeypatch.setattr(build, "find_nvcc", lambda env: build.Tool("/bin/nvcc", "13.0"))
            extension = setuptools.Extension("dream_accel._C", sources=[])
            command = build.BuildNative(setuptools.Distribution({"ext_modules": [extension]}))
            command.build_lib, command.build_temp = str(tmp_path), str(tmp_path)
            command.ensure_finalized()
            tried = []

            def compile_part(compiler, nvcc):
                tried.append("cuda" if nvcc else "cpu")
                return tried[-1] not in failing

            monkeypatch.setattr(command, "_compile", compile_part)
            command.run()
            return tried, command.distribution.has_ext_modules(), capsys.readouterr().err.splitlines()

        return run

    def test_nothing_fails(self, run):
        tried, is_native, lines = run()
        assert (tried, is_native, len(lines)) == (["cuda"], True, 1)

    def test_cuda_that_does_not_compile_leaves_the_cpu_kernels(self, run):
        tried, is_native, lines = run("cuda")
        assert (tried, is_native) == (["cuda", "cpu"], True)
        assert "CUDA kernels did not compile; building CPU kernels, NVRTC may serve" in lines[-1]

    def test_cpu_that_does_not_compile_leaves_pure_python(self, run):
        tried, is_native, lines = run("cuda", "cpu")
        assert (tried, is_native) == (["cuda", "cpu"], False)
        assert "CPU kernels did not compile; installing pure Python" in lines[-1]

    @pytest.mark.parametrize("require", ["1", "cuda"])
    def test_a_required_part_that_does_not_compile_is_an_error(self, run, require):
        with pytest.raises(SystemExit, match=f"REQUIRE_NATIVE={require}, but the CUDA kernels did not compile"):
            run("cuda", require=require)


@pytest.fixture
def sources(tmp_path):
    """A copy of what a build needs."""
    names = ["bench", "csrc", "dream_accel", "kernels", "CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"]
    for name in [*names, "setup.py"]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / "source" / name, ignore=shutil.ignore_patterns("_C.*", "__pycache__"))
        elif source.exists():
            shutil.copy(source, tmp_path / "source" / name)
    return tmp_path / "source"


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins for compilers are shell scripts")
class TestRealBuilds:
    def setup_py(self, sources, *command, **env):
        tools = {"PATH": os.environ["PATH"], "HOME": str(sources), **env}
        done = [sys.executable, "setup.py", *command]
        return subprocess.run(done, cwd=sources, env=tools, capture_output=True, text=True, check=False)

    def test_without_a_compiler_the_wheel_is_pure_python(self, sources):
        done = self.setup_py(sources, "-q", "bdist_wheel", "--dist-dir", "wheels", PATH="")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("dream_accel: pure Python, no compiled kernels: no C++ compiler was found") == 1
        assert [wheel.name.split("-", 2)[2] for wheel in (sources / "wheels").iterdir()] == ["py3-none-any.whl"]

    def test_a_broken_compiler_leaves_pure_python_and_removes_a_stale_module(self, sources):
        broken = program(sources / "g++", '[ "$1" = --version ] && echo "g++ 12.2.0"')
        stale = sources / "dream_accel" / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
        stale.touch()
        done = self.setup_py(sources, "-q", "build_ext", "--inplace", CXX=broken, PATH="/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
        assert "the CPU kernels did not compile; installing pure Python" in done.stderr
        assert not stale.exists()

    def test_a_broken_compiler_is_an_error_where_kernels_are_required(self, sources):
        broken = program(sources / "g++", '[ "$1" = --version ] && echo "g++ 12.2.0"')
        env = {"CXX": broken, "PATH": "/usr/bin:/bin", "DREAM_ACCEL_REQUIRE_NATIVE": "1"}
        done = self.setup_py(sources, "-q", "build_ext", "--inplace", **env)
        assert done.returncode != 0
        assert "DREAM_ACCEL_REQUIRE_NATIVE=1, but the CPU kernels did not compile" in done.stderr


class TestFindingTheModule:
    @pytest.fixture
    def empty_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_native, "_HERE", tmp_path / "checkout" / "dream_accel")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        _native._found.cache_clear()
        yield tmp_path
        _native._found.cache_clear()

    def test_a_copy_that_was_never_built_says_how_to(self, empty_package):
        assert _native.load() is None
        assert "DREAM_ACCEL_REQUIRE_NATIVE=1" in _native.why_not()
        assert _native.describe().startswith("no compiled kernels: ")

    def test_a_checkout_that_hides_a_built_installation_warns_once(self, empty_package, recwarn):
        installed = empty_package / "site" / "dream_accel"
        (installed.parent / "dream_accel-0.1.0.dist-info").mkdir(parents=True)
        (installed.parent / "dream_accel-0.1.0.dist-info" / "METADATA").write_text(
            "Name: dream-accel\nVersion: 0.1.0\n"
        )
        installed.mkdir()
        (installed / "_C.so").touch()
        with pytest.warns(DreamAccelWarning, match="hides the installed") as caught:
            assert _native.load() is None
        assert _native.load() is None
        assert len(caught) == 1
        assert str(installed) in _native.why_not()
        assert "pip install -e ." in _native.why_not()

    def test_a_module_that_does_not_load_is_an_explanation_not_a_crash(self, empty_package, monkeypatch):
        _native._HERE.mkdir(parents=True)
        (_native._HERE / "_C.so").touch()

        def broken(name):
            raise ImportError("GLIBCXX_3.4.99 not found")

        monkeypatch.setattr(_native.importlib, "import_module", broken)
        assert _native.load() is None
        assert "GLIBCXX_3.4.99" in _native.why_not()
