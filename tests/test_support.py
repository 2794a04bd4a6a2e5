"""Judges and guards can fail: wrong labels and distances, and calls that wait for the device, are found."""

import pytest
import torch
from support.hard_rows import HARD, hard_rows
from support.nearest import assert_nearest
from support.round_trips import no_host_round_trip

from dream_accel.backends import reference


def assigned(data):
    x, offsets, centroids = hard_rows(data)
    return x, offsets, centroids, *reference.kmeans_assign(x, offsets, centroids, None, None, None, "fp32")


# Among denormals any centroid may count as the nearest: all distances underflow.
@pytest.mark.parametrize("data", [name for name in HARD if name != "denormals"])
def test_one_row_with_the_farthest_centroid_is_found(data):
    x, offsets, centroids, labels, distance = assigned(data)
    assert_nearest(x, offsets, centroids, labels, distance)
    table = (x[3].double() - centroids[0].double()).square().sum(1).nan_to_num(nan=-1)
    labels[3], distance[3] = table.argmax(), table.max()
    with pytest.raises(AssertionError):
        assert_nearest(x, offsets, centroids, labels, distance)


@pytest.mark.parametrize(("beyond_halfway", "found"), [(2.0**-20, True), (2.0**-24, False)])
def test_the_bound_is_that_of_rounding(beyond_halfway, found):
    x, offsets = torch.tensor([[0.5 + beyond_halfway]]), torch.tensor([0, 1])
    call = x, offsets, torch.tensor([[[0.0], [1.0]]]), torch.tensor([0]), x[0].square()
    if found:
        with pytest.raises(AssertionError):
            assert_nearest(*call)
    else:
        assert_nearest(*call)


def test_a_distance_that_is_off_by_little_is_found():
    x, offsets, centroids, labels, distance = assigned("random")
    distance[7] *= 1 + 3e-5
    with pytest.raises(AssertionError):
        assert_nearest(x, offsets, centroids, labels, distance)


def test_a_dead_centroid_and_a_label_where_none_lives_are_found():
    x, offsets, centroids, labels, distance = assigned("dead centroids")
    dead = labels.clone()
    dead[0] = 0
    with pytest.raises(AssertionError):
        assert_nearest(x, offsets, centroids, dead, distance)
    centroids[0] = torch.nan
    labels[:37] = 0
    assert_nearest(x, offsets, centroids, labels, distance)
    labels[5] = 1
    with pytest.raises(AssertionError):
        assert_nearest(x, offsets, centroids, labels, distance)


@pytest.mark.parametrize(
    "asks",
    [
        lambda t: t.sum().item(),
        lambda t: t.tolist(),
        lambda t: bool(t[0] > 0),
        lambda t: t[t > 0],
        lambda t: t.nonzero(),
        lambda t: t.repeat_interleave(torch.ones(4, dtype=torch.int64)),
    ],
    ids=["item", "tolist", "bool", "mask", "nonzero", "repeat_interleave"],
)
def test_calls_that_wait_for_the_device_are_found(asks):
    with pytest.raises(AssertionError, match="waits for the device"), no_host_round_trip():
        asks(torch.arange(4))
