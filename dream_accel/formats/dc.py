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
    """The chosen experiment, if this is such a file."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    pairs = value["data"]
    if not 0 <= experiment < len(pairs):
        raise DreamAccelError(f"experiment is {experiment} and {path} holds {len(pairs)}: choose 0 to that many - 1")
    pair = pairs[experiment]
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        return None
    return Foreign("dc", pair[0], pair[1], normalised=True)


def write(result: Result, path: Path) -> str:
    """One experiment, decoded and normalised by the constants DC's code uses for the data set."""
    images, labels = result.synthetic.decode()
    constants, whose = dc_constants(result)
    pair = [constants(images), hard(labels)]
    save_tensors({"data": [pair], "accs_all_exps": {}}, path)
    lost = ("" if labels.dim() == 1 else "; soft labels became classes") + left_out(result)
    return f"{len(images)} images as one experiment of a DC file, normalised by {whose} constants{lost}"


def dc_constants(result: Result) -> tuple[Normalization, str]:
    """The constants for the result's data set, and whose they are."""
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
    """(n,) classes of labels that may be soft."""
    return labels if labels.dim() == 1 else labels.argmax(dim=1)
