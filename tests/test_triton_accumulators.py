"""Accumulators of the products: a product in fp32 never adds more than one tile of features within the tensor core.

A tensor core may truncate its running sum. So every tile of features starts from zero, and its sum is added to that of
the earlier ones by an fp32 addition that rounds. The compiled code is read for it, without a GPU.
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
    """Start of the sums of the products in a kernel's IR: "zero", or "loop" for the result of earlier iterations."""
    made, stored, matrix = {}, {}, []
    for line in ir.splitlines():
        if tmem := _TMEM.match(line):
            kind, names = tmem[1], _NAME.findall(tmem[2])
            if kind == "tmem_store":
                stored[names[1]] = names[0]
            else:
                matrix.append((names[2], names[3]))
        elif operation := _RESULT.match(line):
            name, kind, rest = operation.groups()
            if kind == "scf.for":
                continue
            made[name] = kind, rest, _NAME.findall(rest)

    def begins(value):
        if value not in made:
            return {"loop"}  # an argument of the loop
        kind, rest, operands = made[value]
        if kind == "arith.constant":
            return {"zero"} if "dense<0.000000e+00>" in rest else {rest}
        if kind in PRODUCTS:
            return begins(operands[2])
        if kind == "arith.select":  # NaN of the low parts becomes zero
            return begins(operands[1]) | begins(operands[2])
        if kind == "ttng.tmem_load":
            return begins_in(operands[0])
        return begins(operands[0]) if kind in PASSED_ON else {kind}

    def begins_in(memory):
        found = set()
        for target, uses_it in matrix:
            if target == memory:
                found |= {"zero"} if uses_it == "%false" else begins(stored[memory]) if memory in stored else {"loop"}
        return found

    found = {target: begins_in(target) for target, _ in matrix}
    found |= {name: begins(made[name][2][2]) for name in made if made[name][0] in PRODUCTS}
    return set().union(*found.values()), len(found)


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
    begins, n = accumulators(compiled(launch))
    assert n >= 3  # high by high, and low by high either way
    assert begins == {"zero"}
    assert launch.constants["BLOCK_D"] <= MOST_FEATURES


def test_one_accumulator_for_all_features_is_found():
    begins, n = accumulators(compiled(first(90, "_kmeans_assign_kernel", "tf32 K=128 D=2048")))
    assert n
    assert "loop" in begins


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
