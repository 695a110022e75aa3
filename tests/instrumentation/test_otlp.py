from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tallystick.instrumentation._otlp import Ids, encode_head, encode_request, encode_span

INTS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(st.text(), st.booleans(), INTS, st.floats(allow_nan=False), st.lists(st.text(), max_size=4))


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [value_of(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@given(
    name=st.text(max_size=300),
    ids=st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1)),
    times=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    attributes=st.dictionaries(st.text(max_size=200), VALUES, max_size=8),
    failed=st.booleans(),
)
def test_what_is_written_is_what_protobuf_reads(
    name: str, ids: tuple[int, int, int], times: tuple[int, int], attributes: dict[str, Any], failed: bool
) -> None:
    encoded = encode_span(name, Ids(ids[0], ids[1]), ids[2], *times, attributes, failed=failed)
    head = encode_head({"service.name": "shop"}, "tallystick", "1.2.3")
    request = ExportTraceServiceRequest.FromString(encode_request(head, [encoded, encoded]) * 2)

    first, second = request.resource_spans
    assert first == second, "two requests in a row are one"
    assert value_of(first.resource.attributes[0].value) == "shop"
    [scope_spans] = first.scope_spans
    assert (scope_spans.scope.name, scope_spans.scope.version) == ("tallystick", "1.2.3")
    span, again = scope_spans.spans
    assert span == again
    assert span.name == name
    assert int.from_bytes(span.trace_id, "big") == ids[0]
    assert int.from_bytes(span.span_id, "big") == ids[1]
    assert int.from_bytes(span.parent_span_id, "big") == ids[2]
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == times
    assert span.kind == span.SPAN_KIND_CLIENT
    assert span.status.code == (span.status.STATUS_CODE_ERROR if failed else 0)
    assert {item.key: value_of(item.value) for item in span.attributes} == attributes


def test_what_otlp_cannot_hold_is_text_and_no_loss() -> None:
    odd = {"huge": 1 << 70, "none": None, "lone surrogate": "\ud800", "nan": math.nan}
    encoded = encode_span("x", Ids(1, 2), 0, 1, 2, odd, failed=False)
    request = ExportTraceServiceRequest.FromString(encode_request((b"", b""), [encoded]))

    said = {item.key: value_of(item.value) for item in request.resource_spans[0].scope_spans[0].spans[0].attributes}
    assert said["huge"] == str(1 << 70)
    assert (said["none"], said["lone surrogate"]) == ("None", "?")
    assert math.isnan(said["nan"])
