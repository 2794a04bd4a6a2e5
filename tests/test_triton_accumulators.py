"""Accumulators of the products: a product of fp32 accuracy adds at most one tile of features within the tensor core.

A tensor core may truncate its running sum. So every tile of features starts from zero, and its sum is added to that of
the earlier ones by an fp32 addition that rounds. The compiled code is read for it, without a GPU. The products that
decide nothing by themselves run on, within an error bound that allows for it.
"""

import importlib
import os
import re

import pytest
import torch

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")

MOST_FEATURES = 256
"""That one accumulator may add."""

_RESULT = re.compile(r"\s*(%[\w-]+)(?::\d+)? = (\S+) (.*)")
_TMEM = re.compile(r"\s*ttng\.(tc_gen5_mma|tmem_store) (.*)")
_NAME = re.compile(r"%[\w-]+")
PRODUCTS = ("tt.dot", "ttng.warp_group_dot")
PASSED_ON = ("ttng.warp_group_dot_wait", "arith.select", "ttg.convert_layout", "ttng.tmem_load", "ttng.tmem_alloc")


def accumulators(ir):
    """Start of the sums of every product in a kernel's IR: "zero", or "loop" for the result of earlier iterations.

    A name may stand for several values, in regions beside one another: the last one before a use is meant.
    """
    made, stored, products, in_memory = {}, {}, [], {}

    def begins(value):
        if value not in made:
            return {"loop"}  # an argument of the loop
        kind, rest, operands, _ = made[value]
        if kind == "arith.constant":
            return {"zero"} if "dense<0.000000e+00>" in rest else {rest}
        if kind in PRODUCTS:
            return begins(operands[2])
        if kind == "arith.select":  # NaN of the low parts becomes zero
            return begins(operands[1]) | begins(operands[2])
        if kind == "ttng.tmem_load":
            return set().union(*in_memory[_identity(operands[0])])
        return begins(operands[0]) if kind in PASSED_ON else {kind}

    def _identity(memory):
        return memory, made[memory][3]

    def begins_in(memory, adds, depth):
        if adds == "%false":
            return {"zero"}
        if depth > made[memory][3][1]:  # allocated outside of the loop
            return {"loop"}
        return begins(stored[memory])

    for number, line in enumerate(ir.splitlines()):
        depth = len(line) - len(line.lstrip())
        if tmem := _TMEM.match(line):
            kind, names = tmem[1], _NAME.findall(tmem[2])
            if kind == "tmem_store":
                stored[names[1]] = names[0]
            else:
                in_memory.setdefault(_identity(names[2]), []).append(begins_in(names[2], names[3], depth))
        elif operation := _RESULT.match(line):
            name, kind, rest = operation.groups()
            if kind == "scf.for":
                continue
            made[name] = kind, rest, _NAME.findall(rest), (number, depth)
            if kind in PRODUCTS:
                products.append(begins(name))
    return [*products, *(set().union(*found) for found in in_memory.values())]


def compiled(launch):
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source = triton.compiler.ASTSource(kernel, launch.signature, launch.constants, launch.attributes)
    target = triton.backends.compiler.GPUTarget("cuda", launch.arch, 32)
    return triton.compile(source, target=target, options=launch.options).asm["ttgir"]


def first(arch, kernel, case):
    """The first launch of a kernel for a case of the report."""
    launches = importlib.import_module("dream_accel.kernels.report").launches(arch)
    return next(launch for launch in launches if launch.kernel == kernel and case in launch.case)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("arch", [pytest.param(80, marks=SLOW), 90, pytest.param(100, marks=SLOW)])
@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        ("_kmeans_assign_kernel", "fp32 K=128 D=2048"),
        pytest.param("_kmeans_assign_kernel", "fp32 K=64 D=2048", marks=SLOW),
        pytest.param("_kmeans_assign_kernel", "fp32 K=20 D=2048", marks=SLOW),
        pytest.param("_kmeans_assign_kernel", "fp32 K=100 D=15", marks=SLOW),
        pytest.param("_group_products_kernel", "D=2048", marks=SLOW),
    ],
)
def test_fp32_products_begin_from_zero_with_every_tile_of_features(arch, kernel, case):
    launch = first(arch, kernel, case)
    begins = accumulators(compiled(launch))
    assert begins.count({"zero"}) >= 3  # high by high, and low by high either way
    others = [begin for begin in begins if begin != {"zero"}]
    assert bool(others) == (kernel == "_kmeans_assign_kernel")  # its scores in tf32
    assert all("loop" in begin for begin in others)
    assert launch.constants["BLOCK_D"] <= MOST_FEATURES


def test_one_accumulator_for_all_features_is_found():
    begins = accumulators(compiled(first(90, "_kmeans_assign_kernel", "tf32 K=128 D=2048")))
    assert begins
    assert all("loop" in begin for begin in begins)


def truncated(values):
    """Float64 values cut to the 24 bits of an fp32 significand, towards zero."""
    fraction, exponent = torch.frexp(values)
    return torch.ldexp((fraction * 2**24).trunc(), exponent - 24)


def tf32(values):
    bits = values.float().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32)


def emulated_product(a, b, segment, depth=8):
    """Three tf32 products on tensor cores that add ``depth`` features at a time and truncate the running sum."""
    a_high, b_high = tf32(a), tf32(b)
    parts = ((a - a_high, b_high), (a_high, b - b_high), (a_high, b_high))
    total = torch.zeros(len(a), len(b))
    for begin in range(0, a.shape[1], segment):
        running = torch.zeros(len(a), len(b), dtype=torch.float64)
        for left, right in parts:
            for d in range(begin, min(begin + segment, a.shape[1]), depth):
                step = tf32(left[:, d : d + depth]).double() @ tf32(right[:, d : d + depth]).double().T
                running = truncated(running + step)
        total += running.float()  # rounds
    return total


@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["centred", "positive"])
def test_a_truncated_running_sum_spoils_long_accumulators_alone(offset):
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 2048, generator=draws) * 0.5 + offset for n in (24, 16))
    exact = a.double() @ b.double().T
    scale = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)

    def error(product):
        return float(((product.double() - exact).abs() / scale).max())

    tiles = {error(emulated_product(a, b, segment)) for segment in (16, 32, 64)}
    whole = error(emulated_product(a, b, 2048))
    assert max(tiles) < 5e-7
    assert error(emulated_product(a, b, MOST_FEATURES)) < 1e-6
    assert whole > 8 * max(tiles)


@pytest.mark.parametrize("n_features", [64, 2048, 8192])
@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["centred", "positive"])
def test_the_error_bound_allows_for_rounded_rows_and_truncated_sums(offset, n_features):
    assign = importlib.import_module("dream_accel.kernels.assign")
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n_features, generator=draws) * 0.5 + offset for n in (24, 16))
    exact = a.double() @ b.double().T
    scale = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
    running = torch.zeros_like(exact)
    for d in range(0, n_features, 8):
        running = truncated(running + tf32(a)[:, d : d + 8].double() @ tf32(b)[:, d : d + 8].double().T)
    error = ((running - exact).abs() / scale).max()
    assert error <= assign.ROUNDED + n_features * assign.TRUNCATED
