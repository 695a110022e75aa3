"""Which call an answer belongs to when a client has middleware.

Middleware may ask several models for one call, in the SDK's method, in threads of its own, or while the app reads the
stream; and it may answer without asking anybody.  All that it asks carries the idempotency key of the app's one call:
the SDK makes it before the middleware runs, copies it to every request and sends it to nobody.  Here it is made a
little earlier, in the SDK's own way, so that it is known before anything is asked.
"""

from __future__ import annotations

import weakref
from typing import Any

from tallystick.instrumentation._call import Call


class Hops:
    """The calls under way of clients with middleware, by their idempotency key; weak, for a call ends by itself."""

    def __init__(self) -> None:
        self._calls: weakref.WeakValueDictionary[str, Call] = weakref.WeakValueDictionary()
        self._senders: weakref.WeakSet[Any] = weakref.WeakSet()

    def begin(self, client: Any, options: Any, call: Call) -> None:
        """Remember a call that begins, and the HTTP client whose every answer is heard, wherever it is sent from."""
        self._senders.add(call.sender)
        if options.idempotency_key is None:
            options.idempotency_key = client._idempotency_key()  # noqa: SLF001 -- the SDK has no public name for it
        self._calls[options.idempotency_key] = call

    def owner(self, options: Any, current: Call | None) -> Call | None:
        """Return the call that an answer to ``options`` belongs to; None when it has ended: then it is its own."""
        if current is None and (current := self._calls.get(options.idempotency_key)) is not None:
            current.attempts += 1  # sent where nobody knew whose it was
        return None if current is None or current.is_over else current

    def is_noted(self, sender: Any) -> bool:
        """Tell whether what an HTTP client sends is heard here."""
        return sender in self._senders


def has_middleware(client: Any) -> bool:
    """Tell whether a client has any; the SDK has no public name for it in every version (anthropic 0.110 and later)."""
    return bool(getattr(client, "_middleware", None))
