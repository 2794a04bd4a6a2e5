"""``dream-accel bench``: one command for every benchmark, and one that redraws what was made of their numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dream_accel.cli.options import DataDir, Device, Download, Quick, with_recipe
from dream_accel.errors import DreamAccelError

if TYPE_CHECKING:
    from .harness import Measurement

app = typer.Typer(
    no_args_is_help=True,
    help="Time our kernels beside every peer that is installed, in one process, after checking that results agree.",
)

BENCHMARKS = {
    "kmeans": "Lloyd iterations of many groups.",
    "distance": "The distance of gradients, forward and backward.",
    "dropin": "The drop-ins for existing code beside what they replace.",
}
"""Every benchmark that a plain command runs, with its help: the module of that name has
``run(device, quick) -> Iterable[Measurement]``, and is imported when it is asked for."""

Out = Annotated[Path, typer.Option(help="CSV file to write; a table (.md) and a figure (.png) go beside it.")]


DataOf = Annotated[
    str | None,
    typer.Option("--data-dir", help="Folder of the data set; made-up images like it where it is not found."),
]


def measure(name: str, device: str, quick: bool, out: Path) -> None:
    """Run a benchmark and write what it measures."""
    from dream_accel.runtime.devices import find_device

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
    return remake(out)


def _command_of(name: str) -> Callable[..., None]:
    def command(out: Out, device: Device = "auto", quick: Quick = False) -> None:
        measure(name, device, quick, out)

    return command


for _name, _help in BENCHMARKS.items():
    app.command(_name, help=_help)(_command_of(_name))


@app.command()
def step(
    out: Out,
    device: Device = "auto",
    data_dir: DataOf = None,
    trace: Annotated[Path | None, typer.Option(help="File to write our inner step to, for chrome://tracing.")] = None,
    quick: Quick = False,
) -> None:
    """Refresh, matching step and network update: ours beside the published loop."""
    from dream_accel.runtime.devices import find_device

    from .step import run

    print(publish(run(find_device(device), quick, data_dir, trace), out))


@app.command()
def outer(out: Out, device: Device = "auto", data_dir: DataOf = None, quick: Quick = False) -> None:
    """A whole outer iteration: ours beside the published loop."""
    from dream_accel.runtime.devices import find_device

    from .outer import run

    print(publish(run(find_device(device), quick, data_dir), out))


@app.command()
@with_recipe
def accuracy(
    settings: dict[str, Any],
    out: Annotated[Path, typer.Option(help="CSV file of the curve; table (.md), figure (.png) and runs go beside it.")],
    at: Annotated[str, typer.Option(help="Outer iterations at which networks are trained and tested.")] = "0,1,2,4,8",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to this, less one.", min=1)] = 3,
    arms: Annotated[str, typer.Option(help="random, kmeans-init, dream.")] = "random,kmeans-init,dream",
    holdout: Annotated[
        int, typer.Option(help="Test on so many training images held out, to choose settings. [default: the test set]")
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Stop and save after so long; the same command continues.")] = 1e9,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Time to accuracy: random sampling from random and from K-Means initialisation, and DREAM, at equal batch."""
    from dream_accel.recipes import recipe
    from dream_accel.runtime.devices import find_device

    from . import curve
    from .accuracy import QUICK, Plan, run

    chosen = {**QUICK, **settings} if quick else settings
    iterations = tuple(_integers("--at", "0,1" if quick else at))
    plan = Plan(
        recipe(chosen.pop("recipe", "dream"), chosen.pop("dataset", "digits"), **chosen),
        iterations,
        tuple(range(1 if quick else seeds)),
        tuple(arms.split(",")),
        holdout,
    )
    complete = run(plan, out, find_device(device), data_dir=data_dir, download=download, seconds=seconds)
    if out.exists():
        print(curve.publish(out))
    print("complete" if complete else "time is over: the same command continues")


def _integers(option: str, words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise DreamAccelError(f"{option} {words}: give whole numbers, set apart by commas") from None


@app.command()
def render(
    files: Annotated[list[Path] | None, typer.Argument(help="CSV files that benchmarks wrote.")] = None,
    readme: Annotated[
        list[Path] | None,
        typer.Option(help="Markdown file whose tables between `<!-- bench: FILE.csv -->` and `<!-- end -->` to renew."),
    ] = None,
) -> None:
    """Make tables and figures again from CSV files, without measuring anything."""
    from dream_accel.runtime.files import write_text

    from . import present

    for file in files or ():
        print(remake(file))
    for document in readme or ():
        write_text(document, present.fill_in(document.read_text(), document.parent))
        print(f"{document}: tables renewed")


def remake(file: Path) -> str:
    """Write table and figure of a CSV beside it; the table."""
    from dream_accel.runtime.files import write_text

    from . import curve, present
    from .harness import read_csv

    if curve.holds_curve(file):
        return curve.publish(file)
    lines = read_csv(file)
    table = present.table(lines)
    write_text(file.with_suffix(".md"), table)
    present.figure(lines, file.with_suffix(".png"))
    return table
