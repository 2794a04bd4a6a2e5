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


Holdout = Annotated[
    int,
    option(
        help="Test on this many held-out training images, to choose settings.", panel=EVALUATION, default="the test set"
    ),
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
        str,
        option(
            help="Arms to compare: random, kmeans-init, dream, dream-cached, dream-cached-class, dm+.", panel=EVALUATION
        ),
    ] = "random,kmeans-init,dream",
    holdout: Holdout = 0,
    seconds: Annotated[
        float, option(help="Stop and save after this many seconds; the same command continues.", panel=OUTPUT)
    ] = 1e9,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Time to accuracy at equal batch: random sampling from two initialisations, DREAM, DREAM cached, and DM+."""
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


@app.command()
@takes_out
@with_recipe
def family(
    settings: dict[str, Any],
    out: Annotated[Path, option(help="CSV file of the cells; the table (.md) is written beside it.", panel=OUTPUT)],
    seconds: Annotated[float, option(help="Seconds of distillation of every cell.", panel=OUTPUT)] = 120,
    seeds: Annotated[int, option(help="Number of seeds, counted from 0; at least 1.", panel=EVALUATION)] = 3,
    cells: Annotated[
        str | None,
        option(help="Cells to measure, separated by commas.", panel=EVALUATION, default="all"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the cells to change, as pixel_lr=0.1.", rich_help_panel=EVALUATION),
    ] = None,
    holdout: Holdout = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    quick: Quick = False,
) -> None:
    """Accuracy of every method in equal seconds: coresets, each framework with and without DREAM, and DM+."""
    from ..bench import cells as rows
    from ..bench.family import CELLS, QUICK, Budget, run
    from ..bench.publish import remake
    from ..runtime.devices import find_device

    budget = Budget(
        dataset=settings.pop("dataset", "digits" if quick else "fashion-mnist"),
        seconds=0.1 if quick else seconds,
        seeds=1 if quick else seeds,
        cells=(*rows.CORESETS, *CELLS) if cells is None else tuple(cells.split(",")),
        shared={**(QUICK if quick else {}), **settings},
        changes=dict(map(_assignment, changes or ())),
        holdout=holdout,
    )
    run(budget, out, find_device(device), data_dir)
    print(remake(out))


def _assignment(words: str) -> tuple[str, Any]:
    """Parse ``NAME=VALUE``, the value a number where it looks like one."""
    name, equals, value = words.partition("=")
    if not equals:
        raise DreamAccelError(f"--set {words}: give it as NAME=VALUE")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


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
