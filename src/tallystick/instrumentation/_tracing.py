"""Our spans: recorded always, written to the spool when they end, and shown to the app's own provider if it has one.

The ledger must not depend on the app's sampler, and the app's global OpenTelemetry state is not ours to set.  So every
span is made by a provider of our own; when the app has set one, a twin with the same ids is made by the app's tracer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceProto
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusProto
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode

from tallystick import __version__
from tallystick.instrumentation._attempts import attempt_attributes
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._settings import Settings
from tallystick.instrumentation._spool import Spool
from tallystick.model.attributes import ATTEMPT, ENVIRONMENT, SCOPE, SERVICE

_STATUS = {
    StatusCode.UNSET: StatusProto.STATUS_CODE_UNSET,
    StatusCode.OK: StatusProto.STATUS_CODE_OK,
    StatusCode.ERROR: StatusProto.STATUS_CODE_ERROR,
}


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
        self._resource = ResourceProto(attributes=_key_values(resource.attributes)).SerializeToString()
        self._scope = InstrumentationScope(name=SCOPE, version=__version__).SerializeToString()

    def on_end(self, span: ReadableSpan) -> None:
        with guard("the recording of a span"):
            scope = span.instrumentation_scope
            attributes = dict(span.attributes or {})
            if scope is None or scope.name != SCOPE:
                if ATTEMPT not in attributes:  # other traffic of an HTTP client that the app shares with an SDK
                    return
                attributes = attempt_attributes(span, attributes)
            self._spool.append(_request(self._resource, self._scope, _encode(span, attributes)))

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def _encode(span: ReadableSpan, attributes: Mapping[str, Any]) -> bytes:
    context = span.get_span_context()
    assert context is not None, "an ended span has a context"
    encoded: bytes = SpanProto(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        parent_span_id=span.parent.span_id.to_bytes(8, "big") if span.parent else b"",
        name=span.name,
        kind=SpanProto.SPAN_KIND_CLIENT,
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_key_values(attributes),
        status=StatusProto(code=_STATUS[span.status.status_code]),
    ).SerializeToString()
    return encoded


def _key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and abs(value) < 1 << 63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, Sequence):
        return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
    return AnyValue(string_value=str(value))


def _request(resource: bytes, scope: bytes, span: bytes) -> bytes:
    """Return an ExportTraceServiceRequest around an encoded span.

    Each level is one length-delimited field: resource_spans = 1; resource = 1, scope_spans = 2; scope = 1, spans = 2.
    Put together from bytes, because the messages would copy resource and scope for every span.
    """
    scope_spans = _field(1, scope) + _field(2, span)
    return _field(1, _field(1, resource) + _field(2, scope_spans))


def _field(number: int, payload: bytes) -> bytes:
    length = len(payload)
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + payload
