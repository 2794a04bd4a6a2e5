"""Continuation of a run from the command line: its settings, its device and its data are those of the run.

The settings that may change are :data:`dream_accel.engine.stored_run.FREE_TO_CHANGE`, beside the device; the result
records that they did. Everything else is refused by :func:`dream_accel.engine.stored_run.continued`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from ..engine.checkpoint import CHECKPOINT_FILE, previous_checkpoint
from ..engine.stored_run import StoredRun
from ..errors import DreamAccelError
from ..recipes import Recipe
from .options import named_network
from .output import continuing


class ResumingCommand(TyperCommand):
    """A command whose option ``--resume`` may lack its value, which is then empty."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command."""
        for place, word in enumerate(args):
            following = args[place + 1 : place + 2]
            if word == "--resume" and (not following or following[0].startswith("-")):
                args[place] = "--resume="
        return super().parse_args(ctx, args)


def folder_to_continue(run: str, out: Path | None, overwrite: bool, quick: bool) -> Path:
    """Determine the folder of the run to continue.

    Args:
        run: the value of ``--resume``: a run's folder or its checkpoint, or empty for that of ``--out``.
        out: the value of ``--out``.
        overwrite, quick: whether these options were given.

    Raises:
        DreamAccelError: no run is named, two are, there is none, or an option contradicts a continuation.
    """
    if not run and out is None:
        raise DreamAccelError("--resume names no run: give the folder of the run to continue, as --resume RUN")
    folder = Path(run) if run else Path(str(out))
    if folder.name == CHECKPOINT_FILE:
        folder = folder.parent
    if out is not None and out.resolve() != folder.resolve():
        raise DreamAccelError(
            f"--resume {folder} continues the run where it is, and --out names {out}: leave --out out, "
            f"{continuing(folder)}"
        )
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.exists() and not previous_checkpoint(checkpoint).exists():
        raise DreamAccelError(f"--resume finds no {checkpoint}: name a run's folder, or begin one without --resume")
    for flag, given in (("--overwrite", overwrite), ("--quick", quick)):
        if given:
            raise DreamAccelError(
                f"{flag} is for a new run, and --resume continues one with its own settings: leave {flag} out, "
                f"{continuing(folder)}"
            )
    return folder


def recipe_to_continue(stored: StoredRun, settings: dict[str, Any]) -> Recipe:
    """The settings of the stored run with those given on the command line; which may differ is checked with the data.

    Raises:
        DreamAccelError: a setting has a value that is not allowed, or the run's network is an import path that is not
            named.
    """
    named_network(stored.recipe, settings.get("network"))
    return replace(stored.recipe, **settings)
