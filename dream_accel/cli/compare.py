"""``dream-accel compare``: measures the cells of a grid file and writes their tables."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import counted
from .options import OUTPUT, DataDir, Device, Download, Quick, option
from .output import INTERRUPTED, MISSING
from .recipe_options import QUICK


def compare(
    grid: Annotated[
        Path, typer.Argument(help="TOML file of cells; examples/grids has one for every table of the paper.")
    ],
    out: Annotated[
        Path | None,
        option(
            help="Folder to write; a comparison that is there is continued.",
            panel=OUTPUT,
            default="runs/ and the grid's name",
        ),
    ] = None,
    jobs: Annotated[
        int, option(help="Cells measured at once, each in a process with its share of the threads.", panel=OUTPUT)
    ] = 1,
    device: Device = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    quick: Quick = False,
) -> None:
    """Compare methods: a grid of recipes, strategies, initialisations, data sets, IPC, networks and seeds.

    Everything is checked before the first cell. The same command continues what was interrupted or has failed, and
    skips what is done. Writes comparison.html, comparison.md, comparison.csv and cells.csv, anew after every cell. The
    exit status is 1 if a cell failed.
    """
    from ..evaluation.comparison import Comparison, measure_tasks
    from ..evaluation.grid import read_grid
    from ..report.comparison import write_comparison
    from ..runtime.devices import find_device
    from ..runtime.distributed import launched_ranks
    from ..runtime.folders import take_folder
    from ..runtime.processes import check_jobs

    def begin() -> tuple[Comparison, Path]:
        """Take the folder and check every cell."""
        check_jobs(jobs)
        read = read_grid(grid, {**QUICK, "eval_epochs": 2} if quick else None)
        name = grid.stem + ("-quick" if quick else "")
        folder = until_end.enter_context(take_folder(out or Path("runs") / name))
        return Comparison(read, folder, device=device, data_dir=data_dir, download=download, at_most=quick), folder

    with ExitStack() as until_end:
        ranks = until_end.enter_context(launched_ranks())
        comparison, folder = ranks.from_first(begin)
        where = str(find_device(ranks.device(device)))
        tasks = [replace(task, device=where) for task in ranks.own(comparison.left())]
        if not ranks.is_first:
            for _ in measure_tasks(tasks, jobs):
                pass
            ranks.wait()
            return
        title, total = comparison.grid.title, len(comparison.tasks)
        done = total - len(comparison.left())
        print(f"{counted(total, 'cell')}, {done} measured before" if done else counted(total, "cell"), flush=True)
        write_comparison(title, comparison.rows(), folder)
        try:
            for cell, record in measure_tasks(tasks, jobs):
                write_comparison(title, comparison.rows(), folder)
                if record.reason is None:
                    tested = ", ".join(f"{record.mean(network):.1f} % ({network})" for network in cell.networks)
                    measured = total - len(comparison.left())
                    print(f"{measured} of {total}: {cell}: {tested}, {record.seconds:.1f} s", flush=True)
                else:
                    print(f"failed: {cell}: {record.reason}", file=sys.stderr, flush=True)
                for note in record.notes:
                    print(f"note: {cell}: {note}", file=sys.stderr)
            ranks.wait()
        except KeyboardInterrupt:
            write_comparison(title, comparison.rows(), folder)
            left = total - len(comparison.left())
            print(f"interrupted: {left} of {counted(total, 'cell')} measured; the same command continues in {folder}/")
            raise typer.Exit(INTERRUPTED) from None
        write_comparison(title, comparison.rows(), folder)
        print(f"written to {folder}/ (open {folder}/comparison.html)")
        failed = len(comparison.left())
    if failed:
        print(f"error: {counted(failed, 'cell')} failed; the same command tries again", file=sys.stderr)
        raise typer.Exit(MISSING)
