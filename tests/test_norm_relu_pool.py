"""Instance norm, ReLU and pooling in one operator: PyTorch's three with both derivatives, on every backend."""

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused

from dream_accel import backends
from dream_accel.errors import DreamAccelError
from dream_accel.ops.norm_relu_pool import norm_relu_pool

SIZES = [(3, 5, 8, 8), (2, 3, 2, 2), (2, 3, 7, 5), (1, 4, 33, 34), (2, 2, 16, 48), (1, 1, 3, 2), (0, 3, 4, 4)]


def maps(shape, dtype=torch.float64):
    draws = torch.Generator().manual_seed(sum(shape))
    y, t = (torch.randn(shape, generator=draws, dtype=dtype) * 2 + 1 for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=draws, dtype=dtype) for _ in range(2))
    pooled = torch.randn(*shape[:2], shape[2] // 2, shape[3] // 2, generator=draws, dtype=dtype)
    return y, weight, bias, pooled, t


def plain(y, weight, bias):
    return F.avg_pool2d(F.group_norm(y, y.shape[1], weight, bias, 1e-5).relu(), 2)


def ours(y, weight, bias):
    return norm_relu_pool(y, weight, bias, 1e-5)[0]


def derivatives(function, y, weight, bias, of_pooled, of_of_y):
    """The result, its derivative by y, and the derivatives of that one."""
    y, of_pooled = y.clone().requires_grad_(), of_pooled.clone().requires_grad_()
    pooled = function(y, weight, bias)
    (of_y,) = torch.autograd.grad(pooled, y, of_pooled, create_graph=True)
    second = torch.autograd.grad(of_y, (of_pooled, y), of_of_y)
    return pooled, of_y, *second


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_reference_is_what_pytorch_computes(shape):
    arguments = maps(shape)
    for found, expected in zip(derivatives(ours, *arguments), derivatives(plain, *arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def isas():
    module = backends._native.load() if backends.refusal("cpu", "norm_relu_pool", torch.zeros(1)) is None else None
    return module.isas() if module else []


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_compiled_kernels_agree_with_pytorch_in_double(shape, isa):
    arguments = maps(shape, torch.float32)
    exact = derivatives(plain, *(tensor.double() for tensor in arguments))
    module = backends._native.load()
    module.force_isa(isa)
    try:
        found = derivatives(ours, *arguments)
    finally:
        module.force_isa("")
    for one, other in zip(found, exact, strict=True):
        scale = other.abs().max() if other.numel() else 1.0
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=0, atol=3e-6)


def test_memory_format_and_threads_change_no_bit():
    y, weight, bias, pooled, t = maps((6, 8, 20, 20), torch.float32)
    expected = derivatives(ours, y, weight, bias, pooled, t)
    strided = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (y, pooled, t)]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = derivatives(ours, strided[0], weight, bias, *strided[1:])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found, expected))


def test_operators_are_registered_soundly():
    y, weight, bias, pooled, t = maps((2, 3, 6, 4), torch.float32)
    operators = torch.ops.dream_accel
    torch.library.opcheck(operators.norm_relu_pool.default, (y.requires_grad_(), weight, bias, 1e-5))
    _, mean, rstd = norm_relu_pool(y.detach(), weight, bias, 1e-5)
    first = (y.detach(), weight, bias, mean, rstd, pooled)
    torch.library.opcheck(operators.norm_relu_pool_backward.default, first)
    torch.library.opcheck(operators.norm_relu_pool_double_backward.default, (*first, t))


def test_what_it_does_not_take_is_refused():
    y, weight, bias, *_ = maps((2, 3, 6, 4), torch.float32)
    assert "expected (N, channels" in refused(norm_relu_pool, y[0], weight, bias, 1e-5)
    assert "convert it with y.float()" in refused(norm_relu_pool, y.half(), weight, bias, 1e-5)
    assert "2x2 or more" in refused(norm_relu_pool, y[:, :, :1], weight, bias, 1e-5)
    assert "one for each of 3 channels" in refused(norm_relu_pool, y, weight[:2], bias, 1e-5)
    assert "detach weight and bias" in refused(norm_relu_pool, y, weight.clone().requires_grad_(), bias, 1e-5)


def test_a_third_derivative_is_refused():
    y, weight, bias, *_ = maps((1, 2, 4, 4), torch.float32)
    y.requires_grad_()
    (first,) = torch.autograd.grad(ours(y, weight, bias).square().sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), y, create_graph=True)
    with pytest.raises(DreamAccelError, match="differentiable twice"):
        torch.autograd.grad(second.sum(), y)
