"""The public signatures are those of tests/signatures.txt, so that none changes unnoticed.

python tests/test_signatures.py    # renews the file
"""

import difflib
import enum
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ForwardRef

SNAPSHOT = Path(__file__).with_name("signatures.txt")
RENEW = "python tests/test_signatures.py"
STABLE = ("compat", "data", "networks", "formats", "sampling", "cli", "recipes", "augment")
"""Modules whose import paths are kept, beside the package itself."""

MOST_IN_A_LINE = 4
"""Parameters in one line; of more, each has its own, so that a difference shows the one that changed."""


def snapshot() -> str:
    """A line for every public function, class, method and constant, in the order of the import paths."""
    modules = [importlib.import_module(name) for name in ("dream_accel", *(f"dream_accel.{name}" for name in STABLE))]
    first_seen: dict[int, str] = {}
    return "\n".join(line for module in modules for line in _lines_of(module, first_seen)) + "\n"


def _lines_of(module: ModuleType, first_seen: dict[int, str]) -> Iterator[str]:
    for name in _public_names(module):
        found, path = getattr(module, name), f"{module.__name__}.{name}"
        if not callable(found):
            yield f"{path}: {_kind(found)}"
            continue
        before = first_seen.setdefault(id(found), path)
        if before != path:
            yield f"{path} = {before}"
        elif inspect.isclass(found) and issubclass(found, BaseException):
            yield f"class {path}({', '.join(base.__name__ for base in found.__bases__)})"
        elif inspect.isclass(found):
            yield f"class {path}" + ("(Protocol)" if found.__dict__.get("_is_protocol") else signature(found))
            yield from _members(found, path, first_seen)
        else:
            yield path + signature(found)


def _public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, found in vars(module).items()
        if not name.startswith("_") and (getattr(found, "__module__", None) == module.__name__ or _is_registry(found))
    )


def _members(kind: type, path: str, first_seen: dict[int, str]) -> Iterator[str]:
    """The public methods and properties that a class has from this package, without those of a base listed before."""
    for base in kind.__mro__[1:]:
        if id(base) in first_seen:
            yield f"    and what {first_seen[id(base)]} has"
    for name in sorted(dir(kind)):
        home = next((base for base in kind.__mro__ if name in vars(base)), None)
        if name.startswith("_") or home is None or not home.__module__.startswith("dream_accel"):
            continue
        if home is not kind and id(home) in first_seen:
            continue
        found = inspect.getattr_static(kind, name)
        if isinstance(found, property):
            returned = inspect.signature(found.fget).return_annotation
            yield f"    {path}.{name} -> {_annotation(returned)}"
        elif isinstance(found, classmethod | staticmethod) or inspect.isfunction(found):
            yield f"    {path}.{name}{signature(getattr(kind, name), '    ')}"


def signature(function: Any, indent: str = "") -> str:
    """As ``inspect.signature`` writes it, without what differs between versions of Python or two runs."""
    found = inspect.signature(function)
    # Annotations are strings here, which versions of Python quote differently.
    parts, keyword_only = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            if not any(other.kind is other.VAR_POSITIONAL for other in found.parameters.values()):
                parts.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        annotation = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{annotation}{default}")
    returned = "" if found.return_annotation is found.empty else f" -> {_annotation(found.return_annotation)}"
    if len(parts) <= MOST_IN_A_LINE:
        return f"({', '.join(parts)}){returned}"
    return "".join(["(", *(f"\n{indent}    {part}," for part in parts), f"\n{indent}){returned}"])


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return annotation.__qualname__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value)
    return getattr(value, "__qualname__", None) or re.sub(" at 0x[0-9a-f]+", "", repr(value))


def _kind(value: Any) -> str:
    """A registry by its names, anything else by its type."""
    if not _is_registry(value):
        return type(value).__name__
    return f"one of {', '.join(sorted(value) if isinstance(value, frozenset) else value)}"


def _is_registry(value: Any) -> bool:
    """Return True for a value that holds names: a mapping from them, or a tuple or set of them."""
    return (
        isinstance(value, Mapping | tuple | frozenset) and len(value) > 0 and all(isinstance(key, str) for key in value)
    )


def test_public_signatures_are_those_of_the_snapshot():
    expected = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    found = snapshot()
    changes = difflib.unified_diff(
        expected.splitlines(), found.splitlines(), "tests/signatures.txt", "the package", lineterm="", n=0
    )
    assert found == expected, "\n".join(
        ["the public signatures changed:", *changes, f"if that is meant, say so in CHANGELOG.md and run `{RENEW}`"]
    )


class Sample:
    """A class with a member of every kind."""

    def __init__(self, rows: "int", *, metric: str = "mse", **options: "Any") -> None: ...

    @property
    def size(self) -> int:
        return 0

    @classmethod
    def made(cls, *rows: int) -> "Sample": ...


def test_signatures_name_kinds_defaults_and_annotations():
    assert signature(Sample) == "(rows: int, *, metric: str = 'mse', **options: Any) -> None"
    assert signature(Sample.made) == "(*rows: int) -> Sample"
    assert signature(lambda x=object(), call=len: x) == "(x = <object object>, call = len)"  # noqa: B008


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
    print(f"{SNAPSHOT}: renewed")
