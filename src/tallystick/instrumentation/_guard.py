"""The one place where an exception of ours ends: the app must not feel it."""

from __future__ import annotations

import logging
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
        level = logging.DEBUG if self.doing in _told else logging.WARNING
        _told.add(self.doing)
        log.log(level, "skipped %s; your call was not affected", self.doing, exc_info=error)
        return True


# One for each kind of step, since it keeps nothing from one use to the next: there are many of them in a call.
guard = cache(_Guard)
