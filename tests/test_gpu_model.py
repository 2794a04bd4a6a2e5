"""The GPU model: its formula, the work it takes from the code, and the page that is made from it."""

import importlib
import itertools
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the tile sizes come with the kernels")
from dream_accel import DreamAccelError
from dream_accel.backends import iteration, triton
from dream_accel.bench.gpu_model import changes, devices, kmeans, known_device, launches, predict, step, tables, traced
from dream_accel.bench.gpu_model.work import Kernel, seconds, total
from dream_accel.matching.class_gradients import CLASS_GRADIENTS
from dream_accel.recipes import recipe

PAGE = Path(__file__).parents[1] / "docs" / "gpu-model.md"
H100, H200 = devices.DEVICES["H100 SXM"], devices.DEVICES["H200"]
CIFAR10 = {"groups": 10, "rows": 50000, "features": 2048, "clusters": 128}
SMALL = {"images": 700, "classes": 2, "ipc": 1, "factor": 1, "clusters": 8, "width": 16, "network_images": 160}
SMALL |= {"kmeans_iterations": 30, "inner_steps": 3, "interval": 2, "class_gradients": "capture"}
STEPS = ("refresh", "matching step", "network update", "outer iteration")


@pytest.mark.parametrize(
    ("work", "ms", "bound"),
    [
        ({"memory": 0.9 * 3.35e12}, 1000, "memory"),
        ({"l2": 5.5e12}, 1000, "memory"),
        ({"tf32": 494.7e12}, 2000, "compute"),
        ({"bf16": 989.4e12}, 2000, "compute"),
        ({"fp32": 66.9e12, "tf32": 494.7e12, "memory": 1e9}, 4000, "compute"),
        # 32 programs of 64 registers by 256 threads: 4 on an SM at once.
        ({"programs": 132 * 4 * 1000, "threads": 256, "waits": 3}, 3000 * 1e3 * 291 / 1.98e9, "memory"),
        ({"launches": 500_000}, 1000, "launches"),
    ],
)
def test_times_are_work_over_rates(work, ms, bound):
    found = total([(1, [Kernel("one", **{"launches": 0, **work})])], H100, graph=True)
    assert found.ms == pytest.approx(ms)
    assert found.bound == bound


def test_a_host_that_launches_one_by_one_is_waited_for():
    kernels = [(3, [Kernel("one", l2=5.5e9)])]
    assert total(kernels, H100, graph=False).ms == pytest.approx(3 * 1.002)
    small = [(3, [Kernel("one", l2=5.5e3)])]
    assert total(small, H100, graph=False) == (pytest.approx(0.03), "launches")


def test_the_last_program_of_an_sm_is_waited_for():
    one, more = (Kernel("products", tf32=1e9 * n, programs=n) for n in (132, 133))
    assert seconds(more, H100)[1] == pytest.approx(2 * seconds(one, H100)[1])


@pytest.mark.parametrize("device", devices.DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_more_rows_are_never_faster(device, precision):
    for features, clusters, groups in ((2048, 128, 10), (128, 64, 10), (100, 200, 3)):
        shapes = [
            {"groups": groups, "rows": n, "features": features, "clusters": clusters} for n in range(300, 90000, 3001)
        ]
        times = [predict("kmeans iteration", device, precision=precision, **shape).ms for shape in shapes]
        assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(times))


def test_what_memory_bounds_scales_with_its_bandwidth(monkeypatch):
    monkeypatch.setattr(kmeans.tiles, "SHIFTED_FEATURES", 10**9)  # large clusters wait for their lists of changes
    shape = {"groups": 1000, "rows": 50_000_000, "features": 2048, "clusters": 8}
    found = [predict("kmeans iteration", name, **shape) for name in ("H100 SXM", "H200")]
    assert {prediction.bound for prediction in found} == {"memory"}
    assert found[0].ms / found[1].ms == pytest.approx(H200.memory / H100.memory, rel=0.03)


def test_precisions_are_ordered_by_their_arithmetic():
    for device in devices.DEVICES:
        times = [predict("kmeans iteration", device, precision=p, **CIFAR10).ms for p in ("bf16", "tf32", "fp32")]
        assert times == sorted(times)


@pytest.mark.parametrize(("empty", "expected"), [("farthest", 10), ("keep", 7)])
def test_launches_of_a_lloyd_iteration(empty, expected):
    assert launches("kmeans iteration", "H100 SXM", empty=empty, **CIFAR10) == expected


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter launches nothing")
@pytest.mark.parametrize(
    "operation", ["kmeans_assign", "kmeans_update keep", "kmeans_update farthest", "nearest_members"]
)
def test_kernels_are_those_the_code_launches(operation):
    pytest.importorskip("triton")
    package, report = (importlib.import_module(f"dream_accel.kernels{name}") for name in ("", ".report"))
    s = kmeans.Rows(groups=2, rows=600, features=48, clusters=12)
    x, offsets = torch.zeros(600, 48), torch.tensor([0, 300, 600])
    centroids, labels = torch.zeros(2, 12, 48), torch.zeros(600, dtype=torch.int32)
    active = torch.ones(2, dtype=torch.bool)
    name, _, empty = operation.partition(" ")
    arguments, modelled = {
        "kmeans_assign": (
            (x, offsets, centroids, active, labels, None, "tf32", False),
            kmeans.assign(s, H100, "tf32"),
        ),
        "kmeans_update": (
            (x, offsets, labels, 12, None, centroids, active, empty),
            kmeans.update(s, H100, empty),
        ),
        "nearest_members": ((x, offsets, centroids, labels, 2), kmeans.nearest(s, H100, 2)),
    }[name]
    noted = report._record(90, "", lambda: getattr(package, name)(*arguments))
    assert [kernel.name for kernel in modelled] == [launch.kernel for launch in noted]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter launches nothing")
@pytest.mark.parametrize(("empty", "maps"), [("keep", 2), ("farthest", 3)])
def test_an_iteration_launches_what_the_model_says_and_maps_are_made_once(empty, maps, monkeypatch):
    pytest.importorskip("triton")
    report = importlib.import_module("dream_accel.kernels.report")
    monkeypatch.setattr(iteration, "all_stopped", lambda active: False)  # as on a GPU
    s = kmeans.Rows(groups=2, rows=600, features=48, clusters=12)
    x, offsets, centroids = torch.zeros(600, 48), torch.tensor([0, 300, 600]), torch.zeros(2, 12, 48)
    noted = report._record(90, "", lambda: triton.kmeans_iterate(x, offsets, centroids, 2, None, "tf32", empty))
    launched = [launch.kernel for launch in noted]
    one, last = step.lloyd_iteration(s, H100, "tf32", empty), kmeans.assign(s, H100, "fp32", updated=True)
    expected = [kernel.name for kernel in (*one, *one, *last) if kernel.name != kmeans.TILE_MAP]
    expected = [kmeans.live_centroids(s).name, *expected]
    assert [name for name in launched if name != kmeans.TILE_MAP] == expected
    assert launched.count(kmeans.TILE_MAP) == maps


def test_the_tile_table_decides_the_traffic(monkeypatch):
    wide = kmeans.tiles.AssignTile(128, 128, 32, 8, 3)
    before = kmeans.assign(kmeans.Rows(**CIFAR10), H100, "tf32")[-1]
    monkeypatch.setattr(kmeans.tiles, "assign_tile", lambda *_: wide)
    after = kmeans.assign(kmeans.Rows(**CIFAR10), H100, "tf32")[-1]
    assert before.memory == after.memory == 50000 * 2048 * 4
    assert after.l2 == pytest.approx(before.l2 - 390 * 128 * 2048 * 4, rel=0.01)


def test_groups_that_do_not_move_read_no_rows():
    s = kmeans.Rows(**CIFAR10)
    idle = step.lloyd_iteration(s, H100, "tf32", "farthest", moving=False)
    assert sum(kernel.memory for kernel in idle) == 0
    assert sum(kernel.launches for kernel in idle) == 10


def test_launches_of_a_matching_step_of_ten_classes():
    assert launches("matching step", "H100 SXM", class_gradients="fused") <= 400


def test_a_convolution_is_traced_with_its_work():
    layer, images = torch.nn.Conv2d(3, 16, 3, padding=1), torch.zeros(4, 3, 8, 8)
    (op,) = traced.traced(lambda: layer(images).view(-1).detach())
    assert (op.name, op.unit, op.launches) == ("convolution", "tf32", 2)
    assert op.flops == 2 * 27 * 16 * 4 * 64
    assert sorted(op.tensors) == sorted(4 * n for n in (4 * 3 * 64, 16 * 27, 16, 4 * 16 * 64))


def test_values_repeated_by_strides_are_read_once():
    (op,) = traced.traced(lambda: torch.zeros(5, 1).expand(5, 100) + torch.ones(()).expand(100))[2:]
    assert sorted(op.tensors) == [4, 20, 2000]


def test_an_outer_iteration_is_the_sum_of_its_parts():
    refresh, match, update, outer = (predict(kind, "H100 SXM", **SMALL).ms for kind in STEPS)
    assert outer == pytest.approx(2 * refresh + 3 * (match + update))


@pytest.mark.parametrize("kind", STEPS)
def test_larger_problems_take_longer(kind):
    larger = {**SMALL, "images": 1500, "clusters": 16, "network_images": 400}
    for graph in (True, False):
        small, large = (predict(kind, "A100 80GB SXM", graph=graph, **problem).ms for problem in (SMALL, larger))
        # A host that launches as many kernels one by one takes as long.
        assert large > small or (not graph and large == small)


def test_a_recipe_of_a_run_is_taken_as_it_is():
    settings = {name: value for name, value in SMALL.items() if name not in ("images", "classes")}
    chosen = recipe("dream", "cifar10", **settings)
    found = predict("matching step", "H200", problem_recipe=chosen, classes=2, images=700)
    assert found == predict("matching step", "H200", **SMALL)


@pytest.mark.slow
def test_auto_is_the_fastest_implementation():
    small = {**SMALL, "clusters": 2}
    ways = [predict("matching step", "H200", **{**small, "class_gradients": way}).ms for way in CLASS_GRADIENTS]
    assert predict("matching step", "H200", **{**small, "class_gradients": "auto"}).ms == min(ways)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_gpus_are_recognised_by_the_drivers_name(name, found):
    assert known_device(name) == found


def test_what_the_model_does_not_know_is_refused():
    with pytest.raises(
        DreamAccelError, match=r"GPU 'TPU v4': it knows H100 SXM, H200, A100 80GB SXM, RTX 4090; add it"
    ):
        predict("kmeans iteration", "TPU v4", **CIFAR10)
    with pytest.raises(
        DreamAccelError, match="unknown kind of prediction 'evaluation': choose one of kmeans iteration"
    ):
        predict("evaluation", "H200")
    with pytest.raises(DreamAccelError, match="unknown precision 'fp8'"):
        predict("kmeans iteration", "H200", precision="fp8", **CIFAR10)
    for wrong in ({"rows": 0}, {"colour": 3}):
        with pytest.raises(DreamAccelError, match="give groups, rows, features, clusters"):
            predict("kmeans iteration", "H200", **{**CIFAR10, **wrong})


def test_planned_changes_gain():
    for change in changes.CHANGES:
        before, after = changes.milliseconds(change, H100)
        assert after < before, change.name


def sections_of(page):
    return {found["name"]: found[0] for found in tables._SECTION.finditer(page)}


def test_the_page_has_every_table_and_those_of_kmeans_are_current():
    found = sections_of(PAGE.read_text())
    assert set(found) == set(tables.SECTIONS)
    for name in set(found) - {"step"}:
        assert tables.SECTIONS[name]() in found[name], (
            "renew: python -m dream_accel.bench.gpu_model --page docs/gpu-model.md"
        )


@pytest.mark.slow
def test_the_page_is_current():
    page = PAGE.read_text()
    if tables.COUNTED_WITH not in page:
        pytest.skip("the page counts launches of another PyTorch")
    assert tables.renewed(page) == page, "renew: python -m dream_accel.bench.gpu_model --page docs/gpu-model.md"
    assert all(make() in tables.table() for make in tables.SECTIONS.values())
