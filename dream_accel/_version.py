"""The version of this copy of the package. pyproject.toml is the only place that states it.

In a checkout the file itself is read, so that an edit counts without a reinstallation, and no other installed copy is
taken for this one. An installed package has the metadata that the file was turned into.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

UNKNOWN = "0+unknown"
"""A valid version that sorts before every release: of a package folder copied without its metadata nothing is known."""


def _find() -> str:
    here = Path(__file__).resolve().parent
    try:
        project = (here.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        project = ""
    # Python 3.10 has no TOML reader; the two lines stand together, so that the name tells whose version it is.
    if stated := re.search(r'^\[project\]\nname = "dream-accel"\nversion = "(.+)"$', project, re.MULTILINE):
        return stated[1]
    for distribution in importlib.metadata.distributions(name="dream-accel"):
        if Path(str(distribution.locate_file("dream_accel"))).resolve() == here:
            return distribution.version
    return UNKNOWN


__version__ = _find()
