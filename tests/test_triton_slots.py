"""Triton's choice of rows for slots: the reference's rows in every order of distances, in time linear in the rows.

test_triton_kernels runs this file in a process of its own, for the interpreter.
"""

import os
from unittest import mock

import pytest
import torch

from dream_accel.backends import reference

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture(autouse=True)
def _process_runs_kernels():
    if not (INTERPRETED or ON_GPU):
        pytest.skip("runs within test_triton_kernels.py::test_every_kernel_in_the_interpreter")


@pytest.fixture
def kernels():
    from dream_accel import kernels

    return kernels


def draw(n, kind):
    """Distances of n rows."""
    random = torch.Generator().manual_seed(n)
    if kind == "equal":
        return torch.ones(n)
    if kind == "ties":
        return torch.randint(0, 4, (n,), generator=random).float()
    if kind == "any bits":  # subnormal, huge, infinite and NaN
        return torch.randint(0, 2**31, (n,), generator=random, dtype=torch.int32).view(torch.float32)
    return torch.rand(n, generator=random)


DISTANCES = ["equal", "ties", "any bits", "near each other"]


@pytest.mark.parametrize("kind", DISTANCES)
def test_empty_clusters_take_the_rows_of_the_reference(kernels, kind):
    sizes, n_clusters = [4500, 40, 0, 3, 200], 11
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    n_rows = sum(sizes)
    x = torch.arange(n_rows).float().unsqueeze(1)
    labels = torch.arange(n_rows, dtype=torch.int32) % 3 * 4  # 0, 4 and 8: the others are empty
    labels[:4300] = 4  # one cluster of more members than are read at a time
    labels[4500:4540] = 12  # of no cluster
    args = [x, offsets, labels, n_clusters, draw(n_rows, kind), None, None, "farthest"]
    expected = reference.kmeans_update(*args)
    found = kernels.kmeans_update(*(a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in args))
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got.cpu().nan_to_num(-1), want.nan_to_num(-1))


@pytest.mark.parametrize("kind", DISTANCES[1:])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_free_slots_take_the_rows_of_the_reference(kernels, kind, n):
    sizes, n_clusters = [5000, 30], 5
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    x = draw(sum(sizes), kind).nan_to_num(0).clamp(0, 1e18).unsqueeze(1)
    labels = torch.ones(len(x), dtype=torch.int32)
    labels[::50], labels[7::90], labels[3] = 3, -1, 2
    args = [x, offsets, torch.zeros(2, n_clusters, 1), labels, n]
    expected = reference.nearest_members(*args)
    found = kernels.nearest_members(*(a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in args))
    assert torch.equal(found.cpu(), expected)


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter computes")
@pytest.mark.parametrize("work", ["update", "nearest"])
def test_work_grows_with_the_rows_and_not_with_their_square(kernels, work):
    """One cluster with all rows and one without any."""
    from triton.runtime.interpreter import InterpreterBuilder

    from dream_accel.kernels import tiles

    def computed(n_rows):
        """Values that binary operators compute."""
        total = 0
        binary_op = InterpreterBuilder.binary_op

        def count(self, *args):
            nonlocal total
            result = binary_op(self, *args)
            total += result.data.size
            return result

        x = draw(n_rows, "near each other").unsqueeze(1)
        offsets, labels = torch.tensor([0, n_rows]), torch.zeros(n_rows, dtype=torch.int32)
        with (
            mock.patch.object(InterpreterBuilder, "binary_op", count),
            mock.patch.multiple(tiles, SELECT_ROWS=128, SELECT_MEMBERS=128, MEMBER_ROWS=128),
        ):
            if work == "update":
                kernels.kmeans_update(x, offsets, labels, 2, x[:, 0], None, None, "farthest")
            else:
                kernels.nearest_members(x, offsets, torch.zeros(1, 2, 1), labels, 1)
        return total

    few, many = computed(1024), computed(4 * 1024)
    assert many < 5 * few
