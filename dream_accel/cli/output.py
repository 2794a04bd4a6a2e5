"""Output folders, and the text that commands print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DreamAccelError
from ..runtime.files import append_lines

EVALUATIONS_FILE = "evaluations.jsonl"


def output_folder(out: Path | None, name: str, overwrite: bool) -> Path:
    """Determine the folder to write to. It is not created.

    Args:
        out: the folder that the user named, or None.
        name: the name of the folder under runs/ if the user named none; a number is appended if it exists.
        overwrite: whether the folder may be one that is not empty.

    Returns:
        the folder.

    Raises:
        DreamAccelError: ``out`` is a file, or is not empty and ``overwrite`` is not set.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise DreamAccelError(f"--out {out} is a file: name a folder")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise DreamAccelError(f"--out {out} exists and is not empty: name another folder, or give --overwrite")
        return out
    plain = "".join(letter if letter.isalnum() or letter in "-_+." else "-" for letter in name)
    candidates = (Path("runs") / (plain if i == 0 else f"{plain}-{i + 1}") for i in range(10_000))
    return next(folder for folder in candidates if not folder.exists())


def make_folder(folder: Path) -> None:
    """Create the output folder; called before the work starts, so that an unwritable place is found early.

    Raises:
        DreamAccelError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DreamAccelError(
            f"{folder} cannot be created ({error.strerror}): name another folder with --out"
        ) from None


def print_data(split: Any, device: Any) -> None:
    """Print the data set of a run, and the note on how it was read, if there is one."""
    print(
        f"{split.name}: {len(split.train)} training and {len(split.test)} test images of "
        f"{'x'.join(map(str, split.train.shape))}, {split.train.n_classes} classes, on {device}"
    )
    if split.note:
        print(split.note)


def print_progress(result: Any, folder: Path) -> None:
    """Print the progress and the speed of a run, and how to continue it if it was interrupted."""
    if result.interrupted:
        print(f"interrupted: the result of the completed iterations is kept; `--out {folder} --resume` continues")
    if result.history:
        last = result.history[-1]
        print(
            f"{last.iteration} outer iterations, {last.step} matching steps in {last.seconds:.1f} s, "
            f"{last.images_per_second:.0f} real images per second, matching distance {last.loss:.4g}"
        )


def print_table(rows: list[Any], ipc: int) -> None:
    """Print the accuracies of a result and its baselines."""
    protocol = rows[-1].evaluation.protocol
    each = f"{counted(ipc, 'image')} per class, {counted(protocol.networks, 'network')} each"
    print(f"\ntest accuracy, percent; {each}, {counted(protocol.epochs, 'epoch')}")
    width = max(len(row.name) for row in rows)
    for row in rows:
        seconds = f"   distilled in {row.seconds:.1f} s" if row.seconds else ""
        print(f"  {row.name:<{width}}  {row.evaluation}{seconds}")
    print()


def print_accuracy(evaluation: Any) -> None:
    """Print the accuracy of one evaluation."""
    protocol = evaluation.protocol
    how = f"mean ± std of {counted(protocol.networks, 'network')}, {counted(protocol.epochs, 'epoch')}"
    print(f"test accuracy {evaluation} % ({how})")


def counted(n: int, noun: str) -> str:
    """Format a count with its noun: ``1 network``, ``2 networks``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def as_dict(evaluation: Any) -> dict[str, Any]:
    """Convert an evaluation to a dict that JSON can represent."""
    return {
        "accuracies": evaluation.accuracies,
        "mean": evaluation.mean,
        "std": evaluation.std,
        "protocol": asdict(evaluation.protocol),
    }


def write_evaluations(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines to evaluations.jsonl in a folder, one JSON object each."""
    append_lines(folder / EVALUATIONS_FILE, map(json.dumps, lines))
