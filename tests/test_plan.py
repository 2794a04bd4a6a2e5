"""``plan``: it predicts what a run takes, for every kind of run; and what does not fit is named with its remedy."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.ranked_runs import RUNS, SMALL, split
from support.refusals import refused

import dream_accel as da
from dream_accel.cli.plan import duration
from dream_accel.data import DataSplit, subset
from dream_accel.evaluation import plan as module
from dream_accel.evaluation.plan import FEATURES, IMAGES, POOL, WORK, RunPlan, plan_run
from dream_accel.evaluation.rates import Rates
from dream_accel.runtime.memory import MemoryWatch, available_memory, mapped_memory, used_memory

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def recipe(name: str = "dream", **settings):
    return da.recipe(name.partition(" ")[0], "grey", **{**SMALL, **RUNS[name], "eval_epochs": 10, **settings})


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_is_planned(name):
    found = plan_run(recipe(name), split())
    assert found.step > 0
    assert found.iteration >= SMALL["inner_steps"] * found.step
    assert found.run >= found.iteration
    assert found.evaluation > 0
    assert (found.filling > 0) == (name.startswith("dm+") or "cached" in name)
    assert (found.refresh > 0) == (recipe(name).strategy != "random")
    assert found.refusal() is None
    assert 1e8 < found.total < 1e10


def test_a_run_twice_as_long_takes_twice_the_iterations(monkeypatch):
    rates = Rates(refresh=1.0, step=0.5, target=0.1, training=0.01, epoch=0.2, test=0.3)
    monkeypatch.setattr(module, "measured_rates", lambda distiller, recipe: rates)
    one, two = (plan_run(recipe(iterations=n, interval=2, init="random"), split()) for n in (10, 20))
    # Three steps, two refreshes, 40 images of training after every step.
    assert one.iteration == pytest.approx(3 * 0.5 + 2 * 1.0 + 3 * 40 * 0.01)
    assert (one.run, two.run) == (pytest.approx(10 * one.iteration), pytest.approx(20 * one.iteration))
    assert one.evaluation == pytest.approx(recipe().eval_networks * (10 * 0.2 + 0.3))


def test_classes_and_images_beyond_the_small_run_are_scaled(monkeypatch):
    rates = Rates(refresh=1.0, step=0.5, target=0.1, training=0.01, epoch=0.2, test=0.3)
    monkeypatch.setattr(module, "measured_rates", lambda distiller, recipe: rates)
    monkeypatch.setattr(module, "CLASSES", 2)
    monkeypatch.setattr(module, "PER_CLASS", 16)
    found = plan_run(recipe(), split())
    # Five classes instead of two; 125 images instead of 32.
    assert found.step == pytest.approx(0.5 * 5 / 2)
    assert found.refresh == pytest.approx(1.0 * 125 / 32)


def test_a_refresh_of_some_images_is_scaled_to_those_and_the_initial_images_to_all(monkeypatch):
    rates = Rates(refresh=1.0, step=0.5, target=0.1, training=0.01, epoch=0.2, test=0.3)
    monkeypatch.setattr(module, "measured_rates", lambda distiller, recipe: rates)
    monkeypatch.setattr(module, "PER_CLASS", 16)
    found = plan_run(recipe(refresh_images=20), split())
    # Classes of 30, 9, 50, 12 and 24 images; the small run has 80 of them.
    read = sum(min(20, n) for n in split().train.class_counts().tolist())
    small = sum(min(20, n) for n in subset(split().train, 80, 0).class_counts().tolist())
    assert found.refresh == pytest.approx(read / small)
    assert found.start == pytest.approx(125 / small)


def test_features_are_those_of_a_block_of_classes(monkeypatch):
    whole = plan_run(recipe(), split()).memory[FEATURES]
    monkeypatch.setattr(module, "FEATURE_BYTES", whole // 125 * 60)
    assert plan_run(recipe(), split()).memory[FEATURES] == whole // 125 * 60
    monkeypatch.setattr(module, "FEATURE_BYTES", 1)
    assert plan_run(recipe(), split()).memory[FEATURES] == whole // 125 * 50
    some = recipe(refresh_images=20, init="random")
    assert plan_run(some, split()).memory[FEATURES] == whole // 125 * 20


def test_mapped_images_take_no_memory(tmp_path):
    own = split()
    np.save(tmp_path / "pixels.npy", own.train.images.numpy())
    mapped = torch.from_numpy(np.asarray(np.load(tmp_path / "pixels.npy", mmap_mode="c")))
    assert mapped_memory(own.train.images) is None
    resident = mapped_memory(mapped)
    assert resident is not None
    assert mapped.sum() > 0
    assert resident <= mapped_memory(mapped) <= mapped.nbytes + 8192
    found = plan_run(recipe(), DataSplit("grey", replace(own.train, images=mapped), own.test))
    assert found.memory[IMAGES] == own.test.images.nbytes


@pytest.mark.parametrize("largest", [IMAGES, FEATURES, POOL, WORK])
def test_what_does_not_fit_is_named_with_a_remedy(largest):
    memory = dict.fromkeys((IMAGES, FEATURES, POOL, WORK), 10**9) | {largest: 30 * 10**9}
    found = RunPlan(*[1.0] * 8, memory, 24 * 10**9)
    message = found.refusal()
    assert message is not None
    assert message.startswith(f"the run needs 33 GB and 24 GB are free; most of it is for {largest}, 30 GB: ")
    assert message.endswith(module._REMEDIES[largest])


def test_methods_that_match_trajectories_are_refused():
    message = refused(plan_run, da.recipe("mtt", "grey"), split())
    assert message.startswith("mtt is not planned, since its time depends on its experts")


@pytest.mark.slow
def test_it_is_what_a_run_takes():
    """Within a factor of two, on a machine that may have other work; the documents have the figures of a quiet one."""
    settings = recipe("dream", iterations=20, inner_steps=10, network_images=400, width=32)
    before = plan_run(settings, split()).run
    began = time.perf_counter()
    da.distill(settings, split(), device="cpu")
    seconds = time.perf_counter() - began
    # Other work comes and goes during the run, so that its rates are those at neither end.
    after = plan_run(settings, split()).run
    assert 0.5 < (before + after) / 2 / seconds < 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (5.67, "5.67 s"), (150, "2 min"), (7800, "2 h 10 min"), (273_600, "3 d 4 h"), (0, "0 ms")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


class TestMemory:
    def test_a_block_is_seen(self):
        with MemoryWatch(CPU) as watch:
            large = torch.ones(50_000_000)
            time.sleep(0.1)
            del large
        assert 150e6 < watch.peak - watch.before < 400e6

    def test_what_is_free_is_less_than_the_machine_has(self):
        assert 0 < used_memory(CPU) < 1 << 40
        assert 0 < available_memory(CPU) < 1 << 44


def test_the_command_ends_with_one_where_a_run_does_not_fit(monkeypatch, capsys):
    import sys

    from dream_accel.cli import main

    full = RunPlan(*[1.0] * 8, {WORK: 3 * 10**9}, 10**9)
    monkeypatch.setattr(module, "plan_run", lambda recipe, split: full)
    monkeypatch.setattr(sys, "argv", ["dream-accel", "plan", "--quick", "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert "error: the run needs 3 GB and 1 GB are free" in shown.err
    assert "memory" in shown.out
