"""Output folders, and the text that commands print."""

from __future__ import annotations

import functools
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DreamAccelError, counted
from ..runtime.files import UnwritableError, append_lines
from ..runtime.folders import LOCK_FILE, take_file, take_folder, take_new_folder

EVALUATIONS_FILE = "evaluations.jsonl"
MISSING, DIVERGED, INTERRUPTED = 1, 3, 130
"""Exit status where something asked for is missing, where a run diverged, and after Ctrl-C."""


@contextmanager
def output_folder(out: Path | None, name: str, overwrite: bool, dataset: str = "") -> Iterator[Path]:
    """Take the folder to write to before any work, as :func:`dream_accel.runtime.folders.take_folder` does.

    Args:
        out: the folder that the user named, or None.
        name: the name of the folder under runs/ if the user named none; a number is appended if it exists.
        overwrite: whether the folder may be one that is not empty.
        dataset: the data set that is read. The folders of a folder of images are its classes, so ``out`` must not be
            one of them.

    Yields:
        the folder.

    Raises:
        DreamAccelError: ``out`` is a file, is not empty and ``overwrite`` is not set, is among the images, cannot be
            written to, or is being written by another process.
    """
    if out is None:
        plain = "".join(letter if letter.isalnum() or letter in "-_+." else "-" for letter in name)
        with take_new_folder("runs", plain[-120:]) as folder:
            yield folder
        return
    if out.exists() and not out.is_dir():
        raise DreamAccelError(f"--out {out} is a file: name a folder")
    kind, _, images = dataset.partition(":")
    if kind == "imagefolder" and Path(images).resolve() in (out.resolve(), *out.resolve().parents):
        raise DreamAccelError(f"--out {out} is in {images}, whose folders are the classes: name a folder elsewhere")
    with take_folder(out):
        if any(entry.name != LOCK_FILE for entry in out.iterdir()) and not overwrite:
            raise DreamAccelError(f"--out {out} exists and is not empty: name another folder, or give --overwrite")
        yield out


@contextmanager
def artefact_folder(
    out: Path | None, name: str, overwrite: bool, dataset: str, known_by: Sequence[str], pattern: str
) -> Iterator[Path]:
    """Take the folder of work that may be continued: as :func:`output_folder`, but one that holds such work is taken.

    Args:
        out, name, overwrite, dataset: as there; ``overwrite`` removes the work that is there.
        known_by: the names of files that a folder of such work has.
        pattern: matches the names of its other files.

    Yields:
        the folder.
    """
    continued = out is not None and all((out / file).exists() for file in known_by)
    taken = take_folder(out) if out is not None and continued else output_folder(out, name, overwrite, dataset)
    with taken as place:
        if overwrite:
            for path in (*(place / file for file in known_by), *place.glob(pattern)):
                path.unlink(missing_ok=True)
        yield place


class Output:
    """The folder a command writes to, replaced by a second one once it can no longer be written to.

    Args:
        folder: the folder of the command.

    Attributes:
        place: the folder written to last.
        status: exit status of the command: 0, or :data:`MISSING` after a write to ``folder`` failed.
        lost: whether something could be written nowhere.
    """

    def __init__(self, folder: Path) -> None:
        self.place = folder
        self.status = 0
        self.lost = False

    def write(self, what: str, write: Callable[[Path], object]) -> None:
        """Write files, to another folder if need be, which is then named on standard error.

        Args:
            what: the files in words.
            write: writes them to the folder it is given.
        """
        try:
            write(self.place)
            return
        except (OSError, UnwritableError) as error:
            reason, self.status = _reason(error), MISSING
        for parent in (Path(tempfile.gettempdir()), Path.cwd(), Path("~")):
            try:
                second = Path(tempfile.mkdtemp(prefix="dream-accel-", dir=parent.expanduser()))
            except (OSError, RuntimeError):
                continue
            try:
                write(second)
            except (OSError, UnwritableError):
                shutil.rmtree(second, ignore_errors=True)
                continue
            print(f"error: {self.place} cannot be written ({reason}): {what} written to {second}/", file=sys.stderr)
            self.place = second
            return
        self.lost = True
        print(f"error: {self.place} cannot be written ({reason}), and no other folder: {what} lost", file=sys.stderr)


def remove_earlier_run(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of an earlier run, which would be taken for those of the run that is written there.

    Args:
        folder: the folder of the run.
        keep: names of files that stay.
    """
    from ..engine.checkpoint import CHECKPOINT_FILE, damaged_checkpoint, previous_checkpoint
    from ..report import PREVIEW_FILE, REPORT_FILE, TENSORBOARD_FOLDER
    from ..results import CONFIG_FILE, IMAGES_FILE, METRICS_FILE

    of_a_run = (CHECKPOINT_FILE, IMAGES_FILE, CONFIG_FILE, METRICS_FILE)
    for name in (*of_a_run, EVALUATIONS_FILE, PREVIEW_FILE, REPORT_FILE):
        if name not in keep:
            (folder / name).unlink(missing_ok=True)
    for file in (previous_checkpoint, damaged_checkpoint):
        file(folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    for events in (folder / TENSORBOARD_FOLDER).glob("events.out.tfevents.*"):
        events.unlink()


def takes_out(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that its file ``out`` is taken before its work, as by
    :func:`dream_accel.runtime.folders.take_file`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        with take_file(options["out"]):
            command(*args, **options)

    return wrapped


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def print_data(split: Any, device: Any) -> None:
    """Print the data set of a run, and the note on how it was read, if there is one."""
    print(
        f"{split.name}: {len(split.train)} training and {len(split.test)} test images of "
        f"{'x'.join(map(str, split.train.shape))}, {split.train.n_classes} class"
        f"{'' if split.train.n_classes == 1 else 'es'}, on {device}"
    )
    if split.note:
        print(split.note)


def print_progress(result: Any) -> None:
    """Print the progress and the speed of a run."""
    if result.history:
        last = result.history[-1]
        learned = last.student_lr is not None
        middle = (
            f"step size {last.student_lr:.3g}" if learned else f"{last.images_per_second:.0f} real images per second"
        )
        print(
            f"{counted(last.iteration, 'outer iteration')}, {counted(last.step, 'matching step')} in "
            f"{last.seconds:.1f} s, {middle}, matching distance {last.loss:.4g}"
        )


def continuing(folder: Path, *options: str) -> str:
    """The command that continues the run in a folder, in backquotes."""
    return f"`{shlex.join(['dream-accel', 'distill', '--resume', str(folder), *options])}`"


class Table:
    """The accuracies of a result and its baselines, printed row by row.

    Args:
        names: the names of all rows, which determine the width of the first column.
    """

    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, names))
        self._empty = True

    def add(self, row: Any, ipc: int) -> None:
        """Print a row, after the heading if it is the first one."""
        from ..report import shown_accuracy

        if self._empty:
            protocol = row.evaluation.protocol
            each = f"{counted(ipc, 'image')} per class, {counted(protocol.networks, 'network')} each"
            print(f"\ntest accuracy, percent; {each}, {counted(protocol.epochs, 'epoch')}")
            self._empty = False
        seconds = f"   distilled in {row.seconds:.1f} s" if row.seconds else ""
        print(f"  {row.name:<{self._width}}  {shown_accuracy(row.evaluation)}{seconds}", flush=True)


def print_accuracy(evaluation: Any, name: str | None = None) -> None:
    """Print the accuracy of one evaluation, after the name of its network where there are several."""
    protocol, tested = evaluation.protocol, len(evaluation.accuracies)
    networks = counted(tested, "network") if evaluation.complete else f"{tested} of {protocol.networks} networks"
    named = "" if name is None else f"{name}: "
    print(
        f"{named}test accuracy {evaluation} % (mean ± std of {networks}, {counted(protocol.epochs, 'epoch')})",
        flush=True,
    )


def as_dict(evaluation: Any) -> dict[str, Any]:
    """Convert an evaluation to a dict that JSON can represent."""
    return {
        "accuracies": evaluation.accuracies,
        "mean": evaluation.mean,
        "std": evaluation.std,
        "complete": evaluation.complete,
        "protocol": asdict(evaluation.protocol),
    }


def write_evaluations(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines to evaluations.jsonl in a folder, one JSON object each."""
    append_lines(folder / EVALUATIONS_FILE, map(json.dumps, lines))
