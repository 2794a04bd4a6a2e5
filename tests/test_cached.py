"""Cached steps: the real side of a matching step computed once per network of a pool and augmentation draw."""

from dataclasses import replace

import pytest
import torch
from support.fake_graphs import Replaying
from support.refusals import refused
from test_engine import toy_split

import dream_accel as da
from dream_accel.engine.assembly import assemble
from dream_accel.engine.loop import Run
from dream_accel.engine.pooled import active_trajectories
from dream_accel.matching.objective import map_tensors
from dream_accel.random import derive_seed
from dream_accel.runtime import graphs
from dream_accel.runtime.recording import tensors_in

SMALL = {"ipc": 2, "batch": 4, "width": 4, "depth": 2, "factor": 1, "real": "cached", "match_augment": "color_crop"}
POOL = {"trajectories": 2, "stages": 3, "draws": 2, "inner_steps": 5}
METHODS = ["dream", "dream+", "idc", "dm", "dm+"]


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(name, **changed):
    own = {"network_images": 8} if name in ("dream", "dream+", "idc") else {}
    return da.recipe(name, "toy", **{**SMALL, **POOL, **own, **changed})


def images_of(recipe, split):
    return Run(recipe, split).complete().synthetic.images


@pytest.mark.parametrize("name", METHODS)
def test_a_cached_step_is_the_live_step_of_its_network_picks_and_draws(name):
    split, recipe = toy_split(per_class=20), settings(name)
    run = assemble(recipe, split)
    run.outer_iteration(0)
    target, augmentations = run.pool.target(0, 1, 1)
    distances, gradient = run.matching.match(run.network, target, augmentations, run.pixels.pixels)

    run.matching.draws.restart([derive_seed(recipe.seed, "pool", c, 0, 1, 1) for c in run.matching.classes])
    if recipe.strategy == "random":
        run.sampler.restart("pool", 0, 1, 1)
        run.sampler.update()
    else:
        run.pool.load(0, 1)
    live, expected = run.matching(run.network, run.sampler.images, run.sampler.indices, run.pixels.pixels)
    torch.testing.assert_close(distances, live, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("name", METHODS)
def test_a_recorded_cached_step_gives_the_bits_of_a_plain_one(name, where, tmp_path, monkeypatch):
    """A stand-in records on the CPU; the step has one graph, whose inputs are the entry alone."""
    split, recipe = toy_split(per_class=20), settings(name, iterations=3)
    plain = images_of(recipe, split)
    if where == "disk":
        da.fill_pool(recipe, split, out=tmp_path, device="cpu")
        recipe = replace(recipe, pool=str(tmp_path))
    monkeypatch.setattr(graphs, "CudaGraphs", Replaying)
    run = assemble(recipe, split)
    for iteration in range(3):
        run.outer_iteration(iteration)
    assert run.pixels.pixels.clamp(0, 1).equal(plain)
    (graph,) = run._cached_step._graphs.values()
    assert run._cached_step.backend.log == ["warm-up", "record"] + ["replay"] * 14
    target, augmentations = run.pool.target(0, 0, 0)
    entry = [tensor.shape for tensor in tensors_in((target, augmentations))]
    assert [buffer.shape for buffer in graph._buffers] == entry
    state, distances = run.state(), []
    for _ in range(2):
        run.restore(state)
        distances.append(run.match_target(target, augmentations).clone())
        split.train.images.zero_()
    assert distances[0].equal(distances[1])


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_fills_its_pool_again_to_the_same_bits(name, tmp_path):
    split, recipe = toy_split(per_class=20), settings(name, iterations=4, renew=1)
    expected = images_of(recipe, split)
    stopped = Run(recipe, split, tmp_path / "run.safetensors")
    for _ in range(3):
        stopped.advance()
    stopped.save()
    assert Run(recipe, split, tmp_path / "run.safetensors").complete().synthetic.images.equal(expected)


@pytest.mark.parametrize("name", ["dream", "dream+", "dm+"])
def test_the_whole_class_is_the_mean_over_all_its_images(name):
    """By one batch that contains every image of the class."""
    split = toy_split(per_class=12)
    whole = assemble(settings(name, real_batch="class"), split)
    whole.outer_iteration(0)
    at_once = assemble(settings(name, strategy="central", batch=12), split)
    at_once.outer_iteration(0)
    found, augmentations = whole.pool.target(0, 2, 0)
    expected, others = at_once.pool.target(0, 2, 0)
    assert augmentations.equal(others)
    map_tensors(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6) or a, found, expected)


def test_every_target_is_computed_once(monkeypatch):
    split, recipe = toy_split(per_class=20), settings("dream")
    run = assemble(recipe, split)
    computed, compute = [], run.pool._compute_target

    def counting(state, *keys):
        computed.append(keys)
        return compute(state, *keys)

    monkeypatch.setattr(run.pool, "_compute_target", counting)
    for iteration in range(8):
        run.outer_iteration(iteration)
    assert sorted(computed) == [(number, stage, draw) for number in range(2) for stage in range(3) for draw in range(2)]


def test_picks_are_renewed_every_interval_states(monkeypatch):
    split = toy_split(per_class=20)
    for interval, refreshes in ((1, 3), (2, 2), (10, 1)):
        run = assemble(settings("dream", interval=interval), split)
        seen, refresh = [], run.sampler.refresh
        monkeypatch.setattr(
            run.sampler, "refresh", lambda network, seen=seen, refresh=refresh: seen.append(refresh(network))
        )
        run.outer_iteration(0)
        assert len(seen) == refreshes


@pytest.mark.parametrize(
    ("fill_interval", "renew", "expected"),
    [
        (1, 0, [[0], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]),
        (1, 2, [[0], [0, 1], [0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3]]),
        (2, 0, [[0], [0], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]),
        (2, 1, [[0], [0], [0, 1], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]),
    ],
)
def test_trajectories_come_at_intervals_and_the_oldest_gives_way(fill_interval, renew, expected):
    recipe = settings("dream", trajectories=3, fill_interval=fill_interval, renew=renew)
    assert [list(active_trajectories(recipe, t)) for t in range(len(expected))] == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 1e-2), ("fp16", 2e-3)])
def test_targets_stored_in_fewer_bits_are_rounded(dtype, tolerance):
    split = toy_split(per_class=20)
    exact, rounded = (assemble(settings("dream", pool_dtype=name), split) for name in ("fp32", dtype))
    for run in (exact, rounded):
        run.outer_iteration(0)
    (a, _), (b, _) = exact.pool.target(0, 0, 0), rounded.pool.target(0, 0, 0)
    for x, y in zip(a, b, strict=True):
        assert y.dtype == torch.float32
        assert not x.equal(y)
        torch.testing.assert_close(x, y, rtol=tolerance, atol=1e-6)


def test_a_pool_above_its_memory_is_refused_before_it_is_filled():
    run = assemble(settings("dream", pool_memory=1e-6), toy_split(per_class=20))
    message = refused(run.outer_iteration, 0)
    assert "pool_memory is 1e-06: lower trajectories, stages or draws" in message
    assert len(run.pool) == 1


@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_networks_that_learn_from_the_synthetic_set_cannot_be_cached(name):
    assert "learn from the synthetic set" in refused(da.recipe, name, real="cached")


@pytest.mark.parametrize("setting", ["draws", "trajectories", "fill_interval", "renew", "real_batch"])
def test_a_setting_of_the_pool_without_a_pool_is_refused(setting):
    value = "class" if setting == "real_batch" else 3
    assert f"{setting} is given and real is 'live'" in refused(da.recipe, "dream", **{setting: value})
