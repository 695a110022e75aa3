"""The line to the collector for what the app must wait for: kept open, never through a proxy, with one deadline.

`_ship` sends spans when it suits; here a call of the app waits for the answer, so connections are kept and each
question has one deadline for all of it.  A collector's answer comes in one piece and is read as such, at a quarter of
what `http.client` takes; whatever else an answer may be is left to that.
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tallystick.instrumentation._ship import ANSWER_BYTES_MAX, connect
from tallystick.model.places import bearer

KEPT_MAX = 8
"""How many connections are kept open while nobody asks."""
PIECE_BYTES = 4096
"""So much of an answer is read at once; but for the rules, all of them are shorter."""


class Unreachable(Exception):  # noqa: N818 -- a state, not a fault
    """The collector did not answer in time, or not in a way that says anything."""

    was_sent = True
    """False when nobody can have heard the question."""


class Line:
    """Connections to one collector; safe for threads, and a forked child opens its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = urlsplit(url).path.rstrip("/")
        self._host = _host(url)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kept: list[HTTPConnection] = []
        self._closed = False

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the answer, ``timeout_s`` later at most; raises Unreachable when there is none."""
        if self._pid != os.getpid():
            self._reset()
        until = time.monotonic() + timeout_s
        with self._lock:
            connection = self._kept.pop() if self._kept else None
        was_sent = connection is not None
        if connection is not None:
            try:
                return self._exchange(connection, method, path, body, until, bytes_max)
            except (OSError, HTTPException, ValueError):
                connection.close()  # the collector may have closed it long ago; that says nothing of it now
        try:
            connection = self._connect(until - time.monotonic())
        except Unreachable as error:
            error.was_sent = was_sent
            raise
        try:
            return self._exchange(connection, method, path, body, until, bytes_max)
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            raise Unreachable(_said(error)) from error

    def open(self, timeout_s: float) -> None:
        """Have a connection ready; raises Unreachable when nobody takes it in time."""
        self._keep(self._connect(timeout_s))

    def _connect(self, timeout_s: float) -> HTTPConnection:
        try:
            return connect(self.url, max(timeout_s, 0.001))
        except (OSError, ValueError) as error:
            raise Unreachable(_said(error)) from error

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        until: float,
        bytes_max: int,
    ) -> tuple[int, dict[str, Any]]:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no time left")
        sock: Any = connection.sock
        sock.settimeout(left_s)
        sock.until = until
        sock.sendall(self._request(method, path, body))
        piece = _piece(sock)
        if (plain := _plain(piece)) is not None:
            self._keep(connection)
            return plain[0], _json(plain[1])
        response = HTTPResponse(_Rest(piece, sock), method=method)  # type: ignore[arg-type]
        response.begin()
        answer = response.read(bytes_max)
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._keep(connection)
        return response.status, _json(answer)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        lines = [f"{method} {self._path}{path} HTTP/1.1", f"Host: {self._host}", "User-Agent: tallystick"]
        lines += [f"{name}: {value}" for name, value in bearer(os.environ, self.url).items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        return "\r\n".join([*lines, "\r\n"]).encode("ascii") + data

    def _keep(self, connection: HTTPConnection) -> None:
        with self._lock:
            if len(self._kept) < KEPT_MAX and not self._closed:
                self._kept.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is open, and keep nothing open from now on."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()


class _Rest(io.RawIOBase):
    """What is left of an answer: a piece that was read already, then whatever a socket brings."""

    def __init__(self, piece: bytes, sock: Any) -> None:
        self._piece = memoryview(piece)
        self._sock = sock

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some of it."""
        if not self._piece:
            return int(self._sock.recv_into(buffer))
        size = min(len(buffer), len(self._piece))
        buffer[:size], self._piece = self._piece[:size], self._piece[size:]
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return it as `http.client` wants it of a socket."""
        return io.BufferedReader(self)


def _piece(sock: Any) -> bytes:
    buffer = bytearray(PIECE_BYTES)
    return bytes(buffer[: sock.recv_into(buffer)])


def _plain(piece: bytes) -> tuple[int, bytes] | None:
    """Return status and body of an answer that is there whole, with its length, on a connection that is kept."""
    head, found, body = piece.partition(b"\r\n\r\n")
    head = head.lower()
    if not found or not head.startswith((b"http/1.1 2", b"http/1.1 4", b"http/1.1 5")):
        return None
    if b"\r\ntransfer-encoding:" in head or b"\r\nconnection:" in head or head.count(b"\r\ncontent-length:") != 1:
        return None
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
    if not head[9:12].isdigit() or length != str(len(body)).encode():
        return None
    return int(head[9:12]), body


def _host(url: str) -> str:
    """Return what a request says of whom it is for."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name.encode("idna").decode() if not name.isascii() else name
    return name if parts.port is None else f"{name}:{parts.port}"


def _json(answer: bytes) -> dict[str, Any]:
    """Return the object that was answered; empty for anything else, as an error page."""
    try:
        told = json.loads(answer)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
