"""Builds wheels from the sdist with every toolchain there is, and runs them under every Python and torch given.

    python tools/install_matrix.py [--toolchains none,cpu,cuda] [--python PYTHON ...] [--isolated] [--out TABLE.md]

Each PYTHON is an interpreter that has torch, NumPy and safetensors; without any, this one. A wheel is built once per
toolchain and version of Python and installed beside, not into, the interpreters that try it:

``none``  no compiler is found: pure Python
``cpu``   a C++ compiler, no nvcc
``cuda``  both

``--isolated`` lets pip fetch the build requirements, as for a user; without it they must be installed in this
interpreter, which then builds for itself alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLCHAINS = ("none", "cpu", "cuda")

Built = tuple[Path | None, str, float]
"""The wheel (None where the build failed), what the build said, and seconds."""

TRIAL = """
import json, platform, torch
import dream_accel as da
from dream_accel import compat
from dream_accel.backends import _native
from dream_accel.cli.doctor import diagnose as doctor

images, labels = torch.rand(60, 1, 8, 8), torch.arange(3).repeat_interleave(20)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
get_images = compat.GetImages(images, labels, n_clusters=5)
get_images.update(net)
assert [len(get_images(c, 5).flatten(1).unique(dim=0)) for c in range(3)] == [5] * 3
gradients = [torch.rand(4, 3, 3, 3) for _ in range(2)]
assert da.gradient_distance(gradients[:1], gradients[1:]).isfinite()
assert doctor() == 0
print(json.dumps([platform.python_version(), torch.__version__, _native.describe().split(":")[0]]))
"""


def environment(toolchain: str, folder: Path) -> dict[str, str]:
    """Environment of the build: a PATH with the interpreter's own tools and the compilers of the toolchain alone."""
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "PYTHONPATH")}
    tools = folder / f"bin-{toolchain}"
    tools.mkdir(exist_ok=True)
    hidden = {"none": ("c++", "g++", "clang++", "gcc", "cc", "clang", "nvcc"), "cpu": ("nvcc",), "cuda": ()}[toolchain]
    kept = []
    for entry in env["PATH"].split(os.pathsep):
        place = Path(entry)
        if place.is_dir() and any((place / name).exists() for name in hidden):
            # All of the folder but what is hidden, by links.
            for program in place.iterdir():
                link = tools / program.name
                if program.name not in hidden and not link.exists():
                    link.symlink_to(program)
            entry = str(tools)
        kept.append(entry)
    env["PATH"] = os.pathsep.join(dict.fromkeys(kept))
    # A broken build must be seen here; what is hidden on purpose is not required.
    env["DREAM_ACCEL_REQUIRE_NATIVE"] = {"none": "0", "cpu": "1", "cuda": "cuda"}[toolchain]
    return env


def build_sdist(folder: Path) -> Path:
    """The sdist, from a copy of the tracked files, so that what it lacks is missed."""
    sources = folder / "sources"
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        target = sources / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True)
    return next((sources / "dist").glob("*.tar.gz"))


def build_wheel(python: str, sdist: Path, toolchain: str, isolated: bool, folder: Path) -> Built:
    """Let pip build the sdist as it would for a user of that toolchain."""
    out = folder / f"wheel-{toolchain}-{version_of(python)}"
    command = [
        python,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--disable-pip-version-check",
        "-v",
        "-w",
        str(out),
        str(sdist),
    ]
    began = time.perf_counter()
    done = subprocess.run(
        command if isolated else [*command, "--no-build-isolation"],
        env=environment(toolchain, folder),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    lines = (done.stdout + done.stderr).splitlines()
    said = [line.strip() for line in lines if line.strip().startswith("dream_accel: ")]
    wheel = next(out.glob("*.whl"), None) if done.returncode == 0 else None
    if wheel is None:
        said = said or [line for line in lines if line.strip()][-1:]
    return wheel, said[-1] if said else "nothing", seconds


def version_of(python: str) -> str:
    """3.11 and the like."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def try_wheel(python: str, wheel: Path, folder: Path) -> tuple[bool, list[str]]:
    """Run the trial from the installed wheel; True with Python, torch and kernels, False with the error's last line."""
    with tempfile.TemporaryDirectory(dir=folder) as site:
        install = [python, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target", site]
        done = subprocess.run([*install, str(wheel)], capture_output=True, text=True)
        if done.returncode == 0:
            env = {k: v for k, v in os.environ.items() if not k.startswith("DREAM_ACCEL_")} | {"PYTHONPATH": site}
            done = subprocess.run([python, "-c", TRIAL], cwd=site, env=env, capture_output=True, text=True)
        if done.returncode:
            return False, [done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word of it"]
        return True, json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """Build, try, and print a Markdown table; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toolchains", default=",".join(TOOLCHAINS))
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--isolated", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pythons = args.python or [sys.executable]

    rows = ["| toolchain | wheel | built in | Python | torch | result |", "|---|---|---|---|---|---|"]
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist = build_sdist(folder)
        for toolchain in args.toolchains.split(","):
            wheels: dict[str, Built] = {}
            for python in pythons:
                version = version_of(python)
                if version not in wheels:
                    wheels[version] = build_wheel(python, sdist, toolchain, args.isolated, folder)
                    print(f"{toolchain}, Python {version}: {wheels[version][1]}", file=sys.stderr, flush=True)
                wheel, said, seconds = wheels[version]
                ok, about = try_wheel(python, wheel, folder) if wheel else (False, [said])
                failed |= not ok
                names = about if ok else [version, "", f"FAILS: {about[0]}"]
                built = wheel.name.removeprefix("dream_accel-") if wheel else "none"
                rows.append(" | ".join([f"| {toolchain}", built, f"{seconds:.0f} s", *names]) + " |")
                print(rows[-1], file=sys.stderr, flush=True)
    table = "\n".join(rows) + "\n"
    print(table)
    if args.out:
        args.out.write_text(table)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
