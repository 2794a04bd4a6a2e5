"""Importing the package loads and starts nothing; the names are there when first used."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dream_accel

PROBE = """
import json, os, sys, threading
import torch

def tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

before, threads, n_tasks, generator = set(sys.modules), threading.active_count(), tasks(), torch.get_rng_state()
import dream_accel
report = {"loaded": sorted(set(sys.modules) - before)}
report["threads"] = threading.active_count() - threads
report["tasks"] = tasks() - n_tasks
report["cuda"] = torch.cuda.is_initialized()
report["generator untouched"] = torch.equal(torch.get_rng_state(), generator)

import dream_accel
report["version read"] = "__version__" in vars(dream_accel)
dream_accel.BatchedKMeans, dream_accel.RepresentativeSampler, dream_accel.gradient_distance
report["loaded by use"] = sorted(set(sys.modules) - before)
report["cuda after use"] = torch.cuda.is_initialized()
print(json.dumps(report))
"""
# Beside the standard library. Of torch only what `import torch` has loaded: some of its modules take seconds.
ON_IMPORT = {"dream_accel"}
PACKAGES_IN_USE = {"dream_accel", "torch"}


@pytest.fixture(scope="module")
def report():
    """Output of a fresh interpreter about ``import dream_accel`` after ``import torch``."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=Path(dream_accel.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def beyond_the_standard_library(modules):
    return {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}


def test_import_loads_the_package_itself_and_the_standard_library_alone(report):
    assert beyond_the_standard_library(report["loaded"]) == ON_IMPORT


def test_import_starts_no_threads_and_no_cuda(report):
    assert report["threads"] == 0
    assert report["tasks"] == 0
    assert not report["cuda"]
    assert report["generator untouched"]


def test_the_names_of_existing_loops_load_no_further_package_and_no_compiled_code(report):
    loaded = beyond_the_standard_library(report["loaded by use"])
    assert {name.partition(".")[0] for name in loaded} <= PACKAGES_IN_USE
    assert "dream_accel._C" not in loaded
    assert not report["cuda after use"]


@pytest.mark.parametrize("name", dream_accel.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    value = getattr(dream_accel, name)
    assert value.__module__.startswith("dream_accel")
    assert value.__doc__
    assert name in dir(dream_accel)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"dream_accel.*has no attribute 'no_such_name'"):
        _ = dream_accel.no_such_name


class TestVersion:
    @pytest.fixture
    def copy(self, tmp_path, monkeypatch):
        """A package folder away from the checkout, and what it takes for its version."""
        (tmp_path / "dream_accel").mkdir()
        module = shutil.copy(Path(dream_accel.__file__).parent / "_version.py", tmp_path / "dream_accel")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path, lambda: runpy.run_path(str(module))["__version__"]

    def metadata(self, site, version):
        folder = site / f"dream_accel-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: dream-accel\nVersion: {version}\n")

    def test_a_checkout_has_the_version_of_its_pyproject(self):
        project = Path(__file__).parents[1] / "pyproject.toml"
        assert f'\nversion = "{dream_accel.__version__}"\n' in project.read_text(encoding="utf-8")

    def test_an_installed_package_has_the_version_of_its_metadata(self, copy):
        site, version = copy
        self.metadata(site, "9.8.7")
        assert version() == "9.8.7"

    def test_the_pyproject_of_another_project_is_not_read(self, copy):
        site, version = copy
        self.metadata(site, "9.8.7")
        (site / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "1.0"\n')
        assert version() == "9.8.7"

    def test_a_copy_without_metadata_does_not_take_the_version_of_another(self, copy, monkeypatch):
        site, version = copy
        self.metadata(site / "elsewhere", "9.8.7")
        monkeypatch.syspath_prepend(site / "elsewhere")
        assert version() == "0+unknown"

    def test_it_is_listed_and_read_when_first_asked_for(self, report):
        assert "__version__" in dir(dream_accel)
        assert not report["version read"]
