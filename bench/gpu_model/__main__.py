"""Prints the tables of the GPU model, or renews them in a document: ``--page docs/gpu-model.md``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dream_accel.runtime.files import write_text

from .tables import renewed, table

parser = argparse.ArgumentParser(prog="gpu_model", description=__doc__)
parser.add_argument("--page", type=Path, help="document whose sections are renewed")
page = parser.parse_args().page
if page is None:
    print(table())
else:
    write_text(page, renewed(page.read_text(encoding="utf-8")))
