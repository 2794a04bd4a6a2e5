"""Sources of the CUDA kernels: nvcc, NVRTC, the cache; they compile for every architecture."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.refusals import refused

from dream_accel.backends import _cuda_image, _native, _nvrtc, cuda
from dream_accel.errors import DreamAccelError, DreamAccelWarning

ROOT = Path(__file__).resolve().parent.parent
C = _native.load()
needs_launcher = pytest.mark.skipif(
    C is None or not C.build_info()["cuda"], reason=f"no CUDA launcher here: {_native.why_not()}"
)
NVRTC = _nvrtc.find()
needs_nvrtc = pytest.mark.skipif(isinstance(NVRTC, str), reason=f"no NVRTC: {NVRTC}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc was not found")
def test_kernels_compile_for_every_architecture_without_warnings_and_spills(tmp_path):
    command = ["nvcc", "-std=c++17", "-O3", "-fatbin", "-Xptxas=-v", "--threads=0"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90, 100)]
    command += [str(ROOT / "csrc" / "cuda" / "kernels.cu"), "-o", str(tmp_path / "kernels.fatbin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "warning" not in output
    compiled = re.findall(r"Compiling entry function 'dream_(\w+)' for 'sm_(\d+)'", output)
    listed = re.findall(r"^DREAM_(?:LARGE_)?KERNEL\((\w+),", (ROOT / "csrc/cuda/kernels.inc").read_text(), re.M)
    assert sorted(compiled) == sorted((name, arch) for name in listed for arch in ("80", "90", "100"))
    assert set(re.findall(r"(\d+) bytes spill", output)) == {"0"}
    assert max(map(int, re.findall(r"(\d+) bytes smem", output))) <= 48 << 10


@pytest.mark.slow
@needs_launcher
@needs_nvrtc
def test_nvrtc_compiles_the_sources_the_module_carries():
    code = NVRTC.compile(C.cuda_sources(), (*_cuda_image.NVRTC_OPTIONS, "--gpu-architecture=sm_90"))
    assert code[:4] == b"\x7fELF"
    listed = re.findall(r"^DREAM_(?:LARGE_)?KERNEL\((\w+),", (ROOT / "csrc/cuda/kernels.inc").read_text(), re.M)
    assert all(f"dream_{name}".encode() in code for name in listed)


@needs_launcher
def test_the_module_carries_the_sources_it_was_built_from():
    for name, text in C.cuda_sources():
        assert text == (ROOT / "csrc" / "cuda" / name).read_text()


COMPILERS = [found for find in (_nvrtc._of_cupy, _nvrtc._of_pytorch) if isinstance(found := find(), _nvrtc.Compiler)]


@pytest.mark.skipif(not COMPILERS, reason=f"no NVRTC: {NVRTC}")
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: compiler.name)
class TestNvrtc:
    OPTIONS = ("--gpu-architecture=sm_90",)

    def test_headers_are_found_by_name(self, compiler):
        sources = [
            ("a.cu", '#include "b.h"\nextern "C" __global__ void f(T* x) { *x = 1; }'),
            ("b.h", "using T = int;"),
        ]
        assert compiler.compile(sources, self.OPTIONS)[:4] == b"\x7fELF"

    def test_an_error_comes_with_the_log(self, compiler):
        message = refused(compiler.compile, [("a.cu", "__global__ void f() { no_such_thing(); }")], self.OPTIONS)
        assert "does not compile" in message
        assert "no_such_thing" in message


def test_a_long_log_is_shortened():
    message = str(_nvrtc._failure("nvrtcCompileProgram gives 6", "error: no such thing\n" * 1000))
    assert "error: no such thing error:" in message
    assert len(message) < 700


def test_without_cupy_and_cuda_the_reason_names_both(monkeypatch):
    monkeypatch.setattr(_nvrtc.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = _nvrtc.find()
    assert "CuPy is not installed" in found
    assert "PyTorch is not built for CUDA" in found


@pytest.fixture
def module(monkeypatch, tmp_path):
    """A stand-in for the compiled module and for a device of compute capability 9.0; NVRTC counts what it compiles."""
    state = SimpleNamespace(nvcc="13.0", archs="sm_80, sm_90", loaded={}, refuses=set(), compiled=[], device=0)

    @contextmanager
    def current(device):
        before, state.device = state.device, device.index
        yield
        state.device = before

    state.current = current

    def load(device, image):
        if image in state.refuses:
            raise RuntimeError("no kernel image")
        state.loaded[device] = image

    def compile_sources(sources, options):
        state.compiled.append(options)
        return b"by NVRTC"

    module = SimpleNamespace(
        build_info=lambda: {"cuda": True, "nvcc": state.nvcc, "cuda_archs": state.archs},
        cuda_loaded=lambda device: device in state.loaded,
        cuda_load=load,
        cuda_image=lambda: b"by nvcc",
        cuda_sources=lambda: [("kernels.cu", "")],
    )
    monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_native, "load", lambda: module)
    monkeypatch.setattr(_nvrtc, "find", lambda: _nvrtc.Compiler("CuPy's NVRTC 13.0", compile_sources))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", state.current)
    monkeypatch.setattr(_cuda_image, "_origins", {})
    monkeypatch.setattr(_cuda_image, "_refusals", {})
    return state


class TestLoading:
    def test_the_image_of_nvcc_is_taken_where_there_is_one(self, module):
        assert _cuda_image.load(0) is None
        assert module.loaded == {0: b"by nvcc"}
        assert _cuda_image.loaded() == {0: "nvcc 13.0 for sm_80, sm_90"}
        assert "built by nvcc 13.0 for sm_80, sm_90" in _cuda_image.describe()

    def test_without_nvcc_nvrtc_compiles_once_and_says_so(self, module):
        module.nvcc = ""
        with pytest.warns(DreamAccelWarning, match="CuPy's NVRTC 13.0 compiles the CUDA kernels for sm_90, once"):
            assert _cuda_image.load(0) is None
        assert module.loaded == {0: b"by NVRTC"}
        assert module.compiled == [(*_cuda_image.NVRTC_OPTIONS, "--gpu-architecture=sm_90")]
        module.loaded.clear()
        assert _cuda_image.load(0) is None  # from the cache, in silence
        assert module.loaded == {0: b"by NVRTC"}
        assert len(module.compiled) == 1
        assert "compiled at first use by CuPy's NVRTC" in _cuda_image.describe()

    @pytest.mark.filterwarnings("ignore::dream_accel.errors.DreamAccelWarning")
    @pytest.mark.parametrize("why", ["refused by the driver", "older than nvcc's"])
    def test_nvrtc_serves_where_the_image_does_not(self, module, why):
        if why == "refused by the driver":
            module.refuses.add(b"by nvcc")
        else:
            module.archs = "sm_100"
        assert _cuda_image.load(0) is None
        assert module.loaded == {0: b"by NVRTC"}
        assert _cuda_image.loaded() == {0: "CuPy's NVRTC 13.0 for sm_90"}

    @pytest.mark.filterwarnings("ignore::dream_accel.errors.DreamAccelWarning")
    def test_where_nothing_serves_every_reason_is_given(self, module):
        module.refuses |= {b"by nvcc", b"by NVRTC"}
        reason = _cuda_image.load(0)
        assert reason.count("no kernel image") == 2
        module.refuses.clear()
        assert _cuda_image.load(0) == reason

    def test_nothing_is_loaded_while_a_graph_is_captured(self, module, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert "once before capturing" in refused(_cuda_image.load, 0)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        assert _cuda_image.load(0) is None

    def test_a_graph_captured_on_another_device_does_not_hinder_loading(self, module, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: module.device == 0)
        assert _cuda_image.load(1) is None
        assert "once before capturing" in refused(_cuda_image.load, 0)

    @pytest.mark.parametrize("message", ["CUDA driver initialization failed", "CUDA error: device lost\nmore lines"])
    def test_a_driver_that_disappears_is_a_reason(self, module, monkeypatch, message):
        def gone(device=None):
            raise RuntimeError(message)

        monkeypatch.setattr(torch.cuda, "get_device_capability", gone)
        assert _cuda_image.load(0) == f"the driver does not answer ({message.splitlines()[0]})"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        assert "does not answer" in _cuda_image.load(0)

    @pytest.mark.filterwarnings("ignore::dream_accel.errors.DreamAccelWarning")
    @pytest.mark.parametrize(
        "error",
        [
            OSError("libnvrtc-builtins.so.13.0: cannot open shared object file"),
            AttributeError("undefined symbol: nvrtcGetCUBINSize"),
        ],
        ids=["without its files", "too old"],
    )
    def test_a_run_time_compiler_that_does_not_work_is_a_reason(self, module, monkeypatch, error):
        def broken(sources, options):
            raise error

        module.nvcc = ""
        monkeypatch.setattr(_nvrtc, "find", lambda: _nvrtc.Compiler("PyTorch's NVRTC 13.0", broken))
        assert _cuda_image.load(0) == f"PyTorch's NVRTC 13.0 does not work ({error})"

    @pytest.mark.filterwarnings("ignore::dream_accel.errors.DreamAccelWarning")
    @pytest.mark.parametrize("damage", ["empty", "not loadable", "not readable"])
    def test_a_damaged_cache_is_compiled_again(self, module, damage):
        module.nvcc = ""
        assert _cuda_image.load(0) is None
        module.loaded.clear()
        (kept,) = _cuda_image.cache_folder().glob("kernels-*")
        if damage == "not readable":
            kept.unlink()
            kept.mkdir()
        else:
            kept.write_bytes(b"" if damage == "empty" else b"damaged")
        module.refuses.add(b"damaged")
        assert _cuda_image.load(0) is None
        assert module.loaded == {0: b"by NVRTC"}
        assert len(module.compiled) == 2

    def test_what_was_just_compiled_is_not_compiled_again(self, module):
        module.nvcc = ""
        module.refuses.add(b"by NVRTC")
        with pytest.warns(DreamAccelWarning):
            assert "no kernel image" in _cuda_image.load(0)
        assert len(module.compiled) == 1

    def test_without_any_compiler_the_reason_says_so(self, module, monkeypatch):
        module.nvcc = ""
        monkeypatch.setattr(_nvrtc, "find", lambda: "CuPy is not installed")
        assert "built without nvcc, and there is no NVRTC: CuPy is not installed" in _cuda_image.unavailable()
        assert "Triton may serve" in _cuda_image.describe()
        with pytest.raises(DreamAccelError, match="cannot be compiled"):
            _cuda_image.compiled_at_run_time((9, 0))

    def test_a_cache_that_cannot_be_written_is_none(self, module, monkeypatch, tmp_path):
        module.nvcc = ""
        (tmp_path / "file").touch()
        monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path / "file"))
        with pytest.warns(DreamAccelWarning) as caught:
            assert _cuda_image.load(0) is None
        assert any("cannot be kept" in str(warning.message) for warning in caught)
        assert module.loaded == {0: b"by NVRTC"}


class TestSecondDevice:
    """The current device is 0, the tensors are on 1."""

    @pytest.fixture(autouse=True)
    def devices(self, monkeypatch):
        current = [0]

        @contextlib.contextmanager
        def device(chosen):
            current.append(chosen.index)
            yield
            current.pop()

        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[-1] == 1)

    def test_capture_is_asked_of_the_device_of_the_tensors(self):
        first, second = (SimpleNamespace(device=torch.device("cuda", i)) for i in (0, 1))
        assert not cuda.is_capturing(first)
        assert cuda.is_capturing(second)

    def test_kernels_are_loaded_on_the_device_of_the_tensors(self, monkeypatch):
        loaded = []
        monkeypatch.setattr(_cuda_image, "load", lambda index: loaded.append((index, torch.cuda.current_device())))
        cuda.refuses_device(torch.device("cuda", 1))
        assert loaded == [(1, 1)]
