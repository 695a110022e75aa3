"""What a span takes in the archive, column by column, beside what its ids take by themselves.

    python bench/archive.py [--spans 102400]

The spans of `bench/ingest.py` are stored and moved.  Then the same ids are written alone, as bytes instead of hex, with
the same compression: random bytes cannot be made smaller, so this is the least that a span takes whose ids are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ingest import REQUEST_SPANS, body

from tallystick.collector.archive import PARQUET
from tallystick.collector.decode import Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import pack
from tallystick.collector.store import Store
from tallystick.pricing import load_book, price

IDS = {
    "calls": ("id", "trace_id", "parent_id"), "units": ("call_id", "trace_id"),
    "attempts": ("id", "trace_id", "call_id"), "spans": ("id", "trace_id", "parent_id"),
}  # fmt: skip
"""What is random in hex; response and request ids are so too, but theirs is text of the provider's."""
TOLD = 14


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spans", type=int, default=102_400)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "tallystick.duckdb", memory_limit_mb=1024)
        decoder = Decoder(partial(price, book=load_book()), 100_000, 256)
        for number in range(args.spans // REQUEST_SPANS):
            rows = pack(decoder.decode(body(number), time.time_ns()), store.schemas)
            store.apply(rows, Position(1, number + 1))
        while store.move(datetime.now(UTC).replace(tzinfo=None) + timedelta(days=2)):
            pass
        spans, size = store.ask("SELECT sum(spans)::BIGINT, sum(bytes)::BIGINT FROM archive_parts")[0]
        print(f"{spans} spans, {size / spans:.1f} bytes each")
        files = f"{store.archive.folder}/*/*.parquet"
        sql = f"""
            SELECT parse_filename(file_name), path_in_schema, sum(total_compressed_size)
            FROM parquet_metadata('{files}') GROUP BY ALL ORDER BY 3 DESC
        """
        found = store.ask(sql)
        for name, column, taken in found[:TOLD]:
            print(f"  {name:16} {column:20} {taken / spans:5.1f} bytes a span")
        print(f"  {'the rest':37} {sum(taken for *_, taken in found[TOLD:]) / spans:5.1f}")
        least = 0
        for table, columns in IDS.items():
            target = store.archive.folder / f"ids-{table}.parquet"
            as_bytes = ", ".join(f"unhex({column}) AS {column}" for column in columns)
            store._run(f"COPY (SELECT {as_bytes} FROM {store.archive.rows(1, table)}) TO '{target}' {PARQUET}")
            least += target.stat().st_size
        print(f"the hex ids alone, as bytes: {least / spans:.1f} bytes a span")
        store.close()


if __name__ == "__main__":
    main()
