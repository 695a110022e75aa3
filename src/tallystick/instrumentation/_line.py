"""The line to the collector for what the app must wait for: kept open, never through a proxy, with one deadline.

`_ship` sends spans when it suits; here a call of the app waits for the answer, so connections are kept and each
question has one deadline for all of it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from tallystick.instrumentation._ship import ANSWER_BYTES_MAX, connect
from tallystick.model.places import bearer

KEPT_MAX = 8
"""How many connections are kept open while nobody asks."""


class Unreachable(Exception):  # noqa: N818 -- a state, not a fault
    """The collector did not answer in time, or not in a way that says anything."""

    was_sent = True
    """False when nobody can have heard the question."""


class Line:
    """Connections to one collector; safe for threads, and a forked child opens its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = urlsplit(url).path.rstrip("/")
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
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = (
            {"User-Agent": "tallystick"}
            | bearer(os.environ, self.url)
            | ({} if data is None else {"Content-Type": "application/json"})
        )
        connection.request(method, f"{self._path}{path}", data, headers)
        response = connection.getresponse()
        answer = response.read(bytes_max)
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._keep(connection)
        return response.status, _json(answer)

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


def _json(answer: bytes) -> dict[str, Any]:
    """Return the object that was answered; empty for anything else, as an error page."""
    try:
        told = json.loads(answer)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
