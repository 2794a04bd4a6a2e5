"""DM+: its objective against the formula, its pool of trained networks, and runs that stop and go on."""

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from test_engine import toy_split
from torch import nn

import dream_accel as da
from dream_accel.engine.assembly import assemble
from dream_accel.engine.loop import Run
from dream_accel.matching.calibrated_features import CalibratedFeatureMatching
from dream_accel.matching.class_gradients import by_loop
from dream_accel.networks import make_network

SMALL = {"ipc": 2, "batch": 4, "width": 4, "depth": 2, "trajectories": 2, "stages": 3, "inner_steps": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_distance_and_pixel_gradient_are_those_of_the_formula(weight, reference):
    network = make_network("convnet", (3, 8, 8), 4, 6, 2, 0).double()
    draws = torch.Generator().manual_seed(0)
    real, pixels = (torch.randn(n, 3, 8, 8, generator=draws, dtype=torch.float64) for n in (2 * 7, 2 * 3))
    pixels.requires_grad_()
    classes = range(1, 3)

    expected = []
    for c, own, others in zip(classes, pixels.split(3), real.split(7), strict=True):
        features = network.embed(own)
        distance = (network.embed(others).detach().mean(0) - features.mean(0)).square().sum()
        cross_entropy = F.cross_entropy(network.classifier(features), torch.full((3,), c))
        expected.append(distance + weight * cross_entropy)
    (gradient,) = torch.autograd.grad(sum(expected), pixels)

    objective = CalibratedFeatureMatching(weight)
    target = objective.target(network, real, classes, by_loop)
    match = objective.match(network, target, pixels, classes, by_loop)
    torch.testing.assert_close(match.distance, torch.stack(expected).detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(match.pixel_gradient(pixels), gradient, rtol=1e-9, atol=1e-12)


def test_a_network_without_a_linear_layer_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    objective = CalibratedFeatureMatching(1.0)
    message = refused(objective.target, network, torch.zeros(2, 1, 8, 8), range(2), by_loop)
    assert message.startswith("Sequential has no nn.Linear")


@pytest.mark.parametrize("strategy", ["dream", "random", "central"])
def test_a_resumed_run_trains_its_pool_again_to_the_same_bits(strategy, tmp_path):
    split, recipe = toy_split(per_class=20), da.recipe("dm+", "toy", **SMALL, strategy=strategy, iterations=4)
    unbroken = Run(recipe, split)
    unbroken.complete()
    stopped = Run(recipe, split, tmp_path / "run.safetensors")
    stopped.advance(), stopped.advance(), stopped.advance()
    stopped.save()
    assert Run(recipe, split, tmp_path / "run.safetensors").complete().synthetic.images.equal(unbroken.synthetic.images)


def test_an_interrupted_trajectory_is_trained_again(monkeypatch):
    split, recipe = toy_split(per_class=20), da.recipe("dm+", "toy", **SMALL, iterations=2)
    expected = Run(recipe, split).complete().synthetic.images
    run = Run(recipe, split)
    pool = run._distiller.pool
    add = pool.add

    def add_one_then_stop(number):
        if len(pool):
            raise KeyboardInterrupt
        add(number)

    monkeypatch.setattr(pool, "add", add_one_then_stop)
    with pytest.raises(KeyboardInterrupt):
        run.advance()
    monkeypatch.undo()
    assert len(pool) == 1
    assert run.complete().synthetic.images.equal(expected)


def test_every_network_is_trained_and_clustered_once(monkeypatch):
    split, recipe = toy_split(per_class=20), da.recipe("dm+", "toy", **SMALL, iterations=5)
    run = assemble(recipe, split)
    counts = {"train": 0, "refresh": 0}

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(run, "train", counted("train", run.train))
    monkeypatch.setattr(run.sampler, "refresh", counted("refresh", run.sampler.refresh))
    for iteration, states in enumerate([3, 6, 6, 6, 6]):
        run.outer_iteration(iteration)
        assert len(run.pool) == states
    assert counts == {"train": 6, "refresh": 6}


def test_states_are_those_of_the_trajectory():
    split, recipe = toy_split(per_class=20), da.recipe("dm+", "toy", **SMALL)
    run = assemble(recipe, split)
    run.outer_iteration(0)
    states = []
    for stage in range(3):
        run.pool.load(0, stage)
        states.append([p.clone() for p in run.network.parameters()])
    run.begin_trajectory(0)
    for state in states:
        run.train(len(split.train))
        assert all(kept.equal(now) for kept, now in zip(state, run.network.parameters(), strict=True))
    assert not states[0][0].equal(states[1][0])


@pytest.mark.parametrize("setting", ["network_images", "metric", "pretrain_epochs"])
def test_a_setting_it_does_not_read_is_refused(setting):
    assert f"recipe 'dm+' does not use {setting}" in refused(da.recipe, "dm+", **{setting: 1})


@pytest.mark.slow
def test_on_digits_the_loss_falls_and_the_set_ends_above_its_start():
    small = {"eval_networks": 2, "eval_epochs": 100, "init": "random"}
    start = da.distill(da.recipe("dm+", "digits", iterations=0, **small), device="cpu")
    result = da.distill(da.recipe("dm+", "digits", **small), device="cpu")
    assert result.history[-1].loss < result.history[0].loss
    assert da.evaluate(result, device="cpu").mean > da.evaluate(start, device="cpu").mean
