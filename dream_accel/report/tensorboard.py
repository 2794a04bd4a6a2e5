"""The course of a run for TensorBoard: scalars after every outer iteration, and grids of the images now and then."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import DreamAccelError
from ..evaluation import Row
from ..results import Progress
from .figures import render_grid

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_FOLDER = "tensorboard"
"""Name of the folder of event files in a run's folder."""


class TensorBoardLog:
    """Event files in a folder, written as a run goes on. Closes at the end of a ``with`` block.

    Scalars, by outer iteration: ``distance``, ``images_per_second``, ``seconds``, and ``student_lr`` where it is
    learned; at the end ``accuracy/NAME`` of everything evaluated. Images: ``images``, after iterations 1, 2, 4, 8, ...
    and the last.

    Args:
        folder: the folder of the event files, which is made.
        iterations: the last outer iteration of the run.
        done: the outer iterations completed before; what an interrupted run wrote beyond them is hidden.

    Raises:
        DreamAccelError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, iterations: int, done: int = 0) -> None:
        self._writer = _writer_class()(str(folder), purge_step=done + 1 if done else None)
        self._iterations = iterations

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    def iteration(self, line: Progress, images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
        """Write one outer iteration.

        Args:
            line: of the history.
            images: (n, channels, H, W) float32 in [0, 1], the synthetic images after it.
            labels: (n,) their classes.
            class_names: one name per class.
        """
        scalars = {
            "distance": line.loss,
            "images_per_second": line.images_per_second,
            "seconds": line.seconds,
            "student_lr": line.student_lr,
        }
        at = line.iteration
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, at)
        if at == self._iterations or at & (at - 1) == 0:
            grid = _array(render_grid(images, labels, class_names))
            self._writer.add_image("images", grid, at, dataformats="HWC")
        self._writer.flush()

    def accuracy(self, row: Row) -> None:
        """Write the mean accuracy of a row, percent."""
        self._writer.add_scalar(f"accuracy/{row.name}", row.evaluation.mean, self._iterations)
        self._writer.flush()


def check_tensorboard() -> None:
    """Refuse a run that asks for TensorBoard where it is not installed.

    Raises:
        DreamAccelError: the package tensorboard is not installed.
    """
    _writer_class()


def _writer_class() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DreamAccelError(
            "TensorBoard is not installed: pip install 'dream-accel[tensorboard]', or leave tensorboard out"
        ) from None
    return SummaryWriter


def _array(png: bytes) -> np.ndarray:
    """(height, width, 3) uint8; what is transparent becomes white."""

    picture = Image.open(io.BytesIO(png))
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
