"""Image files that cannot be read: the refusal that names and counts them, or the warning that they are left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import DreamAccelError, DreamAccelWarning, counted


class Fault(NamedTuple):
    """The reason why a file cannot be read.

    Attributes:
        found: what was found, after the name of the file.
        remedy: what to do about it.
    """

    found: str
    remedy: str


def refusal(files: Sequence[object], faults: Mapping[int, Fault], can_skip: bool) -> DreamAccelError:
    """The refusal of files of which some cannot be read: the first of them, the number of the others, the remedies.

    Args:
        files: all files.
        faults: by the place of a file.
        can_skip: whether the caller can go on without them.
    """
    first = min(faults)
    others = len(faults) - 1
    beside = f", nor can {others:,} of the other {counted(len(files) - 1, 'file')}" if others else ""
    them = "them" if others else "it"
    skip = f", or go on without {them} by --skip-unreadable (skip_unreadable=True)" if can_skip else ""
    return DreamAccelError(f"{files[first]} {faults[first].found}{beside}; {faults[first].remedy}{skip}")


def warn_of_skipped(files: Sequence[object], faults: Mapping[int, Fault]) -> None:
    """Say once how many files are left out, and which is the first."""
    if not faults:
        return
    first = min(faults)
    named = f"the first is {files[first]}, which" if len(faults) > 1 else f"{files[first]}"
    warnings.warn(
        f"skipped {len(faults):,} of {counted(len(files), 'image file')}: {named} {faults[first].found}",
        DreamAccelWarning,
        stacklevel=2,
    )


def refuse_classes_without_images(
    classes: Mapping[int, object], labels: Sequence[int], files: Sequence[object], faults: Mapping[int, Fault]
) -> None:
    """Refuse a class of which every file is left out.

    Args:
        classes: the name of each class by its label.
        labels: of all files.
        files: all files.
        faults: by the place of a file.

    Raises:
        DreamAccelError: with the name of the first such class, and its first file.
    """
    left = {label for place, label in enumerate(labels) if place not in faults}
    empty = min(set(labels) - left, default=None)
    if empty is None:
        return
    of_class = [place for place, label in enumerate(labels) if label == empty]
    raise DreamAccelError(
        f"{classes[empty]} holds no image file that can be read: {files[of_class[0]]} {faults[of_class[0]].found}"
        f"{f', nor can the other {len(of_class) - 1:,}' if len(of_class) > 1 else ''}; every class needs at least "
        "one, so put images into it or move it elsewhere"
    )
