"""Rows as Arrow tables: what goes from whoever makes rows to the store, which may be in another process.

The sums of a call over its units are made here, as if all of them counted; when the store finds that some do not, it
unpacks calls and units, leaves out what does not count, and packs them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa

from tallystick.collector.decode import TOLD, Batch, Row, settle
from tallystick.errors import StoreError

TABLES = ("calls", "units", "attempts", "spans")
Schemas = Mapping[str, pa.Schema]
Key = tuple[str, str]
"""(trace id, span id)."""


@dataclass(slots=True)
class Packed:
    """A `Batch` as the store takes it."""

    tables: dict[str, pa.Table]
    forms: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    told: dict[Key, tuple[str, Mapping[str, int]]] = field(default_factory=dict)
    """What spans say of their apps' books: of which service, and how many of what; see `decode.BOOKS`."""

    def unpack(self, *names: str) -> Batch:
        """Return the rows of the tables ``names``; the others are empty."""
        batch = Batch(counts=self.counts)
        for name in names:
            setattr(batch, name, rows_of(self.tables[name]))
        return batch

    def repack(self, batch: Batch, *names: str) -> None:
        """Take ``batch`` for the tables ``names``."""
        settle_all(batch.calls, batch.units)
        for name in names:
            self.tables[name] = table_of(getattr(batch, name), self.tables[name].schema)


class BadRowsError(StoreError):
    """These rows cannot be stored, now or ever."""


def pack(batch: Batch, schemas: Schemas) -> Packed:
    """Return ``batch`` in the columns of ``schemas``; raises BadRowsError when it does not fit them."""
    settle_all(batch.calls, batch.units)
    told = {
        (row["trace_id"], row["id"]): (row["service"] or "", row[TOLD])
        for row in chain(batch.spans, batch.calls)
        if TOLD in row
    }
    try:
        tables = {name: table_of(getattr(batch, name), schemas[name]) for name in TABLES}
    except (pa.ArrowException, OverflowError) as error:
        raise BadRowsError(str(error).partition("\n")[0][:300]) from error
    return Packed(tables, batch.forms, batch.counts, told)


def settle_all(calls: Sequence[Row], units: Sequence[Row]) -> None:
    """Write the sums of ``units`` into their ``calls``."""
    counted: dict[Key, list[Row]] = {}
    for unit in units:
        counted.setdefault((unit["trace_id"], unit["call_id"]), []).append(unit)
    for call in calls:
        settle(call, counted.get((call["trace_id"], call["id"]), []))


def table_of(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return ``rows`` as a table; what the schema does not name is left out."""
    if not rows:
        return schema.empty_table()
    # Each row is read once, not once a column: thousands of them do not fit the processor's cache.
    values = zip(*map(itemgetter(*schema.names), rows), strict=True)
    columns = [_column(column, field.type) for column, field in zip(values, schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return ``values`` as a column; times are numbers already, which pa.array would look into one by one."""
    return pa.array(values, pa.int64()).view(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows that `table_of` would make ``table`` of."""
    plain = [
        table.column(name).cast(pa.int64()) if pa.types.is_timestamp(kind) else table.column(name)
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    ]
    rows: list[dict[str, Any]] = pa.Table.from_arrays(plain, names=table.schema.names).to_pylist()
    return rows
