"""Run report: a preview of the images, and an HTML page with settings, curves and accuracies; figures of analyses."""

from .accuracy import shown_accuracy
from .analyses import FIGURES, write_figure
from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid
from .page import PREVIEW_FILE, REPORT_FILE, described, write_preview, write_report
from .tensorboard import TENSORBOARD_FOLDER, TensorBoardLog, check_tensorboard

__all__ = [
    "FIGURES",
    "MAX_COLUMNS",
    "MAX_ROWS",
    "PREVIEW_FILE",
    "REPORT_FILE",
    "TENSORBOARD_FOLDER",
    "TensorBoardLog",
    "check_tensorboard",
    "described",
    "render_curves",
    "render_grid",
    "shown_accuracy",
    "write_figure",
    "write_preview",
    "write_report",
]
