"""Our spans: recorded always, written to the spool when they end, and shown to the app's own provider if it has one.

The ledger must not depend on the app's sampler, and the app's global OpenTelemetry state is not ours to set.  So spans
are written by us, from their attributes; when the app has set a provider, a twin of a call's span with the same ids is
made by the app's tracer.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import unquote

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanKind, Status, StatusCode

from tallystick import __version__
from tallystick.instrumentation._flights import Flights
from tallystick.instrumentation._otlp import Ids, encode_head, encode_request, encode_span
from tallystick.instrumentation._settings import Settings
from tallystick.instrumentation._spool import RECORD, Spool, Tally
from tallystick.model.attributes import (
    DROPPED_CALLS,
    DROPPED_RECORDS,
    ENVIRONMENT,
    FINISHED_CALLS,
    SCOPE,
    SERVICE,
)

CALL_KEY = otel_context.create_key("tallystick.call")
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"

_NO_PROVIDERS = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_ids = random.SystemRandom()  # a forked worker must not repeat its parent's
_ID_MAX = (1 << 64) - 1
_STRIDE = 0x9E37_79B9_7F4A_7C15
"""From one id to the next below a call, which asks the system for none: odd, so that none comes again."""


class CallSpan:
    """The span of a call: an entry of the ledger, and its twin in the app's traces or None."""

    __slots__ = ("_attributes", "_below", "_name", "_parent_id", "_start_ns", "_tracing", "ids", "twin")

    def __init__(self, tracing: Tracing, name: str, attributes: dict[str, Any], start_ns: int) -> None:
        self._tracing = tracing
        self._name = name
        self._attributes = attributes
        self._start_ns = start_ns
        trace_id, self._parent_id = _parent()
        self.twin = _start_twin(name, attributes, start_ns)
        if self.twin is None:
            drawn = _ids.getrandbits(192)
            self.ids = Ids(trace_id or drawn >> 64, drawn & _ID_MAX)
        else:
            twin = self.twin.get_span_context()
            self.ids = Ids(twin.trace_id, twin.span_id)
        self._below = count(self.ids.span_id + _STRIDE, _STRIDE)

    def child(self, name: str, start_ns: int, end_ns: int, attributes: Mapping[str, Any], *, failed: bool) -> bytes:
        """Return an encoded span below this one."""
        ids = Ids(self.ids.trace_id, next(self._below) & _ID_MAX)
        return encode_span(name, ids, self.ids.span_id, start_ns, end_ns, attributes, failed=failed)

    def so_far(self, attributes: dict[str, Any], end_ns: int) -> bytes:
        """Return the span as it is to be found should the call never end."""
        return self._encode(attributes, end_ns, failed=True)

    def _encode(self, attributes: dict[str, Any], end_ns: int, *, failed: bool) -> bytes:
        said = self._attributes | attributes
        return encode_span(self._name, self.ids, self._parent_id, self._start_ns, end_ns, said, failed=failed)

    def end(self, attributes: dict[str, Any], end_ns: int, children: Iterable[bytes], *, failed: bool) -> None:
        """Write the span and ``children`` with it; all of it is in a file when this returns."""
        finished = self._tracing.take_finished()
        told = attributes if finished == 1 else {**attributes, FINISHED_CALLS: finished}
        try:
            self._tracing.write(*children, self._encode(told, end_ns, failed=failed), tally=Tally(1, 1, finished))
        except BaseException:
            self._tracing.finished(finished)
            raise
        if self.twin is not None:
            self.twin.set_attributes(attributes)
            if failed:
                self.twin.set_status(Status(StatusCode.ERROR))
            self.twin.end(end_ns)


def _parent() -> Ids:
    """Return the app's current span; inside another call, which the app's provider may not know, that call."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid and (outer := otel_context.get_value(CALL_KEY)) is not None:
        ids: Ids = outer.ids  # type: ignore[attr-defined]
        return ids
    return Ids(current.trace_id, current.span_id)


def _start_twin(name: str, attributes: Mapping[str, Any], start_ns: int) -> Span | None:
    provider = trace.get_tracer_provider()
    if isinstance(provider, _NO_PROVIDERS):
        return None
    tracer = provider.get_tracer(SCOPE, __version__)
    twin = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns)
    return twin if twin.get_span_context() != INVALID_SPAN_CONTEXT else None


class Tracing:
    """Writes spans to the spool."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.flights = Flights(self)
        self.finished = spool.finished
        self.take_finished = spool.take_finished
        self._head = encode_head(resource(settings, os.environ), SCOPE, __version__)
        self._spool = spool

    def write(self, *spans: bytes, tally: Tally = RECORD) -> None:
        """Put encoded spans into the spool, as one record, with which ``tally`` would be lost."""
        self._spool.append(encode_request(self._head, spans), tally)

    def note(self, spans: Sequence[bytes]) -> None:
        """Leave word of these spans should the process be killed, in place of those of the last time."""
        self._spool.note(encode_request(self._head, spans) if spans else b"")

    def mark(self, name: str, call: Ids | None, attributes: Mapping[str, Any]) -> None:
        """Write a span without duration, below ``call`` or below the app's current span."""
        parent = _parent() if call is None else call
        ids = Ids(parent.trace_id or _ids.getrandbits(128), _ids.getrandbits(64))
        now_ns = time.time_ns()
        self.write(encode_span(name, ids, parent.span_id, now_ns, now_ns, attributes, failed=False))

    def report_dropped(self, dropped: Tally, at_ns: int) -> None:
        """Put on the ledger what could not be kept."""
        ids = Ids(_ids.getrandbits(128), _ids.getrandbits(64))
        finished = self.take_finished()
        attributes = {DROPPED_RECORDS: dropped.records, DROPPED_CALLS: dropped.calls, FINISHED_CALLS: finished}
        span = encode_span("tallystick.dropped", ids, 0, at_ns, at_ns, attributes, failed=False)
        self.write(span, tally=dropped._replace(finished=finished))


def resource(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what all spans of this process have in common, in OpenTelemetry's words."""
    told = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": SCOPE,
        "telemetry.sdk.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    for pair in environ.get(RESOURCE_ATTRIBUTES, "").split(","):
        name, separator, value = pair.partition("=")
        if separator:
            told[name.strip()] = unquote(value.strip())
    named = {SERVICE: settings.service, ENVIRONMENT: settings.environment}
    return told | {name: value for name, value in named.items() if value}
