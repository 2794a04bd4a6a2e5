"""The grid file of a comparison: read, checked whole, and multiplied into cells before any work.

A grid is TOML with these parts, all optional but one of the last two::

    title = "..."
    [shared]      # settings of all cells; networks = [...] are those that every set is evaluated on
    [grid]        # lists of values; every entry of [[cells]] is measured for each combination
    [[cells]]     # one entry: name, recipe or coreset, settings of its own, each a value or a list that multiplies

A setting of an entry replaces that of ``[grid]``, which replaces that of ``[shared]``. A coreset reads fewer settings
than a run: those of ``[shared]`` and ``[grid]`` that it does not read pass it by.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import DreamAccelError, choices
from ..networks import NETWORK_SETTINGS, NETWORKS, is_import_path, settings_read, unknown_network
from ..recipes import RECIPES, SETTINGS, Recipe, defaults, recipe
from ..sampling.selection import SELECTION_NAMES

WHOLE = "whole"
"""The coreset that is the whole training set."""
CORESETS = (*SELECTION_NAMES, WHOLE)
"""The rules that choose real images, for cells that distil nothing."""

_ABOUT = ("name", "coreset", "networks")
_CHOICE_PANELS = ("data", "networks", "evaluation")
_READ_BY_CHOICES = {
    setting.name
    for setting in fields(Recipe)
    if setting.metadata["panel"] in _CHOICE_PANELS and setting.metadata["shared"]
} - {"recipe", "factor"} | {"kmeans_iterations"}
_READ_BY = {coreset: _READ_BY_CHOICES - ({"ipc"} if coreset == WHOLE else set()) for coreset in CORESETS}
_IN_COLUMNS = ("dataset", "ipc", "seed", "coreset")


@dataclass(frozen=True)
class Cell:
    """One distilled set, or one choice of real images, and the networks that it is evaluated on.

    Attributes:
        name: its row in the table, which cells of other data sets, IPC and seeds share.
        recipe: the settings.
        coreset: one of :data:`CORESETS`, or None if the set is distilled.
        networks: the networks trained on the set, by name or import path.
    """

    name: str
    recipe: Recipe
    coreset: str | None
    networks: tuple[str, ...]

    def __str__(self) -> str:
        ipc = "" if self.coreset == WHOLE else f" IPC {self.recipe.ipc},"
        return f"{self.name}, {self.recipe.dataset},{ipc} seed {self.recipe.seed}"


@dataclass(frozen=True)
class Grid:
    """The cells of a comparison, the first seed of all of them first.

    Attributes:
        title: of the tables.
        cells: every cell.
        text: the file.
    """

    title: str
    cells: tuple[Cell, ...]
    text: str


def read_grid(path: str | os.PathLike[str], small: Mapping[str, Any] | None = None) -> Grid:
    """Read a grid file and make the recipe of every cell.

    Args:
        path: a TOML file, as this module describes.
        small: settings that replace those of the file where a cell reads them, for a run that only shows that
            everything works. What the grid varies is kept, but for IPC and seeds, of which the first is.

    Raises:
        DreamAccelError: the file cannot be read, a part or key is unknown, there are no cells, two cells are equal or
            have one name, or a recipe, a setting or a network is refused; names the entry.
    """
    text, tables = _parsed(path)
    where = f"{path}"
    _known(tables, ("title", "shared", "grid", "cells"), f"{where} has no part")
    shared, axes = (_table(tables, part, where) for part in ("shared", "grid"))
    entries = tables.get("cells", [{}] if axes else [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DreamAccelError(f"{where}: cells is not a list of tables: write [[cells]] above each entry")
    if not entries:
        raise DreamAccelError(f"{where} holds no cells: give [[cells]], or lists of settings in [grid]")
    _known(shared, (*sorted(SETTINGS), "networks"), f"{where}, [shared] has no setting")
    _known(axes, sorted(SETTINGS), f"{where}, [grid] has no setting")
    for key, values in axes.items():
        if not isinstance(values, list):
            raise DreamAccelError(f"{where}, [grid]: {key} is {values!r}: [grid] multiplies lists, others are [shared]")
    for key, value in shared.items():
        if isinstance(value, list) and key != "networks":
            raise DreamAccelError(f"{where}, [shared]: {key} is a list: lists multiply, so give it in [grid]")
    cells: list[Cell] = []
    for number, entry in enumerate(entries, 1):
        named = f" ({entry['name']})" if "name" in entry else ""
        place = f"{where}, cells {number}{named}"
        _known(entry, (*sorted(SETTINGS), *_ABOUT), f"{place} has no setting")
        try:
            cells += _multiplied(entry, shared, axes, small)
        except DreamAccelError as error:
            raise DreamAccelError(f"{place}: {error}") from None
    if small is not None:  # cells that differ in what it replaces
        cells = [*{(cell.recipe, cell.coreset): cell for cell in reversed(cells)}.values()][::-1]
    _check_distinct(cells, where)
    seeds = [*dict.fromkeys(cell.recipe.seed for cell in cells)]
    cells.sort(key=lambda cell: seeds.index(cell.recipe.seed))  # stable: a table of all cells is there early
    return Grid(str(tables.get("title", Path(path).stem)), tuple(cells), text)


def _parsed(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    if sys.version_info < (3, 11):
        raise DreamAccelError("grid files need Python 3.11 or newer, which reads TOML: run compare with one")
    import tomllib

    try:
        text = Path(path).read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise DreamAccelError(f"{path} cannot be read ({error.strerror}): name a grid file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DreamAccelError(f"{path} is not TOML ({error}): mend it, or begin with one of examples/grids") from None


def _table(tables: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
    found = tables.get(part, {})
    if not isinstance(found, dict):
        raise DreamAccelError(f"{where}: {part} is {found!r}: write [{part}] and its settings below")
    return found


def _known(found: Mapping[str, Any], allowed: tuple[str, ...] | list[str], what: str) -> None:
    for key in found:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DreamAccelError(f"{what} {key!r}: {hint}there are {', '.join(allowed)}")


def _multiplied(
    entry: Mapping[str, Any], shared: Mapping[str, Any], grid: Mapping[str, Any], small: Mapping[str, Any] | None
) -> Iterator[Cell]:
    """The cells of one entry."""
    name = entry.get("name")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise DreamAccelError(f"name is {name!r}: it must be a text")
    networks = _networks(entry.get("networks", shared.get("networks")))
    own = {key: value for key, value in entry.items() if key not in ("name", "networks")}
    common = {**{key: value for key, value in shared.items() if key != "networks"}, **grid}
    # A coreset that is a list reads what each of its rules reads, so its cells are made rule by rule.
    rules = own.pop("coreset", None)
    for rule in rules if isinstance(rules, list) else [rules]:
        if rule is not None:
            _check_rule(rule, own)
        read = SETTINGS if rule is None else _READ_BY[rule]
        # The lists of the entry come first, so that its rows stay together.
        lists = {**own, **{key: value for key, value in common.items() if key in read and key not in own}}
        values = {key: value if isinstance(value, list) else [value] for key, value in lists.items()}
        for key, several in values.items():
            if not several:
                raise DreamAccelError(f"{key} is an empty list, which makes no cell: give a value or leave it out")
        varied = [key for key, several in values.items() if len(several) > 1]
        if small is not None:
            values.update({key: values[key][:1] for key in ("seed", "ipc") if key in values})
        for chosen in product(*values.values()):
            settings = dict(zip(values, chosen, strict=True))
            label = _label(name, rule, settings, [*varied, *(["coreset"] if isinstance(rules, list) else [])])
            made = _recipe(rule, settings)
            if small is not None:
                made = _recipe(rule, _reduced(settings, small, varied, read))
            yield Cell(label, made, rule, networks or (made.network,))


def _check_rule(rule: object, own: Mapping[str, Any]) -> None:
    if rule not in CORESETS:
        raise choices("coreset", rule, CORESETS)
    for key in own:
        if key not in _READ_BY[str(rule)]:
            raise DreamAccelError(f"coreset {rule!r} does not read {key}: leave it out, or give a recipe")


def _recipe(rule: str | None, settings: Mapping[str, Any]) -> Recipe:
    given = dict(settings)
    for key in ("recipe", "dataset"):
        if not isinstance(given.get(key, ""), str):
            raise DreamAccelError(f"{key} is {given[key]!r}: it must be a name")
    if rule is not None:
        # Real images are whole, and networks and evaluation are those of DREAM's recipe for the data set.
        return recipe("dream", given.pop("dataset", Recipe.dataset), **given, factor=1, iterations=0)
    if "recipe" not in given:
        raise DreamAccelError(f"there is neither recipe nor coreset: name one of {', '.join(RECIPES)}, or a coreset")
    return recipe(given.pop("recipe"), given.pop("dataset", Recipe.dataset), **given)


def _networks(found: Any) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise DreamAccelError(f"networks is {found!r}: give a list of names, such as ['convnet', 'resnet10']")
    for name in found:
        if name not in NETWORKS and not is_import_path(name):
            raise unknown_network(name)
    return tuple(dict.fromkeys(found))


def _label(name: str | None, rule: str | None, settings: Mapping[str, Any], varied: list[str]) -> str:
    if rule is not None:
        own = "whole training set" if rule == WHOLE else f"{rule} real images"
        words = [own] if name is None else [name, *([own] if "coreset" in varied else [])]
    else:
        words = [name or str(settings.get("recipe", ""))]
    for key in varied:
        if key not in _IN_COLUMNS and not (key == "recipe" and name is None):
            words.append(f"{settings[key]}" if key == "recipe" else f"{key} {settings[key]}")
    return ", ".join(words)


def _reduced(
    settings: Mapping[str, Any], small: Mapping[str, Any], varied: list[str], read: frozenset[str] | set[str]
) -> dict[str, Any]:
    """The settings of a cell with those of ``small`` that it reads; what the grid varies is kept."""
    name, dataset = settings.get("recipe", "dream"), settings.get("dataset", Recipe.dataset)
    used = RECIPES[name].USES & read if name in RECIPES else set()
    prescribed = defaults(name, dataset) if name in RECIPES else {}
    of_network = settings_read(settings.get("network", prescribed.get("network", Recipe.network)))
    little = {
        key: value
        for key, value in small.items()
        if key in used and key not in varied and (key in of_network or key not in NETWORK_SETTINGS)
    }
    if settings.get("batch"):
        little.pop("clusters", None)
    for key in little.keys() & settings.keys():
        if settings[key] or key != "limit_train":  # of which 0 is all
            little[key] = min(little[key], settings[key])
    return {**settings, **little}


def _check_distinct(cells: list[Cell], where: str) -> None:
    """Refuse cells that are equal, and cells of one name that one column of the table would mix."""
    settings: dict[Any, Cell] = {}
    places: dict[Any, Cell] = {}
    for cell in cells:
        other = settings.setdefault((cell.recipe, cell.coreset), cell)
        if other is not cell:
            raise DreamAccelError(f"{where}: {other} and {cell} have the same settings: leave one out")
        ipc = None if cell.coreset == WHOLE else cell.recipe.ipc
        other = places.setdefault((cell.name, cell.recipe.dataset, ipc, cell.recipe.seed), cell)
        if other is not cell:
            theirs, ours = asdict(other.recipe), asdict(cell.recipe)
            differ = next((key for key in theirs if theirs[key] != ours[key]), "coreset")
            raise DreamAccelError(
                f"{where}: two cells are called {str(cell)!r} and differ in {differ}: give each a name"
            )
