"""Run report: a preview of the images, and an HTML page with settings, curves and accuracies; figures of analyses."""

from .analyses import FIGURES, write_figure
from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid
from .page import PREVIEW_FILE, REPORT_FILE, described, shown_accuracy, write_preview, write_report

__all__ = [
    "FIGURES",
    "MAX_COLUMNS",
    "MAX_ROWS",
    "PREVIEW_FILE",
    "REPORT_FILE",
    "described",
    "render_curves",
    "render_grid",
    "shown_accuracy",
    "write_figure",
    "write_preview",
    "write_report",
]
