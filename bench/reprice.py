"""How long a repricing takes: python bench/reprice.py [units]

Fills a store with units of different usages, gives the models they are of another price, and has all of them priced
again, as the applier does it.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tallystick.collector import reprice
from tallystick.collector.decode import Batch, Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import pack
from tallystick.collector.priced import WORKERS, price_pages
from tallystick.collector.store import Store
from tallystick.pricing import Book, price
from tallystick.pricing._book import SHIPPED

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-5")
BATCH = 20_000


def main(count: int) -> None:
    document = json.loads(SHIPPED.read_text(encoding="utf-8"))
    old = Decoder(partial(price, book=Book(document)), 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "bench.duckdb", 1024)
        fill(store, old, count)
        scope = reprice.Scope(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2027, 1, 1, tzinfo=UTC))
        run("same prices", store, scope, document)
        for model in document["providers"]["anthropic"]["models"]:
            for row in model["rows"]:
                row["rates"]["output"] = "17"
        run("other prices", store, scope, document)
        store.close()


def fill(store: Store, decoder: Decoder, count: int) -> None:
    dice = random.Random(4)
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for begin in range(0, count, BATCH):
        batch = Batch()
        for number in range(begin, min(begin + BATCH, count)):
            at = start + timedelta(seconds=number)
            call = _call(store.schemas["calls"].names, number, at)
            batch.calls.append(call)
            batch.units.append(_unit(decoder, call, at, dice))
        batch.forms = decoder.take_forms()
        store.apply(pack(batch, store.schemas), Position(1, begin + 1))


def _call(names: list[str], number: int, at: datetime) -> dict[str, Any]:
    us = int(at.timestamp() * 1e6)
    return {
        **dict.fromkeys(names),
        "id": f"{number:016x}", "trace_id": f"{number:032x}", "started_at": us, "received_at": us, "latency_ms": 1.0,
        "first_chunk_ms": None, "operation": "chat", "provider": "anthropic", "model": MODELS[number % 3],
        "response_model": MODELS[number % 3], "outcome": "ok", "stream": False, "attempts": 1, "service": "bench",
        "environment": None, "tags": [], "finish_reasons": [], "source": "tallystick", "precedence": 3,
        "attributes": [],
    }  # fmt: skip


def _unit(decoder: Decoder, call: dict[str, Any], at: datetime, dice: random.Random) -> dict[str, Any]:
    usage = {
        "input_tokens": dice.randrange(10**5), "output_tokens": dice.randrange(10**4),
        "cache_read_input_tokens": dice.randrange(10**5), "cache_creation_input_tokens": 0,
    }  # fmt: skip
    params = {"base_url": "https://api.anthropic.com", "service_tier": "standard"}
    record = {"usage": usage, "params": params, "api": "messages"}
    us = int(at.timestamp() * 1e6)
    receipt = decoder.receipt("anthropic", call["model"], record, us)
    status, cost_usd = decoder.verdict(receipt, estimated=False)
    return {
        "call_id": call["id"], "trace_id": call["trace_id"], "position": 0, "unit_id": f"msg_{call['id']}",
        "provider": "anthropic", "model": call["model"], "api": "messages", "answered_at": us,
        "usage": json.dumps(usage), "params": json.dumps(params), "estimated": False,
        **decoder.columns(receipt, status, cost_usd), "source": "tallystick", "precedence": 3,
    }  # fmt: skip


def run(name: str, store: Store, scope: reprice.Scope, document: Any) -> None:
    """Reprice as the collector does: pages are priced by two processes while others are written."""
    begun, worked, others = time.perf_counter(), time.process_time(), _children_s()
    examined = changed = 0
    longest_s = 0.0
    at = datetime(2026, 11, 21)  # noqa: DTZ001 -- naive, and UTC, as the store's times
    times = reprice.slices(store.ask, scope)
    units = (reprice.page(store.ask_table, scope, *between) for between in times)
    for (start, end), priced in zip(times, price_pages(json.dumps(document), units), strict=True):
        writing = time.perf_counter()
        store.revise(reprice.Revision(reprice_id=name, revised_at=at, start=start, end=end, priced=priced))
        longest_s = max(longest_s, time.perf_counter() - writing)
        examined, changed = examined + priced.examined, changed + len(priced.changes)
    took, cpu = time.perf_counter() - begun, time.process_time() - worked
    priced_s = _children_s() - others
    million = 1e6 / examined
    print(
        f"{name}: {examined:,} units examined, {changed:,} changed in {took:.1f} s, "
        f"the longest write {longest_s:.2f} s\n"
        f"  a million: {took * million:.0f} s; {cpu * million:.0f} s CPU to read and write, "
        f"{priced_s * million:.0f} s CPU in {WORKERS} processes to price"
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
