"""Run report: a preview of the images, and an HTML page with settings, curves and accuracies."""

from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid
from .page import PREVIEW_FILE, REPORT_FILE, described, shown_accuracy, write_preview, write_report

__all__ = [
    "MAX_COLUMNS",
    "MAX_ROWS",
    "PREVIEW_FILE",
    "REPORT_FILE",
    "described",
    "render_curves",
    "render_grid",
    "shown_accuracy",
    "write_preview",
    "write_report",
]
