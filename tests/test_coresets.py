"""Herding, K-center greedy and forgetting against plain loops, and the selections that use them."""

import itertools

import numpy as np
import pytest
import torch
from support.draws import normal
from support.refusals import refused
from support.round_trips import no_host_round_trip
from test_engine import toy_recipe, toy_split
from torch import Tensor

import dream_accel as da
from dream_accel.data import ImageSet, to_float
from dream_accel.engine.compute import Compute
from dream_accel.engine.forgetting import ForgettingEvents, forgetting_scores
from dream_accel.engine.selection import select_real, select_rows
from dream_accel.networks import make_network
from dream_accel.networks.training import Rows, Trainer
from dream_accel.random import generator
from dream_accel.sampling import select_by_score
from dream_accel.sampling.coresets import herding, k_center
from dream_accel.sampling.selection import SELECTION_NAMES, SELECTIONS
from dream_accel.sampling.strategies import ONCE_ONLY, STRATEGIES

SIZES = (30, 7, 19, 1)


pytestmark = pytest.mark.usefixtures("one_thread")


def plain_herding(x: np.ndarray, k: int) -> list[int]:
    """The definition, for one class: try every row that is left, keep the one whose running mean is nearest."""
    mean, picks, total = x.mean(axis=0), [], np.zeros(x.shape[1])
    for t in range(min(k, len(x))):
        left = [i for i in range(len(x)) if i not in picks]
        picks.append(min(left, key=lambda i: (np.linalg.norm(mean - (total + x[i]) / (t + 1)), i)))
        total += x[picks[-1]]
    return picks


def plain_k_center(x: np.ndarray, k: int) -> list[int]:
    """The definition, for one class: the row whose nearest picked one is farthest away."""
    picks = [min(range(len(x)), key=lambda i: (np.linalg.norm(x[i] - x.mean(axis=0)), i))]
    while len(picks) < min(k, len(x)):
        left = [i for i in range(len(x)) if i not in picks]
        picks.append(min(left, key=lambda i: (-min(np.linalg.norm(x[i] - x[p]) for p in picks), i)))
    return picks


CORESETS = [pytest.param(herding, plain_herding, id="herding"), pytest.param(k_center, plain_k_center, id="k-center")]


def offsets_of(sizes) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)])


def expected(plain, x: Tensor, sizes, k: int) -> list[list[int]]:
    """Picks of every class as rows of ``x``, -1 where a class has none left."""
    found = []
    for begin, rows in zip(offsets_of(sizes).tolist(), x.double().cpu().split(sizes), strict=False):
        picks = [begin + i for i in plain(rows.numpy(), k)]
        found.append(picks + [-1] * (k - len(picks)))
    return found


@pytest.mark.parametrize(("coreset", "plain"), CORESETS)
class TestAgainstThePlainLoop:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("mean", [0.0, 50.0])
    def test_ragged_classes_at_once(self, backend, coreset, plain, seed, mean):
        x = normal(sum(SIZES), 11, seed=seed, mean=mean)
        found = coreset(x.to(backend.device), offsets_of(SIZES).to(backend.device), 12)
        assert found.tolist() == expected(plain, x, SIZES, 12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_rows(self, backend, coreset, plain, dtype):
        x = normal(40, 9, seed=4).to(dtype)
        found = coreset(x.to(backend.device), offsets_of((25, 15)).to(backend.device), 8)
        assert found.tolist() == expected(plain, x, (25, 15), 8)

    def test_float64_rows(self, reference, coreset, plain):
        x = 1e6 + normal(40, 9, seed=4).double()
        assert coreset(x, offsets_of((25, 15)), 8).tolist() == expected(plain, x, (25, 15), 8)

    def test_more_picks_than_rows_end_with_all_of_them(self, backend, coreset, plain):
        x = normal(12, 3)
        found = coreset(x.to(backend.device), offsets_of((5, 7)).to(backend.device), 9).tolist()
        assert [sorted(row) for row in found] == [[-1] * 4 + [*range(5)], [-1] * 2 + [*range(5, 12)]]

    def test_equal_rows_are_taken_lowest_first_and_each_once(self, backend, coreset, plain):
        x = torch.tensor([1.0, 2.0]).expand(6, 2).contiguous().to(backend.device)
        assert coreset(x, offsets_of((4, 2)).to(backend.device), 3).tolist() == [[0, 1, 2], [4, 5, -1]]

    def test_a_class_has_its_picks_in_any_batch(self, coreset, plain):
        x = normal(sum(SIZES), 300, seed=2)
        together = coreset(x, offsets_of(SIZES), 6)
        for c, begin in enumerate(offsets_of(SIZES)[:-1].tolist()):
            alone = coreset(x[begin : begin + SIZES[c]], offsets_of(SIZES[c : c + 1]), 6)[0]
            assert torch.where(alone < 0, -1, alone + begin).tolist() == together[c].tolist()

    def test_nothing_waits_for_the_device(self, coreset, plain):
        x, offsets = normal(sum(SIZES), 11), offsets_of(SIZES)
        with no_host_round_trip() as seen:
            coreset(x, offsets, 4)
        assert "kmeans_assign" in seen


class TestHerding:
    def test_the_mean_of_the_picks_is_nearer_than_that_of_random_ones(self):
        x = normal(200, 20)
        picks = herding(x, offsets_of((200,)), 10)[0]

        def error(rows: Tensor) -> float:
            return float((x[rows].mean(dim=0) - x.mean(dim=0)).norm())

        random = [error(torch.randperm(200, generator=torch.Generator().manual_seed(s))[:10]) for s in range(20)]
        assert error(picks) < min(random) / 2

    def test_picks_are_in_order_so_fewer_are_the_first_of_more(self):
        x = normal(50, 4)
        assert torch.equal(herding(x, offsets_of((50,)), 20)[:, :7], herding(x, offsets_of((50,)), 7))


class TestKCenter:
    def test_begins_at_the_middle_and_takes_the_lowest_of_equally_far_rows(self, backend):
        x = torch.tensor([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1]], device=backend.device)
        assert k_center(x, offsets_of((5,)).to(backend.device), 5).tolist() == [[4, 0, 1, 2, 3]]

    def test_covers_every_row_within_twice_the_smallest_radius(self):
        x = normal(11, 2, seed=5)
        apart = torch.cdist(x, x)

        def radius(picks) -> float:
            return float(apart[:, list(picks)].min(dim=1).values.max())

        best = min(radius(picks) for picks in itertools.combinations(range(11), 3))
        assert best <= radius(k_center(x, offsets_of((11,)), 3)[0].tolist()) <= 2 * best


LABELS = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 0, 1])
FEATURES = normal(10, 5, seed=9)


class TestSelect:
    @pytest.mark.parametrize(("strategy", "plain"), [("herding", plain_herding), ("k-center", plain_k_center)])
    def test_returns_rows_of_the_array_given_whatever_their_order(self, strategy, plain):
        found = da.select(FEATURES.numpy(), LABELS.numpy(), 3, strategy)
        for c in range(2):
            own = (c == LABELS).nonzero().flatten()
            assert found[c].tolist() == own[plain(FEATURES[own].double().numpy(), 3)].tolist()

    @pytest.mark.parametrize("strategy", ["herding", "k-center"])
    def test_no_seed_changes_a_rule_that_draws_nothing(self, strategy):
        assert torch.equal(
            da.select(FEATURES, LABELS, 4, strategy, seed=0), da.select(FEATURES, LABELS, 4, strategy, seed=1)
        )

    def test_kmeans_is_the_clear_name_of_dream(self):
        assert torch.equal(da.select(FEATURES, LABELS, 3, "kmeans"), da.select(FEATURES, LABELS, 3, "dream"))

    def test_names_of_a_matching_loop_and_of_one_choice_are_all_there_is(self):
        assert set(SELECTION_NAMES) == {*STRATEGIES, *ONCE_ONLY}
        assert not set(STRATEGIES) & set(ONCE_ONLY)

    def test_an_unknown_name_lists_what_features_allow(self):
        message = refused(da.select, FEATURES, LABELS, 2, "herd")
        assert message == f"unknown strategy 'herd': choose one of {', '.join(SELECTIONS)}"

    def test_forgetting_needs_more_than_features(self):
        message = refused(da.select, FEATURES, LABELS, 2, "forgetting")
        assert "which features do not tell" in message
        assert "select_by_score" in message

    @pytest.mark.parametrize("strategy", SELECTIONS)
    def test_more_than_a_class_has_and_nan(self, strategy):
        assert refused(da.select, FEATURES, LABELS, 5, strategy).startswith("k is 5 and class 0 has 4 images")
        broken = FEATURES.clone()
        broken[3, 1] = torch.nan
        assert "features holds NaN or Inf in 1 of 10 rows (the first is row 3)" in refused(
            da.select, broken, LABELS, 2, strategy
        )


@pytest.mark.parametrize("name", ONCE_ONLY)
def test_rules_that_choose_once_are_refused_where_images_are_matched_at_every_step(name):
    for message in (
        refused(da.recipe, "dream", strategy=name),
        refused(da.RepresentativeSampler, FEATURES, LABELS, 2, strategy=name),
    ):
        assert message.startswith(f"strategy {name!r} chooses a set once")
        assert "choose one of dream, random, central, boundary" in message


class TestSelectByScore:
    SCORES = torch.tensor([5, 1, 7, 5, 3, 5, 2, 5, 9, 5])

    def test_takes_the_highest_first(self):
        found = select_by_score(self.SCORES, LABELS, 3)
        assert found[0].tolist() == [8, 4, 6]
        assert found[1, 0] == 2

    def test_ties_are_in_random_order_by_seed(self):
        tied = [0, 3, 5, 7, 9]
        seen = {tuple(select_by_score(self.SCORES, LABELS, 4, seed=seed)[1, 1:].tolist()) for seed in range(30)}
        assert len(seen) > 10
        assert {row for picks in seen for row in picks} == set(tied)
        again = [select_by_score(self.SCORES, LABELS, 4, seed=3) for _ in range(2)]
        assert torch.equal(*again)

    def test_the_order_of_ties_in_a_class_does_not_depend_on_the_others(self):
        alone = select_by_score(torch.zeros(40), torch.zeros(40, dtype=torch.int64), 6)
        both = select_by_score(torch.zeros(60), (torch.arange(60) < 20).long(), 6)
        assert (both[0] - 20).tolist() == alone[0].tolist()

    def test_floats_of_numpy_and_infinities(self):
        scores = self.SCORES.double().numpy()
        scores[6] = np.inf
        assert select_by_score(scores, LABELS.numpy(), 2)[0].tolist() == [6, 8]

    def test_repeat_fills_a_small_class_with_its_own_in_turn(self):
        found = select_by_score(self.SCORES, LABELS, 6, repeat=True)
        assert found[0].tolist() == [8, 4, 6, 1, 8, 4]
        assert found[1].unique().numel() == 6

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"scores": SCORES > 3}, "scores is torch.bool of shape (10,)"),
            ({"scores": FEATURES}, "scores is torch.float32 of shape (10, 5)"),
            ({"scores": [1, 2]}, "scores is a list"),
            ({"scores": SCORES / 0 * 0}, "scores holds NaN in 10 of 10 rows"),
            ({"k": 5}, "k is 5 and class 0 has 4 images: pick at most that many per class"),
            ({"k": 0}, "k is 0: it must be a whole number, at least 1"),
            ({"labels": LABELS[1:]}, "give one label per image"),
        ],
        ids=["truth values", "2-d", "list", "NaN", "more than a class has", "none", "labels missing"],
    )
    def test_refusals(self, options, said):
        assert said in refused(select_by_score, **{"scores": self.SCORES, "labels": LABELS, "k": 2, **options})


def plain_events(history: list[tuple[list[int], list[bool]]], n: int) -> tuple[list[int], list[bool]]:
    """Times forgotten and whether ever learned, from what was seen of each image in turn."""
    seen = [
        [right for rows, rights in history for row, right in zip(rows, rights, strict=True) if row == i]
        for i in range(n)
    ]
    return [sum(a and not b for a, b in itertools.pairwise(of)) for of in seen], [any(of) for of in seen]


class TestForgetting:
    def test_events_are_changes_from_right_to_wrong(self):
        draws = np.random.RandomState(0)
        events, history = ForgettingEvents(9, torch.device("cpu")), []
        for _ in range(40):
            rows = draws.permutation(9)[:4].tolist()
            rights = [bool(draws.rand() < 0.5) and row > 1 for row in rows]
            history.append((rows, rights))
            events.observe(torch.tensor(rows), torch.tensor(rights))
        forgotten, learned = plain_events(history, 9)
        assert events.forgotten.tolist() == forgotten
        assert events.learned.tolist() == learned
        assert learned[:2] == [False, False]
        assert max(forgotten) > 1

    def test_counting_does_not_wait_for_the_device(self):
        events = ForgettingEvents(5, torch.device("cpu"))
        with no_host_round_trip() as seen:
            events.observe(torch.tensor([3, 1]), torch.tensor([True, False]))
            events.scores()
        assert "index_put_" in seen

    def test_an_image_that_was_never_learned_counts_as_forgotten_most(self):
        events = ForgettingEvents(3, torch.device("cpu"))
        for right in ([True, False, True], [False, False, True], [True, False, True], [False, False, True]):
            events.observe(torch.arange(3), torch.tensor(right))
        assert events.scores().tolist() == [2, 3, 0]

    @pytest.mark.parametrize("augment", ["", "color_crop"])
    def test_scores_are_those_of_a_plain_training_loop(self, augment):
        split = hard_split()
        settings = toy_recipe(real_epochs=6, network_batch=16, train_augment=augment, seed=3, network_lr=0.05)
        found = forgetting_scores(settings, split.train, Compute.of(settings, split))
        n = len(split.train)
        network = make_network("convnet", (1, 8, 8), 3, 4, 2, 3, "forgetting")
        trainer = Trainer(
            network,
            split.normalization,
            lr=0.05,
            momentum=0.9,
            weight_decay=5e-4,
            augment=augment,
            cutmix_probability=0.0,
            device=torch.device("cpu"),
            seed=3,
            keys=("forgetting",),
        )
        order, history = Rows(n, generator(3, "forgetting rows")), []
        for _ in range(6):
            rows = order.take(n)
            for begin in range(0, n, 16):
                some = rows[begin : begin + 16]
                images = to_float(split.train.images[some])
                right = network(split.normalization(images)).argmax(dim=1) == split.train.labels[some]
                history.append((some.tolist(), right.tolist()))
                trainer.step(images, split.train.labels[some])
        forgotten, learned = plain_events(history, n)
        assert found.tolist() == [a if b else max(forgotten) + 1 for a, b in zip(forgotten, learned, strict=True)]
        assert len(set(forgotten)) > 1

    def test_an_image_with_a_wrong_label_is_forgotten_more_than_most(self):
        split = toy_split(per_class=20)
        wrong = (split.train.labels == 0).nonzero()[0]
        labels = split.train.labels.clone()
        labels[wrong] = 2
        train = ImageSet(split.train.images, labels, 3, split.train.class_names)
        settings = toy_recipe(real_epochs=12, network_batch=8, train_augment="", network_lr=0.01)
        scores = forgetting_scores(settings, train, Compute.of(settings, split))
        assert scores[wrong] == scores.max()
        assert scores.median() < scores.max()

    def test_same_seed_same_scores_and_another_seed_others(self):
        split = hard_split()
        recipes = [toy_recipe(real_epochs=4, network_lr=0.05, seed=seed) for seed in (0, 0, 1)]
        first, again, other = (forgetting_scores(r, split.train, Compute.of(r, split)).tolist() for r in recipes)
        assert first == again
        assert first != other

    def test_one_class_is_refused(self):
        split = toy_split(n_classes=1)
        message = refused(select_real, toy_recipe(), split, strategy="forgetting", device="cpu")
        assert message.startswith("forgetting counts the mistakes of a network, and with one class it makes none")

    def test_a_network_that_diverges_is_refused(self):
        settings = toy_recipe(real_epochs=2, network_lr=1e30)
        message = refused(select_real, settings, toy_split(), strategy="forgetting", device="cpu")
        assert message.endswith("diverged at network_lr 1e+30: lower network_lr")


def hard_split():
    """Noise without classes, which a network learns by heart and forgets."""
    draws = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=draws).to(torch.uint8)
    one = ImageSet.from_arrays(pixels, torch.arange(40) % 3, 3)
    return da.DataSplit("hard", one, one)


class TestSelectReal:
    @pytest.mark.parametrize("strategy", SELECTION_NAMES)
    def test_chooses_distinct_rows_of_every_class(self, strategy):
        split = toy_split()
        ticks = []
        chosen = select_real(
            toy_recipe(ipc=5, real_epochs=2), split, strategy=strategy, device="cpu", on_epoch=lambda: ticks.append(1)
        )
        assert chosen.rows.shape == (3, 5)
        for c in range(3):
            assert chosen.rows[c].unique().numel() == 5
            assert (split.train.labels[chosen.rows[c]] == c).all()
        assert len(ticks) == (2 if strategy == "forgetting" else 0)

    def test_forgetting_takes_the_highest_scores(self):
        split, settings = hard_split(), toy_recipe(ipc=4, real_epochs=5, network_lr=0.05)
        scores = forgetting_scores(settings, split.train, Compute.of(settings, split))
        rows = select_real(settings, split, strategy="forgetting", device="cpu").rows
        for c in range(3):
            assert sorted(scores[rows[c]].tolist()) == sorted(scores[split.train.labels == c].tolist())[-4:]

    def test_the_rule_of_the_recipe_is_the_default(self):
        split, settings = toy_split(), toy_recipe(strategy="central")
        found = [select_real(settings, split, strategy=name, device="cpu").rows for name in (None, "central")]
        assert torch.equal(*found)

    def test_an_unknown_rule_lists_all(self):
        message = refused(select_real, toy_recipe(), toy_split(), strategy="best", device="cpu")
        assert message == f"unknown strategy 'best': choose one of {', '.join(SELECTION_NAMES)}"

    def test_more_than_a_class_has_is_refused_before_a_network_is_trained(self):
        def trained() -> None:
            raise AssertionError

        message = refused(
            select_real, toy_recipe(ipc=13), toy_split(), strategy="forgetting", device="cpu", on_epoch=trained
        )
        assert message == "k is 13 and class 0 has 12 images: pick at most that many per class"

    @pytest.mark.parametrize("strategy", SELECTION_NAMES)
    def test_a_small_class_repeats_its_images_where_that_is_asked_for(self, strategy):
        split, settings = toy_split(per_class=3), toy_recipe(ipc=5, real_epochs=1)
        rows = select_rows(settings, split.train, Compute.of(settings, split), strategy, repeat=True)
        for c in range(3):
            assert (split.train.labels[rows[c]] == c).all()
            assert rows[c, :3].unique().numel() == 3
            assert torch.equal(rows[c, 3:], rows[c, :2])
