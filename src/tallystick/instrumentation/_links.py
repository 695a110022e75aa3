"""Which calls are one piece of work: retries, fallbacks and re-asks that the app wrote itself.

The SDK's own retries are attempts of one call.  What the app repeats (a loop, tenacity, another provider in an
``except``) are calls of their own, and are linked by what we see: one after another in one asyncio task, thread or
OpenTelemetry span; the same question; the former one failed or was called unusable.  A link that is missing is a pity;
a false one is a lie, so whatever is in doubt is not linked.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from opentelemetry import trace

from tallystick.instrumentation._digests import Look
from tallystick.instrumentation._otlp import Ids
from tallystick.model import attributes as names
from tallystick.model.failures import Outcome

WITHIN_S = 90.0
"""How long after a failure the same question is a retry; a fixed ``sleep(60)`` is the longest wait we know of."""
QUOTED_WITHIN_S = 2.0
"""How soon a re-ask follows that is known only by the error it quotes: sooner than somebody could paste one."""
UNUSABLE_ERRORS = frozenset({"ValidationError", "JSONDecodeError", "OutputParserException"})
"""Class names of what an app raises when it cannot use an answer; names, because pydantic is not imported here."""

# Looked for one by one in lower case: a pattern of them all takes ten times as long over a long turn of an agent.
_QUOTED = (
    "validation error for", "validation errors for", "validation error found", "expecting value",
    "expecting property name", "expecting ',' delimiter", "expecting ':' delimiter", "invalid json",
    "jsondecodeerror", "validationerror", "not valid json",
)  # fmt: skip
_QUOTED_CHARACTERS_MAX = 8192
# What the app does after these says nothing of the answer's use.
_NO_FAILURE = frozenset({Outcome.OK, Outcome.ABANDONED, Outcome.CANCELLED, Outcome.BUDGET_BLOCKED})


class Kind(StrEnum):
    """What a call is to the one before it."""

    RETRY = "retry"
    FALLBACK = "fallback"
    RE_ASK = "re_ask"


@dataclass(slots=True, weakref_slot=True, eq=False)
class Asked:
    """A call as far as links are concerned."""

    id: str
    ids: Ids
    look: Look | None
    provider: str
    model: str
    api: str
    tags: Mapping[str, str]
    started_s: float
    first: str = ""
    """The id of the chain's first call."""
    index: int = 0
    ended_s: float | None = None
    outcome: Outcome = Outcome.OK
    unusable: bool = False
    """The answer was of no use to the app, whatever the outcome says."""
    handled: int = 0
    """The id of the error that the app was handling when it made this call; not about this call's answer."""

    @property
    def failed(self) -> bool:
        """Whether the app got nothing of use."""
        return self.unusable or self.outcome not in _NO_FAILURE


@dataclass(frozen=True, slots=True)
class Link:
    """The chain that a call goes on."""

    first: str
    kind: Kind
    index: int


def decide(before: Asked | None, now: Asked, *, quotes_error: bool = False) -> Link | None:
    """Return how ``now`` goes on from ``before``, the last call of the same context, or None.

    ``quotes_error``: the new end of the prompt quotes a parser's or validator's error.
    """
    if before is None or before.ended_s is None or before.look is None or now.look is None:
        return None
    waited_s = now.started_s - before.ended_s
    if not 0 <= waited_s <= WITHIN_S or before.tags != now.tags:
        return None
    kind = _kind(before, before.look, now, now.look, waited_s, quotes_error=quotes_error)
    return None if kind is None else Link(first=before.first or before.id, kind=kind, index=before.index + 1)


def _kind(before: Asked, was: Look, now: Asked, look: Look, waited_s: float, *, quotes_error: bool) -> Kind | None:
    extends = bool(was.prefix) and was.prefix in look.prefixes
    if extends and (before.unusable or before.outcome is Outcome.INVALID_OUTPUT):
        return Kind.RE_ASK
    if extends and quotes_error and before.outcome is Outcome.OK and waited_s <= QUOTED_WITHIN_S:
        return Kind.RE_ASK
    if not before.failed:
        return None
    if was.digest == look.digest and before.provider == now.provider:
        return Kind.RETRY
    # Without words (of images, say) the same words say nothing.
    if not look.prefix or was.words != look.words:
        return None
    same = (before.provider, before.model) == (now.provider, now.model)
    return Kind.RETRY if same else Kind.FALLBACK


def is_unusable_error(error: BaseException | None) -> bool:
    """Tell whether ``error``, or what it came from, says that an answer could not be used."""
    for _ in range(5):
        if error is None:
            return False
        if type(error).__name__ in UNUSABLE_ERRORS:
            return True
        error = error.__cause__ or error.__context__
    return False


def quotes_error(request: Mapping[str, Any]) -> bool:
    """Tell whether the last turn of a request quotes a parser's or validator's error; looked at, not kept."""
    turns = request.get("messages") or request.get("input")
    if not isinstance(turns, list) or not turns:
        return False
    last = str(turns[-1])[:_QUOTED_CHARACTERS_MAX].lower()
    return any(words in last for words in _QUOTED)


Notice = Callable[[Asked, BaseException], None]


class Scope:
    """The calls of one context, of which only the last matters."""

    __slots__ = ("__weakref__", "_flying", "_lock", "last")

    def __init__(self) -> None:
        self.last: Asked | None = None
        # Weak: a call whose end never came to us must not make all later ones look as if they ran beside it.  A set of
        # references, because a WeakSet is written in Python and takes three times as long.
        self._flying: set[weakref.ref[Asked]] = set()
        self._lock = threading.RLock()

    def began(self, asked: Asked, request: Mapping[str, Any], notice: Notice) -> Link | None:
        """Take a call that begins now; return its link.

        ``notice`` gets the call before when the app makes this one while it handles an error that came of its answer.
        """
        error = sys.exc_info()[1]
        asked.handled = id(error)
        with self._lock:
            # Calls side by side are no chain, nor is one of them the last.
            alone = not self._flying
            before, self.last = self.last, asked if alone else None
            self._flying.add(weakref.ref(asked, self._flying.discard))
        if before is None or not alone:
            return None
        if error is not None and before.handled != id(error) and is_unusable_error(error):
            notice(before, error)
        link = decide(before, asked, quotes_error=_may_quote(before, asked) and quotes_error(request))
        if link is not None:
            asked.first, asked.index = link.first, link.index
        return link

    def ended(self, asked: Asked, outcome: Outcome) -> None:
        """Take a call's end."""
        with self._lock:
            self._flying.discard(weakref.ref(asked))
            if self._flying:
                self.last = None
            asked.outcome = outcome
            asked.ended_s = time.monotonic()


def _may_quote(before: Asked, asked: Asked) -> bool:
    return before.look is not None and asked.look is not None and before.look.prefix in asked.look.prefixes


class _ThreadScope(threading.local):
    scope: Scope | None = None


_thread = _ThreadScope()
_tasks: weakref.WeakKeyDictionary[Any, Scope] = weakref.WeakKeyDictionary()


def scope_here(*, asynchronous: bool) -> Scope | None:
    """Return the scope of the app's current span, else of this asyncio task, else of this thread.

    None for an async call that runs in no asyncio task (trio): its thread has many others.
    """
    span = trace.get_current_span()
    owner: Any = None
    if span.is_recording():
        owner = span
    elif asyncio._get_running_loop() is not None:  # noqa: SLF001 -- documented; get_running_loop() raises
        owner = asyncio.current_task()
        if owner is None:
            return None
    elif asynchronous:
        return None
    if owner is None:
        if _thread.scope is None:
            _thread.scope = Scope()
        return _thread.scope
    scope = _tasks.get(owner)
    if scope is None:
        scope = _tasks.setdefault(owner, Scope())
    return scope


def follow(
    ids: Ids,
    look: Look | None,
    request: Mapping[str, Any],
    place: tuple[str, str],
    tags: Mapping[str, str],
    notice: Notice,
    *,
    asynchronous: bool,
) -> tuple[Link | None, Callable[[Outcome], None]]:
    """Take a call that begins here, to ``place`` (provider and API): its link, and what to tell its outcome to.

    ``notice``: see `Scope.began`.
    """
    scope = scope_here(asynchronous=asynchronous)
    if scope is None:
        return None, _nobody
    asked = Asked(
        id=format(ids.span_id, "016x"),
        ids=ids,
        look=look,
        provider=place[0],
        model=str(request.get("model")),
        api=place[1],
        tags=tags,
        started_s=time.monotonic(),
    )
    return scope.began(asked, request, notice), partial(scope.ended, asked)


def _nobody(outcome: Outcome) -> None:
    """Nobody waits for this outcome."""


def link_attributes(link: Link) -> dict[str, Any]:
    """Return what a link puts on the span of its call."""
    return {names.LINK_ID: link.first, names.LINK_KIND: link.kind.value, names.LINK_INDEX: link.index}
