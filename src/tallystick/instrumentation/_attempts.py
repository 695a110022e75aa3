"""A child span for each HTTP attempt of a call, by opentelemetry-instrumentation-httpx.

Only what is sent for a call becomes a span, never the app's other traffic; and no client of the app is touched for it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NonRecordingSpan, Span, set_span_in_context

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._wire import read_error
from tallystick.model.attributes import (
    ATTEMPT,
    ATTEMPT_CODE,
    ATTEMPT_OUTCOME,
    ERROR_TYPE,
    RATE_LIMIT_PREFIX,
    REQUEST_ID,
    RESEND_COUNT,
    RETRY_AFTER_S,
    SHOULD_RETRY,
    STATUS_CODE,
    WAITED_S,
)
from tallystick.model.failures import Outcome, outcome_of_status

CALL_KEY = otel_context.create_key("tallystick.call")
_SENDING_KEY = otel_context.create_key("tallystick.sending")
ERROR_BYTES_MAX = 256 * 1024
"""A longer body of an error is not looked into."""

# Attributes of the HTTP span that the ledger keeps; a URL's query may hold a key, so URLs are left out.
_KEPT = frozenset({
    "http.method", "http.status_code", "http.request.method", "error.type", "network.protocol.version",
    "server.address", "server.port", ATTEMPT,
})  # fmt: skip

_BY_EXCEPTION = {
    "ConnectTimeout": Outcome.TIMEOUT_CONNECT,
    "PoolTimeout": Outcome.TIMEOUT_POOL,
    "ReadTimeout": Outcome.TIMEOUT_READ,
    "WriteTimeout": Outcome.TIMEOUT_WRITE,
    "TimeoutException": Outcome.TIMEOUT_READ,
}


def outcome_of_transport(name: str) -> Outcome:
    """Return how an attempt ended that got no answer, by the class name of the HTTP library's exception."""
    return _BY_EXCEPTION.get(name.rpartition(".")[2], Outcome.CONNECTION)


def attempt_attributes(span: ReadableSpan, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of an attempt's span, its outcome added."""
    kept = {name: value for name, value in attributes.items() if name in _KEPT}
    sending = otel_context.get_value(_SENDING_KEY)
    if isinstance(sending, _Sending):
        kept |= sending.facts
    if ATTEMPT_OUTCOME in kept:
        return kept
    if span.events and (name := (span.events[-1].attributes or {}).get("exception.type")):
        kept[ATTEMPT_OUTCOME] = outcome_of_transport(str(name)).value
    else:
        kept[ATTEMPT_OUTCOME] = Outcome.CANCELLED.value
    return kept


def _on_request(span: Span, request: Any) -> None:  # noqa: ARG001 -- the instrumentor's signature
    with guard("the start of an attempt"):
        sending = otel_context.get_value(_SENDING_KEY)
        if not isinstance(sending, _Sending):
            return
        span.set_attribute(ATTEMPT, value=True)
        sending.begins()
        # The instrumentor is about to inject ``traceparent`` from the current context; the app's request must reach
        # the provider as without us, so the context becomes empty. The instrumentor's own detach restores it.
        otel_context.attach(Context())


async def _on_request_async(span: Span, request: Any) -> None:
    _on_request(span, request)


def answer_facts(response: Any) -> dict[str, Any]:
    """Return what an answer says of an attempt: by its status, its headers, and an error's body where it was read.

    A client reads the whole body of an answer before it hands it over, unless it was asked for a stream; then nobody
    may have read an error's body yet, and it is not ours to read.
    """
    status: int = response.status_code
    headers = _headers(response.headers)
    facts: dict[str, Any] = {STATUS_CODE: status}
    if status >= 400:
        facts[ERROR_TYPE] = str(status)
    if request_id := headers.get("request-id") or headers.get("x-request-id"):
        facts[REQUEST_ID] = request_id
    if (wait_s := retry_after_s(headers)) is not None:
        facts[RETRY_AFTER_S] = wait_s
    if (should_retry := headers.get("x-should-retry")) in {"true", "false"}:
        facts[SHOULD_RETRY] = should_retry == "true"
    outcome, code = outcome_of_status(status), None
    if status >= 400 and (body := _error_body(response)) is not None:
        outcome, code = read_error(status, body)
    facts[ATTEMPT_OUTCOME] = outcome.value
    if code:
        facts[ATTEMPT_CODE] = code
    return facts | rate_limits(headers)


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
        if "-ratelimit-" not in name or (match := _LIMIT.fullmatch(name)) is None:
            continue
        what = (match["what"] or match["what_"]).replace("-", "_")
        fact = match["fact"] or match["fact_"]
        if fact == "reset":
            reset_s = _reset_s(value, headers.get("date"))
            if reset_s is not None:
                found[f"{RATE_LIMIT_PREFIX}{what}.reset_s"] = reset_s
        elif value.isdecimal():
            found[f"{RATE_LIMIT_PREFIX}{what}.{fact}"] = int(value)
    return found


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


def _headers(headers: Any) -> dict[str, str]:
    pairs = headers.items() if hasattr(headers, "items") else headers or ()
    return {_str(name).lower(): _str(value) for name, value in pairs}


def _str(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


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


class _Sending:
    """One send of an HTTP client, and what came of it, whatever becomes of its span."""

    def __init__(self, call: Any, request: Any, send: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.facts: dict[str, Any] = {}
        """What the ledger is told of the attempt."""
        self._call = call
        self._request = request
        self._headers = request.headers
        # The instrumentor copies and normalises headers, which takes a third of its time, to put its own among them.
        # It gets none; the app's are back before anything is sent.
        request.headers = {}
        self._send = send
        self._outside = otel_context.get_current()
        self._begun = False
        self._response: Any = None

    def begins(self) -> None:
        """Count the attempt, and what it waited for since the one before."""
        call = self._call
        self.facts[RESEND_COUNT] = call.attempts
        if call.attempt_ended_s is not None:
            self.facts[WAITED_S] = round(time.perf_counter() - call.attempt_ended_s, 6)
        call.attempts += 1

    def over(self) -> None:
        """Note what came of the attempt."""
        with guard("the end of an attempt"):
            self._call.attempt_ended_s = time.perf_counter()
            if self._response is not None:
                self.facts |= answer_facts(self._response)

    def now(self) -> Any:
        """Send, in the app's own context: its instrumentation of the HTTP library finds what it would without us."""
        self._begun = True
        self._request.headers = self._headers
        token = otel_context.attach(self._outside)
        try:
            self._response = self._send()
        except BaseException as error:
            self.error = error
            raise
        finally:
            otel_context.detach(token)
        return self._response

    async def now_async(self) -> Any:
        """As `now`."""
        self._begun = True
        self._request.headers = self._headers
        token = otel_context.attach(self._outside)
        try:
            self._response = await self._send()
        except BaseException as error:
            self.error = error
            raise
        finally:
            otel_context.detach(token)
        return self._response

    def result(self) -> Any:
        """Return or raise what the send did; send now if a fault of ours came before it (async: an awaitable)."""
        if not self._begun:
            self._request.headers = self._headers
            return self._send()
        if self.error is None:
            return self._response
        error, self.error = self.error, None  # or the error would hold its own traceback
        try:
            raise error
        finally:
            del error

    async def result_async(self) -> Any:
        """As `result`."""
        if self._begun:
            return self.result()
        self._request.headers = self._headers
        return await self._send()


class _Stand:
    """What the instrumentor takes for a client: a transport of ours, through which the real client's sends go."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._mounts: dict[str, Any] = {}

    @property
    def transport(self) -> Any:
        return self._transport


# Neither returns the response: what it says of the attempt is read by us, once (`answer_facts`).
class _Transport:
    def handle_request(self, request: Any, *, sending: _Sending) -> None:
        try:
            sending.now()
        finally:
            sending.over()


class _AsyncTransport:
    async def handle_async_request(self, request: Any, *, sending: _Sending) -> None:
        try:
            await sending.now_async()
        finally:
            sending.over()


class AttemptTracing:
    """Makes a span of each send of a call, by the instrumentor's own wrapper around a transport of ours.

    The app's clients and transports stay as they are, so that its own instrumentation of them, before or after us, is
    neither seen, doubled nor undone by ours.  The span lasts as long as the send: a body that the client reads at once
    is part of it.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._transports: dict[tuple[str, bool], Any] = {}

    def send(self, call: Any, request: Any, send: Callable[[], Any]) -> Any:
        """Return or raise what ``send`` does, and record it as an attempt of ``call``."""
        sending = _Sending(call, request, send)
        with guard("the recording of an attempt"):
            transport = self._transport(request, asynchronous=False)
            token = otel_context.attach(_inside(call, sending))
            try:
                transport.handle_request(request, sending=sending)
            except Exception as error:
                if error is not sending.error:
                    raise
            finally:
                otel_context.detach(token)
        return sending.result()

    async def send_async(self, call: Any, request: Any, send: Callable[[], Any]) -> Any:
        """As `send`."""
        sending = _Sending(call, request, send)
        with guard("the recording of an attempt"):
            transport = self._transport(request, asynchronous=True)
            token = otel_context.attach(_inside(call, sending))
            try:
                await transport.handle_async_request(request, sending=sending)
            except Exception as error:
                if error is not sending.error:
                    raise
            finally:
                otel_context.detach(token)
        return await sending.result_async()

    def _transport(self, request: Any, *, asynchronous: bool) -> Any:
        """Return the instrumented transport for the library of ``request``: httpx and httpx2 are apart."""
        key = (_library_of(request), asynchronous)
        if key not in self._transports:
            with self._lock:
                if key not in self._transports:
                    self._transports[key] = self._instrumented(*key)
        return self._transports[key]

    def _instrumented(self, library: str, asynchronous: bool) -> Any:
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor

        stand = _Stand(_AsyncTransport() if asynchronous else _Transport())
        instrumentor: Any = HTTPX2ClientInstrumentor if library == "httpx2" else HTTPXClientInstrumentor
        instrumentor.instrument_client(
            stand,
            tracer_provider=self._provider,
            meter_provider=NoOpMeterProvider(),
            request_hook=_on_request_async if asynchronous else _on_request,
        )
        return stand.transport


def _inside(call: Any, sending: _Sending) -> Context:
    """Return a context of ours alone: nothing that the app has set for its own instrumentation reaches ours."""
    parent = set_span_in_context(NonRecordingSpan(call.span_context), Context())
    return otel_context.set_value(_SENDING_KEY, sending, parent)


def _library_of(request: Any) -> str:
    for base in type(request).__mro__:
        library = base.__module__.partition(".")[0]
        if library in {"httpx", "httpx2"}:
            return library
    raise TypeError(f"{type(request)} is a request of neither httpx nor httpx2")
