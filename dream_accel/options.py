"""Options that several commands of the command line share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1.")]
DataDir = Annotated[
    str | None,
    typer.Option(help="Folder of named data sets. [default: $DREAM_ACCEL_DATA or ~/.cache/dream_accel/data]"),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a named data set that is not there.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")]
Quick = Annotated[bool, typer.Option("--quick", help="A small form of the command, to see that it runs.")]
