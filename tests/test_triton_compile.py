"""Every Triton kernel compiles for the GPUs it is written for, without one, and its launch never asks the device."""

import contextlib
import importlib
import os
import re
import subprocess
import sys

import pytest
import torch
from support.hunting import HUNTING
from torch.utils._python_dispatch import TorchDispatchMode

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


def load(name):
    """A module of the kernels as installed, or from the source tree."""
    try:
        return importlib.import_module(f"dream_accel.kernels.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"kernels.{name}")


@pytest.fixture(scope="module")
def compiled():
    report = load("report")
    known = [launch for arch in report.ARCHITECTURES for launch in report.launches(arch)]
    # The other kernels are the same for every architecture.
    others = report.UNKNOWN_ARCHITECTURES if HUNTING else ()
    unknown = [x for arch in others for x in report.launches(arch) if "assign" in x.kernel]
    return list(report.compile_all(known + unknown))


@pytest.fixture(scope="module")
def one_of_each():
    """One launch of every kernel on an H100."""
    return {launch.kernel: launch for launch in load("report").launches(90)}


LARGEST = (
    "_kmeans_assign_kernel",
    "_kmeans_update_kernel",
    "_shifted_means_kernel",
    "_row_cosine_kernel",
    "_product_kernel",
    "_fill_slots_kernel",
    "_norm_relu_pool_double_backward_kernel",
)


@pytest.mark.parametrize("kernel", LARGEST)
def test_a_launch_of_the_largest_kernels_neither_spills_nor_outgrows_shared_memory(one_of_each, kernel):
    report = load("report")
    assert report.problem(one_of_each[kernel], report.compile_launch(one_of_each[kernel])) is None


@pytest.mark.parametrize(("arch", "instruction"), [(80, "HMMA"), (90, "HGMMA"), (100, "UTCHMMA")])
def test_products_run_on_tensor_cores_and_rows_are_read_sixteen_bytes_at_a_time(arch, instruction):
    report = load("report")
    of_tf32 = (launch for launch in report.launches(arch) if launch.case == "tf32 K=128 D=2048")
    used = report.compile_launch(next(launch for launch in of_tf32 if launch.kernel == "_kmeans_assign_kernel"))
    assert used.products == instruction
    assert used.loads[0] == 128


def test_widths_are_read_from_the_suffixes_of_an_instruction():
    said = "LDG.E.128.CONSTANT R4; LDG.E R2; LDGSTS.E.BYPASS.64 [R1]; LDG.E.U8 R3; LDGDEPBAR; STG.E.U16 [R2]; STL.128"
    report = load("report")
    assert report._widths(said, "LDG(?:STS)?") == (128, 64, 32, 8)
    assert report._widths(said, "STG") == (16,)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100, *((89, 120) if HUNTING else ())])
def test_kernels_neither_spill_nor_outgrow_shared_memory(compiled, arch):
    report = load("report")
    here = [(launch, used) for launch, used in compiled if launch.arch == arch]
    assert here
    problems = {f"{launch.kernel} ({launch.case})": report.problem(launch, used) for launch, used in here}
    assert {name: found for name, found in problems.items() if found} == {}


MODULES = ("prepare", "distance", "assign", "members", "slots", "update", "shift", "gram")
MODULES += ("gradient_distance", "global_cosine", "scale_gradients", "norm_relu_pool")


@pytest.mark.slow
def test_every_kernel_is_compiled(compiled):
    report = load("report")
    package = report.__name__.rpartition(".")[0]
    defined = {
        name
        for module in MODULES
        for name in vars(importlib.import_module(f"{package}.{module}"))
        if name.endswith("_kernel")
    }
    for arch in report.ARCHITECTURES:
        assert {launch.kernel for launch, _ in compiled if launch.arch == arch} == defined


_OPERATION = re.compile(r"\s*(%\w+)(?::\d+)? = (\S+) (.*?) : (.*)")


def narrow_addresses(ir):
    """Arguments of a kernel that are indexed by a product in 32 bits, read from its first representation.

    Counted is what is added to the argument itself: that leads to a row, and what follows stays within the row. A
    product of sizes alone, as K * n, is the size of one group, and a product with a constant the beginning of a tile.
    """
    made, found = {}, set()
    for line in ir.splitlines():
        operation = _OPERATION.match(line)
        if operation is None:
            continue
        name, kind, operands, types = operation.groups()
        operands = re.findall(r"%\w+", operands)
        made[name] = kind, operands, types
        if kind != "tt.addptr":
            continue
        base, todo = operands[0], [operands[1]]
        if made.get(base, ("",))[0] == "tt.splat":
            base = made[base][1][0]
        while base not in made and todo:
            kind, operands, types = made.get(todo.pop(), ("", [], ""))
            bounded = any("%c" in operand for operand in operands) or not any(operand in made for operand in operands)
            if kind == "arith.muli" and "i32" in types and not bounded:
                found.add(base)
            if kind != "tt.load":
                todo += operands
    return found


def addresses_of(launch):
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source = triton.compiler.ASTSource(kernel, launch.signature, launch.constants, launch.attributes)
    target = triton.backends.compiler.GPUTarget("cuda", launch.arch, 32)
    return narrow_addresses(triton.compile(source, target=target, options=launch.options).asm["ttir"])


@pytest.mark.slow
def test_rows_beyond_two_to_the_31_elements_are_addressed_in_64_bits(one_of_each):
    narrow = {name: addresses_of(launch) for name, launch in one_of_each.items()}
    assert {name: arguments for name, arguments in narrow.items() if arguments} == {}


@triton.jit
def _wraps_around(X_ptr, Y_ptr, Rows_ptr, D, WIDE: tl.constexpr):
    row = tl.load(Rows_ptr + tl.arange(0, 16))
    if WIDE:
        row = row.to(tl.int64)
    tl.store(Y_ptr + row * 16, tl.load(X_ptr + row * D + 3))


@pytest.mark.parametrize(("wide", "narrow"), [(False, {"%X_ptr"}), (True, set())])
def test_an_address_that_wraps_around_is_found(wide, narrow):
    arguments = torch.zeros(9), torch.zeros(9), torch.zeros(16, dtype=torch.int32), 48
    (launch,) = load("report")._record(90, "", lambda: _wraps_around[(1,)](*arguments, WIDE=wide))
    assert addresses_of(launch) == narrow


def test_a_report_names_what_is_wrong():
    report = load("report")
    launch = report.launches(80)[0]
    assert "spills 8 bytes" in report.problem(launch, report.Resources(255, 8, 0, 4))
    assert "does not launch" in report.problem(launch, report.Resources(138, 0, 0, 16))
    assert report.problem(launch, report.Resources(128, 0, 0, 16)) is None
    assert "shared memory" in report.problem(launch, report.Resources(64, 0, 200 * 1024, 4))
    assert report.problem(launch, report.Resources(64, 0, 100 * 1024, 4)) is None


class _Operators(TorchDispatchMode):
    """Notes every PyTorch operator that runs."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _launches(operation, sizes, n_features, slices):
    """Launches of an operator on groups of these sizes; with ``slices``, on slices of larger tensors."""
    report = load("report")
    package = importlib.import_module(report.__name__.rpartition(".")[0])
    skip = 1 if slices else 0
    n_rows, n_groups, n_clusters = sum(sizes), len(sizes), 12
    x = torch.zeros(n_rows + skip, n_features)[skip:]
    offsets = torch.tensor([*[0] * skip, 0, *sizes]).cumsum(0)[skip:]
    centroids = torch.zeros(n_groups + skip, n_clusters, n_features)[skip:]
    labels = torch.zeros(n_rows + skip, dtype=torch.int32)[skip:]
    distance = torch.zeros(n_rows + skip)[skip:]
    active = torch.ones(n_groups + skip, dtype=torch.bool)[skip:]
    calls = {
        "kmeans_assign": (x, offsets, centroids, active, labels, distance, "tf32"),
        "kmeans_update": (x, offsets, labels, n_clusters, distance, centroids, active, "farthest"),
        "nearest_members": (x, offsets, centroids, labels, 2),
        "group_products": (x, offsets, x, offsets, torch.zeros(n_groups + skip, n_features)[skip:], 256),
        "gram_assign": (
            torch.zeros(n_groups + skip, n_clusters, 256)[skip:],
            torch.zeros(n_groups + skip, n_clusters)[skip:],
            offsets,
            active,
            labels,
        ),
    }
    with _Operators() as operators:
        launches = report._record(90, "", lambda: getattr(package, operation)(*calls[operation]))
    return launches, operators.seen


OPERATIONS = ("kmeans_assign", "kmeans_update", "nearest_members", "group_products", "gram_assign")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("n_features", [16, 21])
def test_one_compiled_kernel_serves_a_group_alone_and_in_any_batch(operation, n_features):
    alone, _ = _launches(operation, [16], n_features, slices=False)
    batch, _ = _launches(operation, [16, 5, 1, 0, 70000, 16, 16], n_features, slices=True)
    assert [launch.key() for launch in alone] == [launch.key() for launch in batch]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_host_functions_allocate_and_launch_and_nothing_else(operation):
    _, operators = _launches(operation, [16, 3], 16, slices=False)
    assert operators == {"empty"}


def test_every_launch_is_made_on_the_device_of_its_tensors(monkeypatch):
    """Triton launches on the current device, and every host function makes that of its tensors current."""
    report, real = load("report"), load("common").on_device_of
    package = report.__name__.rpartition(".")[0]
    entered, outside = [], []

    @contextlib.contextmanager
    def on_device_of(tensor):
        entered.append(tensor)
        yield
        entered.pop()

    def note(kernel, *args, **options):
        if not entered:
            outside.append(kernel.fn.__name__)

    for name, module in list(sys.modules.items()):
        if name.startswith(package) and getattr(module, "on_device_of", None) is real:
            monkeypatch.setattr(module, "on_device_of", on_device_of)
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", note)
    for _, call in report.cases():
        call()
    assert not outside
    assert not entered


@pytest.mark.slow
def test_asking_about_the_backend_imports_no_triton():
    code = (
        "import sys, dream_accel, dream_accel.backends.triton as t; t.unavailable(); "
        "assert 'triton' not in sys.modules, 'imported'"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
