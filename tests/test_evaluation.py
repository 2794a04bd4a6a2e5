"""Networks trained on a distilled set and tested on real images; the baselines."""

import statistics
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine.distill import distill
from dream_accel.engine.selection import select_real
from dream_accel.evaluation import (
    CONTESTANTS,
    GROUPS,
    Evaluation,
    Protocol,
    baselines,
    check_baselines,
    compare,
    evaluate,
    evaluate_images,
    row_names,
)
from dream_accel.evaluation import protocol as protocol_module
from dream_accel.networks.training import Trainer
from dream_accel.results import Result
from dream_accel.sampling.selection import SELECTION_NAMES
from dream_accel.synthetic import INITS, SyntheticSet

pytestmark = pytest.mark.usefixtures("one_thread")


def stripes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that no one confuses: horizontal, vertical, diagonal stripes, with noise."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    i, j = torch.arange(8).view(8, 1), torch.arange(8)
    patterns = torch.stack([(i % 2).expand(8, 8), (j % 2).expand(8, 8), ((i + j) // 2 % 2)]).float()
    images = 0.2 + 0.6 * patterns[labels] + 0.2 * (torch.rand(n, 8, 8, generator=draws) - 0.5)
    return (images.unsqueeze(1) * 255).to(torch.uint8), labels


def stripe_split(n_test: int = 90) -> DataSplit:
    return DataSplit(
        "stripes", ImageSet.from_arrays(*stripes(30, 0), layout="nchw"), ImageSet.from_arrays(*stripes(n_test, 1))
    )


FAST = Protocol(width=8, depth=2, networks=2, epochs=15, batch=10, augment="", cutmix=0.0)


def a_result(split: DataSplit, factor: int = 1, **settings) -> Result:
    small = {
        "ipc": 10,
        "factor": factor,
        "width": 8,
        "depth": 2,
        "eval_networks": 2,
        "eval_epochs": 15,
        "eval_batch": 10,
    }
    recipe = da.recipe("dream", "stripes", **{**small, "train_augment": "", "cutmix": 0.0, **settings})
    order, _ = split.train.by_class()
    images = split.train.batch(order).view(3, 10, 1, 8, 8)
    return Result(SyntheticSet(images, factor), recipe, split.normalization, split.train.class_names)


class TestAccuracy:
    def test_is_nearly_perfect_where_classes_are_plain(self):
        split = stripe_split()
        found = evaluate(a_result(split), split, device="cpu")
        assert len(found.accuracies) == 2
        assert min(found.accuracies) > 97

    def test_is_chance_where_labels_mean_nothing(self):
        draws = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (900, 1, 8, 8), generator=draws, dtype=torch.uint8)
        test = ImageSet.from_arrays(noise, torch.arange(900) % 3)
        images = torch.rand(30, 1, 8, 8, generator=draws)
        normalization = stripe_split().normalization
        found = evaluate_images(images, torch.arange(30) % 3, test, normalization, replace(FAST, networks=3))
        assert 100 / 3 - 6 < found.mean < 100 / 3 + 6

    def test_is_that_of_the_last_epoch_on_the_whole_test_set(self, monkeypatch):
        """The chunks in which the test set is read do not show, and the share is exact."""
        split = stripe_split(91)
        networks = []

        def remember(network, test, normalization):
            networks.append(network)
            return accuracy(network, test, normalization)

        accuracy = protocol_module._accuracy
        monkeypatch.setattr(protocol_module, "_accuracy", remember)
        monkeypatch.setattr(protocol_module, "images_at_a_time", lambda device: 7)
        train = split.train.batch(torch.arange(30))
        found = evaluate_images(train, split.train.labels, split.test, split.normalization, replace(FAST, epochs=2))
        for network, percent in zip(networks, found.accuracies, strict=True):
            predicted = network(split.normalization(split.test.batch(torch.arange(91)))).argmax(1)
            assert percent == pytest.approx(100 * float((predicted == split.test.labels).double().mean()))
        assert len(networks) == 2

    def test_networks_train_on_the_decoded_set(self, monkeypatch):
        split = stripe_split()
        seen = []

        def watch(images, labels, *args, **kwargs):
            seen.append((images, labels))
            return Evaluation((0.0,), FAST)

        monkeypatch.setattr(protocol_module, "evaluate_images", watch)
        result = a_result(split, factor=2)
        evaluate(result, split, device="cpu")
        images, labels = result.synthetic.decode()
        assert len(images) == 4 * 30
        assert torch.equal(seen[0][0], images)
        assert torch.equal(seen[0][1], labels)

    def test_the_normalisation_is_that_of_the_distilled_set(self):
        """It belongs to what was distilled: another data set's own would shift every image."""
        split = stripe_split()
        result = a_result(split)
        brighter = DataSplit("brighter", ImageSet.from_arrays(*stripes(30, 5)), split.test)
        brighter = replace(brighter, train=replace(brighter.train, images=brighter.train.images // 2 + 120))
        assert brighter.normalization != split.normalization
        expected = evaluate(result, split, device="cpu", epochs=3)
        assert evaluate(result, brighter, device="cpu", epochs=3) == expected


class TestSchedule:
    @pytest.mark.parametrize(("epochs", "expected"), [(12, {8: 0.2, 10: 0.04}), (30, {20: 0.2, 25: 0.04}), (1, {})])
    def test_learning_rate_falls_at_two_thirds_and_five_sixths(self, monkeypatch, epochs, expected):
        rates = []
        step = Trainer.step

        def watch(self, images, labels):
            rates.append(self.lr)
            return step(self, images, labels)

        monkeypatch.setattr(Trainer, "step", watch)
        split = stripe_split()
        images = split.train.batch(torch.arange(6))
        settings = replace(FAST, networks=1, epochs=epochs, batch=6, lr=0.01)
        evaluate_images(images, split.train.labels[:6], split.test, split.normalization, settings)
        assert len(rates) == epochs
        factor = 1.0
        for epoch, rate in enumerate(rates):
            factor = expected.get(epoch, factor)
            assert rate == pytest.approx(0.01 * factor)

    def test_every_epoch_sees_every_image_once(self, monkeypatch):
        seen = []
        monkeypatch.setattr(Trainer, "step", lambda self, images, labels: seen.append(images[:, 0, 0, 0]))
        split = stripe_split()
        images = (torch.arange(7.0) / 7).view(7, 1, 1, 1).expand(-1, 1, 8, 8)
        labels = torch.arange(7) % 3
        settings = replace(FAST, networks=1, epochs=3, batch=3)
        evaluate_images(images, labels, split.test, split.normalization, settings)
        assert [len(batch) for batch in seen] == [3, 3, 1] * 3
        for epoch in range(3):
            numbers = torch.cat(seen[3 * epoch : 3 * epoch + 3]) * 7
            assert sorted(numbers.round().int().tolist()) == list(range(7))

    def test_epochs_are_told_one_by_one(self):
        ticks = []
        split = stripe_split()
        evaluate(a_result(split), split, device="cpu", epochs=3, networks=2, on_epoch=lambda: ticks.append(1))
        assert len(ticks) == 6


class TestProtocol:
    def test_follows_the_recipe(self):
        recipe = da.recipe("dream", "mnist", eval_networks=5, seed=3)
        found = Protocol.of(recipe, (1, 28, 28))
        assert found == Protocol(
            depth=3, networks=5, epochs=1000, batch=64, augment="color_crop_scale_rotate", cutmix=0.0, seed=3
        )

    def test_defaults_are_the_published_protocol(self):
        assert Protocol.of(da.recipe("dream", "cifar10"), (3, 32, 32)) == Protocol()

    def test_overrides_win_over_the_recipe(self):
        split = stripe_split()
        found = evaluate(a_result(split), split, device="cpu", networks=1, epochs=1, seed=0, width=5, batch=30)
        assert (found.protocol.networks, found.protocol.epochs, found.protocol.width) == (1, 1, 5)
        assert (found.protocol.batch, found.protocol.depth) == (30, 2)

    def test_same_seed_same_numbers_and_another_seed_others(self):
        split = stripe_split()
        found = [evaluate(a_result(split), split, device="cpu", epochs=1, seed=seed) for seed in (1, 1, 2)]
        assert found[0] == found[1]
        assert found[0].accuracies != found[2].accuracies

    def test_networks_differ_from_each_other(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            protocol_module, "_accuracy", lambda network, *_: seen.append(next(network.parameters()).clone()) or 0.0
        )
        split = stripe_split()
        evaluate(a_result(split), split, device="cpu", epochs=1, networks=3)
        assert len({tuple(weight.flatten().tolist()) for weight in seen}) == 3

    def test_mean_and_std_are_over_networks(self):
        found = Evaluation((90.0, 91.0, 95.0), Protocol())
        assert found.mean == pytest.approx(92)
        assert found.std == pytest.approx(statistics.pstdev([90, 91, 95]))
        assert str(found) == "92.0 ± 2.2"


class TestRefusals:
    def test_images_of_another_size(self):
        message = refused(evaluate, a_result(stripe_split()), da.load_dataset("digits", size=9), device="cpu")
        assert "the distilled images are (1, 8, 8)" in message
        assert "(1, 9, 9)" in message

    def test_another_number_of_classes(self):
        message = refused(evaluate, a_result(stripe_split()), da.load_dataset("digits"), device="cpu")
        assert "has 3 classes and digits 10" in message

    def test_unknown_setting_lists_what_exists(self):
        split = stripe_split()
        message = refused(evaluate, a_result(split), split, device="cpu", learning_rate=1)
        assert message.startswith("the protocol has no setting 'learning_rate': settings are network, width")

    @pytest.mark.parametrize("setting", ["networks", "epochs", "batch", "width", "depth"])
    def test_less_than_one(self, setting):
        split = stripe_split()
        message = refused(evaluate, a_result(split), split, device="cpu", **{setting: 0})
        assert message == f"{setting} is 0: an evaluation needs at least 1"

    def test_unknown_network_and_augmentation(self):
        split = stripe_split()
        assert "unknown network 'vgg'" in refused(evaluate, a_result(split), split, device="cpu", network="vgg")
        assert "unknown augmentation 'x'" in refused(evaluate, a_result(split), split, device="cpu", augment="x")


class TestCompare:
    SETTINGS = {  # noqa: RUF012
        "ipc": 2,
        "clusters": 3,
        "iterations": 1,
        "inner_steps": 2,
        "network_images": 5,
        "eval_epochs": 2,
        "eval_networks": 1,
    }

    def run(self, choice: str, **settings):
        split = stripe_split()
        recipe = da.recipe(
            "dream",
            "stripes",
            **{**self.SETTINGS, "factor": 2, "width": 4, "depth": 2, "train_augment": "", **settings},
        )
        result = distill(recipe, split, device="cpu")
        watched = []

        @contextmanager
        def watch(name, total):
            ticks = []
            yield lambda: ticks.append(1)
            watched.append((name, total, len(ticks)))

        return list(compare(result, split, choice, watch)), watched, result, split

    def test_rows_are_real_images_random_sampling_and_the_result(self):
        rows, watched, result, split = self.run("all")
        assert [row.name for row in rows] == [
            "random real images",
            "K-Means-selected real images",
            "distilled, random sampling from random initialisation",
            "distilled, DREAM",
        ]
        assert [row.seconds > 0 for row in rows] == [False, False, True, True]
        assert len({row.evaluation.protocol for row in rows}) == 1
        assert rows[-1].evaluation == evaluate(result, split, device="cpu")
        assert all(total == ticks for _, total, ticks in watched)
        assert len(watched) == 3 + 4

    @pytest.mark.parametrize(("choice", "count"), [("none", 1), ("real", 3)])
    def test_fewer_baselines_on_request(self, choice, count):
        rows, *_ = self.run(choice)
        assert len(rows) == count
        assert rows[-1].name == "distilled, DREAM"

    def test_the_result_is_named_after_its_strategy(self):
        assert self.run("none", strategy="central")[0][-1].name == "distilled, central sampling"

    def test_rivals_are_real_whole_images_and_random_sampling_of_the_same_length(self, monkeypatch):
        recipes = []

        def watch(recipe, *args, **kwargs):
            recipes.append(recipe)
            return distill(recipe, *args, **kwargs)

        monkeypatch.setattr(baselines, "distill", watch)
        *_, result, _ = self.run("all")
        own = result.recipe
        assert recipes == [
            replace(own, init="random", factor=1, iterations=0),
            replace(own, init="kmeans", factor=1, iterations=0),
            replace(own, init="random", strategy="random"),
        ]

    def test_interrupting_a_rival_interrupts_the_comparison(self, monkeypatch):
        monkeypatch.setattr(baselines, "distill", lambda *args, **kwargs: replace(distill(*args), interrupted=True))
        with pytest.raises(KeyboardInterrupt):
            self.run("real")

    def test_rows_come_as_they_are_measured(self, monkeypatch):
        """Ctrl-C during the baselines: rows that were measured were gone."""
        split = stripe_split()
        settings = {**self.SETTINGS, "factor": 2, "width": 4, "depth": 2, "train_augment": ""}
        result = distill(da.recipe("dream", "stripes", **settings), split, device="cpu")
        measure, rows = baselines.evaluate, []

        def interrupted(*args, **kwargs):
            if len(rows) == 2:
                kwargs["on_network"](75.0)
                raise KeyboardInterrupt
            return measure(*args, **kwargs)

        @contextmanager
        def watch(name, total):
            yield lambda: None

        def collect():
            for row in compare(replace(result, recipe=replace(result.recipe, eval_networks=2)), split, "real", watch):
                rows.append(row)

        monkeypatch.setattr(baselines, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect()
        assert [row.evaluation.complete for row in rows] == [True, True, False]
        assert rows[-1].evaluation.accuracies == (75.0,)
        assert [row.name for row in rows] == row_names(result.recipe, "real")

    def test_unknown_choice_lists_what_exists(self):
        split = stripe_split()
        message = refused(compare, a_result(split), split, "some", None)
        assert message == (
            "unknown choice of baselines 'some': choose one of none, real, all, or several of "
            f"{', '.join(CONTESTANTS)}, joined by commas"
        )

    def test_baselines_by_name_are_real_images_by_every_rule_initial_images_and_the_whole_set(self):
        assert {*SELECTION_NAMES} - {"dream"} <= set(CONTESTANTS)
        assert {f"{init}-init" for init in INITS} <= set(CONTESTANTS)
        assert {"whole", "random-sampling"} <= set(CONTESTANTS)
        names = row_names(da.recipe("dream"), ",".join(CONTESTANTS))
        assert len(set(names)) == len(CONTESTANTS) + 1

    def test_names_are_joined_by_commas_and_each_is_one_row_in_the_order_given(self):
        recipe = da.recipe("dream", real_epochs=7)
        assert row_names(recipe, "whole, real,herding,random") == [
            "whole training set, 7 epochs",
            "random real images",
            "K-Means-selected real images",
            "real images by herding",
            "distilled, DREAM",
        ]
        assert row_names(recipe, "random,kmeans,random-sampling") == row_names(recipe, "all")
        assert set(GROUPS) == {"none", "real", "all"}

    @pytest.mark.parametrize(
        ("choice", "said"),
        [
            ("real,,whole", "unknown choice of baselines ''"),
            ("", "unknown choice of baselines ''"),
            ("herding,herd", "unknown choice of baselines 'herd'"),
            ("none,real", "baselines are 'none,real': none means no baseline, so leave it or the others out"),
        ],
    )
    def test_refused_choices(self, choice, said):
        assert refused(row_names, da.recipe("dream"), choice).startswith(said)

    def test_forgetting_is_refused_for_one_class_before_anything_is_computed(self):
        images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
        one = ImageSet.from_arrays(images, torch.zeros(8, dtype=torch.int64), layout="nchw")
        split = DataSplit("one", one, one)
        check_baselines("herding,whole", split)
        assert refused(check_baselines, "whole,forgetting", split).startswith("forgetting counts the mistakes")

    def test_sets_are_those_that_select_chooses_and_that_a_run_begins_with(self, monkeypatch):
        sets = []

        def watch(candidate, *args, **kwargs):
            sets.append(candidate)
            return evaluate(candidate, *args, **kwargs)

        monkeypatch.setattr(baselines, "evaluate", watch)
        rows, watched, result, split = self.run("herding,k-center,forgetting,noise-init,random-init", real_epochs=3)
        own = result.recipe
        for name, found in zip(("herding", "k-center", "forgetting"), sets[:3], strict=True):
            assert found.synthetic.factor == 1
            chosen = select_real(own, split, strategy=name, device="cpu")
            assert torch.equal(found.images, chosen.images()[0])
        for init, found in zip(("noise", "random"), sets[3:5], strict=True):
            assert found.synthetic.factor == own.factor == 2
            begun = distill(replace(own, init=init, iterations=0), split, device="cpu")
            assert torch.equal(found.images, begun.images)
        assert [row.seconds > 0 for row in rows] == [False] * 5 + [True]
        assert ("choosing real images most often forgotten", 3, 3) in watched
        assert all(total == ticks for _, total, ticks in watched)
        assert len({row.evaluation.protocol for row in rows}) == 1

    def test_the_whole_set_is_every_training_image_for_its_own_epochs(self, monkeypatch):
        seen = []

        def watch(images, labels, *args, **kwargs):
            seen.append((images, labels))
            return evaluate_images(images, labels, *args, **kwargs)

        monkeypatch.setattr(baselines, "evaluate_images", watch)
        rows, watched, _, split = self.run("whole", real_epochs=25, eval_batch=10, width=8)
        ((images, labels),) = seen
        assert torch.equal(images, split.train.images)
        assert torch.equal(labels, split.train.labels)
        whole, own = rows
        assert whole.name == "whole training set, 25 epochs"
        assert whole.evaluation.protocol == replace(own.evaluation.protocol, epochs=25)
        assert whole.evaluation.mean > 95
        assert ("evaluating: whole training set, 25 epochs", 25, 25) in watched

    def test_bytes_and_floats_of_one_set_are_one_evaluation_however_many_steps_are_recorded(self, monkeypatch):
        split = stripe_split()
        train, settings = split.train, replace(FAST, networks=1, epochs=3, batch=7)
        found = []
        for images, steps in ((train.images, 128), (train.images, 2), (train.batch(torch.arange(30)), 128)):
            monkeypatch.setattr(protocol_module, "STEPS_AT_ONCE", steps)
            found.append(evaluate_images(images, train.labels, split.test, split.normalization, settings))
        assert found[0] == found[1] == found[2]

    def test_a_class_smaller_than_ipc_repeats_its_images(self):
        rows, *_ = self.run("herding,k-center,forgetting", ipc=12, real_epochs=1)
        assert [row.evaluation.complete for row in rows] == [True] * 4

    def test_ctrl_c_in_the_whole_set_keeps_what_was_tested(self, monkeypatch):
        def interrupted(*args, on_network, **kwargs):
            on_network(60.0)
            raise KeyboardInterrupt

        monkeypatch.setattr(baselines, "evaluate_images", interrupted)
        split = stripe_split()
        rows = compare(a_result(split, real_epochs=4), split, "whole", watch_nothing)
        row = next(rows)
        assert (row.evaluation.accuracies, row.evaluation.complete) == ((60.0,), False)
        assert row.evaluation.protocol.epochs == 4
        with pytest.raises(KeyboardInterrupt):
            next(rows)


@contextmanager
def watch_nothing(name, total):
    yield lambda: None
