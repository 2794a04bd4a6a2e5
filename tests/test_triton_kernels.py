"""Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter.

Triton chooses the interpreter when a kernel is defined, so without a GPU one test runs this file, test_triton_distance
and test_triton_slots in a process of their own, in two parts.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.hard_rows import HARD, hard_rows
from support.nearest import assert_nearest

from dream_accel import ops
from dream_accel.backends import reference, refusal
from dream_accel.backends import triton as backend
from dream_accel.backends.iteration import iterate
from dream_accel.errors import DreamAccelError
from dream_accel.groups import group_of_rows

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")

# Rows of each group, D, K.
SHAPES = {
    "ragged": ([33, 0, 65, 1], 15, 4),
    "one feature": ([40, 3], 1, 7),
    "K = N": ([70], 17, 70),
    "K > N": ([3, 0, 20], 5, 24),
    "K = 1": ([20, 90], 16, 1),
    "wide rows": ([6, 2], 2048, 3),
    "two cluster tiles": ([40, 150], 32, 130),
    "several row tiles": ([600, 30], 3, 5),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


QUICK = "dead or members_match_reference and ragged or farthest_rows or refuses or scaled or nan or nothing or square"
QUICK += " or iterating or maps"


@pytest.mark.skipif(INTERPRETED or ON_GPU, reason="this process can run the kernels itself")
@pytest.mark.parametrize("chosen", [QUICK, pytest.param(f"not ({QUICK})", marks=pytest.mark.slow)], ids=["few", "rest"])
def test_every_kernel_in_the_interpreter(chosen):
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-k", chosen, __file__]
    command += [str(Path(__file__).with_name(f"test_triton_{what}.py")) for what in ("distance", "slots", "maps")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _process_runs_kernels(request):
    if not (INTERPRETED or ON_GPU or request.node.originalname == "test_every_kernel_in_the_interpreter"):
        pytest.skip("runs within test_every_kernel_in_the_interpreter")


@pytest.fixture(scope="module")
def kernels():
    """The kernels as installed, or from the source tree under the name they are installed by."""
    try:
        return importlib.import_module("dream_accel.kernels")
    except ModuleNotFoundError:
        return sys.modules.setdefault("dream_accel.kernels", importlib.import_module("kernels"))


class Problem:
    """Random rows and centroids; ``integers`` makes distances exact, and many of them equal."""

    def __init__(self, shape, dtype=torch.float32, seed=0, shift=0.0, integers=False):
        sizes, n_features, self.n_clusters = shape
        random = torch.Generator().manual_seed(seed)
        self.offsets = torch.tensor([0, *sizes]).cumsum(0).to(DEVICE)
        n_rows, n_groups = sum(sizes), len(sizes)
        x = torch.randn(n_rows, n_features, generator=random)
        centroids = torch.randn(n_groups, self.n_clusters, n_features, generator=random)
        if integers:
            x, centroids = (2 * x).round(), (2 * centroids).round()
        self.x = (x + shift).to(dtype).to(DEVICE)
        self.centroids = (centroids + shift).to(DEVICE)
        self.labels = torch.randint(-1, self.n_clusters + 1, (n_rows,), generator=random, dtype=torch.int32).to(DEVICE)
        self.distance = torch.randint(0, 6, (n_rows,), generator=random).float().to(DEVICE)
        self.active = (torch.arange(n_groups) % 2 == 0).to(DEVICE)

    def group(self, g):
        """One group of this problem as a problem of its own."""
        alone = object.__new__(Problem)
        rows = slice(*self.offsets[g : g + 2].tolist())
        alone.n_clusters = self.n_clusters
        alone.offsets = torch.tensor([0, rows.stop - rows.start], device=DEVICE)
        alone.x, alone.labels, alone.distance = self.x[rows], self.labels[rows], self.distance[rows]
        alone.centroids, alone.active = self.centroids[g : g + 1], self.active[g : g + 1]
        return alone, rows


def check_assignment(problem, labels, distance, regret=1e-5):
    """Every label is as near as the nearest centroid in float64, and the distance is true to fp32."""
    x, centroids = problem.x.double(), problem.centroids.double()
    group = group_of_rows(problem.offsets, len(x))
    assert ((labels >= 0) & (labels < problem.n_clusters)).all()
    chosen = (x - centroids[group, labels.long()]).square().sum(dim=1)
    best = torch.full_like(chosen, torch.inf)
    for k in range(problem.n_clusters):
        best = torch.fmin(best, (x - centroids[group, k]).square().sum(dim=1))
    torch.testing.assert_close(distance.double(), chosen, rtol=1e-5, atol=1e-10)
    scale = centroids.var(dim=1, correction=0).nan_to_num(0).sum(dim=1)[group] + best
    assert (chosen - best <= regret * scale).all()


@shapes
def test_assignment_is_nearest(kernels, shape):
    problem = Problem(shape)
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    check_assignment(problem, labels, distance)


@pytest.mark.parametrize("data", HARD)
def test_assignment_of_hard_rows(kernels, data):
    x, offsets, centroids = (values.to(DEVICE) for values in hard_rows(data))
    assert_nearest(x, offsets, centroids, *kernels.kmeans_assign(x, offsets, centroids))


@pytest.mark.parametrize(("n_clusters", "ties"), [(2, 2), (40, 2), (40, 3), (150, 5)])
def test_true_distances_decide_where_products_leave_a_choice(kernels, n_clusters, ties):
    """Rows near the origin, and centroids of one norm around it: distances differ by less than tf32 sees."""
    random = torch.Generator().manual_seed(n_clusters + ties)
    x = 1e-4 * torch.randn(70, 48, generator=random)
    centroids = 3 * torch.randn(1, n_clusters, 48, generator=random)
    tied = torch.randperm(n_clusters, generator=random)[:ties]
    centroids[0, tied] = 3 * torch.nn.functional.normalize(centroids[0, tied], dim=1)
    exact = (x.double()[:, None] - centroids[0].double()).square().sum(dim=2)
    least = exact.min(dim=1).values

    def regret(precision):
        arguments = (t.to(DEVICE) for t in (x, torch.tensor([0, 70]), centroids))
        labels = kernels.kmeans_assign(*arguments, precision=precision)[0].cpu().long()
        return ((exact.gather(1, labels[:, None])[:, 0] - least) / least).max()

    allowed = 2e-6 if ties == 2 else 1e-5
    assert regret("fp32") <= allowed < regret("tf32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("precision", "regret"), [("fp32", 1e-5), ("tf32", 2e-3), ("bf16", 2e-2)])
def test_assignment_of_half_precision_rows(kernels, dtype, precision, regret):
    problem = Problem(([40, 70], 33, 9), dtype)
    result = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision=precision)
    check_assignment(problem, *result, regret=regret)


@pytest.mark.parametrize(("precision", "regret"), [("fp32", 1e-5), ("tf32", 2e-3), ("bf16", 2e-2)])
def test_assignment_far_from_the_origin(kernels, precision, regret):
    problem = Problem(([120, 30], 24, 10), shift=100.0)
    result = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision=precision)
    check_assignment(problem, *result, regret=regret)


def test_equal_centroids_tie_to_the_lowest(kernels):
    # Integers around the origin: NumPy, the interpreter's matrix product, may round equal columns differently.
    problem = Problem(([50], 8, 5), integers=True)
    problem.centroids = torch.cat([problem.centroids, -problem.centroids], dim=1).repeat(1, 15, 1)
    problem.n_clusters = 150
    labels, _ = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    assert labels.max() < 10


def test_dead_centroids_are_never_chosen(kernels):
    problem = Problem(([50, 20], 18, 6))
    problem.centroids[0, 1, 3] = torch.nan
    problem.centroids[0, 4] = torch.nan
    # Were a dead centroid part of the mean the rows are centred by, this value would drown them.
    problem.centroids[0, 1, 4] = 1e20
    problem.centroids[1] = torch.nan
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    expected, _ = reference.kmeans_assign(problem.x, problem.offsets, problem.centroids, None, None, None, "fp32")
    assert torch.equal(labels, expected)
    assert (labels[50:] == 0).all()
    assert (distance[50:] == torch.inf).all()


def test_inactive_groups_keep_labels_and_distances(kernels):
    problem = Problem(([20, 70, 9], 12, 4))
    labels, distance = kernels.kmeans_assign(
        problem.x, problem.offsets, problem.centroids, problem.active, problem.labels, problem.distance
    )
    every_label, every_distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    kept = ~problem.active[group_of_rows(problem.offsets, len(problem.x))]
    assert torch.equal(labels, torch.where(kept, problem.labels, every_label))
    assert torch.equal(distance, torch.where(kept, problem.distance, every_distance))


def test_rows_on_their_centroid_have_distance_zero(kernels):
    problem = Problem(([30], 20, 30), shift=100.0)
    problem.centroids = problem.x.unsqueeze(0).clone()
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision="bf16")
    assert (distance == 0).all()
    assert torch.equal(labels.cpu(), torch.arange(30, dtype=torch.int32))


@shapes
@pytest.mark.parametrize("empty", ["keep", "farthest"])
def test_update_matches_reference(kernels, shape, empty):
    problem = Problem(shape, shift=3.0)
    args = (problem.x, problem.offsets, problem.labels, problem.n_clusters)
    for previous, active in ((None, None), (problem.centroids, problem.active)):
        rest = (problem.distance, previous, active, empty)
        centroids, counts = kernels.kmeans_update(*args, *rest)
        expected, expected_counts = reference.kmeans_update(*args, *rest)
        assert torch.equal(counts, expected_counts)
        torch.testing.assert_close(centroids, expected, rtol=2e-7, atol=1e-12, equal_nan=True)


def test_farthest_rows_rescue_empty_clusters(kernels):
    x = torch.tensor([[0.0], [1.0], [5.0], [5.0], [0.5], [9.0]], device=DEVICE)
    labels = torch.tensor([1, 1, 1, 1, 1, 3], dtype=torch.int32, device=DEVICE)
    distance = torch.tensor([1.0, 0.0, 16.0, 16.0, 0.25, 2.0], device=DEVICE)
    offsets = torch.tensor([0, 6], device=DEVICE)
    centroids, counts = kernels.kmeans_update(x, offsets, labels, 4, distance, None, None, "farthest")
    assert counts.tolist() == [[1, 3, 1, 1]]
    assert centroids.flatten().tolist() == [5.0, 0.5, 5.0, 9.0]


@pytest.mark.parametrize("empty", ["keep", "farthest"])
@pytest.mark.parametrize("tolerance", [None, 0.5])
def test_iterating_gives_the_bits_of_single_operators(empty, tolerance):
    problem = Problem(([40, 0, 90, 3], 15, 6))
    limits = None if tolerance is None else torch.full((4,), tolerance, device=DEVICE)
    args = problem.x, problem.offsets, problem.centroids, 4, limits, "fp32", empty
    found, expected = backend.kmeans_iterate(*args), iterate(backend, *args)
    assert expected[2].tolist()[1] == 0
    assert expected[2].max() > 1
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, expected, strict=True))


def test_iterating_from_centroids_with_gaps_between_their_values():
    problem = Problem(([40, 90], 15, 6))
    problem.centroids[:, 3] = 1e3  # stays empty where it is
    gaps = torch.stack([problem.centroids, problem.centroids + 9], dim=3)[..., 0]
    args = problem.x, problem.offsets, problem.centroids, 4, None, "fp32", "keep"
    found = backend.kmeans_iterate(*args[:2], gaps, *args[3:])
    assert not gaps.is_contiguous()
    assert all(map(torch.equal, found, backend.kmeans_iterate(*args)))


@pytest.mark.parametrize(
    ("empty", "every", "dtype"),
    [("keep", 3, torch.float32), ("farthest", 3, torch.float32), ("farthest", 100, torch.bfloat16)],
    ids=str,
)
def test_reading_only_what_has_changed_gives_the_bits_of_reading_all(empty, every, dtype, kernels, monkeypatch):
    """Of whole numbers, the sums of which are exact. Two clusters begin empty, and groups stop one after another."""
    tiles = importlib.import_module(f"{kernels.__name__}.tiles")
    problem = Problem(([80, 0, 150, 3], 40, 9), dtype, integers=True)
    problem.centroids[:, 3:5] = 1e3
    args = problem.x, problem.offsets, problem.centroids, 8, None, "fp32", empty
    expected = iterate(backend, *args)
    read = []
    shift = importlib.import_module(f"{kernels.__name__}.iterate")
    monkeypatch.setattr(tiles, "SHIFTED_FEATURES", 1)
    monkeypatch.setattr(tiles, "FULL_EVERY", every)
    monkeypatch.setattr(shift, "shifted_means", lambda *args: read.append(1) or kernels.shift.shifted_means(*args))
    found = backend.kmeans_iterate(*args)
    assert expected[2].max() > 4
    assert len(read) > 2
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shifted", [False, True], ids=["all rows", "changed rows"])
@pytest.mark.parametrize("how", ["goes", "is taken"])
def test_a_row_far_out_leaves_the_mean_of_the_others_its_digits(how, shifted, kernels):
    x = torch.cat([torch.rand(20, 40) + 1, torch.full((1, 40), 1e25)]).to(DEVICE)
    offsets, before = torch.tensor([0, 21]).to(DEVICE), torch.zeros(21, dtype=torch.int32, device=DEVICE)
    labels, empty = before.clone(), "farthest"
    previous, far = torch.zeros(1, 2, 40, device=DEVICE), x.square().sum(dim=1)
    if how == "goes":
        labels[20], empty = 1, "keep"
    old = kernels.update.membership(x, offsets, before, 2, far, previous, None, "keep")
    found = kernels.update.membership(x, offsets, labels, 2, far, previous, None, empty)
    sums = torch.empty(1, 2, 40, dtype=torch.float64, device=DEVICE)
    kernels.update.member_means(x, old, previous, sums)
    if shifted:
        going, live = torch.ones(1, dtype=torch.bool, device=DEVICE), kernels.update.empty_live(previous)
        rows = labels, before, found.members, old.members
        means = kernels.shift.shifted_means(x, *rows, sums, previous, going, found.moved, live)
    else:
        means, _ = kernels.update.member_means(x, found, previous)
    torch.testing.assert_close(means[0, 0].double(), x[:20].double().mean(dim=0), rtol=1e-7, atol=0)
    assert torch.equal(means[0, 1], x[20])


def test_rows_that_have_not_changed_are_not_read(kernels):
    problem = Problem(([200, 90], 70, 5), shift=100.0, integers=True)
    x, offsets, before = problem.x, problem.offsets, problem.labels
    labels = before.clone()
    labels[::9] = 2
    changed = labels != before
    found, old = (kernels.update.membership(x, offsets, of, 5, None, None, None, "keep") for of in (labels, before))
    expected, _ = kernels.update.member_means(x, found, problem.centroids)
    sums = torch.empty(2, 5, 70, dtype=torch.float64, device=DEVICE)
    kernels.update.member_means(x, old, problem.centroids, sums)
    blank, going = x.masked_fill(~changed[:, None], torch.nan), torch.ones(2, dtype=torch.bool, device=DEVICE)
    live = kernels.update.empty_live(problem.centroids)
    rows = labels, before, found.members, old.members
    assert torch.equal(kernels.shift.shifted_means(blank, *rows, sums, problem.centroids, going, None, live), expected)
    assert live.all()


def bytes_read(x, call):
    """Of a tensor, by a call in the interpreter."""
    from triton.runtime.interpreter import InterpreterBuilder

    load, read = InterpreterBuilder.create_masked_load, 0

    def count(self, ptrs, mask, *args):
        nonlocal read
        addresses = ptrs.data[mask.data.astype(bool)].astype("int64")
        begin = x.data_ptr()
        read += int(((addresses >= begin) & (addresses < begin + x.nbytes)).sum()) * x.element_size()
        return load(self, ptrs, mask, *args)

    with mock.patch.object(InterpreterBuilder, "create_masked_load", count):
        call()
    return read


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter reads")
def test_an_iteration_reads_every_row_twice_or_once_and_what_has_changed(kernels, monkeypatch):
    """Whole tiles, and all clusters in one: nothing is read again."""
    monkeypatch.setattr(importlib.import_module(f"{kernels.__name__}.tiles"), "SHIFTED_FEATURES", 64)
    problem = Problem(([128, 256], 64, 9))
    x, n_bytes = problem.x, problem.x.nbytes
    steps, active = kernels.LloydSteps(x, problem.offsets, "keep"), torch.ones(2, dtype=torch.bool)
    fixed, n_iter = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int32)
    centroids, labels = problem.centroids, torch.full((len(x),), -1, dtype=torch.int32)
    for iteration in range(3):
        before, previous = labels, centroids

        def assign(centroids=previous, before=before):
            nonlocal labels
            labels = steps.assign(centroids, active, before, "tf32")

        def update(before=before, previous=previous):
            nonlocal centroids
            centroids, _ = steps.update(labels, before, previous, active, fixed, n_iter)

        assert bytes_read(x, assign) == n_bytes
        n_changed = int((labels != before).sum())
        assert n_changed > 0
        assert bytes_read(x, update) == (n_bytes if iteration == 0 else 2 * n_changed * n_bytes // len(x))
    assert n_changed < len(x) / 4


def test_sums_of_what_has_changed_stay_those_of_all(kernels, monkeypatch):
    tiles = importlib.import_module(f"{kernels.__name__}.tiles")
    problem = Problem(([150, 70], 20, 6), shift=50.0)
    args = problem.x, problem.offsets, problem.centroids, 10, None, "fp32", "farthest"
    expected = backend.kmeans_iterate(*args)
    monkeypatch.setattr(tiles, "SHIFTED_FEATURES", 1)
    found = backend.kmeans_iterate(*args)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1.2e-7, atol=0)


def test_rescue_takes_distances_to_previous_where_none_are_given(kernels):
    problem = Problem(([60, 40], 6, 12))
    problem.centroids[0, 3:6] = 1e3
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    args = (problem.x, problem.offsets, labels, problem.n_clusters)
    expected = kernels.kmeans_update(*args, distance, problem.centroids, None, "farthest")
    found = kernels.kmeans_update(*args, None, problem.centroids, None, "farthest")
    assert all(map(torch.equal, found, expected))


def test_mean_of_equal_rows_is_the_row(kernels):
    x = torch.full((7, 3), 0.1, device=DEVICE) + 100
    labels = torch.zeros(7, dtype=torch.int32, device=DEVICE)
    centroids, _ = kernels.kmeans_update(x, torch.tensor([0, 7], device=DEVICE), labels, 1)
    assert torch.equal(centroids[0, 0], x[0])


@shapes
@pytest.mark.parametrize("n", [1, 3])
def test_nearest_members_match_reference(kernels, shape, n):
    problem = Problem(shape, integers=True)
    problem.centroids[0, 0, 0] = torch.nan
    args = (problem.x, problem.offsets, problem.centroids, problem.labels, n)
    picks = kernels.nearest_members(*args)
    assert torch.equal(picks, reference.nearest_members(*args))
    taken = picks[picks >= 0]
    assert len(taken.unique()) == len(taken)


def test_member_lists_are_in_row_order(kernels):
    problem = Problem(([700, 0, 300], 1, 300))
    members = kernels.member_lists(problem.offsets, problem.labels, 300)
    label = torch.where(problem.labels < 0, 300, problem.labels).long()
    key = group_of_rows(problem.offsets, 1000) * 301 + label
    assert torch.equal(members.rows.long(), torch.argsort(key, stable=True))
    counts = torch.bincount(key, minlength=3 * 301).view(3, 301)
    assert torch.equal(members.counts.long(), counts[:, :300])
    assert torch.equal(members.starts.flatten().long(), counts.flatten().cumsum(0) - counts.flatten())


def test_tile_map_of_a_thousand_groups(kernels):
    tile_map = importlib.import_module(f"{kernels.__name__}.prepare").tile_map
    sizes = torch.randint(0, 40, (1000,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    tiles = tile_map(offsets.to(DEVICE), int(offsets[-1]), 16)
    expected = [(g, row) for g in range(1000) for row in range(int(offsets[g]), int(offsets[g + 1]), 16)]
    assert [*zip(tiles.group.tolist(), tiles.first_row.tolist(), strict=True)][: len(expected)] == expected
    assert (tiles.group[len(expected) :] == -1).all()
    assert torch.equal(
        tiles.first_tile.cpu().long(), torch.searchsorted(tiles.group[: len(expected)].cpu(), torch.arange(1000))
    )


def test_many_small_groups(kernels):
    # The interpreter takes minutes for a thousand; one more than the tile map reads at once shows the same.
    problem = Problem(([3] * (1000 if ON_GPU else 129), 2, 2), integers=True)
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
    check_assignment(problem, labels, distance)
    update = (problem.x, problem.offsets, labels, 2, distance, problem.centroids, None, "keep")
    assert all(map(torch.equal, kernels.kmeans_update(*update), reference.kmeans_update(*update)))


@pytest.mark.parametrize("empty", ["keep", "farthest"])
def test_no_groups_and_no_rows(kernels, empty):
    for sizes in ([], [0, 0]):
        problem = Problem((sizes, 4, 3))
        labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids)
        centroids, counts = kernels.kmeans_update(
            problem.x, problem.offsets, labels, 3, distance, problem.centroids, None, empty
        )
        assert torch.equal(centroids, problem.centroids)
        assert (counts == 0).all()
        picks = kernels.nearest_members(problem.x, problem.offsets, problem.centroids, labels, 2)
        assert picks.shape == (len(sizes), 3, 2)
        assert (picks == -1).all()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("n_features", [16, 21])
def test_a_group_has_the_same_bits_alone_and_in_a_batch(kernels, precision, n_features):
    # More clusters than some groups have rows, so clusters run empty and the rescue takes part.
    batch = Problem(([37, 0, 130, 5], n_features, 20), shift=2.0)

    def run(problem):
        labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision=precision)
        if precision != "fp32":
            return labels, distance  # the others have no precision to choose
        update = (problem.x, problem.offsets, labels, 20, distance, problem.centroids, None, "farthest")
        centroids, counts = kernels.kmeans_update(*update)
        picks = kernels.nearest_members(problem.x, problem.offsets, centroids, labels, 2)
        return labels, distance, centroids, counts, picks

    together = run(batch)
    assert all(map(torch.equal, run(batch), together))
    for g in range(4):
        alone, rows = batch.group(g)
        labels, distance, *further = run(alone)
        assert torch.equal(labels, together[0][rows])
        assert torch.equal(distance, together[1][rows])
        if not further:
            continue
        centroids, counts, picks = further
        assert torch.equal(centroids[0], together[2][g])
        assert torch.equal(counts[0], together[3][g])
        assert torch.equal(torch.where(picks < 0, picks, picks + rows.start)[0], together[4][g])


@pytest.mark.parametrize("n_features", [1, 15, 64, 70])
def test_products_and_the_assignment_from_them(kernels, n_features):
    problem = Problem(([37, 0, 130, 5], n_features, 9), shift=3.0)
    centre = torch.stack([problem.x[rows].mean(dim=0) for _, rows in map(problem.group, range(4))]).nan_to_num(0)
    gram = (problem.x, problem.offsets, problem.x, problem.offsets, centre, 130)
    found, expected = kernels.group_products(*gram), reference.group_products(*gram)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    own = torch.arange(5, device=DEVICE) * 9
    args = (problem.centroids.flatten(0, 1), own, problem.x, problem.offsets, centre, 130)
    products = kernels.group_products(*args).view(4, 9, 130)
    torch.testing.assert_close(products.flatten(0, 1), reference.group_products(*args), rtol=1e-5, atol=1e-4)
    norms = (problem.centroids - centre.unsqueeze(1)).square().sum(dim=2)
    norms[2, 3] = torch.inf
    assign = (products, norms, problem.offsets, problem.active, problem.labels)
    assert torch.equal(kernels.gram_assign(*assign), reference.gram_assign(*assign))


def test_operators_reach_the_kernels(kernels, monkeypatch):
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", "triton")
    problem = Problem(([30, 20], 10, 4), integers=True)
    labels, distance = ops.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision="tf32")
    check_assignment(problem, labels, distance, regret=2e-3)
    centroids, counts = ops.kmeans_update(problem.x, problem.offsets, labels, 4)
    assert int(counts.sum()) == 50
    picks = ops.nearest_members(problem.x, problem.offsets, centroids, labels, 1)
    assert torch.equal(picks, reference.nearest_members(problem.x, problem.offsets, centroids, labels, 1))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x, o, c: ("kmeans_assign", x.double(), o, c.double(), None, None, None, "fp32"), "float64"),
        (lambda x, o, c: ("kmeans_assign", x[:, :0], o, c[:, :, :0], None, None, None, "fp32"), "no features"),
        (lambda x, o, c: ("kmeans_update", x, o, x[:, 0].int(), 10**4, None, None, None, "keep"), "10000 clusters"),
    ],
)
def test_backend_refuses_what_it_cannot_run(kernels, monkeypatch, call, reason):
    problem = Problem(([5], 3, 2))
    args = call(problem.x, problem.offsets, problem.centroids)
    assert reason in refusal("triton", *args)
    if reason == "float64":
        monkeypatch.setenv("DREAM_ACCEL_BACKEND", "triton")
        with pytest.raises(DreamAccelError, match="triton cannot run kmeans_assign"):
            ops.kmeans_assign(*args[1:4])


def test_backend_needs_a_device_or_the_interpreter(kernels, monkeypatch):
    assert backend.unavailable() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "no CUDA device" in backend.unavailable()
    assert "on cpu" in backend.refuses("nearest_members", torch.zeros(1, 1), None, torch.zeros(1, 1, 1))


@needs_gpu
def test_nothing_waits_for_the_device(kernels):
    problem = Problem(SHAPES["ragged"])
    run = [_all_operators(kernels, problem) for _ in range(2)][1]
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = _all_operators(kernels, problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, again, run))


@needs_gpu
def test_graph_replays_follow_their_inputs(kernels):
    problem = Problem(SHAPES["ragged"])
    _all_operators(kernels, problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _all_operators(kernels, problem)
    other = Problem(([1, 50, 18, 30], 15, 4), seed=1)
    for ours, theirs in zip(vars(problem).values(), vars(other).values(), strict=True):
        if isinstance(ours, torch.Tensor):
            ours.copy_(theirs)
    graph.replay()
    assert all(map(torch.equal, captured, _all_operators(kernels, other)))


@needs_gpu
def test_rows_beyond_two_to_the_31_elements(kernels):
    x = torch.zeros(2**31 // 4096 + 50, 4096, dtype=torch.float16, device=DEVICE)
    x[-50:] = torch.randn(50, 4096, device=DEVICE)
    offsets = torch.tensor([0, len(x) - 50, len(x)], device=DEVICE)
    centroids = torch.stack([torch.zeros(4, 4096, device=DEVICE), x[-4:].float()])
    labels, distance = kernels.kmeans_assign(x, offsets, centroids)
    assert labels[-4:].tolist() == [0, 1, 2, 3]
    assert distance[-4:].tolist() == [0, 0, 0, 0]
    means, _ = kernels.kmeans_update(x, offsets, labels, 4)
    members = x[-50:][labels[-50:] == 2].double()
    torch.testing.assert_close(means[1, 2], members.mean(dim=0).float())
    picks = kernels.nearest_members(x, offsets, centroids, labels, 1)
    assert picks[1].flatten().tolist() == [len(x) - 4 + k for k in range(4)]


def _all_operators(kernels, problem):
    labels, distance = kernels.kmeans_assign(problem.x, problem.offsets, problem.centroids, precision="tf32")
    update = (problem.x, problem.offsets, labels, problem.n_clusters, distance, problem.centroids, None, "farthest")
    centroids, counts = kernels.kmeans_update(*update)
    return labels, distance, centroids, counts, kernels.nearest_members(*update[:2], centroids, labels, 2)
