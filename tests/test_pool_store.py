"""The pool of cached steps on disk: its files, what it serves and refuses, and the command that fills it."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from support.refusals import refused
from test_cached import METHODS, images_of, settings
from test_engine import toy_split

import dream_accel as da
from dream_accel import cli
from dream_accel.data import DataSplit, Normalization
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.loop import Run
from dream_accel.engine.pool_filling import missing_trajectories
from dream_accel.engine.pool_store import StoredPool, named, pool_for
from dream_accel.errors import DreamAccelWarning
from dream_accel.evaluation.contestants import contestants

SPLIT = toy_split(per_class=20)


pytestmark = pytest.mark.usefixtures("one_thread")


def fill(folder, name="dream", on_entry=None, split=SPLIT, **changed):
    return da.fill_pool(settings(name, **changed), split, out=folder, device="cpu", on_entry=on_entry)


def reading(folder, name="dream", **changed):
    return settings(name, pool=str(folder), **changed)


def bits(folder: Path) -> dict[str, bytes]:
    """The tensors of all files; not mapped into memory, since some tests cut the files."""
    files = sorted(folder.glob("trajectory-*"))
    return {
        f"{file.name} {name} {tensor.dtype}": tensor.view(torch.uint8).numpy().tobytes()
        for file in files
        for name, tensor in load(file.read_bytes()).items()
    }


def no_training(monkeypatch):
    monkeypatch.setattr("dream_accel.engine.pooled.PooledSteps.train", lambda *_: pytest.fail("a network was trained"))


class TestPixels:
    @pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
    @pytest.mark.parametrize("name", METHODS)
    def test_a_run_from_disk_has_the_pixels_of_one_from_memory(self, name, dtype, tmp_path, monkeypatch):
        changed = {"iterations": 3, "pool_dtype": dtype}
        expected = images_of(settings(name, **changed), SPLIT)
        fill(tmp_path, name, **changed)
        no_training(monkeypatch)
        assert images_of(reading(tmp_path, name, **changed), SPLIT).equal(expected)

    def test_entries_are_stored_in_the_format_asked_for(self, tmp_path):
        fill(tmp_path, pool_dtype="bf16")
        found = load((tmp_path / "trajectory-0000.safetensors").read_bytes())
        assert {tensor.dtype for key, tensor in found.items() if key.startswith("target")} == {torch.bfloat16}
        assert {tensor.dtype for key, tensor in found.items() if key.startswith("state")} == {torch.float32}

    def test_a_pool_serves_other_ipc_factor_metric_rate_and_fewer_states_and_draws(self, tmp_path, monkeypatch):
        fill(tmp_path)
        no_training(monkeypatch)
        changed = {"ipc": 1, "factor": 2, "metric": "l1", "pixel_lr": 0.1, "init": "noise", "iterations": 2}
        for own in ({}, {"stages": 2, "draws": 1}, {"trajectories": 1}):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert images_of(reading(tmp_path, **changed, **own), SPLIT).isfinite().all()

    def test_a_pool_of_dream_serves_idc_of_the_same_picks_and_layers(self, tmp_path, monkeypatch):
        fill(tmp_path, "dream")
        changed = {"strategy": "dream", "batch": 4, "interval": 10, "layers": "conv", "iterations": 2}
        expected = images_of(settings("idc", **changed), SPLIT)
        no_training(monkeypatch)
        assert images_of(reading(tmp_path, "idc", **changed), SPLIT).equal(expected)

    def test_only_the_entries_of_the_steps_are_read(self, tmp_path, monkeypatch):
        fill(tmp_path)
        read, real = [], StoredPool.real
        monkeypatch.setattr(StoredPool, "real", lambda self, *keys: read.append(keys) or real(self, *keys))
        assemble(reading(tmp_path, inner_steps=2), SPLIT).outer_iteration(0)
        assert len(read) == len(set(read)) == 2

    def test_nested_targets_are_read_as_they_were(self, tmp_path):
        a, b = torch.rand(2), torch.rand(3)
        fill(tmp_path, trajectories=1)
        file = tmp_path / "trajectory-0000.safetensors"
        found = {**named("target.0.0", [[a, b], [[b + 1]], a + 1]), "augmentations.0.0": a + 2}
        header = {"format": "dream_accel.pool/3", "manifest": StoredPool(tmp_path).manifest.digest, "entries": "5"}
        save_file(found, file, header)
        pool = StoredPool(tmp_path)
        assert 0 in pool
        target, augmentations = pool.real(0, 0, 0)
        (first, second), ((third,),), fourth = target
        for read, written in ((first, a), (second, b), (third, b + 1), (fourth, a + 1), (augmentations, a + 2)):
            assert read.equal(written)


class TestWhileItIsFilled:
    def test_a_run_computes_what_the_pool_lacks_to_the_same_pixels_and_says_so_once(self, tmp_path):
        expected = images_of(settings("dream", iterations=4), SPLIT)
        fill(tmp_path, trajectories=1)
        with pytest.warns(DreamAccelWarning) as said:
            found = images_of(reading(tmp_path, iterations=4), SPLIT)
        assert [str(line.message).partition(":")[0] for line in said] == [
            f"{tmp_path} holds 1 of the 2 trajectories of this run"
        ]
        assert found.equal(expected)

    def test_a_stored_trajectory_that_another_rank_lacks_is_trained_too_to_the_same_pixels(self, tmp_path, monkeypatch):
        expected = images_of(settings("dream", iterations=3), SPLIT)
        fill(tmp_path)
        trained = []

        def together(distiller, own):
            assert own == []  # All are on the disk of this rank; another one finds none.
            new = [number for number in range(distiller.recipe.trajectories) if number == distiller.iteration]
            trained.extend(new)
            return new

        monkeypatch.setattr(Distiller, "trained_together", together)
        assert images_of(reading(tmp_path, iterations=3), SPLIT).equal(expected)
        assert trained == [0, 1]

    def test_trajectories_that_appear_during_a_run_are_read(self, tmp_path, monkeypatch):
        expected = images_of(settings("dream", iterations=3), SPLIT)
        fill(tmp_path, trajectories=1)
        with pytest.warns(DreamAccelWarning, match="1 of the 2"):
            run = Run(reading(tmp_path, iterations=3), SPLIT)
        run.advance()
        fill(tmp_path)
        no_training(monkeypatch)
        assert run.complete().synthetic.images.equal(expected)

    def test_a_run_may_begin_before_the_first_trajectory_is_there(self, tmp_path):
        fill(tmp_path, trajectories=1)
        (tmp_path / "trajectory-0000.safetensors").unlink()
        with pytest.warns(DreamAccelWarning, match="0 of the 2"):
            found = images_of(reading(tmp_path, iterations=1), SPLIT)
        assert found.equal(images_of(settings("dream", iterations=1), SPLIT))

    def test_new_trajectories_of_a_run_that_renews_come_from_the_pool(self, tmp_path, monkeypatch):
        changed = {"iterations": 5, "renew": 1}
        expected = images_of(settings("dream", **changed), SPLIT)
        fill(tmp_path, trajectories=6)
        no_training(monkeypatch)
        assert images_of(reading(tmp_path, **changed), SPLIT).equal(expected)

    def test_a_resumed_run_may_name_another_place_or_no_pool(self, tmp_path, monkeypatch):
        expected = images_of(settings("dream", iterations=3), SPLIT)
        fill(tmp_path / "pool")
        for place in ("moved", ""):
            checkpoint = tmp_path / f"run-{place}.safetensors"
            stopped = Run(reading(tmp_path / "pool", iterations=3), SPLIT, checkpoint)
            assert stopped.recipe.pool == str(tmp_path / "pool")
            stopped.advance()
            stopped.save()
            if place:
                (tmp_path / "moved").symlink_to(tmp_path / "pool")
            again = Run(settings("dream", iterations=3, pool=place and str(tmp_path / place)), SPLIT, checkpoint)
            assert "pool" in again.origin.changes[-1]["changed"]
            assert again.complete().synthetic.images.equal(expected)


class TestFilling:
    def test_an_interrupted_call_keeps_whole_trajectories_and_is_continued_to_the_bits_of_one(self, tmp_path):
        fill(tmp_path / "whole", trajectories=3)
        entries = iter(range(100))

        def interrupt():
            if next(entries) == 8:  # in the second trajectory, of 6 entries each
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "parts", trajectories=3, on_entry=interrupt)
        assert StoredPool(tmp_path / "parts").whole() == [0]
        first = (tmp_path / "parts" / "trajectory-0000.safetensors").stat().st_mtime_ns
        assert fill(tmp_path / "parts", trajectories=3).whole() == [0, 1, 2]
        assert (tmp_path / "parts" / "trajectory-0000.safetensors").stat().st_mtime_ns == first
        assert bits(tmp_path / "parts") == bits(tmp_path / "whole")

    def test_entries_do_not_depend_on_the_synthetic_set(self, tmp_path):
        fill(tmp_path / "one", trajectories=1)
        fill(tmp_path / "two", trajectories=1, ipc=1, factor=2, metric="l1", init="noise", pixel_lr=0.1, iterations=9)
        assert bits(tmp_path / "one") == bits(tmp_path / "two")

    def test_nothing_is_computed_where_nothing_is_missing(self, tmp_path):
        fill(tmp_path)
        fill(tmp_path, on_entry=lambda: pytest.fail("an entry was computed"))
        assert missing_trajectories(settings("dream"), SPLIT, tmp_path) == []

    def test_manifest_describes_network_data_settings_and_versions(self, tmp_path):
        fill(tmp_path, trajectories=1)
        found = json.loads((tmp_path / "pool.json").read_text())
        assert found["format"] == "dream_accel.pool/3"
        stated = {"network": "convnet", "depth": 2, "n_clusters": 4, "real_side": "gradients of conv", "stages": 3}
        assert stated.items() <= found["settings"].items()
        assert {"ipc", "factor", "metric", "pixel_lr", "iterations", "trajectories"}.isdisjoint(found["settings"])
        assert found["data"]["shape"] == [1, 8, 8]
        assert "dream-accel" in found["versions"]

    @pytest.mark.parametrize(("setting", "value"), [("width", 8), ("stages", 2), ("draws", 3), ("seed", 1)])
    def test_a_pool_of_other_settings_is_not_continued(self, tmp_path, setting, value):
        fill(tmp_path, trajectories=1)
        assert f"holds another pool ({setting} " in refused(fill, tmp_path, **{setting: value})

    def test_a_trajectory_that_diverges_is_refused(self, tmp_path):
        assert "trajectory 0 diverged" in refused(fill, tmp_path, "dm+", network_lr=1e30, strategy="random")
        assert StoredPool(tmp_path).whole() == []

    def test_the_memory_of_one_trajectory_is_bounded(self, tmp_path):
        assert "pool_memory is 1e-06" in refused(fill, tmp_path, pool_memory=1e-6)

    def test_a_live_recipe_has_no_pool(self, tmp_path):
        live = da.recipe("dream", "toy")
        assert "real is 'live'" in refused(da.fill_pool, live, SPLIT, out=tmp_path, device="cpu")


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"width": 8}, "width 4 there and 8 here"),
            ({"depth": 1}, "depth 2 there and 1 here"),
            ({"norm": "batch"}, "norm 'instance' there and 'batch' here"),
            ({"match_augment": "crop"}, "match_augment 'color_crop' there and 'crop' here"),
            ({"train_augment": "crop"}, "train_augment "),
            ({"strategy": "random"}, "strategy 'dream' there and 'random' here"),
            ({"batch": 8}, "clusters 4 there and 8 here"),
            ({"interval": 1}, "interval 10 there and 1 here"),
            ({"layers": "weights"}, "targets 'gradients of conv' there and 'gradients of weights' here"),
            ({"real_batch": "class"}, "real_batch 'picks' there and 'class' here"),
            ({"pool_dtype": "bf16"}, "pool_dtype 'fp32' there and 'bf16' here"),
            ({"network_images": 9}, "network_images 8 there and 9 here"),
            ({"seed": 1}, "seed 0 there and 1 here"),
            ({"stages": 4}, "stages 3 there and 4 here"),
            ({"draws": 3}, "draws 2 there and 3 here"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_a_pool_of_other_settings_is_refused_by_name(self, tmp_path, changed, words):
        fill(tmp_path, trajectories=1)
        message = refused(Run, reading(tmp_path, trajectories=1, **changed), SPLIT)
        assert f"does not fit this run ({words}" in message
        assert "dream-accel pool --out DIR" in message

    @pytest.mark.parametrize(("name", "words"), [("dm", "networks "), ("dream+", "targets "), ("dm+", "networks ")])
    def test_a_pool_of_another_method_is_refused(self, tmp_path, name, words):
        fill(tmp_path, trajectories=1)
        assert f"does not fit this run ({words}" in refused(Run, reading(tmp_path, name), SPLIT)

    def test_other_data_and_normalisation_are_refused(self, tmp_path):
        fill(tmp_path, trajectories=1)
        assert "(other data: training images: 60 there and 36 here)" in refused(
            Run, reading(tmp_path), toy_split(per_class=12)
        )
        named_ = replace(SPLIT.train, class_names=("a", "b", "c"))
        assert "class names" in refused(Run, reading(tmp_path), DataSplit("named", named_, named_))
        scaled = replace(SPLIT)
        vars(scaled)["normalization"] = Normalization((0.5,), (0.5,))
        assert "(normalization " in refused(Run, reading(tmp_path), scaled)

    def test_a_pool_of_another_version_is_refused(self, tmp_path):
        fill(tmp_path, trajectories=1)
        text = (tmp_path / "pool.json").read_text()
        (tmp_path / "pool.json").write_text(text.replace("dream_accel.pool/3", "dream_accel.pool/2"))
        message = refused(Run, reading(tmp_path), SPLIT)
        assert "of another version of the program (format 'dream_accel.pool/2'" in message

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "dream_accel.pool/3"}'])
    def test_a_damaged_manifest_is_refused(self, tmp_path, text):
        (tmp_path / "pool.json").write_text(text)
        assert "pool.json cannot be read" in refused(StoredPool, tmp_path)

    def test_a_folder_without_a_pool_is_refused(self, tmp_path):
        assert "holds no pool (pool.json is missing)" in refused(Run, reading(tmp_path), SPLIT)

    def test_a_pool_without_cached_steps_is_refused(self):
        assert "pool is given and real is 'live'" in refused(da.recipe, "dream", pool="somewhere")


class TestDamage:
    @pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "other pool"])
    def test_a_damaged_file_is_named_computed_by_the_run_and_filled_again(self, tmp_path, damage):
        folder, file = tmp_path / "pool", tmp_path / "pool" / "trajectory-0001.safetensors"
        fill(folder)
        before = bits(folder)
        if damage == "other pool":
            fill(tmp_path / "other", seed=5)
            file.write_bytes((tmp_path / "other" / file.name).read_bytes())
        elif damage == "foreign":
            save_file({"x": torch.zeros(5)}, file)
        else:
            file.write_bytes(file.read_bytes()[:-1] if damage == "cut" else b"")
        with pytest.warns(DreamAccelWarning) as said:
            found = images_of(reading(folder, iterations=2), SPLIT)
        assert len(said) == 1
        assert "1 of the 2 trajectories of this run, and trajectory-0001.safetensors damaged" in str(said[0].message)
        assert found.equal(images_of(settings("dream", iterations=2), SPLIT))
        fill(folder)
        assert bits(folder) == before

    def test_a_file_that_was_being_written_is_no_trajectory(self, tmp_path):
        fill(tmp_path, trajectories=1)
        part = tmp_path / ".trajectory-0001.safetensors.0a1b2c3d.part"
        part.write_bytes((tmp_path / "trajectory-0000.safetensors").read_bytes()[:100])
        pool = StoredPool(tmp_path)
        assert (pool.whole(), pool.damaged()) == ([0], [])


def test_stored_trajectories_take_no_memory(tmp_path):
    recipe = reading(tmp_path, pool_memory=1e-6)
    fill(tmp_path)
    run = assemble(recipe, SPLIT)
    for iteration in range(3):
        run.outer_iteration(iteration)
    assert len(run.pool) == 0


def test_baselines_do_not_read_the_pool(tmp_path):
    recipe = reading(tmp_path)
    assert [other.recipe.pool for other in contestants(recipe, "all") if other.recipe is not None] == ["", "", ""]


def test_no_pool_is_opened_where_none_is_named():
    assert pool_for(settings("dream"), SPLIT) is None


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, capsys, tmp_path):
        """``dream-accel ...`` in this process, in an empty folder; exit status, output, errors."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

        def call(*words):
            monkeypatch.setattr(sys, "argv", ["dream-accel", *map(str, words)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
            shown = capsys.readouterr()
            return int(ended.value.code or 0), shown.out, shown.err

        return call

    def test_fills_continues_and_distill_reads_what_it_wrote(self, run):
        code, out, err = run("pool", "--quick", "--trajectories", 1, "--out", "pool", "--device", "cpu")
        assert (code, err) == (0, "")
        code, out, err = run("pool", "--quick", "--out", "pool", "--device", "cpu")
        assert (code, err) == (0, "")
        assert "trajectories there and kept: 1 of 2" in out
        assert "trajectories in pool/: 2, of 2 states and 1 draws" in out
        names = {path.name for path in Path("pool").iterdir()}
        assert names == {"pool.json", "trajectory-0000.safetensors", "trajectory-0001.safetensors"}
        words = ("distill", "--quick", "--real", "cached", "--device", "cpu", "--no-evaluate")
        code, out, err = run(*words, "--pool", "pool", "--out", "run")
        assert (code, err) == (0, "")
        said = "pool: trajectories 1, 1 of them on disk; entries 2, steps per entry 1; 0 GB in memory; filling it is "
        assert f"{said}expected to be 0 % of the run" in out
        assert da.load("run").recipe.pool == str(Path("pool").absolute())
        assert run(*words, "--out", "alone")[0] == 0
        assert da.load("run").synthetic.images.equal(da.load("alone").synthetic.images)
        Path("pool").rename("moved")
        code, _, err = run("distill", "--resume", "run", "--iterations", 2, "--no-evaluate")
        assert code == 2
        assert "holds no pool" in err
        code, _, _ = run("distill", "--resume", "run", "--iterations", 2, "--no-evaluate", "--pool", "moved")
        assert (code, len(da.load("run").history)) == (0, 2)

    def test_other_settings_are_refused_and_overwrite_begins_anew(self, run):
        words = ("pool", "--quick", "--trajectories", 1, "--out", "pool", "--device", "cpu")
        run(*words)
        code, _, err = run(*words, "--width", 4)
        assert code == 2
        assert "holds another pool (width 8 there and 4 here)" in err
        assert run(*words, "--width", 4, "--overwrite")[0] == 0
        assert StoredPool("pool").manifest.settings["width"] == 4

    def test_a_folder_with_other_files_is_refused(self, run):
        Path("taken").mkdir()
        Path("taken/file").write_text("")
        code, _, err = run("pool", "--quick", "--out", "taken")
        assert code == 2
        assert "exists and is not empty" in err

    def test_ctrl_c_keeps_whole_trajectories_and_says_so(self, run, monkeypatch):
        saved = []
        save = da.engine.pool_filling.save_trajectory

        def one_then_stop(*args):
            if saved:
                raise KeyboardInterrupt
            saved.append(save(*args))

        monkeypatch.setattr("dream_accel.engine.pool_filling.save_trajectory", one_then_stop)
        code, out, _ = run("pool", "--quick", "--out", "pool", "--device", "cpu")
        assert code == 130
        assert "interrupted: trajectories in pool/: 1; the same command computes the rest" in out

    @pytest.mark.parametrize("recipe", ["dc", "mtt"])
    def test_a_recipe_without_a_real_side_to_cache_is_refused(self, run, recipe):
        code, _, err = run("pool", "--quick", "--recipe", recipe, "--out", "pool")
        assert code == 2
        assert "does not use real" in err
