"""Sums of each hour, beside the rows that they are of, and answers that are made of both.

An hour in which a row was added, changed or removed is written down as dirty in the same transaction; until it has been
summed again it is answered from its rows, as the ends of a range are that are no whole hours.  So an answer is the
same whether an hour has been summed or not, and all sums can be made anew at any time.
"""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

Ask = Callable[..., list[tuple[Any, ...]]]
Sql = tuple[str, list[Any]]
"""A piece of SQL and its values."""

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
STRETCHES_MAX = 16
"""Up to so many stretches of time are named one by one, so that DuckDB skips what lies between them."""
ATTEMPT_WITHIN = timedelta(hours=2)
"""An attempt begins within this of its call's start: what is read of the one for the other is bounded by that."""
STEPS_PER_E = 25
"""So many sizes of latency to a factor of e: neighbours are 4 % apart, so a quantile is off by 2 % at most."""
SIZE = f"round(ln(greatest(latency_ms, 0.001)) * {STEPS_PER_E})::SMALLINT"

DIMENSIONS = {
    "provider": "provider", "model": "model", "feature": "feature", "service": "service",
    "environment": "environment", "key": "key_id", "outcome": "outcome", "cost_status": "cost_status",
}  # fmt: skip
"""What the sums can be filtered and grouped by; what has many values stays with the rows."""

# What is summed: over calls, and over the sums of hours.
SAME = (
    "attempts", "units", "estimated_usd", "unpriced_units", "estimated_units", "input_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
STORED = {
    "calls": "count(*)",
    "spend_usd": "sum(cost_usd)",
    "retried": "count(*) FILTER (attempts > 1)",
    "attempts_extra": "sum(greatest(attempts - 1, 0))",
    **{name: f"sum({name})" for name in SAME},
    "first_at": "min(started_at)",
    "last_at": "max(started_at)",
}
FAILED = "FILTER (outcome <> 'ok')"
OF_CALLS = {**STORED, "failed": f"count(*) {FAILED}", "wasted_usd": f"sum(cost_usd) {FAILED}"}
OF_SUMS = {
    **{name: f"sum({name})" for name in STORED},
    "first_at": "min(first_at)",
    "last_at": "max(last_at)",
    "failed": f"sum(calls) {FAILED}",
    "wasted_usd": f"sum(spend_usd) {FAILED}",
}
ADDED = {"first_at": "min", "last_at": "max"}
TOLD = "(outcome <> 'ok' OR retry_after_s IS NOT NULL OR waited_s IS NOT NULL)"
"""Attempts of which there is something to tell beyond that they were made."""

COLUMNS = ", ".join(DIMENSIONS.values())
PREFIXED = ", ".join(f"asked.{column}" for column in DIMENSIONS.values())

# Each takes the start and the end of a stretch of whole hours, both twice where attempts and calls are read.
CLEAR = (
    "DELETE FROM rollup_hour WHERE NOT frozen AND hour >= ? AND hour < ?",
    "DELETE FROM rollup_tried WHERE NOT frozen AND hour >= ? AND hour < ?",
    "DELETE FROM rollup_dirty WHERE hour >= ? AND hour < ?",
)


def hours_of(calls: str, *, frozen: bool) -> str:
    """Return the SQL that sums the hours of ``calls`` between two instants."""
    return f"""
        INSERT INTO rollup_hour BY NAME
        WITH sized AS (
            SELECT date_trunc('hour', started_at) AS hour, {COLUMNS}, {SIZE} AS size,
                {", ".join(f"{sql} AS {name}" for name, sql in STORED.items())}
            FROM {calls} WHERE started_at >= ? AND started_at < ? GROUP BY ALL)
        SELECT hour, {COLUMNS}, {frozen} AS frozen, {", ".join(f"{OF_SUMS[name]} AS {name}" for name in STORED)},
            list(size) FILTER (size IS NOT NULL) AS sizes, list(calls) FILTER (size IS NOT NULL) AS counts
        FROM sized GROUP BY ALL
    """


def tried_of(attempts: str, calls: str, *, frozen: bool) -> str:
    """Return the SQL that sums ``attempts`` by the hour in which they began, between two instants."""
    return f"""
        INSERT INTO rollup_tried BY NAME
        WITH tried AS (
            SELECT hash(trace_id, call_id) AS place, outcome, started_at, retry_after_s, waited_s FROM {attempts}
            WHERE started_at >= ? AND started_at < ? AND {TOLD}),
        asked AS (
            SELECT hash(trace_id, id) AS place, {COLUMNS}, started_at FROM {calls}
            WHERE started_at >= ?::TIMESTAMP - to_seconds({ATTEMPT_WITHIN.seconds}) AND started_at < ?)
        SELECT date_trunc('hour', tried.started_at) AS hour, {PREFIXED}, {frozen} AS frozen,
            tried.outcome AS tried_outcome, count(*) AS tried, max(tried.started_at) AS last_at,
            coalesce(sum(tried.retry_after_s), 0) AS retry_after_s, coalesce(sum(tried.waited_s), 0) AS waited_s
        FROM tried JOIN asked ON asked.place = tried.place
            AND tried.started_at < asked.started_at + to_seconds({ATTEMPT_WITHIN.seconds})
        GROUP BY ALL
    """


@dataclass(slots=True)
class Range:
    """``start`` (within) to ``end`` (outside), and the filters, as SQL with its values."""

    start: datetime
    end: datetime
    filters: str = ""
    """Begins with AND when there are any."""
    filter_values: list[Any] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """What is filtered by."""
    rest: dict[str, str] = field(default_factory=dict)
    """The parameters that the question itself takes."""

    @property
    def where(self) -> str:
        """The condition that picks the calls."""
        return f"started_at >= ? AND started_at < ? {self.filters}"

    @property
    def values(self) -> list[Any]:
        """The values of `where`."""
        return [naive(self.start), naive(self.end), *self.filter_values]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answer for a range is: in the rows of some stretches of it, in the sums of the hours between them."""

    stretches: Sequence[tuple[datetime, datetime]]
    hours: Sql | None
    """Which sums; None when all is read from rows."""
    lacks_rows: bool = False
    """Some of these sums are all that is left."""

    def rows(self, before: timedelta = timedelta()) -> Sql:
        """Return the condition that picks rows by their time, or such as began up to ``before`` earlier."""
        stretches = [(max(start - before, EARLIEST), end) for start, end in self.stretches]
        hours: set[datetime] = set()
        if len(stretches) > STRETCHES_MAX:  # of which all but the first and the last are whole hours
            whole = [stretch for stretch in stretches if all(at == _hour(at) for at in stretch)]
            stretches = [stretch for stretch in stretches if stretch not in whole]
            hours = {start + HOUR * place for start, end in whole for place in range((end - start) // HOUR)}
        either = ["(started_at >= ? AND started_at < ?)" for _ in stretches]
        values: list[Any] = [at for stretch in stretches for at in stretch]
        if hours:
            either.append("date_trunc('hour', started_at) IN (SELECT unnest(?::TIMESTAMP[]))")
            values.append(sorted(hours))
        return f"({' OR '.join(either) or 'false'})", values


EARLIEST = datetime(1970, 1, 1)  # noqa: DTZ001 -- DuckDB's TIMESTAMP is naive, and UTC here


def sources(ask: Ask, asked: Range, by: Collection[str], cuts: Iterable[datetime] = ()) -> Sources:
    """Return where to read a range that is grouped ``by`` dimensions; ``cuts`` divide groups, at any minute."""
    start, end = naive(asked.start), naive(asked.end)
    first, last = _hour(start + HOUR - MICROSECOND), _hour(end)
    if not (set(by) | asked.names) <= DIMENSIONS.keys() or first >= last:
        return Sources([(start, end)], None)
    sql = """
        SELECT hour, false FROM rollup_dirty WHERE hour >= ? AND hour < ?
        UNION ALL SELECT max(hour), true FROM rollup_hour WHERE frozen AND hour >= ? AND hour < ? HAVING count(*) > 0
    """
    found = ask(sql, [first, last, first, last])
    rows = {hour for hour, frozen in found if not frozen} | {
        _hour(cut) for cut in cuts if first <= cut < last and cut != _hour(cut)
    }
    stretches = [(start, first), *((hour, hour + HOUR) for hour in sorted(rows)), (last, end)]
    hours = "hour >= ? AND hour < ?"
    values: list[Any] = [first, last]
    if rows:
        hours += " AND (frozen OR hour NOT IN (SELECT unnest(?::TIMESTAMP[])))"
        values.append(sorted(rows))
    return Sources(joined(stretches), (hours, values), lacks_rows=any(frozen for _, frozen in found))


def joined(stretches: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return ``stretches``, which are in order, with neighbours made one and empty ones left out."""
    found: list[tuple[datetime, datetime]] = []
    for start, end in stretches:
        if found and start < end and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif start < end:
            found.append((start, end))
    return found


def summed(
    ask: Ask, asked: Range, source: Sources, keys: Sequence[tuple[str, Sql]], names: Sequence[str], order: str = ""
) -> list[tuple[Any, ...]]:
    """Return (keys, sums called ``names``) of the range, one row for each combination of ``keys`` in it.

    A key is its name and its SQL over the columns in `DIMENSIONS` and ``started_at``, of an hour its start.
    """
    groups = f"GROUP BY {', '.join(str(place + 1) for place in range(len(keys)))}" if keys else ""
    made = "".join(f"{sql} AS {name}, " for name, (sql, _) in keys)
    key_values = [value for _, (_, values) in keys for value in values]
    picked, values = source.rows()
    of_rows = f"FROM calls WHERE {picked} {asked.filters} {groups}"
    values = [*key_values, *values, *asked.filter_values]
    if source.hours is None:
        wanted = ", ".join(f"{_shown(name, OF_CALLS[name])} AS {name}" for name in names)
        return ask(f"SELECT {made} {wanted} {of_rows} {order}", values)
    picked, more = source.hours
    sql = f"""
        SELECT {made} {", ".join(f"{OF_CALLS[name]} AS {name}" for name in names)} {of_rows}
        UNION ALL SELECT {made} {", ".join(f"{OF_SUMS[name]} AS {name}" for name in names)}
        FROM (SELECT *, hour AS started_at FROM rollup_hour WHERE {picked}) WHERE true {asked.filters} {groups}
    """
    wanted = ", ".join(f"{_shown(name, _added(name))} AS {name}" for name in names)
    sql = f"SELECT {''.join(f'{name}, ' for name, _ in keys)} {wanted} FROM ({sql}) {groups} {order}"
    return ask(sql, [*values, *key_values, *more, *asked.filter_values])


def _added(name: str) -> str:
    return f"{ADDED.get(name, 'sum')}({name})"


def _shown(name: str, sql: str) -> str:
    if name in {"first_at", "last_at"}:
        return sql
    return f"coalesce({sql}, 0)::{'DECIMAL(38, 12)' if name.endswith('_usd') else 'BIGINT'}"


def sizes(ask: Ask, asked: Range, source: Sources, key: Sql) -> list[tuple[Any, ...]]:
    """Return (key, size of latency, how many) of the range, the smallest sizes first."""
    made, key_values = key
    picked, values = source.rows()
    sql = f"""
        SELECT {made} AS key, {SIZE} AS size, count(*) AS n FROM calls
        WHERE {picked} {asked.filters} AND latency_ms IS NOT NULL GROUP BY 1, 2
    """
    values = [*key_values, *values, *asked.filter_values]
    if source.hours is not None:
        picked, more = source.hours
        sql += f"""
            UNION ALL SELECT key, size, sum(n) FROM (
                SELECT {made} AS key, unnest(sizes) AS size, unnest(counts) AS n FROM rollup_hour
                WHERE {picked} {asked.filters}) GROUP BY 1, 2
        """
        values += [*key_values, *more, *asked.filter_values]
    return ask(f"SELECT key, size, sum(n)::BIGINT FROM ({sql}) GROUP BY 1, 2 ORDER BY size", values)


def tried(ask: Ask, asked: Range, source: Sources) -> list[tuple[Any, ...]]:
    """Return (outcome, provider, how many, the last, seconds asked to wait, seconds waited) of the range's attempts.

    Only those are looked at of which there is something to tell, and their calls are found by a hash of the ids: among
    ten million, two are mistaken for each other once in 100,000 ledgers.
    """
    of_attempts, values = source.rows()
    of_calls, more = source.rows(before=ATTEMPT_WITHIN)
    sql = f"""
        WITH tried AS (
            SELECT hash(trace_id, call_id) AS place, outcome, started_at, retry_after_s, waited_s FROM attempts
            WHERE {of_attempts} AND {TOLD}),
        asked AS (
            SELECT hash(trace_id, id) AS place, provider, started_at FROM calls WHERE {of_calls} {asked.filters})
        SELECT tried.outcome AS tried_outcome, asked.provider AS provider, count(*) AS tried,
            max(tried.started_at) AS last_at, sum(tried.retry_after_s) AS retry_after_s, sum(tried.waited_s) AS waited_s
        FROM tried JOIN asked ON asked.place = tried.place
            AND tried.started_at < asked.started_at + to_seconds({ATTEMPT_WITHIN.seconds})
        GROUP BY 1, 2
    """
    values = [*values, *more, *asked.filter_values]
    if source.hours is not None:
        picked, more = source.hours
        sql += f"""
            UNION ALL SELECT tried_outcome, provider, sum(tried), max(last_at), sum(retry_after_s), sum(waited_s)
            FROM rollup_tried WHERE {picked} {asked.filters} GROUP BY 1, 2
        """
        values += [*more, *asked.filter_values]
    return ask(
        f"""
        SELECT tried_outcome, provider, sum(tried)::BIGINT AS tried, max(last_at),
            coalesce(sum(retry_after_s), 0), coalesce(sum(waited_s), 0)
        FROM ({sql}) GROUP BY 1, 2 ORDER BY tried DESC, 1, 2
        """,
        values,
    )


def touched(calls: pa.Table, attempts: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the hours, counted from 1970, that rows fall into; a call's attempts may be in each up to its end."""
    begun, tried_at = (np.asarray(table.column("started_at").cast(pa.int64())) for table in (calls, attempts))
    taken_us = np.nan_to_num(np.asarray(calls.column("latency_ms").fill_null(0))) * 1000
    ended = begun + np.clip(taken_us, 0, ATTEMPT_WITHIN // MICROSECOND).astype(np.int64)
    between = np.minimum(begun + HOUR // MICROSECOND, ended)
    found: np.ndarray[Any, np.dtype[np.int64]] = np.unique(
        np.concatenate([begun, between, ended, tried_at]) // (HOUR // MICROSECOND)
    )
    return found


def naive(at: datetime) -> datetime:
    """Return an instant as the database has it: UTC, without saying so."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)
