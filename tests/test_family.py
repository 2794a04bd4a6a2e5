"""DC, DSA and DM: a run moves its pixels as the papers' loops do, written plainly on normalised images."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from test_engine import toy_split

import dream_accel as da
from dream_accel.augment import Augmentation
from dream_accel.engine.assembly import assemble
from dream_accel.networks import initialize, make_network
from dream_accel.networks.training import Rows
from dream_accel.random import Streams, derive_seed, generator

SMALL = {"ipc": 2, "batch": 4, "width": 4, "depth": 2, "init": "random"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Plain:
    """One outer iteration of DC, DSA or DM, with an ordinary optimiser of normalised images.

    The draws (networks, real rows, augmentations, the order of the synthetic images) are those of the run it is
    compared with; everything else is written from the papers.
    """

    def __init__(self, recipe, split, run):
        self.recipe, self.split, self.run = recipe, split, run
        self.n_classes = split.train.n_classes
        self.network = make_network("convnet", split.train.shape, self.n_classes, recipe.width, recipe.depth, 0)
        self.images = split.normalization(run.pixels.pixels.clone()).requires_grad_()
        self.optimizer = torch.optim.SGD([self.images], lr=recipe.pixel_lr, momentum=recipe.pixel_momentum)
        self.match_augment = Augmentation(recipe.match_augment)
        self.train_augment = Augmentation(recipe.synthetic_augment)

    def pixels(self):
        return self.split.normalization.inverse(self.images.detach())

    def draw_network(self, *keys):
        initialize(self.network, derive_seed(self.recipe.seed, "network", "outer", 0, *keys))

    def augmented(self, normalised, augment, draw):
        """Augmentations are defined on pixels."""
        if not augment.names:
            return normalised
        return self.split.normalization(augment.apply(self.split.normalization.inverse(normalised), draw))

    def match(self, rows, loss_of_class):
        """One step of the pixels of all classes along the gradient of the summed loss."""
        total = torch.zeros(())
        for c in range(self.n_classes):
            shape = self.match_augment.shape
            draw = self.draws[c].uniform(math.prod(shape)).view(1, *shape)
            real = self.split.normalization(self.split.train.images[rows[c]].float() / 255)
            sides = (real, self.images[c])
            total = total + loss_of_class(*(self.augmented(side, self.match_augment, draw) for side in sides), c)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return float(total.detach())

    def gradients(self, images, c, create_graph):
        loss = F.cross_entropy(self.network(images), torch.full((len(images),), c))
        return torch.autograd.grad(loss, list(self.network.parameters()), create_graph=create_graph)

    def gradient_loss(self, real, synthetic, c):
        """DC: one minus the cosine of every row, over all tensors but 1-d ones."""
        total = torch.zeros(())
        pairs = zip(self.gradients(real, c, False), self.gradients(synthetic, c, True), strict=True)
        for x, y in pairs:
            if x.dim() > 1:
                x, y = x.detach().flatten(1), y.flatten(1)
                total = total + (1 - (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-6)).sum()
        return total

    def feature_loss(self, real, synthetic, c):
        """DM: the squared distance of the mean embeddings."""
        difference = self.network.embed(real).detach().mean(0) - self.network.embed(synthetic).mean(0)
        return difference.square().sum()

    def train(self):
        """Epochs of plain SGD over the synthetic set."""
        recipe = self.recipe
        optimizer = torch.optim.SGD(self.network.parameters(), lr=recipe.network_lr)
        images, labels = self.images.detach().flatten(0, 1), torch.arange(self.n_classes).repeat_interleave(recipe.ipc)
        for _ in range(recipe.synthetic_epochs):
            for rows in self.order.take(len(images)).split(recipe.synthetic_batch):
                draw = self.train_augment.draw(len(rows), self.train_draws)
                torch.rand(4, generator=self.train_draws)  # CutMix draws, and does nothing
                torch.rand(len(rows), generator=self.train_draws)
                loss = F.cross_entropy(
                    self.network(self.augmented(images[rows], self.train_augment, draw)), labels[rows]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def restart(self):
        seed = self.recipe.seed
        self.draws = [Streams(1, torch.device("cpu")) for _ in range(self.n_classes)]
        for c, draws in enumerate(self.draws):
            draws.restart([derive_seed(seed, "matching", c, 0)])
        self.train_draws = generator(seed, "training", "synthetic", 0)
        self.order = Rows(self.n_classes * self.recipe.ipc, generator(seed, "synthetic rows", 0))
        self.draw_network()


def picks_of(run, monkeypatch):
    """The rows that the run matched at each step, noted as it goes."""
    noted, match = [], run.match

    def noting():
        noted.append(run.sampler.indices.clone())
        return match()

    monkeypatch.setattr(run, "match", noting)
    return noted


def compare(recipe, monkeypatch, plain_iteration):
    split = toy_split(per_class=20)
    run = assemble(recipe, split)
    start = run.pixels.pixels.clone()
    plain = Plain(recipe, split, run)
    rows = picks_of(run, monkeypatch)
    loss = float(run.outer_iteration(0))
    plain.restart()
    losses = plain_iteration(plain, rows)
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    moved = (plain.pixels() - start).norm()
    assert moved > 1e-3
    assert (run.pixels.pixels - plain.pixels()).norm() < 1e-3 * moved


def gradient_matching(plain, rows):
    losses = []
    for step, own in enumerate(rows):
        losses.append(plain.match(own, plain.gradient_loss))
        if step + 1 < len(rows):
            plain.train()
    return losses


@pytest.mark.parametrize("strategy", ["random", "dream"])
def test_dc_is_the_loop_of_the_paper(strategy, monkeypatch):
    recipe = da.recipe("dc", "toy", **SMALL, strategy=strategy, inner_steps=4, synthetic_epochs=2, synthetic_batch=4)
    compare(recipe, monkeypatch, gradient_matching)


def test_dsa_shares_its_augmentation_and_trains_with_it(monkeypatch):
    augment = {"match_augment": "color_crop_flip", "synthetic_augment": "color_flip"}
    recipe = da.recipe("dsa", "toy", **SMALL, **augment, inner_steps=4, synthetic_epochs=1)
    compare(recipe, monkeypatch, gradient_matching)


def test_dm_draws_a_network_for_every_step(monkeypatch):
    def feature_matching(plain, rows):
        losses = []
        for step, own in enumerate(rows):
            if step:
                plain.draw_network(step)
            losses.append(plain.match(own, plain.feature_loss))
        return losses

    recipe = da.recipe("dm", "toy", **SMALL, match_augment="color_crop", inner_steps=5, pixel_lr=0.1)
    compare(recipe, monkeypatch, feature_matching)


@pytest.mark.parametrize(
    ("ipc", "steps", "epochs"),
    [(1, 1, 1), (5, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10)],
)
def test_dc_takes_its_steps_and_epochs_from_ipc(ipc, steps, epochs):
    for name in ("dc", "dsa"):
        found = da.recipe(name, "cifar10", ipc=ipc)
        assert (found.inner_steps, found.synthetic_epochs) == (steps, epochs)
    assert da.recipe("dc", "cifar10", ipc=ipc, inner_steps=3).inner_steps == 3


def test_published_settings():
    dc, dsa, dm = (da.recipe(name, "cifar10") for name in ("dc", "dsa", "dm"))
    assert (dc.pixel_lr, dc.pixel_momentum, dc.batch, dc.iterations, dc.init) == (0.1, 0.5, 256, 1000, "noise")
    assert (dc.metric, dc.layers, dc.factor, dc.match_augment, dc.synthetic_batch) == ("cos", "weights", 1, "", 256)
    assert (dsa.init, dsa.match_augment) == ("random", "color_crop_cutout_flip_scale_rotate")
    assert (dm.pixel_lr, dm.batch, dm.iterations * dm.inner_steps, dm.factor) == (1.0, 256, 20_000, 1)
    assert "flip" not in da.recipe("dsa", "mnist").match_augment + da.recipe("dm", "svhn").match_augment
    assert da.recipe("idc-i", "cifar10").factor == 1


@pytest.mark.parametrize(
    ("name", "setting", "users"),
    [
        ("dream", "synthetic_epochs", "dc or dsa"),
        ("dm", "synthetic_epochs", "dc or dsa"),
        ("dm", "metric", "dream or dream+ or idc or idc-i or dc or dsa"),
        ("dc", "network_images", "dream or dream+ or idc or idc-i"),
    ],
)
def test_a_setting_of_another_method_is_refused(name, setting, users):
    value = {"metric": "l1"}.get(setting, 1)
    assert refused(da.recipe, name, **{setting: value}).endswith(f"leave it out, or choose {users}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dc", "dsa", "dm", "idc-i", "idc", "dream", "dream+"])
def test_on_digits_the_loss_falls_and_the_set_ends_above_its_start(name):
    """From random images: K-Means images leave too little to gain at this size."""
    small = {"eval_networks": 1, "eval_epochs": 100}
    if name.startswith("dream"):
        small["init"] = "random"
    start = da.distill(da.recipe(name, "digits", iterations=0, **small), device="cpu")
    result = da.distill(da.recipe(name, "digits", **small), device="cpu")
    assert result.history[-1].loss < result.history[0].loss
    assert da.evaluate(result, device="cpu").mean > da.evaluate(start, device="cpu").mean
