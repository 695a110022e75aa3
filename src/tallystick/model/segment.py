"""One file format for what must not be lost: the app's spool and the collector's journal.

A segment is a run of records, each appended by a single ``write`` to a file opened with ``O_APPEND``:

    magic "TLY1" | kind u8 | 3 zero bytes | length u32 | crc32 u32 | time_ns u64 | payload

little-endian; the checksum covers kind, length, time and payload.  A reader stops at a torn tail, steps over a damaged
stretch to the next record that checks, and says how many bytes it stepped over.  The owner of a spool segment holds an
``flock`` on it, so a segment that can be locked belongs to nobody alive.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

MAGIC = b"TLY1"
HEADER = struct.Struct("<4sB3xIIQ")
COVERED = struct.Struct("<BIQ")
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
SUFFIX = ".tly"


class Kind(IntEnum):
    """What a record's payload is."""

    TRACES = 1
    """An OTLP ``ExportTraceServiceRequest``, protobuf, not compressed.  Two of them concatenated are one."""
    ALERT = 2
    """JSON: an alert was claimed, delivered or given up; see `tallystick.collector`."""
    NOTE = 3
    """JSON: what the writer wants the ledger to know, such as a count of dropped records."""
    PRICES = 4
    """zlib of JSON: the price book by which everything behind it is priced."""
    REPRICE = 5
    """JSON: units that are to be priced again by the book in force; see `tallystick.collector.reprice`."""
    BUDGET = 6
    """JSON: an event of the budgets' ledger; see `tallystick.model.ledger`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read back; ``end`` is the offset just behind it."""

    kind: int
    time_ns: int
    payload: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that is not a record: flipped bits, or garbage."""

    start: int
    end: int


def encode_record(kind: Kind, payload: bytes, time_ns: int) -> bytes:
    """Return the bytes of one record, for a single ``write``."""
    covered = COVERED.pack(kind, len(payload), time_ns)
    return HEADER.pack(MAGIC, kind, len(payload), zlib.crc32(payload, zlib.crc32(covered)), time_ns) + payload


def read_records(data: bytes | memoryview, start: int = 0) -> Iterator[Record | Damage]:
    """Yield the records of ``data`` from ``start``, and a `Damage` for each stretch that is none.

    A torn tail (a record whose end is missing) yields nothing: it may still be being written.
    """
    data = bytes(data)
    at = start
    while at + HEADER.size <= len(data):
        record = _record_at(data, at)
        if record is not None:
            yield record
            at = record.end
            continue
        if _is_torn(data, at):
            return
        following = _next_record(data, at + 1)
        if following is None and _next_torn(data, at + 1) is None:
            yield Damage(at, len(data))
            return
        resumed = following.start if following else _next_torn(data, at + 1)
        assert resumed is not None, "one of the two was found"
        yield Damage(at, resumed)
        at = resumed


def _record_at(data: bytes, at: int) -> Record | None:
    if at + HEADER.size > len(data):
        return None
    magic, kind, length, checksum, time_ns = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX or end > len(data):
        return None
    payload = data[at + HEADER.size : end]
    if zlib.crc32(payload, zlib.crc32(COVERED.pack(kind, length, time_ns))) != checksum:
        return None
    return Record(kind, time_ns, payload, at, end)


def _is_torn(data: bytes, at: int) -> bool:
    """Tell whether a plausible record begins at ``at`` and runs over the end, with no whole record behind it."""
    magic, _, length, _, _ = HEADER.unpack_from(data, at)
    runs_over = magic == MAGIC and length <= PAYLOAD_BYTES_MAX and at + HEADER.size + length > len(data)
    return runs_over and _next_record(data, at + 1) is None


def _next_record(data: bytes, at: int) -> Record | None:
    while (at := data.find(MAGIC, at)) >= 0:
        if record := _record_at(data, at):
            return record
        at += 1
    return None


def _next_torn(data: bytes, at: int) -> int | None:
    while (at := data.find(MAGIC, at)) >= 0 and at + HEADER.size <= len(data):
        if _is_torn(data, at):
            return at
        at += 1
    return None


def write_all(fd: int, data: bytes) -> None:
    """Write ``data`` whole; raise OSError when the disk takes only a part."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def lock(fd: int) -> bool:
    """Take the segment's lock without waiting; False when its owner is alive.  The lock goes when the fd is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def orphans(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield (path, locked fd) for each segment in ``folder`` whose owner is gone; the caller closes the fd."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # shipped and removed since it was listed, or not ours to read
            continue
        if lock(fd) and os.fstat(fd).st_nlink:
            yield path, fd
        else:
            os.close(fd)
