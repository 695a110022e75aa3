"""What is asked of a span before it is taken: the same check when it arrives and when it is applied."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError

from tallystick.collector.wire import Span, request_of

NO_TRACE = bytes(16)
NO_SPAN = bytes(8)
FUTURE_NS_MAX = 3_600 * 10**9
"""A span that starts more than an hour after it arrived has a wrong clock; it would sit on top of every list."""
LATEST_NS = 2**63 - 1


FIELDS = attrgetter("trace_id", "span_id", "start_time_unix_nano", "end_time_unix_nano", "attributes")


def span_or_reason(span: Any, received_ns: int, attributes_max: int) -> tuple[Any, str | None]:
    """Return the span, which may come as bytes, and None; or why it is rejected."""
    if isinstance(span, bytes):
        try:
            span = Span.FromString(span)
        except DecodeError:
            return None, "not decodable"
    trace_id, span_id, start_ns, end_ns, attributes = FIELDS(span)
    reason = _reason(trace_id, span_id, start_ns, end_ns, attributes, received_ns, attributes_max)
    return (None, reason) if reason else (span, None)


def _reason(
    trace_id: bytes, span_id: bytes, start_ns: int, end_ns: int, attributes: Any, received_ns: int, attributes_max: int
) -> str | None:
    if len(trace_id) != 16 or len(span_id) != 8 or trace_id == NO_TRACE or span_id == NO_SPAN:
        return "no ids"
    if not 0 < start_ns <= LATEST_NS or end_ns > LATEST_NS:
        return "no start time"
    if start_ns > received_ns + FUTURE_NS_MAX:
        return "in the future"
    return "too many attributes" if len(attributes) > attributes_max else None


def rejections(body: bytes, received_ns: int, spans_max: int, attributes_max: int) -> tuple[int, Counter[str]]:
    """Return how many spans ``body`` holds, and why how many of them will be rejected; raises DecodeError."""
    count = 0
    reasons: Counter[str] = Counter()
    start_ns_max = min(received_ns + FUTURE_NS_MAX, LATEST_NS)
    for resource_spans in request_of(body).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            spans = scope_spans.spans
            if spans and isinstance(spans[0], bytes):
                found = [span_or_reason(span, received_ns, attributes_max)[1] for span in spans]
            else:
                # Nearly every span passes, and this is asked before each answer: so in one expression, without a call.
                found = [
                    None
                    if 0 < start_ns <= start_ns_max and end_ns <= LATEST_NS and len(attributes) <= attributes_max
                    and len(trace_id) == 16 and len(span_id) == 8 and trace_id != NO_TRACE and span_id != NO_SPAN
                    else _reason(trace_id, span_id, start_ns, end_ns, attributes, received_ns, attributes_max)
                    for trace_id, span_id, start_ns, end_ns, attributes in map(FIELDS, spans)
                ]  # fmt: skip
            room = max(spans_max - count, 0)
            count += len(found)
            reasons.update(filter(None, found[:room]))
            reasons.update(["too many spans"] * len(found[room:]))
    return count, reasons
