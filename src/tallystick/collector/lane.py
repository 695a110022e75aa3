"""The short way in: an export as nearly every sender sends it is read without the general machinery of HTTP.

Such a request is a POST to /v1/traces of protobuf with a stated length, whose headers come in one piece.  Whatever else
a request may be, or have wrong with it, goes the long way, through h11 and Starlette; both ways end in `Receiver` and
are answered the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

import h11
from starlette.responses import Response

from tallystick.collector import otlp, patience
from tallystick.collector.access import Guard
from tallystick.collector.patience import PatientProtocol
from tallystick.collector.receive import Receiver

REQUEST = b"POST /v1/traces HTTP/1.1\r\n"
HEAD_BYTES_MAX = 8 * 1024
AHEAD_BYTES_MAX = 64 * 1024
"""A client may send its next request before the answer; so much of it is kept, the rest waits in the socket."""
LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*)")
LONG = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"origin", b"trailer", b"te"})
"""A request with one of these goes the long way."""


@dataclass(slots=True)
class Export:
    """A request under way."""

    encoding: str
    missing: int
    """How many bytes of the body are still to come."""
    parts: list[bytes] = field(default_factory=list)


class Lane(PatientProtocol):
    """Takes exports itself and leaves everything else to h11; `lane_to` gives it its receiver."""

    receiver: ClassVar[Receiver]
    guard: ClassVar[Guard]
    _export: Export | None = None
    _is_answering = False
    _is_ending = False
    _ahead = b""

    def data_received(self, data: bytes) -> None:
        """Begin an export, or go on with one, or pass on what is none."""
        if self._is_answering:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES_MAX:
                self.transport.pause_reading()
            return
        if self._export is None:
            found = self._begun(data) if self._is_idle(data) else None
            if found is None:
                super().data_received(data)
                return
            self._export, data = found
            self._unset_keepalive_if_required()
            self._stop_waiting()
            self._timer = self.loop.call_later(patience.BODY_S, self._give_up)
        self._take(self._export, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what had arrived of an export."""
        self._drop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End after the answer that is due."""
        if self._is_answering:
            self._is_ending = True
        else:
            self._drop()
            super().shutdown()

    def _is_idle(self, data: bytes) -> bool:
        """Tell whether ``data`` begins an export, and nothing before it is unfinished."""
        if not data.startswith(REQUEST) or self.conn.trailing_data[0]:
            return False
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    def _begun(self, data: bytes) -> tuple[Export, bytes] | None:
        """Return the export that ``data`` begins, and what is there of its body; None for what must go the long way."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        found = _headers(data[len(REQUEST) : end]) if end > 0 else None
        if found is None or found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        length = found.get(b"content-length", b"")
        if not (length.isdigit() and len(length) < 12 and int(length) <= self.receiver.settings.body_bytes_max):
            return None
        if found.get(b"content-type", b"").partition(b";")[0].strip().lower() != otlp.PROTOBUF.encode():
            return None
        if self.guard.refusal({"method": "POST", "path": "/v1/traces", "headers": found.items()}) is not None:
            return None
        return Export(found.get(b"content-encoding", b"").decode("ascii"), int(length)), data[end + 4 :]

    def _take(self, export: Export, data: bytes) -> None:
        if len(data) > export.missing:
            data, self._ahead = data[: export.missing], data[export.missing :]
        export.parts.append(data)
        export.missing -= len(data)
        if not self.receiver.hold(len(data)):
            self._is_ending = True
            self._drop()
            self._write(self.receiver.refusal(otlp.PROTOBUF, self.receiver.overfull()))
        elif not export.missing:
            self._stop_waiting()
            self._export, self._is_answering = None, True
            task = self.loop.create_task(self._answer(export.encoding, b"".join(export.parts)))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _answer(self, encoding: str, body: bytes) -> None:
        response = await self.receiver.export(otlp.PROTOBUF, encoding, body)
        self._is_answering = False
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._write(response)
        if self._is_ending:
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self.transport.resume_reading()
            self.data_received(data)

    def _write(self, response: Response) -> None:
        """Send an answer; the last one of the connection says so."""
        headers = [*self.server_state.default_headers, *response.raw_headers]
        if self._is_ending:
            headers.append((b"connection", b"close"))
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        status = HTTPStatus(response.status_code)
        told = b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, status.phrase.encode(), lines)
        self.transport.write(told + bytes(response.body))
        if self._is_ending:
            self.transport.close()

    def _give_up(self) -> None:
        """Hang up on a client that does not go on with its body."""
        self._timer = None
        if self._export is not None and not self.transport.is_closing():
            self._is_ending = True
            self._drop()
            self._write(Response(status_code=408))

    def _drop(self) -> None:
        if self._export is not None:
            self.receiver.release(sum(map(len, self._export.parts)))
            self._export = None


def lane_to(receiver: Receiver, guard: Guard) -> type[Lane]:
    """Return the protocol that hands exports to ``receiver``, if ``guard`` lets them."""
    return type("Lane", (Lane,), {"receiver": receiver, "guard": guard})


def _headers(head: bytes) -> dict[bytes, bytes] | None:
    """Return the headers by name; None when one comes twice, or is not as nearly all are."""
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = LINE.fullmatch(line)
        if match is None or (name := match[1].lower()) in found or name in LONG:
            return None
        found[name] = match[2].rstrip()
    return found
