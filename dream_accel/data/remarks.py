"""Facts about a training and a test set that a user should know, though nothing is wrong with their form."""

from __future__ import annotations

from torch import Tensor

from .image_set import ImageSet

_EXCERPT = 1024


def remarks(train: ImageSet, test: ImageSet, *notes: str) -> str:
    """One line: the given notes, that there is only one class, and how many test images are training images too."""
    found = [note for note in notes if note]
    if train.n_classes == 1:
        found.append(
            f"there is only one class ({train.class_names[0]}), so that every network is right about every image"
        )
    if train.shape == test.shape and (n := n_shared(train.images, test.images)):
        of = f"{n:,} of {len(test):,} test images {'is' if n == 1 else 'are'}"
        found.append(f"{of} in the training set too, pixel by pixel, which makes accuracies too high")
    return "; ".join(found)


def n_shared(train: Tensor, test: Tensor) -> int:
    """Number of test images that are equal to a training image.

    Compared by hashes: of about 1,024 pixels of every image, and of whole images where those agree. The time is that of
    reading the images once, the memory a number per image.

    Args:
        train, test: uint8 (N, C, H, W) of one image shape.
    """
    rows, tests = (part.detach().cpu().flatten(1).contiguous().numpy() for part in (train, test))
    step = max(1, rows.shape[1] // _EXCERPT)
    brief = [hash(row[::step].tobytes()) for row in tests]
    wanted = set(brief)
    candidates = {hash(row.tobytes()) for row in rows if hash(row[::step].tobytes()) in wanted}
    if not candidates:
        return 0
    return sum(hash(row.tobytes()) in candidates for row in tests)
