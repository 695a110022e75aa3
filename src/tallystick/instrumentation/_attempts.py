"""A child span for each HTTP attempt of a call.

Only what is sent for a call becomes a span, never the app's other traffic; and nothing of the app is touched for it:
not the request or its headers, not the context in which it is sent, not the client or its transport.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._wire import read_error
from tallystick.model.attributes import (
    ATTEMPT,
    ATTEMPT_CODE,
    ATTEMPT_OUTCOME,
    ERROR_TYPE,
    HTTP_METHOD,
    RATE_LIMIT_PREFIX,
    REQUEST_ID,
    RESEND_COUNT,
    RETRY_AFTER_S,
    SHOULD_RETRY,
    STATUS_CODE,
    WAITED_S,
)
from tallystick.model.failures import MAY_BE_BILLED, Outcome, outcome_of_status

if TYPE_CHECKING:
    from tallystick.instrumentation._call import Call

ERROR_BYTES_MAX = 256 * 1024
"""A longer body of an error is not looked into."""

_BY_EXCEPTION = {
    "ConnectTimeout": Outcome.TIMEOUT_CONNECT,
    "PoolTimeout": Outcome.TIMEOUT_POOL,
    "ReadTimeout": Outcome.TIMEOUT_READ,
    "WriteTimeout": Outcome.TIMEOUT_WRITE,
    "TimeoutException": Outcome.TIMEOUT_READ,
}


_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"})
"""Class names of what an HTTP library raises before a request has left; after any other the provider may bill it."""


def outcome_of_transport(name: str) -> Outcome:
    """Return how an attempt ended that got no answer, by the class name of the HTTP library's exception."""
    return _BY_EXCEPTION.get(name.rpartition(".")[2], Outcome.CONNECTION)


def answer_facts(response: Any) -> dict[str, Any]:
    """Return what an answer says of an attempt: by its status, its headers, and an error's body where it was read.

    A client reads the whole body of an answer before it hands it over, unless it was asked for a stream; then nobody
    may have read an error's body yet, and it is not ours to read.
    """
    status: int = response.status_code
    headers = _telling(response.headers)
    facts: dict[str, Any] = {STATUS_CODE: status}
    outcome, code = outcome_of_status(status), None
    if status >= 400:
        facts[ERROR_TYPE] = str(status)
        if (body := _error_body(response)) is not None:
            outcome, code = read_error(status, body)
    facts[ATTEMPT_OUTCOME] = outcome.value
    if code:
        facts[ATTEMPT_CODE] = code
    if not headers:
        return facts
    if request_id := headers.get("request-id") or headers.get("x-request-id"):
        facts[REQUEST_ID] = request_id
    if (wait_s := retry_after_s(headers)) is not None:
        facts[RETRY_AFTER_S] = wait_s
    if (should_retry := headers.get("x-should-retry")) in {"true", "false"}:
        facts[SHOULD_RETRY] = should_retry == "true"
    return facts | rate_limits(headers)


_TELLING = frozenset({
    b"request-id", b"x-request-id", b"retry-after", b"retry-after-ms", b"x-should-retry", b"date",
})  # fmt: skip


def _telling(headers: Any) -> dict[str, str]:
    """Return those headers of an answer, in lower case, that say something of the attempt."""
    found = {}
    for name, value in headers.raw:
        lower = name.lower()
        if lower in _TELLING or b"-ratelimit-" in lower:
            found[lower.decode("latin-1")] = value.decode("latin-1")
    return found


def _error_body(response: Any) -> Any:
    try:
        content: bytes = response.content
    except RuntimeError:  # ResponseNotRead of either library
        return None
    if len(content) > ERROR_BYTES_MAX:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None


_LIMIT = re.compile(
    r"anthropic-ratelimit-(?P<what>requests|tokens|input-tokens|output-tokens)-(?P<fact>limit|remaining|reset)"
    r"|x-ratelimit-(?P<fact_>limit|remaining|reset)-(?P<what_>requests|tokens|input-tokens|output-tokens)"
)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_DURATION_S = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def rate_limits(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the headroom that an answer tells of: limit and remaining as counts, the reset in seconds from then."""
    found: dict[str, Any] = {}
    for name, value in headers.items():
        if (limit := _limit_of(name)) is None:
            continue
        what, fact = limit
        if fact == "reset":
            reset_s = _reset_s(value, headers.get("date"))
            if reset_s is not None:
                found[f"{RATE_LIMIT_PREFIX}{what}.reset_s"] = reset_s
        elif value.isdecimal():
            found[f"{RATE_LIMIT_PREFIX}{what}.{fact}"] = int(value)
    return found


@lru_cache(maxsize=256)
def _limit_of(header: str) -> tuple[str, str] | None:
    """Return what a header limits and which fact of it it tells; None for one of other things."""
    if (match := _LIMIT.fullmatch(header)) is None:
        return None
    return (match["what"] or match["what_"]).replace("-", "_"), match["fact"] or match["fact_"]


def _reset_s(value: str, date: str | None) -> float | None:
    """Return the seconds until a limit is full again: from a duration as 1m3s or 12ms, or from a time in RFC 3339."""
    match = _DURATION.fullmatch(value)
    if match is not None and any(match.groups()):
        return round(sum(float(n) * unit for n, unit in zip(match.groups(), _DURATION_S, strict=True) if n), 6)
    try:
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max((datetime.fromisoformat(value) - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return what the server asks to wait, in seconds: ``retry-after-ms`` first, then seconds or an HTTP date."""
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        if "retry-after" not in headers:
            return None
        return float(headers["retry-after"])
    except ValueError:
        return _until(headers["retry-after"], headers.get("date"))


def _until(at: str, now: str | None) -> float | None:
    """Return the seconds from the answer's own ``Date`` to ``at``, so that our clock does not matter."""
    try:
        if now is None:
            return None
        return max((parsedate_to_datetime(at) - parsedate_to_datetime(now)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


class _Attempt:
    """One send of an HTTP client for a call, and what came of it.

    It lasts as long as the send: a body that the client reads at once is part of it.
    """

    __slots__ = ("_call", "_facts", "_method", "_start_ns")

    def __init__(self, call: Call, request: Any) -> None:
        self._call = call
        self._method: str = request.method
        self._start_ns = call.now_ns()
        self._facts: dict[str, Any] = {}
        with guard("the start of an attempt"):
            self._begins()

    def _begins(self) -> None:
        """Count the attempt, and what it waited for since the one before."""
        call = self._call
        call.write_held()
        self._facts[RESEND_COUNT] = call.attempts
        if call.attempt_ended_ns is not None:
            self._facts[WAITED_S] = (self._start_ns - call.attempt_ended_ns) / 1e9
        call.attempts += 1

    def answered(self, response: Any) -> None:
        """The client got an answer, whatever it says."""
        with guard("the end of an attempt"):
            self._facts |= answer_facts(response)
            self._call.lost += self._facts[ATTEMPT_OUTCOME] in MAY_BE_BILLED
        self._over(may_be_last=response.is_success)

    def failed(self, error: BaseException) -> None:
        """The client raised."""
        outcome = outcome_of_transport(type(error).__name__) if isinstance(error, Exception) else Outcome.CANCELLED
        self._facts |= {ERROR_TYPE: type(error).__qualname__, ATTEMPT_OUTCOME: outcome.value}
        self._call.lost += type(error).__name__ not in _NEVER_SENT
        self._over(may_be_last=False)

    def _over(self, *, may_be_last: bool) -> None:
        end_ns = self._call.attempt_ended_ns = self._call.now_ns()
        facts = {HTTP_METHOD: self._method, ATTEMPT: True, **self._facts}
        self._call.attempted(self._method, self._start_ns, end_ns, facts, may_be_last=may_be_last)


def _begun(call: Call, request: Any) -> _Attempt | None:
    with guard("the recording of an attempt"):
        return _Attempt(call, request)
    return None


def send(call: Call, request: Any, send: Callable[[], Any]) -> Any:
    """Return or raise what ``send`` does, and record it as an attempt of ``call``."""
    attempt = _begun(call, request)
    try:
        response = send()
    except BaseException as error:
        with guard("the recording of an attempt"):
            if attempt is not None:
                attempt.failed(error)
        raise
    with guard("the recording of an attempt"):
        if attempt is not None:
            attempt.answered(response)
    return response


async def send_async(call: Call, request: Any, send: Callable[[], Any]) -> Any:
    """As `send`."""
    attempt = _begun(call, request)
    try:
        response = await send()
    except BaseException as error:
        with guard("the recording of an attempt"):
            if attempt is not None:
                attempt.failed(error)
        raise
    with guard("the recording of an attempt"):
        if attempt is not None:
            attempt.answered(response)
    return response
