"""Our spans: recorded always, written to the spool when they end, and shown to the app's own provider if it has one.

The ledger must not depend on the app's sampler, and the app's global OpenTelemetry state is not ours to set.  So a
call's span is written by us, from its attributes; when the app has set a provider, a twin with the same ids is made by
the app's tracer.  Attempts are made by opentelemetry-instrumentation-httpx, which needs a provider: a private one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from tallystick import __version__
from tallystick.instrumentation._attempts import CALL_KEY, attempt_attributes
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._otlp import encode_request, encode_resource, encode_scope, encode_span
from tallystick.instrumentation._settings import Settings
from tallystick.instrumentation._spool import Spool
from tallystick.model.attributes import ATTEMPT, ENVIRONMENT, ERROR_TYPE, SCOPE, SERVICE

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ids = random.SystemRandom()  # a forked worker must not repeat its parent's


class CallSpan:
    """The span of a call: an entry of the ledger, and its twin in the app's traces or None."""

    __slots__ = ("_attributes", "_name", "_parent_id", "_start_ns", "_tracing", "context", "twin")

    def __init__(self, tracing: Tracing, name: str, attributes: dict[str, Any], start_ns: int) -> None:
        self._tracing = tracing
        self._name = name
        self._attributes = attributes
        self._start_ns = start_ns
        parent = _parent()
        self._parent_id = parent.span_id
        self.twin = _start_twin(name, attributes, start_ns)
        if self.twin is None:
            trace_id = parent.trace_id or _ids.getrandbits(128)
            self.context = SpanContext(trace_id, _ids.getrandbits(64), is_remote=False, trace_flags=_SAMPLED)
        else:
            self.context = self.twin.get_span_context()

    def end(self, attributes: Mapping[str, Any], end_ns: int, *, failed: bool) -> None:
        """Write the span; it is in a file when this returns."""
        self._attributes.update(attributes)
        self._tracing.write(
            encode_span(
                self._name, self.context, self._parent_id, self._start_ns, end_ns, self._attributes, failed=failed
            )
        )
        if self.twin is not None:
            self.twin.set_attributes(attributes)
            if failed:
                self.twin.set_status(Status(StatusCode.ERROR))
            self.twin.end(end_ns)


def _parent() -> SpanContext:
    """Return the app's current span; inside another call, which the app's provider may not know, that call."""
    outer: Any = otel_context.get_value(CALL_KEY)
    current = trace.get_current_span().get_span_context()
    return outer.span_context if outer is not None and not current.is_valid else current


def _start_twin(name: str, attributes: Mapping[str, Any], start_ns: int) -> Span | None:
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    tracer = provider.get_tracer(SCOPE, __version__)
    twin = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns)
    return twin if twin.get_span_context() != INVALID_SPAN_CONTEXT else None


class Tracing:
    """Writes spans to the spool; ``provider`` is for those of attempts."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        named = {SERVICE: settings.service, ENVIRONMENT: settings.environment}
        resource = Resource.create({name: value for name, value in named.items() if value})
        self._resource = encode_resource(resource.attributes)
        self._scope = encode_scope(SCOPE, __version__)
        self._spool = spool
        self.provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(_AttemptsToSpool(self))

    def write(self, span: bytes) -> None:
        """Put an encoded span into the spool."""
        self._spool.append(encode_request(self._resource, self._scope, span))

    def mark(self, name: str, call: SpanContext | None, attributes: Mapping[str, Any]) -> None:
        """Write a span without duration, below ``call`` or below the app's current span."""
        parent = _parent() if call is None else call
        context = SpanContext(parent.trace_id or _ids.getrandbits(128), _ids.getrandbits(64), is_remote=False)
        now_ns = time.time_ns()
        self.write(encode_span(name, context, parent.span_id, now_ns, now_ns, attributes, failed=False))

    def report_dropped(self, dropped: int, at_ns: int) -> None:
        """Put on the ledger that ``dropped`` records could not be kept."""
        context = SpanContext(_ids.getrandbits(128), _ids.getrandbits(64), is_remote=False)
        attributes = {"tallystick.dropped.records": dropped}
        self.write(encode_span("tallystick.dropped", context, 0, at_ns, at_ns, attributes, failed=False))


class _AttemptsToSpool(SpanProcessor):
    """Writes the span of each attempt to the spool before ``end()`` returns."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def on_end(self, span: ReadableSpan) -> None:
        with guard("the recording of an attempt"):
            attributes = span.attributes or {}
            context = span.get_span_context()
            # Other traffic of an HTTP client that the app shares with an SDK is none of ours.
            if ATTEMPT not in attributes or context is None:
                return
            parent_id = span.parent.span_id if span.parent else 0
            kept = attempt_attributes(span, attributes)
            times = (span.start_time or 0, span.end_time or 0)
            failed = span.status.status_code is StatusCode.ERROR or ERROR_TYPE in kept
            self._tracing.write(encode_span(span.name, context, parent_id, *times, kept, failed=failed))

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True
