"""The plan of a cached run: counts and memory are those of the run, and its cost that of the images it reads."""

import pytest
from test_cached import METHODS, settings
from test_engine import toy_split

import dream_accel as da
from dream_accel.engine import pool_plan
from dream_accel.engine.assembly import assemble
from dream_accel.engine.loop import Run
from dream_accel.engine.pool import size_in_bytes
from dream_accel.engine.pool_plan import plan_pool
from dream_accel.matching.step import MatchingStep
from dream_accel.networks.training import Trainer
from dream_accel.sampling import RepresentativeSampler

SPLIT = toy_split(per_class=20)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("real_batch", ["picks", "class"])
@pytest.mark.parametrize("name", METHODS)
def test_the_cost_is_that_of_the_images_a_run_reads(name, real_batch, monkeypatch):
    changed = {"renew": 1, "iterations": 5, "real_batch": real_batch, "inner_steps": 12}
    if name.startswith("dream"):
        changed["interval"] = 2
    run = assemble(settings(name, **changed), SPLIT)
    plan, seen = plan_pool(run), {"trained": 0, "embedded": 0, "real": 0}
    steps, refresh, target = Trainer.steps, RepresentativeSampler.refresh, MatchingStep._target

    def training(self, rows, **others):
        seen["trained"] += len(rows)
        return steps(self, rows, **others)

    def embedding(self, network):
        seen["embedded"] += len(SPLIT.train)
        return refresh(self, network)

    def matching(self, network, images, indices, *others):
        seen["real"] += indices.numel()
        return target(self, network, images, indices, *others)

    monkeypatch.setattr(Trainer, "steps", training)
    monkeypatch.setattr(RepresentativeSampler, "refresh", embedding)
    monkeypatch.setattr(MatchingStep, "_target", matching)
    for iteration in range(5):
        run.outer_iteration(iteration)
    passes = pool_plan.GRADIENTS if name in ("dream", "dream+", "idc") else pool_plan.FEATURES
    # With enough steps every target of the pool is computed.
    assert plan.filling == 3 * seen["trained"] + seen["embedded"] + passes * seen["real"]
    assert (plan.trajectories, plan.entries, plan.steps) == (5, 5 * 3 * 2, 60)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_memory_is_that_of_a_full_pool(name, dtype):
    run = assemble(settings(name, iterations=4, pool_dtype=dtype, inner_steps=12), SPLIT)
    plan = plan_pool(run)
    for iteration in range(4):
        run.outer_iteration(iteration)
    states = [state for states in run.pool._trajectories.values() for state in states]
    assert all(len(state.real) == 2 for state in states)
    targets = sum(size_in_bytes(target) for state in states for target, _ in state.real.values())
    picks = sum(0 if state.picks is None else state.picks.nbytes for state in states)
    assert plan.memory == targets + picks + sum(size_in_bytes(state.tensors) for state in states)


def test_longer_runs_and_trajectories_on_disk_lower_the_part_of_filling(tmp_path):
    parts = [Run(settings("dream", iterations=n), SPLIT).pool_plan().part for n in (2, 20, 200)]
    assert 1 > parts[0] > parts[1] > parts[2] > 0
    da.fill_pool(settings("dream", trajectories=1), SPLIT, out=tmp_path, device="cpu")
    with pytest.warns(match="1 of the 2"):
        half = Run(settings("dream", iterations=20, pool=str(tmp_path)), SPLIT).pool_plan()
    assert half.part < parts[1]
    assert "trajectories 2, 1 of them on disk; entries 12, steps per entry 8.33;" in str(half)
    da.fill_pool(settings("dream"), SPLIT, out=tmp_path, device="cpu")
    whole = Run(settings("dream", iterations=20, pool=str(tmp_path)), SPLIT).pool_plan()
    assert (whole.part, whole.memory, whole.filling) == (0, 0, 0)


def test_the_plan_changes_no_pixel():
    one, two = (Run(settings("dream", iterations=2), SPLIT) for _ in range(2))
    one.pool_plan()
    assert one.complete().synthetic.images.equal(two.complete().synthetic.images)


def test_other_runs_have_none():
    live = da.recipe("dream", "toy", ipc=1, batch=4, width=4, depth=2, factor=1)
    assert Run(live, SPLIT).pool_plan() is None
    assert Run(settings("dream", iterations=0), SPLIT).pool_plan().part == 0
