"""What arrives is appended here, synced, and only then acknowledged; everything else can be rebuilt from it.

A journal is a folder of segments (`tallystick.model.segment`), numbered from 1.  Appends that wait at the same time
share one ``fdatasync``: a writer thread takes all of them, writes once, syncs once, and answers all.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tallystick.collector import blocks
from tallystick.collector.folder import sync_folder
from tallystick.errors import StoreError
from tallystick.model.segment import HEADER, SUFFIX, Damage, Kind, Record, encode_record, read_records, write_all

log = logging.getLogger("tallystick.journal")

APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
CHUNK_BYTES = 4 * 1024 * 1024
PACKED = ".gz"
SEGMENT = re.compile(rf"[0-9]+{re.escape(SUFFIX)}({re.escape(PACKED)})?")
SEGMENT_S = 86_400.0
"""A segment is ended after a day, so that what is old can be freed of little data too."""


class JournalFullError(StoreError):
    """The journal takes nothing now: the disk is full, or refuses; try again later."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: just behind ``offset`` bytes of the segment ``segment``."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a segment: from ``start`` on, about ``bytes_max``, and nothing behind the offset ``limit``."""

    path: Path
    start: Position
    limit: int
    bytes_max: int

    def read(self) -> tuple[list[Record | Damage], Position]:
        """Return its whole records, and where they end.  A chunk that ends in damage is read with all that follows."""
        offset, limit = self.start.offset, self.limit
        size = min(self.bytes_max, limit - offset)
        while True:
            data = _read(self.path, offset, size)
            found = list(read_records(data))
            is_whole = offset + size >= limit
            if not is_whole and (not found or isinstance(found[-1], Damage)):
                size = limit - offset if found else min(size * 4, limit - offset)
                continue
            end = found[-1].end if found else 0
            if is_whole and end < size:  # no process will end this record any more
                found.append(Damage(end, size))
                end = size
            return found, self.position(end)

    def position(self, end: int) -> Position:
        """Return the place just behind ``end`` bytes of it."""
        return Position(self.start.segment, self.start.offset + end)


@dataclass(slots=True)
class _Append:
    data: bytes
    done: Future[Position]


class Journal:
    """The journal in ``folder``; one writer thread, any number of appenders and readers."""

    def __init__(self, folder: Path, segment_bytes_max: int) -> None:
        self.folder = folder
        self.segment_bytes_max = segment_bytes_max
        self.fault: str | None = None
        """Why the last write failed, until one succeeds."""
        self.torn_bytes = 0
        """Bytes of a half-written record that the last process left; it was never acknowledged."""
        self._waiting: list[_Append] = []
        self._wake = threading.Condition()
        self._grown = threading.Condition()
        self._closing = False
        self._is_ragged = False
        self._begun_at = time.time()
        self._packed = self._find_packed()
        self._fd, self._end = self._open_last()
        self._sizes = {
            number: blocks.size(path) if number in self._packed else path.stat().st_size
            for number, path in ((number, self._path(number)) for number in self.segments())
        }
        self._writer = threading.Thread(target=self._write_forever, name="tallystick-journal", daemon=True)
        self._writer.start()

    # Appending

    def append(self, kind: Kind, payload: bytes) -> Future[Position]:
        """Append one record; the future is done when it is durable, and fails with JournalFullError when it is not."""
        return self.append_encoded(encode_record(kind, payload, time.time_ns()))

    def append_encoded(self, data: bytes) -> Future[Position]:
        """Append records that are encoded already, all of them or none."""
        append = _Append(data, Future())
        if not data:
            append.done.set_result(self._end)
            return append.done
        with self._wake:
            if self._closing:
                append.done.set_exception(JournalFullError("the collector is shutting down"))
                return append.done
            self._waiting.append(append)
            self._wake.notify()
        return append.done

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()
        os.close(self._fd)
        with self._grown:
            self._grown.notify_all()

    def _write_forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                group, self._waiting = self._waiting, []
            if not group:
                return
            try:
                self._write([append.data for append in group])
            except OSError as error:
                self.fault = f"the journal cannot be written: {error.strerror or error}"
                self._cut()
                refused = JournalFullError(self.fault)
                for append in group:
                    append.done.set_exception(refused)
                continue
            self.fault = None
            for append in group:
                append.done.set_result(self._end)

    def _write(self, records: Sequence[bytes]) -> None:
        """Write and sync; on failure the segment is as long as before."""
        if self._is_ragged:
            os.ftruncate(self._fd, self._end.offset)
            self._is_ragged = False
        is_old = self._end.offset and time.time() - self._begun_at > SEGMENT_S
        if is_old or self._end.offset >= self.segment_bytes_max:
            self._roll()
        data = b"".join(records)
        # A disk may take a part of the write, or all of it and then fail to sync: what was not acknowledged is cut off
        # before anything else is written.
        self._is_ragged = True
        write_all(self._fd, data)
        os.fdatasync(self._fd)
        self._is_ragged = False
        with self._grown:
            self._end = Position(self._end.segment, self._end.offset + len(data))
            self._sizes[self._end.segment] = self._end.offset
            self._grown.notify_all()

    def _cut(self) -> None:
        """Free what a failed write took of the disk at once, so that others find room; if even that fails, later."""
        with suppress(OSError):
            os.ftruncate(self._fd, self._end.offset)
            self._is_ragged = False

    def _roll(self) -> None:
        following = self._end.segment + 1
        fd = os.open(self._path(following), APPEND, 0o600)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._begun_at = time.time()
        with self._grown:
            self._end = Position(following, 0)
            self._sizes[following] = 0

    def _open_last(self) -> tuple[int, Position]:
        """Open the newest segment; a half-written record at its end is moved aside, so that appends are seen."""
        number = max(self.segments(), default=1)
        if number in self._packed:
            number += 1
        path = self._path(number)
        fd = os.open(path, APPEND, 0o600)
        sync_folder(self.folder)
        data = path.read_bytes()
        end = 0
        for found in read_records(data):
            if not end and isinstance(found, Record):
                self._begun_at = found.time_ns / 1e9
            end = found.end
        if end < len(data):
            self.torn_bytes = len(data) - end
            told = _set_aside(self.folder / f"{path.stem}-{end}.torn", data[end:])
            os.ftruncate(fd, end)
            os.fsync(fd)
            log.info("%s ended in %d bytes of a half-written record; they were %s", path, self.torn_bytes, told)
        return fd, Position(number, end)

    # Reading

    @property
    def end(self) -> Position:
        """How far the journal is durable."""
        return self._end

    def segments(self) -> list[int]:
        """Return the numbers of the segments, ascending."""
        return sorted(int(path.name.partition(".")[0]) for path in segments_in(self.folder))

    @property
    def start(self) -> Position:
        """Where the journal begins."""
        return Position(min(self._sizes.copy(), default=1), 0)

    def segment_count(self) -> int:
        """Return how many segments there are."""
        return len(self._sizes)

    def size_bytes(self) -> int:
        """Return what all segments hold, in bytes, before compression."""
        return sum(self._sizes.copy().values())

    def bytes_between(self, start: Position, end: Position) -> int:
        """Return how many bytes lie between two positions."""
        sizes = self._sizes.copy()
        whole = sum(size for number, size in sizes.items() if start.segment <= number < end.segment)
        return whole + end.offset - start.offset

    def wait(self, behind: Position, timeout_s: float) -> bool:
        """Wait until there is something behind ``behind``; False when there is nothing after ``timeout_s``."""
        with self._grown:
            return self._grown.wait_for(lambda: self._end > behind or self._closing, timeout_s) and self._end > behind

    def read(self, start: Position, bytes_max: int = CHUNK_BYTES) -> tuple[list[Record | Damage], Position]:
        """Return what lies behind ``start``, about ``bytes_max`` of it, and the position just behind that.

        A segment that is missing or cut short (somebody's hand, a bad disk) is stepped over.
        """
        stretch = self.stretch(start, bytes_max)
        return ([], stretch) if isinstance(stretch, Position) else stretch.read()

    def stretch(self, start: Position, bytes_max: int) -> Stretch | Position:
        """Return what lies behind ``start``, to be read; at the end of a segment, where the next one begins."""
        end = self._end
        if start.segment < end.segment and start.offset >= self._size(start.segment):
            following = [number for number in self.segments() if number > start.segment]
            return Position(min(following, default=end.segment), 0)
        limit = end.offset if start.segment == end.segment else self._size(start.segment)
        return Stretch(self._path(start.segment), start, limit, bytes_max)

    def begun_at(self, number: int) -> datetime:
        """Return when the first record of a segment was appended; now when there is none."""
        head = _read(self._path(number), 0, HEADER.size)
        at_s = HEADER.unpack(head)[-1] / 1e9 if len(head) == HEADER.size else time.time()
        return datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None)

    def ended_at(self, number: int) -> datetime:
        """Return when a segment was written to last."""
        return datetime.fromtimestamp(self._path(number).stat().st_mtime, UTC).replace(tzinfo=None)

    def unpacked(self) -> list[int]:
        """Return the numbers of the segments that are not compressed, ascending."""
        return sorted(self._sizes.keys() - self._packed)

    def pack(self, number: int) -> None:
        """Compress a segment that nobody writes to, or reads at the moment; positions in it stay as they are."""
        if number not in self._packed:
            with self._path(number).open("rb") as file:
                self._replace(number, file)

    def strip(self, number: int, is_kept: Callable[[Record], bool]) -> None:
        """Leave of a segment only the records that ``is_kept``; nobody may know a position in it."""
        data = _read(self._path(number), 0, self._size(number))
        kept = [data[found.start : found.end] for found in read_records(data)
                if isinstance(found, Record) and is_kept(found)]  # fmt: skip
        if sum(map(len, kept)) == len(data) > 0:
            return
        if kept:
            self._replace(number, io.BytesIO(b"".join(kept)))
        else:
            self._path(number).unlink()
            del self._sizes[number]
            self._packed.discard(number)

    def _replace(self, number: int, content: IO[bytes]) -> None:
        """Put ``content``, compressed, in place of a segment."""
        path = self._path(number)
        stated = path.stat()
        target = self.folder / f"{number:08d}{SUFFIX}{PACKED}"
        part = target.with_suffix(".part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            blocks.write(file, content, content.seek(0, os.SEEK_END))
            file.flush()
            os.fsync(fd)
        os.utime(part, ns=(stated.st_atime_ns, stated.st_mtime_ns))
        part.replace(target)
        sync_folder(self.folder)
        self._sizes[number] = blocks.size(target)
        self._packed.add(number)
        if path != target:
            path.unlink()

    def _size(self, number: int) -> int:
        return self._sizes.get(number, 0)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}{SUFFIX}{PACKED if number in self._packed else ''}"

    def _find_packed(self) -> set[int]:
        """Return which segments are compressed; of one that is there twice, the last process was about to be done."""
        found = set()
        for path in self.folder.glob(f"*{SUFFIX}{PACKED}"):
            if path.with_suffix("").exists():
                path.unlink()
            else:
                found.add(int(path.name.partition(".")[0]))
        return found


def segments_in(folder: Path) -> list[Path]:
    """Return the files of the segments in ``folder``, the oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}*") if SEGMENT.fullmatch(path.name))


def _set_aside(path: Path, data: bytes) -> str:
    """Write down what was never acknowledged, if the disk has room for it; return what became of it."""
    try:
        path.write_bytes(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        return f"cut off, and not kept: {error.strerror or error}"
    return "set aside"


def _read(path: Path, offset: int, size: int) -> bytes:
    """Return ``size`` bytes behind ``offset``; fewer when there are no more."""
    if path.suffix == PACKED:
        return blocks.read(path, offset, size)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
