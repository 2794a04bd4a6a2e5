"""The API reference has every public name, and every type that those names take or return."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dream_accel as da

PAGES = Path(__file__).parents[1] / "docs" / "api"
NOT_IMPORTED = ("dream_accel.__main__", "dream_accel._C", "dream_accel.kernels", "dream_accel.bench")


def entries() -> list[str]:
    """The paths that the pages document."""
    text = "\n".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def classes_of_the_package() -> dict[str, type]:
    """Every class by its name, also of modules that nothing has imported so far."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(da.__path__, "dream_accel."):
        if not module.name.startswith(NOT_IMPORTED):
            for name, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if member.__module__.startswith("dream_accel") and not name.startswith("_"):
                    found[name] = member
    return found


def annotations_of(thing: Any) -> Iterator[str]:
    """Those of a function; of a class's fields, constructor, public methods and properties."""
    if not inspect.isclass(thing):
        yield from map(str, getattr(thing, "__annotations__", {}).values())
        return
    for base in thing.__mro__:
        if base.__module__.startswith("dream_accel"):
            yield from map(str, vars(base).get("__annotations__", {}).values())
            for name, member in vars(base).items():
                if name == "__init__" or not name.startswith("_"):
                    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                    yield from map(str, getattr(function, "__annotations__", {}).values())


def public_types() -> dict[str, Any]:
    """The public names, the types in their annotations, the types in the annotations of those, and so on."""
    classes = classes_of_the_package()
    found: dict[str, Any] = {}
    waiting = [(name, getattr(da, name)) for name in da.__all__]
    while waiting:
        name, thing = waiting.pop()
        if name not in found:
            found[name] = thing
            words = re.findall(r"\b[A-Z]\w+", " ".join(annotations_of(thing)))
            waiting += [(word, classes[word]) for word in words if word in classes]
    return found


def test_every_public_name_and_every_type_it_takes_or_returns_is_documented():
    found = public_types()
    assert {"DataSplit", "Evaluation", "Normalization", "Progress", "Protocol"} <= set(found)
    documented = {id(resolve(path)) for path in entries()}
    assert sorted(name for name, thing in found.items() if id(thing) not in documented) == []


@pytest.mark.parametrize("path", entries())
def test_what_the_reference_names_exists_and_has_a_docstring(path):
    assert inspect.getdoc(resolve(path))


def test_nothing_is_documented_twice():
    assert sorted(entries()) == sorted(set(entries()))
