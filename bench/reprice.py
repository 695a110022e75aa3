"""How long a repricing takes: python bench/reprice.py [units]

Fills a store with units of different usages, gives the models they are of another price, and has all of them priced
again, as the applier does it.
"""

from __future__ import annotations

import json
import random
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
        run("same prices", store, scope, old)
        for model in document["providers"]["anthropic"]["models"]:
            for row in model["rows"]:
                row["rates"]["output"] = "17"
        run("other prices", store, scope, Decoder(partial(price, book=Book(document)), 1, 1))
        store.close()


def fill(store: Store, decoder: Decoder, count: int) -> None:
    dice = random.Random(4)
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for begin in range(0, count, BATCH):
        batch = Batch()
        for number in range(begin, min(begin + BATCH, count)):
            at = start + timedelta(seconds=number)
            call = _call(number, at)
            batch.calls.append(call)
            batch.units.append(_unit(decoder, call, at, dice))
        store.apply(pack(batch, store.schemas), Position(1, begin + 1))


def _call(number: int, at: datetime) -> dict[str, Any]:
    us = int(at.timestamp() * 1e6)
    texts = ("parent_id", "error_code", "exception", "feature", "user_id", "session_id", "prompt", "key_id", "caller")
    return {
        "id": f"{number:016x}", "trace_id": f"{number:032x}", "started_at": us, "received_at": us, "latency_ms": 1.0,
        "first_chunk_ms": None, "operation": "chat", "provider": "anthropic", "model": MODELS[number % 3],
        "response_model": MODELS[number % 3], "outcome": "ok", "stream": False, "attempts": 1, "service": "bench",
        "environment": None, "tags": [], "finish_reasons": [], "source": "tallystick", "precedence": 3,
        "attributes": [], **dict.fromkeys(texts),
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


def run(name: str, store: Store, scope: reprice.Scope, decoder: Decoder) -> None:
    begun, worked = time.perf_counter(), time.process_time()
    examined = changed = 0
    for units in reprice.pages(store.ask, scope):
        changes = reprice.changed(units, decoder)
        store.revise(name, datetime(2026, 11, 21), changes)  # noqa: DTZ001 -- naive, and UTC, as the store's times
        examined, changed = examined + len(units), changed + len(changes)
    took, cpu = time.perf_counter() - begun, time.process_time() - worked
    print(
        f"{name}: {examined:,} units examined, {changed:,} changed in {took:.1f} s ({cpu:.1f} s CPU); "
        f"a million in {took / examined * 1e6:.0f} s ({cpu / examined * 1e6:.0f} s CPU)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
