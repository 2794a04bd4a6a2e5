"""Folders of image files per class: RDED, SRe2L, D4M."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.decode import common_form, decode
from ..data.folders import class_folders, class_listing
from ..data.sources import require
from ..errors import DreamAccelError
from .dc import hard
from .foreign import Foreign
from .tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..results import Result

SOFT_LABELS_FILE = "soft_labels.pt"


def read(path: Path) -> Foreign | None:
    """Read a folder of this family.

    Classes are numbered in the order of the folders' names. If soft_labels.pt exists beside the folders, its soft
    labels (n, C) replace the classes. The per-epoch soft labels that SRe2L and RDED train with depend on their
    augmentation and are not read.

    Args:
        path: the folder.

    Returns:
        images and labels; None if the folder is of another family.

    Raises:
        DreamAccelError: an image cannot be decoded, or the soft labels do not match the images.
    """
    if not class_folders(path):
        return None
    names, files, labels = class_listing(path)
    pixels = torch.from_numpy(decode(files, common_form(files, any_size=False), None)).float() / 255
    soft = path / SOFT_LABELS_FILE
    targets = load_tensors(soft) if soft.exists() else torch.tensor(labels)
    if not isinstance(targets, Tensor) or len(targets) != len(pixels):
        raise DreamAccelError(f"{soft} does not hold a row for each of the {len(pixels)} images: remove or repair it")
    return Foreign("folder", pixels, targets, class_names=tuple(names))


def write(result: Result, path: Path) -> str:
    """Write a folder of PNG files per class, one file per decoded image, and soft labels to soft_labels.pt.

    Returns:
        one sentence for the user: what was written, and what was lost.
    """
    pil = require("PIL.Image", "pillow", "writing image files")
    images, labels = result.synthetic.decode()
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    width = len(str(len(result.class_names) - 1))
    for i, (picture, c) in enumerate(zip(pixels.numpy(), hard(labels).tolist(), strict=True)):
        # Folders are ordered by name only, so the class number at its beginning keeps the order of the classes.
        target = path / f"{c:0{width}d}_{_plain(result.class_names[c])}"
        target.mkdir(parents=True, exist_ok=True)
        pil.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(target / f"{i:06d}.png")
    if labels.dim() == 2:
        save_tensors(labels.cpu(), path / SOFT_LABELS_FILE)
    return f"{len(pixels)} PNG files, pixels rounded to 8 bits"


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
