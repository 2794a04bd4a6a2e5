"""The program ``dream-accel``: its commands, its version, and the display of refusals and warnings."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import DreamAccelError, DreamAccelWarning
from ..runtime.signals import interrupting_signals
from .analyze import app as analyze
from .bench import app as bench
from .compare import compare
from .continual import continual
from .convert import convert
from .distill import distill
from .doctor import doctor
from .evaluate import evaluate
from .experts import experts
from .output import INTERRUPTED, MISSING
from .plan import plan
from .pool import pool
from .resume import ResumingCommand
from .select import select

ASCII = {"±": "+-", "×": "x", "²": "2", "–": "-", "…": "..."}
"""Spellings of characters for a terminal that cannot show them."""


SHARED_COMMANDS = ("distill", "evaluate", "select", "compare")
"""The commands whose work the processes of torchrun share."""


class Program(TyperGroup):
    """The commands; Ctrl-C, SIGTERM and SIGUSR1 end each of them with status 130, and with what is done by then."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name; among ranks, refuse one that cannot share its work."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in SHARED_COMMANDS and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise DreamAccelError(
                f"{name} runs in one process: start it without torchrun ({' and '.join(SHARED_COMMANDS)} share their "
                "work among ranks)"
            )
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            with interrupting_signals():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(cls=Program, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command(cls=ResumingCommand)(distill)
for command in (plan, evaluate, compare, select, experts, pool, continual, convert, doctor):
    app.command()(command)
app.add_typer(analyze, name="analyze")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line.

    The exit status is 0; 1 if something asked for is missing, such as a file that could not be written; 2 after a
    refusal, which prints one sentence to standard error; 3 if a run diverged; 130 after Ctrl-C, SIGTERM or SIGUSR1.
    """
    warnings.formatwarning = format_warning
    codecs.register_error("dream_accel", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="dream_accel")
    # Of the processes that torchrun starts, the first speaks.
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        warnings.simplefilter("ignore", DreamAccelWarning)
    try:
        app(prog_name="dream-accel")
    except DreamAccelError as error:
        if first:
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(MISSING) from None


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Spell characters that the encoding of a stream lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in letters), error.end


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
