"""A lock that objects may keep as an attribute and still be copied and pickled."""

from __future__ import annotations

import threading
from types import TracebackType


class Lock:
    """A reentrant lock; a copy of it is a lock of its own, which is free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()
