"""The part of the benchmarks that people read: tables, words, and the documents that show them."""

from pathlib import Path

import pytest
from test_bench import line

from dream_accel import DreamAccelError, cli
from dream_accel.bench import measurement, present, words

ROOT = Path(__file__).parents[1]


def test_table_gives_ratios_to_ours():
    text = present.table([line("dream-cpu", 2.0), line("peer", 6.0, "equal, padded")])
    assert "| problem | dream-cpu | peer, padded | floor |" in text
    assert "| equal, 2 groups, 10 x 3, K 4 | 2 | 6 (3.00x) | 0.5 |" in text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.0001, "0.0001"),
        (0.00099999, "0.001"),
        (0.6149, "0.615"),
        (2.0, "2"),
        (61.74, "61.7"),
        (410.2, "410"),
        (999.4, "999"),
        (999.6, "1,000"),
        (1700, "1,700"),
        (14432.1, "14,400"),
        (123456, "123,000"),
        (1e9, "1,000,000,000"),
        (-1700, "-1,700"),
        (2.5e9, "2.5e+09"),
        (0.00002, "2e-05"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent_that_people_would_not_write(value, written):
    assert words.number(value) == written


def test_one_thing_is_not_called_things():
    assert [words.count(n, "group") for n in (0, 1, 2, 1000)] == ["0 groups", "1 group", "2 groups", "1,000 groups"]
    text = present.table([line("dream-cpu", 1700.0, groups=1, rows=50000, features=2048, clusters=1024, threads=1)])
    assert text.startswith("cpu, 1 thread, v, commit c.")
    assert "| equal, 1 group, 50,000 x 2,048, K 1,024 | 1,700 | 0.5 |" in text


def test_what_all_peers_share_is_said_once():
    lines = [line("dream-cpu", 2.0), line("a", 6.0, "equal, one by one"), line("b", 8.0, "equal, one by one")]
    text = present.table(lines)
    assert "in brackets the ratio to `dream-cpu`; the others: one by one" in text
    assert "| problem | dream-cpu | a | b | floor |" in text
    assert "| problem | dream-cpu | a, one by one | b, padded | floor |" in present.table(
        [*lines[:2], line("b", 8.0, "equal, padded")]
    )


def test_table_has_a_part_per_metric_and_a_column_per_mode():
    lines = [
        line("dream-cuda", 2.0, "ConvNet-3 cos, graph", kernel="distance", clusters=0),
        line("dream-cuda", 3.0, "ConvNet-3 cos, eager", kernel="distance", clusters=0),
        line("eager", 8.0, "ConvNet-3 cos", kernel="distance", clusters=0),
        line("eager", 69.0, "ConvNet-3 cos", kernel="distance", clusters=0, metric="launches", unit="", floor=0.0),
    ]
    text = present.table(lines)
    assert "| problem | dream-cuda, graph | dream-cuda, eager | eager | floor |" in text
    assert "| ConvNet-3 cos, 2 groups, 10 x 3 | 2 | 3 (1.50x) | 8 (4.00x) | 0.5 |" in text
    assert "| ConvNet-3 cos, 2 groups, 10 x 3 | 69 |\n" in text


def test_sections_of_a_document_are_renewed_from_their_csv(tmp_path):
    measurement.write_csv(tmp_path / "a.csv", [line("dream-cpu", 2.0), line("dream-cpu", 9.0, metric="peak memory")])
    document = "before\n<!-- bench: a.csv: peak memory -->\nold\n<!-- end -->\nafter\n"
    renewed = present.fill_in(document, tmp_path)
    assert renewed.startswith("before\n<!-- bench: a.csv: peak memory -->\ncpu, 1 thread,")
    assert "| 9 |" in renewed
    assert "| 2 |" not in renewed
    assert "old" not in renewed
    assert renewed.endswith("\n<!-- end -->\nafter\n")
    assert present.fill_in(renewed, tmp_path) == renewed


@pytest.mark.parametrize(
    ("marker", "reason"), [("b.csv", "b.csv does not exist"), ("a.csv: speed", "no line of metric 'speed'")]
)
def test_section_without_numbers_is_refused(tmp_path, marker, reason):
    measurement.write_csv(tmp_path / "a.csv", [line("dream-cpu", 2.0)])
    with pytest.raises(DreamAccelError, match=reason):
        present.fill_in(f"<!-- bench: {marker} -->\n<!-- end -->\n", tmp_path)


def test_render_command_remakes_table_figure_and_document(tmp_path, monkeypatch, capsys):
    measurement.write_csv(tmp_path / "a.csv", [line("dream-cpu", 2.0)])
    (tmp_path / "doc.md").write_text("<!-- bench: a.csv -->\n<!-- end -->\n")
    arguments = ["bench", "render", str(tmp_path / "a.csv"), "--readme", str(tmp_path / "doc.md")]
    monkeypatch.setattr("sys.argv", ["dream-accel", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    table = (tmp_path / "a.md").read_text()
    assert table in capsys.readouterr().out
    assert (tmp_path / "doc.md").read_text() == f"<!-- bench: a.csv -->\n{table}<!-- end -->\n"
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "bench/results").glob("*.csv")), ids=lambda file: file.name)
def test_committed_tables_are_those_of_the_csv(file):
    assert file.with_suffix(".md").read_text() == present.table(measurement.read_csv(file))


@pytest.mark.parametrize("name", ["README.md", "docs/accuracy.md", "docs/benchmarks.md"])
def test_committed_documents_show_the_numbers_of_the_csv(name):
    document = (ROOT / name).read_text()
    assert present.fill_in(document, (ROOT / name).parent) == document


def test_providers_that_were_not_run_are_listed_below_the_tables():
    reason = measurement.not_run("flashlib is\n not installed")
    fields = {**reason, "mode": "equal, one batch", "groups": 2, "rows": 10, "features": 3, "clusters": 4}
    others = {"kernel": "kmeans", "dtype": "float32", "device": "cpu", "threads": 1, "versions": "v", "commit": "c"}
    missing = [
        measurement.Measurement(provider="flashlib", **{**fields, **others, "groups": groups}) for groups in (2, 3)
    ]
    text = present.table([line("dream-cpu", 2.0), missing[0]])
    assert "- flashlib, one batch, equal, 2 groups, 10 x 3, K 4: flashlib is not installed\n" in text
    assert "| problem | dream-cpu | floor |" in text
    assert "- flashlib, one batch, 2 problems: flashlib is not installed\n" in present.table(missing)
