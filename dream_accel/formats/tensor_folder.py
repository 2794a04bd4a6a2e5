"""Folders with a file of images, of labels and of the learning rate: MTT, TESLA, FTD and DATM, and DD-Ranking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, as_tensor, float32

from ..errors import DreamAccelError
from .constants import DD_RANKING_CONSTANTS
from .dc import dc_constants, left_out
from .foreign import Foreign
from .tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..results import Result

_FOLDERS = {"mtt": "images_best.pt", "ddranking": "images.pt"}


def read(path: Path) -> Foreign | None:
    """Read a folder of this layout.

    Args:
        path: the folder, or its file of images.

    Returns:
        images, labels and learning rate; None if the path has another layout.

    Raises:
        DreamAccelError: the file of labels is missing, or a file cannot be read.
    """
    if path.is_dir():
        family = next((family for family, name in _FOLDERS.items() if (path / name).exists()), None)
        file = path / _FOLDERS[family] if family else path
    else:
        # MTT also writes images_5000.pt and the like, named after the iteration.
        family = "ddranking" if path.name == "images.pt" else "mtt" if path.name.startswith("images_") else None
        file = path
    if family is None:
        return None
    beside = {part: file.with_name(file.name.replace("images", part, 1)) for part in ("labels", "lr")}
    if not beside["labels"].exists():
        raise DreamAccelError(f"{file} has no {beside['labels'].name} beside it: labels belong to this layout")
    images, labels = load_tensors(file), load_tensors(beside["labels"])
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        return None
    lr = float(load_tensors(beside["lr"])) if beside["lr"].exists() else None
    return Foreign(family, images, labels, normalised=True, lr=lr)


def write_mtt(result: Result, path: Path) -> str:
    """Write images_best.pt, labels_best.pt and lr_best.pt, with images normalised as in MTT's code without ZCA.

    Returns:
        one sentence for the user: what was written.
    """
    images, labels = result.synthetic.decode()
    constants, whose = dc_constants(result)
    _write(path, "_best", constants(images), labels, result.recipe.network_lr)
    return f"{len(images)} images in MTT's layout, normalised by {whose} constants{left_out(result)}"


def write_ddranking(result: Result, path: Path) -> str:
    """Write images.pt, labels.pt and lr.pt for DD-Ranking's ``compute_metrics``.

    They are its arguments image_tensor, hard_labels or soft_labels, and syn_lr. Soft labels are written as logarithms,
    because its losses apply the softmax to them.

    Returns:
        one sentence for the user: what was written.
    """
    images, labels = result.synthetic.decode()
    constants, whose = DD_RANKING_CONSTANTS.get(result.recipe.dataset), "DD-Ranking's"
    if constants is None:
        constants, whose = dc_constants(result)
    soft = labels.dim() == 2
    _write(path, "", constants(images), labels.clamp(min=1e-12).log() if soft else labels, result.recipe.network_lr)
    argument = ("soft_labels" if soft else "hard_labels") + left_out(result)
    return f"{len(images)} images for DD-Ranking, normalised by {whose} constants; labels.pt is its {argument}"


def _write(path: Path, suffix: str, images: Tensor, labels: Tensor, lr: float) -> None:
    if path.exists() and not path.is_dir():
        raise DreamAccelError(f"{path} is a file: this layout is a folder, name one")
    for name, value in (("images", images), ("labels", labels), ("lr", as_tensor(lr, dtype=float32))):
        save_tensors(value.cpu().clone(), path / f"{name}{suffix}.pt")
