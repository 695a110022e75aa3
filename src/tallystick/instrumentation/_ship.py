"""Sends the spool's segments to the collector, in the background; the app never waits for it.

OTLP/HTTP over ``http.client``: no proxy is ever used, each request has one deadline for all of it (the stock exporter's
is per read), and 64 kB of the answer are read at most.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._spool import Spool, Tally
from tallystick.model.places import authorities, bearer
from tallystick.model.segment import Kind, Record, orphans, read_records

log = logging.getLogger("tallystick.ship")

GATHER_S = 0.1
"""How long the shipper waits after a record, so that one request carries many."""
REQUEST_S = 10.0
EXIT_S = 0.25
ADOPT_EVERY_S = 60.0
HEADERS = {"Content-Type": "application/x-protobuf", "User-Agent": "tallystick"}
BODY_BYTES_MAX = 4 * 1024 * 1024
ANSWER_BYTES_MAX = 64 * 1024
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Undelivered(Exception):  # noqa: N818 -- a state, not a fault
    """The collector did not take a body; ``final`` tells that it never will."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class _Deadline:
    """Makes every read of a socket end at ``until``: a timeout of its own is per read, and a drip never ends."""

    until: float = 0.0

    def recv_into(self, *args: Any) -> int:
        self.settimeout(max(self.until - time.monotonic(), 0.001))  # type: ignore[attr-defined]
        return super().recv_into(*args)  # type: ignore[misc, no-any-return]


class _Socket(_Deadline, socket.socket):
    pass


class _TlsSocket(_Deadline, ssl.SSLSocket):
    pass


def connect(url: str, timeout_s: float) -> HTTPConnection:
    """Open a connection whose ``sock.until`` is the deadline of all that is read from it."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=authorities(os.environ))
        context.sslsocket_class = _TlsSocket
        connection: HTTPConnection = HTTPSConnection(
            parts.hostname or "", parts.port, timeout=timeout_s, context=context
        )
        connection.connect()
    else:
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        connection.connect()
        connection.sock = _Socket(fileno=connection.sock.detach())
        connection.sock.settimeout(timeout_s)
    return connection


def post(url: str, body: bytes, timeout_s: float) -> None:
    """POST an OTLP body to ``url``/v1/traces; return when it is acknowledged, ``timeout_s`` later at most.

    Raises Undelivered: final for answers that OTLP says not to retry, every 4xx but 408 and 429; and but 401, since
    somebody may still set the right token.
    """
    until = time.monotonic() + timeout_s
    try:
        connection = connect(url, timeout_s)
        try:
            connection.sock.until = until  # type: ignore[union-attr]
            connection.request("POST", f"{urlsplit(url).path}/v1/traces", body, HEADERS | bearer(os.environ, url))
            with closing(connection.getresponse()) as response:
                response.read(ANSWER_BYTES_MAX)
                status = response.status
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise Undelivered(str(error) or type(error).__name__) from error
    if not 200 <= status < 300:
        is_final = 400 <= status < 500 and status not in {401, 408, 429}
        raise Undelivered(f"the collector answered {status}", final=is_final)


def bodies(segment: bytes) -> list[bytes]:
    """Return the OTLP bodies to send for a segment's bytes; records are joined, since two requests in a row are one."""
    joined: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for record in read_records(segment):
        if not isinstance(record, Record) or record.kind != Kind.TRACES:
            continue
        if gathered and size + len(record.payload) > BODY_BYTES_MAX:
            joined.append(b"".join(gathered))
            gathered, size = [], 0
        gathered.append(record.payload)
        size += len(record.payload)
    return [*joined, b"".join(gathered)] if gathered else joined


class Shipper:
    """A daemon thread per process, started with the first record; a forked child starts its own when it must."""

    def __init__(self, spool: Spool, url: str, report_dropped: Callable[[Tally, int], None]) -> None:
        self.spool = spool
        self.url = url
        self.report_dropped = report_dropped
        self._pid = 0
        self._failures = 0
        self._woken = threading.Event()
        self._sending = threading.Lock()

    def wake(self) -> None:
        """Say that there is something to ship; returns at once."""
        if self._pid != os.getpid():
            self._start()
        if not self._woken.is_set():
            self._woken.set()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._woken = threading.Event()
        self._sending = threading.Lock()
        with guard("the start of the shipping thread"):
            threading.Thread(target=self._run, name="tallystick-ship", daemon=True).start()

    def _run(self) -> None:
        adopted_at = -ADOPT_EVERY_S
        while True:
            self._woken.wait()
            time.sleep(GATHER_S)
            self._woken.clear()
            shipped = False
            with guard("the shipping of spans"):
                shipped = self.ship(REQUEST_S)
                if shipped and time.monotonic() - adopted_at > ADOPT_EVERY_S:
                    self._adopt()
                    adopted_at = time.monotonic()
            self._failures = 0 if shipped else min(self._failures + 1, len(BACKOFF_S))
            if self._failures:
                time.sleep(BACKOFF_S[self._failures - 1])
                self._woken.set()

    def leave(self) -> None:
        """Send what is left when the process ends, for `EXIT_S` at most; the rest stays for whoever adopts it."""
        if self._pid == os.getpid() and not self._failures:
            self.ship(EXIT_S)

    def ship(self, timeout_s: float) -> bool:
        """Send all that is spooled; True when nothing is left, False when the collector did not take it in time."""
        until = time.monotonic() + timeout_s
        sending = self._sending  # a thread that starts meanwhile makes another one
        if not sending.acquire(timeout=timeout_s):
            return False
        try:
            if (dropped := self.spool.take_dropped()).records:
                self.report_dropped(dropped, time.time_ns())
            for segment in self.spool.seal():
                self._send(self.spool.read(segment), segment.path, until)
                self.spool.remove(segment)
        except Undelivered as undelivered:
            log.debug(
                "the collector at %s takes no spans: %s; they stay in %s", self.url, undelivered, self.spool.folder
            )
            return False
        finally:
            sending.release()
        return True

    def _send(self, data: bytes, path: Path, until: float) -> None:
        for body in bodies(data):
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise Undelivered("no time left")
            try:
                post(self.url, body, left_s)
            except Undelivered as undelivered:
                if not undelivered.final:
                    raise
                # Sending it again would not help, and deleting it would hide it.
                path.with_suffix(".refused").write_bytes(data)
                log.warning("%s for good; the records are kept in %s", undelivered, path.with_suffix(".refused"))
                return

    def _adopt(self) -> None:
        """Ship what dead processes left in the same folder."""
        for path, fd in orphans(self.spool.folder):
            try:
                self._send(path.read_bytes(), path, time.monotonic() + REQUEST_S)
                path.unlink(missing_ok=True)
            except Undelivered:
                return
            finally:
                os.close(fd)
