"""The DuckDB file, a view of the journal that can be rebuilt; the only file that knows duckdb.

One thread writes (`Store.apply`), any number ask (`Store.ask`), each with its own cursor.  Written for duckdb 1.5.5 and
2.x: results are always fetched whole, because in 2.0 an unfinished result owns its connection.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from tallystick.collector import places
from tallystick.collector.archive import Archive
from tallystick.collector.decode import TOKENS, Batch, Row, settle
from tallystick.collector.journal import Position
from tallystick.collector.packed import TABLES, BadRowsError, Key, Packed, table_of
from tallystick.collector.reprice import Revision
from tallystick.collector.rollups import CLEAR, HOUR, hours_of, joined, touched, tried_of
from tallystick.collector.seen import Hashes, Seen, SeenFolder
from tallystick.errors import StoreError, StoreTooNewError

log = logging.getLogger("tallystick.store")

SCHEMA = 13
FILE_VERSION = "v1.5.0"
"""The oldest storage format that both 1.5 and 2.x read and write; DuckDB 1.5's own default is older and slower."""
WAL_BYTES = "64MB"
IDENTITY_CHARS_MIN = 16
"""Some local servers number their responses (Ollama: chatcmpl-0 to chatcmpl-999); such an id names nothing for long."""
TRACE_CALLS_MAX = 500
SERVICES_MAX, OTHERS = 200, "(others)"
"""So many services are counted by their names."""
KEPT_DAYS = 35
"""A span that comes again counts once within so many days of its arrival, wherever its rows are by then."""
NO_ROOM = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), os.strerror(errno.EFBIG)
"""In DuckDB's words too: a file that cannot grow is not damaged."""
HASHES = 1_000_000
"""So many rows are hashed at once when the store recalls what it has seen."""
UNBEATEN = (127, True, True, 10**18, 1e18)
"""The rank of a unit in the archive: what is there stays as it is."""

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- DuckDB's TIMESTAMP is naive, and UTC here
MICROSECOND = timedelta(microseconds=1)

Params = Sequence[Any] | dict[str, Any]
Rank = tuple[int, bool, bool, int, float]
"""How far a unit is believed: its precedence, whether its cost is known, whether it is the provider's own figure; of
two that are believed alike the larger, in tokens or seconds, is the later: sums only grow."""

# What is not part of a span's content: when it came, and what the collector made of it.
MADE = frozenset({
    "received_at", "units", "unpriced_units", "estimated_units", "cost_usd", "estimated_usd", "cost_status", *TOKENS,
})  # fmt: skip
UNIT_TOLD = ("unit_id", "provider", "model", "usage", "estimated")


MARK = """
    INSERT INTO rollup_dirty
    SELECT DISTINCT date_trunc('hour', started_at) FROM calls WHERE {} EXCEPT FROM rollup_dirty
"""
"""Before rows of ``calls`` are changed or removed: their hours are to be summed again."""

# ``revised`` is an Arrow table of `tallystick.collector.priced.CHANGES`.  A unit that is no longer as it was when it
# was priced again (a better copy came, or it is too old and gone) is left alone.
IS_SAME = """
    units.trace_id = revised.trace_id AND units.call_id = revised.call_id AND units.position = revised.position
    AND units.answered_at >= $start AND units.answered_at < $end
    AND units.cost_usd IS NOT DISTINCT FROM revised.old_cost_usd AND units.cost_status = revised.old_cost_status
    AND units.price_version IS NOT DISTINCT FROM revised.old_price_version
"""
INSERT_REVISIONS = f"""
    INSERT INTO unit_revisions BY NAME
    SELECT revised.* EXCLUDE (old_cost_usd, old_cost_status, old_price_version, receipt, {", ".join(TOKENS)}),
        $id AS reprice_id, $at::TIMESTAMP AS revised_at, units.cost_usd AS old_cost_usd,
        units.cost_status AS old_cost_status, units.price_version AS old_price_version, units.receipt AS old_receipt
    FROM revised JOIN units ON {IS_SAME}
"""  # noqa: S608 -- of TOKENS
UPDATE_UNITS = f"""
    UPDATE units SET cost_usd = revised.cost_usd, cost_status = revised.cost_status,
        price_version = revised.price_version, receipt = revised.receipt,
        {", ".join(f"{name} = revised.{name}" for name in TOKENS)}
    FROM revised WHERE {IS_SAME}
"""  # noqa: S608 -- of TOKENS
REVISED_CALLS = "(trace_id, id) IN (SELECT (trace_id, call_id) FROM revised)"
# The same sums as `tallystick.collector.decode.settle` makes.
UPDATE_CALLS = f"""
    UPDATE calls SET cost_usd = sums.cost_usd, estimated_usd = sums.estimated_usd, cost_status = sums.cost_status,
        unpriced_units = sums.unpriced_units, estimated_units = sums.estimated_units,
        {", ".join(f"{name} = sums.{name}" for name in TOKENS)}
    FROM (
        SELECT units.trace_id, units.call_id, sum(units.cost_usd) AS cost_usd,
            coalesce(sum(units.cost_usd) FILTER (units.cost_status = 'estimated'), 0) AS estimated_usd,
            count(*) FILTER (units.cost_usd IS NULL) AS unpriced_units,
            count(*) FILTER (units.cost_status = 'estimated') AS estimated_units,
            arg_min(units.cost_status, list_position(
                ['unknown', 'estimated', 'provider_reported', 'exact'], units.cost_status)) AS cost_status,
            {", ".join(f"sum(units.{name}) AS {name}" for name in TOKENS)}
        FROM units WHERE (units.trace_id, units.call_id) IN (SELECT (trace_id, call_id) FROM revised)
        GROUP BY units.trace_id, units.call_id
    ) AS sums
    WHERE calls.trace_id = sums.trace_id AND calls.id = sums.call_id
"""  # noqa: S608 -- of TOKENS


class StoreBrokenError(StoreError):
    """DuckDB gave up on the file or the disk; what is in the journal is safe, and the store is opened anew."""


class StoreClosedError(StoreBrokenError):
    """The store is being opened anew; ask the new one."""


class QueryTimeoutError(StoreError):
    """A question took longer than it may."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the question took longer than {timeout_s:g} s; ask for a shorter range")


class Store:
    """An open file at ``path``; see the module's text for who may call what."""

    def __init__(self, path: Path, memory_limit_mb: int, query_timeout_s: float = 30.0) -> None:
        self.path = path
        self.query_timeout_s = query_timeout_s
        self.applied = Position(1, 0)
        self.counters: Counter[str] = Counter()
        self._seen = SeenFolder(path.with_name("seen"))
        self._forms: set[str] = set()
        """The ids of the stored forms of receipts."""
        self._anonymous = 0
        """How many foreign calls without a response id are stored, or somewhat more."""
        self.archive = Archive(path.with_name("archive"))
        self.counted = Position(1, 0)
        """Up to here the counters were written down beside the archive; what is applied again counts nothing."""
        self._has_recalled = False
        self._threads = threading.local()
        self._is_closed = False
        self._database = _open(path, memory_limit_mb)
        try:
            self._writer = self._cursor()
            if 0 < _schema(self._writer) < SCHEMA:
                # A new column takes 256 KB for every 122,880 rows until the next checkpoint: more than the limit.
                self._database.close()
                _migrate_alone(path)
                self._database = _open(path, memory_limit_mb)
                self._writer = self._cursor()
            _migrate(self._writer, path)
            aside = path.with_name("aside")
            aside.mkdir(mode=0o700, exist_ok=True)
            self.archive.recall(self._run, aside)
            self._tell_places()
            self.schemas = {table: _arrow_schema(self._writer, table) for table in TABLES}
            """The columns of what `apply` takes."""
            self._recall()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Write everything into the file and let go of it."""
        self._is_closed = True
        with suppress(duckdb.Error):
            self._writer.execute("CHECKPOINT ledger").fetchall()
        with suppress(duckdb.Error):
            self._database.close()
        with suppress(OSError):
            self._seen.close(self.applied)

    # Asking

    def ask(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a question; for any thread.  Raises QueryTimeoutError, or StoreBrokenError."""
        rows: list[tuple[Any, ...]] = self._answer(lambda cursor: cursor.execute(sql, params).fetchall())
        return rows

    def ask_table(self, sql: str, params: Params = ()) -> pa.Table:
        """Return the same as an Arrow table."""
        # A relation, because 2.0 warns that the rows of `execute` are copied twice on their way to Arrow.
        return self._answer(lambda cursor: cursor.sql(sql, params=params).to_arrow_table())

    def _answer(self, question: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
        cursor = self._thread_cursor()
        timer = threading.Timer(self.query_timeout_s, cursor.interrupt)
        timer.start()
        try:
            return question(cursor)
        except duckdb.InterruptException as error:
            raise QueryTimeoutError(self.query_timeout_s) from error
        except duckdb.Error as error:
            self._threads.cursor = None
            broken = StoreClosedError if self._is_closed else StoreBrokenError
            raise broken(f"DuckDB cannot answer: {_first_line(error)}") from error
        finally:
            timer.cancel()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that this thread asks inside answered from one state, whatever is stored meanwhile."""
        cursor = self._thread_cursor()
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY").fetchall()
        except duckdb.Error as error:
            self._threads.cursor = None
            raise StoreClosedError(f"DuckDB is closed: {_first_line(error)}") from error
        self._threads.is_held = True
        try:
            yield
        finally:
            self._threads.is_held = False
            with suppress(duckdb.Error):
                cursor.execute("ROLLBACK").fetchall()

    def _thread_cursor(self) -> duckdb.DuckDBPyConnection:
        threads = self._threads
        cursor: duckdb.DuckDBPyConnection | None = getattr(threads, "cursor", None)
        if cursor is None or (threads.age != self.archive.age and not getattr(threads, "is_held", False)):
            threads.age = self.archive.age
            cursor = threads.cursor = self._cursor()
            for view in self.archive.views():
                cursor.execute(view).fetchall()
        return cursor

    # Applying; the writer's thread only

    def apply(self, packed: Packed, upto: Position, statements: Iterable[tuple[str, Params]] = ()) -> None:
        """Store ``packed`` and that the journal is applied up to ``upto``, both or neither.

        Raises BadRowsError when these rows can never be stored, StoreBrokenError when the store must be opened anew.
        """
        try:
            self._writer.execute("BEGIN").fetchall()
            try:
                forms = self._insert_forms(packed.forms)
                added = self._insert(packed)
                for sql, params in statements:
                    self._writer.execute(sql, params).fetchall()
                self._note(packed.counts, upto)
                today = datetime.now(UTC).date()
                for seen, hashes in added:
                    seen.add(hashes, today)
                self._seen.note(upto)
                self._writer.execute("COMMIT").fetchall()
            except BaseException:
                with suppress(duckdb.Error):
                    self._writer.execute("ROLLBACK").fetchall()
                self.counters = _counters(self._writer)
                raise
        except (pa.ArrowException, OverflowError, duckdb.DataError) as error:
            raise BadRowsError(_first_line(error)) from error
        except duckdb.Error as error:
            raise StoreBrokenError(f"DuckDB cannot store: {_first_line(error)}") from error
        self.applied = upto
        self._forms |= forms

    def revise(self, revision: Revision) -> None:
        """Give units other figures, keep the old ones beside them, mend the calls, note how far that is; or nothing.

        Raises StoreBrokenError.
        """
        changes = revision.priced.changes
        bound = {"start": revision.start, "end": revision.end}
        told = {"id": revision.reprice_id, "at": revision.revised_at}
        examined = {"id": revision.reprice_id, "end": revision.end, "count": revision.priced.examined}
        with self._transaction("revise"):
            if len(changes):
                forms = self._insert_forms(dict(revision.priced.forms))
                self._writer.register("revised", changes)
                self._writer.execute(MARK.format(REVISED_CALLS)).fetchall()
                self._writer.execute(INSERT_REVISIONS, bound | told).fetchall()
                self._writer.execute(UPDATE_UNITS, bound).fetchall()
                self._writer.execute(UPDATE_CALLS).fetchall()
                self._writer.unregister("revised")
            sql = "UPDATE repricing SET done_to = $end, examined = examined + $count WHERE id = $id"
            self._writer.execute(sql, examined).fetchall()
        if len(changes):
            self._forms |= forms

    def end_repricing(self, reprice_id: str, sql: str, params: Params) -> None:
        """Note that a repricing is done, by ``sql``, and forget how far it was; both or neither."""
        with self._transaction("end a repricing"):
            self._writer.execute(sql, params).fetchall()
            self._writer.execute("DELETE FROM repricing WHERE id = ?", [reprice_id]).fetchall()

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        try:
            self._writer.execute("BEGIN").fetchall()
            try:
                yield
                self._writer.execute("COMMIT").fetchall()
            except BaseException:
                with suppress(duckdb.Error):
                    self._writer.execute("ROLLBACK").fetchall()
                raise
        except duckdb.Error as error:
            raise StoreBrokenError(f"DuckDB cannot {doing}: {_first_line(error)}") from error

    def roll(self, until: datetime, hours_max: int) -> bool:
        """Sum some of the hours before ``until`` of which rows have changed; False when there was none."""
        sql = "SELECT hour FROM rollup_dirty WHERE hour + INTERVAL 1 HOUR <= ? ORDER BY hour LIMIT ?"
        try:
            hours = [hour for (hour,) in self._writer.execute(sql, [until, hours_max]).fetchall()]
            for start, end in joined((hour, hour + HOUR) for hour in hours):
                self._roll(start, end)
        except duckdb.Error as error:
            raise StoreBrokenError(f"DuckDB cannot sum an hour: {_first_line(error)}") from error
        return bool(hours)

    def move(self, before: datetime) -> bool:
        """Move some rows that arrived on days which ended ``before`` into the archive; False when there are none."""
        with self._moving():
            end = self.archive.due(self._run, before)
            if end is not None:
                self.note()
                self.archive.move(self._run, end)
        return end is not None

    def drop(self, before: datetime, kept_from: datetime, bytes_max: int | None) -> bool:
        """Drop the oldest part of the archive when all in it arrived ``before``; False when there is nothing to drop.

        Also when file and archive take more than ``bytes_max``, but never what arrived ``kept_from`` on.
        """
        if bytes_max is not None:
            bytes_max = max(bytes_max - self.path.stat().st_size, 0)
        with self._moving():
            return self.archive.drop(self._run, before, kept_from, bytes_max)

    def forget(self, before: datetime) -> None:
        """Forget the ids of what was stored on days which ended ``before``: it is in the archive, and old."""
        self._seen.forget(before.date())

    def note(self) -> None:
        """Write the counters down beside the archive: the journal is about to lose what they are made of."""
        self.archive.note(max(self.applied, self.counted), self.counters)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise StoreBrokenError(f"DuckDB cannot move old rows: {_first_line(error)}") from error
        finally:
            self.counters = _counters(self._writer)

    def _run(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._writer.execute(sql, params).fetchall()
        return rows

    def _roll(self, start: datetime, end: datetime) -> None:
        self._writer.execute("BEGIN").fetchall()
        try:
            for sql in CLEAR:
                self._writer.execute(sql, [start, end]).fetchall()
            calls, attempts = self.archive.whole("calls"), self.archive.whole("attempts")
            self._run(hours_of(calls, frozen=False), [start, end])
            self._run(tried_of(attempts, calls, frozen=False), [start, end, start, end])
            self._writer.execute("COMMIT").fetchall()
        except BaseException:
            with suppress(duckdb.Error):
                self._writer.execute("ROLLBACK").fetchall()
            raise

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file; for idle moments."""
        try:
            self._writer.execute("CHECKPOINT ledger").fetchall()
        except duckdb.Error as error:
            raise StoreBrokenError(f"DuckDB cannot checkpoint: {_first_line(error)}") from error

    def _insert(self, packed: Packed) -> list[tuple[Seen, Hashes]]:
        import pyarrow.compute as pc  # see `_is_own`

        span_hashes = self._once(packed)
        unit_hashes = self._billed_once(packed)
        self._mark(touched(packed.tables["calls"], packed.tables["attempts"]))
        for table in TABLES:
            self._insert_table(table, packed.tables[table])
        self._writer.register("arrived", places.told(packed.tables))
        self._run(places.INSERT.format("arrived"))
        self._writer.unregister("arrived")
        own_calls = pc.sum(_is_own(packed.tables["calls"])).as_py() or 0
        packed.counts["stored"] += len(packed.tables["attempts"]) + len(packed.tables["spans"]) + own_calls
        self._count_apps(packed)
        return [(self._seen.spans, span_hashes), (self._seen.units, unit_hashes)]

    def _count_apps(self, packed: Packed) -> None:
        """Count by service what is here of the apps' calls, and what they say: how many finished, how many are lost."""
        calls = packed.tables["calls"]
        found: Counter[tuple[str, str]] = Counter()
        for each in calls.filter(_is_own(calls))["service"].value_counts().to_pylist():
            for what in ("spooled", "finished"):
                found[what, each["values"] or ""] += each["counts"]
        for service, told in packed.told.values():
            for what, count in told.items():
                found[what, service] += count
        known = {name for name in self.counters if name.startswith("finished:")}
        for (what, service), count in found.items():
            is_one_of_few = f"finished:{service}" in known or len(known) < SERVICES_MAX
            packed.counts[f"{what}:{service if is_one_of_few else OTHERS}"] += count
            if what == "dropped_records":
                packed.counts.update({"dropped_records": count, "dropped:by an app": count})

    def _mark(self, hours: Iterable[int]) -> None:
        """Note, in the transaction that is under way, that rows of ``hours``, counted from 1970, have changed."""
        if found := [EPOCH + int(hour) * HOUR for hour in hours]:
            sql = "INSERT INTO rollup_dirty SELECT unnest(?::TIMESTAMP[]) EXCEPT FROM rollup_dirty"
            self._writer.execute(sql, [found]).fetchall()

    def _insert_table(self, name: str, table: pa.Table) -> None:
        if not len(table):
            return
        self._writer.register("arrived", table)
        self._writer.execute(f"INSERT INTO {name} BY NAME SELECT * FROM arrived").fetchall()  # noqa: S608 -- of TABLES
        self._writer.unregister("arrived")

    def _tell_places(self) -> None:
        """Tell the places of what was stored before there were any, and of the archive when the database is new."""
        if self._run("SELECT 1 FROM meta WHERE key = 'places'"):
            return
        of = {table: self.archive.whole(table) for table, _ in places.TOLD}
        with self._transaction("tell the places of what is stored"):
            self._run(places.INSERT.format(places.stored(of)))
            self._run("INSERT INTO meta VALUES ('places', 'told')")

    def _insert_forms(self, forms: dict[str, str]) -> set[str]:
        """Store the forms that are not stored yet; return their ids."""
        new = forms.keys() - self._forms
        for form_id in sorted(new):
            self._writer.execute("INSERT INTO receipt_forms VALUES (?, ?)", [form_id, forms[form_id]]).fetchall()
        return new

    def _note(self, counts: Counter[str], upto: Position) -> None:
        position = json.dumps([upto.segment, upto.offset])
        self._writer.execute("UPDATE meta SET value = ? WHERE key = 'applied'", [position]).fetchall()
        told = {name: count for name, count in counts.items() if count} if upto > self.counted else {}
        new = told.keys() - self.counters.keys()
        if new:
            self._run("INSERT INTO counters SELECT unnest(?::VARCHAR[]), 0", [sorted(new)])
        if told:
            sql = """
                UPDATE counters SET count = counters.count + told.count
                FROM (SELECT unnest(?::VARCHAR[]) AS name, unnest(?::BIGINT[]) AS count) AS told
                WHERE counters.name = told.name
            """
            self._run(sql, [[*told], [*told.values()]])
        self.counters.update(told)

    # Duplicates: looked for in columns; only when there may be one is anything looked at row by row

    def _once(self, packed: Packed) -> Hashes:
        """Drop spans that are stored already or come twice; return the hashes of what came."""
        self._recall_seen()
        tables = packed.tables
        spans = [tables["attempts"], tables["spans"], tables["calls"].filter(_is_own(tables["calls"]))]
        keys = pa.concat_tables([table.select(["trace_id", "id"]) for table in spans])
        hashes = self._hashes(keys)
        suspects = keys.take(pa.array(np.flatnonzero(self._seen.spans.perhaps(hashes))))
        stored = self._stored_spans(suspects)
        if stored or len(np.unique(hashes)) < len(hashes):
            batch = packed.unpack(*TABLES)
            kept = self._drop_repeated_spans(batch, stored)
            packed.told = {key: told for key, told in packed.told.items() if key in kept}
            packed.repack(batch, *TABLES)
        return hashes

    def _drop_repeated_spans(self, batch: Batch, stored: Mapping[Key, Row]) -> Collection[Key]:
        """Drop what comes twice, the later ones, and what is among ``stored``; return the ids of what is left.

        A foreign call is there twice on purpose, as a call and as a span; the span's fate decides for both.
        """
        kept: dict[Key, Row] = {}
        copies: Counter[Key] = Counter()
        conflicts: set[tuple[Key, int]] = set()
        for rows in (batch.attempts, batch.spans, [call for call in batch.calls if call["source"] == "tallystick"]):
            for row in rows:
                key = (row["trace_id"], row["id"])
                copies[key] += 1
                known = stored.get(key) or kept.setdefault(key, row)
                if known is not row and _contradicts(known, row):
                    conflicts.add((key, copies[key]))
        conflicts |= _contradicting_units(batch.units, self._stored_units_of(stored.keys() & copies.keys()))
        batch.counts.update({"duplicates": copies.total() - len(kept), "conflicts": len(conflicts)})
        _keep(batch, kept)
        return kept.keys()

    def _stored_spans(self, suspects: pa.Table) -> dict[Key, Row]:
        """Return those of ``suspects`` (their ids) that are stored."""
        if not len(suspects):
            return {}
        wanted = set(zip(*suspects.to_pydict().values(), strict=True))
        found: dict[Key, Row] = {}
        within = places.of_traces(self._run, suspects["trace_id"].to_pylist())
        if within is None:
            return {}
        values = [*within[1], suspects["id"].to_pylist()]
        for table in ("calls", "attempts", "spans"):
            which = f"{within[0]} AND id IN (SELECT unnest(?::VARCHAR[]))"
            which += " AND source = 'tallystick'" if table == "calls" else ""
            hits = self._run(f"SELECT rowid, trace_id, id FROM {table} WHERE {which}", values)  # noqa: S608
            rowids = [rowid for rowid, *key in hits if tuple(key) in wanted]
            if rowids:
                rows = self._rows(table, "rowid IN (SELECT unnest(?::BIGINT[]))", [rowids])
                found |= {(row["trace_id"], row["id"]): row for row in rows}
            if (archived := self.archive.stored(table)) is not None:
                rows = self._rows(f"({archived})", which, values)
                found |= {key: row for row in rows if (key := (row["trace_id"], row["id"])) in wanted}
        return found

    def _stored_units_of(self, calls: Collection[Key]) -> list[Row]:
        """Return the units that are stored of ``calls``."""
        ids = [call_id for _, call_id in calls]
        rows = self._rows("units", "call_id IN (SELECT unnest(?::VARCHAR[]))", [ids]) if ids else []
        return [row for row in rows if (row["trace_id"], row["call_id"]) in calls]

    def _billed_once(self, packed: Packed) -> Hashes:
        """Leave one unit per billable response, and no call that only repeats another; return the units' hashes."""
        import pyarrow.compute as pc  # see `_is_own`

        units = packed.tables["units"]
        is_named = pc.greater_equal(pc.utf8_length(units["unit_id"]), IDENTITY_CHARS_MIN)
        keys = units.filter(is_named).select(["provider", "unit_id"])
        hashes = self._hashes(keys)
        stored = self._stored_units(keys.take(pa.array(np.flatnonzero(self._seen.units.perhaps(hashes)))))
        is_anonymous = pc.and_(pc.is_null(units["unit_id"]), pc.not_equal(units["source"], "tallystick"))
        may_wrap = self._anonymous or pc.any(is_anonymous).as_py()
        if stored or may_wrap or len(np.unique(hashes)) < len(hashes):
            batch = packed.unpack("calls", "units")
            before = len(batch.calls), len(batch.units)
            self._drop_wrappers(batch)
            self._drop_repeated_units(batch, stored)
            if before != (len(batch.calls), len(batch.units)):
                packed.repack(batch, "calls", "units")
        return hashes

    def _drop_wrappers(self, batch: Batch) -> None:
        """Drop foreign calls without a response id that wrap a call which is known better; both may come first.

        A framework's span around an SDK's call counts the same tokens, and has nothing that says so but its place.
        """
        anonymous = {(unit["trace_id"], unit["call_id"]) for unit in batch.units if _is_anonymous(unit)}
        if anonymous:
            wrapping = [call for call in batch.calls if (call["trace_id"], call["id"]) in anonymous]
            known = [call for call in batch.calls if (call["trace_id"], call["id"]) not in anonymous]
            known += self._calls_of({call["trace_id"] for call in wrapping}, "NOT")
            by_trace = _by_trace(known)
            dropped = {(call["trace_id"], call["id"]) for call in wrapping if _wraps_any(call, by_trace)}
            _drop_calls(batch, dropped)
            self._anonymous += len(anonymous) - len(dropped)
        if self._anonymous:
            by_trace = _by_trace(call for call in batch.calls if (call["trace_id"], call["id"]) not in anonymous)
            for call in self._calls_of(set(by_trace), ""):
                if _wraps_any(call, by_trace):
                    where = "trace_id = ? AND id = ?"
                    self._writer.execute(MARK.format(where), [call["trace_id"], call["id"]]).fetchall()
                    for table, column in (("units", "call_id"), ("calls", "id")):
                        sql = f"DELETE FROM {table} WHERE trace_id = ? AND {column} = ?"  # noqa: S608
                        self._writer.execute(sql, [call["trace_id"], call["id"]]).fetchall()
                    batch.counts["duplicate_units"] += 1

    def _calls_of(self, traces: set[str], which: str) -> list[Row]:
        """Return the stored calls of ``traces`` that are anonymous, or with ``which`` as NOT the others."""
        columns = ("trace_id", "id", "parent_id", "started_at", "latency_ms", "model", "response_model", "precedence")
        sql = f"""
            SELECT {", ".join(columns)} FROM calls WHERE trace_id IN (SELECT unnest(?::VARCHAR[])) AND {which}
                (source <> 'tallystick' AND EXISTS (FROM units WHERE units.trace_id = calls.trace_id
                    AND call_id = calls.id AND unit_id IS NULL))
        """  # noqa: S608
        rows = self._writer.execute(sql, [sorted(traces)]).fetchall()
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        for call in found:
            call["started_at"] = (call["started_at"] - EPOCH) // MICROSECOND
        return found

    def _drop_repeated_units(self, batch: Batch, stored: Mapping[Key, Rank]) -> None:
        """Keep one unit per (provider, response id): the most trusted one, stored before or not."""
        best: dict[Key, Row] = {}
        for unit in batch.units:
            key = _identity(unit)
            if key is not None and (key not in best or _rank(unit) > _rank(best[key])):
                best[key] = unit
        for key in best.keys() & stored.keys():
            if _rank(best[key]) > stored[key]:
                self._supersede(key)
                batch.counts["duplicate_units"] += 1
            else:
                del best[key]
        kept = [unit for unit in batch.units if (key := _identity(unit)) is None or best.get(key) is unit]
        if len(kept) < len(batch.units):
            batch.counts["duplicate_units"] += len(batch.units) - len(kept)
            batch.units[:] = kept
            _drop_empty_calls(batch)

    def _stored_units(self, suspects: pa.Table) -> dict[Key, Rank]:
        """Return the best stored rank of those of ``suspects`` (provider, response id) that are stored."""
        if not len(suspects):
            return {}
        sql = """
            SELECT provider, unit_id, max(precedence), bool_or(cost_usd IS NOT NULL), bool_or(NOT estimated),
                max(input_tokens + output_tokens),
                max(coalesce(TRY_CAST(coalesce(usage ->> '$.seconds', usage ->> '$.active_seconds') AS DOUBLE), 0))
            FROM units WHERE unit_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY provider, unit_id
        """
        rows = self._writer.execute(sql, [suspects["unit_id"].to_pylist()]).fetchall()
        wanted = set(zip(*suspects.to_pydict().values(), strict=True))
        if (archived := self.archive.stored("units")) is not None:
            sql = f"SELECT DISTINCT provider, unit_id FROM ({archived}) WHERE unit_id IN (SELECT unnest(?::VARCHAR[]))"  # noqa: S608
            rows += [(*key, *UNBEATEN) for key in self._run(sql, [suspects["unit_id"].to_pylist()])]
        return {(provider, unit_id): tuple(rank) for provider, unit_id, *rank in rows if (provider, unit_id) in wanted}

    def _supersede(self, key: tuple[str, str]) -> None:
        """Remove a stored unit that a better one replaces, and mend the call that it was counted in."""
        sql = "SELECT trace_id, call_id FROM units WHERE provider = ? AND unit_id = ?"
        for trace_id, call_id in self._writer.execute(sql, key).fetchall():
            self._writer.execute("DELETE FROM units WHERE provider = ? AND unit_id = ?", key).fetchall()
            where = "trace_id = ? AND {} = ?"
            left = self._rows("units", where.format("call_id"), [trace_id, call_id])
            self._writer.execute(MARK.format(where.format("id")), [trace_id, call_id]).fetchall()
            for call in self._rows("calls", where.format("id"), [trace_id, call_id]):
                self._writer.execute("DELETE FROM calls WHERE trace_id = ? AND id = ?", [trace_id, call_id]).fetchall()
                # A foreign call is nothing but its unit; it stays in ``spans``.
                if left or call["source"] == "tallystick":
                    settle(call, left)
                    self._insert_table("calls", table_of([call], self.schemas["calls"]))

    def _rows(self, table: str, where: str, params: Params) -> list[Row]:
        cursor = self._writer.execute(f"SELECT * FROM {table} WHERE {where}", params)  # noqa: S608 -- of TABLES
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, map(_as_arrived, row), strict=True)) for row in cursor.fetchall()]

    def _hashes(self, keys: pa.Table) -> Hashes:
        """Return a hash of each row of ``keys``, of the first column and the second."""
        if not len(keys):
            return np.zeros(0, dtype=np.uint64)
        self._writer.register("keys", keys)
        sql = f"SELECT hash({', '.join(keys.column_names)}) AS h FROM keys"  # noqa: S608 -- our own columns
        hashes: Hashes = self._writer.execute(sql).fetchnumpy()["h"]
        self._writer.unregister("keys")
        return hashes

    def _recall(self) -> None:
        """Read from the file what is kept in memory: position, counters, and what was seen."""
        rows = self._writer.execute("SELECT value FROM meta WHERE key = 'applied'").fetchall()
        self.applied = Position(*json.loads(rows[0][0]))
        rows = self._run("SELECT value FROM meta WHERE key = 'counted'")
        self.counted = Position(*json.loads(rows[0][0])) if rows else Position(1, 0)
        self.counters = _counters(self._writer)
        self._forms = {form_id for (form_id,) in self._writer.execute("SELECT id FROM receipt_forms").fetchall()}
        sql = "SELECT count(*) FROM units WHERE unit_id IS NULL AND source <> 'tallystick'"
        self._anonymous = self._writer.execute(sql).fetchall()[0][0]
        rows = self._run("SELECT value FROM meta WHERE key = 'seen'")
        token, _, hashing = rows[0][0].partition(" ") if rows else ("", "", "")
        self._has_recalled = hashing == str(self._way_of_hashing()) and self._seen.open(token, self.applied)

    def _recall_seen(self) -> None:
        """Read what was seen out of the rows, unless it is known: before the first are stored, so that nobody waits."""
        if self._has_recalled:
            return
        token = secrets.token_hex(8)
        self._seen.begin(token)
        now = datetime.now(UTC)
        since = now.replace(tzinfo=None) - timedelta(days=KEPT_DAYS)
        sql = "SELECT part FROM archive_parts WHERE NOT dropped AND (upto > ? OR ?)"
        parts = [part for (part,) in self._run(sql, [since, self.applied < self.counted])]
        for table in TABLES:
            key, seen = (
                ("provider, unit_id", self._seen.units) if table == "units" else ("trace_id, id", self._seen.spans)
            )
            last = self._run(f"SELECT coalesce(max(rowid), -1) FROM {table}")[0][0]  # noqa: S608
            sources = [f"{table} WHERE rowid BETWEEN {at} AND {at + HASHES - 1}" for at in range(0, last + 1, HASHES)]
            sources += [self.archive.rows(part, table) for part in parts]
            for source in sources:
                hashes = self._writer.execute(f"SELECT hash({key}) AS h FROM {source}").fetchnumpy()["h"]  # noqa: S608
                seen.add(hashes, now.date())
        self._run("DELETE FROM meta WHERE key = 'seen'")
        self._run("INSERT INTO meta VALUES ('seen', ?)", [f"{token} {self._way_of_hashing()}"])
        self._has_recalled = True

    def _way_of_hashing(self) -> int:
        """Return what changes when another version of DuckDB makes other hashes."""
        return int(self._run("SELECT hash('tallystick', 'seen')")[0][0])

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        try:
            cursor = self._database.cursor()
            cursor.execute("USE ledger").fetchall()
        except duckdb.Error as error:
            raise StoreClosedError(f"DuckDB is closed: {_first_line(error)}") from error
        return cursor


def open_or_set_aside(
    path: Path, aside: Path, memory_limit_mb: int, query_timeout_s: float
) -> tuple[Store, str | None]:
    """Return the store at ``path``; when it does not open it is moved to ``aside`` and a new one begun.

    The second value is what was done, in one line, or None.  Raises StoreTooNewError, which moving would not mend.
    """
    existed = path.exists()
    wal = path.with_name(path.name + ".wal")
    if not existed and wal.exists():  # it belongs to a file that is gone
        wal.rename(_beside(aside, wal))
    try:
        return Store(path, memory_limit_mb, query_timeout_s), None
    except duckdb.OutOfMemoryException as error:
        raise StoreError(f"{path} needs more memory to open: {_first_line(error)}; raise memory_limit_mb") from error
    except (duckdb.Error, StoreBrokenError, KeyError, IndexError, ValueError) as error:
        # DuckDB says so only in words; a class of its own is new in 2.0.
        if "Unique file handle conflict" in str(error):
            raise StoreBrokenError(f"{path} is still being closed; it is opened as soon as that is done") from error
        if not existed:
            raise StoreError(f"cannot make {path}: {_first_line(error)}") from error
        if any(words in str(error) for words in NO_ROOM):
            raise StoreError(f"{path} cannot be opened: {_first_line(error)}; free some of the disk") from error
        for part in (path, wal):
            if part.exists():
                part.rename(_beside(aside, part))
        told = (
            f"{path.name} does not open ({_first_line(error)}); it was moved to {aside} and is rebuilt from the journal"
        )
        return Store(path, memory_limit_mb, query_timeout_s), told


def _beside(aside: Path, path: Path) -> Path:
    return aside / f"{time.time_ns()}-{path.name}"


def _open(path: Path, memory_limit_mb: int | None) -> duckdb.DuckDBPyConnection:
    """Open the file; without a limit DuckDB takes four fifths of the machine's memory if it needs them."""
    limit = {} if memory_limit_mb is None else {"memory_limit": f"{memory_limit_mb}MB"}
    database = duckdb.connect(":memory:", config={
        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
        "threads": "2", "temp_directory": str(path.with_name("tmp")), **limit,
    })  # fmt: skip
    try:
        quoted = str(path).replace("'", "''")
        database.execute(f"ATTACH '{quoted}' AS ledger (STORAGE_VERSION '{FILE_VERSION}')").fetchall()
        # What SQL can reach ends at this file and its archive, and no SQL can change that.
        archive = str(path.with_name("archive")).replace("'", "''")
        for setting in (
            f"allowed_directories = ['{archive}']",
            f"wal_autocheckpoint = '{WAL_BYTES}'",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            database.execute(f"SET {setting}").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def _migrate_alone(path: Path) -> None:
    """Run the migrations that a file with rows in it lacks, with as much memory as they need."""
    database = _open(path, None)
    try:
        cursor = database.cursor()
        cursor.execute("USE ledger").fetchall()
        _migrate(cursor, path)
        cursor.execute("CHECKPOINT ledger").fetchall()
    finally:
        database.close()


def _schema(cursor: duckdb.DuckDBPyConnection) -> int:
    """Return the number of the last migration that the file has seen, 0 when it is new."""
    tables = cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE database_name = 'ledger'").fetchall()[0][0]
    return int(cursor.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall()[0][0]) if tables else 0


def _migrate(cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Run the migrations that the file lacks, in order, each with its number in one transaction."""
    found = _schema(cursor)
    if found > SCHEMA:
        raise StoreTooNewError(str(path), found, SCHEMA)
    scripts = sorted(files("tallystick.collector").joinpath("migrations").iterdir(), key=lambda script: script.name)
    for script in scripts:
        number = int(script.name[:4])
        if number <= found:
            continue
        cursor.execute("BEGIN").fetchall()
        cursor.execute(script.read_text(encoding="utf-8")).fetchall()
        if number == 1:
            cursor.execute("INSERT INTO meta VALUES ('schema', '0'), ('applied', '[1, 0]')").fetchall()
        cursor.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [str(number)]).fetchall()
        cursor.execute("COMMIT").fetchall()


ARROW = {
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DECIMAL(18,12)": pa.decimal128(18, 12),
    "UBIGINT[]": pa.list_(pa.uint64()),
    "INTEGER[]": pa.list_(pa.int32()),
    "VARCHAR[]": pa.list_(pa.string()),
    "MAP(VARCHAR, VARCHAR)": pa.map_(pa.string(), pa.string()),
}


def _arrow_schema(cursor: duckdb.DuckDBPyConnection, table: str) -> pa.Schema:
    sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'ledger' AND table_name = ?"
    return pa.schema([(name, ARROW[kind]) for name, kind in cursor.execute(sql, [table]).fetchall()])


def _counters(cursor: duckdb.DuckDBPyConnection) -> Counter[str]:
    with suppress(duckdb.Error):
        return Counter(dict(cursor.execute("SELECT name, count FROM counters").fetchall()))
    return Counter()


def _as_arrived(value: Any) -> Any:
    """Return what DuckDB hands out as rows have it: a MAP as pairs, a time in microseconds."""
    if isinstance(value, dict):
        return list(value.items())
    return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value


def _is_own(calls: pa.Table) -> pa.ChunkedArray:
    # It makes its hundreds of functions as it is imported, 50 ms: the first rows may wait for that, a start need not.
    import pyarrow.compute as pc

    return pc.equal(calls["source"], "tallystick")


def _contradicts(known: Row, copy: Row) -> bool:
    """Tell whether two copies of a span say different things; what only one of them says is no contradiction."""
    return any(_differ(known.get(name), value) for name, value in copy.items() if name not in MADE)


def _contradicting_units(units: Iterable[Row], stored: Iterable[Row]) -> set[tuple[Key, int]]:
    """Return which copies of which calls tell otherwise of a unit than the first copy did, or what is stored."""
    first = {(unit["trace_id"], unit["call_id"], unit["position"]): unit for unit in stored}
    copies: Counter[tuple[str, str, int]] = Counter()
    found: set[tuple[Key, int]] = set()
    for unit in units:
        place = (unit["trace_id"], unit["call_id"], unit["position"])
        copies[place] += 1
        known = first.setdefault(place, unit)
        if unit["source"] == "tallystick" and any(_differ(known[name], unit[name]) for name in UNIT_TOLD):
            found.add((place[:2], copies[place]))
    return found


def _differ(one: Any, other: Any) -> bool:
    if one is None or other is None or one == [] or other == []:
        return False
    if isinstance(one, list) and isinstance(one[0], tuple):
        one, other = dict(one), dict(other)
        return any(one[key] != other[key] for key in one.keys() & other.keys())
    return bool(one != other)


def _keep(batch: Batch, kept: dict[tuple[str, str], Row]) -> None:
    """Leave only ``kept`` in the batch, and of calls and units what belongs to them."""
    batch.attempts[:] = [row for row in batch.attempts if kept.get((row["trace_id"], row["id"])) is row]
    batch.spans[:] = [row for row in batch.spans if kept.get((row["trace_id"], row["id"])) is row]
    calls: dict[tuple[str, str], Row] = {}
    for call in batch.calls:
        key = (call["trace_id"], call["id"])
        if kept.get(key) is call or (call["source"] != "tallystick" and key in kept):
            calls.setdefault(key, call)
    batch.calls[:] = calls.values()
    batch.units[:] = _units_of(batch.units, calls)


def _units_of(units: list[Row], calls: dict[tuple[str, str], Row]) -> list[Row]:
    """Return the units of ``calls``; a call that came twice has brought its units twice, the first ones stay."""
    found: dict[tuple[str, str, int], Row] = {}
    for unit in units:
        if (unit["trace_id"], unit["call_id"]) in calls:
            found.setdefault((unit["trace_id"], unit["call_id"], unit["position"]), unit)
    return list(found.values())


def _identity(unit: Row) -> tuple[str, str] | None:
    """Return what names a billable response among all, None when its id is missing or too short to do that."""
    unit_id = unit["unit_id"]
    return (unit["provider"], unit_id) if unit_id is not None and len(unit_id) >= IDENTITY_CHARS_MIN else None


def _drop_empty_calls(batch: Batch) -> None:
    """Drop foreign calls whose unit somebody else has told better."""
    counted = {(unit["trace_id"], unit["call_id"]) for unit in batch.units}
    batch.calls[:] = [
        call for call in batch.calls if call["source"] == "tallystick" or (call["trace_id"], call["id"]) in counted
    ]


def _is_anonymous(unit: Row) -> bool:
    return unit["unit_id"] is None and unit["source"] != "tallystick"


def _by_trace(calls: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the calls of each trace; of a trace that has very many only some, because each is compared with each."""
    found: dict[str, list[Row]] = {}
    for call in calls:
        of_trace = found.setdefault(call["trace_id"], [])
        if len(of_trace) < TRACE_CALLS_MAX:
            of_trace.append(call)
    return found


def _wraps_any(wrapper: Row, known: dict[str, list[Row]]) -> bool:
    """Tell whether ``wrapper`` lies around one of the ``known`` calls: as parent, or in time and for the same model."""
    end = wrapper["started_at"] + (wrapper["latency_ms"] or 0) * 1000
    for call in known.get(wrapper["trace_id"], ()):
        is_inside = wrapper["started_at"] <= call["started_at"] <= end
        same_model = wrapper["model"] in {call["model"], call["response_model"]}
        if call["id"] != wrapper["id"] and (call["parent_id"] == wrapper["id"] or (is_inside and same_model)):
            return True
    return False


def _drop_calls(batch: Batch, dropped: set[tuple[str, str]]) -> None:
    if not dropped:
        return
    batch.counts["duplicate_units"] += len(dropped)
    batch.calls[:] = [call for call in batch.calls if (call["trace_id"], call["id"]) not in dropped]
    batch.units[:] = [unit for unit in batch.units if (unit["trace_id"], unit["call_id"]) not in dropped]


def _rank(unit: Row) -> Rank:
    tokens = unit["input_tokens"] + unit["output_tokens"]
    return unit["precedence"], unit["cost_usd"] is not None, not unit["estimated"], tokens, _seconds(unit["usage"])


def _seconds(usage: str | None) -> float:
    """Return the time that a usage tells, 0 when it tells tokens."""
    if usage is None or "seconds" not in usage:
        return 0.0
    told = json.loads(usage)
    seconds = (told.get("seconds") or told.get("active_seconds")) if isinstance(told, dict) else 0
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
