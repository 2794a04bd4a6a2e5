"""Folders of image files per class: RDED, SRe2L, D4M."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.class_folders import class_folders, class_listing, unread_note
from ..data.decode import image_files, read_files
from ..data.sources import require
from ..errors import DreamAccelError, DreamAccelWarning
from .foreign import Foreign
from .tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..results import Result

SOFT_LABELS_FILE = "soft_labels.pt"
_OUR_FOLDER, _OUR_IMAGE = re.compile(r"\d+_.*"), re.compile(r"\d{6,}\.png")
"""Names that :func:`write` gives to the folders of classes and to their images."""


def read(path: Path) -> Foreign | None:
    """Read a folder of this family.

    Classes are numbered in the order of the folders' names, numbers by value. That order need not be the data set's,
    which is why classes are compared by name. If soft_labels.pt exists beside the folders, its soft labels (n, C)
    replace the classes. The per-epoch soft labels that SRe2L and RDED train with depend on their augmentation and are
    not read.

    Args:
        path: the folder.

    Returns:
        images and labels; None if the folder is of another family.

    Raises:
        DreamAccelError: an image cannot be decoded, or the soft labels do not match the images.
    """
    if not class_folders(path):
        return None
    found = class_listing(path)
    if note := unread_note(path, [found]):
        warnings.warn(f"{path}: {note}", DreamAccelWarning, stacklevel=2)
    pixels = torch.from_numpy(read_files(found.files).pixels).float() / 255
    soft = path / SOFT_LABELS_FILE
    targets = load_tensors(soft) if soft.exists() else torch.tensor(found.labels)
    shape, expected = tuple(getattr(targets, "shape", ())), (len(pixels), len(found.names))
    if not isinstance(targets, Tensor) or (soft.exists() and shape != expected):
        raise DreamAccelError(
            f"{soft} holds {shape or type(targets).__name__} and not a row for each of the {len(pixels)} images with a "
            f"number for each of the {len(found.names)} classes, {expected}: remove or repair it"
        )
    return Foreign("folder", pixels, targets, class_names=tuple(found.names))


def write(result: Result, path: Path) -> str:
    """Write a folder of PNG files per class, one file per decoded image, and soft labels to soft_labels.pt.

    What an earlier call wrote there is removed: images and soft labels of a larger set would be read with this one.

    Returns:
        one sentence for the user: what was written, and what was lost.

    Raises:
        DreamAccelError: there are other image files, which would be read as classes and are not this program's.
    """
    pil = require("PIL.Image", "pillow", "writing image files")
    earlier = _earlier_images(path)
    images, labels = result.synthetic.decode()
    # Not the likeliest class: soft labels are read in the order of the files, which is that of the images.
    classes = result.synthetic.labels.flatten().repeat_interleave(result.synthetic.factor**2)
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    width = len(str(len(result.class_names) - 1))
    names = [_plain(name) for name in result.class_names]
    numbered = all(name.startswith(f"{c:0{width}d}_") for c, name in enumerate(names))
    written = set()
    for i, (picture, c) in enumerate(zip(pixels.numpy(), classes.tolist(), strict=True)):
        # Folders are ordered by name only, so the class number at its beginning keeps the order of the classes.
        target = path / (names[c] if numbered else f"{c:0{width}d}_{names[c]}")
        target.mkdir(parents=True, exist_ok=True)
        file = target / f"{i:06d}.png"
        pil.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(file)
        written.add(file)
    for file in (file for file in earlier if file not in written):
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
    if labels.dim() == 2:
        save_tensors(labels.cpu(), path / SOFT_LABELS_FILE)
    else:
        (path / SOFT_LABELS_FILE).unlink(missing_ok=True)
    return f"{len(pixels)} PNG files, pixels rounded to 8 bits"


def _earlier_images(path: Path) -> list[Path]:
    """Return the images that an earlier call wrote to a folder.

    Raises:
        DreamAccelError: a folder of a class holds an image file of another name.
    """
    files = [file for folder in class_folders(path) for file in image_files(folder)]
    for file in files:
        if not (_OUR_FOLDER.fullmatch(file.parent.name) and _OUR_IMAGE.fullmatch(file.name)):
            raise DreamAccelError(
                f"{path} holds {file.parent.name}/{file.name}, which this program did not write and which would be "
                "read as one of the images: move it elsewhere, or name another folder"
            )
    return files


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
