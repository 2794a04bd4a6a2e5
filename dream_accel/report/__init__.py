"""Run report: a preview of the images, and an HTML page with settings, curves and accuracies."""

from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid
from .page import PREVIEW_FILE, REPORT_FILE, write_preview, write_report

__all__ = [
    "MAX_COLUMNS",
    "MAX_ROWS",
    "PREVIEW_FILE",
    "REPORT_FILE",
    "render_curves",
    "render_grid",
    "write_preview",
    "write_report",
]
