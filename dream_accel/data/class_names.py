"""Class names: their order, and the place of each class of one list in another.

Data sets, results and folders of images may list the same classes in different orders. Whatever brings two of them
together matches their classes here, by name and never by position where both sides have names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from ..errors import DreamAccelError

_NUMBERED = re.compile(r"(?P<before>\D*)(?P<number>[0-9]+)(?P<name>[-_ .].*)?", re.DOTALL)
_SHOWN = 12


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted as classes: those numbered throughout by number, others by their characters.

    Names are numbered where all of them have one text, which may be empty, before a number of their own: ``0 1 2 10``,
    ``new0 new1 new10``, ``0_cat 1_dog``.
    """
    listed = sorted(names)
    parts = _numbered(listed)
    return listed if parts is None else sorted(listed, key=lambda name: parts[name][0])


def places_by_name(names: Sequence[str], known: Sequence[str], *, some: bool = False) -> tuple[int, ...] | None:
    """The place in ``known`` of each of ``names``; None where they do not name the same classes.

    Names that differ only in case, in Unicode composition, or in characters that folder names replace (``T-shirt/top``,
    ``t-shirt_top``) are the same, unless two classes of a list would become one; so are names with a number in front,
    as :func:`dream_accel.formats.write` gives to folders.

    Args:
        names, known: one name per class.
        some: ``names`` may lack some of the classes of ``known``.
    """
    if tuple(names) == tuple(known):
        return tuple(range(len(known)))
    forms: tuple[Callable[[Sequence[str]], list[str]], ...] = (list, _plain, _without_numbers)
    for form in forms:
        here, there = form(names), form(known)
        place = {name: i for i, name in enumerate(there)}
        same = set(here) <= set(place) and (some or len(here) == len(there))
        if same and len(set(here)) == len(here) and len(place) == len(there):
            return tuple(place[name] for name in here)
    return None


def places(
    names: Sequence[str], known: Sequence[str], whose: str, others: str, *, ordered: bool = True
) -> tuple[int, ...]:
    """The place in ``known`` of each of ``names``: by name, or by number where one side has numbers for names.

    Args:
        names, known: one name per class.
        whose, others: what the two lists belong to, for refusals.
        ordered: where ``known`` are plain numbers, whether the order of ``names`` says which is which. It does for the
            labels of a run, and not for folders, which have no order but that of their names.

    Raises:
        DreamAccelError: the names are not the same classes, or nothing says which is which; with both lists.
    """
    found = places_by_name(names, known)
    if found is None and len(names) == len(known):
        found = _places_by_number(names, known, ordered)
    if found is None:
        raise DreamAccelError(
            f"{whose} has the classes {listed(names, known)} and {others} {listed(known, names)}; both must have the "
            "same class names, in any order, or one of them the numbers 0..C-1, so rename the classes of one side "
            "(in a .npz file by a key class_names, in Python by class_names=)"
        )
    return found


def listed(names: Sequence[str], others: Sequence[str] = ()) -> str:
    """Names for a message: all of a few; of many the first, their number, and some that ``others`` lack."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    lacking = [name for name in names if name not in set(others)][:3] if others else []
    beside = f", among them {', '.join(lacking)}" if lacking else ""
    return f"{', '.join(names[: _SHOWN - 2])}, ... ({len(names)} in all{beside})"


def _numbered(names: Sequence[str]) -> dict[str, tuple[int, str]] | None:
    """The number in every name and the text after it; None unless all begin alike and every number is another."""
    found = {name: _NUMBERED.fullmatch(name) for name in names}
    if not all(found.values()) or len({match["before"] for match in found.values() if match}) != 1:
        return None
    parts = {name: (int(match["number"]), (match["name"] or "")[1:]) for name, match in found.items() if match}
    return parts if len({number for number, _ in parts.values()}) == len(names) else None


def _indices(names: Sequence[str], named: bool = False) -> tuple[int, ...] | None:
    """The numbers 0..C-1 in some order that the names are; with ``named``, names after the numbers are left aside."""
    parts = _numbered(names)
    if parts is None or (not named and any(text for _, text in parts.values())):
        return None
    numbers = tuple(parts[name][0] for name in names)
    return numbers if sorted(numbers) == list(range(len(names))) else None


def _places_by_number(names: Sequence[str], known: Sequence[str], ordered: bool) -> tuple[int, ...] | None:
    here = _indices(names) or _indices(_without_numbers(names))
    there = _indices(known) or _indices(_without_numbers(known))
    if there is None:
        return here  # the numbers of classes are places, whatever the classes are called on the other side
    if here is None:
        here = _indices(names, named=True) or (tuple(range(len(names))) if ordered else None)
    return None if here is None else tuple(there.index(number) for number in here)


def _plain(names: Sequence[str]) -> list[str]:
    return [re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", name).casefold()) for name in names]


def _without_numbers(names: Sequence[str]) -> list[str]:
    parts = _numbered(names)
    with_names = parts is not None and all(text for _, text in parts.values())
    return _plain([parts[name][1] for name in names] if parts is not None and with_names else names)
