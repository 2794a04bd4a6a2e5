"""Arrays of other libraries in and out. CuPy is played by a module whose arrays share memory through DLPack alone."""

import gc
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel.arrays import converter_like, to_tensor, whole_number


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy whose arrays live in host memory."""

    class Array:
        def __init__(self, tensor):
            self.tensor = tensor
            self.shape = tuple(tensor.shape)

        def __getitem__(self, index):
            return self.tensor[index]

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    Array.__module__ = "cupy"
    module = ModuleType("cupy")
    module.ndarray = Array
    module.from_dlpack = lambda array: Array(torch.from_dlpack(array))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def rows(n=30):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def test_cupy_arrays_are_neither_copied_in_nor_out(cupy):
    x = rows()
    tensor = to_tensor(cupy.ndarray(x))
    assert tensor.data_ptr() == x.data_ptr()
    back = converter_like(cupy.ndarray(x))(tensor)
    assert isinstance(back, cupy.ndarray)
    assert back.tensor.data_ptr() == x.data_ptr()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_a_mapped_file_is_viewed_without_a_copy_or_a_warning(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=dtype).reshape(4, 3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tensor = to_tensor(mapped)
    assert tensor.data_ptr() == mapped.ctypes.data
    del mapped
    gc.collect()
    assert tensor.flatten().tolist() == list(range(12))
    assert to_tensor(np.load(tmp_path / "x.npy", mmap_mode="r")[1:2, 1:]).tolist() == [[4, 5]]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_fit_of_cupy_arrays_gives_cupy_arrays(cupy, chunked):
    x = rows()
    expected = da.BatchedKMeans(3).fit(x, [0, 10, 30])
    given = [cupy.ndarray(part) for part in x.split(7)] if chunked else cupy.ndarray(x)
    km = da.BatchedKMeans(3).fit(given, cupy.ndarray(torch.tensor([0, 10, 30])))
    for name in ("labels_", "cluster_centers_", "counts_", "inertia_", "n_iter_"):
        found = getattr(km, name)
        assert isinstance(found, cupy.ndarray)
        assert torch.equal(found.tensor, getattr(expected, name))
    assert torch.equal(km.representatives().tensor, expected.representatives())
    assert torch.equal(km.predict(cupy.ndarray(x), [0, 10, 30]).tensor, expected.labels_)


def test_centroids_may_be_cupy_arrays(cupy):
    start = rows(3).unsqueeze(0)
    km = da.BatchedKMeans(3, init=cupy.ndarray(start)).fit(rows())
    assert torch.equal(km.cluster_centers_, da.BatchedKMeans(3, init=start).fit(rows()).cluster_centers_)


def test_cupy_rows_are_checked_like_any(cupy):
    assert "x is torch.int64" in refused(da.BatchedKMeans(3).fit, cupy.ndarray(rows().long()))
    assert "x has shape (4,)" in refused(da.BatchedKMeans(3).fit, cupy.ndarray(rows()[0]))


def test_other_arrays_that_speak_dlpack_come_back_as_tensors(cupy):
    foreign = type("Array", (cupy.ndarray,), {"__module__": "elsewhere"})
    km = da.BatchedKMeans(3).fit(foreign(rows()))
    assert torch.equal(km.labels_, da.BatchedKMeans(3).fit(rows()).labels_)


class TestWholeNumber:
    @pytest.mark.parametrize("kind", [int, np.int8, np.uint64, np.array, torch.tensor], ids=lambda kind: kind.__name__)
    def test_integers_of_any_library_become_ints(self, kind):
        found = whole_number(kind(7), "k")
        assert (found, type(found)) == (7, int)

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (2.0, "2.0"),
            (np.float32(0.5), "0.5 (float32)"),
            (True, "True"),
            (np.True_, "True (bool)"),
            (torch.tensor(True), "True (Tensor)"),
            ("3", "'3'"),
            (None, "None"),
            ([3], "a list"),
            (torch.tensor([1, 2]), "a Tensor"),
            (np.random.RandomState(0), "a RandomState"),
        ],
        ids=str,
    )
    def test_anything_else_is_refused_as_it_is_written(self, value, shown):
        assert refused(whole_number, value, "k") == f"k is {shown}: it must be a whole number"

    def test_least_is_a_bound_that_the_refusal_names(self):
        assert whole_number(1, "k", 1) == 1
        assert refused(whole_number, np.int64(0), "k", 1) == "k is 0: it must be a whole number, at least 1"
        assert refused(whole_number, 1.5, "k", 0) == "k is 1.5: it must be a whole number, at least 0"
