"""What is sent to /v1/traces: taken, taken in part, or refused, and never more than it may cost."""

from __future__ import annotations

import base64
import gzip
import json
import resource
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from fakes.collector import (
    Running,
    collector_process,
    merged,
    otlp_call,
    otlp_request,
    otlp_span,
    running_collector,
)  # fmt: skip

USAGE = {"input_tokens": 1200, "output_tokens": 350}
JSON = "application/json"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        yield running


def call() -> ExportTraceServiceRequest:
    return otlp_call(usage=USAGE)


def as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """Return OTLP/JSON: proto3 JSON, but with ids in hex."""
    document: dict[str, Any] = json_format.MessageToDict(request)
    for group in document["resourceSpans"]:
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                for key in {"traceId", "spanId", "parentSpanId"} & set(span):
                    span[key] = base64.b64decode(span[key]).hex()
    return document


def refused(answer: bytes) -> str:
    """Return the message of a google.rpc.Status."""
    assert answer[0] == 0x08
    start = 4 if answer[3] < 128 else 5
    return answer[start:].decode()


def partial(answer: bytes) -> tuple[int, str]:
    success = ExportTraceServiceResponse.FromString(answer).partial_success
    return success.rejected_spans, success.error_message


def test_protobuf_json_and_gzip_mean_the_same(collector: Running) -> None:
    body = call().SerializeToString()
    text = json.dumps(as_json(call())).encode()

    assert collector.post(body) == (200, b"")
    assert collector.post(gzip.compress(call().SerializeToString()), content_encoding="gzip") == (200, b"")
    assert collector.post(text, content_type=JSON) == (200, b"{}")
    zipped = gzip.compress(json.dumps(as_json(call())).encode())
    assert collector.post(zipped, content_type=f"{JSON}; charset=utf-8", content_encoding="gzip") == (200, b"{}")
    collector.settle()
    totals = collector.ask("totals")
    assert (totals["calls"], totals["spend_usd"]) == (4, "0.0354")


def test_ids_of_json_are_those_of_protobuf(collector: Running) -> None:
    request = otlp_call(id="00f067aa0ba902b7", trace_id="0af7651916cd43dd8448eb211c80319c", usage=USAGE)
    assert collector.post(json.dumps(as_json(request)).encode(), content_type=JSON)[0] == 200
    collector.send(request)

    assert collector.ask("ledger")["duplicate_spans"] == 1
    found = collector.ask("calls/00f067aa0ba902b7")["call"]
    assert found["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"\x00\x01garbage", {}, 400, id="not-protobuf"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", {}, 400, id="length-over-the-end"),
        pytest.param(b"{", {"content_type": JSON}, 400, id="not-json"),
        pytest.param(b"[" * 100_000, {"content_type": JSON}, 400, id="deep-json"),
        pytest.param(b"[]", {"content_type": JSON}, 400, id="json-list"),
        pytest.param(b'{"resourceSpans": {}}', {"content_type": JSON}, 400, id="json-wrong-type"),
        pytest.param(b'{"resourceSpans": [3]}', {"content_type": JSON}, 400, id="json-wrong-entry"),
        pytest.param(b"\xff\xfe\x00", {"content_type": JSON}, 400, id="json-no-utf8"),
        pytest.param(b"not gzip", {"content_encoding": "gzip"}, 400, id="not-gzip"),
        pytest.param(gzip.compress(b"x" * 500)[:-12], {"content_encoding": "gzip"}, 400, id="cut-gzip"),
        pytest.param(b"", {"content_type": "text/plain"}, 415, id="text"),
        pytest.param(b"", {"content_type": ""}, 415, id="no-type"),
        pytest.param(b"", {"content_encoding": "br"}, 415, id="brotli"),
        pytest.param(b"x" * 17_000_000, {}, 413, id="too-large"),
        pytest.param(gzip.compress(b"\0" * 17_000_000), {"content_encoding": "gzip"}, 413, id="too-large-inflated"),
        pytest.param(b"", {}, 200, id="empty"),
        pytest.param(b"{}", {"content_type": JSON}, 200, id="empty-json"),
    ],
)
def test_a_body_that_is_no_export(collector: Running, body: bytes, headers: dict[str, str], status: int) -> None:
    found, answer = collector.post(body, **headers)

    assert found == status
    if status != 200:
        assert json.loads(answer)["message"] if headers.get("content_type") == JSON else refused(answer)
    collector.send(call())
    assert collector.ask("totals")["calls"] == 1
    assert collector.ask("ledger")["received_spans"] == 1


def test_a_chunked_body_is_bounded_too(collector: Running) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b"x" * 1_000_000

    try:
        status, _ = collector.post(chunks())  # type: ignore[arg-type]
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it hung up while we were still sending
    assert status == 413


def test_only_the_spans_that_cannot_be_taken_are_left_out(collector: Running) -> None:
    good = otlp_call(usage=USAGE)
    spans = good.resource_spans[0].scope_spans[0].spans
    now = time.time_ns()
    spans.append(otlp_span("00" * 8, "aa" * 16, None, "no id", now, 1, {}))
    spans.append(otlp_span("bb" * 4, "aa" * 16, None, "short id", now, 1, {}))
    spans.append(otlp_span("bb" * 8, "aa" * 16, None, "no time", 0, 1, {}))
    spans.append(otlp_span("cc" * 8, "aa" * 16, None, "tomorrow", now + 86_400 * 10**9, 1, {}))
    spans.append(otlp_span("dd" * 8, "aa" * 16, None, "attributes", now, 1, {f"k{n}": n for n in range(1001)}))

    status, answer = collector.post(good.SerializeToString())
    collector.settle()

    assert status == 200
    count, message = partial(answer)
    assert count == 5
    for reason in ("2 no ids", "1 no start time", "1 in the future", "1 too many attributes"):
        assert reason in message
    assert collector.ask("totals")["calls"] == 1
    ledger = collector.ask("ledger")
    assert (ledger["received_spans"], ledger["stored_spans"]) == (6, 1)
    assert ledger["rejected_spans"] == {"no ids": 2, "no start time": 1, "in the future": 1, "too many attributes": 1}


def test_a_span_that_cannot_be_decoded_is_rejected_alone(collector: Running) -> None:
    broken = b"\x0a\x7fshort"  # a trace id that runs over the span's end
    body = call().SerializeToString() + field(1, field(2, field(2, broken))) + call().SerializeToString()

    status, answer = collector.post(body)
    collector.settle()

    assert (status, *partial(answer)) == (200, 1, "not taken: 1 not decodable")
    assert collector.ask("totals")["calls"] == 2
    ledger = collector.ask("ledger")
    assert (ledger["received_spans"], ledger["stored_spans"], ledger["rejected_spans"]) == (3, 2, {"not decodable": 1})


def test_a_json_span_that_cannot_be_decoded_is_rejected_alone_and_counted(collector: Running) -> None:
    document = as_json(merged(call(), call()))
    document["resourceSpans"][1]["scopeSpans"][0]["spans"][0]["spanId"] = "xyz"

    status, answer = collector.post(json.dumps(document).encode(), content_type=JSON)
    collector.settle()

    assert status == 200
    assert json.loads(answer)["partialSuccess"]["rejectedSpans"] == "1"
    assert collector.ask("totals")["calls"] == 1
    ledger = collector.ask("ledger")
    assert (ledger["received_spans"], ledger["rejected_spans"]) == (2, {"not decodable": 1})


def field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    assert len(payload) < 128
    return bytes((number << 3 | 2, len(payload))) + payload


HOSTILE = [
    pytest.param({"tallystick.units": "{"}, id="units-no-json"),
    pytest.param({"tallystick.units": "[" * 50_000}, id="units-deep"),
    pytest.param({"tallystick.units": "3"}, id="units-number"),
    pytest.param({"tallystick.units": "[null, 3, []]"}, id="units-of-nothing"),
    pytest.param({"tallystick.units": 7}, id="units-int"),
    pytest.param({"tallystick.units": '[{"usage": {"input_tokens": 1e400}}]'}, id="infinite-count"),
    pytest.param({"tallystick.units": '[{"usage": {"input_tokens": NaN, "output_tokens": 1}}]'}, id="nan-count"),
    pytest.param({"tallystick.units": '[{"usage": {"input_tokens": -5, "output_tokens": 1}}]'}, id="negative-count"),
    pytest.param({"tallystick.units": '[{"usage": {"input_tokens": 9e30, "output_tokens": 1}}]'}, id="huge-count"),
    pytest.param({"tallystick.units": '[{"at": "9999-12-31T23:59:59-12:00", "usage": {}}]'}, id="late-at"),
    pytest.param(
        {"tallystick.units": '[{"at": [], "params": {"timestamp": 3, "book": 3}, "usage": 3}]'}, id="odd-types"
    ),
    pytest.param({"tallystick.attempts": -1, "gen_ai.response.time_to_first_chunk": float("nan")}, id="negative"),
    pytest.param({"tallystick.attempts": 2**62, "gen_ai.response.time_to_first_chunk": float("inf")}, id="huge"),
    pytest.param({"gen_ai.request.model": "m" * 100_000, "tallystick.outcome": "fine"}, id="long-and-unknown"),
    pytest.param({"gen_ai.request.model": ["a"], "user.id": 3, "tallystick.tag.": "x"}, id="wrong-types"),
    pytest.param({"user.id": "a\0b\x1b[31m\u202e", "tallystick.tag.a'\"`;--": "\0"}, id="control-characters"),
]


@pytest.mark.parametrize("attributes", HOSTILE)
def test_no_attribute_stops_the_applier_or_costs_money(collector: Running, attributes: dict[str, Any]) -> None:
    now = time.time_ns()
    found = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", **attributes}
    hostile = otlp_request([otlp_span("ab" * 8, "cd" * 16, "ab" * 8, "x", now, -5, found)])
    status, answer = collector.post(merged(call(), hostile, call()).SerializeToString())
    collector.settle()

    assert (status, answer) == (200, b"")
    totals = collector.ask("totals")
    assert (totals["calls"], totals["spend_usd"]) == (3, "0.0177")
    assert collector.ask("calls/" + "ab" * 8)["call"]["parent_id"] is None
    if "tallystick.units" in attributes:
        assert totals["unpriced_units"] >= 1, "a unit that cannot be read is no silent zero"
    assert collector.ask("ledger")["stored_spans"] == 3


def test_a_gzip_bomb_costs_no_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    with collector_process(tmp_path) as running:
        before = peak_mb(running.pid)
        answers = [running.post(bomb, content_encoding="gzip")[0] for _ in range(3)]
        grown = peak_mb(running.pid) - before

    assert answers == [413, 413, 413]
    assert grown < 100, f"256 MB of zeros cost {grown} MB"


def peak_mb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs"])
def test_metrics_and_logs_are_taken_politely(collector: Running, path: str) -> None:
    before = collector.ask("ledger")["journal"]["bytes"]

    assert collector.post(b"\x0a\x00", path) == (200, b"")
    assert collector.post(b'{"resourceMetrics": []}', path, content_type=JSON) == (200, b"{}")
    assert collector.ask("ledger")["journal"]["bytes"] == before


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", "localhost.evil", "", "[::1", "x@127.0.0.1"],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/v1/totals"), ("GET", "/healthz"), ("POST", "/v1/traces")])
def test_a_foreign_host_is_refused_everywhere(collector: Running, host: str, method: str, path: str) -> None:
    status, _, _ = collector.request(
        method, path, b"" if method == "POST" else None, host=host, content_type="application/x-protobuf"
    )

    assert status in {421, 400}  # h11 itself refuses what is no host at all
    assert collector.ask("ledger")["received_spans"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:4318", "LOCALHOST", "[::1]:9", "[::1]"])
def test_loopback_has_many_names(collector: Running, host: str) -> None:
    assert collector.request("GET", "/healthz", host=host)[0] == 200


def test_a_web_page_may_not_post_nor_read(collector: Running) -> None:
    body = call().SerializeToString()

    assert collector.post(body, origin="https://evil.example")[0] == 403
    assert collector.post(body, origin="http://localhost:8501")[0] == 403
    status, headers, _ = collector.request("GET", "/api/v1/totals", origin="https://evil.example")
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control")]
    assert collector.request("OPTIONS", "/v1/traces", origin="https://evil.example")[0] in {403, 405}
    assert collector.ask("ledger")["received_spans"] == 0
