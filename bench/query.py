"""How long the questions of the pages take over many calls: from the rows, and from the sums of hours.

    python bench/query.py [--calls 1000000] [--repeat 5]

Then the same when all but the last week is in the archive, what a span takes there, and how long it takes to open
such a database and to store the first batch.

20,480 calls with units and attempts come in as they always do; the store then copies them, each with ids, a time,
a cost and a latency of its own, evenly over 30 days, in the order of time.  Users follow a power law.  The figures are
medians of warm answers, whole, as the API gives them but for JSON.  What scans grows with the calls of its range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from ingest import REQUEST_SPANS, body

from tallystick.collector import query
from tallystick.collector.decode import Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import TABLES, pack
from tallystick.collector.store import MARK, Store
from tallystick.pricing import load_book, price

BODIES = 160
DAYS = 30
NOW = datetime.now(UTC)

# What makes each copy another call: its place in time, its ids, its size.  ``n`` is the row's number in all.
COPIES = {
    "calls": """SELECT * REPLACE (
        format('{:016x}', hash(id, copy)) AS id, format('{:032x}', hash(trace_id, copy)) AS trace_id,
        started_at - to_microseconds(((1 - n / total) * span)::BIGINT) AS started_at,
        received_at - to_microseconds(((1 - n / total) * span)::BIGINT) AS received_at,
        (cost_usd * (0.5 + random()))::DECIMAL(18, 12) AS cost_usd, latency_ms * (0.3 + 2 * random()) AS latency_ms,
        if(random() < 0.05, 'rate_limited', outcome) AS outcome) FROM numbered""",
    "units": """SELECT * REPLACE (
        format('{:016x}', hash(call_id, copy)) AS call_id, format('{:032x}', hash(trace_id, copy)) AS trace_id,
        'msg_' || hash(unit_id, copy) AS unit_id,
        answered_at - to_microseconds(((1 - n / total) * span)::BIGINT) AS answered_at) FROM numbered""",
    "attempts": """SELECT * REPLACE (
        format('{:016x}', hash(call_id, copy)) AS call_id, format('{:032x}', hash(trace_id, copy)) AS trace_id,
        started_at - to_microseconds(((1 - n / total) * span)::BIGINT) AS started_at,
        received_at - to_microseconds(((1 - n / total) * span)::BIGINT) AS received_at) FROM numbered""",
}


def load(store: Store, calls: int) -> None:
    """Fill ``store`` with about ``calls`` calls."""
    decoder = Decoder(partial(price, book=load_book()), 100_000, 256)
    for number in range(BODIES):
        store.apply(pack(decoder.decode(body(number), time.time_ns()), store.schemas), Position(1, number + 1))
    copies = max(calls // (BODIES * REQUEST_SPANS // 4), 1)
    span_us = DAYS * 24 * 3600 * 10**6
    writer = store._writer
    for table, select in COPIES.items():
        sql = f"""
            CREATE TEMP TABLE copied AS WITH numbered AS (
                SELECT {table}.*, copy, row_number() OVER (ORDER BY copy, {table}.rowid) AS n,
                    count(*) OVER () AS total, {span_us} AS span
                FROM {table}, range({copies}) AS copies(copy))
            {select} ORDER BY n
        """
        writer.execute(sql).fetchall()
        writer.execute(f"DELETE FROM {table}").fetchall()
        writer.execute(f"INSERT INTO {table} BY NAME SELECT * EXCLUDE (copy, n, total, span) FROM copied").fetchall()
        writer.execute("DROP TABLE copied").fetchall()
    writer.execute(MARK.format("true")).fetchall()  # what was not stored by `apply` is to be summed all the same
    store.checkpoint()


def questions(ask: query.Ask) -> dict[str, Callable[[], Any]]:
    """Return what the Spend page asks, and what leads on from it."""
    month = [("start", (NOW - timedelta(days=DAYS)).isoformat()), ("end", (NOW + timedelta(hours=1)).isoformat())]
    day = [("start", (NOW - timedelta(days=1)).isoformat()), month[1]]
    found = {
        "totals, 30 days": lambda: query.totals(ask, month, NOW),
        "totals, 1 day": lambda: query.totals(ask, day, NOW),
        "spend per day by model, 30 days": lambda: query.series(ask, [*month, ("bucket", "day"), ("by", "model")], NOW),
        "spend per hour by model, 1 day": lambda: query.series(ask, [*day, ("bucket", "hour"), ("by", "model")], NOW),
        "dearest calls, 30 days": lambda: query.calls(ask, [*month, ("order", "-cost_usd"), ("limit", "10")], NOW),
        "newest calls": lambda: query.calls(ask, [*month, ("limit", "50")], NOW),
        "failures, 30 days": lambda: query.failures(ask, month, NOW),
        "values of a filter, 30 days": lambda: query.dimensions(ask, [*month, ("name", "feature")], NOW),
    }
    for by in ("model", "feature", "user"):
        found[f"groups by {by}, 30 days"] = partial(query.groups, ask, [*month, ("by", by)], NOW)
    call_id = query.calls(ask, [*month, ("limit", "1")], NOW)["rows"][0]["id"]
    return {**found, "one call with receipt": lambda: query.call(ask, call_id)}


def median_ms(question: Callable[[], Any], repeat: int) -> float:
    question()  # the first one reads the columns from disk
    taken = []
    for _ in range(repeat):
        at = time.perf_counter()
        question()
        taken.append((time.perf_counter() - at) * 1000)
    return statistics.median(taken)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--repeat", type=int, default=5)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at = time.monotonic()
        store = Store(Path(folder) / "bench.duckdb", memory_limit_mb=1024)
        load(store, args.calls)
        rows = {table: store.ask(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}
        size = (Path(folder) / "bench.duckdb").stat().st_size
        print(f"{rows}, {size / 1e6:.0f} MB, loaded in {time.monotonic() - at:.0f} s")
        raw = {name: median_ms(question, args.repeat) for name, question in questions(store.ask).items()}
        while store.roll(NOW.replace(tzinfo=None) + timedelta(days=1), 24):
            pass
        summed = {name: median_ms(question, args.repeat) for name, question in questions(store.ask).items()}
        store.close()
        path = Path(folder) / "bench.duckdb"
        tell_start(path)
        store = Store(path, memory_limit_mb=1024)
        begun = time.process_time()
        while store.move(NOW.replace(tzinfo=None) - timedelta(days=7)):
            pass
        moved = time.process_time() - begun
        tell_sizes(store, moved)
        print(f"{'':34} {'from rows':>11} {'from sums':>11} {'archived':>11}")
        for name, question in questions(store.ask).items():
            archived = median_ms(question, args.repeat)
            print(f"{name:34} {raw[name]:8.1f} ms {summed[name]:8.1f} ms {archived:8.1f} ms")
        store.close()


def tell_start(path: Path) -> None:
    """Print how long it takes until questions are answered, and until something is stored."""
    at, used = time.monotonic(), time.process_time()
    store = Store(path, memory_limit_mb=256)
    query.totals(store.ask, [("start", (NOW - timedelta(days=1)).isoformat())], NOW)
    opened = time.monotonic() - at
    decoder = Decoder(partial(price, book=load_book()), 100_000, 256)
    store.apply(pack(decoder.decode(body(BODIES), time.time_ns()), store.schemas), Position(2, 1))
    print(f"start: {opened:.2f} s to the first answer, {time.monotonic() - at:.2f} s to the first row, "
          f"{time.process_time() - used:.2f} s CPU")  # fmt: skip
    store.close()


def tell_sizes(store: Store, moved_s: float) -> None:
    """Print what a span takes in the archive; one in the database is in the first line."""
    counts = "SELECT sum(spans)::BIGINT, sum(bytes)::BIGINT, count(*) FROM archive_parts"
    spans, size, parts = store.ask(counts)[0]
    print(
        f"archive: {spans} spans in {parts} parts, {size / spans:.1f} bytes a span, {moved_s / spans * 1e6:.1f} us CPU"
    )


if __name__ == "__main__":
    main()
