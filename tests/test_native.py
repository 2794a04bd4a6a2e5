"""The compiled CPU kernels against float64, for every instruction set this machine runs."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.kmeans_problems import offsets_of, problem, whole_numbers
from support.nearest import assert_nearest
from support.refusals import refused

from dream_accel.backends import _native, cpu, formulas, reference
from dream_accel.backends.iteration import iterate

C = _native.load()
pytestmark = pytest.mark.skipif(C is None, reason=f"no compiled kernels: {_native.why_not()}")
NAN, INF = float("nan"), float("inf")

# Rows of each group, D, K.
SHAPES = {
    "one feature": ([40, 3], 1, 7),
    "just below a vector": ([33, 0, 65, 1], 15, 4),
    "just above a vector": ([100], 17, 33),
    "K = N": ([70], 17, 70),
    "K > N": ([3, 0, 20], 5, 50),
    "K = 1": ([20, 90], 16, 1),
    "wide rows": ([130, 2], 2048, 40),
    "blocks of columns with a tail": ([30], 2300, 17),
    "more clusters than one pass holds": ([60], 19, 1100),
    "a thousand tiny groups": ([3] * 1000, 8, 2),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
METRICS = ["mse", "l1", "l1_mean", "cos", "global_mse", "global_cos"]


def instruction_sets() -> list:
    """All that run here, of which the first and the last are tested quickly too."""
    names = C.isas() if C else []
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in (names[0], names[-1]))) for name in names]


@pytest.fixture(autouse=True, params=instruction_sets())
def isa(request):
    C.force_isa(request.param)
    yield request.param
    C.force_isa("")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def assign(x, offsets, centroids, active=None, labels=None, distance=None):
    return cpu.kmeans_assign(x, offsets, centroids, active, labels, distance, "fp32")


def all_distances(x, offsets, centroids):
    """(N, K) squared distances in float64; dead centroids are infinitely far."""
    own = centroids.double()[reference.group_of_rows(offsets, len(x))]
    return (x.double().unsqueeze(1) - own).square().sum(2).nan_to_num(nan=INF)


class TestAssign:
    @shapes
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_every_row_gets_its_nearest_centroid(self, shape, dtype):
        x, offsets, centroids = problem(*shape, dtype)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    def test_offset_of_100_sigma_does_not_spoil_the_labels(self):
        x, offsets, centroids = problem([300, 40], 256, 40, shift=100.0)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    def test_errors_that_add_up_do_not_spoil_the_labels(self):
        # Rows and centroids of equal entries: whatever a product loses, it loses in every feature alike.
        generator = torch.Generator().manual_seed(0)
        positive = 1 + torch.rand(1, 32, 1, generator=generator) / 20
        centroids = torch.cat([positive, -positive], 1).expand(1, 64, 64).contiguous()
        x = (1 + torch.rand(400, 1, generator=generator) / 20).expand(400, 64).contiguous()
        assert_nearest(x, offsets_of([400]), centroids, *assign(x, offsets_of([400]), centroids))

    def test_feature_that_dwarfs_the_rest_does_not_hide_them(self):
        x, offsets, centroids = problem([400], 256, 40)
        x[:, 7] = 100 * x[:, 7].sign()
        centroids[:, :, 7] = 100 * centroids[:, :, 7].sign()
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    def test_close_calls_among_many_rows_are_right(self):
        x, offsets, centroids = problem([4000], 64, 40)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    @pytest.mark.parametrize("K", [50, 600])
    def test_of_equal_centroids_the_lowest_is_chosen(self, K):
        x, offsets, centroids = problem([90], 70, K)
        centroids[:, K - 25 :] = centroids[:, :25]
        x[:25] = centroids[0, :25]
        labels, _ = assign(x, offsets, centroids)
        assert labels[:25].tolist() == list(range(25))
        assert (labels < K - 25).all()

    @pytest.mark.parametrize("shape", [([80, 30], 3, 50), ([50], 3, 600)], ids=["one pass", "two passes"])
    def test_ties_go_to_the_lowest_centroid(self, shape):
        x, offsets, centroids, _ = whole_numbers(*shape)
        labels, distance = assign(x, offsets, centroids)
        exact = all_distances(x, offsets, centroids)
        first = (exact == exact.min(1, keepdim=True).values).int().argmax(1)
        # Centring rounds, so only ties between equal centroids are exact for certain.
        group = reference.group_of_rows(offsets, len(x))
        same = (centroids[group, first] == centroids[group, labels.long()]).all(1)
        assert (labels[same] == first[same]).all()
        assert same.float().mean() > 0.5
        assert (distance.double() == exact.min(1).values).all()

    def test_dead_centroids_are_never_chosen(self):
        x, offsets, centroids = problem([50, 60], 20, 40)
        centroids[:, 0] = NAN
        centroids[1, 17, 3] = NAN
        x[:10] = 0.0
        labels, distance = assign(x, offsets, centroids)
        assert (labels > 0).all()
        assert (labels[50:] != 17).all()
        assert_nearest(x, offsets, centroids, labels, distance)

    def test_group_without_live_centroid_gets_label_0_at_infinity(self):
        x, offsets, centroids = problem([5, 6], 9, 3)
        centroids[0, :, 4] = NAN
        labels, distance = assign(x, offsets, centroids)
        assert (labels[:5] == 0).all()
        assert (distance[:5] == INF).all()
        assert distance[5:].isfinite().all()

    def test_rows_without_features_are_on_the_first_centroid(self):
        labels, distance = assign(torch.empty(5, 0), offsets_of([5]), torch.empty(1, 3, 0))
        assert (labels == 0).all()
        assert (distance == 0).all()

    def test_infinite_centroid_is_dead(self):
        x, offsets, centroids = problem([30], 70, 20)
        centroids[0, 4, 60] = INF
        labels, distance = assign(x, offsets, centroids)
        centroids[0, 4, 60] = NAN
        expected = assign(x, offsets, centroids)
        assert torch.equal(labels, expected[0])
        assert torch.equal(distance, expected[1])

    def test_row_with_nan_is_infinitely_far_and_spoils_no_other(self):
        x, offsets, centroids = problem([40], 33, 5)
        clean = assign(x, offsets, centroids)
        x[7, 20] = NAN
        labels, distance = assign(x, offsets, centroids)
        others = torch.arange(40) != 7
        assert distance[7] == INF
        assert 0 <= labels[7] < 5
        assert torch.equal(labels[others], clean[0][others])
        assert torch.equal(distance[others], clean[1][others])

    def test_rows_of_inactive_groups_keep_what_they_had(self):
        x, offsets, centroids = problem([30, 40, 50], 12, 6)
        kept_labels = torch.arange(120, dtype=torch.int32)
        kept_distance = -torch.arange(120.0)
        labels, distance = assign(x, offsets, centroids, torch.tensor([True, False, True]), kept_labels, kept_distance)
        fresh = assign(x, offsets, centroids)
        inactive = slice(30, 70)
        assert torch.equal(labels[inactive], kept_labels[inactive])
        assert torch.equal(distance[inactive], kept_distance[inactive])
        for got, expected in zip((labels, distance), fresh, strict=True):
            assert torch.equal(got[:30], expected[:30])
            assert torch.equal(got[70:], expected[70:])

    def test_float16_is_read_exactly(self):
        # Every finite half-precision number, subnormals and both zeros included.
        x = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
        x = x[x.isfinite()].unsqueeze(1)
        _, distance = assign(x, offsets_of([len(x)]), torch.zeros(1, 1, 1))
        assert torch.equal(distance, x.float().square().squeeze(1))

    def test_more_groups_than_are_prepared_at_a_time(self):
        x, offsets, centroids = problem([2] * 40, 2048, 128)
        labels, distance = assign(x, offsets, centroids)
        for group in (0, 31, 32, 39):
            rows = slice(2 * group, 2 * group + 2)
            alone = assign(x[rows], offsets_of([2]), centroids[group : group + 1])
            assert torch.equal(labels[rows], alone[0])
            assert torch.equal(distance[rows], alone[1])


def alike(found, expected):
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, expected, strict=True))


def clustered(sizes, D, K, seed=0):
    """Groups of rows that lie apart; the iteration begins with rows, most of them of few clusters."""
    x, offsets, own = problem(sizes, D, K, seed=seed)
    x = torch.cat([3 * own[g][torch.arange(n) % K] for g, n in enumerate(sizes)]) + 0.5 * x
    return x, offsets, torch.stack([x[first : first + K] for first in offsets[:-1].tolist()])


def crawling(seed=0):
    """One cluster that takes in row after row, so that a few centroids move long after the others have stopped."""
    x, offsets, _ = problem([400], 64, 20, seed=seed)
    x[:, 0] += torch.linspace(0, 60, 400)
    return x, offsets, x[:20].unsqueeze(0).clone()


def with_rows(x, offsets, centroids, rows, value):
    x[rows] = value
    return x, offsets, centroids


def with_centroids(x, offsets, centroids, which, value):
    centroids[:, which] = value
    return x, offsets, centroids


def scaled(x, offsets, centroids, feature, by):
    x[:, feature] *= by
    centroids[:, :, feature] *= by
    return x, offsets, centroids


def repeated_rows(x, offsets, centroids):
    return x[torch.arange(len(x)) % 30].clone(), offsets, centroids


# Wide and many enough for the kernels that round.
PROBLEMS = {
    "random": lambda: problem([500, 0, 90, 3], 100, 20),
    "clustered": lambda: clustered([700, 300], 128, 24),
    "crawling": crawling,
    "a tail of columns and of features": lambda: clustered([400], 301, 37),
    "more clusters than one pass holds": lambda: clustered([900], 64, 530),
    "far from the origin": lambda: problem([300], 70, 20, shift=100.0),
    "one huge feature": lambda: scaled(*problem([300], 64, 20), 7, 1e15),
    "ties": lambda: whole_numbers([300, 40], 64, 20)[:3],
    "repeated rows": lambda: repeated_rows(*problem([300], 64, 20)),
    "equal centroids": lambda: with_centroids(*problem([300], 64, 32), slice(8, 24), 0.0),
    "dead centroids": lambda: with_centroids(*problem([300], 64, 32), slice(0, 12), NAN),
    "no live centroid": lambda: with_centroids(*problem([300], 64, 32), slice(None), NAN),
    "infinite centroid": lambda: with_centroids(*problem([300], 64, 32), 3, INF),
    "a row of NaN": lambda: with_rows(*problem([300], 64, 20), 7, NAN),
    "an infinite row": lambda: with_rows(*problem([300], 64, 20), 7, INF),
    "rows far away": lambda: with_rows(*problem([300], 64, 20), slice(0, 9), 1e15),
    "denormals": lambda: scaled(*problem([300], 64, 20), slice(None), 1e-40),
    "float16": lambda: problem([500], 100, 20, torch.float16),
    "bfloat16": lambda: problem([500], 100, 20, torch.bfloat16),
}


class TestIterate:
    """In one call what single operators give, bit for bit."""

    @pytest.mark.parametrize("name", PROBLEMS)
    @pytest.mark.parametrize("empty", ["farthest", "keep"])
    def test_gives_what_assignments_and_updates_give(self, name, empty):
        x, offsets, centroids = PROBLEMS[name]()
        for max_iter in (0, 1, 2, 5, 60):
            args = (x, offsets, centroids, max_iter, None, "fp32", empty)
            assert alike(cpu.kmeans_iterate(*args), iterate(cpu, *args))

    @pytest.mark.parametrize("make", [crawling, lambda seed: clustered([150, 60], 64, 17, seed)], ids=["a", "b"])
    def test_gives_it_from_many_starts(self, make):
        for seed in range(25):
            args = (*make(seed=seed), 100, None, "fp32", "farthest")
            assert alike(cpu.kmeans_iterate(*args), iterate(cpu, *args))

    def test_groups_stop_within_the_tolerance(self):
        x, offsets, centroids = problem([300, 300, 300, 300], 64, 20)
        exact = cpu.kmeans_iterate(x, offsets, centroids, 100, None, "fp32", "farthest")
        tolerance = torch.tensor([0.0, 1.0, 30.0, INF])
        args = (x, offsets, centroids, 100, tolerance, "fp32", "farthest")
        labels, means, n_iter = cpu.kmeans_iterate(*args)
        assert alike((labels, means, n_iter), iterate(cpu, *args))
        assert n_iter[0] == exact[2][0] > n_iter[1] > n_iter[2] > n_iter[3] == 1
        assert torch.equal(labels, assign(x, offsets, means)[0])

    def test_squares_that_overflow_do_no_harm(self):
        x, offsets, centroids = with_rows(*problem([300], 64, 20), slice(0, 9), 1e25)
        labels, _, _ = cpu.kmeans_iterate(x, offsets, centroids, 5, None, "fp32", "farthest")
        assert ((labels >= 0) & (labels < 20)).all()

    def test_any_number_of_threads_gives_the_same_bits(self, threads):
        args = (*clustered([900, 40, 2000], 128, 40), 30, None, "fp32", "farthest")
        results = []
        for n in (1, 2, 5):
            threads(n)
            results.append(cpu.kmeans_iterate(*args))
        assert alike(results[1], results[0])
        assert alike(results[2], results[0])

    def test_more_groups_than_are_packed_at_a_time(self):
        x, offsets, centroids = problem([40] * 70, 1024, 128)
        args = (x, offsets, centroids, 4, None, "fp32", "farthest")
        assert alike(cpu.kmeans_iterate(*args), iterate(cpu, *args))


class TestUpdate:
    @shapes
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_centroids_are_the_exact_means(self, shape, dtype):
        x, offsets, previous = problem(*shape, dtype)
        labels = torch.randint(-1, shape[2] + 1, (len(x),), dtype=torch.int32)
        centroids, counts = cpu.kmeans_update(x, offsets, labels, shape[2], None, previous, None, "keep")
        args = (offsets, labels, shape[2], None, previous, None, "keep")
        exact, exact_counts = reference.kmeans_update(x.double(), *args)
        assert torch.equal(counts, exact_counts)
        assert torch.equal(centroids, exact.float())

    @pytest.mark.parametrize("sizes", [[60, 0, 45, 3, 1]], ids=str)
    @pytest.mark.parametrize("K", [1, 4, 20, 70])
    def test_empty_clusters_take_the_farthest_rows(self, sizes, K):
        x, offsets, previous, labels = whole_numbers(sizes, 4, K)
        labels = torch.where(labels % 3 == 0, labels, labels // 2) - 1
        distance = torch.randint(0, 6, (len(x),)).float()
        distance[:4] = torch.tensor([NAN, INF, NAN, INF])
        active = torch.tensor([True, True, False, True, True])
        args = (x, offsets, labels, K, distance, previous, active, "farthest")
        centroids, counts = cpu.kmeans_update(*args)
        expected, expected_counts = reference.kmeans_update(*args)
        assert torch.equal(counts, expected_counts)
        assert torch.equal(centroids, expected)

    def test_empty_cluster_without_previous_is_dead(self):
        x, offsets, _ = problem([4], 5, 3)
        labels = torch.zeros(4, dtype=torch.int32)
        centroids, counts = cpu.kmeans_update(x, offsets, labels, 3, None, None, None, "keep")
        assert counts.tolist() == [[4, 0, 0]]
        assert centroids[0, 0].isfinite().all()
        assert centroids[0, 1:].isnan().all()

    def test_duplicate_rows_fill_no_empty_cluster(self):
        x = torch.ones(6, 3)
        labels, distance = torch.zeros(6, dtype=torch.int32), torch.zeros(6)
        previous = torch.full((1, 2, 3), 7.0)
        centroids, counts = cpu.kmeans_update(x, offsets_of([6]), labels, 2, distance, previous, None, "farthest")
        assert counts.tolist() == [[6, 0]]
        assert torch.equal(centroids[0, 1], previous[0, 1])


class TestNearestMembers:
    @pytest.mark.parametrize("n", [1, 2, 5])
    @pytest.mark.parametrize("K", [1, 3, 40])
    def test_picks_agree_with_the_reference_on_ties_too(self, n, K):
        x, offsets, centroids, labels = whole_numbers([50, 0, 37, 2, 200], 3, K)
        labels[::7] = -1
        labels[3::11] = K
        centroids[0, 0] = NAN
        args = (x, offsets, centroids, labels, n)
        assert torch.equal(cpu.nearest_members(*args), reference.nearest_members(*args))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_picks_are_distinct_rows_of_the_group(self, dtype):
        x, offsets, centroids = problem([64, 30], 2048, 8, dtype)
        labels, _ = assign(x, offsets, centroids)
        picks = cpu.nearest_members(x, offsets, centroids, labels, 8)
        assert sorted(picks[0].flatten().tolist()) == list(range(64))
        assert sorted(picks[1].flatten().tolist()) == [-1] * 34 + list(range(64, 94))


PARAMETERS = [(16, 3, 3, 3), (16,), (10, 400), (1, 3), (7, 5, 3, 3), (2, 9001), (0, 4), (3, 1)]


def gradients(per_class, seed=0, parameters=PARAMETERS):
    generator = torch.Generator().manual_seed(seed)
    lead = (3,) if per_class else ()
    return [torch.randn(*lead, *shape, generator=generator) for shape in parameters]


@pytest.mark.parametrize("metric", METRICS)
class TestGradientDistance:
    @pytest.mark.parametrize("per_class", [True, False], ids=["per class", "one class"])
    def test_value_and_derivative_agree_with_float64_autograd(self, metric, per_class):
        real, synthetic = gradients(per_class, 0), gradients(per_class, 1)
        distance, _, grads = cpu.gradient_distance(real, synthetic, metric, per_class, True)
        exact = [y.double().requires_grad_() for y in synthetic]
        value = formulas.plain_distance([x.double() for x in real], exact, metric, per_class)
        torch.testing.assert_close(distance.double(), value.detach(), rtol=1e-6, atol=1e-6)
        for got, expected in zip(grads, torch.autograd.grad(value.sum(), exact), strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-6)
        assert torch.equal(cpu.gradient_distance(real, synthetic, metric, per_class, False)[0], distance)

    def test_zero_rows_have_finite_derivatives(self, metric):
        real, synthetic = gradients(False, 0), gradients(False, 1)
        for tensors, row in ((real, 0), (synthetic, 1), (real, 2), (synthetic, 2)):
            for tensor in tensors:
                tensor[row : row + 1] = 0.0
        distance, _, grads = cpu.gradient_distance(real, synthetic, metric, False, True)
        expected, _, expected_grads = reference.gradient_distance(
            [x.double() for x in real], [y.double() for y in synthetic], metric, False, True
        )
        torch.testing.assert_close(distance.double(), expected, rtol=1e-6, atol=1e-6)
        for got, exact in zip(grads, expected_grads, strict=True):
            assert got.isfinite().all()
            # Where y is 0 the derivative of cos is x / eps.
            torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=2e-6)

    @pytest.mark.parametrize("side", [0, 1], ids=["real", "synthetic"])
    def test_nan_reaches_the_distance_of_its_class_alone(self, metric, side):
        pair = gradients(True, 0), gradients(True, 1)
        clean, *_ = cpu.gradient_distance(*pair, metric, True, False)
        pair[side][2][1, 4, 300] = NAN
        distance, *_ = cpu.gradient_distance(*pair, metric, True, False)
        assert distance[1].isnan()
        assert torch.equal(distance[[0, 2]], clean[[0, 2]])

    def test_channels_last_is_paired_by_index(self, metric):
        parameters = [(8, 6, 5, 5), (4, 8, 3, 3)]
        real, synthetic = gradients(False, 0, parameters), gradients(False, 1, parameters)
        expected, _, expected_grads = cpu.gradient_distance(real, synthetic, metric, False, True)
        layouts = [x.to(memory_format=torch.channels_last) for x in real]
        for a, b in ((layouts, synthetic), (real, [y.to(memory_format=torch.channels_last) for y in synthetic])):
            distance, _, grads = cpu.gradient_distance(a, b, metric, False, True)
            torch.testing.assert_close(distance, expected, rtol=1e-6, atol=0)
            for y, grad, exact in zip(b, grads, expected_grads, strict=True):
                assert grad.stride() == y.stride()
                torch.testing.assert_close(grad, exact, rtol=1e-5, atol=1e-7)

    def test_bits_do_not_depend_on_thread_count(self, metric, threads):
        real = gradients(True, 0, [*PARAMETERS, (64, 3000)])
        synthetic = gradients(True, 1, [*PARAMETERS, (64, 3000)])
        results = []
        for n in (1, 2, 3):
            threads(n)
            results.append(cpu.gradient_distance(real, synthetic, metric, True, True))
        for distance, per_layer, grads in results[1:]:
            assert torch.equal(distance, results[0][0])
            assert torch.equal(per_layer, results[0][1])
            assert all(torch.equal(a, b) for a, b in zip(grads, results[0][2], strict=True))


def pipeline(x, offsets, centroids):
    """All K-Means operators in turn; everything they return."""
    labels, distance = assign(x, offsets, centroids)
    means, counts = cpu.kmeans_update(x, offsets, labels, centroids.shape[1], distance, centroids, None, "farthest")
    return labels, distance, means, counts, cpu.nearest_members(x, offsets, means, labels, 2)


def assert_same(left, right):
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(left, right, strict=True))


class TestSameBits:
    @pytest.mark.parametrize("shape", [([700, 3, 0, 90], 300, 40), ([500], 2050, 3)], ids=str)
    def test_at_any_thread_count(self, shape, threads):
        inputs = problem(*shape)
        results = []
        for n in (1, 2, 3):
            threads(n)
            results.append(pipeline(*inputs))
        assert_same(results[0], results[1])
        assert_same(results[0], results[2])

    def test_alone_and_in_a_batch(self):
        sizes = [111, 3, 0, 290, 57]
        x, offsets, centroids = problem(sizes, 77, 21)
        whole = pipeline(x, offsets, centroids)
        for group, size in enumerate(sizes):
            rows = slice(int(offsets[group]), int(offsets[group + 1]))
            *alone, picks = pipeline(x[rows], offsets_of([size]), centroids[group : group + 1])
            here = slice(group, group + 1)
            assert_same(alone, [whole[0][rows], whole[1][rows], whole[2][here], whole[3][here]])
            assert torch.equal(torch.where(picks < 0, picks, picks + rows.start), whole[4][here])

    def test_from_several_python_threads_at_once(self, threads):
        threads(2)
        inputs = [problem([400, 50], 96, 30, seed=seed) for seed in range(4)]
        expected = [pipeline(*each) for each in inputs]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                for got, want in zip(pool.map(lambda each: pipeline(*each), inputs), expected, strict=True):
                    assert_same(got, want)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_in_a_forked_child(self, threads):
        threads(2)
        x, offsets, centroids = problem([3000], 64, 30)
        expected = assign(x, offsets, centroids)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put(assign(x, offsets, centroids)[0].tolist()), daemon=True)
        child.start()
        child.join(30)
        alive = child.is_alive()
        child.kill()
        assert not alive
        assert queue.get() == expected[0].tolist()


class TestRefusals:
    @pytest.mark.parametrize("offsets", [[1, 4], [0, 3], [0, 5, 4], [0, 9]], ids=str)
    def test_offsets_that_do_not_fit(self, offsets):
        x, offsets = torch.zeros(4, 2), torch.tensor(offsets)
        labels, centroids = torch.zeros(4, dtype=torch.int32), torch.zeros(len(offsets) - 1, 1, 2)
        calls = [
            lambda: assign(x, offsets, centroids),
            lambda: cpu.kmeans_update(x, offsets, labels, 1, None, None, None, "keep"),
            lambda: cpu.nearest_members(x, offsets, centroids, labels, 1),
        ]
        for call in calls:
            assert "end at the number of rows, 4" in refused(call)

    def test_dtypes_it_does_not_serve_are_named(self):
        double = torch.zeros(4, 2, dtype=torch.float64)
        assert "torch.float64" in cpu.refuses("kmeans_assign", double)
        assert "torch.float64" in cpu.refuses("gradient_distance", [double.half()], [double], "mse", False, True)
        assert cpu.refuses("kmeans_assign", double.half()) is None

    def test_unknown_instruction_set(self):
        with pytest.raises(ValueError, match="'mmx' is not available"):
            C.force_isa("mmx")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux")
def test_memory_stays_bounded_when_the_centroids_are_large():
    def high_water_mark():
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    x, offsets, centroids = problem([3] * 500, 512, 64)  # 62 MB of centroids
    assign(x[:3], offsets_of([3]), centroids[:1])
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water_mark()
    labels, _ = assign(x, offsets, centroids)
    assert high_water_mark() - before < 48
    cpu.nearest_members(x, offsets, centroids, labels, 1)
    assert high_water_mark() - before < 48
