"""BatchedKMeans: against scikit-learn, consistent with itself, the same bits in any batch, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from support.draws import normal
from support.fake_graphs import FakeGraphs
from support.kmeans_problems import offsets_of
from support.refusals import refused_unlaunched
from support.round_trips import no_host_round_trip
from torch import Tensor

import dream_accel as da
from dream_accel import ops
from dream_accel.clustering import INITS, lloyd, routing
from dream_accel.runtime.graphs import GraphedFunction


def blobs(n: int, n_features: int, n_centres: int, seed: int = 0, spread: float = 8.0) -> Tensor:
    centres = spread * normal(n_centres, n_features, seed=seed)
    return centres[torch.arange(n) % n_centres] + normal(n, n_features, seed=seed + 1)


SIZES = (60, 0, 3, 41, 1)


def ragged(device="cpu", n_features: int = 6) -> tuple[Tensor, Tensor]:
    return normal(sum(SIZES), n_features).to(device), offsets_of(SIZES).to(device)


def results(km) -> tuple:
    return km.labels_, km.cluster_centers_, km.counts_, km.inertia_, km.n_iter_


def same_bits(a, b) -> bool:
    return all(torch.equal(torch.nan_to_num(u, 7), torch.nan_to_num(v, 7)) for u, v in zip(a, b, strict=True))


def check_consistent(km, x: Tensor, offsets: Tensor) -> None:
    """Labels are the nearest centroids, counts count them, inertia sums the distances to them."""
    x, offsets = x.cpu().double(), offsets.tolist()
    labels, centroids, counts, inertia, _ = (t.cpu() for t in results(km))
    for g, (start, stop) in enumerate(pairwise(offsets)):
        distance = torch.cdist(x[start:stop], centroids[g].double()).square().nan_to_num(nan=torch.inf)
        own = distance.gather(1, labels[start:stop, None].long()).squeeze(1)
        if stop > start:
            assert (own <= distance.min(dim=1).values * (1 + 1e-5) + 1e-9).all()
        assert counts[g].tolist() == np.bincount(labels[start:stop], minlength=km.n_clusters).tolist()
        assert inertia[g].item() == pytest.approx(own.sum().item(), rel=1e-5, abs=1e-9)


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("max_iter", [1, 3, 50])
    def test_same_inertia_from_the_same_start_after_the_same_iterations(self, backend, max_iter):
        sizes = (300, 120, 200)
        x = torch.cat([blobs(n, 12, 9, seed=g, spread=1.5) + 100 * g for g, n in enumerate(sizes)])
        offsets = offsets_of(sizes)
        start = torch.stack([x[first : first + 8] for first in offsets[:-1]])
        km = da.BatchedKMeans(8, max_iter=max_iter, init=start).fit(x.to(backend.device), offsets)
        for g in range(3):
            rows = slice(offsets[g], offsets[g + 1])
            theirs = KMeans(8, init=start[g].numpy(), n_init=1, max_iter=max_iter, tol=0).fit(x[rows].numpy())
            assert km.inertia_[g].item() == pytest.approx(theirs.inertia_, rel=1e-3)
            if max_iter == 1:
                np.testing.assert_allclose(km.cluster_centers_[g].cpu(), theirs.cluster_centers_, rtol=1e-4, atol=1e-4)
                assert (km.labels_[rows].cpu().numpy() == theirs.labels_).mean() > 0.99

    def test_tolerance_stops_at_the_same_iteration(self, backend):
        x = blobs(400, 5, 6, spread=1.0)
        for tol in (0.3, 0.05, 0.005):
            theirs = KMeans(7, init=x[:7].numpy(), n_init=1, max_iter=100, tol=tol).fit(x.numpy())
            km = da.BatchedKMeans(7, max_iter=100, tol=tol, init=x[None, :7]).fit(x.to(backend.device))
            assert km.n_iter_.item() == theirs.n_iter_
            assert km.inertia_.item() == pytest.approx(theirs.inertia_, rel=1e-3)

    def test_k_means_plus_plus_is_as_good_as_theirs(self, backend):
        x = blobs(500, 8, 20)
        ours = [
            da.BatchedKMeans(20, max_iter=50, init="k-means++", seed=seed).fit(x.to(backend.device)).inertia_.item()
            for seed in range(4)
        ]
        theirs = [KMeans(20, n_init=1, max_iter=50, random_state=seed).fit(x.numpy()).inertia_ for seed in range(4)]
        assert np.median(ours) < 1.5 * np.median(theirs)
        uniform = [
            da.BatchedKMeans(20, max_iter=50, seed=seed).fit(x.to(backend.device)).inertia_.item() for seed in range(4)
        ]
        assert np.median(ours) < 0.7 * np.median(uniform)


class TestResults:
    @pytest.mark.parametrize("max_iter", [0, 1, 2, 30])
    @pytest.mark.parametrize("init", ["random", "k-means++"])
    def test_belong_together_whenever_the_iteration_stops(self, backend, init, max_iter):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(7, max_iter=max_iter, init=init).fit(x, offsets)
        check_consistent(km, x, offsets)
        assert (km.n_iter_ <= max_iter).all()
        assert [t.dtype for t in results(km)] == [torch.int32, torch.float32, torch.int32, torch.float32, torch.int32]

    def test_fixpoint_centroids_are_the_means_of_their_members(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(7, max_iter=100).fit(x, offsets)
        assert (km.n_iter_ < 100).all()
        means, counts = ops.kmeans_update(x, offsets, km.labels_, 7)
        assert torch.equal(counts, km.counts_)
        assert torch.equal(means.nan_to_num(7), km.cluster_centers_.nan_to_num(7))

    def test_group_smaller_than_k_gets_one_cluster_per_row(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(7).fit(x, offsets)
        assert sorted(km.counts_[2].tolist()) == [0] * 4 + [1] * 3
        assert km.cluster_centers_[2].isnan().any(dim=1).tolist() == (km.counts_[2] == 0).tolist()
        assert km.inertia_[2] == 0
        assert km.counts_[1].sum() == 0
        assert km.inertia_[1] == 0
        assert km.cluster_centers_[1].isnan().all()

    def test_groups_stop_on_their_own(self, backend):
        x, offsets = ragged(backend.device)
        n_iter = da.BatchedKMeans(7, max_iter=100).fit(x, offsets).n_iter_.tolist()
        assert n_iter[1] == 0
        assert n_iter[2] <= 1
        assert n_iter[0] > 2

    def test_inertia_never_rises_with_more_iterations(self, backend):
        x, offsets = ragged(backend.device)
        inertia = [da.BatchedKMeans(5, max_iter=n, empty="keep").fit(x, offsets).inertia_ for n in range(8)]
        for earlier, later in pairwise(inertia):
            assert (later <= earlier * (1 + 1e-6)).all()

    def test_inertia_is_that_of_the_last_fit(self, backend):
        x = blobs(60, 4, 3).to(backend.device)
        km = da.BatchedKMeans(3).fit(x)
        first = km.inertia_
        assert torch.equal(km.fit(2 * x).inertia_, da.BatchedKMeans(3).fit(2 * x).inertia_)
        assert not torch.equal(km.inertia_, first)

    def test_function_returns_what_the_class_holds(self, backend):
        x, offsets = ragged(backend.device)
        result = da.kmeans(x, offsets, 7, max_iter=3, seed=4)
        km = da.BatchedKMeans(7, max_iter=3, seed=4).fit(x, offsets)
        assert result._fields == ("labels", "centroids", "counts", "inertia", "n_iter")
        assert same_bits(result, results(km))
        assert torch.equal(da.BatchedKMeans(7, max_iter=3, seed=4).fit_predict(x, offsets), km.labels_)

    def test_one_group_needs_no_offsets(self, backend):
        x = normal(30, 4).to(backend.device)
        assert same_bits(
            results(da.BatchedKMeans(3).fit(x)), results(da.BatchedKMeans(3).fit(x, torch.tensor([0, 30])))
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_rows_give_single_precision_results(self, backend, dtype):
        x = blobs(200, 8, 5).to(dtype).to(backend.device)
        km = da.BatchedKMeans(5, init="k-means++").fit(x)
        check_consistent(km, x, torch.tensor([0, 200]))
        assert km.cluster_centers_.dtype == torch.float32

    def test_rows_100_sigma_from_the_origin_cluster_as_at_the_origin(self, backend):
        x = (blobs(300, 6, 5) * 64).round() / 64  # Exact after the shift, so that only the algorithm can differ.
        near = da.BatchedKMeans(5, max_iter=30).fit(x.to(backend.device))
        far = da.BatchedKMeans(5, max_iter=30).fit((x + 1024).to(backend.device))
        assert torch.equal(near.labels_, far.labels_)
        torch.testing.assert_close(near.inertia_, far.inertia_, rtol=1e-3, atol=0)

    def test_empty_input_is_no_accident(self, backend):
        for offsets in (None, torch.tensor([0, 0, 0])):
            km = da.BatchedKMeans(3, tol=0.1, init="k-means++").fit(torch.zeros(0, 4, device=backend.device), offsets)
            assert km.labels_.shape == (0,)
            assert (km.inertia_ == 0).all()
            assert (km.representatives(2) == -1).all()

    def test_rows_that_require_gradients_are_taken_as_they_are(self, backend):
        x = normal(30, 4).to(backend.device).requires_grad_()
        assert not da.BatchedKMeans(3).fit(x).inertia_.requires_grad

    def test_strided_rows(self, backend):
        x = normal(4, 30).to(backend.device).T
        assert same_bits(results(da.BatchedKMeans(3).fit(x)), results(da.BatchedKMeans(3).fit(x.contiguous())))


class TestSameBits:
    options = pytest.mark.parametrize(
        "options",
        [{}, {"init": "k-means++"}, {"tol": 0.01}, {"empty": "keep"}],
        ids=lambda o: str(o) if o else "default",
    )

    @options
    def test_twice(self, backend, options):
        x, offsets = ragged(backend.device)
        first, second = (da.BatchedKMeans(9, **options).fit(x, offsets) for _ in range(2))
        assert same_bits(results(first), results(second))
        assert torch.equal(first.representatives(2), second.representatives(2))

    @options
    def test_alone_and_in_a_batch(self, backend, options):
        x, offsets = ragged(backend.device)
        together = da.BatchedKMeans(9, **options).fit(x, offsets)
        for g in range(len(SIZES)):
            rows = slice(int(offsets[g]), int(offsets[g + 1]))
            alone = da.BatchedKMeans(9, **options).fit(x[rows])
            own = together.labels_[rows], *(t[g : g + 1] for t in results(together)[1:])
            assert same_bits(results(alone), own)

    @options
    def test_in_any_order_of_groups(self, backend, options):
        x, offsets = ragged(backend.device)
        order = [3, 4, 0, 2, 1]
        bounds = offsets.tolist()
        shuffled = torch.cat([x[bounds[g] : bounds[g + 1]] for g in order])
        first = da.BatchedKMeans(9, **options).fit(x, offsets)
        second = da.BatchedKMeans(9, **options).fit(shuffled, offsets_of([SIZES[g] for g in order]))
        assert same_bits([t[order] for t in results(first)[1:]], results(second)[1:])
        assert torch.equal(torch.cat([first.labels_[bounds[g] : bounds[g + 1]] for g in order]), second.labels_)

    def test_with_any_number_of_threads(self, backend):
        x, threads = normal(3000, 20).to(backend.device), torch.get_num_threads()
        try:
            fits = []
            for n in (1, 3):
                torch.set_num_threads(n)
                fits.append(results(da.BatchedKMeans(30, max_iter=5).fit(x, [0, 2500, 3000])))
        finally:
            torch.set_num_threads(threads)
        assert same_bits(*fits)


class TestInitialisation:
    @pytest.mark.parametrize("init", ["random", "k-means++"])
    def test_draws_distinct_rows_of_the_group(self, backend, init):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(9, max_iter=0, init=init).fit(x, offsets)
        for g, size in enumerate(SIZES):
            rows = x[int(offsets[g]) : int(offsets[g + 1])]
            live = km.cluster_centers_[g][~km.cluster_centers_[g].isnan().any(dim=1)]
            assert len(live) == min(9, size)
            assert len(live.unique(dim=0)) == len(live)
            assert all((rows == centroid).all(dim=1).any() for centroid in live)

    @pytest.mark.parametrize("init", ["random", "k-means++"])
    def test_follows_the_seed(self, backend, init):
        x, offsets = ragged(backend.device)
        fits = [da.BatchedKMeans(9, max_iter=0, init=init, seed=s).fit(x, offsets) for s in (0, 0, 1)]
        centres = [km.cluster_centers_.nan_to_num(7) for km in fits]
        assert torch.equal(centres[0], centres[1])
        assert not torch.equal(centres[0], centres[2])

    def test_k_means_plus_plus_draws_proportionally_to_squared_distance(self, backend):
        # From the row at 0, the rows at 1 and 3 are drawn 1 : 9; from 1, 0 and 3 are 1 : 4; from 3, 0 and 1 are 9 : 4.
        x = torch.tensor([[0.0], [1.0], [3.0]], device=backend.device)
        pairs = [
            tuple(da.BatchedKMeans(2, max_iter=0, init="k-means++", seed=s).fit(x).cluster_centers_.flatten().tolist())
            for s in range(600)
        ]
        share = {pair: pairs.count(pair) / 600 for pair in set(pairs)}
        expected = {(0, 1): 1 / 30, (0, 3): 9 / 30, (1, 0): 1 / 15, (1, 3): 4 / 15, (3, 0): 3 / 13, (3, 1): 4 / 39}
        assert set(share) == set(expected)
        for pair, probability in expected.items():
            assert share[pair] == pytest.approx(probability, abs=0.06)
        nearer = [(0, 1), (1, 0), (3, 1)]
        assert sum(share[p] for p in nearer) == pytest.approx(sum(expected[p] for p in nearer), abs=0.045)

    def test_k_means_plus_plus_takes_duplicates_last(self, backend):
        x = torch.cat([torch.zeros(50, 2), torch.ones(1, 2), 2 * torch.ones(1, 2)]).to(backend.device)
        km = da.BatchedKMeans(5, max_iter=0, init="k-means++").fit(x)
        assert km.cluster_centers_.isfinite().all()
        assert len(km.cluster_centers_[0, :3].unique(dim=0)) == 3

    def test_given_centroids_are_used_as_they_are(self, backend):
        x, offsets = ragged(backend.device)
        start = normal(5, 4, 6, seed=3)
        for given_as in (start, start.numpy(), start.double()):
            km = da.BatchedKMeans(4, max_iter=0, init=given_as).fit(x, offsets)
            assert torch.equal(km.cluster_centers_.cpu(), start)
        km = da.BatchedKMeans(4, max_iter=0).fit(x, offsets, init=start)
        assert torch.equal(km.cluster_centers_.cpu(), start)

    def test_warm_start_begins_at_the_means_of_the_last_partition(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5, max_iter=2).fit(x, offsets)
        elsewhere = (x @ normal(6, 3, seed=5).to(x)).contiguous()
        means, _ = ops.kmeans_update(elsewhere, offsets, km.labels_, 5)
        km.max_iter = 0
        km.fit(elsewhere, offsets, init="labels")
        assert torch.equal(km.cluster_centers_.nan_to_num(7), means.nan_to_num(7))

    def test_warm_start_keeps_the_centroid_of_an_empty_cluster(self, backend):
        x, offsets = normal(30, 3).to(backend.device), torch.tensor([0, 30])
        start = torch.stack([x[0], x[1], torch.full_like(x[0], 100.0)]).unsqueeze(0)
        km = da.BatchedKMeans(3, max_iter=3, init=start, empty="keep").fit(x, offsets)
        assert km.counts_[0, 2] == 0
        km.fit(x, offsets, init="labels")
        assert km.cluster_centers_[0, 2].tolist() == [100.0] * 3

    def test_warm_start_at_a_fixpoint_stays_there(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5, max_iter=100).fit(x, offsets)
        labels, inertia = km.labels_, km.inertia_
        km.fit(x, offsets, init="labels")
        assert torch.equal(km.labels_, labels)
        assert torch.equal(km.inertia_, inertia)
        assert (km.n_iter_ <= 1).all()


class TestEmptyClusters:
    def test_none_is_left_where_distinct_rows_abound(self, backend):
        # All centroids but one begin far from every row.
        x = normal(200, 3).to(backend.device)
        start = torch.full((1, 20, 3), 1e3)
        start[0, 0] = 0
        km = da.BatchedKMeans(20, max_iter=30, init=start).fit(x)
        assert (km.counts_ > 0).all()
        check_consistent(km, x, torch.tensor([0, 200]))

    def test_keep_leaves_them_where_they_are(self, backend):
        x = normal(50, 3).to(backend.device)
        start = torch.tensor([[[0.0] * 3, [1e3] * 3]])
        km = da.BatchedKMeans(2, init=start, empty="keep").fit(x)
        assert km.counts_.tolist() == [[50, 0]]
        assert km.cluster_centers_[0, 1].tolist() == [1e3] * 3

    def test_dead_given_centroids_come_alive(self, backend):
        start = normal(1, 6, 3)
        start[0, 2:] = torch.nan
        km = da.BatchedKMeans(6, init=start).fit(normal(80, 3).to(backend.device))
        assert (km.counts_ > 0).all()

    def test_duplicates_cannot_fill_more_clusters_than_there_are_distinct_rows(self, backend):
        x = normal(3, 2).repeat(20, 1).to(backend.device)
        km = da.BatchedKMeans(8, max_iter=50).fit(x)
        assert (km.counts_ > 0).sum() == 3
        assert km.inertia_.item() < 1e-9


class TestRepresentatives:
    def test_128_of_500_rows_are_all_distinct(self, backend):
        # Seeding with replacement and empty clusters at the origin used to leave some 115 distinct picks of 128 here.
        x = normal(500, 64).relu().to(backend.device)
        km = da.BatchedKMeans(128, max_iter=20).fit(x)
        assert (km.counts_ > 0).all()
        assert km.representatives().unique().numel() == 128

    def test_first_of_each_cluster_is_its_nearest_member(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5).fit(x, offsets)
        picks = km.representatives(1)
        assert picks.shape == (5, 5)
        for g in (0, 3):
            for k in range(5):
                members = (km.labels_[offsets[g] : offsets[g + 1]] == k).nonzero().flatten() + offsets[g]
                distance = (x[members] - km.cluster_centers_[g, k]).square().sum(dim=1)
                assert picks[g, k] == members[distance.argmin()]

    def test_extra_clusters_of_a_small_group_are_never_picked(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5).fit(x, offsets)
        picks = km.representatives()
        assert torch.equal(picks[1:3] >= 0, km.counts_[1:3] > 0)

    def test_no_rows_give_no_picks(self, backend):
        km = da.BatchedKMeans(3).fit(normal(0, 4).to(backend.device))
        assert km.labels_.shape == (0,)
        assert km.inertia_.tolist() == [0]
        assert km.representatives(2).tolist() == [[-1] * 6]

    def test_groups_with_too_few_rows_are_padded_with_minus_one(self, backend):
        x, offsets = ragged(backend.device)
        picks = da.BatchedKMeans(5).fit(x, offsets).representatives(4).cpu()
        assert picks.shape == (5, 20)
        for g, size in enumerate(SIZES):
            real = picks[g][picks[g] >= 0]
            assert len(real) == len(real.unique()) == min(size, 20)
            assert ((real >= offsets[g].cpu()) & (real < offsets[g + 1].cpu())).all()


class TestPredict:
    def test_rows_it_was_fitted_on_keep_their_labels(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5).fit(x, offsets)
        assert torch.equal(km.predict(x, offsets), km.labels_)

    def test_other_rows_get_the_nearest_centroid_of_their_group(self, backend):
        x, offsets = ragged(backend.device)
        km = da.BatchedKMeans(5).fit(x, offsets)
        other = normal(11, 6, seed=9).to(backend.device)
        labels = km.predict(other, [0, 7, 7, 7, 11, 11])
        expected = torch.cdist(other[:7], km.cluster_centers_[0]).argmin(dim=1).tolist()
        expected += torch.cdist(other[7:], km.cluster_centers_[3]).argmin(dim=1).tolist()
        assert labels.tolist() == expected


class TestArrays:
    def test_numpy_in_numpy_out(self):
        x, offsets = ragged()
        km = da.BatchedKMeans(5).fit(x.numpy(), offsets.numpy())
        torch_km = da.BatchedKMeans(5).fit(x, offsets)
        assert all(isinstance(result, np.ndarray) for result in results(km))
        assert isinstance(km.representatives(), np.ndarray)
        assert isinstance(km.predict(x.numpy(), offsets.numpy()), np.ndarray)
        assert same_bits([torch.from_numpy(result) for result in results(km)], results(torch_km))

    def test_double_precision_is_kept(self, reference):
        x = np.random.RandomState(0).randn(40, 3)
        km = da.BatchedKMeans(4, init="k-means++", tol=1e-3).fit(x)
        assert km.cluster_centers_.dtype == np.float64
        theirs = ((x[:, None] - km.cluster_centers_[0]) ** 2).sum(axis=2)
        assert (km.labels_ == theirs.argmin(axis=1)).all()


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    n_clusters=st.integers(1, 7),
    n_features=st.integers(1, 4),
    max_iter=st.integers(0, 6),
    init=st.sampled_from(["random", "k-means++"]),
    empty=st.sampled_from(ops.EMPTY_POLICIES),
    grid=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_any_shape_is_clustered_consistently(backend, sizes, n_clusters, n_features, max_iter, init, empty, grid, seed):
    x, offsets = normal(sum(sizes), n_features, seed=seed), offsets_of(sizes)
    x = (x.round() if grid else x).to(backend.device)
    km = da.BatchedKMeans(n_clusters, max_iter=max_iter, init=init, empty=empty, seed=seed).fit(x, offsets)
    check_consistent(km, x, offsets)
    picks = km.representatives(2).cpu()
    for g, size in enumerate(sizes):
        real = picks[g][picks[g] >= 0].tolist()
        assert len(real) == len(set(real)) == min(size, 2 * n_clusters)
        assert all(offsets[g] <= row < offsets[g + 1] for row in real)


@pytest.mark.parametrize("init", INITS)
def test_fit_never_asks_the_host(backend, init):
    # The operators are watched from outside here; test_backends.py watches each backend from inside.
    x, offsets = ragged(backend.device)
    km = da.BatchedKMeans(7, tol=1e-4).fit(x, offsets)
    with no_host_round_trip() as seen:
        km.fit(x, offsets, init=init, check=False)
        km.representatives(2)
        km.fit(x, init=torch.zeros(1, 7, 6, device=x.device), check=False)
    assert {"kmeans_iterate", "nearest_members"} <= seen


class TestGraphs:
    @pytest.fixture
    def fake(self, monkeypatch):
        backend = FakeGraphs()
        graphed = GraphedFunction(lloyd.fit_groups, in_place=("x",), copy_outputs=True, backend=backend)
        monkeypatch.setattr(routing, "graphed_fit", lambda: graphed)
        return backend

    @pytest.mark.parametrize("init", ["random", "k-means++", "labels"])
    def test_fits_of_one_kind_share_a_graph_and_give_what_they_give_without(self, fake, init):
        x, offsets = ragged()
        for seed in range(4):
            x.copy_(normal(*x.shape, seed=seed))
            plain = da.BatchedKMeans(7, seed=seed, cuda_graph=False).fit(x, offsets)
            replayed = da.BatchedKMeans(7, seed=seed).fit(x, offsets)
            if init != "labels":
                plain, replayed = (
                    da.BatchedKMeans(7, seed=seed, init=init, cuda_graph=graph).fit(x, offsets)
                    for graph in (False, True)
                )
            else:
                x += 0.1 * normal(*x.shape, seed=9)
                plain.fit(x, offsets, init="labels")
                replayed.fit(x, offsets, init="labels")
            assert same_bits(results(plain), results(replayed))
        assert fake.log.count("record") == (1 if init == "random" else 2)

    def test_results_outlive_the_next_fit(self, fake):
        x, offsets = ragged()
        km = [da.BatchedKMeans(7, seed=seed).fit(x, offsets) for seed in range(4)]
        before = [result.clone() for result in results(km[2])]
        da.BatchedKMeans(7, seed=9).fit(x, offsets)
        assert same_bits(results(km[2]), before)

    def test_can_be_switched_off(self, fake):
        for _ in range(3):
            da.BatchedKMeans(3, cuda_graph=False).fit(normal(20, 4))
        assert fake.log == []

    @pytest.mark.gpu
    @pytest.mark.parametrize("init", INITS)
    def test_replayed_fits_on_the_device_neither_differ_nor_wait(self, init):
        x, offsets = ragged("cuda")
        plain, replayed = (da.BatchedKMeans(7, cuda_graph=graph).fit(x, offsets) for graph in (False, True))
        plain.fit(x, offsets, init=init)
        for _ in range(2):
            replayed.fit(x, offsets, init=init)
            plain.fit(x, offsets, init=init)
        torch.cuda.set_sync_debug_mode("error")
        try:
            replayed.fit(x, offsets, init=init, check=False)
            plain.fit(x, offsets, init=init, check=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if init != "labels":
            assert same_bits(results(plain), results(replayed))


X = torch.zeros(10, 3)
NOT_FINITE = torch.tensor([[0.0, 1.0], [torch.nan, 2.0], [3.0, torch.inf], [4.0, 5.0]])
OPPOSITE = torch.tensor([[0.0, 1.0], [torch.inf, -torch.inf]])


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            pytest.param({"n_clusters": 0}, ["n_clusters is 0", "at least 1"], id="no clusters"),
            pytest.param({"max_iter": -1}, ["max_iter is -1", "at least 0"], id="negative iterations"),
            pytest.param({"tol": -0.1}, ["tol is -0.1", "at least 0"], id="negative tolerance"),
            pytest.param({"init": "best"}, ["'best'", *INITS, "(G, K, D)"], id="unknown init"),
            pytest.param({"precision": "fp64"}, ["'fp64'", *ops.PRECISIONS], id="unknown precision"),
            pytest.param({"empty": "zero"}, ["'zero'", *ops.EMPTY_POLICIES], id="unknown policy"),
        ],
    )
    def test_options(self, options, said):
        message = refused_unlaunched(da.BatchedKMeans, **{"n_clusters": 3, **options})
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(
        ("x", "offsets", "said"),
        [
            pytest.param(X[0], None, ["(3,)", "(N, D)", "flatten"], id="1-d"),
            pytest.param(X[None], None, ["(1, 10, 3)", "(N, D)", "flatten"], id="3-d"),
            pytest.param(X[:, :0], None, ["(10, 0)", "at least 1 feature"], id="no features"),
            pytest.param(X.int(), None, ["torch.int32", "floating point", "x.float()"], id="integers"),
            pytest.param(X.numpy().astype(np.int64), None, ["torch.int64", 'x.astype("float32")'], id="numpy integers"),
            pytest.param(X.to(torch.complex64), None, ["torch.complex64", "floating point"], id="complex"),
            pytest.param(X.to_sparse(), None, ["x is sparse", "x.to_dense()"], id="sparse"),
            pytest.param(X.to("meta"), None, ["x is on meta", "holds no data"], id="no data"),
            pytest.param([[1.0, 2.0]], None, ["x is a list", "torch, NumPy or CuPy"], id="list"),
            pytest.param(
                NOT_FINITE, None, ["NaN or Inf", "2 of 4 rows", "first is row 1", "remove or repair"], id="NaN"
            ),
            pytest.param(OPPOSITE, None, ["1 of 2 rows", "row 1"], id="opposite infinities"),
            pytest.param(X, [0, 12, 10], ["falls from 12 to 10", "never decrease"], id="falling offsets"),
            pytest.param(X, [0, 9], ["from 0 to 9", "number of rows, 10"], id="offsets end early"),
            pytest.param(X, [2, 10], ["from 2 to 10", "from 0"], id="offsets begin late"),
            pytest.param(X, [0], ["no group"], id="no group"),
            pytest.param(X, torch.tensor([0, 10], device="meta"), ["offsets is on meta", "no data"], id="no offsets"),
            pytest.param(X, [0.0, 10.0], ["float", "integers"], id="fractional offsets"),
        ],
    )
    def test_rows_and_offsets(self, x, offsets, said):
        message = refused_unlaunched(da.BatchedKMeans(3).fit, x, offsets)
        assert all(part in message for part in said), message

    def test_unchecked_rows_are_taken_as_they_are(self):
        km = da.BatchedKMeans(2).fit(NOT_FINITE, check=False)
        assert km.labels_.shape == (4,)

    def test_finite_sums_do_not_hide_nan(self):
        x = torch.ones(5, 4, dtype=torch.float16)
        x[3, 2] = torch.nan
        assert "1 of 5" in refused_unlaunched(da.BatchedKMeans(2).fit, x)

    def test_sums_beyond_half_precision_are_no_infinity(self):
        da.BatchedKMeans(2).fit(torch.full((5, 40), 6e4, dtype=torch.float16))

    @pytest.mark.parametrize("shape", [(4, 3), (1, 5, 3), (1, 4, 2), (2, 4, 3)], ids=str)
    def test_centroids_of_another_shape(self, shape):
        message = refused_unlaunched(da.BatchedKMeans(4, init=torch.zeros(shape)).fit, X)
        assert f"init has shape {shape}" in message
        assert "(G, K, D) = (1, 4, 3)" in message

    def test_centroids_without_data(self):
        message = refused_unlaunched(da.BatchedKMeans(4, init=torch.zeros(1, 4, 3, device="meta")).fit, X)
        assert "init is on meta" in message

    def test_centroids_that_are_no_array(self):
        assert "init is a list" in refused_unlaunched(da.BatchedKMeans(1, init=[[[0.0] * 3]]).fit, X)

    def test_warm_start_of_other_rows(self):
        km = da.BatchedKMeans(3).fit(X)
        message = refused_unlaunched(km.fit, X[:4], init="labels")
        assert "4 rows after a fit of 10" in message

    @pytest.mark.parametrize(
        ("call", "asked"),
        [
            (lambda km: km.representatives(), "representatives()"),
            (lambda km: km.predict(X), "predict()"),
            (lambda km: km.inertia_, "inertia_"),
            (lambda km: km.fit(X, init="labels"), 'fit(init="labels")'),
        ],
    )
    def test_asking_before_fitting(self, call, asked):
        message = refused_unlaunched(call, da.BatchedKMeans(3))
        assert f"{asked} before fit()" in message
        assert "call fit(x, offsets) first" in message

    def test_predicting_rows_of_other_groups_or_features(self):
        km = da.BatchedKMeans(3).fit(X, [0, 4, 10])
        assert "(2, 3, 3)" in refused_unlaunched(km.predict, X)
        assert "(2, 3, 3)" in refused_unlaunched(km.predict, X[:, :2], [0, 4, 10])

    def test_predicting_rows_on_another_device(self):
        km = da.BatchedKMeans(3).fit(X)
        *rest, centroids = km._fitted
        km._fitted = (*rest, centroids.to("meta"))
        message = refused_unlaunched(km.predict, X)
        assert "x is on cpu and centroids on meta: move both to one device" in message

    def test_predicting_rows_that_are_not_finite(self):
        km = da.BatchedKMeans(3).fit(X)
        assert "NaN or Inf in 1 of 10 rows" in refused_unlaunched(
            km.predict, X.index_fill(0, torch.tensor([4]), torch.nan)
        )

    def test_clusters_that_are_no_integer(self):
        assert "n_clusters is 3.5" in refused_unlaunched(da.BatchedKMeans, 3.5)

    def test_offsets_that_are_no_numbers(self):
        assert "offsets is 'abc'" in refused_unlaunched(da.BatchedKMeans(3).fit, X, "abc")

    def test_no_representatives_per_cluster(self):
        assert "n is 0" in refused_unlaunched(da.BatchedKMeans(3).fit(X).representatives, 0)
