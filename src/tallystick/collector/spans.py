"""What is asked of a span before it is taken: the same check when it arrives and when it is applied."""

from __future__ import annotations

from collections import Counter
from typing import Any

from google.protobuf.message import DecodeError

from tallystick.collector.wire import Span, request_of

NO_TRACE = bytes(16)
NO_SPAN = bytes(8)
FUTURE_NS_MAX = 3_600 * 10**9
"""A span that starts more than an hour after it arrived has a wrong clock; it would sit on top of every list."""
LATEST_NS = 2**63 - 1


def span_or_reason(span: Any, received_ns: int, attributes_max: int) -> tuple[Any, str | None]:
    """Return the span, which may come as bytes, and None; or why it is rejected."""
    if isinstance(span, bytes):
        try:
            span = Span.FromString(span)
        except DecodeError:
            return None, "not decodable"
    trace_id, span_id = span.trace_id, span.span_id
    if len(trace_id) != 16 or len(span_id) != 8 or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None, "no ids"
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    if not 0 < start_ns <= LATEST_NS or end_ns > LATEST_NS:
        return None, "no start time"
    if start_ns > received_ns + FUTURE_NS_MAX:
        return None, "in the future"
    if len(span.attributes) > attributes_max:
        return None, "too many attributes"
    return span, None


def rejections(body: bytes, received_ns: int, spans_max: int, attributes_max: int) -> tuple[int, Counter[str]]:
    """Return how many spans ``body`` holds, and why how many of them will be rejected; raises DecodeError."""
    count = 0
    reasons: Counter[str] = Counter()
    for resource_spans in request_of(body).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for data in scope_spans.spans:
                count += 1
                reason = "too many spans" if count > spans_max else span_or_reason(data, received_ns, attributes_max)[1]
                if reason:
                    reasons[reason] += 1
    return count, reasons
