"""Numbers, dtypes and modes that broke this or comparable software: each has its defined value here, or its refusal."""

import io
import multiprocessing
import pickle

import joblib
import numpy as np
import pytest
import torch
from support.refusals import refused, refused_unlaunched

import dream_accel as da
from dream_accel import ops
from dream_accel.compat.fast_pytorch_kmeans import KMeans, MultiKMeans

OFFSETS = [0, 25, 25, 28, 90]
EVERY = {
    "plain": {},
    "k-means++": {"init": "k-means++"},
    "tolerance": {"tol": 1e-2},
    "keep": {"empty": "keep"},
    "no iteration": {"max_iter": 0},
}


def rows(n: int = 90, n_features: int = 7, seed: int = 0) -> torch.Tensor:
    """Whole numbers, which keep all digits when they are made subnormal."""
    return torch.randint(-40, 41, (n, n_features), generator=torch.Generator().manual_seed(seed)).float()


def times_power(values: torch.Tensor, exponent: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rounded once, to ``dtype``."""
    return (values.double() * 2.0**exponent).to(dtype)


def two_blobs() -> torch.Tensor:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    x[30:] += 20
    return x


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def assert_scaled_results(km, ordinary, exponent: int) -> None:
    """All results of a fit are those of the ordinary rows, times powers of two."""
    assert torch.equal(km.labels_, ordinary.labels_)
    assert torch.equal(km.counts_, ordinary.counts_)
    assert torch.equal(km.n_iter_, ordinary.n_iter_)
    assert same(km.cluster_centers_, times_power(ordinary.cluster_centers_, exponent))
    assert torch.equal(km.representatives(2), ordinary.representatives(2))
    expected = ordinary.inertia_.double() * 2.0 ** (2 * exponent)
    torch.testing.assert_close(km.inertia_.double(), expected, rtol=1e-6, atol=0)


class TestOutsideTheRangeOfSquares:
    """scipy PR#24432: squared distances leave float32 where the rows themselves do not."""

    def test_one_row_of_1e20_among_ordinary_ones_is_a_cluster_of_its_own(self, backend):
        """scipy PR#24432: all rows were in one cluster, and the inertia was infinite."""
        x = two_blobs().to(backend.device)
        x[7] = 1e20
        km = da.BatchedKMeans(2, init="k-means++").fit(x)
        far = km.labels_[7]
        assert (km.labels_ == far).sum() == 1
        assert torch.equal(km.cluster_centers_[0, far], x[7])
        others = torch.cat([x[:7], x[8:]]).double()
        torch.testing.assert_close(km.cluster_centers_[0, 1 - far], others.mean(dim=0).float())
        expected = (others - others.mean(dim=0)).square().sum()
        torch.testing.assert_close(km.inertia_.double(), expected[None], rtol=1e-5, atol=0)
        assert torch.equal(km.predict(x), km.labels_)
        assert km.score(x) == pytest.approx(-expected.item(), rel=1e-5)

    @pytest.mark.parametrize("exponent", [120, 64, -76, -100, -143])
    @pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
    def test_a_power_of_two_changes_no_label_and_no_digit(self, backend, options, exponent):
        """scipy PR#24432: rows of 1e38 were refused as NaN or Inf; rows of 1e-23 were merged, with inertia 0."""
        x = rows().to(backend.device)
        km = da.BatchedKMeans(4, seed=3, **options)
        ordinary = da.BatchedKMeans(4, seed=3, **options).fit(x, OFFSETS)
        scaled = times_power(x, exponent)
        assert_scaled_results(km.fit(scaled, OFFSETS), ordinary, exponent)

    @pytest.mark.parametrize("exponent", [115, -76])
    def test_other_rows_are_compared_as_the_fitted_ones(self, backend, exponent):
        """scipy PR#24432, for predict, transform and score."""
        x, other = rows().to(backend.device), rows(seed=1).to(backend.device)
        ordinary = da.BatchedKMeans(4).fit(x, OFFSETS)
        km = da.BatchedKMeans(4).fit(times_power(x, exponent), OFFSETS)
        scaled = times_power(other, exponent)
        assert torch.equal(km.predict(scaled, OFFSETS), ordinary.predict(other, OFFSETS))
        distances = ordinary.transform(other, OFFSETS)
        torch.testing.assert_close(km.transform(scaled, OFFSETS), distances * 2.0**exponent, rtol=1e-6, atol=0)
        expected = ordinary.score(other, OFFSETS) * 2.0 ** (2 * exponent)
        assert km.score(scaled, OFFSETS) == pytest.approx(expected, rel=1e-6)
        fitted = da.BatchedKMeans(4).fit_transform(times_power(x, exponent), OFFSETS)
        torch.testing.assert_close(fitted, ordinary.transform(x, OFFSETS) * 2.0**exponent, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("chunk_rows", [10, 100])
    def test_streamed_rows(self, backend, chunk_rows):
        """scipy PR#24432, for rows that stay in host memory."""
        x, options = rows(), {"chunk_rows": chunk_rows, "device": backend.device}
        ordinary = da.BatchedKMeans(4, init="k-means++").fit(x, OFFSETS, **options)
        km = da.BatchedKMeans(4, init="k-means++").fit(times_power(x, 100), OFFSETS, **options)
        assert_scaled_results(km, ordinary, 100)

    def test_gram_matrices(self, backend):
        """scipy PR#24432, for groups that are fitted on their Gram matrices."""
        x = rows(100, 300).to(backend.device)
        ordinary = da.BatchedKMeans(5, gram=True).fit(x)
        assert_scaled_results(da.BatchedKMeans(5, gram=True).fit(times_power(x, -80)), ordinary, -80)

    @pytest.mark.parametrize("exponent", [110, -110])
    def test_initial_centroids_and_partitions(self, backend, exponent):
        """scipy PR#24432, for fits that start from something given."""
        x = rows().to(backend.device)
        scaled, start = times_power(x, exponent), x[:5][None].contiguous()
        ordinary = da.BatchedKMeans(5, max_iter=3, init=start).fit(x)
        km = da.BatchedKMeans(5, max_iter=3, init=times_power(start, exponent)).fit(scaled)
        assert_scaled_results(km, ordinary, exponent)
        ordinary.fit(x, init="labels")
        assert_scaled_results(km.fit(scaled, init="labels"), ordinary, exponent)

    def test_bfloat16_rows(self, backend):
        """scipy PR#24432: bfloat16 has the range of float32."""
        x = rows().to(torch.bfloat16).to(backend.device)
        ordinary = da.BatchedKMeans(4).fit(x, OFFSETS)
        assert_scaled_results(da.BatchedKMeans(4).fit(x * 2.0**100, OFFSETS), ordinary, 100)

    @pytest.mark.parametrize("exponent", [900, -900])
    def test_float64_rows(self, reference, exponent):
        """scipy PR#24432: float64 has a square root too."""
        x = rows().double()
        ordinary = da.BatchedKMeans(4).fit(x, OFFSETS)
        km = da.BatchedKMeans(4).fit(x * 2.0**exponent, OFFSETS)
        assert torch.equal(km.labels_, ordinary.labels_)
        assert same(km.cluster_centers_, ordinary.cluster_centers_ * 2.0**exponent)
        assert torch.equal(km.predict(x * 2.0**exponent, OFFSETS), km.labels_)

    def test_groups_of_any_magnitude_share_a_batch(self, backend):
        """scipy PR#24432: what one group needs changes no bit of another."""
        x = rows(75).to(backend.device)
        parts = [x[:25], times_power(x[25:50], 100), times_power(x[50:], -90), x[:0], x[:10] * 0]
        offsets = torch.tensor([0, *map(len, parts)]).cumsum(0)
        together = da.BatchedKMeans(3).fit(torch.cat(parts), offsets)
        for g, part in enumerate(parts):
            alone = da.BatchedKMeans(3).fit(part)
            assert torch.equal(together.labels_[offsets[g] : offsets[g + 1]], alone.labels_)
            assert same(together.cluster_centers_[g], alone.cluster_centers_[0])
            assert together.inertia_[g].item() == pytest.approx(alone.inertia_[0].item(), rel=1e-6)

    def test_ordinary_rows_beside_a_centroid_of_1e20(self, backend):
        """scipy PR#24432: the centroids alone may need the scaling."""
        x = two_blobs().to(backend.device)
        km = da.BatchedKMeans(2, max_iter=0, init=torch.stack([torch.full((5,), 1e20), torch.zeros(5)])[None]).fit(x)
        assert km.labels_.eq(1).all()
        assert km.predict(x).eq(1).all()
        assert torch.isfinite(km.inertia_).all()

    def test_an_inertia_that_only_the_number_of_rows_takes_out_of_float32(self, backend):
        """scipy PR#24432: every square fits and their sum does not."""
        x = two_blobs().repeat(500, 1).to(backend.device) * 1e18
        km = da.BatchedKMeans(1).fit(x)
        expected = (x.double() - x.double().mean(dim=0)).square().sum()
        torch.testing.assert_close(km.inertia_, expected[None], rtol=1e-5, atol=0)

    def test_nan_among_rows_of_1e38_is_still_named(self):
        """scipy PR#24432: only what is not finite is refused as such."""
        x = torch.full((6, 9), 3e38)
        da.BatchedKMeans(2).fit(x)
        x[4, 3] = torch.nan
        assert "NaN or Inf in 1 of 6 rows (the first is row 4)" in refused_unlaunched(da.BatchedKMeans(2).fit, x)

    def test_distances_beyond_float32_are_refused(self):
        """scipy PR#24432: a distance that float32 cannot hold would look like that to a dead centroid."""
        x = torch.tensor([[3e38, 3e38], [-3e38, -3e38]])
        km = da.BatchedKMeans(2).fit(x)
        assert sorted(km.labels_.tolist()) == [0, 1]
        assert "torch.float32 cannot hold it" in refused(km.transform, x)


class TestHardRows:
    def test_a_large_offset_hides_no_spread(self, backend):
        """Products of rows far from the origin cancel, unless they are centred."""
        x = two_blobs().to(backend.device)
        near = da.BatchedKMeans(2, init="k-means++").fit(x)
        km = da.BatchedKMeans(2, init="k-means++").fit(x + 2.0**17)
        assert torch.equal(km.labels_, near.labels_)
        torch.testing.assert_close(km.inertia_, near.inertia_, rtol=1e-2, atol=0)

    def test_one_row_repeated_is_one_cluster_without_inertia(self, backend):
        """Duplicates alone leave clusters empty."""
        for value in (1.0, 0.0, 1e20, 1e-30, -0.0):
            km = da.BatchedKMeans(3).fit(torch.full((10, 4), value, device=backend.device))
            assert km.labels_.eq(km.labels_[0]).all()
            assert km.inertia_.eq(0).all()
            assert km.counts_.sum() == 10

    def test_signs_of_zero_are_equal(self, backend):
        """Rows of -0.0 are rows of 0.0."""
        x = two_blobs().to(backend.device)
        x[:, 0] = 0.0
        negative = x.clone()
        negative[::2, 0] = -0.0
        a, b = da.BatchedKMeans(3).fit(x), da.BatchedKMeans(3).fit(negative)
        assert torch.equal(a.labels_, b.labels_)
        assert torch.equal(a.cluster_centers_, b.cluster_centers_)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_initial_centroids_that_are_not_finite_are_dead(self, backend, value):
        """They are never nearest, and with every one dead the rows still get labels."""
        x = two_blobs().to(backend.device)
        start = torch.full((1, 2, 5), value)
        km = da.BatchedKMeans(2, max_iter=0, init=start).fit(x)
        assert km.labels_.eq(0).all()
        start[0, 1] = 0.0
        assert da.BatchedKMeans(2, max_iter=0, init=start).fit(x).inertia_.dtype == torch.float32
        assert da.BatchedKMeans(2, max_iter=0, init=start).fit(x).labels_.eq(1).all()


def cosine_by_formula(x: torch.Tensor, y: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The distance of one row each, and its derivative in y, in float64."""
    x, y = x.double(), y.double()
    p, x_norm, y_norm = x @ y, x.norm(), y.norm()
    q = x_norm * y_norm + 1e-6
    return (1 - p / q).item(), p * x_norm * y / (y_norm * q * q) - x / q


class TestDistances:
    @pytest.mark.parametrize("metric", ["cos", "global_cos"])
    @pytest.mark.parametrize("length", [3, 50, 20000])
    @pytest.mark.parametrize(
        ("x_size", "y_size"),
        [(1e20, 1e20), (1e37, 1e37), (1e25, 1e-25), (1e-25, 1e25), (1e-10, 1e30), (1e-30, 1e-30), (1.0, 1e30)],
    )
    def test_cosine_of_any_finite_gradients(self, gradient_backend, metric, length, x_size, y_size):
        """Gradients of 1e20 gave NaN: squares of norms are formed where they fit."""
        if gradient_backend.name not in ("reference", "cpu"):
            pytest.skip("GPU kernels form squares in float32")
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(1, length, generator=draws).clamp(-3, 3) * x_size
        y = (x / x_size + torch.randn(1, length, generator=draws).clamp(-3, 3)) * y_size
        found, (grad,) = ops.gradient_distance([x], [y], metric, "all", return_grads=True)
        value, derivative = cosine_by_formula(x[0], y[0])
        assert found.item() == pytest.approx(value, rel=1e-5)
        scale = derivative.abs().max()
        # Below 1e-38 float32 has fewer digits.
        torch.testing.assert_close(grad[0].double(), derivative, rtol=0, atol=1e-6 * scale.item() + 1e-44)

    @pytest.mark.parametrize("metric", ["mse", "l1", "l1_mean", "global_mse"])
    def test_differences_whose_sum_exceeds_float32_are_infinite(self, gradient_backend, metric):
        """A sum of squares of 1e20 is no float32: infinity, never NaN, and the derivative stays finite."""
        x, y = (torch.full((4, 50), v, device=gradient_backend.device) for v in (1e37, -1e37))
        found, (grad,) = ops.gradient_distance([x], [y], metric, "all", return_grads=True)
        assert found == torch.inf or metric == "l1_mean"
        assert grad.isfinite().all()

    @pytest.mark.parametrize(
        ("scale", "per_class", "said"),
        [
            (torch.ones(2), True, "(2,): expected (G, L), one column for each of 1 tensors"),
            (torch.ones(2, 3), True, "(2, 3): expected (G, L)"),
            (torch.ones(3, 1), True, "tensor 0 has shape (2, 4) and scale has 3 rows"),
            (torch.ones(2, 1), False, "scale has 2 rows: without per_class it must have 1"),
            (torch.ones(2, 1, dtype=torch.int64), True, "scale is torch.int64"),
        ],
    )
    def test_factors_that_do_not_fit_are_refused(self, scale, per_class, said):
        """scale_gradients called directly read beyond its factors."""
        message = refused_unlaunched(torch.ops.dream_accel.scale_gradients, [torch.ones(2, 4)], scale, per_class)
        assert said in message


class TestNumbers:
    @pytest.mark.parametrize("wrong", [2.5, 2.0, np.float64(3), "3", None, True, np.nan, [3]], ids=repr)
    @pytest.mark.parametrize("name", ["n_clusters", "max_iter", "seed", "chunk_rows", "n"])
    def test_what_is_no_whole_number_is_refused_by_name(self, name, wrong):
        """cuml PR#6150 and max_iter=2.5: a TypeError, or the next integer."""
        x = two_blobs()
        if name == "chunk_rows":
            if wrong is None:
                return
            message = refused(da.BatchedKMeans(3).fit, x, chunk_rows=wrong)
        elif name == "n":
            message = refused(da.BatchedKMeans(3).fit(x).representatives, wrong)
        else:
            message = refused(da.BatchedKMeans, **{"n_clusters": 3, name: wrong})
        assert message.startswith(f"{name} is ")
        assert "it must be a whole number" in message

    @pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
    def test_whole_numbers_of_other_libraries_are_their_ints(self, kind):
        """n_clusters=np.int64(3) "must be an integer"; a seed of NumPy named another stream than its int."""
        x = two_blobs()
        expected = da.BatchedKMeans(3, 5, seed=7, init="k-means++").fit(x, chunk_rows=11)
        km = da.BatchedKMeans(kind(3), kind(5), seed=kind(7), init="k-means++").fit(x, chunk_rows=kind(11))
        assert torch.equal(km.labels_, expected.labels_)
        assert torch.equal(km.representatives(kind(2)), expected.representatives(2))

    @pytest.mark.parametrize("wrong", [np.nan, -1e-9, "1", None, [0.1]], ids=repr)
    def test_tolerances_that_are_no_number_are_refused(self, wrong):
        """NaN compares as False with everything, so it passed for 0."""
        assert "it must be a number, at least 0" in refused(da.BatchedKMeans, 3, tol=wrong)

    def test_a_random_state_is_no_seed(self):
        """cuml PR#6150: its text is an address, which names another stream in every process."""
        assert "seed is a RandomState" in refused(da.BatchedKMeans, 3, seed=np.random.RandomState(0))


def fitted(kind: str):
    x = two_blobs()
    if kind in ("KMeans", "MultiKMeans"):
        torch.manual_seed(0)
        km = KMeans(3) if kind == "KMeans" else MultiKMeans(2, 3)
        km.fit(x if kind == "KMeans" else torch.stack([x, x + 1]))
        return km
    if kind == "streamed":
        return da.BatchedKMeans(3).fit(x, chunk_rows=11)
    if kind == "NumPy":
        return da.BatchedKMeans(3).fit(x.numpy())
    return da.BatchedKMeans(3).fit(x * 1e25 if kind == "scaled" else x)


def by_pickle(km):
    return pickle.loads(pickle.dumps(km))


def by_torch(km):
    file = io.BytesIO()
    torch.save(km, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def by_joblib(km):
    file = io.BytesIO()
    joblib.dump(km, file)
    return joblib.load(io.BytesIO(file.getvalue()))


def by_the_pickler_of_pools(km):
    return pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(km))


KINDS = ["in memory", "streamed", "scaled", "NumPy", "KMeans", "MultiKMeans"]


def assert_same_estimator(km, copy) -> None:
    x = two_blobs()
    if isinstance(km, MultiKMeans):
        assert torch.equal(km.centroids, copy.centroids)
        x = x if isinstance(km, KMeans) else torch.stack([x, x])
        assert torch.equal(km.predict(x), copy.predict(x))
        return
    for name in ("labels_", "cluster_centers_", "counts_", "n_iter_", "inertia_"):
        assert np.array_equal(getattr(km, name), getattr(copy, name))
    assert np.array_equal(km.representatives(2), copy.representatives(2))
    assert np.array_equal(km.predict(x), copy.predict(x))
    assert torch.equal(torch.as_tensor(copy.fit(x, init="labels").labels_), km.fit(x, init="labels").labels_)


class TestPickles:
    """cuml#3140: a fitted estimator could not be stored or returned from a process."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("way", [by_pickle, by_torch, by_joblib, by_the_pickler_of_pools])
    def test_a_fitted_estimator_is_what_it_was(self, kind, way):
        km = fitted(kind)
        assert_same_estimator(km, way(km))

    @pytest.mark.slow
    def test_a_pool_returns_fitted_estimators(self):
        """cuml#3140, in processes that start anew."""
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            for kind, km in zip(KINDS, pool.map(fitted, KINDS), strict=True):
                assert_same_estimator(fitted(kind), km)


class TestArrays:
    @pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2"])
    def test_the_other_byte_order_is_read(self, reference, dtype):
        """A traceback of PyTorch's: files of FITS and IDX hold big-endian numbers."""
        x = two_blobs().numpy().astype(dtype)
        native = x.astype(x.dtype.newbyteorder("="))
        km = da.BatchedKMeans(3).fit(x, np.array([0, 60], dtype=">i8"))
        assert np.array_equal(km.labels_, da.BatchedKMeans(3).fit(native).labels_)
        assert np.array_equal(km.predict(x), km.labels_)
        given = da.BatchedKMeans(3).fit(x, init=x[None, :3])
        assert np.array_equal(given.labels_, km.fit(native, init=native[None, :3]).labels_)

    @pytest.mark.parametrize("dtype", [object, str, "M8[s]", "S3"] + [np.longdouble] * (np.longdouble != np.float64))
    def test_dtypes_that_tensors_lack_are_refused(self, dtype):
        """A TypeError of PyTorch's."""
        x = np.zeros((60, 5), dtype=dtype)
        km = da.BatchedKMeans(3).fit(two_blobs())
        for call in (da.BatchedKMeans(3).fit, km.predict, km.transform, km.score):
            assert "which tensors lack" in refused_unlaunched(call, x)
        assert "init is a NumPy array of" in refused_unlaunched(da.BatchedKMeans(3, init=x[None, :3]).fit, two_blobs())
        assert "features is a NumPy array of" in refused_unlaunched(da.select, x, torch.zeros(60, dtype=torch.int64), 3)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64], ids=str)
    def test_rows_that_are_no_floating_point_numbers_are_refused(self, dtype):
        """A traceback further down; pixels and counts are converted by who knows their scale."""
        x = two_blobs().to(dtype)
        km = da.BatchedKMeans(3).fit(two_blobs())
        for call in (da.BatchedKMeans(3).fit, km.predict, km.transform, km.score):
            assert f"x is {dtype}: features must be floating point" in refused_unlaunched(call, x)
        assert "x.astype" in refused_unlaunched(km.predict, x.numpy())
        labels = torch.zeros(60, dtype=torch.int64)
        assert f"features is {dtype}" in refused_unlaunched(da.select, x, labels, 3)

    def test_truth_values_are_no_offsets_and_no_centroids(self):
        """True passed for 1."""
        assert "offsets is torch.bool" in refused(da.BatchedKMeans(1).fit, two_blobs()[:1], np.array([False, True]))
        start = torch.ones(1, 3, 5, dtype=torch.bool)
        assert "init is torch.bool" in refused(da.BatchedKMeans(3, init=start).fit, two_blobs())

    @pytest.mark.parametrize("asked", ["predict", "transform", "score"])
    def test_rows_are_taken_in_the_precision_of_the_fit(self, reference, asked):
        """A fit in float32 and predict in float64: the sentence told to convert the centroids."""
        x = two_blobs()
        single, double = da.BatchedKMeans(3).fit(x), da.BatchedKMeans(3).fit(x.double())
        for km, other in ((single, x.double()), (double, x), (single, x.numpy().astype(np.float64))):
            own = x.to(km.cluster_centers_.dtype)
            found = torch.as_tensor(getattr(km, asked)(other))
            assert torch.equal(found, torch.as_tensor(getattr(km, asked)(own)))


@pytest.fixture
def float64_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TestModes:
    @pytest.mark.parametrize("options", [{}, {"init": "k-means++"}, {"tol": 1e-2}, {"empty": "keep"}, {"gram": True}])
    @pytest.mark.parametrize("chunk_rows", [None, 30])
    def test_the_default_dtype_changes_nothing(self, backend, options, chunk_rows):
        """torch.set_default_dtype(float64) made tensors float64 that beside float32 rows must not be."""
        x, offsets = torch.randn(120, 250, generator=torch.Generator().manual_seed(0)), [0, 20, 20, 120]
        x = x if chunk_rows else x.to(backend.device)
        place = {"chunk_rows": chunk_rows, "device": backend.device} if chunk_rows else {}
        expected = da.BatchedKMeans(5, **options).fit(x, offsets, **place)
        torch.set_default_dtype(torch.float64)
        try:
            km = da.BatchedKMeans(5, **options).fit(x, offsets, **place)
            assert km.inertia_.dtype == torch.float32
            assert same(km.cluster_centers_, expected.cluster_centers_)
            assert same(km.transform(x, offsets), expected.transform(x, offsets))
            assert torch.equal(km.representatives(), expected.representatives())
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_distances_have_the_dtype_of_their_tensors(self, gradient_backend, float64_default, metric):
        """torch.set_default_dtype(float64)."""
        x, y = (torch.randn(3, 5, dtype=torch.float32, device=gradient_backend.device) for _ in range(2))
        y.requires_grad_()
        for call in (ops.gradient_distance, ops.feature_distance):
            distance = call([x], [y], metric, **({"layers": "all"} if call is ops.gradient_distance else {}))
            distance.backward()
            assert distance.dtype == y.grad.dtype == torch.float32

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_a_fit_in_a_mode_is_used_outside_it_and_the_other_way_round(self, backend, mode):
        """Called under no_grad or inference_mode: tensors made there are read, and written to by nobody."""
        x = two_blobs().to(backend.device)
        expected = da.BatchedKMeans(3).fit(x)
        km = da.BatchedKMeans(3)
        with mode():
            inside = x.clone()
            km.fit(inside)
            assert torch.equal(expected.predict(inside), expected.labels_)
        for use in (x, inside):
            assert torch.equal(km.predict(use), expected.labels_)
            assert torch.equal(km.transform(use), expected.transform(x))
        assert torch.equal(km.inertia_, expected.inertia_)
        assert torch.equal(km.representatives(), expected.representatives())
        assert torch.equal(km.fit(x, init="labels").labels_, expected.fit(x, init="labels").labels_)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_distances_in_a_mode(self, gradient_backend, mode):
        """The value is the same, no graph is made, and a target from inference mode can be matched outside it."""
        x, y = (torch.randn(3, 5, device=gradient_backend.device) for _ in range(2))
        y.requires_grad_()
        expected = ops.gradient_distance([x], [y], layers="all")
        with mode():
            target = x.clone()
            found, (grad,) = ops.gradient_distance([target], [y], layers="all", return_grads=True)
            assert not ops.gradient_distance([target], [y], layers="all").requires_grad
        assert torch.equal(found, expected.detach())
        ops.gradient_distance([target], [y], layers="all").backward()
        assert torch.equal(y.grad, grad)
