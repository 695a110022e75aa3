"""Rows into a file as they come: csv by the standard library, parquet by pyarrow, a group of rows at a time."""

from __future__ import annotations

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Self

from tallystick.errors import SettingsError
from tallystick.model.cells import defused

GROUP = 10_000
"""Rows of a parquet row group; what is in memory at most."""
COST_DIGITS = 18

Kinds = Mapping[str, str]
"""The columns, in order: ``text``, ``decimal``, ``time``, ``integer``, ``number``, ``boolean``; any other is text."""


class Sink(ABC):
    """A file that takes rows; it is there under its name only when all of it is."""

    def __init__(self, kinds: Kinds, path: Path | None) -> None:
        self.kinds = kinds
        self.path = path
        self._part = None if path is None else path.with_name(f"{path.name}.part")

    @abstractmethod
    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""

    @abstractmethod
    def close(self) -> None:
        """End the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if self._part is None or self.path is None:
            return
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)


class Csv(Sink):
    """RFC 4180; formulas are defused, null is an empty cell, decimals have all their digits."""

    def __init__(self, kinds: Kinds, path: Path | None) -> None:
        super().__init__(kinds, path)
        self._file: IO[str] = sys.stdout if self._part is None else self._part.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._writer.writerow(kinds)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        self._writer.writerows([_cell(row.get(name)) for name in self.kinds] for row in rows)

    def close(self) -> None:
        """End the file."""
        if self._part is None:
            self._file.flush()
        else:
            self._file.close()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return defused(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


class Parquet(Sink):
    """Typed columns; a decimal keeps 18 digits behind the point."""

    def __init__(self, kinds: Kinds, path: Path | None) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if path is None:
            raise SettingsError("parquet is no text for a terminal; name a file with --out")
        super().__init__(kinds, path)
        self._types = {
            "decimal": pa.decimal128(38, COST_DIGITS), "time": pa.timestamp("us", "UTC"), "integer": pa.int64(),
            "number": pa.float64(), "boolean": pa.bool_(),
        }  # fmt: skip
        self._schema = pa.schema([(name, self._types.get(kind, pa.string())) for name, kind in kinds.items()])
        self._writer = parquet.ParquetWriter(str(self._part), self._schema)
        self._waiting: list[Mapping[str, Any]] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; they are in the file when there are enough of them."""
        self._waiting += rows
        if len(self._waiting) >= GROUP:
            self._flush()

    def close(self) -> None:
        """End the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        arrays = [
            pa.array([_stored(row.get(field.name), self.kinds[field.name]) for row in self._waiting], field.type)
            for field in self._schema
        ]
        if self._waiting:
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._waiting = []


def _stored(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "decimal":
        return round(Decimal(value), COST_DIGITS)
    if kind == "time":
        return value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if kind in {"integer", "number", "boolean"} or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


SINKS: Mapping[str, type[Sink]] = {"csv": Csv, "parquet": Parquet}
