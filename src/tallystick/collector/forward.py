"""Sends all that arrives on to a second OTLP endpoint, from the journal: an outage there loses and slows nothing.

Its own position in the journal is kept in a file, so it goes on where it was; a body may arrive twice when the process
ends between an answer and that file, and OTLP's ids tell the receiver.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tallystick.alerts.outside import connection_to
from tallystick.collector.journal import Journal, Position
from tallystick.model.segment import Damage, Kind, Record

log = logging.getLogger("tallystick.forward")

BODY_BYTES = 2 * 1024 * 1024
ANSWER_BYTES_MAX = 64 * 1024
DEADLINE_S = 30.0
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
RETRY_AFTER_S_MAX = 600.0
REFUSED = frozenset({400, 413, 415, 422})
"""What says that this body will never be taken.  All else (a wrong token, a redirect) somebody may still mend."""
IDLE_S = 0.5


@dataclass(slots=True)
class Progress:
    """How far the second endpoint has got; written to a file after each answer."""

    endpoint: str
    """A digest of its URL: another endpoint begins where the journal then ends."""
    segment: int
    offset: int
    sent_records: int = 0
    rejected_spans: int = 0
    """Spans that it did not take, as its partial success says."""
    refused_records: int = 0
    """Records in bodies that it refused for good."""


class NotTakenError(Exception):
    """The endpoint did not take a body; ``retry_after_s`` is what it asks to wait."""

    def __init__(self, reason: str, *, final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.final = final
        self.retry_after_s = retry_after_s


class Forwarder:
    """One thread that sends ``journal`` to ``endpoint``; its progress is kept at ``path``."""

    def __init__(self, journal: Journal, endpoint: str, headers: Mapping[str, str], path: Path) -> None:
        self.journal = journal
        self.endpoint = endpoint.rstrip("/")
        self.fault: str | None = None
        """Why the endpoint takes nothing at the moment."""
        self._headers = {
            "Content-Type": "application/x-protobuf", "Content-Encoding": "gzip", "User-Agent": "tallystick", **headers
        }  # fmt: skip
        self._path = path
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self.progress = self._load()
        self._thread = threading.Thread(target=self._run, name="tallystick-forward", daemon=True)

    @property
    def position(self) -> Position:
        """Up to where the journal was sent."""
        return Position(self.progress.segment, self.progress.offset)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is under way is broken off, and sent again by the next one."""
        self._stopping.set()
        self._hang_up()
        if self._thread.ident is not None:
            self._thread.join()

    def state(self) -> dict[str, Any]:
        """Return what the ledger tells of it."""
        return {
            "host": urlsplit(self.endpoint).netloc.rpartition("@")[2],
            "sent_records": self.progress.sent_records,
            "refused_records": self.progress.refused_records,
            "rejected_spans": self.progress.rejected_spans,
            "behind_bytes": max(self.journal.bytes_between(self.position, self.journal.end), 0),
            "fault": self.fault,
        }

    def _load(self) -> Progress:
        digest = hashlib.sha256(self.endpoint.encode()).hexdigest()[:16]
        with suppress(OSError, ValueError, TypeError):
            progress = Progress(**json.loads(self._path.read_text()))
            if progress.endpoint == digest:
                return progress
        return Progress(digest, self.journal.end.segment, self.journal.end.offset)

    def _save(self) -> None:
        partial = self._path.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self.progress)))
        partial.replace(self._path)

    def _run(self) -> None:
        with suppress(OSError):
            self._save()  # what arrives while the endpoint is down from the start is behind this position
        failures = 0
        while not self._stopping.is_set():
            if not self.journal.wait(self.position, IDLE_S):
                continue
            try:
                self._step()
                failures, self.fault = 0, None
            except (NotTakenError, OSError) as error:
                if self.fault is None:
                    log.warning("forwarding waits: %s; nothing is lost, it goes on from there", error)
                self.fault = str(error)
                asked_s = error.retry_after_s if isinstance(error, NotTakenError) else 0.0
                self._stopping.wait(max(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)], asked_s))
                failures += 1

    def _step(self) -> None:
        found, upto = self.journal.read(self.position, BODY_BYTES)
        for records in _bodies(found):
            self._send(records)
        self.progress.segment, self.progress.offset = upto.segment, upto.offset
        self._save()

    def _send(self, records: Sequence[Record]) -> None:
        """Send records as one body (joined messages are one message); what is refused for good is counted."""
        try:
            rejected = self._post(gzip.compress(b"".join(record.payload for record in records), 1))
        except NotTakenError as error:
            if not error.final:
                raise
            log.warning("%d records are not forwarded: %s", len(records), error)
            self.progress.refused_records += len(records)
            return
        self.progress.sent_records += len(records)
        self.progress.rejected_spans += rejected

    def _post(self, body: bytes) -> int:
        """Return how many spans the endpoint says it did not take; raises NotTakenError."""
        parts = urlsplit(self.endpoint)
        try:
            with closing(connection_to(parts, DEADLINE_S)) as connection:
                connection.connect()
                # The timeout is for each read, and a drip never ends by it.
                self._socket = connection.sock
                hanging_up = threading.Timer(DEADLINE_S, self._hang_up)
                hanging_up.daemon = True
                hanging_up.start()
                try:
                    connection.request("POST", f"{parts.path}/v1/traces", body, self._headers)
                    with closing(connection.getresponse()) as response:
                        answer = response.read(ANSWER_BYTES_MAX)
                finally:
                    hanging_up.cancel()
        except (OSError, HTTPException) as error:
            # The text of an HTTPException may quote what was sent, and headers are secret.
            reason = str(error) if isinstance(error, OSError) else type(error).__name__
            raise NotTakenError(f"{parts.hostname} cannot be reached: {reason}") from error
        if response.status == 200:
            return _rejected(answer)
        raise NotTakenError(
            f"{parts.hostname} answered {response.status}",
            final=response.status in REFUSED,
            retry_after_s=_seconds(response.headers.get("Retry-After", "")),
        )

    def _hang_up(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)


def _bodies(found: Sequence[Record | Damage]) -> Iterator[list[Record]]:
    """Yield the records of one request each."""
    gathered: list[Record] = []
    size = 0
    for record in found:
        if not isinstance(record, Record) or record.kind != Kind.TRACES:
            continue
        if gathered and size + len(record.payload) > BODY_BYTES:
            yield gathered
            gathered, size = [], 0
        gathered.append(record)
        size += len(record.payload)
    if gathered:
        yield gathered


def _rejected(answer: bytes) -> int:
    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:  # a 200 of something that speaks no OTLP: it took the body
        return 0


def _seconds(value: str) -> float:
    return min(float(value), RETRY_AFTER_S_MAX) if value.isascii() and value.isdecimal() else 0.0
