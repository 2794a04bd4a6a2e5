"""``dream-accel bench``: one command per benchmark, and one that renews tables and figures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DreamAccelError
from .options import DATA, EVALUATION, OUTPUT, DataDir, Device, Download, Quick, option
from .output import takes_out
from .recipe_options import chosen_recipe, with_recipe

app = typer.Typer(
    no_args_is_help=True,
    help="Time our kernels beside every peer that is installed, in one process, after checking that results agree.",
)

BENCHMARKS = {
    "kmeans": "Lloyd iterations of many groups.",
    "distance": "The distance of gradients, forward and backward.",
    "dropin": "The drop-ins for existing code beside what they replace.",
}
"""Every benchmark that has only the common options, with its help. The module of that name in :mod:`dream_accel.bench`
defines ``run(device, quick) -> Iterable[Measurement]`` and is imported when its command is called."""

Out = Annotated[
    Path, option(help="CSV file to write; a table (.md) and a figure (.png) are written beside it.", panel=OUTPUT)
]


DataOf = Annotated[
    str | None,
    option(
        "--data-dir",
        help="Folder of the data set; made-up images of the same shape replace one that is not found.",
        panel=DATA,
    ),
]


def measure(name: str, device: str, quick: bool, out: Path) -> None:
    """Run a benchmark, write its measurements and print them as a table.

    Args:
        name: a key of :data:`BENCHMARKS`.
        device: the device to run on, as :func:`dream_accel.runtime.devices.find_device` takes it.
        quick: whether to run a small form of the benchmark.
        out: the CSV file to write.
    """
    from ..bench.publish import publish
    from ..runtime.devices import find_device

    benchmark = importlib.import_module(f"dream_accel.bench.{name}")
    print(publish(benchmark.run(find_device(device), quick), out))


def _command_of(name: str) -> Callable[..., None]:
    def command(out: Out, device: Device = "auto", quick: Quick = False) -> None:
        measure(name, device, quick, out)

    return command


for _name, _help in BENCHMARKS.items():
    app.command(_name, help=_help)(takes_out(_command_of(_name)))


@app.command()
@takes_out
def step(
    out: Out,
    device: Device = "auto",
    data_dir: DataOf = None,
    trace: Annotated[
        Path | None,
        option(help="File to write our inner step to, for chrome://tracing.", panel=OUTPUT, default="none"),
    ] = None,
    quick: Quick = False,
) -> None:
    """Refresh, matching step and network update: ours beside the published loop."""
    from ..bench.publish import publish
    from ..bench.step import run
    from ..runtime.devices import find_device

    print(publish(run(find_device(device), quick, data_dir, trace), out))


@app.command()
@takes_out
def outer(out: Out, device: Device = "auto", data_dir: DataOf = None, quick: Quick = False) -> None:
    """A whole outer iteration: ours beside the published loop."""
    from ..bench.outer import run
    from ..bench.publish import publish
    from ..runtime.devices import find_device

    print(publish(run(find_device(device), quick, data_dir), out))


@app.command()
@takes_out
@with_recipe
def accuracy(
    settings: dict[str, Any],
    out: Annotated[
        Path,
        option(help="CSV file of the curve; table (.md), figure (.png) and runs are written beside it.", panel=OUTPUT),
    ],
    at: Annotated[
        str, option(help="Outer iterations at which networks are trained and tested.", panel=EVALUATION)
    ] = "0,1,2,4,8",
    seeds: Annotated[int, option(help="Number of seeds, counted from 0; at least 1.", panel=EVALUATION)] = 3,
    arms: Annotated[
        str, option(help="Arms to compare: random, kmeans-init, dream.", panel=EVALUATION)
    ] = "random,kmeans-init,dream",
    holdout: Annotated[
        int,
        option(
            help="Test on this many held-out training images, to choose settings.",
            panel=EVALUATION,
            default="the test set",
        ),
    ] = 0,
    seconds: Annotated[
        float, option(help="Stop and save after this many seconds; the same command continues.", panel=OUTPUT)
    ] = 1e9,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Time to accuracy: random sampling from random and from K-Means initialisation, and DREAM, at equal batch."""
    from ..bench import curve
    from ..bench.accuracy import QUICK, Plan, run
    from ..runtime.devices import find_device

    iterations = tuple(_integers("--at", "0,1" if quick else at))
    plan = Plan(
        chosen_recipe(settings, quick, QUICK),
        iterations,
        tuple(range(1 if quick else seeds)),
        tuple(arms.split(",")),
        holdout,
    )
    at_most = quick and "limit_train" not in settings
    complete = run(
        plan, out, find_device(device), data_dir=data_dir, download=download, seconds=seconds, at_most=at_most
    )
    if out.exists():
        print(curve.publish(out))
    print("complete" if complete else "the time limit is reached: the same command continues")


def _integers(flag: str, words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise DreamAccelError(f"{flag} {words}: give whole numbers, separated by commas") from None


@app.command()
def render(
    files: Annotated[list[Path] | None, typer.Argument(help="CSV files that benchmarks wrote.")] = None,
    readme: Annotated[
        list[Path] | None,
        typer.Option(help="Markdown file whose tables between `<!-- bench: FILE.csv -->` and `<!-- end -->` to renew."),
    ] = None,
) -> None:
    """Make tables and figures again from CSV files, without measuring anything."""
    from ..bench import present
    from ..bench.publish import remake
    from ..runtime.files import write_text

    for file in files or ():
        print(remake(file))
    for document in readme or ():
        write_text(document, present.fill_in(document.read_text(), document.parent))
        print(f"{document}: tables renewed")
