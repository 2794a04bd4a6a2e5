"""The benchmark harness: what it writes can be read, and a provider that computes something else is not timed."""

import csv
import importlib
import importlib.machinery
import inspect
import re
import subprocess
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from dream_accel import DreamAccelError, cli
from dream_accel.bench import (
    distance,
    harness,
    kmeans,
    kmeans_problems,
    kmeans_providers,
    kmeans_trial,
    measurement,
    memory,
    publish,
)
from dream_accel.cli.bench import BENCHMARKS

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
COLUMNS = "kernel provider mode groups rows features clusters dtype metric p20 p50 p80 unit floor"
COLUMNS += " device threads versions commit"


@pytest.fixture
def no_peers(monkeypatch):
    monkeypatch.setattr(kmeans, "PROVIDERS", ())


def line(provider, p50, mode="equal", **fields):
    numbers = {"groups": 2, "rows": 10, "features": 3, "clusters": 4, "p20": p50, "p50": p50, "p80": p50, "floor": 0.5}
    texts = {"kernel": "kmeans", "dtype": "float32", "metric": "time", "unit": "ms", "device": "cpu", "threads": 1}
    values = {**numbers, **texts, "versions": "v", "commit": "c", **fields}
    return measurement.Measurement(provider=provider, mode=mode, **values)


def fitted_by_ours(problem):
    return kmeans._estimator(problem).fit(problem.x, problem.offsets)


def test_bench_command_writes_the_schema_a_table_and_a_figure(tmp_path, monkeypatch, capsys):
    out = tmp_path / "kmeans.csv"
    monkeypatch.setattr("sys.argv", ["dream-accel", "bench", "kmeans", "--device", "cpu", "--quick", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert " ".join(rows[0]) == COLUMNS
    assert {row["mode"].split(",")[0] for row in rows} == {"equal", "ragged"}
    assert {row["metric"] for row in rows} >= {"time per Lloyd iteration"}
    assert any(row["provider"] == "scikit-learn" for row in rows)
    assert all(0 <= float(row["p20"]) <= float(row["p50"]) <= float(row["p80"]) for row in rows if row["unit"] != "%")
    # A tiny fit may take no memory that was not there before, but it takes time.
    assert all(float(row["p20"]) > 0 for row in rows if row["unit"] == "ms")
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_unknown_benchmark_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dream-accel", "bench", "sorting", "--out", str(tmp_path / "x.csv")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "No such command 'sorting'" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_listed_has_a_module_that_runs(name):
    assert callable(importlib.import_module(f"dream_accel.bench.{name}").run)


def test_drop_ins_are_timed_beside_what_they_replace():
    pytest.importorskip("fast_pytorch_kmeans")
    lines = list(importlib.import_module("dream_accel.bench.dropin").run(CPU, quick=True))
    assert [line.provider for line in lines] == ["dream-compat", "fast-pytorch-kmeans"] * 2 + [
        "dream-compat",
        "formula",
    ]
    assert all(line.p50 > 0 for line in lines)


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    def fail():
        yield line("dream-cpu", 2.0)
        raise DreamAccelError("a peer disagrees")

    with pytest.raises(DreamAccelError, match="disagrees"):
        publish.publish(fail(), tmp_path / "out.csv")
    assert measurement.read_csv(tmp_path / "out.csv") == [line("dream-cpu", 2.0)]


def test_a_later_measurement_of_the_same_thing_replaces_the_earlier(tmp_path):
    lines = [line("dream-cpu", 2.0), line("peer", 3.0), line("dream-cpu", 2.5)]
    assert list(publish.record(lines, tmp_path / "out.csv")) == lines
    assert measurement.read_csv(tmp_path / "out.csv") == [lines[2], lines[1]]


def test_rows_written_before_the_disk_is_full_stay_and_the_others_are_printed(tmp_path, monkeypatch, capsys):
    write = publish.write_csv

    def full(path, lines):
        if len(lines) > 1:
            raise OSError(28, "No space left on device")
        write(path, lines)

    monkeypatch.setattr(publish, "write_csv", full)
    with pytest.raises(OSError, match="No space left"):
        publish.publish([line("dream-cpu", 2.0), line("peer", 3.25)], tmp_path / "out.csv")
    assert measurement.read_csv(tmp_path / "out.csv") == [line("dream-cpu", 2.0)]
    assert "3.25" in capsys.readouterr().out


def test_a_missing_plotting_library_costs_the_figure_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert "| dream-cpu |" in publish.publish([line("dream-cpu", 2.0)], tmp_path / "out.csv")
    assert (tmp_path / "out.md").exists()
    assert "no figure" in capsys.readouterr().out


def test_csv_comes_back_as_it_was_written(tmp_path, no_peers):
    lines = list(kmeans.run(CPU, quick=True))
    measurement.write_csv(tmp_path / "out.csv", lines)
    assert measurement.read_csv(tmp_path / "out.csv") == lines
    assert [field.name for field in fields(measurement.Measurement)] == COLUMNS.split()


def equal_lloyd(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None, verbose=False, **options):
    """The functions of flash-kmeans and flashlib, as they are called, in plain PyTorch."""
    assert tol <= 0
    centroids = init_centroids
    for _ in range(max_iters):
        labels = torch.cdist(x.double(), centroids.double()).argmin(2)
        chosen = torch.nn.functional.one_hot(labels, n_clusters).to(x.dtype)
        centroids = chosen.transpose(1, 2) @ x / chosen.sum(1).unsqueeze(2)
    return labels, centroids, max_iters


@pytest.mark.parametrize(("sizes", "kept"), [((80, 80, 80), "one batch"), ((80, 50, 61), "padded")])
@pytest.mark.parametrize("module", ["flash_kmeans", "flashlib"])
def test_peers_of_equal_sizes_solve_our_problem(monkeypatch, module, sizes, kept):
    fake = types.ModuleType(module)
    fake.__spec__ = importlib.machinery.ModuleSpec(module, None)
    fake.batch_kmeans_Euclid = fake.flash_kmeans = equal_lloyd
    monkeypatch.setitem(sys.modules, module, fake)
    problem = kmeans_problems.make_problem(kmeans_problems.Shape(sizes, 6, 5), CPU, iterations=4)
    ours = fitted_by_ours(problem).cluster_centers_
    ways = [p for p in kmeans_providers.PROVIDERS if p.name == module.replace("_", "-")]
    for way in ways:
        if way.mode.startswith(kept):
            torch.testing.assert_close(way.prepare(problem)().centroids, ours, rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises(kmeans_providers.Unable):
                way.prepare(problem)


@pytest.mark.parametrize(("module", "name"), [("flash_kmeans", "batch_kmeans_Euclid"), ("flashlib", "flash_kmeans")])
def test_peers_take_what_they_are_given(module, name):
    function = getattr(pytest.importorskip(module), name)
    words = {"max_iters": 1, "tol": 0.0, "init_centroids": None} | ({"backend": ""} if module == "flashlib" else {})
    inspect.signature(function).bind(None, 2, **words)


@pytest.mark.parametrize("name", ["scikit-learn", "scikit-learn-intelex", "fast-pytorch-kmeans", "faiss", "fastkmeans"])
def test_peers_of_single_problems_solve_our_problem(name):
    way = next(p for p in kmeans_providers.PROVIDERS if p.name == name)
    problem = kmeans_problems.make_problem(kmeans_problems.Shape((120, 80), 6, 5), CPU, iterations=4)
    try:
        fit = way.prepare(problem)
    except kmeans_providers.Unable as reason:
        pytest.skip(str(reason))
    ours = kmeans_trial.inertia(problem, fitted_by_ours(problem).cluster_centers_)
    assert kmeans_trial.inertia(problem, fit().centroids) == pytest.approx(ours, rel=1e-3)


def test_a_peer_with_a_start_of_its_own_ends_near_ours():
    pytest.importorskip("superkmeans")
    way = next(p for p in kmeans_providers.PROVIDERS if p.name == "superkmeans")
    problem = kmeans_problems.make_problem(kmeans_problems.Shape((600, 500), 40, 10), CPU, iterations=20)
    ours = kmeans_trial.inertia(problem, fitted_by_ours(problem).cluster_centers_)
    assert kmeans_trial.inertia(problem, way.prepare(problem)().centroids) == pytest.approx(ours, rel=0.05)


_PEAK_MEMORY = """
import torch
from dream_accel.bench import memory

def call():
    first = torch.ones(8_000_000)
    del first
    return torch.ones(5_000_000)

print(memory.peak_memory(call, torch.device("cpu")))
"""


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="this system does not tell the peak")
def test_peak_memory_is_what_a_call_holds_at_once():
    # In a process of its own: memory that other tests have freed would be used again, and not be seen.
    done = subprocess.run([sys.executable, "-c", _PEAK_MEMORY], capture_output=True, text=True, check=True)
    assert 31 < float(done.stdout) < 45


def test_time_is_divided_by_the_iterations_done():
    problem = kmeans_problems.make_problem(kmeans_problems.Shape((60,), 4, 3), CPU, iterations=200)
    ours = kmeans._ours(problem, kmeans_problems.Shape((60,), 4, 3), "", {})
    assert 1 < ours.iterations < 200
    sklearn = pytest.importorskip("sklearn.cluster")
    km = sklearn.KMeans(3, init=problem.start[0].numpy(), n_init=1, max_iter=200, tol=0.0, algorithm="lloyd")
    assert km.fit(problem.x.numpy()).n_iter_ == ours.iterations


def test_quantiles_are_those_of_the_times():
    assert harness.quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 10.0) == {"p20": 20.0, "p50": 35.0, "p80": 50.0}
    assert harness.quantiles([0.25], 1e3) == {"p20": 250.0, "p50": 250.0, "p80": 250.0}


def test_distances_agree_before_they_are_timed(monkeypatch):
    lines = list(distance.run(CPU, quick=True))
    assert {line.provider for line in lines} == {"dream-cpu", "eager", "copy"}
    assert {line.metric for line in lines} == {"time forward + backward", "bandwidth, three passes", "operators run"}
    for line in lines:
        assert 0 < line.p20 <= line.p50 <= line.p80
        assert line.groups == 2


def test_a_distance_that_is_another_or_raises_costs_its_own_row(monkeypatch):
    def wrong(xs, ys, metric):
        return sum(y.sum() for y in ys)

    def raising(xs, ys, metric):
        raise RuntimeError("no kernel image")

    for call, reason in (
        (wrong, r"it gives .* not the same, so not timed"),
        (raising, "RuntimeError: no kernel image"),
    ):
        monkeypatch.setattr(distance, "eager_distance", call)
        lines = list(distance.run(CPU, quick=True))
        assert {line.provider for line in lines if not line.why_not} == {"dream-cpu", "copy"}
        assert all(re.fullmatch(reason, line.why_not) for line in lines if line.provider == "eager")


def test_on_cuda_one_problem_alone_is_compiled():
    cuda = torch.device("cuda")
    problems = [
        distance.Problem(network, metric, [torch.zeros(n, 1)], [torch.zeros(n, 1)])
        for network in distance.NETWORKS
        for metric in distance.METRICS
        for n in distance.CLASSES
    ]
    assert sum(distance._compiles(problem, cuda) for problem in problems) == 1


def test_networks_of_the_distance_benchmark_have_the_published_sizes():
    sizes = {name: sum(torch.Size(shape).numel() for shape in shapes) for name, shapes in distance.NETWORKS.items()}
    assert sizes == {"ConvNet-3": 298_368, "ConvNet-4": 445_824, "ResNet-10": 4_900_032, "ResNet-18": 11_166_912}
    assert [len(shapes) for shapes in distance.NETWORKS.values()] == [3, 4, 12, 20]
