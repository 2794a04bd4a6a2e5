"""Chromium without a window, which shows a page as a reader sees it."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The program; None where there is none."""


def screenshot(page: Path, picture: Path, *, dark: bool = False) -> str:
    """Write a picture of a page, and return what its console said, errors of the page included."""
    assert CHROMIUM is not None
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    command += [f"--user-data-dir={picture.parent / 'browser'}", "--window-size=1000,2000", "--enable-logging=stderr"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
