"""The spool: a finished call is one ``write`` to a file before the app gets control back.

The page cache keeps what a killed process wrote, so SIGKILL, ``os._exit`` and fork lose nothing; a background thread
(`_ship`) sends segments on and removes them.  The stock BatchSpanProcessor holds spans in memory and loses them all on
SIGTERM, SIGKILL, fork and ``os._exit``.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tallystick.model.segment import SUFFIX, Kind, encode_record, lock, write_all

log = logging.getLogger("tallystick.spool")

SEGMENT_BYTES_MAX = 1024 * 1024
NOTE_NAME = "in-flight"
"""Comes behind the segments, which begin with a time, so that a note is adopted after what it may repeat."""
NEW_FILE = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


class Tally(NamedTuple):
    """What is lost with a record that cannot be kept."""

    records: int = 1
    """More than one where it reports that others were lost."""
    calls: int = 0
    finished: int = 0
    """How many calls it says have finished."""

    def plus(self, other: Tally) -> Tally:
        """Return the sums of both."""
        return Tally(self.records + other.records, self.calls + other.calls, self.finished + other.finished)


RECORD, NOTHING = Tally(), Tally(records=0)


@dataclass(slots=True)
class Segment:
    """A file of this process's; its lock is held until it is closed."""

    path: Path
    fd: int
    size: int = 0
    held: Tally = NOTHING


class Spool:
    """The segments of this process: one that is written, and sealed ones that wait to be shipped.

    Safe for threads.  After a fork the child starts with segments of its own and leaves the parent's alone.
    """

    def __init__(self, folder: Path, bytes_max: int, wake: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.bytes_max = bytes_max
        self.wake = wake
        """Called after a record was written; must return at once."""
        self.dropped = NOTHING
        """What could not be kept: the disk was full or the spool over its bound."""
        self._reset()
        _spools.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may end a stream, and so write, while we hold it
        self._open: Segment | None = None
        self._sealed: list[Segment] = []
        self._note: Segment | None = None
        self._told = False
        self._finished: deque[int] = deque()
        """Notches: a call makes one when it ends, before anything of it could fail, and what is spooled takes them."""

    def after_fork(self) -> None:
        """Start afresh in a forked child; the parent's segments stay the parent's."""
        # The inherited descriptors share the parent's locks: closing ours leaves the parent's in force.
        for segment in [*self._sealed, *filter(None, [self._open, self._note])]:
            os.close(segment.fd)
        self.dropped = NOTHING
        self._reset()

    def finished(self, calls: int = 1) -> None:
        """Note that ``calls`` have finished; no lock, because the garbage collector may end a call anywhere."""
        self._finished.append(calls)

    def take_finished(self) -> int:
        """Return how many calls have finished that no record has told of yet; the caller tells."""
        calls = 0
        with suppress(IndexError):  # another thread may take them meanwhile: each is told once
            while True:
                calls += self._finished.popleft()
        return calls

    def append(self, payload: bytes, tally: Tally = RECORD) -> None:
        """Write one OTLP payload, with which ``tally`` is lost: on a full or unwritable disk, and that is said once."""
        record = encode_record(Kind.TRACES, payload, time.time_ns())
        if os.getpid() != self._pid:  # forked by C code (uWSGI), which runs no fork hook of Python's
            self.after_fork()
        with self._lock:
            try:
                segment = self._writable()
                write_all(segment.fd, record)
            except OSError as error:
                self._drop(error, tally)
                return
            segment.size += len(record)
            segment.held = segment.held.plus(tally)
            if segment is self._open and segment.size >= SEGMENT_BYTES_MAX:
                self._seal(segment)
        self.wake()

    def note(self, payload: bytes) -> None:
        """Replace what is to be found if this process dies now; it is never shipped while the process lives."""
        with self._lock:
            if self._note is None and not payload:
                return
            try:
                self._note = self._note or self._create(f"{NOTE_NAME}-")
                os.ftruncate(self._note.fd, 0)
                self._note.size = len(payload)
                if payload:
                    write_all(self._note.fd, encode_record(Kind.TRACES, payload, time.time_ns()))
            except OSError as error:
                log.debug("no note of the calls in flight could be kept in %s: %s", self.folder, error)

    def seal(self) -> list[Segment]:
        """Close the current segment for writing and return all that wait to be shipped, the oldest first."""
        with self._lock:
            if self._open is not None and self._open.size:
                self._seal(self._open)
            return list(self._sealed)

    def read(self, segment: Segment) -> bytes:
        """Return what is in a sealed segment, also when somebody has deleted the file; nothing once it was let go."""
        with self._lock:
            return os.pread(segment.fd, segment.size, 0) if segment in self._sealed else b""

    def remove(self, segment: Segment) -> None:
        """Forget a segment whose records are safe elsewhere."""
        with self._lock:
            if segment in self._sealed:
                self._sealed.remove(segment)
                _unlink(segment)

    def take_dropped(self) -> Tally:
        """Return what was dropped since the last time, and start to count anew."""
        with self._lock:
            dropped, self.dropped = self.dropped, NOTHING
        return dropped

    def close(self) -> None:
        """Let go of all segments: empty ones are removed, the others are left for whoever adopts them."""
        with self._lock:
            for segment in [*self._sealed, *filter(None, [self._open, self._note])]:
                if segment.size:
                    os.close(segment.fd)
                else:
                    _unlink(segment)
            self._sealed, self._open, self._note = [], None, None

    def _writable(self) -> Segment:
        if self._open is None:
            created = self._create()
            if self._open is None:
                self._open = created
            else:
                _unlink(created)
        return self._open

    def _create(self, prefix: str = "") -> Segment:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = self.folder / f"{prefix}{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            fd = os.open(path, NEW_FILE, 0o600)
            # Between the two calls somebody who looks for orphans may have locked or even removed it.
            if lock(fd) and os.fstat(fd).st_nlink:
                return Segment(path, fd)
            os.close(fd)

    def _seal(self, segment: Segment) -> None:
        self._open = None
        self._sealed.append(segment)
        while len(self._sealed) > 1 and sum(segment.size for segment in self._sealed) > self.bytes_max:
            oldest = self._sealed.pop(0)
            self._count_dropped(oldest.held)
            _unlink(oldest)
            self._say(f"it holds more than {self.bytes_max} bytes and the collector takes none")

    def _count_dropped(self, tally: Tally) -> None:
        self.dropped = self.dropped.plus(tally)
        self.finished(tally.finished)  # who told of them is lost, so that somebody else must

    def _drop(self, error: OSError, tally: Tally) -> None:
        self._count_dropped(tally)
        # A half-written record would hide what is appended behind it until the reader finds the next one.
        if self._open is not None and self._open.size:
            self._seal(self._open)
        elif self._open is not None:  # kept, each call on a full disk would leave the app one descriptor less
            _unlink(self._open)
            self._open = None
        self._say(str(error))

    def _say(self, reason: str) -> None:
        if not self._told:
            self._told = True
            log.warning("the spool in %s drops records (%s); the app goes on", self.folder, reason)


def _unlink(segment: Segment) -> None:
    segment.path.unlink(missing_ok=True)
    os.close(segment.fd)


def _after_fork() -> None:
    for spool in list(_spools):
        spool.after_fork()


os.register_at_fork(after_in_child=_after_fork)
