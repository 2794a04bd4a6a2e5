"""Shared by several test files: problems, judges of results, stand-ins for devices and guards."""

from pathlib import Path

import pytest

# Submodules are imported after this line, so that their assertions explain themselves like those of test files.
pytest.register_assert_rewrite(*(f"{__name__}.{file.stem}" for file in Path(__file__).parent.glob("[!_]*.py")))
