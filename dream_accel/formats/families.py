"""Registry of the families: recognises the family of a file or folder, and writes a result in a given one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.sources import reading
from ..errors import DreamAccelError, choices
from . import dc, folder, idc, tensor_folder
from .foreign import Foreign
from .tensors import load_tensors

if TYPE_CHECKING:
    from ..results import Result

FAMILIES = {
    "dc": "DC, DSA, DM: {'data': [[images, labels], ...]}",
    "idc": "IDC, DREAM, NCFM: [images, labels]",
    "mtt": "MTT, TESLA, FTD, DATM: a folder with images_best.pt and labels_best.pt",
    "folder": "RDED, SRe2L, D4M: a folder of image files per class",
    "ddranking": "DD-Ranking: a folder with images.pt and labels.pt",
}
"""Every family by name, with its programs and the layout by which it is recognised."""

WRITERS: dict[str, Callable[[Result, Path], str]] = {
    "dc": dc.write,
    "idc": idc.write,
    "mtt": tensor_folder.write_mtt,
    "folder": folder.write,
    "ddranking": tensor_folder.write_ddranking,
}
"""The function ``(result, path) -> sentence`` that writes each family."""


def read(path: str | os.PathLike[str], experiment: int = 0) -> Foreign:
    """Read the images and labels of a file or folder of another program.

    Args:
        path: a DC or IDC file; a folder in the layout of MTT or DD-Ranking, or its file of images; or a folder with a
            folder of image files per class.
        experiment: the experiment to read from a DC file, from 0.

    Returns:
        images and labels as stored, checked, on the CPU.

    Raises:
        DreamAccelError: the path does not exist, is of no known family, or is damaged.
    """
    path = Path(path)
    with reading(path):
        if not path.exists():
            raise DreamAccelError(f"{path} does not exist: name a run's folder, or a file or folder of results")
        found = tensor_folder.read(path) or (folder.read(path) if path.is_dir() else _read_file(path, experiment))
    if found is None:
        known = "; ".join(FAMILIES.values())
        raise DreamAccelError(
            f"{path} is of no known family of results: known are a run's folder (distilled.safetensors); {known}"
        )
    return found.checked(path)


def _read_file(path: Path, experiment: int) -> Foreign | None:
    value: Any = load_tensors(path)
    return dc.recognise(value, path, experiment) or idc.recognise(value)


def write(result: Result, family: str, path: str | os.PathLike[str]) -> str:
    """Write a result in the layout of a family.

    Args:
        result: the result.
        family: a key of :data:`FAMILIES`.
        path: the file (``dc``, ``idc``) or folder (the others) to write.

    Returns:
        one sentence for the user: what was written, and what the layout cannot store.

    Raises:
        DreamAccelError: the family is unknown, or it needs normalisation constants that are not known.
    """
    if family not in WRITERS:
        raise choices("family", family, WRITERS)
    return WRITERS[family](result, Path(path))
