"""OTLP over gRPC, sent by OpenTelemetry's own exporter."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from fakes.collector import Running, otlp_call, running_collector
from tallystick.errors import PortTakenError

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
TOKEN = "a-token-of-some-length"
CERTIFICATE = Path(__file__).parents[1] / "alerts" / "tls" / "localhost.pem"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("rpc")
    with running_collector(folder, grpc_port=port, body_bytes_max=1024 * 1024, spans_max=3) as running:
        running.settle()  # a test that breaks the disk must not meet the start
        yield running


def call(port: int, body: bytes, method: str = TRACES, **metadata: str) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(method)(body, timeout=20, metadata=tuple(metadata.items()))
        return answer


def test_the_usual_exporter_delivers(collector: Running, port: int) -> None:
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}", insecure=True)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o", "gen_ai.response.id": "chatcmpl-rpc", "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
    }  # fmt: skip
    with provider.get_tracer("app").start_as_current_span("chat gpt-4o", attributes=attributes):
        pass
    provider.shutdown()
    collector.settle()

    rows = collector.ask("calls")["rows"]
    assert [(row["model"], row["cost_usd"]) for row in rows] == [("gpt-4o", "0.0035")]


def test_partial_success_tells_what_was_not_taken(collector: Running, port: int) -> None:
    request = ExportTraceServiceRequest()
    for _ in range(5):
        request.MergeFrom(otlp_call())
    answer = ExportTraceServiceResponse.FromString(call(port, request.SerializeToString()))

    assert answer.partial_success.rejected_spans > 0
    assert answer.partial_success.error_message


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT), (b"x" * 2**21, grpc.StatusCode.RESOURCE_EXHAUSTED)],
    ids=["no protobuf", "too large"],
)
def test_what_cannot_be_taken_is_refused(collector: Running, port: int, body: bytes, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(port, body)
    assert refused.value.code() == code


def test_a_full_disk_asks_to_come_again(
    collector: Running, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tallystick.collector.journal import Journal

    def fails(self: Journal, records: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_write", fails)
    with pytest.raises(grpc.RpcError) as refused:
        call(port, otlp_call().SerializeToString())
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_logs_are_politely_taken(collector: Running, port: int) -> None:
    assert ExportLogsServiceResponse.FromString(call(port, b"", LOGS)) == ExportLogsServiceResponse()


def test_the_token_and_tls_hold_here_too(tmp_path: Path) -> None:
    port = free_port()
    with running_collector(tmp_path, grpc_port=port, token=TOKEN, tls_certificate=str(CERTIFICATE)):
        credentials = grpc.ssl_channel_credentials(CERTIFICATE.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            export = channel.unary_unary(TRACES)
            body = otlp_call().SerializeToString()
            for bearer in ("", "Bearer wrong", TOKEN):
                with pytest.raises(grpc.RpcError) as refused:
                    export(body, timeout=20, metadata=(("authorization", bearer),))
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert export(body, timeout=20, metadata=(("authorization", f"Bearer {TOKEN}"),)) == b""
        with pytest.raises(grpc.RpcError):
            call(port, body)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with (
            pytest.raises(PortTakenError, match=str(holder.getsockname()[1])),
            running_collector(tmp_path, grpc_port=holder.getsockname()[1]),
        ):
            pytest.fail("it started")
