"""All classes at once: the ways to have their gradients agree, recorded steps agree with plain ones, and both agree
with the published loop."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.fake_graphs import Replaying
from support.refusals import refused
from test_engine import toy_recipe, toy_split
from torch import nn

from dream_accel import augment, backends
from dream_accel.bench.published import Published
from dream_accel.engine.assembly import assemble
from dream_accel.matching import step as matching
from dream_accel.matching.class_gradients import CLASS_GRADIENTS, by_fused, by_loop, refusal
from dream_accel.matching.gradients import GradientMatching
from dream_accel.networks import features, make_network
from dream_accel.networks.features import embed_rows
from dream_accel.networks.fused_blocks import fused, fusible_sequences, unserved
from dream_accel.runtime import graphs

SHAPE = (2, 9, 8)
NAMES = tuple(CLASS_GRADIENTS)
ON_A_GPU = tuple(CLASS_GRADIENTS)
CLASSES = range(3)


def network(**settings) -> nn.Module:
    return make_network("convnet", SHAPE, 3, **{"width": 4, "depth": 2, "seed": 0, **settings})


def images(n: int = 5, dtype=torch.float64) -> torch.Tensor:
    """``n`` images of each of the three classes, one class after another."""
    return torch.randn(3 * n, *SHAPE, generator=torch.Generator().manual_seed(n), dtype=dtype)


@pytest.mark.usefixtures("reference")
class TestClassGradients:
    """In float64, which only the reference takes."""

    @pytest.mark.parametrize("layers", ["conv", "weights", "all"])
    @pytest.mark.parametrize("way", NAMES[1:])
    def test_every_way_gives_the_gradients_of_class_after_class(self, way, layers):
        net = network().double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        parameters = GradientMatching(layers=layers).parameters(net)
        found = CLASS_GRADIENTS[way](net, parameters, images(), CLASSES)
        for one, other in zip(found, by_loop(net, parameters, images(), CLASSES), strict=True):
            torch.testing.assert_close(one, other)
            assert not one.requires_grad

    @pytest.mark.parametrize("layers", ["conv", "all"])
    @pytest.mark.parametrize("way", NAMES[1:])
    def test_derivative_in_the_pixels_is_the_same(self, way, layers):
        net, objective = network().double(), GradientMatching("mse", layers)
        derivatives = []
        for name in ("loop", way):
            pixels = images(4).requires_grad_()
            gradients = CLASS_GRADIENTS[name]
            target = objective.target(net, images(), CLASSES, gradients)
            match = objective.match(net, target, pixels * 1.5, CLASSES, gradients)
            derivatives.append((match.distance, match.pixel_gradient(pixels)))
            assert all(parameter.grad is None for parameter in net.parameters())
        torch.testing.assert_close(*derivatives)

    @pytest.mark.parametrize("way", NAMES)
    def test_in_bfloat16_it_is_the_same_gradient_with_fewer_digits(self, way):
        """Without oneDNN, which has no bfloat16 on some processors."""
        net = network()
        parameters = GradientMatching(layers="weights").parameters(net)
        real = images(dtype=torch.float32)
        exact = by_loop(net, parameters, real, CLASSES)
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            rounded = CLASS_GRADIENTS[way](net, parameters, real, CLASSES, True)
        for one, other in zip(rounded, exact, strict=True):
            assert one.dtype == torch.float32
            assert 0 < (one - other).norm() < 0.05 * other.norm()

    def test_a_network_that_mixes_its_batch_is_taken_class_by_class(self):
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
        parameters = dict(net.named_parameters())
        assert refusal("loop", net, parameters) is None
        for way in NAMES[1:]:
            assert "BatchNorm2d" in refusal(way, net, parameters)

    def test_capture_says_which_layer_it_has_no_formula_for(self):
        net = nn.Sequential(nn.LayerNorm(4))
        assert "LayerNorm" in refusal("capture", net, dict(net.named_parameters()))
        assert refusal("vmap", net, dict(net.named_parameters())) is None
        padded = nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"))
        assert "in words" in refusal("capture", padded, {"0.weight": padded[0].weight})


def steps_of(net: nn.Module, matched) -> list[int]:
    """The number of calls in every sequence that has a block."""
    return [len(steps) for steps in fusible_sequences(net, matched).values()]


class TestFused:
    def test_it_needs_a_block_whose_norm_is_not_matched(self):
        net = network()
        named = dict(net.named_parameters())
        convolutions = {name: tensor for name, tensor in named.items() if tensor.dim() == 4}
        lengths = [[*convolutions], [*convolutions, "features.1.bias"], [*named]]
        assert [steps_of(net, matched) for matched in lengths] == [[4], [6], []]
        assert "norm is not matched" in refusal("fused", net, named)
        assert "no gradients" in refusal("fused", net, {})

    @pytest.mark.parametrize("settings", [{"norm": "batch"}, {"activation": "sigmoid"}, {"pooling": "max"}], ids=str)
    def test_other_layers_are_not_taken_for_a_block(self, settings):
        net = network(**settings)
        convolutions = {name: tensor for name, tensor in net.named_parameters() if tensor.dim() == 4}
        assert steps_of(net, convolutions) == []
        assert "it has no instance norm" in refusal("fused", net, convolutions)

    def test_a_part_of_a_sequence_stays_what_it_is(self):
        """A network may run a slice of its layers, and modules may have hooks."""
        sequence = nn.Sequential(nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2))
        maps = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        expected = sequence[:2](maps)
        with torch.no_grad(), fused(sequence, []):
            assert torch.equal(sequence[:2](maps), expected)
            assert sequence(maps).shape == (2, 4, 3, 3)
        sequence[1].register_forward_hook(lambda *_: None)
        assert steps_of(sequence, []) == []

    def test_without_compiled_kernels_or_on_another_device_it_says_so(self, monkeypatch):
        net = network()
        convolutions = {name: tensor for name, tensor in net.named_parameters() if tensor.dim() == 4}
        on_meta = {name: tensor.to("meta") for name, tensor in convolutions.items()}
        assert "no kernel for meta" in refusal("fused", net, on_meta)
        monkeypatch.setattr(backends.backend("cpu"), "unavailable", lambda: "never built")
        assert refusal("fused", net, convolutions) == "never built"

    def test_the_network_is_as_before_even_after_an_error(self):
        net = network()
        expected = net(images(1, torch.float32)[:, :, :8])
        parameters = GradientMatching().parameters(net)
        with pytest.raises(RuntimeError):
            by_fused(net, parameters, images(1, torch.float32)[:, :1], CLASSES)
        assert not any("forward" in vars(module) for module in net.modules())
        assert torch.equal(net(images(1, torch.float32)[:, :, :8]), expected)

    def test_a_cached_run_on_a_cpu_takes_it_and_a_live_one_the_loop(self):
        if refusal("fused", network(), GradientMatching().parameters(network())) is not None:
            pytest.skip("no compiled kernels")
        pool = {"real": "cached", "trajectories": 1, "stages": 1}
        assert assemble(toy_recipe(**pool), toy_split()).recipe.class_gradients == "fused"
        assert assemble(toy_recipe(), toy_split()).recipe.class_gradients == "loop"

    def test_the_second_derivative_computes_no_gradient_of_a_constant_weight(self):
        """Convolutions of a step: three per layer and derivative, of which the first needs none towards the pixels."""
        net = network()
        parameters = GradientMatching().parameters(net)
        pixels = images(2, torch.float32).requires_grad_()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            found = by_fused(net, parameters, pixels, range(1), True)
            torch.autograd.grad(found, pixels, [torch.ones_like(one) for one in found])
        calls = {event.key: event.count for event in profiled.key_averages()}
        # Forward 2, of the weights' gradients 2 by each argument, of the inner input gradient 1.
        assert calls["aten::_convolution"] == 2 + 4 + 1
        # The weights' gradients 2, the inner input gradient 1, and towards the pixels 2.
        assert calls["aten::convolution_backward"] == 2 + 1 + 2


def pixels_after(recipe, iterations: int = 1) -> torch.Tensor:
    distiller = assemble(recipe, toy_split())
    for iteration in range(iterations):
        distiller.outer_iteration(iteration)
    return distiller.pixels.pixels


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1024, 13])
@pytest.mark.parametrize("way", NAMES[1:])
@pytest.mark.parametrize(
    "settings",
    [{"factor": 2, "max_synthetic": 3}, {"feature_weight": 1.0}, {"pixel_sweep": "joint", "metric": "l1_mean"}],
    ids=str,
)
def test_a_run_moves_its_pixels_the_same_whatever_the_way(way, settings, at_once, monkeypatch):
    """With 13 images at once the three classes go in groups of one or two."""
    for limit in ("IMAGES_AT_ONCE", "FUSED_AT_ONCE"):
        monkeypatch.setattr(matching, limit, at_once)
    recipe = toy_recipe(inner_steps=10, pixel_lr=0.05, **settings)
    found = pixels_after(replace(recipe, class_gradients=way))
    torch.testing.assert_close(found, pixels_after(recipe), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["loop", *(pytest.param(way, marks=pytest.mark.slow) for way in NAMES[1:])])
def test_a_recorded_run_gives_the_bits_of_a_plain_one(way, monkeypatch):
    """A stand-in records on the CPU: state, inputs and random streams must pass through it unchanged."""
    settings = toy_recipe(class_gradients=way, pretrain_epochs=1, inner_steps=5, feature_weight=1.0)
    plain = pixels_after(settings, 2)
    logs = []

    class Recorder(Replaying):
        def __init__(self):
            super().__init__()
            logs.append(self.log)

    monkeypatch.setattr(graphs, "CudaGraphs", Recorder)
    assert torch.equal(pixels_after(settings, 2), plain)
    assert sum("replay" in log for log in logs) >= 3


WARPED = "color_crop_cutout_flip_scale_rotate"


@pytest.mark.parametrize("way", ["loop", *(pytest.param(way, marks=pytest.mark.slow) for way in ON_A_GPU[1:])])
@pytest.mark.parametrize("factor", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_uses_no_operator_that_adds_in_any_order_on_a_gpu(factor, way, monkeypatch):
    monkeypatch.setattr(augment, "_adds_atomically", lambda images: True)
    settings = {"factor": factor, "max_synthetic": 3, "match_augment": WARPED.replace("crop_", "")}
    distiller = assemble(toy_recipe(class_gradients=way, inner_steps=1, **settings), toy_split())
    distiller.restart(0)
    distiller.sampler.update(distiller.network)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        distiller.match()
    names = {event.key for event in profiled.key_averages()}
    # Backward passes of index_select, gather, interpolate and grid_sample, and adaptive pooling.
    assert not {name for name in names if re.search("index_add|scatter_|upsample|grid_sampler|adaptive", name)}
    assert "aten::index_put_" in names or "aten::_index_put_impl_" in names


def pixels_on_a_gpu(**settings) -> torch.Tensor:
    distiller = assemble(toy_recipe(inner_steps=6, **settings), toy_split().to("cuda"))
    for iteration in range(2):
        distiller.outer_iteration(iteration)
    return distiller.pixels.pixels


GPU_SETTINGS = pytest.mark.parametrize(
    "settings", [{}, {"factor": 2, "max_synthetic": 3}, {"factor": 2, "match_augment": WARPED}], ids=str
)


@pytest.mark.gpu
@GPU_SETTINGS
@pytest.mark.parametrize("way", ON_A_GPU)
def test_recorded_on_a_gpu_it_gives_the_bits_of_the_eager_run(way, settings):
    plain = pixels_on_a_gpu(class_gradients=way, graphs=False, **settings)
    assert torch.equal(pixels_on_a_gpu(class_gradients=way, graphs=True, **settings), plain)


@pytest.mark.gpu
@GPU_SETTINGS
@pytest.mark.parametrize("way", ON_A_GPU)
def test_on_a_gpu_the_same_seed_gives_the_same_bits(way, settings):
    """Wide enough for the library to have several algorithms to choose from."""
    first, second = (pixels_on_a_gpu(class_gradients=way, width=64, pretrain_epochs=1, **settings) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.gpu
def test_on_a_gpu_features_of_fused_blocks_are_those_of_the_network(monkeypatch):
    net, rows = make_network("convnet", (3, 32, 32), 10, 16, 3, 0).to("cuda"), torch.arange(70, device="cuda")
    draws = torch.rand(70, 3, 32, 32, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    assert unserved(next(net.parameters())) is None
    found = embed_rows(draws, rows, net, chunk_size=50)
    monkeypatch.setattr(features, "fused_where_faster", lambda network: nullcontext())
    plain = embed_rows(draws, rows, net, chunk_size=50)
    assert not torch.equal(found, plain)  # by other kernels
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_between_two_log_lines():
    distiller = assemble(toy_recipe(inner_steps=6, pretrain_epochs=1), toy_split().to("cuda"))
    distiller.outer_iteration(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        distiller.outer_iteration(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def at_their_turns(published: Published) -> torch.Tensor:
    """The pixels each class would meet at its next turn: until then the velocity of its last step moves them on."""
    n = published.n_classes
    met = torch.empty_like(published.pixels)
    published.pixel_optimizer.zero_grad(set_to_none=False)
    for c in range(n):
        met[c] = published.pixels.detach()[c]
        published.pixel_optimizer.step()
    return met


class TestAgainstThePublishedLoop:
    @pytest.mark.parametrize("way", ["loop", *(pytest.param(way, marks=pytest.mark.slow) for way in NAMES[1:])])
    @pytest.mark.parametrize("metric", [pytest.param("mse", marks=pytest.mark.slow), "l1"])
    @pytest.mark.parametrize("sweep", ["per_class", pytest.param("joint", marks=pytest.mark.slow)])
    def test_ten_steps_move_the_pixels_by_the_same(self, sweep, metric, way):
        recipe = toy_recipe(
            pixel_sweep=sweep,
            metric=metric,
            class_gradients=way,
            inner_steps=10,
            interval=4,
            factor=2,
            max_synthetic=5,
            pixel_lr={"mse": 0.5, "l1": 0.02}[metric],
            train_augment="color_crop",
        )
        split = toy_split(per_class=40)
        ours = assemble(recipe, split)
        start = ours.pixels.pixels.clone()
        theirs = Published(recipe, split, start)
        loss = ours.outer_iteration(0)
        assert theirs.outer_iteration(0) == pytest.approx(float(loss), rel=1e-4)
        expected = at_their_turns(theirs) if sweep == "per_class" else theirs.pixels.detach()
        moved = (expected - start).norm()
        assert moved > 0.01
        assert (ours.pixels.pixels - expected).norm() < 1e-4 * moved

    def test_both_pick_the_same_images(self):
        recipe, split = toy_recipe(), toy_split(per_class=40)
        ours = assemble(recipe, split)
        theirs = Published(recipe, split, ours.pixels.pixels)
        ours.restart(0)
        theirs.restart(0)
        ours.sampler.update(ours.network)
        theirs.refresh(0, 0)
        assert [sorted(rows) for rows in theirs.batches] == [sorted(rows) for rows in ours.sampler.indices.tolist()]

    def test_what_it_is_not_written_for_is_refused(self):
        start = torch.zeros(3, 2, 1, 8, 8)
        assert "metric 'cos'" in refused(Published, toy_recipe(metric="cos"), toy_split(), start)
