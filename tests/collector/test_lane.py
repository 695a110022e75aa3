"""The short way in answers as the long way does, whatever arrives and in whatever pieces."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from fakes.collector import Running, merged, otlp_call, otlp_request, otlp_span, running_collector
from tallystick.collector import admission, patience, receive
from tallystick.collector.patience import PatientProtocol
from tallystick.instrumentation._line import Line

USAGE = {"input_tokens": 1200, "output_tokens": 350}
GOOD = otlp_call(usage=USAGE).SerializeToString()
MIXED = merged(otlp_call(usage=USAGE), otlp_request([otlp_span("", "", None, "no ids", 1, 1, {})])).SerializeToString()
HARD = '[[budget]]\nname = "hard"\nlimit_usd = 1\naction = "block"\n'
LONG_WAY = b"TE: trailers\r\n"
"""A header that changes nothing but the way."""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("lane"), HARD, body_bytes_max=100_000) as running:
        yield running


def connect(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=30)


def head(body: bytes, more: bytes = b"", media: bytes = b"application/x-protobuf", host: bytes = b"localhost") -> bytes:
    return (
        b"POST /v1/traces HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (host, media, len(body))
        + more
        + b"\r\n"
    )


def answer(file: BinaryIO) -> tuple[int, dict[bytes, bytes], bytes]:
    """Read one answer; status 0 when the connection ends instead."""
    status = file.readline().split()
    if not status:
        return 0, {}, b""
    headers = {}
    while (line := file.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return int(status[1]), headers, file.read(int(headers[b"content-length"]))


def ask(running: Running, *pieces: bytes) -> tuple[int, bytes | None, bytes]:
    with connect(running) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01 if len(pieces) > 1 else 0)
        status, headers, body = answer(connection.makefile("rb"))
        return status, headers.get(b"content-type"), body


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        pytest.param(GOOD, b"", 200, id="good"),
        pytest.param(b"", b"", 200, id="empty"),
        pytest.param(MIXED, b"", 200, id="partly-rejected"),
        pytest.param(gzip.compress(GOOD), b"Content-Encoding: gzip\r\n", 200, id="gzip"),
        pytest.param(gzip.compress(GOOD)[:-9], b"Content-Encoding: gzip\r\n", 400, id="cut-gzip"),
        pytest.param(gzip.compress(bytes(1_000_000)), b"Content-Encoding: gzip\r\n", 413, id="bomb"),
        pytest.param(GOOD, b"Content-Encoding: br\r\n", 415, id="unread-encoding"),
        pytest.param(b"\xff" * 50, b"", 400, id="no-protobuf"),
        pytest.param(GOOD, b"Origin: http://evil.example\r\n", 403, id="web-page"),
        pytest.param(GOOD, b"Connection: close\r\n", 200, id="last-one"),
    ],
)
def test_both_ways_answer_the_same(collector: Running, body: bytes, more: bytes, status: int) -> None:
    short = ask(collector, head(body, more) + body)

    assert short[0] == status
    assert short == ask(collector, head(body, more + LONG_WAY) + body)


ASKED = {"id": "a" * 32, "dimensions": {"feature": "chat"}, "usd": "0.01", "tokens": 100}


@pytest.mark.parametrize(
    ("what", "body", "more", "status"),
    [
        pytest.param("", json.dumps(ASKED).encode(), b"", 200, id="asked"),
        pytest.param("", json.dumps(ASKED | {"id": "b" * 32, "usd": "9"}).encode(), b"", 409, id="refused"),
        pytest.param("", b"", b"", 400, id="empty"),
        pytest.param("", b"[" * 100_000, b"", 400, id="no-object"),
        pytest.param("", bytes(admission.BODY_BYTES_MAX + 1), b"", 400, id="too-long"),
        pytest.param("", json.dumps(ASKED).encode(), b"Origin: http://evil.example\r\n", 403, id="web-page"),
        pytest.param("/renew", json.dumps({"ids": ["c" * 32]}).encode(), b"", 200, id="renewed"),
        pytest.param("/settle", b'{"settlements": []}', b"", 200, id="settled"),
        pytest.param("/settle", b'{"settlements": 1}', b"", 400, id="malformed"),
    ],
)
def test_a_reservation_is_answered_the_same_both_ways(
    collector: Running, what: str, body: bytes, more: bytes, status: int
) -> None:
    path = f"/api/v1/reservations{what}".encode()

    def asked(more: bytes) -> tuple[int, bytes | None, bytes]:
        begin = head(body, more, b"application/json").replace(b"/v1/traces", path)
        status, media, answer = ask(collector, begin + body)
        # Calls of the tests before may still be coming in: what is spent of the budget says when it was asked.
        return status, media, re.sub(rb'"(expires_at|spent|room)": "[^"]+"', b"", answer)

    short = asked(more)
    assert short[:2] == (status, b"application/json")
    assert short == asked(more + LONG_WAY)


def test_who_asks_for_room_goes_the_short_way(collector: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    long_way: list[bytes] = []
    take = PatientProtocol.data_received

    def noted(protocol: PatientProtocol, data: bytes) -> None:
        long_way.append(data)
        take(protocol, data)

    monkeypatch.setattr(PatientProtocol, "data_received", noted)
    line = Line(collector.url)
    try:
        for path in ("", "/renew", "/settle"):
            line.ask("POST", f"/api/v1/reservations{path}", {}, 30)
        assert long_way == []
        assert line.ask("GET", "/api/v1/guard", None, 30)[0] == 200
    finally:
        line.close()
    assert len(long_way) == 1


def test_another_host_is_refused_on_the_short_way_too(collector: Running) -> None:
    assert ask(collector, head(GOOD, host=b"evil.example") + GOOD)[0] == 421


def test_a_body_that_is_too_large_is_refused_before_it_comes(collector: Running) -> None:
    assert ask(collector, head(bytes(100_001)))[0] == 413


@pytest.mark.parametrize("cut", [1, 30, 120, 170, 400])
def test_pieces_make_a_whole(collector: Running, cut: int) -> None:
    whole = head(GOOD) + GOOD

    assert ask(collector, whole[:cut], whole[cut : cut + 50], whole[cut + 50 :])[0] == 200


def test_a_connection_takes_both_ways_in_turn_and_requests_before_their_turn(collector: Running) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    export = head(GOOD) + GOOD
    wrong = head(b"\xff\xff") + b"\xff\xff"
    with connect(collector) as connection, connection.makefile("rb") as answers:
        statuses = []
        for pieces in ([export], [health], [wrong], [export, export], [export, health], [health, export], [export]):
            connection.sendall(b"".join(pieces))
            statuses += [answer(answers)[0] for _ in pieces]

    assert statuses == [200, 200, 400, 200, 200, 200, 200, 200, 200, 200]


def test_what_a_sender_that_leaves_had_sent_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "HELD_BYTES_MAX", 100_000)
    large = merged(*(otlp_call(usage=USAGE) for _ in range(100))).SerializeToString()
    assert 50_000 < len(large) < 100_000
    with running_collector(tmp_path) as running:
        with connect(running) as first, connect(running) as second:
            for connection in (first, second):
                connection.sendall(head(large) + large[:-1])
            refused = answer(second.makefile("rb"))
            first.sendall(large[-1:])
            taken = answer(first.makefile("rb"))
            assert (refused[0], refused[1][b"retry-after"], refused[1][b"connection"]) == (503, b"2", b"close")
            assert taken[0] == 200
        for _ in range(3):
            with connect(running) as leaving:
                leaving.sendall(head(large) + large[:-1])
        time.sleep(0.1)
        assert ask(running, head(large) + large)[0] == 200


def test_a_sender_that_stops_in_its_body_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BODY_S", 0.2)
    with running_collector(tmp_path) as running, connect(running) as connection, connection.makefile("rb") as answers:
        connection.sendall(head(GOOD) + GOOD[:-1])

        assert answer(answers)[0] == 408
        assert answer(answers)[0] == 0
