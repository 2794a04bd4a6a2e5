"""Freed memory is kept while a CPU computes, and the setting ends with the computation."""

import sys

import pytest
import torch

from dream_accel.runtime import heap
from dream_accel.runtime.heap import retained_heap

resource = pytest.importorskip("resource")


def faults(calls: int = 20) -> int:
    """Pages mapped while two tensors of 12 MB are made and freed again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        a = torch.ones(3 << 20)
        del a
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(heap._glibc() is None, reason="the allocator is not glibc's")
def test_pages_are_mapped_once_inside():
    with retained_heap():
        faults()
        assert faults() < 1000  # 3072 pages make one tensor


@pytest.mark.skipif(heap._glibc() is None, reason="the allocator is not glibc's")
def test_it_nests_and_ends_with_the_outermost(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, name, value):
            calls.append((name, value))

        def malloc_trim(self, pad):
            calls.append("trim")

    monkeypatch.setattr(heap, "_glibc", Library)
    with pytest.raises(ValueError, match="inside"), retained_heap(), retained_heap():
        raise ValueError("inside")
    kept, given_back = heap._NEVER, 2 * heap._LARGEST_MMAP_THRESHOLD
    assert calls == [(-3, heap._LARGEST_MMAP_THRESHOLD), (-1, kept), (-1, given_back), "trim"]


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with retained_heap():
        assert sys.version_info


def test_what_is_decorated_can_be_called_again():
    @retained_heap()
    def double(x):
        return 2 * x

    assert [double(1), double(2)] == [2, 4]
