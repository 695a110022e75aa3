"""What only the app knows of its calls: a cache answered, a lesser way was taken, an answer was of no use.

Each is a small span of its own, written at once: the call that it speaks of was written when it ended.
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

from tallystick.instrumentation import _tags
from tallystick.instrumentation._caller import caller
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._links import Asked, is_unusable_error, scope_here
from tallystick.instrumentation._tags import current_tags
from tallystick.instrumentation._tracing import Tracing
from tallystick.model import attributes as names
from tallystick.model.failures import Outcome

TEXT_CHARACTERS_MAX = 256
NOTICED_WITHIN_S = 5.0
"""How soon after an answer an error of a parser or validator is taken to be about it."""

_tracing: Tracing | None = None


def use(tracing: Tracing | None) -> None:
    """Write markers with ``tracing`` from now on; None: write none."""
    global _tracing
    _tracing = tracing
    _tags.on_error = None if tracing is None else _left


def cache_hit(saved_usd: Decimal | str | float | None = None, *, model: str | None = None) -> None:
    """Say that a cache of the app answered and no call was made.

    ``saved_usd`` is what the call would have cost, ``model`` the one that would have been asked.  Never raises.
    """
    with guard("a marker"):
        _mark("cache_hit", None, {names.MARKER_SAVED_USD: _usd(saved_usd), names.MARKER_MODEL: _text(model)})


def degraded(to: str) -> None:
    """Say that the app went on without an answer, with ``to`` in its place: ``"keywords"``, ``"static text"`` ...

    The last call of this context is the one that was to answer, if it failed.  Never raises.
    """
    with guard("a marker"):
        last = _last()
        _mark("degraded", last if last is not None and last.failed else None, {names.MARKER_TO: _text(to)})


def bad_output(reason: str | None = None) -> None:
    """Say that the answer of the last call of this context was of no use to the app, and why.  Never raises.

    A call that goes on from it is then linked as a re-ask.
    """
    with guard("a marker"):
        last = _last()
        if last is not None:
            last.unusable = True
        _mark("bad_output", last, {names.MARKER_REASON: _text(reason)})


def notice(last: Asked | None, error: BaseException, since_s: float = 0.0) -> None:
    """Take ``error``, a parser's or validator's, to be about the answer of ``last`` when it came right after it.

    ``since_s``: a monotonic time; calls that began before it are not meant.
    """
    if last is None or last.ended_s is None or last.unusable or last.outcome is not Outcome.OK:
        return
    if last.started_s < since_s or time.monotonic() - last.ended_s > NOTICED_WITHIN_S:
        return
    last.unusable = True
    _mark("bad_output", last, {names.MARKER_REASON: type(error).__name__, names.MARKER_NOTICED: True})


def _left(error: BaseException, since_s: float) -> None:
    """An error leaves a block of tags that was open since ``since_s``."""
    if not is_unusable_error(error):
        return
    with guard("a marker"):
        notice(_last(), error, since_s)


def _last() -> Asked | None:
    scope = scope_here(asynchronous=False)
    return None if scope is None else scope.last


def _mark(marker: str, call: Asked | None, more: dict[str, Any]) -> None:
    if _tracing is None:
        return
    attributes: dict[str, Any] = {names.MARKER: marker, **current_tags()}
    if (made_by := caller()) is not None:
        attributes[names.CALLER] = made_by
    if call is not None:
        attributes[names.MARKER_CALL] = call.id
    attributes |= {name: value for name, value in more.items() if value is not None}
    _tracing.mark(f"tallystick.{marker}", None if call is None else call.ids, attributes)


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:TEXT_CHARACTERS_MAX]


def _usd(value: Decimal | str | float | None) -> str | None:
    """Return an amount in digits; None for what is none: below zero, or no number."""
    if value is None:
        return None
    amount = Decimal(str(value))
    return format(amount, "f") if amount.is_finite() and amount >= 0 else None
