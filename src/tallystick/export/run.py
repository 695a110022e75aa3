"""``tallystick export``: the ledger of some days as a file, and ``--check``: whether a file is FOCUS."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tallystick.client import Collector
from tallystick.errors import ExportError, SettingsError
from tallystick.export import focus
from tallystick.export.charges import rows
from tallystick.export.write import SINKS, Kinds

ASKED: Mapping[str, Mapping[str, str | int]] = {
    "calls": {"limit": 1000, "order": "started_at"},
    "units": {"limit": 5000},
}
TIMEOUT_S = 120.0
MARGIN = timedelta(days=1)
"""A call that starts before the range may be answered within it."""
FAULTS_MAX = 20

# What is no text, in the rows of the API.
KINDS = {
    **dict.fromkeys(("latency_ms", "first_chunk_ms"), "number"),
    **dict.fromkeys(("stream", "estimated"), "boolean"),
    **dict.fromkeys(("started_at", "at"), "time"),
    "cost_usd": "decimal",
    **dict.fromkeys(
        ("attempts", "units", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
         "reasoning_tokens", "max_tokens", "request_characters", "tools_characters", "messages", "link_index",
         "position"),
        "integer",
    ),
}  # fmt: skip
Row = Mapping[str, Any]


def run(
    *,
    what: str | None,
    version: str | None,
    collector: str,
    since: str | None,
    until: str | None,
    form: str,
    out: Path | None,
    check: Path | None,
) -> int:
    """Write a file, or with ``check`` say what is wrong with one; returns the exit code."""
    if check is not None:
        return _check(check, version or "1.3")
    if (what is None) == (version is None):
        raise SettingsError("say what to export: --focus 1.3 (or 1.2, 1.4), or one of calls, units")
    if since is None:
        raise SettingsError("say from which day on: --from 2026-11-01")
    start, end = _time(since, "--from"), _time(until, "--to") if until else datetime.now(UTC)
    if start >= end:
        raise SettingsError(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
    asked = Collector(collector, TIMEOUT_S)
    if version is not None:
        return _focus(asked, version, start, end, form, out)
    assert what is not None, "one of the two is set"
    return _plain(asked, what, start, end, form, out)


def _focus(collector: Collector, version: str, start: datetime, end: datetime, form: str, out: Path | None) -> int:
    kinds = {column.name: column.kind for column in focus.columns(version)}
    told: Counter[str] = Counter()
    with SINKS[form](kinds, out) as sink:
        for page in collector.pages("units", start - MARGIN, end, ASKED["units"]):
            units = [unit for unit in page if start <= datetime.fromisoformat(unit["at"]) < end]
            sink.write(list(_checked(units, version, kinds, told)))
    summary = f"{told['rows']} charges of {told['units']} units, FOCUS {version}"
    if told["unpriced"]:
        summary += f"; {told['unpriced']} units without a known price are not in it (a cost may not be null there)"
    if told["estimated"]:
        summary += f"; {told['estimated']} charges are estimates (x_CostStatus)"
    _tell(summary)
    return 0


def _checked(units: Iterable[Row], version: str, kinds: Kinds, told: Counter[str]) -> Iterator[Row]:
    """Yield the rows of ``units``; raises ExportError rather than write one that is not FOCUS."""
    for unit in units:
        told["units"] += 1
        told["unpriced"] += unit["cost_usd"] is None
        for row in rows(unit):
            own = {name: row.get(name) for name in kinds}
            if fault := next(focus.faults(own, version), None):
                raise ExportError(f"a charge of call {unit['call_id']} is not FOCUS {version}: {fault}")
            told["rows"] += 1
            told["estimated"] += unit["cost_status"] == "estimated"
            yield own


def _plain(collector: Collector, what: str, start: datetime, end: datetime, form: str, out: Path | None) -> int:
    found = collector.pages(what, start, end, ASKED[what])
    first = next(found, [])
    kinds = {name: KINDS.get(name, "text") for name in (first[0] if first else ())}
    count = len(first)
    with SINKS[form](kinds, out) as sink:
        sink.write(first)
        for page in found:
            sink.write(page)
            count += len(page)
    _tell(f"{count} {what}")
    return 0


def _time(text: str, option: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{option} {text!r} is not a day; write one like 2026-11-21") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


# --- the check ------------------------------------------------------------


def _check(path: Path, version: str) -> int:
    names, found = _read(path)
    told = list(focus.header_faults(names, version))
    count = 0
    for count, cells in enumerate(found, 1):
        told += (f"row {count}: {fault}" for fault in focus.faults(focus.typed(cells, version), version))
        if len(told) > FAULTS_MAX:
            told = [*told[:FAULTS_MAX], "and more"]
            break
    for line in told:
        sys.stdout.write(f"{path}: {line}\n")
    if not told:
        sys.stdout.write(f"{path}: {count} rows, FOCUS {version}\n")
    return 1 if told else 0


def _read(path: Path) -> tuple[Sequence[str], Iterator[Row]]:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    if is_parquet:
        from pyarrow import parquet

        opened = parquet.ParquetFile(path)
        return opened.schema_arrow.names, (row for batch in opened.iter_batches() for row in batch.to_pylist())
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    return names, _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
