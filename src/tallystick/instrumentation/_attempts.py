"""A child span for each HTTP attempt of a call, by opentelemetry-instrumentation-httpx on the SDK's own client.

Only the SDK's client is instrumented, never the app's other traffic; and only what is sent for a call becomes a span.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span

from tallystick.instrumentation._guard import guard
from tallystick.model.attributes import ATTEMPT, ATTEMPT_OUTCOME, REQUEST_ID, RESEND_COUNT, RETRY_AFTER_S, STATUS_CODE
from tallystick.model.failures import Outcome, outcome_of_status

CALL_KEY = otel_context.create_key("tallystick.call")
FLAG = "_is_instrumented_by_opentelemetry"

# Attributes of the HTTP span that the ledger keeps; a URL's query may hold a key, so URLs are left out.
_KEPT = frozenset({
    "http.method", "http.status_code", "http.request.method", "error.type", "network.protocol.version",
    "server.address", "server.port", ATTEMPT, RESEND_COUNT, STATUS_CODE, REQUEST_ID, RETRY_AFTER_S,
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
    status = kept.get(STATUS_CODE)
    if isinstance(status, int):
        kept[ATTEMPT_OUTCOME] = outcome_of_status(status).value
    elif span.events and (name := (span.events[-1].attributes or {}).get("exception.type")):
        kept[ATTEMPT_OUTCOME] = outcome_of_transport(str(name)).value
    else:
        kept[ATTEMPT_OUTCOME] = Outcome.CANCELLED.value
    return kept


def _on_request(span: Span, request: Any) -> None:  # noqa: ARG001 -- the instrumentor's signature
    with guard("the start of an attempt"):
        call = otel_context.get_value(CALL_KEY)
        if call is None:
            return
        span.set_attribute(ATTEMPT, value=True)
        span.set_attribute(RESEND_COUNT, call.attempts)  # type: ignore[attr-defined]
        call.attempts += 1  # type: ignore[attr-defined]
        # The instrumentor is about to inject ``traceparent`` from the current context; the app's request must reach
        # the provider as without us, so the context becomes empty. The instrumentor's own detach restores it.
        otel_context.attach(Context())


def _on_response(span: Span, request: Any, response: Any) -> None:  # noqa: ARG001 -- the instrumentor's signature
    with guard("the end of an attempt"):
        status, headers = response[0], _headers(response[1])
        span.set_attribute(STATUS_CODE, status)
        if request_id := headers.get("request-id") or headers.get("x-request-id"):
            span.set_attribute(REQUEST_ID, request_id)
        if (wait_s := retry_after_s(headers)) is not None:
            span.set_attribute(RETRY_AFTER_S, wait_s)


async def _on_request_async(span: Span, request: Any) -> None:
    _on_request(span, request)


async def _on_response_async(span: Span, request: Any, response: Any) -> None:
    _on_response(span, request, response)


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


class AttemptTracing:
    """Instruments each SDK's HTTP client once, and undoes it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def instrument(self, client: Any) -> None:
        """Make ``client``, an httpx or httpx2 client, sync or async, report its attempts."""
        if client is None or client in self._clients:
            return
        with self._lock:
            if client in self._clients:
                return
            self._clients.add(client)
            instrumentor = _instrumentor_of(client)
            if instrumentor is None:
                return
            asynchronous = hasattr(client, "aclose")
            # The flag is the app's: set by it, it would refuse us; set by us, it would refuse the app.
            before = getattr(client, FLAG, False)
            setattr(client, FLAG, False)
            instrumentor.instrument_client(
                client,
                tracer_provider=self._provider,
                meter_provider=NoOpMeterProvider(),
                request_hook=_on_request_async if asynchronous else _on_request,
                response_hook=_on_response_async if asynchronous else _on_response,
            )
            setattr(client, FLAG, before)

    def uninstrument(self) -> None:
        """Give every client that is still alive its transport back."""
        with self._lock:
            for client in list(self._clients):
                if instrumentor := _instrumentor_of(client):
                    before = getattr(client, FLAG, False)
                    instrumentor.uninstrument_client(client)
                    setattr(client, FLAG, before)
            self._clients.clear()


def _instrumentor_of(client: Any) -> Any:
    """Return the instrumentor for the library that ``client`` is of; the two are apart even in one process."""
    from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor

    for base in type(client).__mro__:
        library = base.__module__.partition(".")[0]
        if library == "httpx2":
            return HTTPX2ClientInstrumentor
        if library == "httpx":
            return HTTPXClientInstrumentor
    return None
