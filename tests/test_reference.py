"""The meaning of the operators: every backend, the reference first, against plain NumPy in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.draws import normal
from support.kmeans_problems import offsets_of
from torch import Tensor

from dream_accel import ops
from dream_accel.networks import make_network

SIZES = [(7, 0, 31), (1,), (150, 64, 3), (0, 5)]
SHAPES = [(1, 1), (3, 5), (17, 40), (64, 8), (130, 129)]  # D, K; K exceeds many of the groups
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def to64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def on(device, *tensors):
    return [t.to(device) if isinstance(t, Tensor) else t for t in tensors]


def check_assignment(x, offsets, centroids, labels, distance, rtol=2e-6) -> None:
    """The chosen centroid is the nearest up to rounding, and the distance is the true one."""
    x, centroids, labels, distance = to64(x), to64(centroids), labels.cpu().numpy(), to64(distance)
    for g, (start, stop) in enumerate(pairwise(offsets)):
        own = labels[start:stop]
        if np.isnan(centroids[g]).any(axis=1).all():
            assert (own == 0).all()
            assert np.isposinf(distance[start:stop]).all()
            continue
        table = ((x[start:stop, None] - centroids[g]) ** 2).sum(axis=2)
        table[np.isnan(table)] = np.inf
        chosen = table[np.arange(stop - start), own]
        assert np.all(chosen <= table.min(axis=1) * (1 + rtol) + 1e-12)
        np.testing.assert_allclose(distance[start:stop], chosen, rtol=1e-5, atol=1e-9)


class TestAssign:
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    @pytest.mark.parametrize(("n_features", "n_clusters"), SHAPES)
    def test_every_row_gets_the_nearest_centroid_of_its_group(self, any_backend, n_features, n_clusters, dtype):
        for seed, sizes in enumerate(SIZES):
            offsets = offsets_of(sizes)
            x = normal(sum(sizes), n_features, seed=seed).to(dtype)
            centroids = normal(len(sizes), n_clusters, n_features, seed=seed + 100)
            labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets, centroids))
            assert labels.dtype == torch.int32
            assert distance.dtype == torch.float32
            check_assignment(x, offsets.tolist(), centroids, labels, distance)

    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    def test_rows_100_sigma_from_the_origin_are_assigned_right(self, any_backend, dtype):
        offsets = offsets_of((300, 200))
        x, centroids = normal(500, 64, mean=100).to(dtype), normal(2, 20, 64, seed=1, mean=100)
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets, centroids))
        check_assignment(x, offsets.tolist(), centroids, labels, distance)

    def test_reduced_precisions_err_only_between_nearly_equal_centroids(self, any_backend):
        offsets, x, centroids = offsets_of((200, 100)), normal(300, 32, mean=3), normal(2, 10, 32, seed=1, mean=3)
        for precision in ("tf32", "bf16"):
            labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets, centroids), precision=precision)
            check_assignment(x, offsets.tolist(), centroids, labels, distance, rtol=0.05)

    def test_equal_centroids_give_the_lowest_index(self, any_backend):
        x = torch.tensor([[0.0, 0], [4, 0], [2, 2], [2, -2]])
        centroids = torch.tensor([[[4.0, 0], [0, 0], [4, 0], [0, 0]]])
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets_of((4,)), centroids))
        assert labels.tolist() == [1, 0, 0, 0]
        assert distance.tolist() == [0, 0, 8, 8]

    def test_dead_centroid_is_never_chosen(self, any_backend):
        x, centroids = normal(40, 5), normal(1, 6, 5, seed=1)
        centroids[0, 0] = torch.nan
        centroids[0, 3] = torch.tensor([1e5, 1e5, torch.nan, 1e5, 1e5])
        centroids[0, 4, 2] = -torch.inf
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets_of((40,)), centroids))
        assert not {0, 3, 4} & set(labels.tolist())
        check_assignment(x, [0, 40], centroids, labels, distance)

    def test_group_of_dead_centroids_gives_label_0_at_infinity(self, any_backend):
        x, centroids = normal(9, 3), normal(2, 4, 3)
        centroids[0] = torch.nan
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets_of((5, 4)), centroids))
        assert labels[:5].tolist() == [0] * 5
        assert distance[:5].tolist() == [torch.inf] * 5
        assert distance[5:].isfinite().all()

    def test_inactive_groups_keep_labels_and_distances(self, any_backend):
        offsets, x, centroids = offsets_of((6, 0, 5, 4)), normal(15, 3), normal(4, 7, 3, seed=1)
        kept, at = torch.arange(15, dtype=torch.int32) + 50, torch.arange(15.0) - 3
        active = torch.tensor([False, True, True, False])
        x, offsets, centroids, kept, at, active = on(any_backend.device, x, offsets, centroids, kept, at, active)
        labels, distance = ops.kmeans_assign(x, offsets, centroids, active=active, labels=kept, distance=at)
        everywhere, _ = ops.kmeans_assign(x, offsets, centroids)
        assert labels.tolist() == [*range(50, 56), *everywhere[6:11].tolist(), *range(61, 65)]
        assert distance[:6].tolist() == [-3, -2, -1, 0, 1, 2]
        assert distance[11:].tolist() == [8, 9, 10, 11]

    def test_labels_are_the_same_without_distances(self, any_backend):
        for D, K in SHAPES:
            x, offsets, centroids = normal(40, D), offsets_of((31, 0, 9)), normal(3, K, D, seed=1)
            centroids[0, K // 2] = torch.nan
            x[5], x[6] = torch.nan, 1e30
            x, offsets, centroids = on(any_backend.device, x, offsets, centroids)
            labels, _ = ops.kmeans_assign(x, offsets, centroids)
            alone, nothing = ops.kmeans_assign(x, offsets, centroids, with_distance=False)
            assert torch.equal(alone, labels)
            assert nothing.shape == (0,)
            active = torch.tensor([False, True, True], device=x.device)
            kept, _ = ops.kmeans_assign(
                x, offsets, centroids, active=active, labels=labels + 5, precision="fp32", with_distance=False
            )
            assert torch.equal(kept, torch.cat([labels[:31] + 5, labels[31:]]))

    def test_centroid_at_a_row_is_at_distance_0(self, any_backend):
        x = normal(30, 19, mean=7)
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets_of((30,)), x.unsqueeze(0).clone()))
        assert labels.tolist() == list(range(30))
        assert distance.tolist() == [0] * 30

    def test_inputs_need_not_be_contiguous(self, any_backend):
        x, centroids = normal(8, 20).T, normal(8, 4, 2, seed=1).permute(2, 1, 0)
        offsets = offsets_of((9, 11)).repeat_interleave(2)[::2]
        strided = ops.kmeans_assign(*on(any_backend.device, x, offsets, centroids))
        packed = ops.kmeans_assign(
            *on(any_backend.device, x.contiguous(), offsets.contiguous(), centroids.contiguous())
        )
        assert torch.equal(strided[0], packed[0])
        torch.testing.assert_close(strided[1], packed[1], rtol=1e-6, atol=0)

    def test_groups_beyond_a_chunk_of_rows(self, any_backend):
        offsets, x, centroids = offsets_of((5000, 4097)), normal(9097, 3), normal(2, 5, 3, seed=1)
        labels, distance = ops.kmeans_assign(*on(any_backend.device, x, offsets, centroids))
        check_assignment(x, offsets.tolist(), centroids, labels, distance)


def update_by_hand(x, offsets, labels, n_clusters, distance=None, previous=None, active=None, empty="keep"):
    """The definition of the update, row by row."""
    n_groups = len(offsets) - 1
    centroids = np.full((n_groups, n_clusters, x.shape[1]), np.nan, np.float32)
    counts = np.zeros((n_groups, n_clusters), np.int32)
    if previous is not None:
        centroids[:] = previous
    for g in range(n_groups):
        members = [[i for i in range(offsets[g], offsets[g + 1]) if labels[i] == k] for k in range(n_clusters)]
        counts[g] = [len(rows) for rows in members]
        if active is not None and not active[g]:
            continue
        if empty == "farthest":
            anchors = {min(rows, key=lambda i: (distance[i], i)) for rows in members if rows}
            movable = [i for rows in members for i in rows if distance[i] > 0 and i not in anchors]
            movable.sort(key=lambda i: (-distance[i], i))
            vacant = [k for k in range(n_clusters) if not members[k]]
            for k, row in zip(vacant, movable, strict=False):
                members[labels[row]].remove(row)
                members[k] = [row]
            counts[g] = [len(rows) for rows in members]
        for k, rows in enumerate(members):
            if rows:
                total = np.zeros(x.shape[1])
                for i in rows:
                    total += x[i]
                centroids[g, k] = total / len(rows)
    return centroids, counts


def numpy_all(*values):
    return [v.cpu().double().numpy() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]


@st.composite
def updates(draw):
    """Arguments of an update over few small integers, so that ties, duplicates and empty clusters abound."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    n_clusters, n_features, n_rows = draw(st.integers(1, 6)), draw(st.integers(1, 3)), sum(sizes)
    whole = st.integers(-2, 3)

    def integers(*shape, values=whole):
        n = int(np.prod(shape))
        return torch.tensor(draw(st.lists(values, min_size=n, max_size=n)), dtype=torch.int32).reshape(shape)

    return {
        "x": integers(n_rows, n_features).float(),
        "offsets": offsets_of(sizes),
        "labels": integers(n_rows, values=st.integers(-1, n_clusters)),
        "n_clusters": n_clusters,
        "distance": integers(n_rows, values=st.integers(0, 3)).float(),
        "previous": integers(len(sizes), n_clusters, n_features).float(),
        "active": integers(len(sizes), values=st.integers(0, 1)).bool() if draw(st.booleans()) else None,
        "empty": draw(st.sampled_from(["keep", "farthest"])),
    }


class TestUpdate:
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    @pytest.mark.parametrize(("n_features", "n_clusters"), SHAPES)
    def test_centroids_are_the_means_of_their_members(self, any_backend, n_features, n_clusters, dtype):
        for seed, sizes in enumerate(SIZES):
            offsets, x = offsets_of(sizes), normal(sum(sizes), n_features, seed=seed, mean=100).to(dtype)
            labels = torch.from_numpy(np.random.RandomState(seed).randint(0, n_clusters, len(x)).astype(np.int32))
            centroids, counts = ops.kmeans_update(*on(any_backend.device, x, offsets, labels), n_clusters)
            means, members = update_by_hand(to64(x), offsets, labels, n_clusters)
            np.testing.assert_array_equal(counts.cpu().numpy(), members)
            # On CPUs sums run in row order in float64, so that every backend gives the same bits.
            rtol = 0 if any_backend.device.type == "cpu" else 1e-6
            np.testing.assert_allclose(centroids.cpu().numpy(), means, rtol=rtol, atol=0)

    @given(call=updates())
    @settings(max_examples=60)
    def test_agrees_with_the_definition_on_any_small_call(self, any_backend, call):
        names = list(call)
        values = dict(zip(names, numpy_all(*call.values()), strict=True))
        expected = update_by_hand(**values)
        moved = dict(zip(names, on(any_backend.device, *call.values()), strict=True))
        centroids, counts = ops.kmeans_update(**moved)
        np.testing.assert_array_equal(counts.cpu().numpy(), expected[1])
        np.testing.assert_allclose(centroids.cpu().numpy(), expected[0], rtol=1e-6, atol=0)

    def test_labels_outside_the_clusters_belong_to_none(self, any_backend):
        x, labels = torch.tensor([[1.0], [2], [3], [50]]), torch.tensor([-1, 0, 0, 2], dtype=torch.int32)
        centroids, counts = ops.kmeans_update(*on(any_backend.device, x, offsets_of((4,)), labels), 2)
        assert counts.tolist() == [[2, 0]]
        assert centroids[0, 0].item() == 2.5
        assert centroids[0, 1].isnan()

    def test_keep_leaves_the_previous_centroid_of_an_empty_cluster(self, any_backend):
        x, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1], dtype=torch.int32)
        previous = torch.tensor([[[9.0], [8.0], [7.0]]])
        x, offsets, labels, previous = on(any_backend.device, x, offsets_of((2,)), labels, previous)
        centroids, counts = ops.kmeans_update(x, offsets, labels, 3, previous=previous, empty="keep")
        assert centroids.flatten().tolist() == [9, 2, 7]
        assert counts.tolist() == [[0, 2, 0]]

    def test_empty_clusters_take_the_farthest_rows_in_turn(self, any_backend):
        # Rows 1 and 4 anchor their clusters and row 5 is at distance 0, which leaves rows 3, 2 and 0 to move in turn.
        x = torch.arange(6.0).unsqueeze(1)
        labels = torch.tensor([2, 2, 2, 3, 3, 3], dtype=torch.int32)
        distance = torch.tensor([4.0, 1, 5, 7, 0, 0])
        previous = torch.full((1, 7, 1), 99.0)
        x, offsets, labels, distance, previous = on(any_backend.device, x, offsets_of((6,)), labels, distance, previous)
        centroids, counts = ops.kmeans_update(
            x, offsets, labels, 7, distance=distance, previous=previous, empty="farthest"
        )
        assert centroids.flatten().tolist() == [3, 2, 1, 4.5, 0, 99, 99]
        assert counts.tolist() == [[1, 1, 1, 2, 1, 0, 0]]

    def test_distances_not_given_are_those_to_the_previous_centroids(self, any_backend):
        sizes = (40, 0, 25, 3)
        x, offsets, previous = normal(sum(sizes), 9), offsets_of(sizes), normal(4, 12, 9, seed=1)
        previous[0, 3] = torch.nan
        active = torch.tensor([True, True, True, False])
        x, offsets, previous, active = on(any_backend.device, x, offsets, previous, active)
        labels, distance = ops.kmeans_assign(x, offsets, previous)
        options = {"previous": previous, "active": active, "empty": "farthest"}
        given_, computed = (ops.kmeans_update(x, offsets, labels, 12, distance=d, **options) for d in (distance, None))
        assert (given_[1] == 0).any()
        assert torch.equal(given_[1], computed[1])
        assert torch.equal(given_[0].nan_to_num(7), computed[0].nan_to_num(7))

    def test_rows_equally_far_move_lowest_first(self, any_backend):
        x, labels = torch.tensor([[5.0], [1], [2], [3]]), torch.zeros(4, dtype=torch.int32)
        distance = torch.tensor([1.0, 6, 6, 6])
        x, offsets, labels, distance = on(any_backend.device, x, offsets_of((4,)), labels, distance)
        centroids, counts = ops.kmeans_update(x, offsets, labels, 3, distance=distance, empty="farthest")
        assert centroids.flatten().tolist() == [4, 1, 2]
        assert counts.tolist() == [[2, 1, 1]]

    def test_cluster_of_one_row_keeps_it_however_far(self, any_backend):
        x, labels = torch.tensor([[5.0], [1]]), torch.tensor([0, 2], dtype=torch.int32)
        x, offsets, labels, distance = on(any_backend.device, x, offsets_of((2,)), labels, torch.tensor([100.0, 100]))
        centroids, counts = ops.kmeans_update(x, offsets, labels, 3, distance=distance, empty="farthest")
        assert counts.tolist() == [[1, 0, 1]]
        assert centroids[0, 1].isnan()

    def test_duplicates_at_distance_0_never_move(self, any_backend):
        x, labels = torch.ones(5, 2), torch.zeros(5, dtype=torch.int32)
        x, offsets, labels, distance = on(any_backend.device, x, offsets_of((5,)), labels, torch.zeros(5))
        centroids, counts = ops.kmeans_update(x, offsets, labels, 3, distance=distance, empty="farthest")
        assert counts.tolist() == [[5, 0, 0]]
        assert centroids[0, 1:].isnan().all()

    def test_inactive_groups_keep_their_centroids_and_are_counted(self, any_backend):
        x, labels = normal(9, 2), torch.tensor([0, 0, 1, 2, 2, 2, 0, 1, 1], dtype=torch.int32)
        previous, active = normal(2, 4, 2, seed=1), torch.tensor([False, True])
        args = on(any_backend.device, x, offsets_of((6, 3)), labels)
        previous, active, distance = on(any_backend.device, previous, active, torch.arange(9.0))
        centroids, counts = ops.kmeans_update(
            *args, 4, distance=distance, previous=previous, active=active, empty="farthest"
        )
        assert torch.equal(centroids[0], previous[0])
        assert counts.tolist() == [[2, 1, 3, 0], [1, 1, 1, 0]]

    def test_no_precision_is_lost_over_many_rows(self, any_backend):
        x = torch.full((20000, 3), 0.1)
        labels = torch.zeros(len(x), dtype=torch.int32)
        centroids, counts = ops.kmeans_update(*on(any_backend.device, x, offsets_of((20000,)), labels), 1)
        assert counts.item() == 20000
        np.testing.assert_allclose(centroids.cpu().numpy().ravel(), np.float32(0.1), rtol=2e-6)


def nearest_by_hand(x, offsets, centroids, labels, n):
    """The definition of the picks, row by row."""
    n_groups, n_clusters, _ = centroids.shape
    picks = np.full((n_groups, n_clusters, n), -1, np.int64)
    for g in range(n_groups):

        def key(i, own=centroids[g]):
            inside = 0 <= labels[i] < n_clusters and not np.isnan(own[labels[i]]).any()
            return (((x[i] - own[labels[i]]) ** 2).sum() if inside else np.inf), i

        rows = sorted(range(offsets[g], offsets[g + 1]), key=key)
        for k in range(n_clusters):
            members = [i for i in rows if labels[i] == k][:n]
            picks[g, k, : len(members)] = members
        spare = (i for i in rows if i not in picks[g])
        for k, slot in [(k, slot) for k in range(n_clusters) for slot in range(n) if picks[g, k, slot] < 0]:
            picks[g, k, slot] = next(spare, -1)
    return picks


class TestNearestMembers:
    @given(call=updates(), n=st.integers(1, 4), dead=st.booleans())
    @settings(max_examples=60)
    def test_agrees_with_the_definition_on_any_small_call(self, any_backend, call, n, dead):
        x, offsets, labels, centroids = call["x"], call["offsets"], call["labels"], call["previous"].clone()
        if dead:
            centroids[-1, -1, -1] = torch.nan
        picks = ops.nearest_members(*on(any_backend.device, x, offsets, centroids, labels), n)
        np.testing.assert_array_equal(
            picks.cpu().numpy(), nearest_by_hand(to64(x), offsets, to64(centroids), labels.numpy(), n)
        )

    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    def test_picks_are_distinct_members_nearest_first(self, any_backend, dtype):
        offsets, x = offsets_of((400, 0, 90)), normal(490, 33).to(dtype)
        centroids = normal(3, 30, 33, seed=1)
        x, offsets, centroids = on(any_backend.device, x, offsets, centroids)
        labels, distance = ops.kmeans_assign(x, offsets, centroids)
        picks = ops.nearest_members(x, offsets, centroids, labels, 3).cpu()
        assert picks[0].unique().numel() == 90
        assert picks[2].sort().values.flatten().sort().values.tolist() == list(range(400, 490))
        assert (picks[1] == -1).all()
        labels, distance = labels.cpu(), distance.cpu()
        for k in range(30):
            members = (labels[:400] == k).nonzero().flatten()
            own = picks[0, k, : len(members)]
            assert (labels[own] == k).all()
            nearest = distance[members].sort().values[:3]
            np.testing.assert_allclose(distance[own], nearest, rtol=1e-5)

    def test_free_slots_take_the_unpicked_rows_nearest_their_own_centroid(self, any_backend):
        x = torch.tensor([[0.0], [3], [1], [2], [10]])
        labels = torch.tensor([1, 1, 1, 1, 2], dtype=torch.int32)
        centroids = torch.tensor([[[-9.0], [0.0], [11.0]]])
        picks = ops.nearest_members(*on(any_backend.device, x, offsets_of((5,)), centroids, labels), 2)
        assert picks.tolist() == [[[3, 1], [0, 2], [4, -1]]]

    def test_rows_equally_near_are_picked_lowest_first(self, any_backend):
        x, labels = torch.ones(6, 2), torch.zeros(6, dtype=torch.int32)
        picks = ops.nearest_members(*on(any_backend.device, x, offsets_of((6,)), torch.zeros(1, 2, 2), labels), 3)
        assert picks.tolist() == [[[0, 1, 2], [3, 4, 5]]]

    def test_rows_are_global(self, any_backend):
        x, labels = torch.tensor([[0.0], [7], [5]]), torch.zeros(3, dtype=torch.int32)
        picks = ops.nearest_members(
            *on(any_backend.device, x, offsets_of((1, 2)), torch.full((2, 1, 1), 4.0), labels), 1
        )
        assert picks.flatten().tolist() == [0, 2]


SHAPES_OF_GRADIENTS = [(8, 3, 3, 3), (8,), (6,), (5, 8, 1, 1), (10, 41), (3, 1500)]
KEPT = {"conv": [0, 3], "weights": [0, 3, 4, 5], "all": [0, 1, 2, 3, 4, 5]}


def rows_of(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0] if t.dim() else 1, -1)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    return 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


def plain_distance(real, synthetic, metric):
    """The published formulas on lists of whole gradients of one class, one row after another."""
    if metric.startswith("global_"):
        x, y = (torch.cat([t.flatten() for t in side]) for side in (real, synthetic))
        return ((x - y) ** 2).sum() if metric == "global_mse" else cosine_distance(x, y)
    total = torch.zeros((), dtype=synthetic[0].dtype)
    for x, y in zip(real, synthetic, strict=True):
        for x_row, y_row in zip(rows_of(x), rows_of(y), strict=True):
            if metric == "mse":
                total = total + ((x_row - y_row) ** 2).sum()
            elif metric == "l1":
                total = total + (x_row - y_row).abs().sum()
            elif metric == "l1_mean":
                total = total + (x_row - y_row).abs().mean()
            else:
                total = total + cosine_distance(x_row, y_row)
    return total


def gradients(*lead: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    return [scale * normal(*lead, *shape, seed=seed + i) for i, shape in enumerate(SHAPES_OF_GRADIENTS)]


def expected_by_autograd(real, synthetic, metric, kept):
    """Value and derivative of the plain formulas in float64."""
    inputs = [y.detach().cpu().double().requires_grad_() for y in synthetic]
    value = plain_distance([real[i].cpu().double() for i in kept], [inputs[i] for i in kept], metric)
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.detach(), [torch.zeros_like(y) if g is None else g for g, y in zip(grads, inputs, strict=True)]


def assert_close(found, expected, rtol=2e-5, scale=0.0) -> None:
    """Within rtol of the largest element or of ``scale``: sums that cancel are judged by what went into them."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    atol = rtol * max(scale, float(expected.abs().max())) if expected.numel() else 0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, check_dtype=False)


class TestGradientDistance:
    @pytest.mark.parametrize("layers", ops.LAYER_RULES)
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_value_and_derivative_match_autograd_through_the_plain_formula(self, gradient_backend, metric, layers):
        real, synthetic = gradients(seed=0), gradients(seed=50)
        value, grads = expected_by_autograd(real, synthetic, metric, KEPT[layers])
        real, synthetic = (on(gradient_backend.device, *side) for side in (real, synthetic))
        distance, found = ops.gradient_distance(real, synthetic, metric, layers, return_grads=True)
        assert distance.shape == ()
        assert_close(distance, value)
        for g, expected, y in zip(found, grads, synthetic, strict=True):
            if y.dim() == 1 and metric == "cos":  # The terms of size 1/|y| cancel in a row of one element.
                assert_close(g * y, expected.to(y) * y, scale=1.0)
            else:
                assert_close(g, expected)

        inputs = [y.clone().requires_grad_() for y in synthetic]
        distance = ops.gradient_distance(real, inputs, metric, layers)
        through_loss = torch.autograd.grad(3 * distance, inputs, allow_unused=True)
        for g, single, i in zip(through_loss, found, range(6), strict=True):
            assert (g is None) == (i not in KEPT[layers])
            if g is not None:
                assert_close(g, 3 * single, rtol=1e-6)

    @pytest.mark.parametrize("layers", ops.LAYER_RULES)
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_stacked_classes_equal_one_call_per_class(self, gradient_backend, metric, layers):
        real, synthetic = (on(gradient_backend.device, *gradients(3, seed=seed)) for seed in (0, 50))
        distance, grads = ops.gradient_distance(real, synthetic, metric, layers, per_class=True, return_grads=True)
        assert distance.shape == (3,)
        for c in range(3):
            own = [x[c] for x in real], [y[c] for y in synthetic]
            single, single_grads = ops.gradient_distance(*own, metric, layers, return_grads=True)
            assert_close(distance[c], single, rtol=1e-6)
            for g, h in zip(grads, single_grads, strict=True):
                assert_close(g[c], h, rtol=1e-6)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_classes_are_weighted_by_their_own_upstream_gradient(self, gradient_backend, metric):
        real, synthetic = (on(gradient_backend.device, *gradients(3, seed=seed)) for seed in (0, 50))
        _, grads = ops.gradient_distance(real, synthetic, metric, "all", per_class=True, return_grads=True)
        inputs = [y.clone().requires_grad_() for y in synthetic]
        distance = ops.gradient_distance(real, inputs, metric, "all", per_class=True)
        distance.backward(distance.new_tensor([1.0, -2.0, 0.0]))
        for y, g in zip(inputs, grads, strict=True):
            assert_close(y.grad[0], g[0], rtol=1e-6)
            assert_close(y.grad[1], -2 * g[1], rtol=1e-6)
            assert (y.grad[2] == 0).all()

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_gradients_as_small_as_in_training_keep_their_accuracy(self, gradient_backend, metric):
        # |x||y| is then near the 1e-6 added to it, whose place therefore shows.
        real, synthetic = gradients(seed=0, scale=1e-4), gradients(seed=50, scale=1e-4)
        value, expected = expected_by_autograd(real, synthetic, metric, KEPT["weights"])
        real, synthetic = (on(gradient_backend.device, *side) for side in (real, synthetic))
        distance, grads = ops.gradient_distance(real, synthetic, metric, "weights", return_grads=True)
        assert_close(distance, value)
        for g, h in zip(grads, expected, strict=True):
            assert_close(g, h)

    def test_channels_last_gradients_are_paired_by_position(self, gradient_backend):
        real, synthetic = (on(gradient_backend.device, *gradients(seed=seed))[:1] for seed in (0, 50))
        for metric in ops.METRICS:
            value, expected = ops.gradient_distance(real, synthetic, metric, return_grads=True)
            mixed = [synthetic[0].to(memory_format=torch.channels_last)]
            distance, grads = ops.gradient_distance(real, mixed, metric, return_grads=True)
            assert_close(distance, value, rtol=1e-6)
            assert_close(grads[0], expected[0], rtol=1e-6)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_nan_in_either_list_makes_the_distance_nan(self, gradient_backend, metric):
        for side in (0, 1):
            pair = [normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1)]
            pair[side][2, 1, 0, 0] = torch.nan
            x, y = on(gradient_backend.device, *pair)
            distance, grads = ops.gradient_distance([x], [y], metric, return_grads=True)
            assert distance.isnan()
            if metric not in ("l1", "l1_mean"):
                assert grads[0].isnan().any()
            per_class, _ = ops.gradient_distance([x], [y], metric, "all", per_class=True, return_grads=True)
            assert per_class.isnan().tolist() == [False, False, True, False]

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_rows_of_zeros_have_the_derivative_autograd_gives(self, gradient_backend, metric):
        real, synthetic = normal(5, 7), normal(5, 7, seed=1)
        real[0], synthetic[1], real[2], synthetic[2], synthetic[3] = 0, 0, 0, 0, real[3]
        value, expected = expected_by_autograd([real], [synthetic], metric, [0])
        found = ops.gradient_distance(*([t.to(gradient_backend.device)] for t in (real, synthetic)), metric, "all")
        assert_close(found, value)
        _, grads = ops.gradient_distance(
            *([t.to(gradient_backend.device)] for t in (real, synthetic)), metric, "all", return_grads=True
        )
        for row, expected_row, y in zip(grads[0], expected[0], synthetic, strict=True):
            assert_close(row, expected_row, scale=float(1 / y.norm()) if y.any() else 0.0)

    def test_elements_of_a_vector_are_rows(self, gradient_backend):
        x, y = (t.to(gradient_backend.device) for t in (torch.tensor([3.0, -2, 1]), torch.tensor([1.0, 5, 2])))
        assert ops.gradient_distance([x], [y], "l1_mean", "all").item() == 10
        assert ops.gradient_distance([x], [y], "cos", "all").item() == pytest.approx(2, abs=1e-5)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_tensors_without_elements_add_nothing_but_rows(self, gradient_backend, metric):
        x, y = (on(gradient_backend.device, normal(4, 3, seed=s), torch.zeros(0, 3)) for s in (0, 1))
        expected = ops.gradient_distance(x[:1], y[:1], metric, "all")
        distance, grads = ops.gradient_distance(x, y, metric, "all", return_grads=True)
        assert_close(distance, expected, rtol=1e-6)
        assert grads[1].shape == (0, 3)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_no_classes_give_no_distances(self, gradient_backend, metric):
        nothing = [torch.zeros(0, 4, 3, device=gradient_backend.device)]
        distance, grads = ops.gradient_distance(nothing, nothing, metric, "all", per_class=True, return_grads=True)
        assert distance.shape == (0,)
        assert grads[0].shape == (0, 4, 3)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_pixel_gradient_through_a_network_matches_plain_pytorch(self, gradient_backend, metric):
        device = gradient_backend.device
        network = make_network("convnet", (3, 16, 16), 4, 8, 2, 0).to(device)
        parameters = list(network.parameters())
        real, pixels = normal(6, 3, 16, 16).to(device), normal(3, 3, 16, 16, seed=1).to(device).requires_grad_()

        def gradients_of(images, **kwargs):
            loss = torch.nn.functional.cross_entropy(
                network(images), torch.ones(len(images), dtype=torch.int64, device=device)
            )
            return torch.autograd.grad(loss, parameters, **kwargs)

        g_real, g_synthetic = gradients_of(real), gradients_of(pixels, create_graph=True)
        value = plain_distance([g.double() for g in g_real], [g.double() for g in g_synthetic], metric).to(device)
        (expected,) = torch.autograd.grad(value, pixels, retain_graph=True)
        distance, upstream = ops.gradient_distance(g_real, g_synthetic, metric, "all", return_grads=True)
        (by_grads,) = torch.autograd.grad(g_synthetic, pixels, grad_outputs=upstream, retain_graph=True)
        (by_loss,) = torch.autograd.grad(ops.gradient_distance(g_real, g_synthetic, metric, "all"), pixels)
        assert_close(distance, value, rtol=1e-5)
        assert_close(by_grads, expected, rtol=1e-5)
        assert_close(by_loss, expected, rtol=1e-5)
