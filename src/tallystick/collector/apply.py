"""The applier: one thread that turns the journal into rows, a transaction per group.

It reads the journal's files by position, not a queue in memory, so that it may be behind, be restarted, or live in
another process than the receiver.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tallystick.collector import reprice
from tallystick.collector.decode import Batch
from tallystick.collector.events import Statement, statements
from tallystick.collector.journal import Journal, Position, Stretch
from tallystick.collector.making import Group, Maker, uncounted
from tallystick.collector.packed import BadRowsError, Packed, pack
from tallystick.collector.repricer import Repricer, Write, is_pending
from tallystick.collector.store import Store, StoreClosedError
from tallystick.errors import StoreError
from tallystick.model.segment import Kind, Record, encode_record, write_all

log = logging.getLogger("tallystick.apply")

GROUP_BYTES = 8 * 1024 * 1024
"""A transaction's worth, 20,000 spans or so; with half of it a span costs 2.6 us more to store."""
GATHER_BYTES = 1024 * 1024
"""When that much waits, there is no use in gathering more."""
IDLE_S = 0.5
REPRICING_S = 0.01
"""How long to wait for what arrives while a repricing has pages to write."""
CHECKPOINT_IDLE_S = 10.0
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
STUCK_S = 4.0
REOPEN_S = 5.0
KEEP_S = 3600.0
"""How often it is looked whether something is old enough to be moved or dropped."""
SENT_AGAIN_DAYS = 36
"""A span may come again for 35 days, and counts once: so long its rows are kept, whatever they take."""
ROLL_S, BUSY_HOURS, IDLE_HOURS = 10.0, 4, 24
"""How often hours are summed while records keep coming, how many then, and how many at once when none come."""
Observer = Callable[[pa.Table, Position], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long rows stay in the database, and then in the archive, by the day of their arrival."""

    archive_days: int
    days: int
    bytes_max: int | None = None
    """What database and archive may take together."""


FOR_EVER = Retention(archive_days=36_500, days=36_500)


def is_kept(record: Record) -> bool:
    """Tell whether a rebuild needs a record also when all spans of its time are in the archive."""
    if record.kind == Kind.BUDGET:
        return record.payload[:1] == b"{" and bool(statements(json.loads(record.payload)))
    return record.kind in {Kind.ALERT, Kind.PRICES, Kind.REPRICE}


class Applier:
    """Owns the store; ``store`` is the one that is open now, and may be another one after a fault."""

    def __init__(
        self,
        journal: Journal,
        open_store: Callable[[], tuple[Store, str | None]],
        maker: Maker,
        quarantine: Path,
        group_ms: int,
        retention: Retention = FOR_EVER,
    ) -> None:
        self.journal = journal
        self.maker = maker
        self.quarantine = quarantine
        self.group_ms = group_ms
        self.fault: str | None = None
        """Why nothing is stored at the moment."""
        self.progress_at = time.monotonic()
        self.committed = threading.Event()
        """Set after each commit; whoever waits for it clears it."""
        self.observer: Observer | None = None
        """Told the calls that each commit stored, on the applier's thread."""
        self._open_store = open_store
        self._stopping = threading.Event()
        self._checkpointed = True
        self._applied_at = self._rolled_at = time.monotonic()
        self._is_rolling = self._is_keeping = False
        self._kept_at = -KEEP_S
        self._freed = 0
        """The segments before this one hold no spans any more."""
        self.retention = retention
        self.keeps_from: Callable[[], int] = lambda: self.store.applied.segment
        """The first segment of the journal that somebody still reads, now or after a restart."""
        self._begun: Position | None = None
        """Where the group begins that is being made ahead of its turn."""
        self.store = self._open()
        self.repricer = Repricer(self.ask, self.ask_table)
        self._revision: Write | None = None
        self._thread = threading.Thread(target=self._run, name="tallystick-apply", daemon=True)

    def start(self) -> None:
        """Begin to apply."""
        self._thread.start()
        self.repricer.start()

    def stop(self) -> None:
        """Finish the current group, then close the store."""
        self.repricer.stop()
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
            with suppress(StoreError, OSError):  # what was passed over is not read again by the next one
                self.store.apply(self._nothing(), self.store.applied)
        self.maker.close()
        self.store.close()

    def ask(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a question; for any thread.  While the store is opened anew, wait for it a little."""
        rows: list[tuple[Any, ...]] = self._patiently(lambda store: store.ask(sql, params))
        return rows

    def ask_table(self, sql: str, params: Any = ()) -> pa.Table:
        """Return the same as an Arrow table."""
        return self._patiently(lambda store: store.ask_table(sql, params))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that this thread asks inside answered from one state of the store."""
        with ExitStack() as held:
            self._patiently(lambda store: held.enter_context(store.snapshot()))
            yield

    def _patiently(self, use: Callable[[Store], Any]) -> Any:
        until = time.monotonic() + REOPEN_S
        while True:
            try:
                return use(self.store)
            except StoreClosedError:
                if time.monotonic() > until or self._stopping.is_set():
                    raise
            time.sleep(0.05)

    def price_digest(self) -> str | None:
        """Return the digest of the last price book that is in the store."""
        rows = self.ask("SELECT digest FROM price_version ORDER BY rowid DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    def behind_bytes(self) -> int:
        """Return how much of the journal is not in the store yet."""
        return max(self.journal.bytes_between(self.store.applied, self.journal.end), 0)

    def trouble(self) -> str | None:
        """Return why what arrives is not being stored, None when it is."""
        if self.fault is not None:
            return self.fault
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set():
            return "the applier has ended"
        silent_s = time.monotonic() - self.progress_at
        if silent_s > STUCK_S and self.store.applied < self.journal.end:
            return f"the applier has not moved for {silent_s:.0f} s"
        return None

    def wait_applied(self, upto: Position, timeout_s: float) -> bool:
        """Wait until the store holds what the journal holds up to ``upto``."""
        until = time.monotonic() + timeout_s
        while self.store.applied < upto:
            if time.monotonic() > until or self._stopping.is_set():
                return False
            time.sleep(0.005)
        return True

    def _open(self) -> Store:
        store, told = self._open_store()
        begin = self.journal.start
        if told is None and store.applied <= begin < self.journal.end:
            told = f"{store.path} is new; it is rebuilt from the journal"
        if told:
            log.warning("%s", told)
        if store.applied > self.journal.end:
            log.warning("the journal is shorter than what was applied of it; it is read from its beginning")
            store.applied = begin
        store.counted = min(store.counted, self.journal.end)
        self.store = store
        self._use_stored_prices()
        return store

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._step()
                failures, self.fault = 0, None
            except (StoreError, OSError) as error:
                self.fault = str(error)
                log.warning("%s; trying again", error)
                self._stopping.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
                self._reopen()

    def _reopen(self) -> None:
        """DuckDB is of no more use after some faults (a full disk during a checkpoint, say) until it is opened anew."""
        self._begun = None
        self.store.close()
        try:
            self.store = self._open()
        except (StoreError, OSError) as error:
            self.fault = str(error)

    def _step(self) -> None:
        self._write_revision()
        start = self.store.applied
        if not self.journal.wait(start, self._patience_s()):
            self.progress_at = time.monotonic()
            self._rest()
            return
        if time.monotonic() - self._rolled_at > ROLL_S:
            self._roll(BUSY_HOURS)
            self._pack()
        if time.monotonic() - self._kept_at > KEEP_S:
            self._keep()
        if self._begun is None and self.journal.bytes_between(start, self.journal.end) < GATHER_BYTES:
            self._stopping.wait(self.group_ms / 1000)
        group = self._made(start)
        if group is None:
            return
        if group.is_empty:
            self._pass(group.upto)
            return
        if group.alone is not None:
            if group.alone.kind == Kind.PRICES and not self._finish_repricings():
                return
            self._apply_alone(group.alone, group.upto)
        else:
            self._look_ahead(group.upto)
            self._apply(group, start)
        self._checkpointed = False
        self._applied_at = self.progress_at = time.monotonic()
        self.committed.set()

    def _patience_s(self) -> float:
        """Return how long to wait for what arrives: not at all when there are hours to sum."""
        if self._is_rolling:
            return 0
        return REPRICING_S if self.repricer.is_busy else IDLE_S

    def _made(self, start: Position) -> Group | None:
        """Return the group behind ``start``, which may have been begun already; None at the end of a segment."""
        if self._begun != start:
            stretch = self._stretch(start)
            if isinstance(stretch, Position):
                # Stored, so that a restart never looks for a place inside a segment that has been stripped meanwhile.
                self.store.apply(self._nothing(), stretch)
                return None
            self.maker.begin(stretch, self.store.schemas)
        self._begun = None
        return self.maker.result()

    def _look_ahead(self, start: Position) -> None:
        """Have the next group made while this one is stored, if there is one already."""
        if self.journal.bytes_between(start, self.journal.end) < GATHER_BYTES:
            return
        stretch = self._stretch(start)
        if isinstance(stretch, Stretch):
            self.maker.begin(stretch, self.store.schemas)
            self._begun = start

    def _stretch(self, start: Position) -> Stretch | Position:
        """Return what the next group is made of: it ends where what is counted already ends."""
        stretch = self.journal.stretch(start, GROUP_BYTES)
        counted = self.store.counted
        if isinstance(stretch, Stretch) and start.segment == counted.segment and start < counted:
            return replace(stretch, limit=min(stretch.limit, counted.offset))
        return stretch

    def _roll(self, hours_max: int) -> None:
        """Sum hours that are over; the one that is not is cheap to answer from its rows, and changes all the time."""
        self._is_rolling = self.store.roll(datetime.now(UTC).replace(tzinfo=None), hours_max)
        self._rolled_at = time.monotonic()

    def _keep(self) -> None:
        """Move or drop a day of what is old; when there is none left, free what the journal still holds of it."""
        today = datetime.now(UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
        archive_before = today - timedelta(days=self.retention.archive_days)
        self._is_keeping = self.store.move(archive_before)
        if not self._is_keeping:
            freed_until = self._strip(archive_before)
            drop_before = today - timedelta(days=self.retention.days)
            kept_from = min(freed_until, today - timedelta(days=SENT_AGAIN_DAYS))
            self._is_keeping = self.store.drop(drop_before, kept_from, self.retention.bytes_max)
            self.store.forget(min(archive_before, today - timedelta(days=SENT_AGAIN_DAYS)))
        if not self._is_keeping:
            self._kept_at = time.monotonic()
        self._checkpointed = False
        self.progress_at = time.monotonic()

    def _strip(self, before: datetime) -> datetime:
        """Take the spans out of segments that ended ``before``; return from when on the journal still holds some.

        Those are in the archive by then; what were dropped of it earlier would come back with a rebuild.
        """
        number = self._freed
        for number in self.journal.segments():
            if number >= self.keeps_from() or self.journal.ended_at(number) >= before:
                return self.journal.begun_at(number)
            if number >= self._freed:
                self.store.note()
                self.journal.strip(number, is_kept)
                self._freed = number + 1
        return before

    def _pack(self) -> None:
        """Compress a segment that is written whole and that everybody has read."""
        number = next((number for number in self.journal.unpacked() if number < self.keeps_from()), None)
        if number is not None:
            self.journal.pack(number)

    def _rest(self) -> None:
        self._roll(IDLE_HOURS)
        self._pack()
        if not self._is_rolling and (self._is_keeping or time.monotonic() - self._kept_at > KEEP_S):
            self._keep()
        if not self._checkpointed and time.monotonic() - self._applied_at > CHECKPOINT_IDLE_S:
            self.store.checkpoint()
            self._checkpointed = True

    def _apply(self, group: Group, start: Position) -> None:
        """Store a group; when a row in it cannot be stored, its halves, down to the one record that is the cause."""
        for begin, end, reason in group.unread:
            self._set_aside(self._record(Position(start.segment, begin), end), reason)
        try:
            packed = group.rows()
            self.store.apply(packed, group.upto, group.statements)
            if self.observer is not None:
                self.observer(packed.tables["calls"], group.upto)
        except BadRowsError as error:
            if len(group.ends) == 1:
                self._set_aside(self._record(start, group.upto.offset), str(error))
                self.store.apply(self._uncounted(), group.upto)
                return
            middle = group.ends[len(group.ends) // 2 - 1]
            self._apply_part(start, middle)
            self._apply_part(Position(start.segment, middle), group.upto.offset)

    def _pass(self, upto: Position) -> None:
        """Go on behind records that leave nothing in the tables, without a transaction: a restart reads them again."""
        self.store.applied = upto
        self.progress_at = time.monotonic()

    def _apply_part(self, start: Position, end: int) -> None:
        stretch = self.journal.stretch(start, end - start.offset)
        assert isinstance(stretch, Stretch), "it was read before"
        self._begun = None
        self.maker.begin(replace(stretch, limit=end), self.store.schemas)
        group = self.maker.result()
        if group.is_empty:
            self._pass(group.upto)
        else:
            self._apply(group, start)

    def _record(self, start: Position, end: int) -> Record:
        stretch = self.journal.stretch(start, end - start.offset)
        assert isinstance(stretch, Stretch), "it was read before"
        record = replace(stretch, limit=end).read()[0][0]
        assert isinstance(record, Record), "damage has no rows that could be refused"
        return record

    def _apply_alone(self, record: Record, upto: Position) -> None:
        """Apply what changes how everything behind it is priced, or has what lies before it priced again."""
        try:
            statement = self._take_prices(record) if record.kind == Kind.PRICES else self._begin_repricing(record)
        except (zlib.error, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            self._set_aside(record, f"{type(error).__name__}: {error}")
            self.store.apply(self._uncounted(), upto)
            return
        self.store.apply(self._nothing(), upto, [statement])
        if record.kind == Kind.REPRICE:
            self.repricer.wake()

    def _take_prices(self, record: Record) -> Statement:
        text, digest = reprice.decode_book(record.payload)
        self.maker.use(text)
        version = json.loads(text)["version"]
        at = datetime.fromtimestamp(record.time_ns / 1e9, UTC).replace(tzinfo=None)
        sql = "INSERT INTO price_version SELECT ?, ?, ?, ? WHERE NOT EXISTS (FROM (" \
              "SELECT digest FROM price_version ORDER BY rowid DESC LIMIT 1) WHERE digest = ?)"  # fmt: skip
        return sql, [version, digest, at, text, digest]

    @staticmethod
    def _begin_repricing(record: Record) -> Statement:
        asked = json.loads(record.payload)
        start = reprice.scope_of(asked["scope"]).start.astimezone(UTC).replace(tzinfo=None)
        at = datetime.fromtimestamp(record.time_ns / 1e9, UTC).replace(tzinfo=None)
        return "INSERT INTO repricing VALUES (?, ?, ?, ?, 0)", [asked["id"], at, json.dumps(asked["scope"]), start]

    def _write_revision(self) -> None:
        """Write what a repricing has ready, one page of it; what fails is written again when the store is open anew."""
        if self._revision is None:
            with suppress(queue.Empty):
                self._revision = self.repricer.writes.get_nowait()
        if self._revision is not None:
            self._revision(self.store)
            self._revision = None
            self._checkpointed = False
            self._applied_at = self.progress_at = time.monotonic()
            self.committed.set()

    def _finish_repricings(self) -> bool:
        """Write all that the prices in force change, as a rebuild will; False when stopped."""
        while is_pending(self.store.ask):
            self._write_revision()
            self.progress_at = time.monotonic()
            if self._stopping.wait(REPRICING_S):
                return False
        return True

    def _use_stored_prices(self) -> None:
        """Price by the book that was in force where the store is now, not by one that comes later in the journal."""
        rows = self.store.ask("SELECT document FROM price_version ORDER BY rowid DESC LIMIT 1")
        if rows:
            self.maker.use(rows[0][0])

    def _nothing(self) -> Packed:
        return pack(Batch(), self.store.schemas)

    def _uncounted(self) -> Packed:
        return pack(uncounted(), self.store.schemas)

    def _set_aside(self, record: Record, reason: str) -> None:
        log.warning(
            "a record of %d bytes cannot be stored (%s); it is kept in %s", len(record.payload), reason, self.quarantine
        )
        fd = os.open(self.quarantine, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, encode_record(Kind(record.kind), record.payload, record.time_ns))
        finally:
            os.close(fd)
