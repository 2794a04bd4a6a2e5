"""The recipe, the operator and the backend of docs/extending.md work as they are printed there."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel.backends import reference
from dream_accel.recipes import registry

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def module_of(package: str, name: str, contains: str) -> types.ModuleType:
    """The block of the page that contains a text, as a module of a package."""
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if contains in code]
    module = types.ModuleType(f"{package}.{name}")
    module.__package__ = package
    exec(compile(block, "docs/extending.md", "exec"), vars(module))
    return module


def test_recipe_distils(monkeypatch):
    method = module_of("dream_accel.recipes", "learned_features", "FeatureMatching")
    monkeypatch.setattr(registry, "RECIPES", {**registry.RECIPES, method.NAME: method})
    monkeypatch.setattr("dream_accel.engine.assembly.RECIPES", registry.RECIPES)
    settings = {"iterations": 2, "inner_steps": 1, "limit_train": 100, "batch": 4, "width": 8, "depth": 2, "ipc": 1}
    result = da.distill(da.recipe(method.NAME, "digits", **settings))
    assert result.images.shape == (10, 1, 8, 8)
    assert result.history[-1].step == 2
    assert all(line.loss > 0 for line in result.history)
    assert "does not use layers" in refused(da.recipe, method.NAME, layers="all")
    assert method.__doc__
    assert set(method.DEFAULTS) | {key for more in method.BY_DATASET.values() for key in more} <= method.USES


def test_constants_of_a_recipe_are_those_of_the_table():
    described = re.findall(r"^\| `(\w+)` \|", PAGE[: PAGE.index("## An operator")], re.MULTILINE)
    assert set(described) == {*registry.Method.__annotations__, "objective"}


@pytest.mark.skipif("dream_accel.ops.registration" not in sys.modules, reason="operators are registered one by one")
def test_operator_computes_what_its_reference_says(monkeypatch):
    (body,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "_spans(offsets)" in code]
    definition: dict[str, object] = {}
    exec(compile(body, "docs/extending.md", "exec"), dict(vars(reference)), definition)
    monkeypatch.setattr(reference, "group_maximum", definition["group_maximum"], raising=False)
    monkeypatch.setenv("DREAM_ACCEL_BACKEND", "reference")
    operator = module_of("dream_accel.ops", "group_maximum", "@operator").group_maximum
    values, offsets = torch.tensor([1.0, 5.0, 2.0, 7.0]), torch.tensor([0, 2, 2, 4])
    assert operator(values, offsets).tolist() == [5.0, float("-inf"), 7.0]
    torch.library.opcheck(torch.ops.dream_accel.group_maximum.default, (values, offsets))
    assert "values is torch.float64" in refused(operator, values.double(), offsets)


def test_backend_says_why_it_cannot_run():
    module = module_of("dream_accel.backends", "mps", 'NAME = "mps"')
    assert module.unavailable() is None or "Metal" in module.unavailable()
    assert module.refuses("gradient_distance", [torch.ones(1)], [torch.ones(1)]) == (
        "the tensors are on cpu, it serves Metal devices"
    )
