"""The loop: the pixel optimiser, network training, whole runs, checkpoints."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.refusals import refused
from support.round_trips import no_host_round_trip
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import dream_accel as da
from dream_accel.backends import _native, choose
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine import assembly
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distill import distill
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.splits import fingerprint, load_split
from dream_accel.engine.stored_run import Checkpoint, read_checkpoint
from dream_accel.errors import DivergenceError, DreamAccelWarning
from dream_accel.matching.gradients import GradientMatching
from dream_accel.matching.pixels import PixelSGD
from dream_accel.matching.step import MatchingStep
from dream_accel.networks import make_network
from dream_accel.networks.features import embed_rows
from dream_accel.networks.training import Rows, Trainer
from dream_accel.random import generator
from dream_accel.results import Progress
from dream_accel.runtime.devices import bf16_supported
from dream_accel.synthetic import decode

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def toy_split(per_class: int = 12, n_classes: int = 3, side: int = 8) -> DataSplit:
    """Noise around a grey level of its own for every class; training set and test set alike."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=draws)]
    level = 40 + 170 * labels.view(-1, 1, 1, 1) // max(n_classes - 1, 1)
    images = (level + torch.randint(-40, 41, (len(labels), 1, side, side), generator=draws)).clamp(0, 255)
    one = ImageSet.from_arrays(images.to(torch.uint8), labels, n_classes)
    return DataSplit("toy", one, one)


def toy_recipe(**settings):
    small = {
        "ipc": 2,
        "factor": 1,
        "clusters": 4,
        "interval": 2,
        "iterations": 2,
        "inner_steps": 3,
        "width": 4,
        "depth": 2,
        "network_images": 8,
        "network_batch": 5,
        "pixel_lr": 0.5,
    }
    if settings.get("strategy") == "random":
        del small["interval"]
    plus = {"feature_weight", "pretrain_epochs"} & set(settings)
    return da.recipe("dream+" if plus else "dream", "toy", **{**small, **dict.fromkeys(plus, 0), **settings})


class TestPixelSGD:
    gradients = torch.randn(6, 4, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.rand(4, 2, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    def test_per_class_gives_what_one_optimiser_stepping_after_each_class_gives(self, momentum):
        """The published loop, literally; a class's pixels are compared where the class has its turn."""
        sequential = self.start.clone().requires_grad_()
        optimizer = torch.optim.SGD([sequential], lr=0.1, momentum=momentum)
        ours = PixelSGD(self.start.clone(), 0.1, momentum, "per_class")
        for gradients in self.gradients:
            at_its_turn = torch.empty_like(self.start)
            for c in range(len(self.start)):
                at_its_turn[c] = sequential.detach()[c]
                sequential.grad = torch.zeros_like(sequential)
                sequential.grad[c] = gradients[c]
                optimizer.step()
            torch.testing.assert_close(ours.pixels, at_its_turn)
            ours.step(gradients)

    @pytest.mark.parametrize("momentum", [0.0, 0.5])
    def test_joint_is_plain_sgd(self, momentum):
        plain = self.start.clone().requires_grad_()
        optimizer = torch.optim.SGD([plain], lr=0.1, momentum=momentum)
        ours = PixelSGD(self.start.clone(), 0.1, momentum, "joint")
        for gradients in self.gradients:
            plain.grad = gradients.clone()
            optimizer.step()
            ours.step(gradients)
            torch.testing.assert_close(ours.pixels, plain.detach())

    def test_one_class_makes_no_difference_between_the_sweeps(self):
        steps = [PixelSGD(self.start[:1].clone(), 0.1, 0.5, sweep) for sweep in ("per_class", "joint")]
        for pixels in steps:
            pixels.step(self.gradients[0, :1])
        assert torch.equal(steps[0].pixels, steps[1].pixels)

    def test_clamp_keeps_pixels_in_range_in_place(self):
        pixels = torch.tensor([-1.0, 0.25, 2.0])
        PixelSGD(pixels, 1, 0).clamp()
        assert pixels.tolist() == [0, 0.25, 1]


class TestRows:
    def test_every_row_comes_once_before_any_comes_again(self):
        rows = Rows(10, generator(0, "test"))
        seen = torch.cat([rows.take(count) for count in (3, 3, 3, 3, 8)])
        assert sorted(seen[:10].tolist()) == list(range(10))
        assert sorted(seen[10:].tolist()) == list(range(10))
        assert seen[:10].tolist() != seen[10:].tolist()

    def test_batches_hold_the_count_asked_for(self):
        rows = Rows(4, generator(0, "test"))
        assert [len(batch) for batch in rows.batches(10, 4)] == [4, 4, 2]
        assert list(rows.batches(0, 4)) == []

    def test_more_rows_than_there_are_in_one_take(self):
        counts = torch.bincount(Rows(3, generator(0, "test")).take(9))
        assert counts.tolist() == [3, 3, 3]


class TestTrainer:
    def test_without_augmentation_it_is_plain_sgd(self):
        images, labels = torch.rand(3, 6, 1, 8, 8), torch.randint(0, 3, (3, 6))
        ours, plain = (make_network("convnet", (1, 8, 8), 3, 4, 2, 0) for _ in range(2))
        trainer = Trainer(
            ours,
            lambda x: x * 2 - 1,
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            augment="",
            cutmix_probability=0.0,
            device=CPU,
            seed=0,
            keys=(),
        )
        velocity = [torch.zeros_like(p) for p in plain.parameters()]
        for batch, targets in zip(images, labels, strict=True):
            loss = nn.functional.cross_entropy(plain(batch * 2 - 1), targets)
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            with torch.no_grad():
                for p, v, g in zip(plain.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(g + 5e-4 * p)
                    p.sub_(0.1 * v)
            found = trainer.step(batch, targets)
            torch.testing.assert_close(found, loss.detach())
            assert not found.requires_grad
        for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q)

    def test_cutmix_weighs_the_two_losses_by_area(self, monkeypatch):
        images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 1])
        partners, weight = torch.tensor([1, 0, 1, 2]), torch.tensor(0.3)
        monkeypatch.setattr("dream_accel.networks.training.cutmix", lambda *_: (images, partners, weight))
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0)
        logits = network(images).log_softmax(1)
        expected = sum(-(0.3 * logits[i, labels[i]] + 0.7 * logits[i, partners[i]]) / 4 for i in range(4)).detach()
        settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "augment": "", "cutmix_probability": 1.0}
        trainer = Trainer(network, lambda x: x, **settings, device=CPU, seed=0, keys=())
        torch.testing.assert_close(trainer.step(images, labels), expected)


class Seen(GradientMatching):
    """Keeps the images it is given, (real, synthetic) per call."""

    def target(self, network, real, classes, gradients):
        self.__dict__.setdefault("sides", []).append([real])
        return super().target(network, real, classes, gradients)

    def match(self, network, target, synthetic, classes, gradients):
        self.sides[-1].append(synthetic)
        return super().match(network, target, synthetic, classes, gradients)


class TestMatchingStep:
    def step(self, **settings) -> tuple[MatchingStep, dict]:
        options = {"augment": "", "normalize": lambda x: x * 2 - 1, "factor": 1, "max_synthetic": 128, **settings}
        matching = MatchingStep(Seen(), **options, classes=range(3), device=CPU)
        matching.restart(0)
        draws = torch.Generator().manual_seed(3)
        given = {
            "network": make_network("convnet", (1, 8, 8), 3, 4, 2, 0),
            "images": torch.randint(0, 256, (20, 1, 8, 8), generator=draws, dtype=torch.uint8),
            "indices": torch.randint(0, 20, (3, 5), generator=draws),
            "pixels": torch.rand(3, 2, 1, 8, 8, generator=draws),
        }
        return matching, given

    @pytest.mark.parametrize("factor", [1, 2])
    def test_gradient_of_every_class_is_that_of_the_summed_distance(self, factor):
        matching, given = self.step(factor=factor)
        distances, gradient = matching(**given)
        pixels = given["pixels"].clone().requires_grad_()
        network, total = given["network"], torch.zeros(())
        for c in range(3):
            sides = [given["images"][given["indices"][c]].float() / 255, decode(pixels[c], factor)]
            weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
            g_real, g_synthetic = (
                torch.autograd.grad(
                    nn.functional.cross_entropy(network(x * 2 - 1), torch.full((len(x),), c)),
                    weights,
                    create_graph=True,
                )
                for x in sides
            )
            own = sum((a.detach() - b).square().sum() for a, b in zip(g_real, g_synthetic, strict=True))
            torch.testing.assert_close(distances[c], own.detach(), rtol=1e-4, atol=1e-6)
            total = total + own
        (expected,) = torch.autograd.grad(total, pixels)
        assert gradient.shape == pixels.shape
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)

    def test_at_most_max_synthetic_decoded_images_are_seen(self):
        matching, given = self.step(factor=2, max_synthetic=3)
        matching(**given)
        assert [len(synthetic) for _, synthetic in matching.objective.sides] == [3, 3, 3]

    def test_real_and_synthetic_images_of_a_class_share_one_draw_and_classes_do_not(self):
        matching, given = self.step(augment="crop_cutout_flip")
        given["images"][:] = 255
        given["pixels"][:] = 1
        matching(**given)
        seen = matching.objective.sides
        for real, synthetic in seen:
            assert torch.equal(real[:1], synthetic[:1].detach())
            assert (real == real[:1]).all()
        assert not torch.equal(seen[0][0], seen[1][0])


def pixels_of(**settings) -> torch.Tensor:
    return distill(toy_recipe(**settings), toy_split(), device="cpu").synthetic.images


class TestDistill:
    def test_same_seed_same_pixels_bit_for_bit_and_another_seed_others(self):
        state = torch.get_rng_state()
        first = pixels_of(seed=3)
        torch.manual_seed(99)
        assert torch.equal(pixels_of(seed=3), first)
        assert not torch.equal(pixels_of(seed=4), first)
        torch.set_rng_state(state)

    def test_the_global_random_stream_does_not_notice(self):
        state = torch.get_rng_state()
        pixels_of(iterations=1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_number_of_threads_does_not_show_in_the_clustering(self):
        """In later iterations it may: oneDNN's convolution gradients depend on it in the last bit."""
        start, moved = pixels_of(iterations=0), pixels_of(iterations=1, inner_steps=1)
        torch.set_num_threads(2)
        assert torch.equal(pixels_of(iterations=0), start)
        torch.testing.assert_close(pixels_of(iterations=1, inner_steps=1), moved, rtol=0, atol=1e-4)

    def test_pixels_move_stay_in_range_and_come_back_on_the_cpu(self):
        start, moved = pixels_of(iterations=0), pixels_of(pixel_lr=50.0)
        assert not torch.equal(start, moved)
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert moved.device == CPU
        assert not moved.requires_grad

    @pytest.mark.slow
    def test_matching_brings_the_gradients_together(self):
        """From noise, with one network kept: the distance must fall."""
        settings = toy_recipe(init="noise", network_images=0, inner_steps=15, pixel_lr=0.2, match_augment="")
        distiller = assemble(settings, toy_split())
        losses = [float(distiller.outer_iteration(0)) for _ in range(6)]
        assert losses[-1] < 0.7 * losses[0]

    @pytest.mark.parametrize(("strategy", "refreshes"), [("dream", [0, 2, 4]), ("random", [0, 1, 2, 3, 4])])
    def test_every_outer_iteration_has_its_own_network_and_picks_renewed_at_the_interval(self, strategy, refreshes):
        distiller = assemble(toy_recipe(strategy=strategy, inner_steps=5), toy_split())
        refresh, networks, picks, steps = distiller.sampler._refresh, [], [], []

        def watch(network, drawn):
            refresh(network, drawn)
            networks.append([parameter.clone() for parameter in network.parameters()])
            picks.append(distiller.sampler.indices)
            steps.append(distiller.sampler._step)

        distiller.sampler._refresh = watch
        for iteration in range(2):
            distiller.outer_iteration(iteration)
        assert steps == refreshes * 2
        assert not torch.equal(networks[0][0], networks[len(refreshes)][0])
        assert not torch.equal(networks[0][0], networks[1][0])
        assert not torch.equal(picks[0], picks[len(refreshes)])
        assert all((toy_split().train.labels[rows] == torch.arange(3).unsqueeze(1)).all() for rows in picks)

    def test_a_refresh_embeds_some_images_of_a_class_or_all_if_it_has_no_more(self, monkeypatch):
        read = []

        def watch(images, rows, *others):
            read.append(rows)
            return embed_rows(images, rows, *others)

        monkeypatch.setattr(assembly, "embed_rows", watch)
        assemble(toy_recipe(init="random", refresh_images=6), toy_split()).outer_iteration(0)
        assert len(read) == 2
        for rows in read:
            assert rows.unique().numel() == 18
            assert toy_split().train.labels[rows].bincount().tolist() == [6, 6, 6]
        assert read[0].tolist() != read[1].tolist()
        assert torch.equal(pixels_of(refresh_images=12), pixels_of())
        assert not torch.equal(pixels_of(refresh_images=6), pixels_of())

    def test_history_has_a_line_per_outer_iteration(self):
        seen, ticks = [], []
        result = distill(
            toy_recipe(iterations=3),
            toy_split(),
            device="cpu",
            on_iteration=seen.append,
            on_step=lambda: ticks.append(1),
        )
        assert seen == result.history
        assert [(line.iteration, line.step) for line in seen] == [(1, 3), (2, 6), (3, 9)]
        assert [line.seconds for line in seen] == sorted(line.seconds for line in seen)
        # 3 steps of 3 classes x 4 real images matched and 8 trained on.
        assert seen[0].images_per_second == pytest.approx(60 / seen[0].seconds)
        assert seen[2].images_per_second == pytest.approx(60 / (seen[2].seconds - seen[1].seconds))
        assert all(line.loss > 0 for line in seen)
        assert len(ticks) == 9
        assert not result.interrupted

    def test_the_recipe_of_the_result_names_the_depth_used(self):
        result = distill(toy_recipe(depth=0, iterations=0), toy_split(), device="cpu")
        assert result.recipe.depth == 1
        assert result.class_names == ("0", "1", "2")
        assert result.normalization == toy_split().normalization

    @pytest.mark.parametrize(
        "settings",
        [
            {"factor": 2},
            {"factor": 3, "init": "mix"},
            {"metric": "l1", "layers": "all"},
            {"metric": "cos", "layers": "weights", "pixel_sweep": "joint"},
            {"strategy": "random", "init": "noise"},
            {"strategy": "central", "per_cluster": 2},
            {"strategy": "boundary", "train_augment": "", "cutmix": 1.0},
            {"feature_weight": 1.0, "pretrain_epochs": 1},
            {"max_synthetic": 3, "factor": 2, "network_images": 0},
            {"refresh_images": 6},
        ],
        ids=str,
    )
    def test_every_part_of_a_recipe_runs_and_changes_the_pixels(self, settings):
        found = pixels_of(iterations=1, **settings)
        assert found.isfinite().all()
        assert not torch.equal(found, pixels_of(iterations=0, **settings))

    def test_the_test_set_is_never_looked_at(self):
        class Untouchable(ImageSet):
            def _refuse(self, *args):
                raise AssertionError("the test set was read")

            batch = take = by_class = class_counts = _rows = _refuse

        train = toy_split().train
        garbage = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
        test = Untouchable(garbage, torch.zeros(5, dtype=torch.int64), 3, train.class_names)
        found = distill(toy_recipe(), DataSplit("toy", train, test), device="cpu").synthetic.images
        assert torch.equal(found, pixels_of())

    def test_a_class_smaller_than_its_clusters_is_said_once_and_runs(self):
        with pytest.warns(DreamAccelWarning, match="fewer images than the 20 clusters") as said:
            found = pixels_of(clusters=20, iterations=1)
        assert len(said) == 1
        assert found.isfinite().all()

    def test_a_data_set_can_be_named_and_cut_to_a_seeded_subset(self):
        settings = da.recipe("dream", "digits", limit_train=40, seed=1)
        split = load_split(settings, CPU)
        assert len(split.train) == 40
        assert split.train.class_counts().tolist() == [4] * 10
        assert len(split.test) == 500
        assert torch.equal(load_split(settings, CPU).train.images, split.train.images)
        other = load_split(replace(settings, seed=2), CPU)
        assert not torch.equal(other.train.images, split.train.images)
        assert load_split(replace(settings, size=16), CPU).train.shape == (1, 16, 16)

    def test_bad_settings_are_refused_before_anything_is_drawn(self):
        assert "factor is 9 for 8x8 images" in refused(distill, toy_recipe(factor=9), toy_split(), device="cpu")
        assert "unknown data set 'toy'" in refused(distill, toy_recipe(), device="cpu")
        assert "'tpu'" in refused(distill, toy_recipe(), toy_split(), device="tpu")

    def test_bf16_on_a_processor_without_it_is_refused(self, monkeypatch):
        monkeypatch.setattr("dream_accel.engine.compute.bf16_supported", lambda device: False)
        message = refused(distill, toy_recipe(bf16=True), toy_split(), device="cpu")
        assert "leave bf16 off" in message

    @pytest.mark.skipif(not bf16_supported(CPU), reason="the processor has no bfloat16")
    def test_bf16_moves_the_pixels_about_the_same(self):
        exact, rounded = pixels_of(iterations=1), pixels_of(iterations=1, bf16=True)
        assert not torch.equal(exact, rounded)
        torch.testing.assert_close(exact, rounded, rtol=0, atol=0.1)

    def test_channels_last_is_a_layout_and_no_more(self):
        settings = {"iterations": 1, "strategy": "random"}
        torch.testing.assert_close(pixels_of(channels_last=True, **settings), pixels_of(**settings), rtol=0, atol=1e-4)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
    def test_cuda_where_there_is_none_is_refused_with_what_there_is(self):
        message = refused(distill, toy_recipe(), toy_split(), device="cuda")
        assert message.startswith("device 'cuda' cannot be used here")
        assert message.endswith("choose one of cpu")

    def test_a_network_that_diverges_is_refused(self):
        assert "lower its learning rate" in refused(
            distill, toy_recipe(network_lr=1e30, inner_steps=6), toy_split(), device="cpu"
        )

    def test_pixels_that_diverge_are_refused(self):
        message = refused(distill, toy_recipe(pixel_lr=1e38, inner_steps=8), toy_split(), device="cpu")
        assert "pixels hold NaN or Inf" in message

    @pytest.mark.parametrize("what", ["pixels", "loss"])
    def test_divergence_leaves_the_result_of_the_last_finite_iteration(self, what, tmp_path, monkeypatch):
        """mtt#6, ssnl#11: NaN after 18 of 25 iterations: what was good was discarded."""
        iteration = Distiller.outer_iteration

        def diverging(self, number, on_step):
            loss = iteration(self, number, on_step)
            if number == 2 and self.recipe.pixel_lr == 0.5:
                if what == "loss":
                    return loss * float("inf")
                self.pixels.pixels[0, 0, 0, 0, 0] = float("nan")
            return loss

        monkeypatch.setattr(Distiller, "outer_iteration", diverging)
        path = tmp_path / "checkpoint.safetensors"
        with pytest.raises(DivergenceError, match="lower pixel_lr or network_lr") as caught:
            distill(toy_recipe(iterations=4), toy_split(), device="cpu", checkpoint=path)
        result = caught.value.result
        assert result.diverged
        assert len(result.history) == 2
        assert torch.equal(result.synthetic.images, pixels_of(iterations=2))
        assert da.load(result.save(tmp_path / "run")).diverged
        assert da.load(path).diverged
        again = distill(toy_recipe(iterations=4, pixel_lr=0.25), toy_split(), device="cpu", checkpoint=path)
        assert len(again.history) == 4
        assert not again.diverged
        assert not da.load(path).diverged

    def test_own_data_are_resized_and_subsampled_as_the_recipe_says(self):
        """distill(recipe(limit_train=50, size=4), data): both were ignored, yet recorded in the result."""
        settings = toy_recipe(limit_train=9, size=4, depth=1, clusters=2)
        result = distill(settings, toy_split(), device="cpu")
        assert result.images.shape == (6, 1, 4, 4)
        assert result.data["images"] == 9
        expected = load_split(settings, CPU, data=toy_split())
        assert torch.equal(
            result.images, distill(replace(settings, limit_train=0, size=0), expected, device="cpu").images
        )
        assert "a subset of 99 images" in refused(distill, toy_recipe(limit_train=99), toy_split(), device="cpu")


class _LookInside(TorchDispatchMode):
    """Calls the backend of our operators where an outer mode sees it; PyTorch would run it out of its sight."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "dream_accel":
            return func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seen.add(name)
        named = kwargs or {}
        rest = [named.get(argument.name, argument.default_value) for argument in func._schema.arguments[len(args) :]]
        return getattr(choose(name, *args, *rest), name)(*args, *rest)


@pytest.mark.skipif(
    _native.load() is None or os.environ.get("DREAM_ACCEL_BACKEND") == "reference",
    reason="no compiled backend: the reference may ask the device",
)
@pytest.mark.parametrize(
    ("strategy", "way"),
    [(name, "loop") for name in ("dream", "random", "central", "boundary")] + [("dream", "vmap"), ("dream", "capture")],
)
def test_nothing_waits_for_the_device_between_two_log_lines(strategy, way):
    settings = toy_recipe(
        strategy=strategy,
        class_gradients=way,
        factor=2,
        max_synthetic=3,
        feature_weight=1.0,
        pretrain_epochs=1,
        cutmix=0.5,
    )
    distiller = assemble(settings, toy_split())
    distiller.outer_iteration(0)
    with no_host_round_trip(), _LookInside() as inside:
        distiller.outer_iteration(1)
    expected = {
        "dream": {"kmeans_iterate", "nearest_members"},
        "central": {"kmeans_assign", "kmeans_update"},
        "boundary": {"kmeans_assign", "kmeans_update"},
        "random": set(),
    }
    assert inside.seen == expected[strategy] | {"gradient_distance", "feature_distance"}


class TestInterruption:
    def interrupt(self, at_step: int, path: Path | None = None, **settings):
        """A run that Ctrl-C reaches in the middle of an outer iteration."""
        steps = iter(range(1, 10**6))

        def on_step():
            if next(steps) == at_step:
                raise KeyboardInterrupt

        return distill(
            toy_recipe(iterations=3, **settings), toy_split(), device="cpu", checkpoint=path, on_step=on_step
        )

    def test_leaves_the_result_of_the_iterations_completed(self):
        result = self.interrupt(8)
        assert result.interrupted
        assert len(result.history) == 2
        assert torch.equal(result.synthetic.images, pixels_of(iterations=2))

    def test_in_the_first_iteration_leaves_the_start(self):
        result = self.interrupt(1)
        assert result.interrupted
        assert result.history == []
        assert torch.equal(result.synthetic.images, pixels_of(iterations=0))

    @pytest.mark.parametrize("at_step", [1, 5, 9])
    def test_continued_from_its_checkpoint_it_ends_with_the_same_bits(self, tmp_path, at_step):
        path = tmp_path / "checkpoint.safetensors"
        assert self.interrupt(at_step, path).interrupted
        done = (at_step - 1) // 3
        ticks = []
        result = distill(
            toy_recipe(iterations=3), toy_split(), device="cpu", checkpoint=path, on_step=lambda: ticks.append(1)
        )
        assert torch.equal(result.synthetic.images, pixels_of(iterations=3))
        assert [line.iteration for line in result.history] == [1, 2, 3]
        assert len(ticks) == 3 * (3 - done)
        assert not result.interrupted


class TestCheckpoint:
    def run(self, path: Path, every: float = 60.0, **settings):
        recipe = toy_recipe(**settings)
        return distill(recipe, toy_split(), device="cpu", checkpoint=path, checkpoint_every=every)

    def test_a_finished_run_can_be_made_longer(self, tmp_path):
        path = tmp_path / "new folder" / "checkpoint.safetensors"
        self.run(path, iterations=1)
        assert torch.equal(self.run(path, iterations=3).synthetic.images, pixels_of(iterations=3))

    def test_evaluation_settings_may_change(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path)
        assert self.run(path, eval_epochs=7, eval_networks=9, eval_batch=3).recipe.eval_epochs == 7

    def test_it_is_written_while_the_run_goes_on(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        counts = []

        def look(line: Progress) -> None:
            counts.append(len(read_checkpoint(path).state.history))

        recipe, split = toy_recipe(), toy_split()
        distill(recipe, split, device="cpu", checkpoint=path, checkpoint_every=0, on_iteration=look)
        assert counts == [1, 2]

    @pytest.mark.parametrize(
        ("setting", "value"), [("seed", 5), ("ipc", 3), ("strategy", "random"), ("metric", "l1"), ("dataset", "else")]
    )
    def test_a_run_with_other_settings_is_refused(self, tmp_path, setting, value):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        settings = replace(toy_recipe(), **{setting: value})
        split = replace(toy_split(), name=settings.dataset)
        message = refused(distill, settings, split, device="cpu", checkpoint=path)
        assert f"belongs to a run with {setting} {getattr(toy_recipe(), setting)!r}, not {value!r}" in message

    @pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "foreign"])
    def test_a_damaged_or_foreign_file_is_refused(self, tmp_path, content):
        path = tmp_path / "checkpoint.safetensors"
        if content is None:
            save_file({"weight": torch.zeros(2)}, path)
        else:
            path.write_bytes(content)
        assert f"{path} cannot be read as a checkpoint" in refused(
            distill, toy_recipe(), toy_split(), device="cpu", checkpoint=path
        )

    def test_pixels_of_another_data_set_are_refused(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        other = toy_split(n_classes=2)
        assert str(path) in refused(distill, toy_recipe(), other, device="cpu", checkpoint=path)

    def test_other_data_are_refused_by_their_fingerprint(self, tmp_path):
        """A run continued on other data: two class folders swapped and images added, accepted without a word."""
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        train = toy_split().train
        names = replace(train, class_names=("b", "a", "c"))
        swapped = replace(train, labels=(3 - train.labels) % 3)
        pixel = train.images.clone()
        pixel[5, 0, 0, 0] ^= 1
        for other, expected in (
            (train.take(range(30)), "training images: 36 there and 30 here"),
            (names, "class names: 0, 1, 2 there and b, a, c here"),
            (swapped, "pixels or labels differ"),
            (replace(train, images=pixel), "pixels or labels differ"),
        ):
            split = DataSplit("toy", other, other)
            message = refused(distill, toy_recipe(), split, device="cpu", checkpoint=path)
            assert f"{path} belongs to a run on other data ({expected})" in message

    def test_a_fingerprint_samples_many_images_and_reads_all_labels(self):
        images = torch.randint(0, 256, (2000, 1, 4, 4), dtype=torch.uint8)
        train = ImageSet.from_arrays(images, torch.arange(2000) % 2)
        assert fingerprint(train) == fingerprint(train) == json.loads(json.dumps(fingerprint(train)))
        flipped = train.labels.clone()
        flipped[1234] ^= 1
        assert fingerprint(replace(train, labels=flipped)) != fingerprint(train)
        seen = 0
        for row in range(0, 2000, 40):
            changed = images.clone()
            changed[row] ^= 1
            seen += fingerprint(replace(train, images=changed)) != fingerprint(train)
        assert 4 < seen < 25  # a quarter of the images are read

    def test_a_checkpoint_without_a_fingerprint_is_continued_with_a_note(self, tmp_path):
        from safetensors import safe_open

        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        with safe_open(path, framework="pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in ("pixels", "velocity")}
        header.pop("origin")
        save_file(tensors, path, metadata=header)
        assert da.load(path).class_names == ("0", "1", "2")
        assert da.load(path).normalization is None
        with pytest.warns(DreamAccelWarning, match="did not record the data"):
            result = self.run(path)
        assert torch.equal(result.synthetic.images, pixels_of())
        assert read_checkpoint(path).origin.data == fingerprint(toy_split().train)

    def test_another_machine_may_have_other_budgets(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        result = distill(toy_recipe(image_memory=1.0, image_disk=2.0), toy_split(), device="cpu", checkpoint=path)
        assert torch.equal(result.synthetic.images, pixels_of())

    def test_rates_may_change_and_the_result_says_so(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=1)
        result = self.run(path, iterations=2, pixel_lr=0.125)
        assert result.changes == [{"after_iteration": 1, "changed": {"iterations": [1, 2], "pixel_lr": [0.5, 0.125]}}]
        assert not torch.equal(result.synthetic.images, pixels_of(iterations=2))
        assert da.load(result.save(tmp_path / "run")).changes == result.changes

    def test_fewer_iterations_than_are_completed_are_refused(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        self.run(path, iterations=2)
        message = refused(self.run, path, iterations=1)
        assert message.endswith("has completed 2 iterations, and iterations is 1: ask for at least 2")

    def test_it_can_be_loaded_as_a_result(self, tmp_path):
        """mtt#6, ssnl#11: a checkpoint was "of no known family"."""
        path = tmp_path / "checkpoint.safetensors"
        result = self.run(path)
        for place in (path, tmp_path):
            found = da.load(place)
            assert torch.equal(found.images, result.images)
            assert (found.recipe, found.normalization) == (result.recipe, result.normalization)
            assert (found.class_names, found.history) == (result.class_names, result.history)
            assert (found.interrupted, found.diverged, found.data) == (False, False, result.data)

    def test_a_disk_that_is_full_at_the_beginning_is_found_before_any_work(self, tmp_path, monkeypatch):
        """SimpleTuner#2353."""

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Checkpoint, "save", full)
        steps = []
        message = refused(
            distill,
            toy_recipe(),
            toy_split(),
            device="cpu",
            checkpoint=tmp_path / "x.safetensors",
            on_step=lambda: steps.append(1),
        )
        assert "x.safetensors cannot be written (No space left on device)" in message
        assert steps == []

    def test_a_disk_that_fills_up_later_costs_no_iteration(self, tmp_path, monkeypatch):
        """SimpleTuner#2353."""
        save, times = Checkpoint.save, iter(range(10))

        def full(self, *args):
            if next(times) > 0:
                raise OSError(28, "No space left on device")
            save(self, *args)

        monkeypatch.setattr(Checkpoint, "save", full)
        with pytest.warns(DreamAccelWarning, match="No space left"):
            result = self.run(tmp_path / "x.safetensors", every=0)
        assert torch.equal(result.synthetic.images, pixels_of())

    def test_it_holds_the_last_iteration_after_an_error_of_the_caller(self, tmp_path):
        def fail(line: Progress) -> None:
            raise RuntimeError("of the caller")

        path = tmp_path / "checkpoint.safetensors"
        with pytest.raises(RuntimeError, match="of the caller"):
            distill(toy_recipe(), toy_split(), device="cpu", checkpoint=path, on_iteration=fail)
        assert len(read_checkpoint(path).state.history) == 1

    def test_the_header_is_json_that_others_can_read(self, tmp_path):
        from safetensors import safe_open

        path = tmp_path / "checkpoint.safetensors"
        self.run(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        assert json.loads(header["recipe"])["ipc"] == 2
        assert len(json.loads(header["history"])) == 2
        # The other is the one that was written before the first iteration.
        assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "checkpoint.previous.safetensors"}
