"""The one place where an exception of ours ends: the app must not feel it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Self

log = logging.getLogger("tallystick.guard")

_told: set[str] = set()


class _Guard:
    """Log what goes wrong inside and carry on.

    Only our own steps go inside, never the SDK's call: its errors must reach the app untouched.  What is no
    ``Exception`` (KeyboardInterrupt, CancelledError) passes.  Each kind of step is logged once as a warning with its
    traceback; later ones at debug level, so that a fault of ours cannot flood the app's log.
    """

    __slots__ = ("doing",)

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        _tell(self.doing, error)
        return True


def _tell(doing: str, error: Exception) -> None:
    level = logging.DEBUG if doing in _told else logging.WARNING
    _told.add(doing)
    log.log(level, "skipped %s; your call was not affected", doing, exc_info=error)


def guarded(doing: str, step: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return ``step`` as it runs inside a guard, for what runs once a chunk: one more function instead of two."""

    def run(value: bytes) -> None:
        try:
            step(value)
        except Exception as error:  # noqa: BLE001 -- as `_Guard`
            _tell(doing, error)

    return run


# One for each kind of step, since it keeps nothing from one use to the next: there are many of them in a call.
guard = cache(_Guard)
