"""Files of DC, DSA and DM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..data.class_names import listed
from ..errors import DreamAccelError
from .constants import DC_CONSTANTS
from .foreign import Foreign
from .tensors import save_tensors

if TYPE_CHECKING:
    from ..data import Normalization
    from ..results import Result


def recognise(value: Any, path: Path, experiment: int) -> Foreign | None:
    """Recognise a file of this family.

    Args:
        value: the content of the file.
        path: the file, for messages.
        experiment: the experiment to read, from 0.

    Returns:
        images and labels of the experiment; None if the file is of another family.

    Raises:
        DreamAccelError: the file has no such experiment.
    """
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    pairs = value["data"]
    if not 0 <= experiment < len(pairs):
        raise DreamAccelError(
            f"experiment is {experiment} and {path} holds {len(pairs)}, counted from 0: choose one of them"
        )
    pair = pairs[experiment]
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        return None
    return Foreign("dc", pair[0], pair[1], normalised=True)


def write(result: Result, path: Path) -> str:
    """Write a file with one experiment: images decoded, and normalised by the constants of DC's code for the data set.

    Soft labels become classes.

    Returns:
        one sentence for the user: what was written, and what was lost.
    """
    images, labels = result.synthetic.decode()
    constants, whose = dc_constants(result)
    pair = [constants(images), hard(labels)]
    save_tensors({"data": [pair], "accs_all_exps": {}}, path)
    lost = ("" if labels.dim() == 1 else "; soft labels became classes") + left_out(result)
    return f"{len(images)} images as one experiment of a DC file, normalised by {whose} constants{lost}"


def dc_constants(result: Result) -> tuple[Normalization, str]:
    """Look up the normalisation constants of the result's data set.

    Returns:
        those of DC's code, else those of the training set; and in words whose they are.

    Raises:
        DreamAccelError: neither is known.
    """
    known = DC_CONSTANTS.get(result.recipe.dataset)
    if known is not None:
        return known, "DC's"
    if result.normalization is None:
        raise DreamAccelError(
            f"no normalisation constants are known for {result.recipe.dataset}: pass normalization= (--mean and --std)"
        )
    return result.normalization, "the training set's"


def left_out(result: Result) -> str:
    """The end of the sentence about a layout without class names: which number is which class."""
    if result.class_names == tuple(str(c) for c in range(len(result.class_names))):
        return ""
    return f"; class names are left out, the classes 0, 1, ... are {listed(result.class_names)}"


def hard(labels: Tensor) -> Tensor:
    """Return the classes (n,) int64 of labels (n,) or of soft labels (n, C)."""
    return labels if labels.dim() == 1 else labels.argmax(dim=1)
