"""A real collector on a free port of loopback, in this process or in one of its own, and what apps would send to it.

    with running_collector(tmp_path) as collector:
        collector.send(otlp_call(model="claude-sonnet-4-5", usage={"input_tokens": 10, "output_tokens": 5}))
        assert collector.ask("totals")["calls"] == 1

Data lies in ``folder/data``, the spool in ``folder/spool``, settings in ``folder/tallystick.toml``; starting another
one with the same folder goes on with the same data.
"""

# ruff: noqa: A002 -- an id is called id

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tallystick.client import Collector

DEADLINE_S = 30.0
PROTOBUF = "application/x-protobuf"
TALLYSTICK = ("-m", "tallystick")


@dataclass
class Running:
    """A collector that runs."""

    folder: Path
    url: str
    pid: int
    said: str = ""
    """What it printed before it said where it listens."""
    process: subprocess.Popen[str] | None = None
    """Its process, when it has one of its own."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def client(self) -> Collector:
        return Collector(self.url, timeout_s=DEADLINE_S)

    def post(self, body: bytes, path: str = "/v1/traces", **headers: str) -> tuple[int, bytes]:
        """POST ``body``; header names are written with underscores.  Returns status and answer."""
        status, _, answer = self.request("POST", path, body, **{"content_type": PROTOBUF, **headers})
        return status, answer

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]), timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def send(self, *requests: ExportTraceServiceRequest) -> None:
        """Send each request and wait until all of it can be asked for."""
        for request in requests:
            status, answer = self.post(request.SerializeToString())
            assert status == 200, answer
        self.settle()

    def settle(self) -> None:
        """Wait until the tables hold all that the journal holds."""
        until(lambda: self.ask("ledger")["journal"]["behind_bytes"] == 0, "the collector did not catch up")

    def ask(self, question: str, **params: Any) -> dict[str, Any]:
        return self.client.ask(question, {key.replace("tag_", "tag."): value for key, value in params.items()})


def until(is_so: Any, otherwise: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until ``is_so()``; fail with ``otherwise`` when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{otherwise} within {timeout_s:g} s"
        time.sleep(0.02)


def configure(folder: Path, toml: str = "", **settings: Any) -> Path:
    """Write ``folder/tallystick.toml``: ``settings`` are keys of ``[collector]``, ``toml`` is the rest of it."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"data": str(folder / "data"), "spool": str(folder / "spool"), "port": 0, "group_ms": 5, **settings}
    lines = ["[collector]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), toml]
    path = folder / "tallystick.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextmanager
def running_collector(folder: Path, toml: str = "", **settings: Any) -> Iterator[Running]:
    """Run a collector in this process; rows are made in it, too, which starts faster."""
    from tallystick.collector.service import Service
    from tallystick.collector.settings import load

    umask = os.umask(0o077)
    with _without_variables():
        service = Service(load(config=configure(folder, toml, **{"worker": False, **settings})))
    thread = threading.Thread(target=lambda: asyncio.run(service.serve()), name="collector")
    thread.start()
    try:
        yield Running(folder, f"http://{service.address}", os.getpid())
    finally:
        # A test may end before the server has begun, and a stop that comes before that is not seen.
        until(lambda: service.server.started or not thread.is_alive(), "the server did not start")
        service.stop()
        thread.join(DEADLINE_S)
        service.close()
        os.umask(umask)
    assert_conserved(service.applier.store.counters)


def assert_conserved(counters: Mapping[str, int]) -> None:
    """Fail unless received = stored + duplicates + rejected + dropped by the archive, whatever a test did."""
    from tallystick.collector.archive import LEFT_THE_TABLES

    gone = sum(count for name, count in counters.items() if name.startswith("rejected:") or name in LEFT_THE_TABLES)
    accounted = counters.get("stored", 0) + counters.get("duplicates", 0) + gone
    assert accounted == counters.get("received", 0), f"spans are unaccounted for: {dict(counters)}"
    for service in {name.partition(":")[2] for name in counters if name.startswith("finished:")}:
        finished, spooled, dropped = (
            counters.get(f"{what}:{service}", 0) for what in ("finished", "spooled", "dropped_calls")
        )
        assert finished == spooled + dropped, f"calls of {service!r} are unaccounted for: {dict(counters)}"


@contextmanager
def collector_process(
    folder: Path, toml: str = "", program: Sequence[str] = TALLYSTICK, **settings: Any
) -> Iterator[Running]:
    """Run a collector in a process of its own, which may be killed."""
    process = start_process(configure(folder, toml, **settings), program=program)
    try:
        url, said = wait_for_address(process)
        yield Running(folder, url, process.pid, said, process)
    finally:
        process.kill() if process.poll() is None else None
        process.communicate()


def start_process(config: Path, *arguments: str, program: Sequence[str] = TALLYSTICK) -> subprocess.Popen[str]:
    """Start ``tallystick collect``; its output is one pipe."""
    command = [sys.executable, *program, "collect", "--config", str(config), *arguments]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TALLYSTICK_")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)


def wait_for_address(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return where a collector listens, and what it said before it said that."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        if "collector at " in line:
            return line.split("collector at ")[1].split(",")[0], said
        said += line
    raise AssertionError(f"it ended, and said {said!r}")


@contextmanager
def _without_variables() -> Iterator[None]:
    """Hide the variables that would beat the file."""
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("TALLYSTICK_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def kill(running: Running) -> None:
    """End a collector of `collector_process` as a power cut of the process would."""
    os.kill(running.pid, signal.SIGKILL)


# What apps send


def otlp_call(
    *,
    id: str | None = None,
    trace_id: str | None = None,
    parent_id: str | None = None,
    started_ns: int | None = None,
    latency_ms: float = 800.0,
    provider: str = "anthropic",
    model: str = "claude-sonnet-4-5",
    api: str = "messages",
    usage: Mapping[str, Any] | None = None,
    units: Sequence[Mapping[str, Any]] | None = None,
    outcome: str = "ok",
    attempts: Sequence[Mapping[str, Any]] = (),
    service: str = "shop",
    environment: str | None = None,
    tags: Mapping[str, str] | None = None,
    scope: str = "tallystick",
    **attributes: Any,
) -> ExportTraceServiceRequest:
    """Return what `instrument()` sends for one call (docs/spans.md).

    ``usage`` makes one unit of the call's provider, model and api; ``units`` gives them whole.  ``attempts`` are
    dicts of attributes of the attempts' spans, with ``started_ms`` and ``duration_ms`` after the call's start.
    ``attributes`` are further ones of the call's span, with ``__`` for a dot: ``tallystick__feature="chat"``.
    """
    call_id, trace = id or secrets.token_hex(8), trace_id or secrets.token_hex(16)
    start = started_ns if started_ns is not None else time.time_ns() - 2_000_000_000
    if units is None:
        units = [] if usage is None else [otlp_unit(provider=provider, model=model, api=api, usage=usage)]
    found: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "tallystick.outcome": outcome,
        "tallystick.attempts": max(len(attempts), 1),
        "tallystick.units": json.dumps(list(units)),
        **{key.replace("__", "."): value for key, value in attributes.items()},
        **{f"tallystick.tag.{key}": value for key, value in (tags or {}).items()},
    }
    resource = {"service.name": service, "deployment.environment.name": environment}
    span = otlp_span(call_id, trace, parent_id, f"chat {model}", start, latency_ms, found)
    span.status.code = 0 if outcome == "ok" else 2
    children = [_attempt(trace, call_id, number, start, attempt) for number, attempt in enumerate(attempts)]
    return otlp_request([*children, span], resource, scope)


def otlp_unit(
    *,
    id: str | None = "",
    provider: str = "anthropic",
    model: str = "claude-sonnet-4-5",
    api: str = "messages",
    usage: Mapping[str, Any] | None,
    at: str = "2026-11-21T12:00:00.000000Z",
    estimated: bool = False,
    **params: Any,
) -> dict[str, Any]:
    """Return one entry of ``tallystick.units``; an empty ``id`` takes a random one, None leaves it out."""
    return {
        "id": f"msg_{secrets.token_hex(8)}" if id == "" else id, "provider": provider, "model": model, "api": api,
        "usage": usage, "params": params, "at": at, "estimated": estimated,
        "cost_usd": None, "cost_status": "unknown", "price_version": "",
    }  # fmt: skip


def otlp_span(
    id: str,
    trace_id: str,
    parent_id: str | None,
    name: str,
    started_ns: int,
    duration_ms: float,
    attributes: Mapping[str, Any],
) -> Span:
    return Span(
        span_id=bytes.fromhex(id), trace_id=bytes.fromhex(trace_id), parent_span_id=bytes.fromhex(parent_id or ""),
        name=name, kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=started_ns,
        end_time_unix_nano=started_ns + int(duration_ms * 1e6), attributes=_pairs(attributes),
    )  # fmt: skip


def otlp_request(
    spans: Sequence[Span], resource: Mapping[str, Any] | None = None, scope: str = "tallystick"
) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(_pairs(resource or {}))
    scoped = group.scope_spans.add()
    scoped.scope.name = scope
    scoped.spans.extend(spans)
    return request


def merged(*requests: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """Return one request that holds what ``requests`` hold."""
    whole = ExportTraceServiceRequest()
    for request in requests:
        whole.MergeFrom(request)
    return whole


def _attempt(trace: str, call_id: str, number: int, start: int, attempt: Mapping[str, Any]) -> Span:
    found = dict(attempt)
    at = start + int(found.pop("started_ms", 0) * 1e6)
    duration_ms = found.pop("duration_ms", 100.0)
    found = {
        "tallystick.attempt": True,
        "http.request.resend_count": number,
        "tallystick.attempt.outcome": "ok",
        **found,
    }
    return otlp_span(secrets.token_hex(8), trace, call_id, "POST", at, duration_ms, found)


def _pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items() if value is not None]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
    return AnyValue(string_value=value)
