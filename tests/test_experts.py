"""Experts: their training, their folder, and the command that writes it."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save_file
from support.refusals import refused
from test_engine import toy_split
from test_mtt import SMALL, mtt

import dream_accel as da
from dream_accel import cli
from dream_accel.data import DataSplit
from dream_accel.engine.expert_store import Experts, experts_for
from dream_accel.engine.experts import missing_experts
from dream_accel.errors import DreamAccelWarning
from dream_accel.networks import make_network
from dream_accel.networks.training import Rows
from dream_accel.random import generator
from dream_accel.sampling import RepresentativeSampler

pytestmark = pytest.mark.usefixtures("one_thread")


def train(out, on_epoch=None, split=None, **settings):
    recipe = da.recipe("mtt", "toy", **{**SMALL, **settings})
    return da.train_experts(recipe, split or toy_split(), out=out, device="cpu", on_epoch=on_epoch)


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    # Not mapped into memory, since some tests cut the files.
    return {file.name: load(file.read_bytes()) for file in sorted(folder.glob("expert-*.safetensors"))}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one) and one.keys() == two.keys()


class TestTraining:
    def test_an_expert_is_plain_sgd_on_shuffled_epochs(self, tmp_path):
        train(tmp_path, network_lr=0.1)
        split = toy_split()
        found = states(tmp_path)["expert-0001.safetensors"]
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0, "expert", 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        order = Rows(36, generator(0, "expert rows", 1))
        for epoch in range(SMALL["trajectory_epochs"] + 1):
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(found[name][epoch], parameter.detach(), rtol=1e-4, atol=1e-6)
            for rows in order.batches(36, 9):
                loss = F.cross_entropy(network(split.normalization(split.train.batch(rows))), split.train.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def test_every_expert_has_a_file_with_every_epoch(self, tmp_path):
        experts = train(tmp_path)
        assert (experts.numbers, len(experts), experts.epochs) == ((0, 1), 2, 4)
        one, two = states(tmp_path).values()
        assert {tensor.shape[0] for tensor in one.values()} == {5}
        assert not torch.equal(one["features.0.weight"][0], two["features.0.weight"][0])
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0)
        flat = experts.flat(1, 3, network)
        expected = torch.cat([two[name][3].flatten() for name, _ in network.named_parameters()])
        assert torch.equal(flat, expected)

    def test_manifest_describes_network_data_settings_and_versions(self, tmp_path):
        train(tmp_path)
        found = json.loads((tmp_path / "experts.json").read_text())
        assert found["format"] == "dream_accel.experts/1"
        assert {"network": "convnet", "width": 4, "depth": 2, "strategy": "random"}.items() <= found["settings"].items()
        assert found["data"]["shape"] == [1, 8, 8]
        assert found["data"]["class_names"] == ["0", "1", "2"]
        assert "dream-accel" in found["versions"]

    def test_batches_of_a_strategy_are_its_picks_renewed_at_the_interval(self, tmp_path, monkeypatch):
        refreshes, batches = [], []
        update, steps = RepresentativeSampler.update, da.engine.experts.Trainer.steps

        def noting(sampler, network):
            refreshes.append(update(sampler, network))
            return refreshes[-1]

        def taking(trainer, rows, **others):
            batches.append(rows)
            return steps(trainer, rows, **others)

        monkeypatch.setattr(RepresentativeSampler, "update", noting)
        monkeypatch.setattr("dream_accel.engine.experts.Trainer.steps", taking)
        train(tmp_path, strategy="dream", interval=3, n_experts=1, clusters=6)
        # Batches of 9 of the 18 picks: 36 images are 4 steps, in each of 4 epochs.
        assert refreshes == [step % 3 == 0 for step in range(16)]
        assert [len(rows) for rows in batches] == [9] * 16
        split = toy_split()
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0, "expert", 0)
        sampler = RepresentativeSampler(
            *(split.train.images, split.train.labels, 6, 1, 3),
            normalize=split.normalization,
            max_iter=100,
        )
        sampler.restart("expert", 0)
        update(sampler, network)
        order = Rows(18, generator(0, "expert rows", 0))
        for rows in batches[:3]:
            assert torch.equal(rows, sampler.indices.flatten()[order.take(9)])
        assert len({*batches[0].tolist(), *batches[1].tolist()}) == 18
        manifest = Experts(tmp_path).manifest
        assert (manifest.settings["strategy"], manifest.settings["interval"]) == ("dream", 3)

    def test_experts_of_a_strategy_serve_a_run_with_it(self, tmp_path):
        train(tmp_path, strategy="dream", clusters=6)
        result = da.distill(mtt(tmp_path, strategy="dream", init="kmeans"), toy_split(), device="cpu")
        assert result.synthetic.images.isfinite().all()
        assert "strategy 'dream', and this run has 'random'" in refused(
            da.distill, mtt(tmp_path), toy_split(), device="cpu"
        )


class TestResuming:
    def test_more_experts_are_added_with_the_bits_of_one_call(self, tmp_path):
        train(tmp_path / "whole", n_experts=3)
        train(tmp_path / "parts", n_experts=1)
        first = (tmp_path / "parts" / "expert-0000.safetensors").stat().st_mtime_ns
        train(tmp_path / "parts", n_experts=3)
        assert (tmp_path / "parts" / "expert-0000.safetensors").stat().st_mtime_ns == first
        whole, parts = states(tmp_path / "whole"), states(tmp_path / "parts")
        assert list(whole) == list(parts)
        assert all(same(whole[name], parts[name]) for name in whole)

    def test_an_interrupted_call_keeps_the_experts_that_are_whole(self, tmp_path):
        epochs = iter(range(100))

        def interrupt():
            if next(epochs) == 5:  # in the second expert
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, on_epoch=interrupt)
        assert Experts(tmp_path).numbers == (0,)
        train(tmp_path)
        assert Experts(tmp_path).numbers == (0, 1)

    def test_nothing_is_trained_where_nothing_is_missing(self, tmp_path):
        train(tmp_path)
        assert missing_experts(da.recipe("mtt", "toy", **SMALL), toy_split(), tmp_path) == []
        train(tmp_path, on_epoch=lambda: pytest.fail("an expert was trained"))

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("width", 8),
            ("depth", 1),
            ("trajectory_epochs", 5),
            ("network_lr", 0.5),
            ("network_batch", 5),
            ("train_augment", "crop"),
            ("cutmix", 0.5),
            ("seed", 1),
            ("strategy", "dream"),
        ],
    )
    def test_other_settings_are_refused_by_name(self, tmp_path, setting, value):
        train(tmp_path, n_experts=1)
        message = refused(train, tmp_path, **{setting: value})
        before = {**SMALL, "network_lr": 0.01, "cutmix": 0.0, "seed": 0, "strategy": "random"}[setting]
        assert f"holds experts trained with {setting} {before!r}, not {value!r}" in message

    def test_other_data_are_refused(self, tmp_path):
        train(tmp_path, n_experts=1)
        assert "on other data" in refused(train, tmp_path, split=toy_split(per_class=10))

    def test_settings_that_experts_do_not_read_may_differ(self, tmp_path):
        train(tmp_path, n_experts=1)
        train(
            tmp_path, n_experts=1, ipc=7, synthetic_steps=9, max_start_epoch=2, on_epoch=lambda: pytest.fail("trained")
        )


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        train(tmp_path, n_experts=3)
        return tmp_path

    @pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "short"])
    def test_a_damaged_file_is_left_out_said_once_and_trained_again(self, folder, damage):
        file, before = folder / "expert-0001.safetensors", states(folder)
        if damage == "short":
            save_file({name: tensor[:3] for name, tensor in load(file.read_bytes()).items()}, file)
        elif damage == "foreign":
            save_file({"x": torch.zeros(5)}, file)
        else:
            file.write_bytes(file.read_bytes()[:-1] if damage == "cut" else b"")
        recipe = mtt(folder, n_experts=3)
        with pytest.warns(DreamAccelWarning) as said:
            result = da.distill(recipe, toy_split(), device="cpu")
        assert len(said) == 1
        assert "1 file is damaged and left out (expert-0001.safetensors); 2 experts used" in str(said[0].message)
        assert result.synthetic.images.isfinite().all()
        train(folder, n_experts=3)
        assert all(same(before[name], found) for name, found in states(folder).items())

    def test_an_expert_of_another_folder_is_not_taken(self, folder, tmp_path_factory):
        other = tmp_path_factory.mktemp("other")
        train(other, n_experts=1, seed=5)
        (folder / "expert-0000.safetensors").write_bytes((other / "expert-0000.safetensors").read_bytes())
        assert Experts(folder).numbers == (1, 2)

    def test_a_file_that_was_being_written_is_no_expert(self, folder):
        part = folder / ".expert-0003.safetensors.0a1b2c3d.part"
        part.write_bytes((folder / "expert-0000.safetensors").read_bytes()[:100])
        experts = Experts(folder)
        assert (experts.numbers, experts.damaged) == ((0, 1, 2), [])

    def test_no_whole_expert_is_refused(self, folder):
        for file in folder.glob("expert-*"):
            file.write_bytes(b"")
        assert "holds no whole expert" in refused(experts_for, mtt(folder), toy_split().train)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other/1"}', '{"format": "dream_accel.experts/1"}'])
    def test_a_damaged_manifest_is_refused(self, folder, text):
        (folder / "experts.json").write_text(text)
        message = refused(Experts, folder)
        assert "experts.json cannot be read" in message
        assert "dream-accel experts" in message

    def test_a_run_matches_as_many_experts_as_it_asks_for(self, folder):
        assert experts_for(mtt(folder, n_experts=2), toy_split().train).numbers == (0, 1)


class TestRefusals:
    def test_a_recipe_without_trajectories(self, tmp_path):
        recipe = da.recipe("dream", "toy")
        message = refused(da.train_experts, recipe, toy_split(), out=tmp_path, device="cpu")
        assert message == "recipe 'dream' matches no trajectories and needs no experts: choose mtt"

    def test_an_expert_that_diverges(self, tmp_path):
        assert "expert 0 diverged" in refused(train, tmp_path, network_lr=1e30)
        assert Experts(tmp_path).numbers == ()


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

    def test_trains_and_distill_matches_what_it_wrote(self, run):
        code, out, err = run("experts", "--quick", "--out", "experts", "--device", "cpu")
        assert (code, err) == (0, "")
        assert "2 experts of 3 epochs in experts/" in out
        names = {path.name for path in Path("experts").iterdir()}
        assert names == {"experts.json", "expert-0000.safetensors", "expert-0001.safetensors"}
        words = ("distill", "--quick", "--recipe", "mtt", "--experts", "experts", "--out", "run", "--no-evaluate")
        code, out, err = run(*words, "--device", "cpu")
        assert (code, err) == (0, "")
        assert ", step size 0.0" in out
        result = da.load("run")
        assert result.recipe.experts == str(Path("experts").absolute())
        assert result.student_lr is not None
        code, out, _ = run("distill", "--resume", "run", "--iterations", 2, "--no-evaluate")
        assert (code, len(da.load("run").history)) == (0, 2)

    def test_the_same_command_continues(self, run):
        assert run("experts", "--quick", "--n-experts", 1, "--out", "experts", "--device", "cpu")[0] == 0
        code, out, _ = run("experts", "--quick", "--out", "experts", "--device", "cpu")
        assert code == 0
        assert "1 of 2 experts are there and kept" in out

    def test_other_settings_are_refused_and_overwrite_begins_anew(self, run):
        words = ("experts", "--quick", "--n-experts", 1, "--out", "experts", "--device", "cpu")
        run(*words)
        code, _, err = run(*words, "--width", 4)
        assert code == 2
        assert "trained with width 8, not 4" in err
        assert run(*words, "--width", 4, "--overwrite")[0] == 0
        assert Experts("experts").manifest.settings["width"] == 4

    def test_a_folder_with_other_files_is_refused(self, run):
        Path("taken").mkdir()
        Path("taken/file").write_text("")
        code, _, err = run("experts", "--quick", "--out", "taken")
        assert code == 2
        assert "exists and is not empty" in err

    def test_ctrl_c_keeps_whole_experts_and_says_so(self, run, monkeypatch):
        saved = []
        save = da.engine.experts.save_expert

        def one_then_stop(*args):
            if saved:
                raise KeyboardInterrupt
            saved.append(save(*args))

        monkeypatch.setattr("dream_accel.engine.experts.save_expert", one_then_stop)
        code, out, _ = run("experts", "--quick", "--out", "experts", "--device", "cpu")
        assert code == 130
        assert "interrupted: 1 expert in experts/; the same command trains the rest" in out

    def test_another_recipe_and_distilling_without_experts_are_refused(self, run):
        code, _, err = run("experts", "--quick", "--recipe", "dc", "--out", "experts")
        assert code == 2
        assert "matches no trajectories" in err
        code, _, err = run("distill", "--quick", "--recipe", "mtt", "--out", "run")
        assert code == 2
        assert err.startswith("error: recipe 'mtt' matches the trajectories of experts, and experts names no folder")


def test_class_order_and_names_are_part_of_the_data(tmp_path):
    train(tmp_path, n_experts=1)
    split = toy_split()
    named = replace(split.train, class_names=("a", "b", "c"))
    assert "class names" in refused(experts_for, mtt(tmp_path), DataSplit("named", named, named).train)
