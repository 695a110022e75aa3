"""Rows of an answer as a table: CSV that a spreadsheet cannot be made to run, or Arrow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tallystick.model.cells import defused

FORMATS = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8; header=present",
    "arrow": "application/vnd.apache.arrow.stream",
}
"""Each with its media type."""


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` with a line of their names first; the keys of the first row are the columns.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.  Lists and maps are JSON.
    """
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\r\n")
    if rows:
        writer.writerow([_cell(name) for name in rows[0]])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return held.getvalue()


def as_arrow(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return ``rows`` as an Arrow IPC stream.  Money stays text, with every digit; lists and maps are JSON."""
    columns = {name: [_plain(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    held: bytes = sink.getvalue().to_pybytes()
    return held


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return defused(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
