"""Rows that are old: out of the database into Parquet, a part for each day of arrival, and in the end dropped.

A part is a folder with a file for each table.  It counts when the database's ``archive_parts`` names it, which is
committed together with the removal of its rows, so a kill at any moment leaves each row in one of the two.  Questions
see both.  Of a part that is dropped the sums of its hours stay, in the database and beside the archive.

The journal cannot tell any more what spans it once held that are here only.  So before anything is moved the ledger's
counters are written down beside the archive, with the position in the journal that they are of; a database that is made
anew begins with them, and counts nothing up to that position.
"""

# ruff: noqa: S608 -- what is put into SQL here comes from this file and from numbers; values are bound

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tallystick.collector.folder import sync_folder
from tallystick.collector.journal import Position
from tallystick.collector.places import HOUR_US
from tallystick.collector.rollups import hours_of, tried_of
from tallystick.errors import StoreError

log = logging.getLogger("tallystick.archive")

Run = Callable[..., list[tuple[Any, ...]]]
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
ROWS_MAX = 1_000_000
"""So many rows of a table are moved at once: what a transaction removes is held in memory."""
SWEEP_S = 600.0
"""How long the files of a part stay after it was dropped, for questions that began before."""
LEDGER = "ledger.json"
LEFT_THE_TABLES = RETENTION, DAMAGE = "dropped:retention", "dropped:by damage of the archive"
"""The counters of spans that were stored once."""

MOVED = ("calls", "units", "attempts", "spans", "unit_revisions")
FORMS = "receipt_forms"
LEFT = {"rollup_hour": "frozen", "rollup_tried": "frozen", "archive_parts": "dropped"}
"""What is kept of all parts that were dropped, in files that bear the number of the last of them."""
SPANS = {"calls": "source = 'tallystick'", "attempts": "true", "spans": "true"}
"""Which rows are spans as they came: a call of another emitter is there as a span too."""
ROWID = "(hash(trace_id, id) >> 1)"
"""Tells an archived call from every other, as a row's number does in the database."""
PARQUET = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 9)"
ORDER = {"calls": "started_at", "units": "answered_at", "attempts": "started_at", "spans": "started_at"}


@dataclass(slots=True)
class Archive:
    """The parts in ``folder``, and which of them count."""

    folder: Path
    parts: tuple[int, ...] = ()
    between: int | None = None
    """A part that is just coming or going: it counts for those who see it in the database."""
    age: int = 0
    """Grows when what there is to read has changed."""
    dropped_at: float = 0.0
    """When a part was dropped last, by the clock that only goes forward: a question that is under way may read it."""

    def file(self, part: int, table: str) -> Path:
        """Return where a part has a table."""
        return self.folder / f"{part:08d}" / f"{table}.parquet"

    def rows(self, part: int, table: str) -> str:
        """Return the SQL of the rows of a table in a part, for behind a FROM."""
        return f"read_parquet({_quoted(self.file(part, table))})"

    def changed(self, parts: Sequence[int], between: int | None = None) -> None:
        """Have readers see other parts from their next question on."""
        self.parts, self.between = tuple(parts), between
        self.age += 1

    def stored(self, table: str) -> str | None:
        """Return the SQL of a table's rows in the archive, None when there are none."""
        selects = []
        if self.parts:
            files = ", ".join(_quoted(self.file(part, table)) for part in self.parts)
            selects.append(f"SELECT * FROM read_parquet([{files}], union_by_name = true)")
        if self.between is not None:
            seen = f"(SELECT count(*) FROM ledger.main.archive_parts WHERE part = {self.between} AND NOT dropped) > 0"
            selects.append(f"SELECT * FROM {self.rows(self.between, table)} WHERE {seen}")
        return " UNION ALL BY NAME ".join(selects) or None

    def whole(self, table: str) -> str:
        """Return the SQL of all rows of a table, for behind a FROM."""
        stored = self.stored(table)
        return table if stored is None else f"(SELECT * FROM ledger.main.{table} UNION ALL BY NAME {stored})"

    def views(self) -> list[str]:
        """Return the statements that put the whole tables before a reader, under the names of the tables."""
        if self.stored("calls") is None:
            return []
        return [
            f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT rowid, * FROM ledger.main.{table} "
            f"UNION ALL BY NAME SELECT {rowid}::BIGINT AS rowid, * FROM ({self.stored(table)})"
            for table, rowid in {**dict.fromkeys(MOVED, "NULL"), "calls": ROWID}.items()
        ]

    # Moving; by whoever writes

    def recall(self, run: Run, aside: Path) -> None:
        """Learn what counts: the database knows, but for one that is new, to which all there is belongs."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not run("SELECT 1 FROM meta WHERE key = 'archive'"):
            with _transaction(run):
                self._adopt(run)
                run("INSERT INTO meta VALUES ('archive', 'known')")
        known = {part for (part,) in run("SELECT part FROM archive_parts")}
        for path in self._folders():
            if int(path.name) not in known:  # its rows are still in the database
                path.rename(aside / f"archive-{os.urandom(4).hex()}-{path.name}")
        self._sweep(run)
        for part, size, spans in run("SELECT part, bytes, spans FROM archive_parts WHERE NOT dropped"):
            if (found := self._bytes(part)) != size:
                log.warning("part %d of %s has %d bytes instead of %d; it is left out, and moved to %s",
                            part, self.folder, found, size, aside)  # fmt: skip
                self._lose(run, part, spans, aside)
        self.changed([part for (part,) in run("SELECT part FROM archive_parts WHERE NOT dropped ORDER BY part")])

    def _sweep(self, run: Run) -> None:
        """Remove the parts that were dropped."""
        dropped = {part for (part,) in run("SELECT part FROM archive_parts WHERE dropped")}
        for path in self._folders():
            if int(path.name) in dropped:
                shutil.rmtree(path)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal())

    def _bytes(self, part: int) -> int:
        return sum(path.stat().st_size for path in (self.folder / f"{part:08d}").glob("*.parquet"))

    def _lose(self, run: Run, part: int, spans: int, aside: Path) -> None:
        """Go on without a part that is damaged; the sums of its hours were made before."""
        with _transaction(run):
            _count(run, spans, DAMAGE)
            run("UPDATE archive_parts SET dropped = true WHERE part = ?", [part])
        if (folder := self.folder / f"{part:08d}").exists():
            folder.rename(aside / f"archive-{os.urandom(4).hex()}-{folder.name}")

    def note(self, applied: Position, counters: Mapping[str, int]) -> None:
        """Write down what the ledger's counters are where the journal is applied to.

        What is dropped later must not be dropped from it again, so what was dropped before is stored in it.
        """
        counted = dict(counters)
        counted["stored"] = counted.get("stored", 0) + counted.pop(RETENTION, 0)
        part = self.folder / f"{LEDGER}.part"
        part.write_text(json.dumps({"applied": [applied.segment, applied.offset], "counters": counted}))
        _sync(part)
        part.replace(self.folder / LEDGER)
        sync_folder(self.folder)

    def _adopt(self, run: Run) -> None:
        if (noted := self.folder / LEDGER).exists():
            ledger = json.loads(noted.read_text())
            run("INSERT INTO counters SELECT unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
                [[*ledger["counters"]], [*ledger["counters"].values()]])  # fmt: skip
            run("INSERT INTO meta VALUES ('counted', ?)", [json.dumps(ledger["applied"])])
        left = [int(path.name.partition("-")[0]) for path in self.folder.glob("*-archive_parts.parquet")]
        last = max(left, default=0)
        if last:
            for table in LEFT:
                run(f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet({_quoted(self._left(last, table))})")
            _count(run, run("SELECT sum(spans)::BIGINT FROM archive_parts")[0][0], RETENTION)
        for part in (number for path in self._folders() if (number := int(path.name)) > last):
            self._register(run, part, None)
            forms = self.rows(part, FORMS)
            run(f"INSERT INTO {FORMS} SELECT * FROM {forms} WHERE id NOT IN (SELECT id FROM {FORMS})")
            self._mark(run, part)

    def _mark(self, run: Run, part: int) -> None:
        for table in ("calls", "attempts"):
            hours = f"SELECT DISTINCT date_trunc('hour', started_at) FROM {self.rows(part, table)}"
            run(f"INSERT INTO rollup_dirty {hours} EXCEPT FROM rollup_dirty")

    def _register(self, run: Run, part: int, upto: datetime | None) -> None:
        spans = " + ".join(
            f"(SELECT count(*) FROM {self.rows(part, table)} WHERE {which})" for table, which in SPANS.items()
        )
        times = " UNION ALL ".join(f"SELECT received_at, started_at FROM {self.rows(part, table)}" for table in SPANS)
        run(
            f"""
            INSERT INTO archive_parts
            SELECT ?, coalesce(?, max(received_at), '1970-01-01'), min(started_at), max(started_at), {spans}, ?, false
            FROM ({times})
            """,
            [part, upto, self._bytes(part)],
        )

    def due(self, run: Run, before: datetime) -> datetime | None:
        """Return up to when the oldest rows are to be moved: a day that ended ``before``, or a part of one."""
        oldest = run(" UNION ALL ".join(f"SELECT min(received_at) FROM {table}" for table in SPANS))
        start = min((at for (at,) in oldest if at is not None), default=None)
        if start is None or (end := _following(start)) > before:
            return None
        counts = " UNION ALL ".join(f"SELECT count(*) FROM {table} WHERE received_at < $1" for table in SPANS)
        while end - start > MINUTE and max(run(counts, [end]))[0] > ROWS_MAX:
            end = start + (end - start) / 2
        return end

    def move(self, run: Run, end: datetime) -> None:
        """Move the rows that arrived before ``end`` into a part."""
        part = run("SELECT coalesce(max(part), 0) + 1 FROM archive_parts")[0][0]
        self._write(run, part, end)
        self.changed(self.parts, between=part)
        with _transaction(run):
            self._register(run, part, end)
            for table in reversed(MOVED):  # the calls last: they say which units go
                run(f"DELETE FROM {table} WHERE {_which(table, end)}")
        self.changed([*self.parts, part])

    def _write(self, run: Run, part: int, end: datetime) -> None:
        arriving = self.folder / f"{part:08d}.part"
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(mode=0o700)
        used = f"id IN (SELECT split_part(receipt, ' ', 1) FROM units WHERE {_which('units', end)})"
        for table in (*MOVED, FORMS):
            which = used if table == FORMS else _which(table, end)
            order = f"ORDER BY {ORDER[table]}" if table in ORDER else ""
            target = arriving / f"{table}.parquet"
            run(f"COPY (SELECT * FROM {table} WHERE {which} {order}) TO {_quoted(target)} {PARQUET}")
            summed = "count(*), sum(cost_usd)" if table in {"calls", "units"} else "count(*)"
            was = run(f"SELECT {summed} FROM {table} WHERE {which}")
            now = run(f"SELECT {summed} FROM read_parquet({_quoted(target)})")
            if was != now:
                raise StoreError(f"{target} does not hold what was written to it: {now[0]} instead of {was[0]}")
            _sync(target)
        sync_folder(arriving)
        arriving.rename(self.folder / f"{part:08d}")
        sync_folder(self.folder)

    def drop(self, run: Run, before: datetime, kept_from: datetime, bytes_max: int | None) -> bool:
        """Drop the oldest part if all in it arrived ``before``, or the parts are more than ``bytes_max``.

        Of what arrived ``kept_from`` on nothing is dropped, however much it is.
        """
        if time.monotonic() - self.dropped_at > SWEEP_S:
            self._sweep(run)
        columns = "part, upto, first_at, last_at, spans, bytes"
        found = run(f"SELECT {columns} FROM archive_parts WHERE NOT dropped ORDER BY part")
        if not found:
            return False
        part, upto, first, last, spans, _ = found[0]
        is_too_much = bytes_max is not None and sum(row[-1] for row in found) > bytes_max
        if upto > kept_from or (upto > before and not is_too_much):
            return False
        self.changed([other for other in self.parts if other != part], between=part)
        calls, attempts = (self.rows(part, table) for table in ("calls", "attempts"))
        with _transaction(run):
            if first is not None:
                run(hours_of(calls, frozen=True), [first, _following(last)])
                run(tried_of(attempts, calls, frozen=True), [first, _following(last)] * 2)
            self._mark(run, part)
            run("UPDATE archive_parts SET dropped = true WHERE part = ?", [part])
            for table, which in LEFT.items():
                arriving = (target := self._left(part, table)).with_suffix(".part")
                run(f"COPY (SELECT * FROM {table} WHERE {which}) TO {_quoted(arriving)} {PARQUET}")
                _sync(arriving)
                arriving.replace(target)
            _count(run, spans, RETENTION)
            self._forget_places(run)
        sync_folder(self.folder)
        self.changed(self.parts)
        self.dropped_at = time.monotonic()
        for path in self.folder.glob("*-*.parquet"):
            if int(path.name.partition("-")[0]) < part:
                path.unlink()
        return True

    def _forget_places(self, run: Run) -> None:
        """Remove the places of hours before all that is left."""
        left = " UNION ALL ".join(f"SELECT min(started_at) AS first_at FROM {table}" for table in SPANS)
        left += " UNION ALL SELECT min(first_at) FROM archive_parts WHERE NOT dropped"
        first = f"SELECT coalesce(epoch_us(min(first_at)) // {HOUR_US}, {10**9}) FROM ({left})"
        run(f"DELETE FROM places WHERE hour < ({first})")

    def _left(self, part: int, table: str) -> Path:
        return self.folder / f"{part:08d}-{table}.parquet"


@contextmanager
def _transaction(run: Run) -> Iterator[None]:
    run("BEGIN")
    try:
        yield
        run("COMMIT")
    except BaseException:
        run("ROLLBACK")
        raise


def _count(run: Run, spans: int, name: str) -> None:
    """Count stored spans as ``name`` instead."""
    for counter, count in ((name, spans), ("stored", -spans)):
        run("INSERT INTO counters SELECT $1, 0 WHERE NOT EXISTS (FROM counters WHERE name = $1)", [counter])
        run("UPDATE counters SET count = count + ? WHERE name = ?", [count, counter])


def _which(table: str, end: datetime) -> str:
    at = f"received_at < TIMESTAMP '{end.isoformat()}'"
    if table in SPANS:
        return at
    return f"hash(trace_id, call_id) IN (SELECT hash(trace_id, id) FROM calls WHERE {at})"


def _following(at: datetime) -> datetime:
    """Return when the day after ``at`` begins."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + DAY


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _sync(path: Path) -> None:
    path.chmod(0o600)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
