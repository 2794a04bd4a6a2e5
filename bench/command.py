"""``dream-accel bench``: one command for every benchmark, and one that redraws what was made of their numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dream_accel.options import Device, Quick

if TYPE_CHECKING:
    from .harness import Measurement

app = typer.Typer(
    no_args_is_help=True,
    help="Time our kernels beside every peer that is installed, in one process, after checking that results agree.",
)

BENCHMARKS = {
    "kmeans": "Lloyd iterations of many groups.",
}
"""Every benchmark that a plain command runs, with its help: the module of that name has
``run(device, quick) -> Iterable[Measurement]``, and is imported when it is asked for."""

Out = Annotated[Path, typer.Option(help="CSV file to write; a table (.md) and a figure (.png) go beside it.")]


def measure(name: str, device: str, quick: bool, out: Path) -> None:
    """Run a benchmark and write what it measures."""
    from dream_accel.devices import find_device

    benchmark = importlib.import_module(f".{name}", __package__)
    print(publish(benchmark.run(find_device(device), quick), out))


def publish(measurements: Iterable[Measurement], out: Path) -> str:
    """Write the CSV, growing with every measurement so that a run cut short loses none, then table and figure.

    Returns:
        the table.
    """
    from .harness import write_csv

    lines = []
    for line in measurements:
        lines.append(line)
        write_csv(out, lines)
    return _render(out)


def _command_of(name: str) -> Callable[..., None]:
    def command(out: Out, device: Device = "auto", quick: Quick = False) -> None:
        measure(name, device, quick, out)

    return command


for _name, _help in BENCHMARKS.items():
    app.command(_name, help=_help)(_command_of(_name))


@app.command()
def render(
    files: Annotated[list[Path] | None, typer.Argument(help="CSV files that benchmarks wrote.")] = None,
    readme: Annotated[
        list[Path] | None,
        typer.Option(help="Markdown file whose tables between `<!-- bench: FILE.csv -->` and `<!-- end -->` to renew."),
    ] = None,
) -> None:
    """Make tables and figures again from CSV files, without measuring anything."""
    from dream_accel.results import write_text

    from . import present

    for file in files or ():
        print(_render(file))
    for document in readme or ():
        write_text(document, present.fill_in(document.read_text(), document.parent))
        print(f"{document}: tables renewed")


def _render(file: Path) -> str:
    from dream_accel.results import write_text

    from . import present
    from .harness import read_csv

    lines = read_csv(file)
    table = present.table(lines)
    write_text(file.with_suffix(".md"), table)
    present.figure(lines, file.with_suffix(".png"))
    return table
