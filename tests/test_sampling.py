"""The real images of a matching step: every strategy, refresh and seeds, the calls users make, and refusals."""

import warnings

import numpy as np
import pytest
import torch
from support.draws import normal
from support.refusals import refused
from support.round_trips import no_host_round_trip
from torch import Tensor, nn

import dream_accel as da
from dream_accel.clustering import BatchedKMeans
from dream_accel.errors import DreamAccelWarning
from dream_accel.networks import make_network
from dream_accel.random import derive_seed
from dream_accel.sampling.classes import class_order, fill_picks
from dream_accel.sampling.strategies import STRATEGIES

SIZES = (50, 23, 41)


def data_set(sizes=SIZES, shape=(1, 4, 4), device="cpu") -> tuple[Tensor, Tensor]:
    """Images of every class, classes mixed."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = normal(len(labels), *shape) + labels.view(-1, *[1] * len(shape))
    return images.to(device), labels.to(device)


IMAGES, LABELS = data_set()


def rows_of_class(labels: Tensor, c: int) -> list[int]:
    return (labels == c).nonzero().flatten().tolist()


def as_is(images: Tensor) -> Tensor:
    return images


def sampler(**options) -> da.RepresentativeSampler:
    return da.RepresentativeSampler(IMAGES, LABELS, **{"n_clusters": 6, "features": as_is, **options})


def network(seed: int = 0) -> nn.Module:
    return make_network("convnet", (1, 4, 4), 3, 5, 1, seed)


class TestStrategies:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_picks_are_distinct_images_of_their_class(self, backend, strategy):
        images, labels = data_set(device=backend.device)
        s = da.RepresentativeSampler(images, labels, n_clusters=6, per_cluster=3, strategy=strategy, features=as_is)
        s.update()
        assert s.indices.shape == (3, 18)
        for c in range(3):
            assert (labels[s.indices[c]] == c).all()
            assert s.indices[c].unique().numel() == 18

    @pytest.mark.parametrize(("strategy", "sign"), [("central", 1), ("boundary", -1)])
    def test_central_and_boundary_rank_by_distance_to_the_class_mean(self, backend, strategy, sign):
        images, labels = data_set(device=backend.device)
        s = da.RepresentativeSampler(images, labels, n_clusters=7, strategy=strategy, features=as_is)
        s.update()
        x = images.flatten(1).cpu().double().numpy()
        for c in range(3):
            own = rows_of_class(labels.cpu(), c)
            distance = ((x[own] - x[own].mean(axis=0)) ** 2).sum(axis=1)
            assert s.indices[c].tolist() == [own[i] for i in np.argsort(sign * distance, kind="stable")[:7]]

    def test_dream_picks_the_images_nearest_the_centres_of_their_own_clusters(self, backend):
        images, labels = data_set(device=backend.device)
        s = da.RepresentativeSampler(images, labels, n_clusters=6, per_cluster=2, features=as_is, seed=3)
        s.update()
        order, offsets = class_order(images, labels)
        x = images.flatten(1)[order]
        position = torch.argsort(order)
        # The clustering behind the picks is not kept: with its own seed it comes out again.
        km = BatchedKMeans(6, seed=derive_seed(3, "picks", 0)).fit(x, offsets)
        for c in range(3):
            rows = position[s.indices[c].view(6, 2)]
            for k in range(6):
                members = (km.labels_[offsets[c] : offsets[c + 1]] == k).nonzero().flatten() + offsets[c]
                picks = rows[k, : len(members)]
                assert set(picks.tolist()) <= set(members.tolist())
                # By distance, not by index: the two members of a cluster of two are equally far from their mean.
                to_centre = (x.double() - km.cluster_centers_[c, k].double()).square().sum(dim=1)
                torch.testing.assert_close(to_centre[picks], to_centre[members].sort().values[:2], rtol=1e-5, atol=0)

    def test_random_draws_anew_at_every_step(self):
        s = sampler(strategy="random", interval=100)
        picks = []
        for _ in range(4):
            assert s.update()
            picks.append(s.indices.tolist())
        assert len({str(p) for p in picks}) == 4

    def test_random_looks_at_no_features(self):
        s = da.RepresentativeSampler(IMAGES, LABELS, n_clusters=6, strategy="random")
        assert s.update()
        assert s.update(None)

    def test_select_picks_by_the_same_rules(self, backend):
        images, labels = data_set(device=backend.device)
        x = images.flatten(1)
        for strategy in ("central", "boundary"):
            s = da.RepresentativeSampler(images, labels, n_clusters=9, strategy=strategy, features=as_is)
            s.update()
            assert torch.equal(da.select(x, labels, 9, strategy), s.indices)
        for strategy in STRATEGIES:
            picks = da.select(images, labels, 9, strategy, seed=1)
            assert picks.dtype == torch.int64
            assert torch.equal(picks, da.select(x, labels, 9, strategy, seed=1))
            for c in range(3):
                assert picks[c].unique().numel() == 9
                assert (labels[picks[c]] == c).all()

    def test_select_takes_numpy(self):
        picks = da.select(IMAGES.numpy(), LABELS.numpy(), 9)
        assert torch.equal(picks, da.select(IMAGES, LABELS, 9))

    def test_select_all_images_of_the_smallest_class(self):
        for strategy in STRATEGIES:
            assert sorted(da.select(IMAGES, LABELS, 23, strategy)[1].tolist()) == rows_of_class(LABELS, 1)


class TestRefresh:
    def test_picks_are_renewed_every_interval_steps(self):
        s = sampler(interval=3, features=None)
        renewed, picks = [], []
        for step in range(7):
            renewed.append(s.update(network(step)))
            picks.append(s.indices)
        assert renewed == [True, False, False, True, False, False, True]
        assert torch.equal(picks[0], picks[2])
        assert not torch.equal(picks[2], picks[3])

    def test_same_seed_same_picks_other_seed_others(self):
        picks = {}
        for seed in (0, 1):
            for _ in range(2):
                s = sampler(seed=seed)
                s.update()
                picks.setdefault(seed, []).append(s.indices)
        assert torch.equal(*picks[0])
        assert torch.equal(*picks[1])
        assert not torch.equal(picks[0][0], picks[1][0])

    @pytest.mark.parametrize("strategy", ["dream", "random"])
    def test_restart_replays_the_named_stream(self, strategy):
        s = sampler(strategy=strategy, interval=2)

        def run(*keys):
            s.restart(*keys)
            picks, samples = [], []
            for _ in range(3):
                s.update()
                picks.append(s.indices.tolist())
                samples.append(s.sample(0, 5).tolist())
            return picks, samples

        (picks, samples), (other_picks, other_samples), again = run(1), run(2), run(1)
        assert (picks, samples) == again
        assert picks != other_picks
        assert samples != other_samples

    def test_fixed_features_win_over_the_network_given(self):
        def must_not_be_called(images):
            raise AssertionError

        s = sampler(features=as_is)
        s.update(must_not_be_called)
        assert s.indices is not None

    def test_global_generator_plays_no_part(self):
        before = torch.get_rng_state()
        s = sampler()
        s.update()
        s.sample(0, 4)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("factor", [2.0**66, 2.0**-66, 1e20, 1e-20])
    @pytest.mark.parametrize("strategy", ["dream", "central", "boundary"])
    def test_very_large_or_small_features_give_the_picks_of_ordinary_ones(self, backend, strategy, factor):
        """Squares of such features leave float32, and distances would be Inf or 0."""
        images, labels = data_set(device=backend.device)
        features = torch.randn(len(images), 24, generator=torch.Generator().manual_seed(3)).to(backend.device)
        numbered = torch.arange(float(len(images)), device=backend.device).unsqueeze(1)

        def picks(x):
            s = da.RepresentativeSampler(
                numbered, labels, 5, 2, strategy=strategy, features=lambda own: x[own[:, 0].long()]
            )
            s.update()
            s.check()
            return torch.cat([s.indices, da.select(x, labels, 4, strategy)], dim=1)

        given, ordinary = picks(features * factor), picks(features)
        if factor in (1e20, 1e-20):  # features are rounded, and both rows of a cluster are equally near its centre
            given, ordinary = given.sort().values, ordinary.sort().values
        assert given.tolist() == ordinary.tolist()

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_no_step_asks_the_host(self, backend, strategy):
        # The operators are watched from outside here; test_backends.py watches each backend from inside.
        images, labels = data_set(device=backend.device)
        net = network().to(backend.device)
        s = da.RepresentativeSampler(images, labels, n_clusters=20, per_cluster=2, interval=1, strategy=strategy)
        s.update(net)
        with no_host_round_trip() as seen:
            s.restart(1)
            s.update(net)
            s.refresh(net)
            s.batch()
        if strategy == "dream":
            assert {"kmeans_iterate", "nearest_members"} <= seen

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_no_step_synchronises_a_gpu(self, strategy):
        images, labels = data_set(device="cuda")
        net = network().cuda()
        s = da.RepresentativeSampler(images, labels, n_clusters=20, interval=1, strategy=strategy)
        s.update(net)
        torch.cuda.set_sync_debug_mode("error")
        try:
            s.restart(1)
            s.update(net)
            s.batch()
            s.sample(0, 5)
        finally:
            torch.cuda.set_sync_debug_mode("default")


class TestFeatures:
    def test_networks_by_method_by_hook_and_behind_data_parallel_agree(self):
        # Behind DataParallel a module runs on the GPUs that are there.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net = network().to(device)

        class Renamed(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head = net.features, net.classifier

            def forward(self, images):
                return self.head(self.body(images).flatten(1))

        picks = []
        for source in (net, Renamed(), nn.DataParallel(net), nn.DataParallel(Renamed()), net.embed):
            s = da.RepresentativeSampler(IMAGES.to(device), LABELS.to(device), n_clusters=6)
            s.update(source)
            picks.append(s.indices)
        assert all(torch.equal(p, picks[0]) for p in picks[1:])

    def test_chunk_size_does_not_change_the_picks(self):
        picks = []
        for chunk_size in (5, 17, 1000):
            s = sampler(features=as_is, chunk_size=chunk_size)
            s.update()
            picks.append(s.indices)
        assert torch.equal(picks[0], picks[1])
        assert torch.equal(picks[0], picks[2])

    def test_bytes_are_embedded_as_floats_between_0_and_1(self):
        pixels = ((IMAGES + 4) * 25).to(torch.uint8)
        seen = []

        def watch(images):
            seen.append(images)
            return images

        as_bytes = da.RepresentativeSampler(pixels, LABELS, n_clusters=6, features=watch)
        as_floats = da.RepresentativeSampler(pixels.float() / 255, LABELS, n_clusters=6, features=as_is)
        as_bytes.update()
        as_floats.update()
        assert torch.equal(as_bytes.indices, as_floats.indices)
        assert seen[0].dtype == torch.float32
        assert 0 <= seen[0].min() <= seen[0].max() <= 1
        images, _ = as_bytes.batch()
        assert torch.equal(images, pixels[as_bytes.indices].float() / 255)

    def test_images_are_normalised_for_embedding_and_returned_without(self):
        def stretch(images):
            return images * torch.linspace(0, 9, 16).view(4, 4)

        plain, stretched = sampler(), sampler(normalize=stretch)
        by_hand = da.RepresentativeSampler(stretch(IMAGES), LABELS, n_clusters=6, features=as_is)
        for s in (plain, stretched, by_hand):
            s.update()
        assert torch.equal(stretched.indices, by_hand.indices)
        assert not torch.equal(stretched.indices, plain.indices)
        assert torch.equal(stretched.batch()[0], IMAGES[stretched.indices])

    @pytest.mark.parametrize("training", [True, False])
    def test_mode_of_the_network_comes_back(self, training):
        net = network().train(training)
        sampler(features=None).update(net)
        assert net.training == training

    def test_features_carry_no_graph(self):
        net = network()
        sampler(features=None).update(net)
        assert all(p.grad is None for p in net.parameters())


class TestTakingImages:
    def test_batch_holds_every_class(self):
        s = sampler()
        s.update()
        images, labels = s.batch()
        assert images.shape == (3, 6, 1, 4, 4)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert labels.tolist() == [[c] * 6 for c in range(3)]
        assert torch.equal(images, IMAGES[s.indices])
        assert torch.equal(labels, LABELS[s.indices])

    def test_sample_gives_the_representatives_where_a_batch_is_asked_for(self):
        s = sampler()
        s.update()
        for n in (None, 6):
            assert torch.equal(s.sample(2, n), IMAGES[s.indices[2]])
            assert torch.equal(s(2, n), IMAGES[s.indices[2]])

    def test_sample_gives_distinct_random_images_of_the_class_otherwise(self):
        s = sampler()
        own = {tuple(IMAGES[i].flatten().tolist()) for i in rows_of_class(LABELS, 1)}
        first, second = ([tuple(image.flatten().tolist()) for image in s.sample(1, 10)] for _ in range(2))
        assert len(set(first)) == 10
        assert set(first) <= own
        assert first != second
        everything = [tuple(image.flatten().tolist()) for image in s.sample(1, 23)]
        assert set(everything) == own

    def test_bytes_come_out_as_floats(self):
        pixels = ((IMAGES + 4) * 25).to(torch.uint8)
        s = da.RepresentativeSampler(pixels, LABELS, n_clusters=6, features=as_is)
        s.update()
        for images in (s.sample(0), s.sample(0, 3)):
            assert images.dtype == torch.float32
            assert images.max() <= 1

    def test_numpy_images_and_labels(self):
        s = da.RepresentativeSampler(IMAGES.numpy(), LABELS.numpy(), n_clusters=6, features=as_is)
        s.update()
        expected = sampler()
        expected.update()
        assert torch.equal(s.indices, expected.indices)

    def test_labels_of_any_integer_type(self):
        for dtype in (torch.uint8, torch.int32):
            s = da.RepresentativeSampler(IMAGES, LABELS.to(dtype), n_clusters=6, features=as_is)
            assert s.n_classes == 3
            assert s.labels.dtype == torch.int64


class TestNumbersOfNumPy:
    """cuml PR#6150: a RandomState as a seed named a stream by its address; np.int64 was another seed than its int."""

    def test_are_the_same_as_pythons(self):
        numbers = {
            "n_clusters": 6,
            "per_cluster": 2,
            "interval": 2,
            "seed": 7,
            "max_iter": 9,
            "chunk_size": 5,
            "pool": 20,
        }
        plain, numpy = sampler(**numbers), sampler(**{name: np.int64(n) for name, n in numbers.items()})
        for s, number in ((plain, int), (numpy, np.int16)):
            s.restart("part", number(3))
            for _ in range(3):
                s.update()
        assert torch.equal(plain.indices, numpy.indices)
        assert torch.equal(plain.sample(1, 5), numpy.sample(np.int32(1), torch.tensor(5)))
        assert torch.equal(
            da.select(IMAGES, LABELS, 4, seed=3), da.select(IMAGES, LABELS, np.int8(4), seed=np.uint64(3))
        )

    @pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng, torch.Generator, tuple])
    def test_generators_are_no_seeds(self, make):
        seed = make()
        assert refused(sampler, seed=seed) == f"seed is a {type(seed).__name__}: it must be a whole number"


class TestSmallClasses:
    sizes = (50, 2, 41)

    def test_class_smaller_than_the_clusters_uses_all_its_images_in_turn_and_says_so_once(self, backend):
        images, labels = data_set(self.sizes, device=backend.device)
        with pytest.warns(DreamAccelWarning, match=r"1 of 3 classes.*5 clusters.*class 1 has 2.*falls to") as caught:
            s = da.RepresentativeSampler(images, labels, n_clusters=5, features=as_is)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            s.update()
            s.update()
        picks = s.indices[1].tolist()
        assert sorted(set(picks)) == rows_of_class(labels.cpu(), 1)
        assert picks == [picks[0], picks[1]] * 2 + [picks[0]]
        assert s.indices[0].unique().numel() == 5
        assert len(s.sample(1)) == 2

    def test_warning_points_at_the_caller(self):
        images, labels = data_set(self.sizes)
        with pytest.warns(DreamAccelWarning) as caught:
            da.RepresentativeSampler(images, labels, n_clusters=5)
        assert caught[0].filename == __file__

    def test_missing_picks_are_filled_with_those_found(self):
        picks = torch.tensor([[4, -1, 7, -1, -1], [1, 2, 3, 4, 5], [-1, 9, -1, -1, -1]])
        assert fill_picks(picks).tolist() == [[4, 7, 4, 7, 4], [1, 2, 3, 4, 5], [9] * 5]


def nan_at(images: Tensor) -> Tensor:
    images = images.clone()
    images[7, 0, 1, 1] = torch.nan
    return images


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            pytest.param({"strategy": "best"}, ["'best'", *STRATEGIES], id="unknown strategy"),
            pytest.param({"n_clusters": 0}, ["n_clusters is 0", "at least 1"], id="no clusters"),
            pytest.param({"per_cluster": 0}, ["per_cluster is 0", "at least 1"], id="no images per cluster"),
            pytest.param({"interval": 0}, ["interval is 0", "at least 1"], id="no interval"),
            pytest.param({"chunk_size": 0}, ["chunk_size is 0", "at least 1"], id="no chunk"),
            pytest.param({"n_clusters": 2.5}, ["n_clusters is 2.5", "whole number"], id="fraction of a cluster"),
            pytest.param({"n_clusters": True}, ["n_clusters is True", "whole number"], id="truth value"),
            pytest.param({"interval": "3"}, ["interval is '3'", "whole number"], id="interval in words"),
            pytest.param({"max_iter": 2.5}, ["max_iter is 2.5", "whole number"], id="fraction of an iteration"),
            pytest.param({"seed": 0.5}, ["seed is 0.5", "whole number"], id="fractional seed"),
            pytest.param({"seed": None}, ["seed is None", "whole number"], id="no seed"),
            pytest.param({"images": IMAGES.long()}, ["torch.int64", "uint8", "floating point"], id="int64 pixels"),
            pytest.param({"images": IMAGES.int()}, ["torch.int32", "uint8", "floating point"], id="int32 pixels"),
            pytest.param({"images": IMAGES > 0}, ["torch.bool", "uint8", "floating point"], id="truth values"),
            pytest.param({"images": IMAGES + 1j}, ["torch.complex64", "uint8"], id="complex pixels"),
            pytest.param({"labels": LABELS[:-1]}, ["114 images", "(113,)", "one label per image"], id="labels missing"),
            pytest.param({"labels": LABELS[:, None]}, ["(114, 1)", "one label per image"], id="labels 2-d"),
            pytest.param({"labels": LABELS.float()}, ["torch.float32", "integers 0..C-1"], id="fractional labels"),
            pytest.param({"labels": LABELS > 0}, ["torch.bool", "integers 0..C-1"], id="boolean labels"),
            pytest.param({"labels": LABELS - 1}, ["from -1 to 1", "0..C-1", "renumber"], id="negative labels"),
            pytest.param({"labels": LABELS * 10**12}, ["to 2000000000000", "0..C-1", "renumber"], id="huge labels"),
            pytest.param({"labels": LABELS + 1}, ["class 0 of 0..3 has no images", "renumber"], id="labels from 1"),
            pytest.param({"labels": LABELS * 2}, ["class 1 of 0..4 has no images", "renumber"], id="empty class"),
            pytest.param({"labels": [0, 1]}, ["labels is a list", "NumPy"], id="labels in a list"),
            pytest.param({"images": "here"}, ["images is a str", "NumPy"], id="images by name"),
            pytest.param({"images": LABELS}, ["images has shape (114,)", "(N, ...)"], id="images 1-d"),
            pytest.param({"images": nan_at(IMAGES)}, ["images holds NaN or Inf", "first is row 7"], id="NaN pixels"),
            pytest.param({"images": IMAGES[:0], "labels": LABELS[:0]}, ["no images"], id="no images"),
        ],
    )
    def test_sampler(self, options, said):
        message = refused(da.RepresentativeSampler, **{"images": IMAGES, "labels": LABELS, "n_clusters": 6, **options})
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            pytest.param({"strategy": "herding!"}, ["'herding!'", *STRATEGIES], id="unknown strategy"),
            pytest.param({"k": 0}, ["k is 0", "at least 1"], id="no images asked"),
            pytest.param({"k": 2.0}, ["k is 2.0", "whole number"], id="fractional k"),
            pytest.param({"seed": "0"}, ["seed is '0'", "whole number"], id="seed in words"),
            pytest.param({"k": 24}, ["k is 24", "class 1 has 23", "at most"], id="more than a class has"),
            pytest.param({"features": nan_at(IMAGES)}, ["features holds NaN or Inf", "1 of 114"], id="NaN features"),
            pytest.param({"features": LABELS.float()}, ["(114,)", "(N, D)"], id="features 1-d"),
            pytest.param({"features": IMAGES.int()}, ["torch.int32", "floating", "features.float()"], id="integers"),
            pytest.param({"labels": LABELS * 2}, ["class 1", "no images"], id="empty class"),
            pytest.param({"labels": LABELS[1:]}, ["one label per image"], id="labels missing"),
        ],
    )
    def test_select(self, options, said):
        message = refused(da.select, **{"features": IMAGES, "labels": LABELS, "k": 2, **options})
        assert all(part in message for part in said), message

    def test_taking_images_before_the_first_update(self):
        s = sampler()
        for call in (s.batch, lambda: s.sample(0), lambda: s(0, 6)):
            message = refused(call)
            assert "no picks yet" in message
            assert "update(net)" in message

    def test_no_network_to_embed_with(self):
        message = refused(sampler(features=None).update)
        assert "no network" in message
        assert "features=" in message

    def test_class_that_does_not_exist(self):
        for c in (-1, 3):
            message = refused(sampler().sample, c, 2)
            assert f"class {c} does not exist" in message
            assert "0 to 2" in message

    def test_more_images_than_the_class_has(self):
        for n in (24, 0, -1):
            message = refused(sampler().sample, 1, n)
            assert f"{n} images" in message
            assert "has 23" in message

    def test_diverged_network_is_found_where_one_checks(self):
        s = sampler(features=lambda images: images / (images - images[0]))
        s.update()
        assert "diverged" in refused(s.check)
        s.restart()
        s.check()

    def test_healthy_features_pass_the_check(self):
        s = sampler()
        s.update()
        s.check()
