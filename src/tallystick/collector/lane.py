"""The short way in: what comes with every call is read without the general machinery of HTTP.

Such a request is a POST to /v1/traces of protobuf, or one that asks, renews or settles a reservation; it states its
length, and its headers come in one piece.  Whatever else a request may be, or have wrong with it, goes the long way,
through h11 and Starlette; both ways end in `Receiver` or `Admission` and are answered the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

import h11
from starlette.responses import Response

from tallystick.collector import admission, otlp, patience
from tallystick.collector.access import Guard
from tallystick.collector.admission import Admission
from tallystick.collector.patience import PatientProtocol
from tallystick.collector.receive import Receiver

TRACES = "/v1/traces"
REQUESTS = {
    f"POST {path} HTTP/1.1\r\n".encode(): path
    for path in (TRACES, admission.RESERVE, admission.RENEW, admission.SETTLE)
}
FIRST_LINES = tuple(REQUESTS)
HEAD_BYTES_MAX = 8 * 1024
AHEAD_BYTES_MAX = 64 * 1024
"""A client may send its next request before the answer; so much of it is kept, the rest waits in the socket."""
LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*)")
LONG = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"origin", b"trailer", b"te"})
"""A request with one of these goes the long way."""


@dataclass(slots=True)
class Request:
    """A request under way."""

    path: str
    encoding: str
    missing: int
    """How many bytes of the body are still to come."""
    parts: list[bytes] = field(default_factory=list)

    @property
    def media(self) -> str:
        """In which form it is answered."""
        return otlp.PROTOBUF if self.path == TRACES else otlp.JSON


class Lane(PatientProtocol):
    """Takes what `REQUESTS` begin and leaves everything else to h11; `lane_to` tells it who answers."""

    receiver: ClassVar[Receiver]
    admission: ClassVar[Admission]
    guard: ClassVar[Guard]
    _request: Request | None = None
    _is_answering = False
    _is_ending = False
    _ahead = b""

    def data_received(self, data: bytes) -> None:
        """Begin a request, or go on with one, or pass on what is none of ours."""
        if self._is_answering:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES_MAX:
                self.transport.pause_reading()
            return
        if self._request is None:
            found = self._begun(data) if self._is_idle(data) else None
            if found is None:
                super().data_received(data)
                return
            self._request, data = found
            self._unset_keepalive_if_required()
            self._stop_waiting()
            self._timer = self.loop.call_later(patience.BODY_S, self._give_up)
        self._take(self._request, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what had arrived of a request."""
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
        """Tell whether ``data`` begins a request of ours, and nothing before it is unfinished."""
        if not data.startswith(FIRST_LINES) or self.conn.trailing_data[0]:
            return False
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    def _begun(self, data: bytes) -> tuple[Request, bytes] | None:
        """Return the request that ``data`` begins, and what is there of its body; None for what goes the long way."""
        first = data.index(b"\r\n") + 2
        path = REQUESTS[data[:first]]
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        found = _headers(data[first:end]) if end > 0 else None
        if found is None or found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        length = found.get(b"content-length", b"")
        if not (length.isdigit() and len(length) < 12 and int(length) <= self._bytes_max(path)):
            return None
        media = found.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if path == TRACES and media != otlp.PROTOBUF.encode():
            return None
        if self.guard.refusal({"method": "POST", "path": path, "headers": found.items()}) is not None:
            return None
        return Request(path, found.get(b"content-encoding", b"").decode("ascii"), int(length)), data[end + 4 :]

    def _bytes_max(self, path: str) -> int:
        return self.receiver.settings.body_bytes_max if path == TRACES else admission.BODY_BYTES_MAX

    def _take(self, request: Request, data: bytes) -> None:
        if len(data) > request.missing:
            data, self._ahead = data[: request.missing], data[request.missing :]
        request.parts.append(data)
        request.missing -= len(data)
        if not self.receiver.hold(len(data)):
            self._is_ending = True
            self._drop()
            self._write(self.receiver.refusal(request.media, self.receiver.overfull()))
        elif not request.missing:
            self._stop_waiting()
            self._request, self._is_answering = None, True
            task = self.loop.create_task(self._answer(request))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._answered(request, b"".join(request.parts))
        except BaseException:  # a fault of ours, or the end: the client is not left to wait
            self.transport.close()
            raise
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

    async def _answered(self, request: Request, body: bytes) -> Response:
        if request.path == TRACES:
            return await self.receiver.export(request.media, request.encoding, body)
        try:
            return await self.admission.answer("POST", request.path, body)
        finally:
            self.receiver.release(len(body))

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
        if self._request is not None and not self.transport.is_closing():
            self._is_ending = True
            self._drop()
            self._write(Response(status_code=408))

    def _drop(self) -> None:
        if self._request is not None:
            self.receiver.release(sum(map(len, self._request.parts)))
            self._request = None


def lane_to(receiver: Receiver, admission: Admission, guard: Guard) -> type[Lane]:
    """Return the protocol that hands requests to ``receiver`` and ``admission``, if ``guard`` lets them."""
    return type("Lane", (Lane,), {"receiver": receiver, "admission": admission, "guard": guard})


def _headers(head: bytes) -> dict[bytes, bytes] | None:
    """Return the headers by name; None when one comes twice, or is not as nearly all are."""
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = LINE.fullmatch(line)
        if match is None or (name := match[1].lower()) in found or name in LONG:
            return None
        found[name] = match[2].rstrip()
    return found
