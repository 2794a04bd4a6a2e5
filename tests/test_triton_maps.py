"""Triton's instance norm, ReLU and pooling: the reference in double, whatever the size, memory format and batch.

test_triton_kernels runs this file in a process of its own, for the interpreter.
"""

import os

import pytest
import torch

from dream_accel.backends import norms, triton

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SHAPES = [(3, 5, 8, 8), (2, 3, 4, 4), (2, 3, 7, 5), (1, 2, 33, 34), (1, 2, 16, 48), (1, 1, 3, 2), (70, 1, 2, 3)]


@pytest.fixture(autouse=True)
def _process_runs_kernels():
    if not (INTERPRETED or ON_GPU):
        pytest.skip("runs within test_triton_kernels.py::test_every_kernel_in_the_interpreter")


@pytest.fixture
def kernels():
    from dream_accel import kernels

    return kernels


def problem(shape):
    draws = torch.Generator().manual_seed(sum(shape))
    y, t = (torch.randn(shape, generator=draws) * 2 + 5 for _ in range(2))
    affine = torch.randn(2, shape[1], generator=draws)
    pooled = torch.randn(*shape[:2], shape[2] // 2, shape[3] // 2, generator=draws)
    return [tensor.to(DEVICE) for tensor in (y, *affine, pooled, t)]


def derivatives(module, y, weight, bias, of_pooled, of_of_y):
    """Everything the three operators return."""
    pooled, mean, rstd = module.norm_relu_pool(y, weight, bias, 1e-5)
    of_y = module.norm_relu_pool_backward(y, weight, bias, mean, rstd, of_pooled)
    second = module.norm_relu_pool_double_backward(y, weight, bias, mean, rstd, of_pooled, of_of_y)
    return pooled, mean, rstd, of_y, *second


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_agree_with_the_reference_in_double(kernels, shape):
    arguments = problem(shape)
    expected = derivatives(norms, *(tensor.double() for tensor in arguments))
    # Derivatives cancel where a map has few pixels: errors are those of the terms, not of the sum.
    scale = expected[2].abs().amax().clamp(min=1.0) ** 2
    for found, exact in zip(derivatives(kernels, *arguments), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=float(3e-6 * scale))


def test_maps_have_the_same_bits_alone_in_any_memory_format_and_again(kernels):
    arguments = problem((5, 4, 9, 6))
    whole = derivatives(kernels, *arguments)
    y, weight, bias, pooled, t = arguments
    strided = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (y, pooled, t)]
    again = derivatives(kernels, strided[0], weight, bias, *strided[1:])
    assert all(map(torch.equal, again, whole))
    alone = derivatives(kernels, y[2:3], weight, bias, pooled[2:3], t[2:3])
    assert all(torch.equal(one, of_all[2:3]) for one, of_all in zip(alone, whole, strict=True))


def test_no_maps_and_maps_with_nan(kernels):
    empty = derivatives(kernels, *problem((0, 3, 4, 4)))
    assert [tuple(tensor.shape) for tensor in empty[:4]] == [(0, 3, 2, 2), (0, 3), (0, 3), (0, 3, 4, 4)]
    y, weight, bias, *_ = problem((2, 3, 4, 4))
    y[1, 2, 0, 0] = torch.nan
    pooled = kernels.norm_relu_pool(y, weight, bias, 1e-5)[0]
    assert pooled[1, 2].isnan().all()
    assert pooled.isnan().sum() == 4


def test_double_precision_is_left_to_the_reference_with_the_reason():
    y, weight, bias, *_ = problem((2, 3, 4, 4))
    reason = triton.refuses("norm_relu_pool", y.double(), weight.double(), bias.double(), 1e-5)
    assert reason == "torch.float64 maps and the kernels take float32"
    assert triton.refuses("norm_relu_pool", y, weight, bias, 1e-5) is None
