"""The order of the rooms: each imports only those before it, no module imports itself by way of others."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "_version",
    "errors",
    "arrays",
    "random",
    "groups",
    "runtime",
    "kernels",
    "backends",
    "ops",
    "clustering",
    "data",
    "augment",
]
ORDER += [
    "networks",
    "sampling",
    "compat",
    "synthetic",
    "previews",
    "matching",
    "recipes",
    "results",
    "engine",
    "evaluation",
]
ORDER += ["analysis", "report", "formats", "dream_accel", "bench", "cli", "__main__"]
"""From the bottom up. ``dream_accel`` stands for the public names, which come from all rooms before it."""
BEFORE = {room: {room, *ORDER[:place]} for place, room in enumerate(ORDER)}
# They are useful without the rest, so they know no more of it than its errors and devices.
BEFORE["kernels"] = {"kernels", "errors", "runtime"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its dotted name within the package, with its file."""
    for prefix, folder in (((), "dream_accel"), (("kernels",), "kernels"), (("bench",), "bench")):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = (*prefix, *file.relative_to(ROOT / folder).with_suffix("").parts)
            # A checkout may reach the other two through links as well.
            if prefix or parts[0] not in ("kernels", "bench"):
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "dream_accel", file


FILES = dict(modules())


def nodes(tree: ast.AST, at_module_level: bool) -> Iterator[ast.AST]:
    """All nodes, or those that run when the module is imported."""
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not at_module_level or not (checking or isinstance(node, later)):
            yield node
            yield from nodes(node, at_module_level)


def imports(text: str, package: str, at_module_level: bool = False) -> Iterator[tuple[str, int]]:
    """The modules of dream_accel that a file of the package imports, and the lines."""
    here = ["dream_accel", *package.split(".")] if package else ["dream_accel"]
    for node in nodes(ast.parse(text), at_module_level):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else []
            names = [[*above, *(node.module or "").split("."), alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            name = [part for part in name if part]
            if name[0] == "dream_accel":
                known = (".".join(name[1:end]) for end in range(len(name), 1, -1))
                yield next((module for module in known if module in FILES), "dream_accel"), node.lineno


def all_imports(at_module_level: bool = False) -> list[tuple[str, str, str]]:
    """Importer, what it imports, and the place."""
    found = []
    for module, file in FILES.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        package = "" if module == "dream_accel" else package
        for imported, line in imports(file.read_text(), package, at_module_level):
            found.append((module, imported, f"{file.relative_to(ROOT)}:{line}"))
    return list(dict.fromkeys(found))


def room(module: str) -> str:
    return module.partition(".")[0]


def upward() -> list[str]:
    """Imports of a room by one before it; the public names are exempt, since they are loaded when first used."""
    return [
        f"{importer} -> {imported} ({place})"
        for importer, imported, place in all_imports()
        if importer != "dream_accel" and room(imported) not in BEFORE.get(room(importer), set())
    ]


def circles() -> list[str]:
    """Modules that import themselves by way of others, also where an import waits for a call or for a type checker.

    Packages are left out: their ``__init__`` hands on the names of their modules.
    """
    of: dict[str, set[str]] = {module: set() for module, file in FILES.items() if file.name != "__init__.py"}
    for importer, imported, _ in all_imports():
        if importer in of and imported in of:
            of[importer].add(imported)

    def reached(module: str, seen: set[str]) -> set[str]:
        for imported in of[module]:
            if imported not in seen:
                seen.add(imported)
                reached(imported, seen)
        return seen

    return [module for module in of if module in reached(module, set())]


def test_every_room_has_a_place_in_the_order():
    assert {room(module) for module in FILES} == set(ORDER)


def test_rooms_import_only_rooms_before_them():
    found = upward()
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle():
    assert circles() == []


@pytest.mark.parametrize("line", ["from ... import cli", "from ...cli import main", "import dream_accel.cli.main as m"])
def test_an_import_is_seen_however_it_is_written(line):
    late = [f"def f():\n    {line}", f"class A:\n    def f(self):\n        {line}", f"if TYPE_CHECKING:\n    {line}"]
    for text in (line, f"try:\n    {line}\nfinally:\n    pass", *late):
        assert {room(module) for module, _ in imports(text, "ops.deeper")} == {"cli"}
        assert bool([*imports(text, "ops.deeper", at_module_level=True)]) == (text not in late)


def test_no_module_opens_with_a_question_word():
    first = {file: (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0] for file in FILES.values()}
    asks = ("What ", "Which ", "Where ", "How ", "Who ")
    found = [f"{file.relative_to(ROOT)}: {line}" for file, line in first.items() if line.startswith(asks)]
    assert not found, "\n".join(found)


def test_files_are_short():
    lines = {module: len(file.read_text().splitlines()) for module, file in FILES.items()}
    assert {module: n for module, n in lines.items() if n > 300} == {}
    assert statistics.median(lines.values()) < 120
