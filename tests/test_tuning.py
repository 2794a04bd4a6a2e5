"""Measured tiles: what is chosen from timings, what is kept, and that nobody gets them who did not ask. No GPU runs."""

import math
from pathlib import Path

import pytest
import torch
from support.refusals import refused
from test_triton_compile import load
from test_triton_compile import pytestmark as compiles_here

pytestmark = compiles_here
GPU = "NVIDIA H200 (test)"
CPU = torch.device("cpu")


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """The module, on a machine whose every device is a Hopper GPU."""
    module = load("tuned")
    monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path))
    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setattr(module, "gpu_name", lambda device: GPU)
    monkeypatch.setattr(module.tiles, "architecture", lambda device: 90)
    module.read.cache_clear()
    yield module
    module.read.cache_clear()


def tile_of(tuned, n_clusters=100, n_features=512, precision="tf32"):
    return tuned.assign_tile(CPU, n_clusters, n_features, precision)


@pytest.fixture
def other(tuned):
    """A tile that is not the table's."""
    return tile_of(tuned)._replace(rows=32, warps=8)


class TestChoice:
    def test_the_fastest_tile_of_every_class_is_taken(self):
        tuning = load("tuning")
        wanted = tuning.AssignTile(128, 64, 16, 8, 3)
        found = tuning.tune(90, lambda clusters, precision, tile: 1.0 if tile == wanted else 2.0)
        table = {key: tuning.tiles.assign_tile(90, key[0], 512, key[1]) for key in found}
        assert len(found) == 9
        assert found == {key: wanted if key[0] == 64 else tile for key, tile in table.items()}

    def test_a_gain_within_the_spread_of_timings_changes_nothing(self):
        tuning = load("tuning")
        table = tuning.tiles.assign_tile(90, 128, 512, "tf32")

        def found(others):
            return tuning.tune(90, lambda c, p, tile: 1.0 if tile == table else others)[128, "tf32"]

        assert found(0.98) == table
        assert found(math.inf) == table
        assert found(0.9) != table

    def test_a_tile_that_fits_is_found_where_the_tables_does_not(self):
        tuning = load("tuning")
        table = tuning.tiles.assign_tile(90, 128, 512, "fp32")
        found = tuning.tune(90, lambda c, p, tile: math.inf if tile == table else 5.0)
        assert found[128, "fp32"] != table

    def test_every_choice_is_said(self):
        lines = []
        load("tuning").tune(90, lambda c, p, tile: 1.0, lines.append)
        assert len(lines) == 9
        assert all(line.endswith("kept") for line in lines)

    def test_without_a_gpu_nothing_is_measured(self, capsys):
        assert load("tuning").main(["--device", "cpu"]) == 1
        assert "there is none at cpu" in capsys.readouterr().err

    def test_the_command_writes_what_the_variable_reads(self, tuned, other, monkeypatch, capsys):
        tuning = load("tuning")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tuning, "gpu_timer", lambda device: lambda c, p, tile: 1.0 if tile == other else 2.0)
        monkeypatch.setattr(tuning, "candidates", lambda clusters: [other])
        assert tuning.main([]) == 0
        assert f"{tuned.VARIABLE}=1 uses them" in capsys.readouterr().out
        assert tile_of(tuned) != other
        monkeypatch.setenv(tuned.VARIABLE, "1")
        assert tile_of(tuned) == other

    @pytest.fixture
    def one_candidate(self, tuned, other, monkeypatch):
        """The tuning command, which tries only ``other``, on a GPU on which it is the fastest."""
        tuning = load("tuning")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tuning, "candidates", lambda clusters: [other])
        self.timed = []

        def milliseconds(clusters, precision, tile):
            self.timed.append((clusters, precision))
            if len(set(self.timed)) > 2:
                raise KeyboardInterrupt
            return 1.0 if tile == other else 2.0

        monkeypatch.setattr(tuning, "gpu_timer", lambda device: milliseconds)
        return tuning

    def test_a_tuning_that_is_killed_keeps_what_it_measured(self, tuned, other, one_candidate, tmp_path):
        file = tmp_path / "mine.json"
        with pytest.raises(KeyboardInterrupt):
            one_candidate.main(["--out", str(file)])
        assert tuned.read(file, GPU) == dict.fromkeys(self.timed[:4], other)
        assert len(set(self.timed[:4])) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]

    def test_it_leaves_what_an_earlier_one_measured(self, tuned, other, one_candidate, tmp_path):
        file, before = tmp_path / "mine.json", other._replace(warps=4)
        tuned.write(file, GPU, {(256, "fp32"): before, (16, "tf32"): before})
        with pytest.raises(KeyboardInterrupt):
            one_candidate.main(["--out", str(file)])
        assert {(256, "fp32"): before}.items() <= tuned.read(file, GPU).items()
        assert len(tuned.read(file, GPU)) > 2
        assert tuned.earlier(file, "another GPU") == {}


class TestOptingIn:
    def test_no_file_is_read_without_it(self, tuned, other):
        tuned.write(tuned.default_file(GPU), GPU, {(128, "tf32"): other})
        assert tile_of(tuned) == tuned.tiles.assign_tile(90, 100, 512, "tf32")

    def test_measured_classes_follow_the_file_and_all_others_the_table(self, tuned, other, monkeypatch, tmp_path):
        file = tmp_path / "mine.json"
        tuned.write(file, GPU, {(128, "tf32"): other})
        monkeypatch.setenv(tuned.VARIABLE, str(file))
        assert tile_of(tuned) == tile_of(tuned, n_clusters=500) == other
        for args in ((100, 512, "fp32"), (64, 512, "tf32"), (100, 15, "tf32")):
            assert tile_of(tuned, *args) == tuned.tiles.assign_tile(90, *args)

    def test_a_process_reads_the_file_once(self, tuned, other, monkeypatch, tmp_path):
        file = tmp_path / "mine.json"
        tuned.write(file, GPU, {(128, "tf32"): other})
        monkeypatch.setenv(tuned.VARIABLE, str(file))
        assert tile_of(tuned) == other
        tuned.write(file, GPU, {(128, "tf32"): other._replace(rows=128)})
        assert tile_of(tuned) == other

    def test_the_kernel_is_launched_with_it(self, tuned, other, monkeypatch, tmp_path):
        report, assign = load("report"), load("assign").kmeans_assign
        x, offsets, centroids = torch.zeros(64, 512), torch.tensor([0, 64]), torch.zeros(1, 100, 512)

        def launched():
            return report._record(90, "", lambda: assign(x, offsets, centroids, precision="tf32"))[-1].constants

        before = launched()
        tuned.write(tmp_path / "mine.json", GPU, {(128, "tf32"): other})
        monkeypatch.setenv(tuned.VARIABLE, str(tmp_path / "mine.json"))
        assert before["BLOCK_N"] != other.rows
        assert launched()["BLOCK_N"] == other.rows


class TestRefusals:
    @pytest.mark.parametrize(
        ("held", "said"),
        [
            pytest.param(None, ["holds no tiles", "FileNotFoundError"], id="no file"),
            pytest.param("{", ["holds no tiles", "JSONDecodeError"], id="no JSON"),
            pytest.param("[]", ["holds no tiles"], id="a list"),
            pytest.param('{"gpu": "a", "triton": "1", "tiles": {"128": {}}}', ["holds no tiles"], id="no fields"),
        ],
    )
    def test_files_that_hold_no_tiles(self, tuned, monkeypatch, tmp_path, held, said):
        file = tmp_path / "mine.json"
        if held is not None:
            file.write_text(held)
        monkeypatch.setenv(tuned.VARIABLE, str(file))
        message = refused(tile_of, tuned)
        assert all(part in message for part in [*said, str(file), "dream_accel.kernels.tuning"]), message

    @pytest.mark.parametrize("wrong", [{"rows": 48}, {"warps": 3}, {"stages": 0}, {"features": 512}])
    def test_sizes_no_kernel_has(self, tuned, other, monkeypatch, wrong):
        tuned.write(tuned.default_file(GPU), GPU, {(128, "tf32"): other._replace(**wrong)})
        monkeypatch.setenv(tuned.VARIABLE, "1")
        assert "is no tile" in refused(tile_of, tuned)

    def test_another_gpu(self, tuned, other, monkeypatch, tmp_path):
        file = Path(tmp_path) / "mine.json"
        tuned.write(file, "NVIDIA A100", {(128, "tf32"): other})
        monkeypatch.setenv(tuned.VARIABLE, str(file))
        assert f"measured on NVIDIA A100 with Triton {tuned.triton.__version__} and this is {GPU}" in refused(
            tile_of, tuned
        )

    def test_another_triton(self, tuned, other, monkeypatch):
        tuned.write(tuned.default_file(GPU), GPU, {(128, "tf32"): other})
        file = tuned.default_file(GPU)
        file.write_text(file.read_text().replace(tuned.triton.__version__, "3.0.1"))
        monkeypatch.setenv(tuned.VARIABLE, "1")
        assert "with Triton 3.0.1 and this is" in refused(tile_of, tuned)
