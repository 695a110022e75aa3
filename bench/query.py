"""How long the questions of the pages take over many calls: from the rows, and from the sums of hours.

    python bench/query.py [--calls 1000000] [--users N] [--repeat 5] [--data DIR] [--parts questions,start,busy,archive]

With --data the ledger is made in a folder that stays, and found there by the next run; ten million calls take some
minutes to make.  The parts: the questions; how long a collector takes to start over so many calls, and what memory it
takes while it answers; the same questions while spans come in at half of what can be stored; and when all but the last
week is in the archive, with what a span takes there.  What would change the folder is done to a copy of it.

20,480 calls with units and attempts come in as they always do; the store then copies them, each with ids, a time, a
user, a session, a cost and a latency of its own, evenly over 30 days, in the order of time, and learns their ids as it
does when they are lost.  Users follow a power law of which nearly all come up.  The figures are medians of warm
answers, whole, as the API gives them but for JSON, with the memory that a collector allows DuckDB by default.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from ingest import REQUEST_SPANS, body, feed, memory_mb, processes
from start import start

from fakes.collector import Running, collector_process
from tallystick.collector import query
from tallystick.collector.decode import Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import TABLES, pack
from tallystick.collector.rollups import Sources, naive
from tallystick.collector.settings import CollectorSettings
from tallystick.collector.store import MARK, Store
from tallystick.pricing import load_book, price

BODIES = 160
SEED = BODIES * REQUEST_SPANS // 4
DAYS = 30
AT_ONCE = 8
"""So many copies are inserted in one transaction: more rows than a row group has."""
MEMORY_LIMIT_MB = CollectorSettings().memory_limit_mb
HALF_LOAD = 12_800
"""Spans a second: half of what `bench/ingest.py` found to be stored flat out."""
PARTS = ("questions", "start", "busy", "archive")
NOW = datetime.now(UTC)

# What makes each copy another call: its place in time, its ids, its size.  ``n`` is the row's number in all.
TRACE = "format('{:016x}{:016x}', hash(trace_id, copy), hash(copy, trace_id)) AS trace_id"
EARLIER = "to_microseconds(((1 - n / $total) * $span)::BIGINT)"
COPIES = {
    "calls": f"""
        format('{{:016x}}', hash(id, copy)) AS id, {TRACE},
        started_at - {EARLIER} AS started_at, received_at - {EARLIER} AS received_at,
        (cost_usd * (0.5 + random()))::DECIMAL(18, 12) AS cost_usd, latency_ms * (0.3 + 2 * random()) AS latency_ms,
        'user-' || (1 + floor($users * pow(random(), 3)))::BIGINT AS user_id,
        format('{{:012x}}', hash(n // 6) >> 16) AS session_id,
        if(random() < 0.05, 'rate_limited', outcome) AS outcome""",
    "units": f"""
        format('{{:016x}}', hash(call_id, copy)) AS call_id, {TRACE},
        'msg_' || hash(unit_id, copy) AS unit_id, answered_at - {EARLIER} AS answered_at""",
    "attempts": f"""
        format('{{:016x}}', hash(call_id, copy)) AS call_id, {TRACE},
        format('{{:016x}}', hash(id, copy)) AS id, 'req_' || hash(request_id, copy) AS request_id,
        started_at - {EARLIER} AS started_at, received_at - {EARLIER} AS received_at""",
}


def load(store: Store, calls: int, users: int | None = None) -> None:
    """Fill ``store`` with about ``calls`` calls of ``users`` users, a tenth of the calls when nobody says otherwise."""
    decoder = Decoder(partial(price, book=load_book()), 100_000, 256)
    for number in range(BODIES):
        store.apply(pack(decoder.decode(body(number), time.time_ns()), store.schemas), Position(1, number + 1))
    store._run("UPDATE units SET answered_at = calls.started_at FROM calls WHERE calls.id = call_id")
    copies = max(calls // SEED, 1)
    bound = {"total": copies * SEED, "span": DAYS * 24 * 3600 * 10**6}
    run = store._run
    for table in COPIES:
        run(f"CREATE TEMP TABLE seed_{table} AS SELECT row_number() OVER (ORDER BY rowid) AS place, * FROM {table}")
        run(f"DELETE FROM {table}")
    run("DELETE FROM spans")
    for first in range(0, copies, AT_ONCE):
        run("BEGIN")
        for table, changed in COPIES.items():
            numbered = f"""
                SELECT seed_{table}.*, copy, (copy * {SEED} + place)::DOUBLE AS n
                FROM seed_{table}, range({first}, {min(first + AT_ONCE, copies)}) AS copies(copy)
            """
            sql = f"""
                INSERT INTO {table} BY NAME SELECT * EXCLUDE (place, copy, n) REPLACE ({changed})
                FROM ({numbered}) ORDER BY n
            """
            run(sql, bound | ({"users": users or bound["total"] // 10} if table == "calls" else {}))
        run("COMMIT")
    for table in COPIES:
        run(f"DROP TABLE seed_{table}")
    run("DELETE FROM places")
    run("DELETE FROM meta WHERE key = 'places'")
    store._tell_places()
    run("BEGIN")
    run(MARK.format("true"))  # what was not stored by `apply` is to be summed all the same
    run("COMMIT")
    store.checkpoint()
    store._has_recalled = False
    store._recall_seen()


def fill(path: Path, calls: int, users: int | None) -> None:
    """Make the ledger at ``path``, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    at = time.monotonic()
    making = path.with_name("making") / path.name
    shutil.rmtree(making.parent, ignore_errors=True)
    making.parent.mkdir()
    store = Store(making, memory_limit_mb=1500)
    load(store, calls, users)
    loaded = time.monotonic()
    while store.roll(naive(NOW) + timedelta(days=1), 24):
        pass
    store.close()
    for made in making.parent.iterdir():
        made.rename(path.parent / made.name)
    making.parent.rmdir()
    print(f"made in {loaded - at:.0f} s, its hours summed in {time.monotonic() - loaded:.0f} s", flush=True)


@contextmanager
def from_rows() -> Iterator[None]:
    """Have every answer made from rows, as if nothing had been summed."""
    usual = query.sources
    query.sources = lambda _, asked, *__: Sources([(naive(asked.start), naive(asked.end))], None)  # type: ignore[assignment]
    try:
        yield
    finally:
        query.sources = usual


@contextmanager
def copy_of(data: Path) -> Iterator[Path]:
    """Yield a folder that holds a copy of ``data`` as a collector's; on the same disk, because it may be large."""
    with tempfile.TemporaryDirectory(dir=data.parent) as name:
        shutil.copytree(data, Path(name) / "data")
        yield Path(name)


Pose = Callable[[str, list[tuple[str, str]]], Any]
"""Asks a question of the API, by its name and its parameters."""


def of_store(store: Store) -> Pose:
    """Return what asks a store, in this process."""

    def pose(name: str, params: list[tuple[str, str]]) -> Any:
        if name.startswith("calls/"):
            return query.call(store.ask, name.partition("/")[2])
        return getattr(query, name)(store.ask, params, NOW)

    return pose


def questions(pose: Pose) -> dict[str, Callable[[], Any]]:
    """Return what the Spend page asks, and what leads on from it."""
    month = [("start", (NOW - timedelta(days=DAYS)).isoformat()), ("end", (NOW + timedelta(hours=1)).isoformat())]
    day = [("start", (NOW - timedelta(days=1)).isoformat()), month[1]]
    asked = {
        "totals, 30 days": ("totals", month),
        "totals, 1 day": ("totals", day),
        "spend per day by model, 30 days": ("series", [*month, ("bucket", "day"), ("by", "model")]),
        "spend per hour by model, 1 day": ("series", [*day, ("bucket", "hour"), ("by", "model")]),
        "dearest calls, 30 days": ("calls", [*month, ("order", "-cost_usd"), ("limit", "10")]),
        "newest calls": ("calls", [*month, ("limit", "50")]),
        "a user's calls": ("calls", [*month, ("limit", "50"), ("user", "user-5000")]),
        "failures, 30 days": ("failures", month),
        "values of a filter, 30 days": ("dimensions", [*month, ("name", "feature")]),
        "a user's totals, 30 days": ("totals", [*month, ("user", "user-5000")]),
        "a tag's totals, 30 days": ("totals", [*month, ("tag.tenant", "t3")]),
        "groups by user, 1 day": ("groups", [*day, ("by", "user"), ("limit", "20")]),
    }
    for by in ("model", "feature", "user", "session", "tag.tenant"):
        asked[f"groups by {by}, 30 days"] = ("groups", [*month, ("by", by), ("limit", "20")])
    middle = [("start", (NOW - timedelta(days=DAYS / 2)).isoformat()), month[1], ("order", "started_at")]
    page = pose("calls", [*middle, ("limit", "50")])
    asked["the next page, from the middle"] = ("calls", [*middle, ("limit", "50"), ("cursor", page["next_cursor"])])
    asked["one call with receipt"] = (f"calls/{page['rows'][0]['id']}", [])
    return {name: partial(pose, question, params) for name, (question, params) in asked.items()}


def median_ms(question: Callable[[], Any], repeat: int) -> float:
    question()  # the first one reads the columns from disk
    taken = []
    for _ in range(repeat):
        at = time.perf_counter()
        question()
        taken.append((time.perf_counter() - at) * 1000)
    return statistics.median(taken)


def measured(pose: Pose, repeat: int) -> dict[str, float]:
    """Return how long each question takes, in ms."""
    return {name: median_ms(question, repeat) for name, question in questions(pose).items()}


def tell(*columns: tuple[str, dict[str, float]]) -> None:
    """Print a table of what was measured, a line for each question."""
    print(f"{'':34}" + "".join(f"{name:>14}" for name, _ in columns))
    for question in columns[0][1]:
        print(f"{question:34}" + "".join(f"{found[question]:11.1f} ms" for _, found in columns), flush=True)


def tell_questions(path: Path, repeat: int) -> None:
    """Print the sizes, how long the questions take, and the memory that it needs."""
    store = Store(path, MEMORY_LIMIT_MB)
    rows = {table: store.ask(f"SELECT count(*) FROM {table}")[0][0] for table in (*TABLES, "rollup_hour")}
    users = store.ask("SELECT count(DISTINCT user_id) FROM calls")[0][0]
    size = path.stat().st_size
    spans = rows["calls"] + rows["attempts"] + rows["spans"]
    print(f"{rows}, {users} users, {size / 1e6:.0f} MB, {size / spans:.0f} bytes a span", flush=True)
    with from_rows():
        raw = measured(of_store(store), repeat)
    tell(("from rows", raw), ("from sums", measured(of_store(store), repeat)))
    print(f"memory of this process: {memory_mb(os.getpid(), 'VmHWM')} MB at most")
    store.close()


def tell_start(folder: Path) -> None:
    """Print how long a collector takes to start over the ledger, and the memory that it takes to answer."""
    runs = [start(sys.executable, folder) for _ in range(3)]
    healthy, export, cpu = map(min, zip(*runs, strict=True))
    print(f"start: healthy after {healthy:.2f} s, first export after {export:.2f} s, {cpu:.2f} s CPU by then")
    with collector_process(folder) as running:
        pids = processes(running.pid)
        before = [memory_mb(pid, "VmRSS") for pid in pids]
        measured(over_http(running), 1)
        most = [memory_mb(pid, "VmHWM") for pid in pids]
        print(f"memory: collector and worker {before} MB when started, {most} MB at most while answering", flush=True)


def over_http(running: Running) -> Pose:
    """Return what asks a collector."""
    return lambda name, params: running.client.ask(name, dict(params))


def tell_busy(folder: Path, repeat: int) -> None:
    """Print how long the questions take while spans come in at half of what can be stored."""
    bodies = [body(10_000 + number) for number in range(BODIES)]
    with collector_process(folder, group_ms=50) as running:
        alone = measured(over_http(running), repeat)
        is_done = threading.Event()

        def keep_feeding() -> None:
            number = 20_000
            while not is_done.is_set():
                feed(running, bodies, 4, HALF_LOAD)
                bodies[:] = [body(number + n) for n in range(BODIES // 4)]
                number += BODIES

        feeding = threading.Thread(target=keep_feeding)
        feeding.start()
        time.sleep(3)
        try:
            tell(("over HTTP", alone), ("while feeding", measured(over_http(running), repeat)))
        finally:
            is_done.set()
            feeding.join()
        most = [memory_mb(pid, "VmHWM") for pid in processes(running.pid)]
        behind = running.ask("ledger")["journal"]["behind_bytes"]
        print(f"memory: collector and worker {most} MB at most; {behind} bytes behind", flush=True)


def tell_archived(path: Path, repeat: int) -> None:
    """Print what a span takes in the archive, and how long the questions take when three weeks of four are in it."""
    store = Store(path, MEMORY_LIMIT_MB)
    used = time.process_time()
    while store.move(naive(NOW) - timedelta(days=7)):
        pass
    used = time.process_time() - used
    spans, size, parts = store.ask("SELECT sum(spans)::BIGINT, sum(bytes)::BIGINT, count(*) FROM archive_parts")[0]
    print(f"archive: {spans} spans in {parts} parts, {size / spans:.1f} bytes a span, {used / spans * 1e6:.1f} us CPU")
    tell(("archived", measured(of_store(store), repeat)))
    store.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--users", type=int, help="a tenth of the calls, unless given")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--data", type=Path, help="where the ledger is made, and found again")
    arguments.add_argument("--parts", default=",".join(PARTS), help="what is measured")
    args = arguments.parse_args()
    parts = args.parts.split(",")
    with tempfile.TemporaryDirectory() as folder:
        data = (args.data or Path(folder) / "data").absolute()
        fill(data / "tallystick.duckdb", args.calls, args.users)
        if "questions" in parts:
            tell_questions(data / "tallystick.duckdb", args.repeat)
        if "start" in parts:
            with copy_of(data) as copied:
                tell_start(copied)
        if "busy" in parts:
            with copy_of(data) as copied:
                tell_busy(copied, args.repeat)
        if "archive" in parts:
            with copy_of(data) as copied:
                tell_archived(copied / "data" / "tallystick.duckdb", args.repeat)


if __name__ == "__main__":
    main()
