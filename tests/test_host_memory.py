"""Images that stay in host memory while a GPU computes. Locked pages and views are played; one test needs a GPU."""

import ctypes
import gc

import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet, placement
from dream_accel.runtime import host_memory

CUDA = torch.device("cuda", 0)


class Runtime:
    """CUDA's functions that lock pages, which remember what is locked."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address, size, flags):
        assert address not in self.locked
        if self.status == 0:
            self.locked[address] = size
        return self.status

    def cudaHostUnregister(self, address):
        del self.locked[address]
        return 0


def viewed(array, device):
    """The memory that an array's interface names, as a tensor that keeps the array."""
    assert device == CUDA
    interface = array.__cuda_array_interface__
    assert interface["typestr"] == "|u1"
    assert interface["strides"] is None
    address, read_only = interface["data"]
    assert not read_only
    n = int(torch.tensor(interface["shape"]).prod())
    buffer = (ctypes.c_uint8 * n).from_address(address)
    buffer.kept = array
    return torch.frombuffer(buffer, dtype=torch.uint8).view(interface["shape"])


@pytest.fixture
def runtime(monkeypatch):
    """A GPU with 1,000 bytes of free memory."""
    played = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: played)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch, "as_tensor", viewed)
    monkeypatch.setattr(placement, "available_memory", lambda device: 1000)
    return played


def images(n: int) -> torch.Tensor:
    """Images of 12 bytes."""
    return torch.arange(12 * n, dtype=torch.uint8).view(n, 3, 2, 2)


def test_a_view_has_the_memory_and_locks_it_while_it_is_used(runtime):
    x = images(10)
    address, copy = x.data_ptr(), x.clone()
    view = host_memory.view_on(x, CUDA)
    assert view.data_ptr() == address
    assert runtime.locked == {address: 120}
    del x
    gc.collect()
    assert torch.equal(view, copy)
    part = view[3:]
    del view
    gc.collect()
    assert runtime.locked == {address: 120}
    assert torch.equal(part, copy[3:])
    del part
    gc.collect()
    assert runtime.locked == {}


def test_two_views_of_one_tensor_lock_it_once(runtime):
    x = images(4)
    one, two = (host_memory.view_on(x, CUDA) for _ in range(2))
    assert len(runtime.locked) == 1
    assert host_memory.is_view(one)
    assert not host_memory.is_view(images(4))
    del one
    gc.collect()
    assert len(runtime.locked) == 1
    assert host_memory.is_view(two)
    del two
    gc.collect()
    assert runtime.locked == {}
    assert not host_memory.is_view(x)


def test_two_parts_of_one_tensor_lock_all_of_it_once(runtime):
    x = images(10)
    parts = [host_memory.view_on(part, CUDA) for part in (x[:4], x[4:])]
    assert runtime.locked == {x.data_ptr(): 120}
    assert torch.equal(torch.cat(parts), x)
    assert all(map(host_memory.is_view, parts))
    del parts
    gc.collect()
    assert runtime.locked == {}


def test_pages_that_cannot_be_locked_are_refused(runtime):
    runtime.status = 2
    message = refused(host_memory.view_on, images(4), CUDA)
    assert (
        "cannot be locked for the GPU (CUDA error 2): raise the limit (ulimit -l), or choose a smaller size" in message
    )
    assert runtime.locked == {}


def test_images_that_would_take_most_of_the_memory_stay_where_they_are_which_is_said(runtime):
    x = images(42)  # 504 bytes of 1,000
    with pytest.warns(da.DreamAccelWarning, match="42 images take 0.0 GB, more than half of the free memory of cuda:0"):
        found = placement.placed(x, CUDA)
    assert found.data_ptr() == x.data_ptr()
    assert len(runtime.locked) == 1


def test_images_that_fit_are_copied(runtime, monkeypatch):
    class Images(torch.Tensor):
        def to(self, device):
            return device

    assert placement.placed(images(41).as_subclass(Images), CUDA) == CUDA
    assert placement.placed(images(1000), torch.device("cpu")).device.type == "cpu"
    assert runtime.locked == {}


@pytest.mark.gpu
def test_a_run_that_reads_host_memory_has_the_pixels_of_one_that_does_not(monkeypatch):
    draws = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=draws)
    one = ImageSet.from_arrays(grey, torch.arange(60) % 3)
    small = {"ipc": 1, "factor": 1, "width": 8, "depth": 2, "clusters": 4, "inner_steps": 3, "iterations": 2}
    recipe = da.recipe("dream", "grey", **small, network_images=32, class_gradients="loop")
    expected = da.distill(recipe, DataSplit("grey", one, one), device="cuda").synthetic.images
    monkeypatch.setattr(placement, "PART", 0.0)
    with pytest.warns(da.DreamAccelWarning, match="stay in host memory"):
        found = da.distill(recipe, DataSplit("grey", one, one), device="cuda").synthetic.images
    assert torch.equal(found, expected)
