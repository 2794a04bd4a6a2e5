"""The CUDA kernels, without a GPU: the device code and its launches on the CPU, in several orders of execution."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import emulated_cuda
from support.hard_rows import HARD, hard_rows
from support.kmeans_problems import offsets_of, problem, whole_numbers
from support.nearest import assert_nearest
from support.refusals import refused

import dream_accel as da
from dream_accel.backends import DISTANCE_OPERATORS, GRAM_OPERATORS, KMEANS_OPERATORS, _native, cuda, reference
from dream_accel.backends.selftest import agrees, sample_call

pytestmark = pytest.mark.skipif(emulated_cuda.why_not() is not None, reason=str(emulated_cuda.why_not()))
CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
METRICS = ["mse", "l1", "l1_mean", "cos", "global_mse", "global_cos"]
ORDERS = [("forward", 0), ("backward", 0), ("shuffled", 1), ("shuffled", 2)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return emulated_cuda.build(tmp_path_factory.mktemp("emulated_cuda"))


@pytest.fixture(autouse=True)
def emulation(library):
    with emulated_cuda.in_place(library) as emulation:
        emulation.order("shuffled", 7)
        yield emulation


@pytest.mark.parametrize("op", [*KMEANS_OPERATORS, *DISTANCE_OPERATORS])
def test_every_operator_gives_what_the_reference_gives(op):
    assert agrees("cuda", op, sample_call(op, CPU))


@pytest.mark.parametrize("op", GRAM_OPERATORS)
def test_operators_it_does_not_have_are_refused(op):
    assert f"no kernel for {op}" in cuda.refuses(op, *sample_call(op, CPU))


class TestEmulation:
    """The emulation finds each error that it is there to find."""

    def test_threads_that_wait_at_different_barriers(self, emulation):
        assert "wait at different barriers" in emulation.mistake("different barriers")[0]

    def test_a_lane_that_does_not_come(self, emulation):
        assert "returned or wait elsewhere" in emulation.mistake("missing lane")[0]

    def test_a_missing_barrier_shows_in_another_order(self, emulation):
        written = set()
        for order in ORDERS:
            emulation.order(*order)
            stopped, value = emulation.mistake("missing barrier")
            assert stopped == ""
            written.add(value)
        assert len(written) > 1

    def test_a_launch_that_fails_is_an_error_with_the_reason(self):
        with pytest.raises(RuntimeError, match="not loaded on this device"):
            _native.load().cuda_nearest_members((0, 0, 8, 1, 0, 1), 0, 1, 0, 1, 0, 0, (5, 0))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="the sanitizer is found through gcc")
def test_no_kernel_leaves_its_memory(tmp_path):
    """The sanitizer must be loaded before anything else, so a process of its own runs an awkward call of each."""
    sanitizer = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(sanitizer.stdout.strip()).is_absolute():
        pytest.skip("gcc has no address sanitizer")
    library = emulated_cuda.build(tmp_path, "-g", "-fsanitize=address")
    environment = {**os.environ, "LD_PRELOAD": sanitizer.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "support.awkward_calls", str(library)]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["served", "found"]


def assign(x, offsets, centroids, active=None, labels=None, distance=None):
    return cuda.kmeans_assign(x, offsets, centroids, active, labels, distance, "fp32")


def pipeline(x, offsets, centroids):
    """All K-Means operators in turn; everything they return."""
    labels, distance = assign(x, offsets, centroids)
    means, counts = cuda.kmeans_update(x, offsets, labels, centroids.shape[1], distance, centroids, None, "farthest")
    return labels, distance, means, counts, cuda.nearest_members(x, offsets, means, labels, 2)


def assert_same(left, right):
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(left, right, strict=True))


# Rows of each group, D, K.
SHAPES = {
    "one feature": ([40, 3], 1, 7),
    "below a tile": ([33, 0, 65, 1], 15, 4),
    "above a tile": ([64, 129], 17, 65),
    "K > N": ([3, 0, 20], 5, 50),
    "K = 1": ([20, 90], 16, 1),
    "several tiles of clusters": ([70], 21, 300),
    "wide rows": ([30, 2], 700, 9),
    "tiny groups": ([3] * 300, 8, 2),
}


class TestKMeans:
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_row_gets_its_nearest_centroid(self, shape, dtype):
        x, offsets, centroids = problem(*shape, dtype)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    @pytest.mark.parametrize("data", HARD)
    def test_hard_rows_get_their_nearest_centroid_too(self, data):
        x, offsets, centroids = hard_rows(data)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    def test_offset_of_100_sigma_does_not_spoil_the_labels(self):
        x, offsets, centroids = problem([90, 40], 120, 20, shift=100.0)
        assert_nearest(x, offsets, centroids, *assign(x, offsets, centroids))

    @pytest.mark.parametrize("K", [50, 150])
    def test_of_equal_centroids_the_lowest_is_chosen(self, K):
        x, offsets, centroids = problem([90], 70, K)
        centroids[:, K - 25 :] = centroids[:, :25]
        x[:25] = centroids[0, :25]
        labels, _ = assign(x, offsets, centroids)
        assert labels[:25].tolist() == list(range(25))
        assert (labels < K - 25).all()

    def test_dead_centroids_are_never_chosen(self):
        x, offsets, centroids = problem([50, 60, 5], 20, 40)
        centroids[:, 0] = NAN
        centroids[1, 17, 3] = INF
        centroids[2] = NAN
        labels, distance = assign(x, offsets, centroids)
        assert (labels[:110] > 0).all()
        assert (labels[50:110] != 17).all()
        assert (labels[110:] == 0).all()
        assert (distance[110:] == INF).all()
        centroids[1, 17] = NAN
        assert_nearest(x[:110], offsets[:3], centroids[:2], labels[:110], distance[:110])

    def test_finite_values_of_dead_centroids_do_not_move_the_origin(self):
        # Far from the rows, products relative to it would cancel.
        x, offsets, centroids = problem([40], 5, 6)
        centroids[0, 3] = torch.tensor([1e7, 1e7, NAN, 1e7, 1e7])
        labels, _ = assign(x, offsets, centroids)
        expected, _ = reference.kmeans_assign(x, offsets, centroids, None, None, None, "fp32")
        assert torch.equal(labels, expected)

    def test_row_with_nan_is_infinitely_far_and_spoils_no_other(self):
        x, offsets, centroids = problem([40], 33, 5)
        clean = assign(x, offsets, centroids)
        x[7, 20] = NAN
        labels, distance = assign(x, offsets, centroids)
        others = torch.arange(40) != 7
        assert distance[7] == INF
        assert_same((labels[others], distance[others]), (clean[0][others], clean[1][others]))

    def test_rows_of_inactive_groups_keep_what_they_had(self):
        x, offsets, centroids = problem([30, 70, 50], 12, 6)
        kept = torch.arange(150, dtype=torch.int32), -torch.arange(150.0)
        found = assign(x, offsets, centroids, torch.tensor([True, False, True]), *kept)
        inactive = (torch.arange(150) >= 30) & (torch.arange(150) < 100)
        for got, old, fresh in zip(found, kept, assign(x, offsets, centroids), strict=True):
            assert torch.equal(got, torch.where(inactive, old, fresh))
        active = torch.tensor([True, False, True])
        labels, none = cuda.kmeans_assign(x, offsets, centroids, active, kept[0], None, "fp32", False)
        assert torch.equal(labels, found[0])
        assert none.shape == (0,)

    @pytest.mark.parametrize("shape", [*SHAPES.values(), ([300, 2000], 3, 2500)], ids=[*SHAPES, "few counters"])
    def test_centroids_are_the_exact_means(self, shape):
        x, offsets, previous = problem(*shape, torch.bfloat16)
        labels = torch.randint(-1, shape[2] + 1, (len(x),), dtype=torch.int32)
        args = (offsets, labels, shape[2], None, previous, None, "keep")
        exact, exact_counts = reference.kmeans_update(x.double(), *args)
        centroids, counts = cuda.kmeans_update(x, *args)
        assert torch.equal(counts, exact_counts)
        assert torch.equal(centroids, exact.float())

    @pytest.mark.parametrize("K", [1, 4, 20, 70])
    def test_empty_clusters_take_the_farthest_rows(self, K):
        x, offsets, previous, labels = whole_numbers([160, 0, 45, 3, 1], 4, K)
        labels = torch.where(labels % 3 == 0, labels, labels // 2) - 1
        distance = torch.randint(0, 6, (len(x),)).float()
        distance[:4] = torch.tensor([NAN, INF, NAN, INF])
        active = torch.tensor([True, True, False, True, True])
        args = (x, offsets, labels, K, distance, previous, active, "farthest")
        assert_same(cuda.kmeans_update(*args), reference.kmeans_update(*args))
        args = (x, offsets, labels, K, None, previous, active, "farthest")
        assert_same(cuda.kmeans_update(*args), reference.kmeans_update(*args))

    @pytest.mark.parametrize("operator", ["update", "nearest"])
    def test_passes_over_the_rows_do_not_grow_with_the_empty_clusters(self, operator, emulation):
        """Every pass ends at a barrier, and one warp alone has the rows."""
        x, n_rows = torch.rand(300, 1), 300
        offsets, labels = offsets_of([n_rows]), torch.zeros(n_rows, dtype=torch.int32)

        def waits(K):
            before = emulation.waits()
            if operator == "update":
                cuda.kmeans_update(x, offsets, labels, K, x[:, 0].contiguous(), None, None, "farthest")
            else:
                cuda.nearest_members(x, offsets, torch.zeros(1, K, 1), labels, 1)
            return emulation.waits() - before

        few, many = waits(5), waits(200)
        assert many < 8 * few  # 40 times as many clusters: what was taken is sorted

    def test_rows_of_large_clusters_move_as_the_reference_moves_them(self):
        x, offsets, previous = problem([3000, 1500], 1, 6)
        labels = (torch.arange(4500) % 400 == 0).int() * 3
        for distance in (torch.rand(4500), torch.randint(1, 4, (4500,)).float()):
            args = (x, offsets, labels, 6, distance, previous, None, "farthest")
            found, expected = cuda.kmeans_update(*args), reference.kmeans_update(*args)
            assert torch.equal(found[1], expected[1])
            torch.testing.assert_close(found[0], expected[0], rtol=2e-7, atol=1e-12)

    def test_empty_cluster_without_previous_is_dead(self):
        x, offsets, _ = problem([4], 5, 3)
        labels = torch.zeros(4, dtype=torch.int32)
        centroids, counts = cuda.kmeans_update(x, offsets, labels, 3, None, None, None, "keep")
        assert counts.tolist() == [[4, 0, 0]]
        assert centroids[0, 0].isfinite().all()
        assert centroids[0, 1:].isnan().all()

    @pytest.mark.parametrize("n", [1, 2, 5])
    @pytest.mark.parametrize("K", [1, 3, 40])
    def test_picks_agree_with_the_reference_on_ties_too(self, n, K):
        x, offsets, centroids, labels = whole_numbers([50, 0, 37, 2, 200], 3, K)
        labels[::7] = -1
        labels[3::11] = K
        centroids[0, 0] = NAN
        args = (x, offsets, centroids, labels, n)
        assert torch.equal(cuda.nearest_members(*args), reference.nearest_members(*args))

    @pytest.mark.parametrize("shape", [([700, 3, 0, 90], 40, 40), ([30] * 9, 70, 3)], ids=str)
    def test_gives_the_same_bits_in_any_order_of_blocks_and_threads(self, shape, emulation):
        inputs, results = problem(*shape), []
        for order in ORDERS:
            emulation.order(*order)
            results.append(pipeline(*inputs))
        for result in results[1:]:
            assert_same(results[0], result)

    def test_a_group_gets_the_same_bits_alone_and_in_a_batch(self):
        sizes = [111, 3, 0, 290, 57]
        x, offsets, centroids = problem(sizes, 77, 21)
        whole = pipeline(x, offsets, centroids)
        for group, size in enumerate(sizes):
            rows, here = slice(int(offsets[group]), int(offsets[group + 1])), slice(group, group + 1)
            *alone, picks = pipeline(x[rows], offsets_of([size]), centroids[here])
            assert_same(alone, [whole[0][rows], whole[1][rows], whole[2][here], whole[3][here]])
            assert torch.equal(torch.where(picks < 0, picks, picks + rows.start), whole[4][here])

    def test_launches_do_not_depend_on_the_number_of_groups(self, emulation):
        for sizes in ([50], [50] * 40):
            before = emulation.launches()
            pipeline(*problem(sizes, 8, 5))
            assert emulation.launches() - before == 8

    def test_no_groups_and_no_rows(self):
        for sizes in ([], [0], [0, 0]):
            labels, distance, means, counts, picks = pipeline(*problem(sizes, 6, 3))
            assert len(labels) == len(distance) == 0
            assert means.shape == (len(sizes), 3, 6)
            assert (counts == 0).all()
            assert (picks == -1).all()

    def test_more_clusters_than_it_counts_are_refused(self):
        x, offsets, centroids = problem([5], 1, 20000)
        assert "20000 clusters" in cuda.refuses("kmeans_assign", x, offsets, centroids)


PARAMETERS = [(16, 3, 3, 3), (8, 16, 3, 3), (8,), (5, 129), (), (2, 300), (0, 4), (3, 2, 5000)]


def gradients(per_class, seed, parameters=PARAMETERS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    lead = (3,) if per_class else ()
    return [torch.randn((*lead, *shape), generator=generator).to(dtype) for shape in parameters]


def run(real, synthetic, metric, per_class=True, with_grads=True):
    return cuda.gradient_distance(real, synthetic, metric, per_class, with_grads)


def assert_close(found, real, synthetic, metric, per_class=True, grad_tolerance=1e-5, op="gradient_distance"):
    """Against the reference in float64."""
    exact = getattr(reference, op)(
        [x.double() for x in real], [y.double() for y in synthetic], metric, per_class, len(found[2]) > 0
    )
    for got, expected in zip(found[:2], exact[:2], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=2e-6)
    for got, expected, y in zip(found[2], exact[2], synthetic, strict=True):
        assert got.dtype == y.dtype
        tolerance = max(grad_tolerance, torch.finfo(y.dtype).eps)
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=2e-6)


class TestThroughTheLibrary:
    """The public functions, with the CUDA backend forced on CPU tensors."""

    @pytest.fixture
    def either(self, monkeypatch):
        def either(call):
            results = []
            for name in ("cuda", "reference"):
                monkeypatch.setenv("DREAM_ACCEL_BACKEND", name)
                results.append(call())
            return results

        return either

    @pytest.mark.parametrize("metric", METRICS)
    def test_derivatives_beside_a_tensor_without_elements(self, either, metric):
        real, synthetic = (gradients(False, seed, [(0, 4), (7, 5)]) for seed in (0, 1))
        found, expected = either(lambda: da.gradient_distance(real, synthetic, metric, "all", return_grads=True)[1])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("init", ["random", "k-means++"])
    def test_whole_fits(self, either, init):
        x, offsets, _ = problem([120, 0, 75, 4], 9, 1)

        def fit():
            km = da.BatchedKMeans(6, max_iter=6, init=init, seed=3).fit(x, offsets)
            return km.labels_, km.inertia_, km.counts_, km.representatives(2)

        found, expected = either(fit)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("metric", METRICS)
    def test_derivatives_through_autograd(self, either, metric):
        real, synthetic = gradients(True, 0), gradients(True, 1)

        def differentiate():
            leaves = [y.clone().requires_grad_() for y in synthetic]
            loss, layers = da.gradient_distance(real, leaves, metric, "all", per_class=True, return_layers=True)
            return torch.autograd.grad((loss * torch.tensor([1.0, 2.0, 3.0])).sum() + layers.sum(), leaves)

        found, expected = either(differentiate)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
class TestDistances:
    @pytest.mark.parametrize("per_class", [True, False], ids=["per class", "one class"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_value_and_derivative(self, metric, per_class, dtype):
        real, synthetic = gradients(per_class, 0, dtype=dtype), gradients(per_class, 1, dtype=dtype)
        found = run(real, synthetic, metric, per_class)
        assert_close(found, real, synthetic, metric, per_class)
        assert_same(run(real, synthetic, metric, per_class, False)[:2], found[:2])

    def test_types_of_a_pair_may_differ(self, metric):
        types = list(itertools.product(DTYPES, DTYPES))
        parameters = [(3, 40), (2, 7, 3, 3)] * len(types)
        pair = gradients(True, 0, parameters), gradients(True, 1, parameters)
        real = [x.to(types[i // 2][0]) for i, x in enumerate(pair[0])]
        synthetic = [y.to(types[i // 2][1]) for i, y in enumerate(pair[1])]
        assert_close(run(real, synthetic, metric), real, synthetic, metric)

    def test_layouts_of_a_pair_may_differ(self, metric):
        parameters = [(8, 6, 5, 5), (4, 8, 3, 3), (3, 600, 2, 2)]
        pair = gradients(False, 0, parameters), gradients(False, 1, parameters)
        last = [[t.to(memory_format=torch.channels_last) for t in side] for side in pair]
        for real, synthetic in ((pair[0], last[1]), (last[0], pair[1]), (last[0], last[1])):
            found = run(real, synthetic, metric, False)
            assert_close(found, real, synthetic, metric, False)
            assert [g.stride() for g in found[2]] == [y.stride() for y in synthetic]

    def test_classes_may_be_slices_of_a_larger_buffer(self, metric):
        real = gradients(True, 0, [(6, 11)])
        buffer = torch.randn(3, 5, 66)
        synthetic = [buffer[:, 2].view(3, 6, 11)]
        assert_close(run(real, synthetic, metric), real, synthetic, metric)
        shared = [real[0][:1].expand(3, 6, 11)]
        assert_close(run(shared, synthetic, metric), shared, synthetic, metric)

    def test_zero_rows_have_finite_derivatives(self, metric):
        real, synthetic = gradients(False, 0), gradients(False, 1)
        for tensors, row in ((real, 0), (synthetic, 1), (real, 2), (synthetic, 2)):
            for tensor in tensors:
                if tensor.dim():
                    tensor[row : row + 1] = 0.0
        found = run(real, synthetic, metric, False)
        assert_close(found, real, synthetic, metric, False)
        assert all(g.isfinite().all() for g in found[2])

    @pytest.mark.parametrize("side", [0, 1], ids=["real", "synthetic"])
    def test_nan_reaches_the_distance_of_its_class_alone(self, metric, side):
        pair = gradients(True, 0), gradients(True, 1)
        clean = run(*pair, metric, True, False)[0]
        pair[side][5][1, 1, 200] = NAN
        distance, per_layer, _ = run(*pair, metric, True, False)
        assert distance[1].isnan()
        assert_same([distance[[0, 2]]], [clean[[0, 2]]])
        assert per_layer.isnan().sum() == 1

    def test_means_of_batches(self, metric):
        generator = torch.Generator().manual_seed(0)
        real = [torch.randn(3, 9, *shape, generator=generator) for shape in ((300,), (6, 4, 4))]
        synthetic = [torch.randn(3, 4, *shape, generator=generator).half() for shape in ((300,), (6, 4, 4))]
        found = cuda.feature_distance(real, synthetic, metric, True, True)
        assert_close(found, real, synthetic, metric, op="feature_distance", grad_tolerance=1e-3)

    def test_gives_the_same_bits_in_any_order_of_blocks_and_threads(self, metric, emulation):
        real, synthetic = gradients(True, 0), gradients(True, 1)
        results = []
        for order in ORDERS:
            emulation.order(*order)
            distance, per_layer, grads = run(real, synthetic, metric)
            results.append([distance, per_layer, *grads])
            assert all((tickets == 0).all() for tickets in cuda._tickets_of.values())
        for result in results[1:]:
            assert_same(results[0], result)

    def test_a_class_gets_the_same_bits_alone_and_however_it_is_aligned(self, metric):
        parameters = [(5, 3, 3, 3), (7,), (3, 501)]
        real, synthetic = gradients(True, 0, parameters), gradients(True, 1, parameters)
        together = run(real, synthetic, metric)
        for g in range(3):
            alone = run([x[g : g + 1].clone() for x in real], [y[g : g + 1].clone() for y in synthetic], metric)
            assert_same([alone[0], alone[1], *alone[2]], [t[g : g + 1] for t in (*together[:2], *together[2])])


@pytest.mark.parametrize(
    ("metric", "n"),
    [
        ("mse", 48),
        ("l1_mean", 49),
        pytest.param("global_mse", 448, marks=pytest.mark.slow),
        ("cos", 449),
        pytest.param("global_cos", 449, marks=pytest.mark.slow),
        pytest.param("mse", 1000, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_layers(metric, n, emulation):
    parameters = [(1 + i % 3, 1 + i % 7) for i in range(n)]
    real, synthetic = gradients(False, 0, parameters), gradients(False, 1, parameters)
    before = emulation.launches()
    found = run(real, synthetic, metric, False)
    assert emulation.launches() - before == -(-n // 448) * (2 if metric == "global_cos" else 1)
    assert_close(found, real, synthetic, metric, False)


@pytest.mark.parametrize("scales", [(1e20, 1e20), (1e-20, 1e20), (3e37, 1e-6), (1e35, 1e36)], ids=str)
@pytest.mark.parametrize("metric", ["cos", "global_cos"])
def test_cosines_of_values_whose_squares_no_float_holds(metric, scales):
    parameters = [(2, 1500), (3, 7), (2, 6, 5, 40)]
    real, synthetic = ([t * scale for t in gradients(True, seed, parameters)] for seed, scale in enumerate(scales))
    found = run(real, synthetic, metric)
    exact = reference.gradient_distance([x.double() for x in real], [y.double() for y in synthetic], metric, True, True)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    for got, expected in zip(found[2], exact[2], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6 / scales[1])


@pytest.mark.parametrize("length", [256, 257, 2047, 2048, 2049])
@pytest.mark.parametrize("rows", [1, 7, 9])
def test_cosines_of_rows_that_parts_of_a_warp_a_warp_or_a_block_share(rows, length):
    real, synthetic = gradients(True, 0, [(rows, length)]), gradients(True, 1, [(rows, length)])
    assert_close(run(real, synthetic, "cos"), real, synthetic, "cos")


def test_a_long_row_is_summed_accurately():
    real, synthetic = gradients(False, 0, [(1, 400_000)]), gradients(False, 1, [(1, 400_000)])
    assert_close(run(real, synthetic, "cos", False), real, synthetic, "cos", False)


@pytest.mark.parametrize("per_class", [True, False], ids=["per class", "one class"])
def test_every_gradient_is_scaled_by_its_class_and_layer(per_class):
    grads = [t for dtype in DTYPES for t in gradients(per_class, 0, dtype=dtype)] * 4
    scale = torch.randn(3 if per_class else 1, len(grads))
    expected = reference.scale_gradients(grads, scale, per_class)
    for got, want in zip(cuda.scale_gradients(grads, scale, per_class), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_more_rows_than_the_kernels_count_are_refused():
    rows = 2**31
    message = refused(cuda._call, "cuda_gradient_workspace", [(0, 0, 0, rows, 1, 0, 0, 1, 1, 1, 0, 0)], 1, 0)
    assert f"{rows} rows" in message
    assert "2147483647" in message


def test_tickets_grow_with_the_number_of_classes():
    real, synthetic = torch.randn(200, 3), torch.randn(200, 3)
    for n in (1, 200):
        assert_close(run([real[:n]], [synthetic[:n]], "mse"), [real[:n]], [synthetic[:n]], "mse")


def test_a_recorded_launch_has_tickets_of_its_own(monkeypatch):
    monkeypatch.setattr(cuda, "is_capturing", lambda tensor: True)
    real, synthetic = gradients(True, 0), gradients(True, 1)
    assert_close(run(real, synthetic, "mse"), real, synthetic, "mse")
    assert not cuda._tickets_of
