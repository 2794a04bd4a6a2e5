"""The exceptions and the warning of the library, and words that its messages share."""

from __future__ import annotations

from typing import Any


class DreamAccelError(ValueError):
    """A refusal: one sentence that names what was found, what is allowed, and the remedy."""


class DivergenceError(DreamAccelError):
    """A run whose features, pixels or distance became NaN or Inf.

    Attributes:
        result: the :class:`dream_accel.Result` of the last iteration in which all was finite, with ``diverged`` set.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DeviceMemoryError(DreamAccelError):
    """A computation that does not fit the memory of its device."""


class DreamAccelWarning(UserWarning):
    """A fact the user should know once, such as a slower backend or fewer clusters than requested."""


def choices(kind: str, found: object, allowed: object) -> DreamAccelError:
    """Make the refusal of an unknown name, which lists the names that exist.

    Args:
        kind: the kind of thing that is named, for example ``"metric"``.
        found: the value that was given.
        allowed: iterable of the names that exist.

    Returns:
        the error, for the caller to raise.
    """
    names = ", ".join(str(name) for name in allowed)  # type: ignore[attr-defined]
    return DreamAccelError(f"unknown {kind} {found!r}: choose one of {names}")


def counted(n: int, noun: str, nouns: str | None = None) -> str:
    """Format a count with its noun: ``1 network``, ``2 networks``; ``nouns`` is a plural that takes more than an s."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"
