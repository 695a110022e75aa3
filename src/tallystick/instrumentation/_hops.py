"""Which call an answer belongs to when a client has middleware.

Middleware may ask several models for one call, in the SDK's method, in threads of its own, or while the app reads the
stream; and it may answer without asking anybody.  All that it asks carries the idempotency key of the app's one call,
because the SDK makes it before the middleware runs and copies it to every request.  (It is never sent as a header.)
"""

from __future__ import annotations

import weakref
from typing import Any

from tallystick.instrumentation._call import Call


class Hops:
    """The calls under way of clients with middleware, by their idempotency key; weak, for a call ends by itself."""

    def __init__(self) -> None:
        self._calls: weakref.WeakValueDictionary[str, Call] = weakref.WeakValueDictionary()

    def owner(self, options: Any, current: Call | None) -> Call | None:
        """Return the call that an answer to ``options`` belongs to; None when it has ended: then it is its own."""
        key = options.idempotency_key
        if current is None:
            current = self._calls.get(key) if key else None
        elif key:
            self._calls[key] = current
        return None if current is None or current.is_over else current


def has_middleware(client: Any) -> bool:
    """Tell whether a client has any; the SDK has no public name for it in every version (anthropic 0.110 and later)."""
    return bool(getattr(client, "_middleware", None))
