"""What the library raises and warns with."""


class DreamAccelError(ValueError):
    """A refusal: one sentence that names what was found, what is allowed, and the remedy."""


class DreamAccelWarning(UserWarning):
    """Something the user should know once: a slower backend, fewer clusters than asked for."""


def choices(kind: str, found: object, allowed: object) -> DreamAccelError:
    """The refusal of an unknown name: lists what exists.

    Args:
        kind: what is being named, for example ``"metric"``.
        found: the value that was given.
        allowed: iterable of the names that exist.
    """
    names = ", ".join(str(name) for name in allowed)  # type: ignore[attr-defined]
    return DreamAccelError(f"unknown {kind} {found!r}: choose one of {names}")
