"""Damaged and foreign files through every reader: each is read or refused in one sentence, and none takes much memory.

``make hunt`` tries ten thousand; a run of the tests some hundreds.
"""

import random
import resource
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.hunting import times
from support.small_run import SETTINGS, split

import dream_accel as da
from dream_accel.data import Normalization
from dream_accel.engine.expert_store import experts_for
from dream_accel.engine.splits import load_split
from dream_accel.engine.stored_run import read_checkpoint
from dream_accel.errors import DreamAccelError, DreamAccelWarning
from dream_accel.evaluation.grid import read_grid
from dream_accel.formats.families import write as write_foreign
from dream_accel.results import Result
from dream_accel.synthetic import SyntheticSet

MTT = da.recipe("mtt", "noise", ipc=1, width=4, n_experts=1, trajectory_epochs=2, max_start_epoch=1, expert_epochs=1)
SMALL = {**SETTINGS, "width": 4, "iterations": 1, "inner_steps": 1, "network_images": 0}
POOL = da.recipe("dream", "noise", real="cached", trajectories=1, stages=1, draws=1, **SMALL)
SPARE = 1 << 30
"""Bytes that a reader may take beyond what the process has."""


@contextmanager
def bounded_memory() -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def npz(path: Path) -> Path:
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


def packed_npz(path: Path) -> Path:
    with np.load(npz(path)) as arrays:
        np.savez_compressed(path, **arrays)
    return path


def picture(kind: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        image = Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))
        path = path.parent / "pictures" / "a" / f"1.{kind}"
        path.parent.mkdir(parents=True)
        image.save(path)
        for other in ("a/2", "a/3", "b/1", "b/2", "b/3"):
            file = path.parent.parent / f"{other}.png"
            file.parent.mkdir(exist_ok=True)
            image.save(file)
        return path

    return write


def saved_run(path: Path) -> Path:
    recipe = da.recipe("dream", "noise", **{**SETTINGS, "iterations": 0})
    return da.distill(recipe, split(), device="cpu").save(path.with_suffix("")) / "distilled.safetensors"


def checkpoint(path: Path) -> Path:
    recipe = da.recipe("dream", "noise", **{**SETTINGS, "iterations": 0})
    da.distill(recipe, split(), device="cpu", checkpoint=path)
    return path


def foreign(family: str, *parts: str) -> Callable[[Path], Path]:
    """Writes a result in the layout of another program; ``parts`` lead to the file that is damaged."""

    def write(path: Path) -> Path:
        recipe = da.recipe("dream", "noise", ipc=2, factor=1)
        images = SyntheticSet(torch.rand(2, 2, 3, 8, 8))
        constants = Normalization((0.5,) * 3, (0.5,) * 3)
        write_foreign(Result(images, recipe, constants, ("a", "b")), family, path)
        return path.joinpath(*parts)

    return write


def read_foreign(path: Path) -> None:
    place = path if path.name.startswith("res") else path.parent
    da.load(place, "cifar10", factor=1, normalization=Normalization((0.5,) * 3, (0.5,) * 3))


def pool(path: Path) -> Path:
    folder = path.with_name("pool")
    da.fill_pool(POOL, split(), out=folder, device="cpu")
    return next(folder.glob("*.safetensors"))


def read_pool(path: Path) -> None:
    """A damaged trajectory is computed again, so the run ends."""
    da.distill(replace(POOL, pool=str(path.parent)), split(), device="cpu")


def grid(path: Path) -> Path:
    shutil.copy(Path(__file__).parents[1] / "examples" / "grids" / "digits.toml", path)
    return path


def experts(path: Path) -> Path:
    folder = path.with_name("experts")
    da.train_experts(MTT, split(), out=folder, device="cpu")
    return next(folder.glob("*.safetensors"))


def read_experts(path: Path) -> None:
    experts_for(replace(MTT, experts=str(path.parent)), split().train)


def read_pictures(path: Path) -> None:
    load_split(da.recipe("dream", f"imagefolder:{path.parents[1]}", ipc=1, factor=1), torch.device("cpu"))


def read_npz(path: Path) -> None:
    load_split(da.recipe("dream", f"npz:{path}", ipc=1, factor=1), torch.device("cpu"))


READERS: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], object]]] = {
    "npz": ("set.npz", npz, read_npz),
    "packed npz": ("set.npz", packed_npz, read_npz),
    **{kind: (f"x.{kind}", picture(kind), read_pictures) for kind in ("png", "jpg", "bmp", "gif", "webp", "tif")},
    "run": ("run.safetensors", saved_run, da.load),
    "checkpoint": ("checkpoint.safetensors", checkpoint, read_checkpoint),
    "dc": ("res.pt", foreign("dc"), read_foreign),
    "idc": ("res.pt", foreign("idc"), read_foreign),
    "mtt": ("mtt", foreign("mtt", "images_best.pt"), read_foreign),
    "ddranking": ("ranking", foreign("ddranking", "labels.pt"), read_foreign),
    "expert": ("x", experts, read_experts),
    "pool": ("x", pool, read_pool),
    "manifest of a pool": ("x", lambda path: pool(path).with_name("pool.json"), read_pool),
    "grid": ("grid.toml", grid, read_grid),
}
"""Every kind of file: its name, what writes a whole one and returns its place, and what reads it."""


def mutated(whole: bytes, draws: random.Random) -> bytes:
    """The bytes of a file, damaged in one of several ways."""
    data = bytearray(whole)
    kind = draws.randrange(6)
    if kind == 0:
        return bytes(data[: draws.randrange(len(data))])
    if kind == 1:
        for _ in range(draws.choice((1, 1, 8, 64))):
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    elif kind == 2:
        # Headers are where sizes are; large numbers are what makes them dangerous.
        at = draws.randrange(min(len(data), 512))
        data[at : at + 8] = struct.pack("<Q", draws.choice((0, 2**31, 2**40, 2**63 - 1, 2**64 - 1)))
    elif kind == 3:
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
        at = draws.choice(digits or [0])
        data[at:at] = b"9" * draws.choice((1, 4, 9))
    elif kind == 4:
        return draws.randbytes(draws.choice((0, 1, 8, 100, 5000)))
    else:
        a, b = sorted(draws.randrange(len(data)) for _ in "ab")
        data[a:b] = draws.randbytes(min(b - a, 64))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_every_damaged_file_is_read_or_refused(kind, tmp_path):
    name, write, read = READERS[kind]
    path = write(tmp_path / name)
    whole = path.read_bytes()
    read(path)
    draws = random.Random(kind)
    refused: list[str] = []
    for number in range(times(60, 10_000 // len(READERS) + 1)):
        data = mutated(whole, draws)
        path.write_bytes(data)
        try:
            with bounded_memory(), warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                read(path)
            # What is computed again is said to be.
            refused += [str(note.message) for note in notes if issubclass(note.category, DreamAccelWarning)]
        except DreamAccelError as error:
            refused.append(str(error))
        except Exception as error:
            kept = Path("/tmp") / f"bad-{kind}-{number}{path.suffix}"
            kept.write_bytes(data)
            raise AssertionError(f"file {number}, kept as {kept}: {type(error).__name__}: {error}") from error
    assert refused
    assert not [sentence for sentence in refused if "\n" in sentence]


def test_a_label_beyond_the_images_takes_no_memory(tmp_path):
    """A bincount of it would take 8 GB."""
    torch.save([torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 10**9])], tmp_path / "res.pt")
    with bounded_memory(), pytest.raises(DreamAccelError, match="4 images and the label 1000000000"):
        da.load(tmp_path / "res.pt", "cifar10", factor=1, normalization=Normalization((0.5,) * 3, (0.5,) * 3))


def test_a_small_file_of_a_huge_image_is_refused(tmp_path):
    """A bomb: 0.1 MB that are 900 million pixels."""
    side = 30_000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(1 + side // 8)) for _ in range(side)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path = picture("png")(tmp_path / "x")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert path.stat().st_size < 1 << 20
    with bounded_memory(), pytest.raises(DreamAccelError, match="900000000 pixels"):
        read_pictures(path)
