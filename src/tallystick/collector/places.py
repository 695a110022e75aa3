"""In which hours the rows of a call or a trace lie, so that an id is looked for there and not among all that is stored.

A place is the first digits of an id and an hour.  Each row of calls, attempts and spans tells that of its trace, a call
that of its own id too, in the transaction that stores it; so what has no place is not stored.  The other way round a
place promises nothing: what begins alike, or is gone, costs a look in vain.
"""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

Ask = Callable[..., list[tuple[Any, ...]]]
Sql = tuple[str, list[Any]]
"""A piece of SQL and its values."""

DIGITS = 8
STRETCHES_MAX = 16
"""Up to so many stretches of hours are named one by one, so that DuckDB skips what lies between them."""
HOUR_US = 3_600_000_000
TOLD = (("calls", "id"), ("calls", "trace_id"), ("attempts", "trace_id"), ("spans", "trace_id"))
INSERT = f"""
    INSERT INTO places
    SELECT DISTINCT ('0x' || left(id, {DIGITS}))::UINTEGER, (epoch_us(started_at) // {HOUR_US})::INTEGER FROM {{}}
"""


def told(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return the ids and times of rows that are about to be stored, for `INSERT`."""
    return pa.concat_tables(
        [tables[table].select([column, "started_at"]).rename_columns(["id", "started_at"]) for table, column in TOLD]
    )


def stored(of: Mapping[str, str]) -> str:
    """Return the SQL of the same of what is stored already; ``of`` says where each table is."""
    selects = (f"SELECT {column} AS id, started_at FROM {of[table]}" for table, column in TOLD)
    return f"({' UNION ALL '.join(selects)})"


def of_prefix(ask: Ask, prefix: str) -> Sql | None:
    """Return the condition on ``started_at`` that holds for all rows of the calls or traces that begin with ``prefix``.

    None when there are none.
    """
    ends = [int(prefix[:DIGITS].ljust(DIGITS, digit), 16) for digit in "0f"]
    return _within(ask("SELECT DISTINCT hour FROM places WHERE head BETWEEN ? AND ? ORDER BY hour", ends))


def of_traces(ask: Ask, ids: Iterable[str]) -> Sql | None:
    """Return the same for the rows of whole traces."""
    heads = sorted({int(trace_id[:DIGITS], 16) for trace_id in ids})
    sql = "SELECT DISTINCT hour FROM places WHERE head IN (SELECT unnest(?::UINTEGER[])) ORDER BY hour"
    return _within(ask(sql, [heads]))


def _within(hours: Sequence[tuple[int]]) -> Sql | None:
    stretches: list[tuple[int, int]] = []
    for (hour,) in hours:
        if stretches and stretches[-1][1] == hour:
            stretches[-1] = (stretches[-1][0], hour + 1)
        else:
            stretches.append((hour, hour + 1))
    if not stretches:
        return None
    if len(stretches) > STRETCHES_MAX:
        stretches = [(stretches[0][0], stretches[-1][1])]
    at = "make_timestamp(?::BIGINT)"
    where = " OR ".join(f"(started_at >= {at} AND started_at < {at})" for _ in stretches)
    return f"({where})", [hour * HOUR_US for stretch in stretches for hour in stretch]
