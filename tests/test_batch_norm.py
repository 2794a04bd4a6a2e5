"""Batch norm in matching: statistics of real images, kept while gradients are compared, moved in training."""

from dataclasses import replace

import pytest
import torch
from support.refusals import refused
from test_engine import toy_recipe, toy_split
from test_matching_ways import Replaying
from torch import nn

import dream_accel as da
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.selection import select_real
from dream_accel.matching.class_gradients import CLASS_GRADIENTS, by_loop, refusal
from dream_accel.networks import make_network
from dream_accel.networks.batchnorm import frozen_statistics, rows_of_all_classes, set_statistics
from dream_accel.networks.features import embed_rows
from dream_accel.networks.layers import NORMS
from dream_accel.networks.training import Trainer
from dream_accel.random import generator
from dream_accel.runtime import graphs

SETTINGS = {"norm": "batch", "inner_steps": 2, "pixel_lr": 0.05}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str = "convnet", side: int = 8) -> nn.Module:
    return make_network(name, (1, side, side), 3, 4, 2, 0, norm="batch")


def images(n: int = 12, side: int = 8) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(n))


def statistics(net: nn.Module) -> list[torch.Tensor]:
    """Means and variances of every batch norm, copied."""
    kept = [buffer for name, buffer in net.named_buffers() if name.endswith(("running_mean", "running_var"))]
    assert kept
    return [buffer.clone() for buffer in kept]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def of_rows(distiller: Distiller, rows: torch.Tensor) -> list[torch.Tensor]:
    """Statistics of these real images in the network of a run, by a copy of it."""
    copy = network()
    copy.load_state_dict({**copy.state_dict(), **dict(distiller.network.named_parameters())})
    set_statistics(copy, distiller.split.normalization(distiller.split.train.batch(rows)))
    return statistics(copy)


class TestStatistics:
    def test_are_those_of_the_images_layer_by_layer(self):
        net = network()
        before = [layer.momentum for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        set_statistics(net, images())
        x = images()
        for conv, norm in ((net.features[0], net.features[1]), (net.features[4], net.features[5])):
            x = conv(x)
            torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
            torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))
            x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
            x = nn.functional.avg_pool2d(x.relu(), 2)
        assert [layer.momentum for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)] == before
        assert all(module.training for module in net.modules())

    def test_are_not_moved_by_embedding_nor_while_frozen(self):
        net = network()
        set_statistics(net, images())
        kept = statistics(net)
        embed_rows(images(), torch.arange(12), net)
        with frozen_statistics(net):
            frozen = net(images(3))
        assert same(statistics(net), kept)
        assert all(module.training for module in net.modules())
        torch.testing.assert_close(frozen, net.eval()(images(3)))

    def test_are_moved_by_training_as_usual(self):
        net, plain = network(), network()
        normalize = nn.Identity()
        options = {"lr": 0.1, "momentum": 0, "weight_decay": 0, "augment": "", "cutmix_probability": 0}
        trainer = Trainer(net, normalize, **options, device=torch.device("cpu"), seed=0, keys=("t",))
        trainer.step(images(), torch.arange(12) % 3)
        plain(images())
        assert same(statistics(net), statistics(plain))
        assert not same(statistics(net), statistics(network()))

    def test_rows_are_as_many_of_every_class_and_of_that_class(self):
        train = toy_split(per_class=5).train
        rows = rows_of_all_classes(*train.by_class(), generator(0, "test"))
        assert train.labels[rows].tolist() == [c for c in range(3) for _ in range(16)]
        assert len(set(rows.tolist())) > 10
        many = torch.arange(500)
        assert (
            rows_of_all_classes(many, torch.arange(501), generator(0, "test")).tolist()
            == many.repeat_interleave(2).tolist()
        )


class TestRun:
    def test_statistics_are_of_real_images_before_the_network_embeds_and_stay_during_a_match(self):
        distiller = assemble(toy_recipe(**SETTINGS), toy_split())
        distiller.restart(0)
        kept, net = statistics(distiller.network), distiller.network
        rows = rows_of_all_classes(*distiller.split.train.by_class(), generator(0, "statistics", "outer", 0))
        assert same(kept, of_rows(distiller, rows))
        distiller.sampler.update(net)
        distiller.match()
        assert same(statistics(net), kept)

    @pytest.mark.parametrize("data", ["real", "synthetic"])
    def test_statistics_are_of_the_next_real_images_after_every_training(self, data):
        distiller = assemble(toy_recipe(**SETTINGS), toy_split())
        distiller.restart(0)
        draws = generator(0, "statistics", "outer", 0)
        first, second = (rows_of_all_classes(*distiller.split.train.by_class(), draws) for _ in range(2))
        before = statistics(distiller.network)
        if data == "real":
            distiller.train(0)
        else:
            distiller.train_on_synthetic(0)
        assert same(statistics(distiller.network), before)
        if data == "real":
            distiller.train(8)
        else:
            distiller.train_on_synthetic(2)
        assert same(statistics(distiller.network), of_rows(distiller, second))
        assert not same(statistics(distiller.network), of_rows(distiller, first))

    def test_one_image_per_class_is_matched_by_the_statistics_of_real_ones(self):
        """By its own statistics every image of the class would have the same mean and deviation."""
        distiller = assemble(toy_recipe(**SETTINGS, ipc=1, clusters=1, match_augment=""), toy_split())
        distiller.restart(0)
        distiller.sampler.update(distiller.network)
        net, split = distiller.network, distiller.split
        given = {"images": split.train.images, "indices": distiller.sampler.indices, "pixels": distiller.pixels.pixels}
        distances, _ = distiller.matching(net, **given)
        net.eval()
        weights = {name: p for name, p in net.named_parameters() if p.dim() == 4}
        sides = (split.train.batch(given["indices"].flatten()), given["pixels"].flatten(0, 1))
        real, synthetic = (by_loop(net, weights, split.normalization(side), range(3)) for side in sides)
        expected = sum((a - b).square().flatten(1).sum(1) for a, b in zip(real, synthetic, strict=True))
        torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("recipe", ["dream", "dc", "dm", "dm+"])
    def test_a_continued_run_has_the_bits_of_an_unbroken_one(self, recipe, tmp_path):
        small = {"ipc": 1, "batch": 4, "iterations": 2, "inner_steps": 2, "width": 4, "depth": 2, "factor": 1}
        small |= {"network_images": 6, "clusters": 4} if recipe == "dream" else {}
        small.pop("batch" if recipe == "dream" else "", None)
        whole = da.recipe(recipe, "toy", norm="batch", **small)
        file = tmp_path / "checkpoint"
        da.distill(replace(whole, iterations=1), toy_split(), device="cpu", checkpoint=file)
        continued = da.distill(whole, toy_split(), device="cpu", checkpoint=file)
        unbroken = da.distill(whole, toy_split(), device="cpu")
        assert torch.equal(continued.images, unbroken.images)
        assert not torch.equal(unbroken.images, da.distill(replace(whole, seed=1), toy_split(), device="cpu").images)

    @pytest.mark.parametrize("name", ["convnet", "resnet10"])
    @pytest.mark.parametrize("way", ["vmap", "capture"])
    def test_every_implementation_of_the_class_gradients_moves_the_pixels_the_same(self, way, name):
        split = toy_split(6, 3, 16)
        settings = replace(toy_recipe(**SETTINGS, layers="all"), network=name)
        found = []
        for implementation in ("loop", way):
            distiller = assemble(replace(settings, class_gradients=implementation), split)
            distiller.outer_iteration(0)
            found.append(distiller.pixels.pixels)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)

    def test_recorded_steps_give_the_bits_of_plain_ones(self, monkeypatch):
        class Recorder(Replaying):
            def warm_up(self, call, device):
                outputs = call()
                self.shaped = torch.zeros(()) if outputs is None else outputs.detach().clone()
                return outputs

            def record(self, call, device, generators):
                return super().record(lambda: torch.zeros(()) if (out := call()) is None else out, device, generators)

        def pixels():
            distiller = assemble(toy_recipe(norm="batch", inner_steps=5, class_gradients="loop"), toy_split())
            for iteration in range(2):
                distiller.outer_iteration(iteration)
            return distiller.pixels.pixels

        plain = pixels()
        monkeypatch.setattr(graphs, "CudaGraphs", Recorder)
        assert torch.equal(pixels(), plain)

    def test_a_selection_embeds_with_the_statistics_of_real_images(self, monkeypatch):
        recipe = da.recipe("dream", "toy", norm="batch", ipc=2, width=4, depth=2)
        seen = []
        train = toy_split().train

        class Seen(nn.BatchNorm2d):
            def forward(self, maps):
                out = super().forward(maps)
                seen.append((self.training, float(out.detach().mean()), float(out.detach().std())))
                return out

        monkeypatch.setitem(NORMS, "batch", Seen)
        rows = select_real(recipe, toy_split(), device="cpu").rows
        assert train.labels[rows].tolist() == [[0, 0], [1, 1], [2, 2]]
        embedded = [found for found in seen if not found[0]]
        assert embedded
        assert all(abs(mean) < 0.5 and 0.5 < std < 2 for _, mean, std in embedded)


class TestRefusals:
    def test_a_training_batch_with_one_value_per_channel(self):
        """One class of one image: there is nothing to compute a variance from."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
        options = {"lr": 0.1, "momentum": 0, "weight_decay": 0, "augment": "", "cutmix_probability": 0}
        trainer = Trainer(net, nn.Identity(), **options, device=torch.device("cpu"), seed=0, keys=("t",))
        assert refused(trainer.step, images(1), torch.zeros(1, dtype=torch.int64)) == (
            "batch norm is trained on a batch with one value per channel, which has no variance: choose a batch size "
            "(network_batch, synthetic_batch or eval_batch) that leaves no single image over, or another norm"
        )
        trainer.step(images(2), torch.zeros(2, dtype=torch.int64))

    def test_other_errors_of_a_training_step_stay_what_they_are(self):
        class Broken(nn.Linear):
            def forward(self, x):
                raise ValueError("mine")

        options = {"lr": 0.1, "momentum": 0, "weight_decay": 0, "augment": "", "cutmix_probability": 0}
        trainer = Trainer(Broken(1, 1), nn.Identity(), **options, device=torch.device("cpu"), seed=0, keys=("t",))
        with pytest.raises(ValueError, match="mine"):
            trainer.step(images(1), torch.zeros(1, dtype=torch.int64))

    def test_batch_norm_that_cannot_be_frozen_is_taken_class_by_class(self):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
        for way in CLASS_GRADIENTS:
            reason = refusal(way, net, dict(net.named_parameters()))
            assert (reason is None) == (way == "loop")
