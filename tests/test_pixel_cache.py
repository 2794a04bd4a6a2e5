"""Decoded images in a mapped file: the same set as in memory, decoded once, within its budgets, whatever happens."""

import multiprocessing
import os
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused

import dream_accel as da
from dream_accel.data import decode, load_dataset, pixel_cache
from dream_accel.data.pixel_cache import PixelCache
from dream_accel.errors import DreamAccelWarning

HERE = Path(__file__).parent
ON_DISK = {"image_memory": 0}
IMAGE_BYTES = 3 * 8 * 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def write_images(root: Path, counts: dict[str, int], seed: int = 0) -> str:
    draws = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(root / name / f"{i:03}.png")
    return f"imagefolder:{root}"


def same(one, other) -> bool:
    return all(
        torch.equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name))
        for part in ("train", "test")
        for name in ("images", "labels")
    )


def sets(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def no_decoding(monkeypatch) -> None:
    def refuse(*args):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(decode, "as_seen", refuse)


@pytest.fixture(params=["one folder", "train and test"])
def name(request, tmp_path) -> str:
    parts = ("",) if request.param == "one folder" else ("train/", "test/")
    return write_images(tmp_path / "data", {f"{part}{c}": 6 for part in parts for c in ("a", "b", "c")})


class TestSameSet:
    def test_the_file_holds_what_memory_would(self, name, cache):
        assert same(load_dataset(name, **ON_DISK), load_dataset(name))
        assert len(sets(cache)) == 1

    def test_a_small_set_writes_nothing(self, name, cache):
        load_dataset(name)
        assert not cache.exists()

    def test_the_next_run_decodes_nothing_and_opens_no_image(self, name, monkeypatch):
        first = load_dataset(name, **ON_DISK)
        no_decoding(monkeypatch)
        monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("an image was opened"))
        assert same(load_dataset(name, **ON_DISK), first)
        assert same(load_dataset(name), first)  # whatever fits the memory now

    def test_a_changed_file_is_decoded_again(self, name, tmp_path):
        before = load_dataset(name, **ON_DISK)
        path = min((tmp_path / "data").rglob("*.png"))
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
        after = load_dataset(name, **ON_DISK)
        assert same(after, load_dataset(name))
        assert not same(before, after)

    def test_another_size_is_another_set(self, name, cache):
        load_dataset(name, **ON_DISK)
        assert load_dataset(name, size=4, **ON_DISK).train.shape == (3, 4, 4)
        assert len(sets(cache)) == 2

    def test_distilled_images_are_the_same(self, name):
        settings = {"ipc": 1, "size": 16, "width": 8, "depth": 1, "clusters": 2, "iterations": 1, "inner_steps": 2}
        recipe = da.recipe("dream", name, network_images=8, **settings)
        one = da.distill(recipe, device="cpu")
        other = da.distill(recipe.__class__(**{**vars(recipe), "image_memory": 0.0}), device="cpu")
        assert torch.equal(one.synthetic.images, other.synthetic.images)

    def test_the_file_is_an_array_that_numpy_reads(self, name, cache):
        split = load_dataset(name, **ON_DISK)
        pixels = np.load(sets(cache)[0] / "pixels.npy", mmap_mode="r")
        assert np.array_equal(pixels[: len(split.train)], split.train.images.numpy())


class TestFaults:
    def test_unreadable_files_are_left_out_and_named_again(self, tmp_path, cache):
        name = write_images(tmp_path / "data", {"a": 6, "b": 6})
        broken = tmp_path / "data" / "a" / "002.png"
        broken.write_bytes(broken.read_bytes()[:-40])  # found by decoding alone
        (tmp_path / "data" / "b" / "zz.png").write_text("no image")
        with pytest.warns(DreamAccelWarning, match="skipped 2 of 13 image files"):
            expected = load_dataset(name, skip_unreadable=True)
        for _ in range(2):
            with pytest.warns(DreamAccelWarning, match="skipped 2 of 13 image files"):
                assert same(load_dataset(name, skip_unreadable=True, **ON_DISK), expected)
        assert f"{broken} cannot be read as an image" in refused(load_dataset, name, **ON_DISK)

    def test_nothing_is_kept_of_a_refused_set(self, tmp_path, cache):
        name = write_images(tmp_path / "data", {"a": 3, "b": 3})
        (tmp_path / "data" / "b" / "zz.png").write_text("no image")
        assert "zz.png cannot be read" in refused(load_dataset, name, **ON_DISK)
        assert sets(cache) == []

    @pytest.mark.parametrize("file", ["pixels.npy", "entry.json"])
    @pytest.mark.parametrize("how", ["gone", "empty", "cut", "foreign"])
    def test_a_damaged_file_is_decoded_again(self, tmp_path, cache, file, how):
        name = write_images(tmp_path / "data", {"a": 3, "b": 3})
        first = load_dataset(name, **ON_DISK)
        path = sets(cache)[0] / file
        held = path.read_bytes()
        path.unlink()
        if how != "gone":
            path.write_bytes({"empty": b"", "cut": held[: len(held) // 2], "foreign": b"[1, 2]"}[how])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert same(load_dataset(name, **ON_DISK), first)

    def test_an_array_of_another_kind_is_decoded_again(self, tmp_path, cache):
        name = write_images(tmp_path / "data", {"a": 3, "b": 3})
        first = load_dataset(name)
        load_dataset(name, **ON_DISK)
        np.save(sets(cache)[0] / "pixels.npy", np.zeros((4, 3, 8, 8), np.float32))
        assert same(load_dataset(name, **ON_DISK), first)


class TestBudgets:
    def test_neither_budget_holds_the_set(self, name):
        message = refused(load_dataset, name, image_memory=0, image_disk=1e-9)
        assert "0 GB may be held in memory and 1e-09 GB on disk" in message
        assert "--size" in message
        assert "--image-disk" in message

    def test_the_set_used_longest_ago_gives_way(self, tmp_path, cache):
        budget = {"image_memory": 0, "image_disk": 2.5 * 12 * IMAGE_BYTES / 1e9}
        names = [write_images(tmp_path / part, {"a": 6, "b": 6}, i) for i, part in enumerate("xyz")]
        for age, part in enumerate(names[:2]):
            load_dataset(part, **budget)
            newest = max(sets(cache), key=lambda path: path.stat().st_mtime)
            os.utime(newest, (1000 + age, 1000 + age))
        load_dataset(names[0], **budget)  # used now, though made first
        load_dataset(names[2], **budget)
        held = {(path / "entry.json").read_text().split('"')[3] for path in sets(cache)}
        assert held == {names[0], names[2]}

    def test_a_full_disk_is_refused_before_anything_is_decoded(self, name, monkeypatch):
        no_decoding(monkeypatch)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
        assert "GB free: free some" in refused(load_dataset, name, **ON_DISK)

    def test_a_folder_that_cannot_be_made(self, name, tmp_path):
        (tmp_path / "cache").write_text("a file")
        message = refused(load_dataset, name, **ON_DISK)
        assert "cannot be written to" in message
        assert "DREAM_ACCEL_CACHE" in message

    def test_pages_of_the_file_are_no_memory_of_the_process(self, tmp_path, cache):
        """25 MB of pixels, of which the process allocates its buffers alone; in memory it allocates them all."""
        for c in "ab":
            (tmp_path / "data" / c).mkdir(parents=True)
        Image.new("RGB", (512, 512), (9, 8, 7)).save(tmp_path / "data" / "a" / "0.png", compress_level=1)
        for i in range(31):
            shutil.copy(tmp_path / "data" / "a" / "0.png", tmp_path / "data" / "ab"[i % 2] / f"{i + 1}.png")

        def peak(memory: float) -> int:
            tracemalloc.start()
            load_dataset(f"imagefolder:{tmp_path / 'data'}", image_memory=memory)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        assert peak(0) < 10e6
        assert peak(0) < 10e6  # found by a second run
        shutil.rmtree(cache)
        assert peak(1) > 25e6


class TestSeveralProcesses:
    def test_remains_of_a_killed_process_are_removed(self, name, cache):
        remains = cache / "0123.abcd.part"
        remains.mkdir(parents=True)
        (remains / "pixels.npy").write_bytes(b"half")
        load_dataset(name, **ON_DISK)
        assert not remains.exists()

    def test_a_set_that_another_process_writes_stays(self, name, cache):
        writing = cache / "0123.abcd.part"
        writing.mkdir(parents=True)
        with pixel_cache._locked(cache / "0123.lock"):
            load_dataset(name, **ON_DISK)
        assert writing.exists()

    def test_processes_at_once_decode_once(self, name, tmp_path):
        processes = multiprocessing.get_context("spawn")
        with processes.Pool(3) as pool:
            found = pool.map(_decoded_images, [name] * 3)
        assert sorted(found) == [0, 0, max(found)]
        assert max(found) > 0


def _decoded_images(name: str) -> int:
    count = 0
    plain = decode.as_seen

    def counting(*args):
        nonlocal count
        count += 1
        return plain(*args)

    decode.as_seen = counting
    load_dataset(name, **ON_DISK)
    return count


def test_the_name_of_a_set_is_that_of_its_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    cache = PixelCache(folder=tmp_path)
    names = [cache.entry("x", [path], 8).name, cache.entry("y", [path], 8).name, cache.entry("x", [path], 9).name]
    path.write_bytes(b"12")
    names.append(cache.entry("x", [path], 8).name)
    assert names[0] == names[1]
    assert len(set(names)) == 3
