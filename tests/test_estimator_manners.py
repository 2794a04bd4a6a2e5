"""BatchedKMeans among estimators: scikit-learn's conventions, its numbers, and pickles."""

import copy
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from support.refusals import refused, refused_unlaunched

import dream_accel as da

DEFAULTS = {
    "n_clusters": 5,
    "max_iter": 20,
    "tol": 0.0,
    "init": "random",
    "seed": 0,
    "precision": "tf32",
    "empty": "farthest",
    "cuda_graph": True,
    "gram": False,
}


def rows(n: int = 60, n_features: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n_features)).astype(np.float32)


OFFSETS = [0, 25, 25, 28, 60]


def theirs(centroids: np.ndarray) -> KMeans:
    """scikit-learn's KMeans with these centroids, as if it had been fitted."""
    km = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    km.cluster_centers_ = centroids
    return km


def state(km) -> list[np.ndarray]:
    return [np.asarray(r) for r in (km.labels_, km.cluster_centers_, km.counts_, km.n_iter_, km.inertia_)]


def same(a, b) -> bool:
    return all(np.array_equal(u, v, equal_nan=True) for u, v in zip(a, b, strict=True))


class TestParameters:
    def test_get_params_returns_what_the_constructor_was_given(self):
        assert da.BatchedKMeans(5).get_params() == DEFAULTS
        assert da.BatchedKMeans(5).get_params(deep=False) == DEFAULTS
        start = np.zeros((1, 5, 4))
        assert da.BatchedKMeans(5, init=start).get_params()["init"] is start

    def test_set_params_changes_the_next_fit(self):
        x = rows()
        km = da.BatchedKMeans(5).fit(x)
        assert km.set_params(n_clusters=3, seed=7) is km
        assert same(state(km.fit(x)), state(da.BatchedKMeans(3, seed=7).fit(x)))

    def test_unknown_parameter_is_refused_with_the_known_ones(self):
        message = refused(da.BatchedKMeans(5).set_params, clusters=3)
        assert "unknown parameter of BatchedKMeans 'clusters'" in message
        assert ", ".join(DEFAULTS) in message

    def test_refused_values_leave_everything_as_it_was(self):
        km = da.BatchedKMeans(5)
        assert "max_iter is -1" in refused(km.set_params, seed=3, max_iter=-1)
        assert km.get_params() == DEFAULTS

    def test_clone_is_unfitted_and_has_equal_parameters(self):
        km = da.BatchedKMeans(5, max_iter=3, init="k-means++", seed=2).fit(rows())
        copied = clone(km)
        assert copied.get_params() == km.get_params()
        assert "before fit()" in refused(copied.predict, rows())
        assert same(state(copied.fit(rows())), state(km))

    def test_clone_copies_given_centroids(self):
        start = rows(5)[None]
        copied = clone(da.BatchedKMeans(5, init=start))
        assert np.array_equal(copied.init, start)
        assert copied.init is not start

    def test_numpy_integers_are_integers(self):
        km = da.BatchedKMeans(np.int64(3), max_iter=np.int32(4)).fit(rows())
        assert same(state(km), state(da.BatchedKMeans(3, max_iter=4).fit(rows())))

    def test_representation_shows_what_differs_from_the_defaults(self):
        assert repr(da.BatchedKMeans(5)) == "BatchedKMeans(n_clusters=5)"
        assert repr(da.BatchedKMeans(5, seed=3, tol=0.1)) == "BatchedKMeans(n_clusters=5, tol=0.1, seed=3)"
        shown = repr(da.BatchedKMeans(5, init=torch.zeros(1, 5, 4)))
        assert shown == "BatchedKMeans(n_clusters=5, init=<Tensor of shape (1, 5, 4)>)"


class TestAgainstScikitLearn:
    """With the same centroids both give the same numbers."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_transform_predict_and_score_of_one_group(self, reference, dtype):
        x, other = rows().astype(dtype), rows(500, seed=1).astype(dtype)
        km = da.BatchedKMeans(7, max_iter=3).fit(x)
        peer = theirs(km.cluster_centers_[0])
        found = km.transform(other)
        assert found.shape == (500, 7)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, peer.transform(other), rtol=1e-4 if dtype == np.float32 else 1e-10)
        assert np.array_equal(km.predict(other), peer.predict(other))
        assert isinstance(km.score(other), float)
        assert km.score(other) == pytest.approx(peer.score(other), rel=1e-5)

    def test_score_of_the_fitted_rows_is_minus_the_inertia(self, backend):
        x = torch.from_numpy(rows()).to(backend.device)
        km = da.BatchedKMeans(4).fit(x, OFFSETS)
        assert km.score(x, OFFSETS) == pytest.approx(-km.inertia_.sum().item(), rel=1e-6)

    def test_several_groups_are_their_own_estimators(self, backend):
        x = rows(seed=2)
        km = da.BatchedKMeans(3, max_iter=4).fit(torch.from_numpy(x).to(backend.device), OFFSETS)
        other = torch.from_numpy(rows(seed=3)).to(backend.device)
        found, score = km.transform(other, OFFSETS).cpu().numpy(), 0.0
        for g, (start, stop) in enumerate(itertools.pairwise(OFFSETS)):
            if stop > start:
                peer, part = theirs(km.cluster_centers_[g].cpu().numpy()), other[start:stop].cpu().numpy()
                np.testing.assert_allclose(found[start:stop], peer.transform(part), rtol=1e-4)
                score += peer.score(part)
        assert km.score(other, OFFSETS) == pytest.approx(score, rel=1e-5)


def test_centroids_after_no_iteration_are_a_copy_of_the_given_ones(backend):
    x = torch.from_numpy(rows()).to(backend.device)
    start = x[None, :5].clone()
    km = da.BatchedKMeans(5, init=start, max_iter=0).fit(x)
    assert torch.equal(km.cluster_centers_, start)
    assert km.cluster_centers_.data_ptr() != start.data_ptr()


class TestTransform:
    def test_smallest_distance_is_to_the_predicted_centroid_even_where_others_are_dead(self, backend):
        x = torch.from_numpy(rows()).to(backend.device)
        km = da.BatchedKMeans(8).fit(x, OFFSETS)
        distance = km.transform(x, OFFSETS)
        assert torch.equal(distance.argmin(dim=1).int(), km.predict(x, OFFSETS))
        assert distance[25:28, 3:].isinf().all()
        assert distance[25:28, :3].isfinite().all()
        assert not distance.isnan().any()

    def test_small_distances_far_from_the_origin_are_exact(self, reference):
        x = torch.tensor([[4096.0, 0.0], [4096.25, 0.0]])
        km = da.BatchedKMeans(1, init=x[None, :1], max_iter=0).fit(x)
        assert km.transform(x).tolist() == [[0.0], [0.25]]

    def test_alone_and_in_a_batch_it_has_the_same_bits(self):
        x = rows()
        km = da.BatchedKMeans(4).fit(x, OFFSETS)
        alone = da.BatchedKMeans(4).fit(x[28:])
        assert np.array_equal(km.transform(x, OFFSETS)[28:], alone.transform(x[28:]))

    def test_fit_transform_is_fit_and_transform(self):
        x = rows()
        km = da.BatchedKMeans(4)
        assert np.array_equal(km.fit_transform(x, OFFSETS), da.BatchedKMeans(4).fit(x, OFFSETS).transform(x, OFFSETS))
        in_chunks = da.BatchedKMeans(4).fit_transform(iter([x[:40], x[40:]]), OFFSETS)
        assert np.array_equal(in_chunks, km.transform(x, OFFSETS))
        assert np.array_equal(da.BatchedKMeans(4).fit_predict(x, OFFSETS, chunk_rows=100), km.labels_)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_rows_have_single_precision_distances(self, backend, dtype):
        x = torch.from_numpy(rows()).to(backend.device, dtype)
        km = da.BatchedKMeans(4).fit(x)
        expected = torch.cdist(x.double(), km.cluster_centers_[0].double())
        torch.testing.assert_close(km.transform(x).double(), expected, rtol=1e-5, atol=1e-5)

    def test_no_rows_give_no_distances_and_score_zero(self):
        km = da.BatchedKMeans(3).fit(rows())
        assert km.transform(rows()[:0]).shape == (0, 3)
        assert km.score(rows()[:0]) == 0.0

    def test_rows_of_a_group_without_centroids_score_minus_infinity(self):
        km = da.BatchedKMeans(3).fit(rows(), [0, 60, 60])
        assert km.score(rows(), [0, 30, 60]) == -np.inf


class TestPipeline:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_after_a_scaler_it_fits_predicts_transforms_and_scores(self, reference, dtype):
        x = (3 * rows() + 5).astype(dtype)
        scaled = StandardScaler().fit_transform(x)
        alone = da.BatchedKMeans(4, seed=1).fit(scaled)
        pipe = make_pipeline(StandardScaler(), da.BatchedKMeans(4, seed=1))
        assert np.array_equal(pipe.fit_predict(x), alone.labels_)
        assert np.array_equal(pipe.fit(x).predict(x), alone.labels_)
        assert np.array_equal(pipe.transform(x), alone.transform(scaled))
        assert np.array_equal(pipe.fit_transform(x), alone.transform(scaled))
        assert pipe.score(x) == alone.score(scaled)
        assert pipe[-1].cluster_centers_.dtype == dtype
        pipe.set_params(batchedkmeans__n_clusters=2)
        assert pipe.fit(x)[-1].cluster_centers_.shape == (1, 2, 4)

    def test_a_pipeline_knows_whether_it_is_fitted(self):
        km = da.BatchedKMeans(4)
        with pytest.raises(ValueError, match="not fitted"):
            check_is_fitted(km)
        check_is_fitted(km.fit(rows()))

    def test_a_grid_search_takes_the_best_score(self):
        grid = {"n_clusters": np.arange(1, 6)}
        search = GridSearchCV(da.BatchedKMeans(2, init="k-means++", max_iter=50), grid, cv=2).fit(rows(200))
        assert search.best_params_ == {"n_clusters": 5}

    def test_class_labels_are_not_taken_for_offsets(self):
        message = refused_unlaunched(da.BatchedKMeans(4).fit, rows(), np.arange(60) % 3)
        assert "offsets falls from 2 to 0" in message

    def test_importing_and_using_it_does_not_import_scikit_learn(self):
        program = (
            "import sys, torch, dream_accel as da; km = da.BatchedKMeans(2).fit(torch.rand(9, 2)); "
            "km.transform(torch.rand(3, 2)), km.get_params(), repr(km); assert 'sklearn' not in sys.modules"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def through_pickle(km):
    return pickle.loads(pickle.dumps(km))


@pytest.mark.parametrize("copied", [through_pickle, copy.deepcopy], ids=["pickle", "deepcopy"])
class TestCopies:
    def test_unfitted(self, copied):
        km = copied(da.BatchedKMeans(5, seed=3))
        assert km.get_params() == {**DEFAULTS, "seed": 3}
        assert "before fit()" in refused(km.predict, rows())

    @pytest.mark.parametrize("read_first", [False, True])
    @pytest.mark.parametrize("make", [lambda x: x, torch.from_numpy], ids=["numpy", "torch"])
    @pytest.mark.parametrize("options", [{}, {"chunk_rows": 20}], ids=["whole", "streamed"])
    def test_fitted(self, copied, read_first, make, options):
        x = rows()
        km = da.BatchedKMeans(5).fit(make(x), OFFSETS, **options)
        if read_first:
            _ = km.inertia_
        again = copied(km)
        assert type(again.inertia_) is type(km.labels_)
        assert same(state(again), state(km))
        assert np.array_equal(again.representatives(2), km.representatives(2))
        assert np.array_equal(again.predict(make(x), OFFSETS), km.labels_)
        assert same(state(again.fit(make(x), OFFSETS, init="labels")), state(km.fit(make(x), OFFSETS, init="labels")))

    def test_the_original_keeps_its_results_when_the_copy_is_fitted(self, copied):
        km = da.BatchedKMeans(5).fit(rows())
        before = [r.copy() for r in state(km)]
        copied(km).fit(rows(seed=9))
        assert same(before, state(km))


class TestRefusals:
    @pytest.mark.parametrize("asked", ["transform", "score"])
    def test_asking_before_fitting(self, asked):
        assert f"{asked}() before fit()" in refused_unlaunched(getattr(da.BatchedKMeans(3), asked), rows())

    @pytest.mark.parametrize("asked", ["transform", "score", "predict"])
    def test_rows_that_do_not_fit_the_centroids(self, asked):
        call = getattr(da.BatchedKMeans(3).fit(rows(), OFFSETS), asked)
        assert "(4, 3, 4)" in refused_unlaunched(call, rows())
        assert "(4, 3, 4)" in refused_unlaunched(call, rows(n_features=3), OFFSETS)
        assert "NaN or Inf in 1 of 60 rows" in refused_unlaunched(
            call, np.where(rows() == rows().max(), np.nan, rows()), OFFSETS
        )

    @pytest.mark.parametrize("asked", ["transform", "score", "predict"])
    def test_rows_beyond_the_precision_of_the_fit(self, asked):
        call = getattr(da.BatchedKMeans(3).fit(rows()), asked)
        message = refused_unlaunched(call, rows().astype(np.float64) * 1e40)
        assert "x holds numbers beyond torch.float32, in which the centroids were fitted" in message
