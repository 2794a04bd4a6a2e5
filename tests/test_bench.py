"""The benchmark harness: what it writes can be read, and a provider that computes something else is not timed."""

import csv
from dataclasses import fields

import pytest
import torch
from dream_accel.bench import harness, kmeans, kmeans_providers, present

from dream_accel import DreamAccelError, cli

CPU = torch.device("cpu")
COLUMNS = "kernel provider mode groups rows features clusters dtype metric p20 p50 p80 unit floor"
COLUMNS += " device threads versions commit"


@pytest.fixture
def no_peers(monkeypatch):
    monkeypatch.setattr(kmeans, "PROVIDERS", ())


def provider(prepare):
    return kmeans_providers.Provider("peer", ("peer",), ("cpu",), "one fit per group", prepare)


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
    assert any(row["provider"] == "scikit-learn" for row in rows)
    assert all(0 < float(row["p20"]) <= float(row["p50"]) <= float(row["p80"]) for row in rows)
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_unknown_benchmark_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dream-accel", "bench", "sorting", "--out", str(tmp_path / "x.csv")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "unknown benchmark 'sorting': choose one of kmeans" in capsys.readouterr().err


def test_csv_comes_back_as_it_was_written(tmp_path, no_peers):
    lines = kmeans.run(CPU, quick=True)
    harness.write_csv(tmp_path / "out.csv", lines)
    assert harness.read_csv(tmp_path / "out.csv") == lines
    assert [field.name for field in fields(harness.Measurement)] == COLUMNS.split()


def test_provider_with_another_inertia_is_refused(monkeypatch):
    def lazy(problem):
        return lambda: kmeans_providers.Fitted(problem.start, 1)

    monkeypatch.setattr(kmeans, "PROVIDERS", (provider(lazy),))
    with pytest.raises(DreamAccelError, match=r"peer ends .* from our inertia"):
        kmeans.run(CPU, quick=True)


def test_provider_that_cannot_take_a_shape_is_left_out_with_the_reason(monkeypatch, capsys):
    def unable(problem):
        raise kmeans_providers.Unable("it takes circles only")

    monkeypatch.setattr(kmeans, "PROVIDERS", (provider(unable),))
    assert {line.provider for line in kmeans.run(CPU, quick=True)} == {"dream-cpu"}
    assert "peer: not run: it takes circles only" in capsys.readouterr().out


def test_time_is_divided_by_the_iterations_done():
    problem = kmeans.make_problem(kmeans.Shape((60,), 4, 3), CPU, iterations=200)
    fitted = kmeans._fit(problem)
    assert 1 < fitted.iterations < 200
    sklearn = pytest.importorskip("sklearn.cluster")
    km = sklearn.KMeans(3, init=problem.start[0].numpy(), n_init=1, max_iter=200, tol=0.0, algorithm="lloyd")
    assert km.fit(problem.x.numpy()).n_iter_ == fitted.iterations


def test_table_gives_ratios_to_ours():
    def line(provider, p50):
        return harness.Measurement(
            "kmeans", provider, "equal", 2, 10, 3, 4, "float32", "time", p50, p50, p50, "ms", 0.5, "cpu", 1, "v", "c"
        )

    text = present.table([line("dream-cpu", 2.0), line("peer", 6.0)])
    assert "| 2 equal groups, 10 x 3, K 4 | 2 | 6 (3.00x) | 0.5 |" in text


def test_quantiles_are_those_of_the_times():
    assert harness.quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 10.0) == {"p20": 20.0, "p50": 35.0, "p80": 50.0}
    assert harness.quantiles([0.25], 1e3) == {"p20": 250.0, "p50": 250.0, "p80": 250.0}
