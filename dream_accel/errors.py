"""The exception and the warning of the library, and the refusal of an unknown name."""


class DreamAccelError(ValueError):
    """A refusal: one sentence that names what was found, what is allowed, and the remedy."""


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
