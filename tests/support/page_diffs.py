"""The changes that a page of docs/dropin asks for, applied to a file as a reader would apply them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "dropin"


def diffs_of(page: str) -> list[tuple[str, str]]:
    """The file that the text before each diff of a page names, and the diff."""
    text = (PAGES / page).read_text()
    found = re.findall(r"`([\w./]+\.py)`[^\n]*:\n+```diff\n(.*?)```", text, re.DOTALL)
    assert len(found) == text.count("```diff"), f"{page}: name the file before each diff: In `main.py`:"
    return found


def apply(diff: str, source: str) -> str:
    """The file with the changes.

    Lines without a sign and removed lines are sought from the last place on, whatever their indentation and comments;
    one that ends in ``...`` is the beginning of a line, and removed as ``def f(): ...`` a whole block. Added lines
    follow the last place, or the module docstring, indented as the lines around them are.

    Raises:
        AssertionError: a line is not found.
    """
    lines = source.splitlines()
    place, shift = _after_docstring(source), 0
    for line in diff.splitlines():
        sign, text = line[:1], line[1:]
        if not text.strip():
            continue
        if sign == "+":
            lines.insert(place, _indented(text, shift))
            place += 1
            continue
        place = _find(text, lines, place)
        shift = _indentation(lines[place]) - _indentation(text)
        if sign == "-":
            end = _end_of_block(lines, place) if text.rstrip().endswith(": ...") else place + 1
            del lines[place:end]
        else:
            place += 1
    return "\n".join(lines) + "\n"


def _find(text: str, lines: list[str], place: int) -> int:
    wanted = _code(text)
    prefix = wanted.removesuffix("...").rstrip() if wanted.endswith("...") else None
    for i in range(place, len(lines)):
        code = _code(lines[i])
        if code == wanted or (prefix is not None and code.startswith(prefix)):
            return i
    raise AssertionError(f"not in the file: {wanted}")


def _code(line: str) -> str:
    return line.partition("#")[0].strip()


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _indented(text: str, shift: int) -> str:
    return " " * (_indentation(text) + shift) + text.strip()


def _end_of_block(lines: list[str], start: int) -> int:
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _indentation(lines[end]) > _indentation(lines[start])):
        end += 1
    return end


def _after_docstring(source: str) -> int:
    first = ast.parse(source).body[0]
    return first.end_lineno or 0 if isinstance(first, ast.Expr) else 0
