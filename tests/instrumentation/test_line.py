"""A question to the collector is answered whatever form the answer has, and by its deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tallystick.instrumentation._line import PIECE_BYTES, Line, Unreachable, _host

BODY = b'{"admitted":true}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
PLAIN = HEAD + b"Content-Length: 17\r\n\r\n" + BODY
LONG = b'{"admitted":true,"why":"' + b"x" * 3 * PIECE_BYTES + b'"}'


class Answers:
    """A server that answers each request of each connection with the same pieces."""

    def __init__(self, pieces: tuple[bytes, ...], pause_s: float, *, hangs_up: bool) -> None:
        self.pieces, self.pause_s, self.hangs_up = pieces, pause_s, hangs_up
        self.asked: list[bytes] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        try:
            while request := connection.recv(65536):
                self.asked.append(request)
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.pause_s)
                if self.hangs_up:
                    return
        except OSError:
            return


@contextmanager
def answering(*pieces: bytes, pause_s: float = 0.0, hangs_up: bool = False) -> Iterator[tuple[Answers, Line]]:
    server = Answers(pieces, pause_s, hangs_up=hangs_up)
    thread = threading.Thread(target=server.serve)
    thread.start()
    line = Line(server.url)
    try:
        yield server, line
    finally:
        line.close()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()


def ask(line: Line, timeout_s: float = 10.0, bytes_max: int = 65536) -> tuple[int, dict[str, object]]:
    return line.ask("POST", "/api/v1/reservations", {"id": "a"}, timeout_s, bytes_max)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((PLAIN,), id="in-one-piece"),
        *[pytest.param((PLAIN[:at], PLAIN[at:]), id=f"cut-at-{at}") for at in (1, 20, 60, len(PLAIN) - 17, 90)],
        pytest.param((HEAD + b"Transfer-Encoding: chunked\r\n\r\n11\r\n", BODY, b"\r\n0\r\n\r\n"), id="chunked"),
        pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,), id="after-a-hundred"),
    ],
)
def test_an_answer_is_read_in_whatever_pieces_it_comes(pieces: tuple[bytes, ...]) -> None:
    with answering(*pieces, pause_s=0.02) as (server, line):
        assert [ask(line) for _ in range(3)] == [(200, {"admitted": True})] * 3

    assert server.connections == 1, "the connection is kept"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"Content-Length: 17\r\nConnection: close\r\n\r\n" + BODY, id="says-so"),
        pytest.param(HEAD + b"\r\n" + BODY, id="has-no-length"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 17\r\n\r\n" + BODY, id="is-of-1.0"),
    ],
)
def test_a_connection_that_ends_with_its_answer_is_not_used_again(answer: bytes) -> None:
    with answering(answer, hangs_up=True) as (server, line):
        assert [ask(line) for _ in range(2)] == [(200, {"admitted": True})] * 2

    assert server.connections == 2


def test_a_long_answer_is_read_whole_and_no_further_than_is_allowed() -> None:
    long = HEAD + b"Content-Length: %d\r\n\r\n" % len(LONG) + LONG
    with answering(long) as (_, line):
        assert len(str(ask(line)[1]["why"])) == 3 * PIECE_BYTES
        assert ask(line, bytes_max=5000) == (200, {}), "what is cut says nothing"


@pytest.mark.parametrize("status", [409, 503])
def test_a_refusal_keeps_its_status(status: int) -> None:
    with answering(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % status) as (_, line):
        assert ask(line) == (status, {})


@pytest.mark.parametrize("pieces", [(), (HEAD,), tuple(bytes([byte]) for byte in PLAIN)])
def test_an_answer_that_does_not_come_in_time_is_none(pieces: tuple[bytes, ...]) -> None:
    with answering(*pieces, pause_s=0.05) as (_, line):
        since = time.monotonic()
        with pytest.raises(Unreachable) as told:
            ask(line, timeout_s=0.3)

    assert told.value.was_sent
    assert time.monotonic() - since < 5


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02P"])
def test_what_is_no_answer_says_nothing(answer: bytes) -> None:
    with answering(answer, hangs_up=True) as (_, line), pytest.raises(Unreachable):
        ask(line)


def test_a_question_says_whom_it_is_for_and_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_TOKEN", "sesame")
    with answering(PLAIN) as (server, line):
        ask(line)

    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /api/v1/reservations HTTP/1.1", f"Host: {server.url[7:]}".encode(), b"User-Agent: tallystick",
        b"Authorization: Bearer sesame", b"Content-Type: application/json", b"Content-Length: 10",
    ]  # fmt: skip
    assert body == b'{"id":"a"}'


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://[::1]:4318", "[::1]:4318"), ("https://who:why@b\u00fccher.example/x", "xn--bcher-kva.example")],
)
def test_a_host_is_written_as_http_wants_it(url: str, host: str) -> None:
    assert _host(url) == host
