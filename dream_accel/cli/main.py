"""The program ``dream-accel``: its commands, its version, and the display of refusals and warnings."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from ..errors import DreamAccelError, DreamAccelWarning
from .bench import app as bench
from .convert import convert
from .distill import distill
from .doctor import doctor
from .evaluate import evaluate
from .select import select

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
for command in (distill, evaluate, select, convert, doctor):
    app.command()(command)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line. A refusal prints one sentence to standard error and exits with status 2."""
    warnings.formatwarning = format_warning
    try:
        app(prog_name="dream-accel")
    except DreamAccelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def format_warning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Format a warning in one line.

    Warnings of this library are notes to the user, so their line leaves out the place in the code. The parameters are
    those of :func:`warnings.formatwarning`.
    """
    if issubclass(category, DreamAccelWarning):
        return f"note: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"dream-accel {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Dataset distillation by representative matching: a few synthetic images per class instead of a training set."""
