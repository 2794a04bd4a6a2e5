"""Files of IDC, DREAM and NCFM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .dc import left_out
from .foreign import Foreign
from .tensors import save_tensors

if TYPE_CHECKING:
    from ..results import Result


def recognise(value: Any) -> Foreign | None:
    """Recognise a file of this family.

    Args:
        value: the content of the file.

    Returns:
        images and labels; None if the file is of another family.
    """
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(part, Tensor) for part in value):
        return None
    return Foreign("idc", value[0], value[1], packed=True)


def write(result: Result, path: Path) -> str:
    """Write a file of the images as stored, packed, and the class of each. Soft labels are left out.

    Returns:
        one sentence for the user: what was written, and what was lost.
    """
    save_tensors([result.images.cpu().clone(), result.labels.cpu().clone()], path)
    lost = ("" if result.synthetic.soft_labels is None else "; soft labels are left out") + left_out(result)
    return f"{len(result.images)} images with factor {result.synthetic.factor}, which the file does not store{lost}"
