"""``POST /v1/traces``: check, make durable, then answer.  No database is waited for, or even known, here."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tallystick.collector import otlp, patience
from tallystick.collector.journal import Journal, JournalFullError
from tallystick.collector.settings import CollectorSettings
from tallystick.collector.spans import rejections
from tallystick.errors import MalformedBatchError
from tallystick.model.segment import Kind, encode_record

RETRY_AFTER_S = 2
THREAD_BYTES = 256 * 1024
"""A larger body is looked into in a thread, so that others are answered meanwhile."""
HELD_BYTES_MAX = 128 * 1024 * 1024
"""What all requests under way may hold together; above that the answer is to come back later."""

REFUSED = (otlp.UnsupportedError, otlp.TooLargeError, MalformedBatchError, JournalFullError)

# google.rpc.Code
INVALID_ARGUMENT, UNAVAILABLE, RESOURCE_EXHAUSTED, PERMISSION_DENIED = 3, 14, 8, 7


@dataclass(slots=True)
class Receiver:
    """Takes OTLP over HTTP into a journal."""

    journal: Journal
    settings: CollectorSettings
    held_bytes: int = 0

    async def traces(self, request: Request) -> Response:
        """Answer an export of spans; 200 only when it is durable."""
        media = _media_for_answer(request)
        try:
            media = otlp.media_type(request.headers.get("content-type", ""))
            body = await self._body(request)
        except REFUSED as error:
            return self.refusal(media, error)
        except (ClientDisconnect, TimeoutError):
            return Response(status_code=408, headers={"Connection": "close"})
        return await self.export(media, request.headers.get("content-encoding", ""), body)

    async def export(self, media: str, encoding: str, body: bytes) -> Response:
        """Answer a body of spans that is there whole, and that is held no longer then."""
        try:
            return await self._take(media, encoding, body)
        except REFUSED as error:
            return self.refusal(media, error)
        finally:
            self.release(len(body))

    def hold(self, size: int) -> bool:
        """Count ``size`` bytes that have arrived; False when there are too many now."""
        self.held_bytes += size
        return self.held_bytes <= HELD_BYTES_MAX

    def release(self, size: int) -> None:
        """Count ``size`` bytes no longer."""
        self.held_bytes -= size

    @staticmethod
    def refusal(media: str, error: Exception) -> Response:
        """Return the answer to what is not taken."""
        if isinstance(error, otlp.UnsupportedError):
            status, code = 415, INVALID_ARGUMENT
        elif isinstance(error, otlp.TooLargeError):
            status, code = 413, RESOURCE_EXHAUSTED
        elif isinstance(error, JournalFullError):
            status, code = 503, UNAVAILABLE
        else:
            status, code = 400, INVALID_ARGUMENT
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
        return Response(otlp.error_body(media, code, str(error)), status, headers, media_type=media)

    @staticmethod
    def overfull() -> Exception:
        """Return why what arrives is not held."""
        return JournalFullError("too much is arriving at the same time")

    async def ignored(self, request: Request) -> Response:
        """Answer an export of metrics or logs: well received, not stored.  An empty message is a success in both."""
        media = _media_for_answer(request)
        try:
            self.release(len(await self._body(request)))
        except REFUSED as error:
            return self.refusal(media, error)
        except (ClientDisconnect, TimeoutError):
            return Response(status_code=408, headers={"Connection": "close"})
        return Response(b"{}" if media == otlp.JSON else b"", media_type=media)

    async def _take(self, media: str, encoding: str, body: bytes) -> Response:
        received_ns = time.time_ns()
        if len(body) > THREAD_BYTES:
            record, rejected = await asyncio.to_thread(self.record, media, encoding, body, received_ns)
        else:
            record, rejected = self.record(media, encoding, body, received_ns)
        await asyncio.wrap_future(self.journal.append_encoded(record))
        return Response(otlp.answer(media, rejected), media_type=media)

    def record(self, media: str, encoding: str, body: bytes, received_ns: int) -> tuple[bytes, Counter[str]]:
        """Return the journal's record of a body, and why how many of its spans are not taken."""
        plain = otlp.inflate(body, encoding, self.settings.body_bytes_max)
        lost: Counter[str] = Counter()
        if media == otlp.JSON:
            plain, lost = otlp.from_json(plain)
        try:
            count, rejected = rejections(plain, received_ns, self.settings.spans_max, self.settings.attributes_max)
        except DecodeError as error:
            raise MalformedBatchError("the body is not an OTLP ExportTraceServiceRequest in protobuf") from error
        record = encode_record(Kind.TRACES, plain, received_ns) if count else b""
        if lost:  # these never were protobuf, so the record does not hold them; the ledger must
            counts = {f"rejected:{reason}": number for reason, number in lost.items()} | {"received": lost.total()}
            record += encode_record(Kind.NOTE, json.dumps({"counts": counts}).encode(), received_ns)
        return record, rejected + lost

    async def _body(self, request: Request) -> bytes:
        """Return the body; what it holds of memory is counted until the caller has done with it."""
        bytes_max = self.settings.body_bytes_max
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > bytes_max:
            raise otlp.TooLargeError(bytes_max)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(patience.BODY_S):
                async for part in request.stream():
                    size += len(part)
                    is_held = self.hold(len(part))
                    self._bound(size, is_held=is_held)
                    parts.append(part)
        except BaseException:
            self.release(size)
            raise
        return b"".join(parts)

    def _bound(self, size: int, *, is_held: bool) -> None:
        if size > self.settings.body_bytes_max:
            raise otlp.TooLargeError(self.settings.body_bytes_max)
        if not is_held:
            raise self.overfull()


def _media_for_answer(request: Request) -> str:
    return otlp.JSON if request.headers.get("content-type", "").lower().startswith(otlp.JSON) else otlp.PROTOBUF
