"""Triton kernels of the distances against the reference: on a GPU where there is one, else in Triton's interpreter.

test_triton_kernels runs this file in a process of its own, for the interpreter.
"""

import os

import pytest
import torch
from torch import Tensor

from dream_accel import ops
from dream_accel.backends import reference, refusal

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SHAPES = [(2, 2, 3, 3), (3,), (1, 1100), (2, 0)]


@pytest.fixture(autouse=True)
def _process_runs_kernels(monkeypatch):
    if not (INTERPRETED or ON_GPU):
        pytest.skip("runs within test_triton_kernels.py::test_every_kernel_in_the_interpreter")
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", "triton")


def lists(shapes=SHAPES, lead=(), dtypes=(torch.float32, torch.float32)) -> list[list[Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [[torch.randn(*lead, *s, generator=draws).to(DEVICE, dtype) for s in shapes] for dtype in dtypes]


def check(found, real, synthetic, metric, per_class, compute=reference.gradient_distance) -> None:
    """Value to 1e-5, derivative to 1e-4 of the float64 formulas."""
    expected = compute([x.double() for x in real], [y.double() for y in synthetic], metric, per_class, True)
    for got, exact in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    for got, exact, y in zip(found[2], expected[2], synthetic, strict=True):
        assert got.dtype == y.dtype
        rtol = max(1e-4, torch.finfo(y.dtype).eps)
        scale = float(exact.abs().max()) if exact.numel() else 0.0
        torch.testing.assert_close(got.double(), exact, rtol=rtol, atol=max(rtol * scale, 1e-30))


@pytest.mark.parametrize("metric", ops.METRICS)
def test_value_and_derivative_of_every_class(metric):
    real, synthetic = lists(lead=(2,))
    real[0][0, 1], synthetic[0][1, 0], real[1][:, 1], synthetic[1][:, 1] = 0, 0, 0, 0
    call = torch.ops.dream_accel.gradient_distance
    found = call(real, synthetic, metric, True, True)
    check(found, real, synthetic, metric, True)
    again = call(real, synthetic, metric, True, True)
    assert all(map(torch.equal, [*found[:2], *found[2]], [*again[:2], *again[2]]))
    without = call(real, synthetic, metric, True, False)
    assert torch.equal(without[0], found[0])
    alone = call([x[1] for x in real], [y[1] for y in synthetic], metric, False, True)
    assert torch.equal(alone[0][0], found[0][1])
    assert all(torch.equal(g, whole[1]) for g, whole in zip(alone[2], found[2], strict=True))


@pytest.mark.parametrize("metric", ["l1", "cos", "global_cos"])
def test_mixed_layouts_and_dtypes(metric):
    real, synthetic = lists([(3, 4, 3, 2), (5, 7)], (2,), (torch.bfloat16, torch.float16))
    synthetic[0] = synthetic[0].permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    for pair in ((real, synthetic), (synthetic, real)):
        found = torch.ops.dream_accel.gradient_distance(*pair, metric, True, True)
        assert found[2][0].stride() == pair[1][0].stride()
        check(found, *pair, metric, True)


@pytest.mark.parametrize("metric", ["mse", "cos", "global_cos"])
def test_more_tensors_than_one_launch_takes(metric):
    real, synthetic = lists([(1, 5)] * 35)
    real[34] = real[34].bfloat16()
    found = torch.ops.dream_accel.gradient_distance(real, synthetic, metric, False, True)
    check(found, real, synthetic, metric, False)


@pytest.mark.parametrize("metric", ["mse", "l1_mean", "cos", "global_cos"])
def test_means_of_batches(metric):
    real, synthetic = lists([(7, 40), (7, 3, 5)], (2,))
    synthetic = [y[:, :4] for y in synthetic]
    real = [x.bfloat16() for x in real]
    found = torch.ops.dream_accel.feature_distance(real, synthetic, metric, True, True)
    check(found, real, synthetic, metric, True, reference.feature_distance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scaled_by_class_and_layer(dtype):
    gradients, _ = lists([(3, 2), (), (4100,)], (2,), (dtype, dtype))
    scale = torch.tensor([[2.0, -1.0, 0.0], [0.5, 3.0, 7.0]], device=DEVICE)
    found = torch.ops.dream_accel.scale_gradients(gradients, scale, True)
    expected = reference.scale_gradients(gradients, scale, True)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("metric", ops.METRICS)
def test_nan_reaches_the_distance_of_its_class_alone(metric):
    real, synthetic = lists([(3, 4)], (2,))
    real[0][1, 2, 3] = torch.nan
    distance, per_layer, _ = torch.ops.dream_accel.gradient_distance(real, synthetic, metric, True, True)
    assert distance.isnan().tolist() == [False, True]
    assert per_layer.isnan().tolist() == [[False], [True]]


@pytest.mark.parametrize("scales", [(1e20, 1e20), (1e-20, 1e20), (3e37, 1e-6), (1e35, 1e36)], ids=str)
@pytest.mark.parametrize("metric", ["cos", "global_cos"])
def test_cosines_of_values_whose_squares_no_float_holds(metric, scales):
    real, synthetic = ([t * scale for t in side] for side, scale in zip(lists(lead=(2,)), scales, strict=True))
    found = torch.ops.dream_accel.gradient_distance(real, synthetic, metric, True, True)
    exact = reference.gradient_distance([x.double() for x in real], [y.double() for y in synthetic], metric, True, True)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    for got, expected in zip(found[2], exact[2], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6 / scales[1])


def test_nothing_to_do():
    real, synthetic = lists([(3, 0), (0, 4)], (2,))
    for metric in ops.METRICS:
        found = torch.ops.dream_accel.gradient_distance(real, synthetic, metric, True, True)
        check(found, real, synthetic, metric, True)
    none = [x[:0] for x in real]
    assert torch.ops.dream_accel.gradient_distance(none, none, "cos", True, True)[0].shape == (0,)


def test_what_it_cannot_take_is_refused_with_a_reason():
    x = torch.zeros(2, 3, device=DEVICE)
    assert "float64" in refusal("triton", "gradient_distance", [x], [x.double()], "mse", False, False)
    many = x[:, :0].expand(70000, 2, 0)
    assert "70000 classes" in refusal("triton", "scale_gradients", [many], x, True)
    large = x[:1, :1].expand(2**16, 2**16)
    assert "elements" in refusal("triton", "feature_distance", [large], [large], "mse", False, False)
