"""Adopts what dead apps left: their segments are appended to the journal, and removed when that is durable."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

from tallystick.collector.journal import Journal, JournalFullError
from tallystick.model.segment import Damage, Kind, Record, encode_record, orphans, read_records

log = logging.getLogger("tallystick.adopt")

EVERY_S = 1.0


class Adopter:
    """Looks into ``spool`` every second; one thread."""

    def __init__(self, spool: Path, journal: Journal, every_s: float = EVERY_S) -> None:
        self.spool = spool
        self.journal = journal
        self.every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tallystick-adopt", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current segment, then end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def adopt(self) -> int:
        """Adopt every segment whose owner is gone; return how many there were."""
        adopted = 0
        for path, fd in orphans(self.spool):
            try:
                self._adopt(path, fd)
                adopted += 1
            finally:
                os.close(fd)
        return adopted

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.adopt()
            except (JournalFullError, OSError) as error:
                log.debug("nothing is adopted now: %s", error)  # the segments stay, and /healthz tells of the disk
            self._stopping.wait(self.every_s)

    def _adopt(self, path: Path, fd: int) -> None:
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read()
        kept, damaged = [], 0
        end = 0
        for found in read_records(data):
            end = found.end
            if isinstance(found, Damage):
                damaged += found.end - found.start
            elif isinstance(found, Record) and found.kind == Kind.TRACES:
                kept.append(data[found.start : found.end])
        damaged += len(data) - end  # its owner is dead, so nobody will end a half-written record
        if damaged:
            kept.append(_note(damaged))
        if kept:
            self.journal.append_encoded(b"".join(kept)).result()
        if damaged:
            path.rename(path.with_suffix(".damaged"))
            log.warning(
                "%s has %d bytes that are no records; the rest was adopted, and it is kept aside", path, damaged
            )
        else:
            path.unlink(missing_ok=True)


def _note(damaged: int) -> bytes:
    payload = json.dumps({"counts": {"damaged_spool_bytes": damaged}}).encode()
    return encode_record(Kind.NOTE, payload, time.time_ns())
