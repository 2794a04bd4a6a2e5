"""The diagnosis: what it prints, and that its self-test can fail."""

import re
import types
import warnings

import pytest
import torch
from support.refusals import refused

from dream_accel.backends import BACKENDS, GRAM_OPERATORS, KMEANS_OPERATORS, OPERATORS, backend, refusal, selftest
from dream_accel.cli import doctor
from dream_accel.runtime.devices import find_device

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(doctor, "devices", lambda: [CPU])


def spoiled(op: str, change) -> types.ModuleType:
    """A backend that serves everything like the reference, but changes what one operator returns."""
    reference = backend("reference")
    module = types.ModuleType("spoiled")
    module.NAME = "cpu"
    module.unavailable = lambda: None
    module.refuses = lambda *_: None
    for name in OPERATORS:
        setattr(module, name, getattr(reference, name))
    setattr(module, op, lambda *args: change(getattr(reference, op)(*args)))
    return module


@pytest.fixture
def spoil(monkeypatch):
    """Puts a spoiled backend in the place of the compiled one."""

    def install(op, change):
        module = spoiled(op, change)
        for place in ("dream_accel.backends.selftest.backend", "dream_accel.backends.backend"):
            monkeypatch.setattr(place, lambda name: module if name == "cpu" else backend(name))
        monkeypatch.setattr(doctor, "refusal", lambda name, *call: None if name == "cpu" else refusal(name, *call))
        monkeypatch.setattr(doctor, "BACKENDS", ("cpu", "reference"))

    return install


def test_all_is_well_here(capsys):
    assert doctor.diagnose() == 0
    shown = capsys.readouterr().out
    assert "self-test passed" in shown
    assert f"torch: {torch.__version__.split('+')[0]}" in shown
    assert "reference: ok" in shown
    assert "WRONG" not in shown


def test_every_backend_is_ok_or_says_why_not(capsys):
    doctor.diagnose()
    lines = capsys.readouterr().out.splitlines()
    for op in OPERATORS:
        begins = next(i for i, line in enumerate(lines) if line.startswith(f"  {op}"))
        for name, line in zip(BACKENDS, lines[begins + 1 :], strict=False):
            assert re.fullmatch(rf"    {name}: (ok|not used: .{{15,}})", line)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_says_that_there_is_no_cuda_device(capsys):
    doctor.diagnose()
    assert "cuda: none found" in capsys.readouterr().out


SLICE = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


class TestCudaDevices:
    """Stand-ins for the properties of CUDA devices; the operators are tested on the CPU."""

    def shown(self, monkeypatch, capsys, properties, status=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        assert doctor.diagnose() == status
        return capsys.readouterr().out

    def properties(self, name):
        about = {"name": name, "total_memory": 10 * 2**30, "major": 9, "minor": 0, "multi_processor_count": 16}
        return lambda index: types.SimpleNamespace(**about)

    def test_a_gpu_has_one_line(self, monkeypatch, capsys):
        shown = self.shown(monkeypatch, capsys, self.properties("NVIDIA H200"))
        assert "\n  cuda:0: NVIDIA H200, 10 GiB, sm_90\n" in shown

    def test_a_mig_slice_is_said_in_one_sentence(self, monkeypatch, capsys):
        shown = self.shown(monkeypatch, capsys, self.properties(SLICE))
        expected = (
            rf"\n  cuda:0: {SLICE}, 10 GiB, sm_90, 16 multiprocessors: a MIG slice \(1g.10gb\), on which .*slower"
        )
        assert re.search(expected, shown)

    @pytest.mark.parametrize("error", [RuntimeError("CUDA error: lost\nmore"), AssertionError("Invalid device id")])
    def test_a_driver_that_disappears_is_said_in_one_sentence(self, monkeypatch, capsys, error):
        def gone(index):
            raise error

        shown = self.shown(monkeypatch, capsys, gone)
        first = str(error).splitlines()[0]
        assert (
            f"\n  cuda:0: its driver does not answer ({first}): everything runs on the CPU, which is slower\n" in shown
        )
        assert "self-test passed" in shown

    def test_a_device_that_fails_at_its_first_kernel_fails_the_self_test_in_one_sentence(self, monkeypatch, capsys):
        zeros = torch.zeros

        def full(*size, device=None, **settings):
            if torch.device(device or "cpu").type == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
            return zeros(*size, device=device, **settings)

        monkeypatch.setattr(torch, "zeros", full)
        monkeypatch.setattr(doctor, "devices", lambda: [CPU, torch.device("cuda")])
        shown = self.shown(monkeypatch, capsys, self.properties("NVIDIA H200"), status=1)
        assert "  not tested, because the device cannot be used (CUDA out of memory. Tried to allocate" in shown
        assert "self-test FAILED in 1 place" in shown

    def test_a_driver_that_is_too_old_is_said_in_one_sentence(self, monkeypatch, capsys):
        def available():
            warnings.warn(
                "CUDA initialization: The NVIDIA driver is too old (found version 11040).\nmore", stacklevel=2
            )
            return False

        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        shown = "\n".join(doctor._devices())
        assert (
            "The NVIDIA driver is too old (found version 11040): everything runs on the CPU, which is slower" in shown
        )
        assert "more" not in shown


def test_says_how_the_cuda_kernels_came(capsys, monkeypatch):
    monkeypatch.setattr(doctor._cuda_image, "describe", lambda: "CUDA kernels built by nvcc 13.0 for sm_90")
    monkeypatch.setattr(doctor._cuda_image, "loaded", lambda: {0: "CuPy's NVRTC 13.0 for sm_89"})
    doctor.diagnose()
    shown = capsys.readouterr().out
    assert "  CUDA kernels built by nvcc 13.0 for sm_90\n" in shown
    assert "CUDA kernels on cuda:0: CuPy's NVRTC 13.0 for sm_89" in shown


def test_names_the_backend_that_will_run(capsys, monkeypatch):
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", "reference")
    doctor.diagnose()
    shown = capsys.readouterr().out
    assert "DREAM_ACCEL_BACKEND: reference" in shown
    assert all(f"\n  {op}: reference\n" in shown for op in OPERATORS)


def test_packages_that_are_missing_are_said(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    doctor.diagnose()
    assert "no-such-package: not installed" in capsys.readouterr().out


SPOILT = {
    "kmeans_assign": lambda out: (out[0].roll(1), out[1]),
    "kmeans_update": lambda out: (out[0] * 1.01, out[1]),
    "kmeans_iterate": lambda out: (out[0], out[1], out[2] + 1),
    "nearest_members": lambda out: out.flip(2),
    "group_products": lambda out: out.flip(0),
    "gram_assign": lambda out: out.flip(0),
    "gradient_distance": lambda out: (*out[:2], [out[2][0], -out[2][1]]),
    "feature_distance": lambda out: (out[0], out[1].flip(1), out[2]),
    "scale_gradients": lambda out: [out[0], 2 * out[1]],
    "norm_relu_pool": lambda out: (out[0], out[1], 2 * out[2]),
    "norm_relu_pool_backward": lambda out: -out,
    "norm_relu_pool_double_backward": lambda out: (out[0], out[1].flip(2)),
}


@pytest.mark.parametrize("op", OPERATORS)
def test_a_wrong_result_is_found_and_fails(op, spoil, capsys):
    spoil(op, SPOILT[op])
    assert not selftest.agrees("cpu", op, selftest.sample_call(op, CPU))
    assert doctor.diagnose() == 1
    shown = capsys.readouterr().out
    assert shown.count("cpu: WRONG RESULT") == 1
    assert "self-test FAILED in 1 place\n" in shown


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out[0].long(), out[1]),
        lambda out: (out[0], out[1][:, None]),
        lambda out: (out[0], out[1] * torch.nan),
    ],
    ids=["dtype", "shape", "nan"],
)
def test_another_type_shape_or_nan_is_a_wrong_result(change, spoil):
    spoil("kmeans_assign", change)
    assert not selftest.agrees("cpu", "kmeans_assign", selftest.sample_call("kmeans_assign", CPU))


def test_a_backend_that_breaks_down_is_reported_with_its_reason(spoil, capsys):
    def broken(out):
        raise RuntimeError("first line\nsecond line")

    spoil("kmeans_update", broken)
    assert doctor.diagnose() == 1
    assert "cpu: FAILS, please report this: RuntimeError: first line second line" in capsys.readouterr().out


@pytest.mark.parametrize("op", OPERATORS)
def test_the_sample_call_is_the_same_every_time(op):
    first, second = (selftest._tensors(backend("reference").__dict__[op](*selftest.sample_call(op, CPU))) for _ in "ab")
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", [*KMEANS_OPERATORS, *GRAM_OPERATORS])
def test_the_sample_call_has_an_empty_group(op):
    offsets = [arg for arg in selftest.sample_call(op, CPU) if getattr(arg, "dtype", None) == torch.int64]
    assert 0 in offsets[-1].diff().tolist()


class TestFindDevice:
    def test_default_is_a_gpu_where_there_is_one(self):
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert find_device(None).type == find_device("auto").type == expected

    def test_named_devices_are_taken(self):
        assert find_device("cpu") == find_device(CPU) == CPU

    @pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
    def test_others_are_refused_with_what_there_is(self, name):
        message = refused(find_device, name)
        assert message.startswith(f"device {name!r} cannot be used here (")
        assert "choose one of cpu" in message
