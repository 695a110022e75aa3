"""Our spans: recorded always, written to the spool when they end, and shown to the app's own provider if it has one.

The ledger must not depend on the app's sampler, and the app's global OpenTelemetry state is not ours to set.  So every
span is made by a provider of our own; when the app has set one, a twin with the same ids is made by the app's tracer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanContext, SpanKind

from tallystick import __version__
from tallystick.instrumentation._attempts import attempt_attributes
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._otlp import encode_request, encode_resource, encode_scope, encode_span
from tallystick.instrumentation._settings import Settings
from tallystick.instrumentation._spool import Spool
from tallystick.model.attributes import ATTEMPT, ENVIRONMENT, SCOPE, SERVICE


class _Ids(RandomIdGenerator):
    """Random ids, but for a span that must have its twin's."""

    def __init__(self) -> None:
        self._twin = threading.local()

    def take(self, twin: SpanContext | None) -> None:
        self._twin.context = twin

    def generate_span_id(self) -> int:
        twin = getattr(self._twin, "context", None)
        return twin.span_id if twin else super().generate_span_id()

    def generate_trace_id(self) -> int:
        twin = getattr(self._twin, "context", None)
        return twin.trace_id if twin else super().generate_trace_id()


class Tracing:
    """Makes the spans of calls; ``provider`` makes those of attempts."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        named = {SERVICE: settings.service, ENVIRONMENT: settings.environment}
        resource = Resource.create({name: value for name, value in named.items() if value})
        self._ids = _Ids()
        self.provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        self.provider.add_span_processor(_ToSpool(spool, resource))
        self._tracer = self.provider.get_tracer(SCOPE, __version__)

    def start(self, name: str, attributes: Mapping[str, Any], start_ns: int) -> tuple[Span, Span | None]:
        """Return the ledger's span, and its twin of the app's provider or None."""
        twin = self._start_twin(name, attributes, start_ns)
        if twin is None:
            return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns), None
        self._ids.take(twin.get_span_context())
        try:
            span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns)
        finally:
            self._ids.take(None)
        return span, twin

    def _start_twin(self, name: str, attributes: Mapping[str, Any], start_ns: int) -> Span | None:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) or provider is self.provider:
            return None
        tracer = provider.get_tracer(SCOPE, __version__)
        twin = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns)
        return twin if twin.get_span_context().is_valid else None

    def report_dropped(self, dropped: int) -> None:
        """Put on the ledger that ``dropped`` records could not be kept."""
        with guard("the report of dropped records"):
            attributes = {"tallystick.dropped.records": dropped}
            self._tracer.start_span("tallystick.dropped", context=Context(), attributes=attributes).end()


class _ToSpool(SpanProcessor):
    """Writes each ended span to the spool before ``end()`` returns."""

    def __init__(self, spool: Spool, resource: Resource) -> None:
        self._spool = spool
        self._resource = encode_resource(resource.attributes)
        self._scope = encode_scope(SCOPE, __version__)

    def on_end(self, span: ReadableSpan) -> None:
        with guard("the recording of a span"):
            scope = span.instrumentation_scope
            attributes = dict(span.attributes or {})
            if scope is None or scope.name != SCOPE:
                if ATTEMPT not in attributes:  # other traffic of an HTTP client that the app shares with an SDK
                    return
                attributes = attempt_attributes(span, attributes)
            self._spool.append(encode_request(self._resource, self._scope, encode_span(span, attributes)))

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True
