"""MTT: the distance of student and expert and its derivatives, a run of it, its refusals."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from support.round_trips import no_host_round_trip
from test_engine import toy_split

import dream_accel as da
from dream_accel.augment import Augmentation
from dream_accel.data import DataSplit, ImageSet, Normalization
from dream_accel.engine.expert_store import Experts
from dream_accel.engine.loop import Run
from dream_accel.engine.trajectory_assembly import assemble_trajectories
from dream_accel.errors import DivergenceError
from dream_accel.evaluation import row_names
from dream_accel.matching.trajectories import StepSize, TrajectoryMatching, TrajectoryStep
from dream_accel.networks import make_network
from dream_accel.networks.training import Rows
from dream_accel.random import generator
from dream_accel.recipes import RECIPES
from dream_accel.synthetic import decode

CPU = torch.device("cpu")
SMALL = {
    "ipc": 2,
    "width": 4,
    "depth": 2,
    "iterations": 2,
    "inner_steps": 3,
    "n_experts": 2,
    "trajectory_epochs": 4,
    "synthetic_steps": 3,
    "expert_epochs": 2,
    "max_start_epoch": 3,
    "network_batch": 9,
    "train_augment": "",
    "synthetic_augment": "",
    "eval_epochs": 2,
    "eval_networks": 1,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two experts of four epochs on the toy data set."""
    out = tmp_path_factory.mktemp("mtt") / "experts"
    da.train_experts(da.recipe("mtt", "toy", **SMALL), toy_split(), out=out, device="cpu")
    return out


def mtt(folder, **settings):
    return da.recipe("mtt", "toy", **{**SMALL, "experts": str(folder), **settings})


def pixels_of(folder, **settings):
    return da.distill(mtt(folder, **settings), toy_split(), device="cpu").synthetic.images


class TestStep:
    """The step against a student written out layer by layer, whose parameters are separate tensors."""

    normalization = Normalization((0.4,), (0.3,))

    def problem(self, steps=4, batch=5, factor=1):
        draws = torch.Generator().manual_seed(0)
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0).double()
        size = sum(parameter.numel() for parameter in network.parameters())
        start, target = (torch.randn(size, generator=draws, dtype=torch.float64) * 0.3 for _ in range(2))
        pixels = torch.rand(3, 2, 1, 8, 8, generator=draws, dtype=torch.float64)
        rows = torch.stack([torch.randperm(3 * 2 * factor**2, generator=draws)[:batch] for _ in range(steps)])
        return network, start, target, rows, pixels

    def plain(self, start, target, rows, pixels, alpha, augment="", factor=1):
        """The formula, with ConvNet-2 of width 4 written out."""
        shapes = [(4, 1, 3, 3), (4,), (4,), (4,), (4, 4, 3, 3), (4,), (4,), (4,), (3, 16), (3,)]
        sizes = [math.prod(shape) for shape in shapes]
        theta = [part.reshape(shape).requires_grad_() for part, shape in zip(start.split(sizes), shapes, strict=True)]
        names, draws = Augmentation(augment), generator(3, "student", "test")
        images = decode(pixels.flatten(0, 1), factor)
        labels = torch.arange(3).repeat_interleave(2 * factor**2)
        for batch in rows:
            x = (names(images[batch], draws) - 0.4) / 0.3
            for at in (0, 4):
                weight, bias, scale, shift = theta[at : at + 4]
                x = F.group_norm(F.conv2d(x, weight, bias, padding=1), 4, scale, shift)
                x = F.avg_pool2d(F.relu(x), 2)
            loss = F.cross_entropy(F.linear(x.flatten(1), theta[8], theta[9]), labels[batch])
            gradients = torch.autograd.grad(loss, theta, create_graph=True)
            theta = [p - alpha * g for p, g in zip(theta, gradients, strict=True)]
        moved = sum(((p - q.reshape(p.shape)) ** 2).sum() for p, q in zip(theta, target.split(sizes), strict=True))
        return moved / ((start - target) ** 2).sum()

    @pytest.mark.parametrize(("augment", "factor"), [("", 1), ("color_crop_flip_scale_rotate", 1), ("crop", 2)])
    def test_distance_and_derivatives_are_those_of_the_formula(self, augment, factor):
        network, start, target, rows, pixels = self.problem(factor=factor)
        step = TrajectoryStep(TrajectoryMatching(), augment, self.normalization, factor, CPU)
        step.restart(3, "test")
        log = torch.tensor(math.log(0.2), dtype=torch.float64)
        found = step(network, start, target, rows, pixels, log)

        leaf, alpha = pixels.clone().requires_grad_(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        expected = self.plain(start, target, rows, leaf, alpha, augment, factor)
        by_pixels, by_alpha = torch.autograd.grad(expected, [leaf, alpha])
        exact = {"rtol": 1e-6, "atol": 1e-12}
        torch.testing.assert_close(found.distance, expected.detach(), **exact)
        torch.testing.assert_close(found.pixels, by_pixels, **exact)
        torch.testing.assert_close(found.log_step_size, 0.2 * by_alpha, **exact)
        assert found.pixels.abs().max() > 1e-4
        assert found.log_step_size.abs() > 1e-4

    def test_derivatives_are_those_of_finite_differences(self):
        network, start, target, rows, pixels = self.problem(steps=3)
        step = TrajectoryStep(TrajectoryMatching(), "", self.normalization, 1, CPU)
        log, h = torch.tensor(math.log(0.1), dtype=torch.float64), 1e-5
        found = step(network, start, target, rows, pixels, log)
        ahead, behind = (step(network, start, target, rows, pixels, log + by).distance for by in (h, -h))
        assert float(found.log_step_size) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-5)
        direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        moved = [step(network, start, target, rows, pixels + by * direction, log).distance for by in (h, -h)]
        along = float((found.pixels * direction).sum())
        assert along == pytest.approx(float(moved[0] - moved[1]) / (2 * h), rel=1e-4)

    def test_a_student_that_does_not_move_has_distance_one_and_the_expert_zero(self):
        start, target = torch.rand(7), torch.rand(7)
        distance = TrajectoryMatching().distance
        assert float(distance(start, start, target)) == 1
        assert float(distance(target, start, target)) == 0

    def test_networks_parameters_are_left_as_they_are(self):
        network, start, target, rows, pixels = self.problem()
        before = [parameter.clone() for parameter in network.parameters()]
        TrajectoryStep(TrajectoryMatching(), "", self.normalization, 1, CPU)(
            network, start, target, rows, pixels, torch.zeros((), dtype=torch.float64)
        )
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


class TestStepSize:
    def test_is_sgd_with_momentum_on_the_logarithm(self):
        plain = torch.tensor(math.log(0.02), requires_grad=True)
        optimizer = torch.optim.SGD([plain], lr=1e-4 / 0.02**2, momentum=0.5)
        ours = StepSize(0.02, 1e-4, 0.5, CPU)
        for gradient in (0.3, -0.1, 0.7):
            plain.grad = torch.tensor(gradient)
            optimizer.step()
            ours.step(torch.tensor(gradient))
            torch.testing.assert_close(ours.logarithm, plain.detach())

    def test_first_step_is_the_published_one_to_first_order(self):
        """SGD on the step size itself: alpha - lr dL/dalpha."""
        ours = StepSize(0.01, 1e-7, 0.5, CPU)
        ours.step(torch.tensor(0.01 * 3.0))  # dL/ds = alpha dL/dalpha
        assert float(ours.logarithm.exp()) - 0.01 == pytest.approx(-1e-7 * 3.0, rel=0.05)

    def test_stays_positive_where_the_published_step_would_not(self):
        ours = StepSize(0.01, 1e-5, 0.5, CPU)
        for _ in range(50):
            ours.step(torch.tensor(10.0) * ours.logarithm.exp())
        assert 0.01 - 1e-5 * 10.0 * 150 < 0 < float(ours.logarithm.exp()) < 0.01


class TestRun:
    def test_moves_pixels_and_step_size_as_the_loop_of_the_paper(self, folder):
        """One outer iteration with ordinary optimisers of normalised images and of the logarithm."""
        settings, split = mtt(folder, synthetic_batch=4), toy_split()
        run = assemble_trajectories(settings, split, Experts(folder))
        start = run.pixels.pixels.clone()
        images = split.normalization(start).requires_grad_()
        log = torch.tensor(math.log(settings.student_lr), requires_grad=True)
        optimizers = [
            torch.optim.SGD([images], lr=settings.pixel_lr, momentum=0.5),
            torch.optim.SGD([log], lr=settings.student_lr_lr / settings.student_lr**2, momentum=0.5),
        ]
        noted = []
        read = run.experts.state
        run.experts.state = lambda number, epoch: noted.append((number, epoch)) or read(number, epoch)
        loss = float(run.outer_iteration(0))

        network = make_network("convnet", split.train.shape, 3, 4, 2, 0)
        order, labels = Rows(6, generator(0, "student rows", 0)), torch.arange(3).repeat_interleave(2)
        losses = []
        for (number, t), (same, after) in zip(noted[::2], noted[1::2], strict=True):
            assert (same, after) == (number, t + settings.expert_epochs)
            assert 0 <= t < settings.max_start_epoch
            begin, end = read(number, t), read(number, after)
            student = {name: tensor.clone().requires_grad_() for name, tensor in begin.items()}
            for _ in range(settings.synthetic_steps):
                rows = order.take(4)
                logits = torch.func.functional_call(network, student, (images.flatten(0, 1)[rows],))
                names, values = zip(*student.items(), strict=True)
                gradients = torch.autograd.grad(F.cross_entropy(logits, labels[rows]), values, create_graph=True)
                student = {n: v - log.exp() * g for n, v, g in zip(names, values, gradients, strict=True)}
            ends = sum((student[name] - end[name]).square().sum() for name in end)
            distance = ends / sum((begin[name] - end[name]).square().sum() for name in end)
            for optimizer in optimizers:
                optimizer.zero_grad()
            distance.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(float(distance.detach()))
        assert len(losses) == settings.inner_steps
        assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        moved = (split.normalization.inverse(images.detach()) - start).norm()
        assert moved > 1e-3
        assert (run.pixels.pixels - split.normalization.inverse(images.detach())).norm() < 1e-3 * moved
        torch.testing.assert_close(run.step_size.logarithm, log.detach(), rtol=0, atol=1e-5)

    def test_same_seed_same_bits_and_another_seed_others(self, folder):
        assert torch.equal(pixels_of(folder), pixels_of(folder))
        start = da.recipe("mtt", "toy").init
        assert start == "random"
        other = mtt(folder, init="noise")
        one, two = (da.distill(other, toy_split(), device="cpu").synthetic.images for _ in range(2))
        assert torch.equal(one, two)
        assert not torch.equal(one, pixels_of(folder))

    @pytest.mark.parametrize("settings", [{"init": "kmeans"}, {"factor": 2}, {"synthetic_batch": 1}], ids=str)
    def test_every_part_changes_the_pixels(self, folder, settings):
        found = pixels_of(folder, **settings)
        assert found.isfinite().all()
        assert not torch.equal(found, pixels_of(folder, **settings, iterations=0))

    def test_loss_falls(self, folder):
        result = da.distill(mtt(folder, iterations=6, inner_steps=6, pixel_lr=300), toy_split(), device="cpu")
        losses = [line.loss for line in result.history]
        assert losses[-1] < 0.8 * losses[0]

    def test_learned_step_size_is_in_history_result_and_files(self, folder, tmp_path):
        result = da.distill(mtt(folder), toy_split(), device="cpu")
        learned = [line.student_lr for line in result.history]
        assert len({0.01, *learned}) == 3
        assert result.student_lr == learned[-1]
        result.save(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["student_lr"] == learned[-1]
        assert da.load(tmp_path).student_lr == learned[-1]
        (tmp_path / "metrics.jsonl").unlink()
        assert da.load(tmp_path).student_lr == learned[-1]

    def test_a_run_that_continues_has_the_bits_of_one_that_was_not_broken(self, folder, tmp_path):
        settings, path = mtt(folder, iterations=4), tmp_path / "checkpoint.safetensors"
        whole = da.distill(settings, toy_split(), device="cpu")
        da.distill(replace(settings, iterations=2), toy_split(), device="cpu", checkpoint=path)
        resumed = da.distill(settings, toy_split(), device="cpu", checkpoint=path)
        assert torch.equal(whole.synthetic.images, resumed.synthetic.images)
        assert [line.student_lr for line in whole.history] == [line.student_lr for line in resumed.history]
        assert da.load(path).student_lr == whole.student_lr

    def test_an_iteration_that_is_broken_off_is_done_again_to_the_same_bits(self, folder):
        steps = iter(range(100))

        def stop_once():
            if next(steps) == 4:
                raise ValueError("stopped")

        run = Run(mtt(folder), toy_split())
        run.advance(stop_once)
        with pytest.raises(ValueError, match="stopped"):
            run.advance(stop_once)
        run.advance(stop_once)
        assert torch.equal(run.synthetic.images, pixels_of(folder))

    def test_experts_may_move_and_must_be_the_same(self, folder, tmp_path):
        path, moved = tmp_path / "checkpoint.safetensors", tmp_path / "moved"
        da.distill(mtt(folder, iterations=1), toy_split(), device="cpu", checkpoint=path)
        moved.mkdir()
        for file in folder.iterdir():
            (moved / file.name).write_bytes(file.read_bytes())
        result = da.distill(mtt(moved), toy_split(), device="cpu", checkpoint=path)
        assert torch.equal(result.synthetic.images, pixels_of(folder))
        message = refused(da.distill, mtt(moved, n_experts=1), toy_split(), device="cpu", checkpoint=path)
        assert "n_experts" in message
        (moved / "expert-0001.safetensors").unlink()
        message = refused(da.distill, mtt(moved), toy_split(), device="cpu", checkpoint=path)
        assert "belongs to a run on other experts" in message

    def test_nothing_waits_for_the_device_between_two_log_lines(self, folder):
        run = assemble_trajectories(mtt(folder, synthetic_augment="color_crop", factor=2), toy_split(), Experts(folder))
        run.outer_iteration(0)
        with no_host_round_trip():
            run.outer_iteration(1)

    def test_real_images_are_read_for_the_initialisation_alone(self, folder):
        split = toy_split()
        run = Run(mtt(folder), split)
        split.train.images.zero_()
        assert torch.equal(run.complete().synthetic.images, pixels_of(folder))

    def test_divergence_names_the_rate_that_the_method_has(self, folder):
        with pytest.raises(DivergenceError, match="lower pixel_lr or student_lr_lr") as caught:
            da.distill(mtt(folder, pixel_lr=1e38), toy_split(), device="cpu")
        assert caught.value.result.diverged

    def test_a_baseline_keeps_the_experts(self, folder):
        other = row_names(mtt(folder, init="kmeans"), "all")
        assert other[2:] == ["distilled from random initialisation", "distilled, MTT"]
        assert row_names(mtt(folder), "all")[2:] == ["distilled, MTT"]


class TestSettings:
    @pytest.mark.parametrize(
        ("dataset", "ipc", "expected"),
        [
            ("cifar10", 1, (50, 2, 2, 100, 1e-7, 0.01, 0)),
            ("cifar10", 10, (30, 2, 20, 100, 1e-5, 1e-3, 0)),
            ("cifar10", 50, (30, 2, 40, 1000, 1e-5, 1e-3, 0)),
            ("cifar100", 1, (20, 3, 20, 1000, 1e-5, 0.01, 0)),
            ("cifar100", 10, (20, 2, 20, 1000, 1e-5, 0.01, 0)),
            ("cifar100", 50, (80, 2, 40, 1000, 1e-5, 0.01, 125)),
            ("tiny-imagenet", 1, (10, 2, 10, 1e4, 1e-4, 0.01, 0)),
            ("tiny-imagenet", 10, (20, 2, 40, 1e4, 1e-4, 0.01, 200)),
            ("tiny-imagenet", 50, (20, 2, 40, 1e4, 1e-4, 0.01, 300)),
            ("fashion-mnist", 10, (20, 3, 25, 1000, 1e-5, 0.01, 0)),
        ],
    )
    def test_are_the_published_ones(self, dataset, ipc, expected):
        found = da.recipe("mtt", dataset, ipc=ipc)
        assert (
            *(found.synthetic_steps, found.expert_epochs, found.max_start_epoch),
            *(found.pixel_lr, found.student_lr_lr, found.student_lr, found.synthetic_batch),
        ) == expected
        assert (found.n_experts, found.trajectory_epochs, found.network_lr, found.network_batch) == (100, 50, 0.01, 256)
        assert (found.pixel_momentum, found.iterations * found.inner_steps, found.factor) == (0.5, 5000, 1)
        assert found.max_start_epoch - 1 + found.expert_epochs <= found.trajectory_epochs

    def test_page_has_the_settings_of_the_recipe(self):
        page = (Path(__file__).parents[1] / "docs" / "recipes" / "mtt.md").read_text()
        rows = re.findall(r"^\| `([\w-]+)`, (\d+) \| (.+) \| (?:yes|no) \|$", page, re.MULTILINE)
        assert len(rows) == 9
        for dataset, ipc, values in rows:
            found = da.recipe("mtt", dataset, ipc=int(ipc))
            shown = (found.synthetic_steps, found.expert_epochs, found.max_start_epoch)
            shown += (found.pixel_lr, found.student_lr_lr, found.student_lr, found.synthetic_batch)
            assert values == " | ".join(f"{value:g}" for value in shown)

    @pytest.mark.parametrize("setting", ["experts", "synthetic_steps", "student_lr", "max_start_epoch"])
    @pytest.mark.parametrize("name", sorted(set(RECIPES) - {"mtt"}))
    def test_of_trajectories_are_refused_by_other_recipes(self, name, setting):
        value = "folder" if setting == "experts" else 1
        message = refused(da.recipe, name, **{setting: value})
        assert message == f"recipe {name!r} does not use {setting}: leave it out, or choose mtt"

    @pytest.mark.parametrize("setting", ["metric", "match_augment", "network_images", "class_gradients"])
    def test_of_other_recipes_are_refused(self, setting):
        value = {"metric": "l1", "class_gradients": "loop", "match_augment": "crop"}.get(setting, 1)
        assert f"'mtt' does not use {setting}" in refused(da.recipe, "mtt", **{setting: value})


class TestRefusals:
    def refusal(self, recipe, split=None):
        return refused(da.distill, recipe, split or toy_split(), device="cpu")

    def test_no_experts(self):
        message = self.refusal(mtt(""))
        assert message.startswith("recipe 'mtt' matches the trajectories of experts, and experts names no folder")
        assert "dream-accel experts --out DIR" in message

    def test_a_folder_without_experts(self, tmp_path):
        assert "holds no experts (experts.json is missing)" in self.refusal(mtt(tmp_path))
        assert "holds no experts" in self.refusal(mtt(tmp_path / "missing"))

    @pytest.mark.parametrize(("setting", "ours"), [("width", 8), ("depth", 1)])
    def test_experts_of_another_network(self, folder, setting, ours):
        message = self.refusal(mtt(folder, **{setting: ours}))
        assert f"were trained with {setting} {SMALL[setting]}, and this run has {ours}" in message

    def test_experts_of_another_strategy(self, folder):
        message = self.refusal(mtt(folder, strategy="dream"))
        assert "were trained with strategy 'random', and this run has 'dream'" in message

    def test_experts_of_other_images(self, folder):
        split = toy_split()
        flipped = replace(split.train, images=split.train.images.flip(3).contiguous())
        assert "pixels or labels differ" in self.refusal(mtt(folder), DataSplit("other", flipped, flipped))
        assert "training images: 36 there and 30 here" in self.refusal(mtt(folder), toy_split(per_class=10))

    def test_experts_of_another_image_size(self, folder):
        message = self.refusal(mtt(folder), toy_split(side=12))
        assert "channels, height and width: 1, 8, 8 there and 1, 12, 12 here" in message

    def test_experts_of_other_class_names(self, folder):
        train = toy_split().train
        named = ImageSet(train.images, train.labels, 3, ("a", "b", "c"))
        assert "class names: 0, 1, 2 there and a, b, c here" in self.refusal(mtt(folder), DataSplit("n", named, named))

    def test_epochs_beyond_the_trajectories(self, folder):
        message = self.refusal(mtt(folder, max_start_epoch=4))
        assert message.startswith("max_start_epoch 4 and expert_epochs 2 reach epoch 5, and the experts in")
        assert "were trained for 4 epochs: lower one" in message
        assert "reach epoch 5" in self.refusal(mtt(folder, expert_epochs=3))


@pytest.mark.slow
def test_on_digits_the_loss_falls_and_the_set_ends_above_its_start(tmp_path):
    small = {"width": 8, "experts": str(tmp_path), "n_experts": 2, "eval_networks": 2, "eval_epochs": 100}
    small |= {"trajectory_epochs": 8, "max_start_epoch": 6, "iterations": 4}
    settings = da.recipe("mtt", "digits", **small)
    da.train_experts(settings, out=tmp_path, device="cpu")
    start = da.distill(replace(settings, iterations=0), device="cpu")
    result = da.distill(settings, device="cpu")
    assert result.history[-1].loss < result.history[0].loss
    assert da.evaluate(result, device="cpu").mean > da.evaluate(start, device="cpu").mean
