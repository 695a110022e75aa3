"""The collector says when it is not well, mends itself, and goes on taking spans meanwhile."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, running_collector, until
from tallystick.collector.decode import Decoder
from tallystick.collector.store import Store, StoreBrokenError, open_or_set_aside
from tallystick.errors import StoreTooNewError

USAGE = {"input_tokens": 1200, "output_tokens": 350}


def health(running: Running) -> tuple[int, dict[str, Any]]:
    status, _, body = running.request("GET", "/healthz")
    return status, json.loads(body)


def test_a_store_that_fails_turns_health_red_and_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    real = Store.apply

    def apply(store: Store, *arguments: Any) -> None:
        if broken.is_set():
            raise StoreBrokenError("DuckDB cannot store: no room")
        real(store, *arguments)

    monkeypatch.setattr(Store, "apply", apply)
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        assert health(running) == (200, {"status": "ok"})
        broken.set()
        assert running.post(otlp_call(usage=USAGE).SerializeToString())[0] == 200, "the journal takes it all the same"
        until(lambda: health(running)[0] == 503, "health stayed green")
        assert health(running)[1] == {"status": "failing", "reason": "DuckDB cannot store: no room"}
        assert running.ask("totals")["calls"] == 1
        assert running.ask("ledger")["journal"]["behind_bytes"] > 0
        broken.clear()
        running.settle()
        until(lambda: health(running)[0] == 200, "health stayed red")
        assert running.ask("totals")["calls"] == 2


def test_a_file_that_a_question_still_holds_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """A question may be under way while the store is closed; until it ends, DuckDB does not open the file again."""
    path = tmp_path / "tallystick.duckdb"
    held = Store(path, 64)
    with pytest.raises(StoreBrokenError, match="still being closed"):
        open_or_set_aside(path, tmp_path, 64, 1.0)
    held.close()
    store, told = open_or_set_aside(path, tmp_path, 64, 1.0)
    store.close()

    assert told is None


def test_an_applier_that_hangs_turns_health_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = Store.apply

    def apply(store: Store, *arguments: Any) -> None:
        go_on.wait(60)
        real(store, *arguments)

    monkeypatch.setattr(Store, "apply", apply)
    monkeypatch.setattr("tallystick.collector.apply.STUCK_S", 0.3)
    with running_collector(tmp_path) as running:
        assert running.post(otlp_call(usage=USAGE).SerializeToString())[0] == 200
        until(lambda: "has not moved" in health(running)[1].get("reason", ""), "health stayed green")
        go_on.set()
        running.settle()
        assert health(running)[0] == 200


def test_clients_that_do_not_go_on_are_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.collector.patience.HEADERS_S", 0.5)
    monkeypatch.setattr("tallystick.collector.patience.BODY_S", 0.5)
    headers = b"Host: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: 9\r\n\r\n"
    sent = (b"", b"POST", b"POST /v1/traces HTTP/1.1\r\n" + headers + b"12345")
    with running_collector(tmp_path) as running, ExitStack() as stack:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        slow = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(200)]
        for number, client in enumerate(slow):
            client.sendall(sent[number % 3])
        slow[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow[0].recv(65536).startswith(b"HTTP/1.1 200")
        slow[0].sendall(b"GET /hea")  # a further request that does not go on
        running.send(otlp_call(usage=USAGE))
        assert running.ask("totals")["calls"] == 1
        answers = [everything(client) for client in slow]

    assert answers[1] == answers[3] == b""
    assert answers[2].startswith(b"HTTP/1.1 408")


def everything(client: socket.socket) -> bytes:
    """Return what is sent until the other side hangs up; fail when it does not."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_fault_of_ours_in_one_span_costs_that_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Decoder._unit

    def unit(decoder: Decoder, call: Any, *arguments: Any) -> Any:
        if call["feature"] == "poison":
            raise RuntimeError("a fault of ours")
        return real(decoder, call, *arguments)

    monkeypatch.setattr(Decoder, "_unit", unit)
    with running_collector(tmp_path) as running:
        body = otlp_call(usage=USAGE)
        body.MergeFrom(otlp_call(usage=USAGE, tallystick__feature="poison"))
        body.MergeFrom(otlp_call(usage=USAGE))
        running.send(body)
        ledger = running.ask("ledger")

        assert running.ask("totals")["calls"] == 2
        assert (ledger["received_spans"], ledger["rejected_spans"]) == (3, {"not understood": 1})
        assert health(running)[0] == 200


def test_rows_that_cannot_be_stored_are_set_aside_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Decoder._unit

    def unit(decoder: Decoder, call: Any, *arguments: Any) -> Any:
        made = real(decoder, call, *arguments)
        return {**made, "input_tokens": 2**70} if call["feature"] == "poison" else made

    monkeypatch.setattr(Decoder, "_unit", unit)
    with running_collector(tmp_path, group_ms=300) as running:
        for feature in ("a", "b", "poison", "c", "d"):
            assert running.post(otlp_call(usage=USAGE, tallystick__feature=feature).SerializeToString())[0] == 200
        running.settle()
        ledger = running.ask("ledger")

        assert {row["key"] for row in running.ask("groups", by="feature")["rows"]} == {"a", "b", "c", "d"}
        assert (ledger["dropped_records"], ledger["stored_spans"]) == (1, 4)
        assert (running.data / "aside" / "records.tly").stat().st_size > 100
        assert health(running)[0] == 200


def test_a_question_that_takes_too_long_is_broken_off(tmp_path: Path) -> None:
    from tallystick.collector.store import QueryTimeoutError

    store = Store(tmp_path / "x.duckdb", 64, query_timeout_s=0.2)
    with pytest.raises(QueryTimeoutError, match=r"longer than 0\.2 s"):
        store.ask("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b")
    assert store.ask("SELECT 1") == [(1,)], "the connection goes on"
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')", "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "ATTACH '/tmp/other.duckdb'", "COPY calls TO '/tmp/calls.csv'", "EXPORT DATABASE '/tmp/export'",
        "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true", "SET memory_limit = '10GB'",
        "PRAGMA threads = 9",
    ],
)  # fmt: skip
def test_no_sql_reaches_a_file_or_a_setting(tmp_path: Path, sql: str) -> None:
    store = Store(tmp_path / "x.duckdb", 64)
    with pytest.raises(StoreBrokenError, match=r"Permission|configuration|Extension"):
        store.ask(sql)
    store.close()


def test_a_file_of_a_newer_tallystick_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    store = Store(path, 64)
    store._writer.execute("UPDATE meta SET value = '999' WHERE key = 'schema'").fetchall()
    store.close()
    with pytest.raises(StoreTooNewError, match="has schema 999"):
        Store(path, 64)

    assert path.exists()
