"""The report of a run: a preview of the images, and a page with settings, curves and accuracies."""

from .page import (
    MAX_COLUMNS,
    MAX_ROWS,
    PREVIEW_FILE,
    REPORT_FILE,
    render_curves,
    render_grid,
    write_preview,
    write_report,
)

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
