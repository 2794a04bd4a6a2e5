"""The promises of K-Means on its results, for every backend and every instruction set that runs here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hard_rows import HARD, hard_rows
from support.nearest import assert_nearest
from support.served import KMEANS_BACKENDS, Served

import dream_accel as da
from dream_accel import ops
from dream_accel.backends import _native, reference

C = _native.load()
WAYS = [(served, isa) for served in KMEANS_BACKENDS for isa in (C.isas() if C and served.name == "cpu" else [""])]


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(filter(None, map(str, way))))
def way(request, monkeypatch) -> Served:
    """Every backend that runs the operators on this machine in turn, the CPU's with each instruction set, forced."""
    served, isa = request.param
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", served.name)
    if isa:
        C.force_isa(isa)
    yield served
    if isa:
        C.force_isa("")


@pytest.fixture
def repeatable(way) -> Served:
    if (way.name, way.device.type) == ("reference", "cuda"):
        pytest.skip("on CUDA plain PyTorch adds up rows in any order")
    return way


@pytest.mark.parametrize("data", HARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_label_is_the_nearest_in_float64(way, data, dtype):
    x, offsets, centroids = (values.to(way.device) for values in hard_rows(data))
    x = x.to(dtype)
    assert_nearest(x, offsets, centroids, *ops.kmeans_assign(x, offsets, centroids))


def everything(x, sizes):
    """All that a fit and its picks give, for every class: rows are numbered within the class."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    km = da.BatchedKMeans(4, max_iter=6, cuda_graph=False).fit(x, offsets)
    picks = km.representatives(2).cpu()
    picks = torch.where(picks < 0, picks, picks - offsets[:-1, None])
    of_class = [km.cluster_centers_.nan_to_num(7), km.counts_, km.inertia_, km.n_iter_, picks]
    labels = km.labels_.split(list(sizes))
    return [(labels[g], *(result[g] for result in of_class)) for g in range(len(sizes))]


def assert_same_bits(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_class_gives_the_same_bits_alone_among_a_hundred_in_any_order_and_twice(repeatable):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(0, 24, (100,), generator=generator).tolist()
    classes = torch.randn(sum(sizes), 21, generator=generator).to(repeatable.device).split(sizes)
    together = everything(torch.cat(classes), sizes)
    assert_same_bits(everything(torch.cat(classes), sizes), together)
    for order in (range(99, -1, -1), torch.randperm(100, generator=generator).tolist()):
        shuffled = everything(torch.cat([classes[g] for g in order]), [sizes[g] for g in order])
        assert_same_bits(shuffled, [together[g] for g in order])
    for own, size, expected in zip(classes, sizes, together, strict=True):
        assert_same_bits(everything(own, [size]), [expected])


@st.composite
def shapes(draw):
    sizes = draw(st.lists(st.integers(0, 20), max_size=4))
    as_many_as_rows = draw(st.booleans()) and max(sizes, default=0) > 0
    return (
        sizes,
        draw(st.sampled_from([1, 2, 15, 16, 17, 33])),
        max(sizes) if as_many_as_rows else draw(st.integers(1, 24)),
    )


@given(shape=shapes(), n=st.integers(1, 3), seed=st.integers(0, 5))
@settings(max_examples=40)
def test_operators_agree_with_the_reference_on_any_shape(way, shape, n, seed):
    # Small whole numbers: their distances are exact, and many of them equal.
    sizes, n_features, n_clusters = shape
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape):
        return torch.randint(-2, 3, shape, generator=generator).float().to(way.device)

    x, centroids = whole(sum(sizes), n_features), whole(len(sizes), n_clusters, n_features)
    offsets = torch.tensor([0, *sizes]).cumsum(0).to(way.device)
    labels, distance = ops.kmeans_assign(x, offsets, centroids)
    assert_nearest(x, offsets, centroids, labels, distance)
    for empty in ops.EMPTY_POLICIES:
        means, counts = ops.kmeans_update(
            x, offsets, labels, n_clusters, distance=distance, previous=centroids, empty=empty
        )
        exact, exact_counts = reference.kmeans_update(
            x.double(), offsets, labels, n_clusters, distance, centroids.double(), None, empty
        )
        assert torch.equal(counts, exact_counts)
        torch.testing.assert_close(means.double(), exact, rtol=2**-23, atol=0)
    picks = ops.nearest_members(x, offsets, centroids, labels, n)
    assert torch.equal(picks, reference.nearest_members(x, offsets, centroids, labels, n))
    for group, size in enumerate(sizes):
        found = picks[group][picks[group] >= 0]
        assert len(found) == len(found.unique()) == min(size, n_clusters * n)
