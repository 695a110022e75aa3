"""A store that is fed at random, as the applier feeds it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fakes.collector import otlp_call, otlp_unit
from tallystick.collector import reprice
from tallystick.collector.decode import Batch, Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import pack
from tallystick.collector.priced import price_page
from tallystick.collector.store import Store
from tallystick.model.receipt import Receipt
from tallystick.pricing import load_book, price

BOOK = load_book()
NOON = datetime(2026, 10, 24, 12, tzinfo=UTC)
"""The clocks of Europe go back in the night after, those of Lord Howe went ahead by half an hour three weeks before."""
DAYS = 3
LATE = NOON + timedelta(days=40)


def dearer(*args: Any, **params: Any) -> Receipt:
    receipt = price(*args, book=BOOK, **params)
    if receipt.cost_usd is None:
        return receipt
    return replace(receipt, cost_usd=receipt.cost_usd * 3, contracted_usd=receipt.cost_usd * 3)


class Ledger:
    """A store that is fed as the applier feeds it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.store = Store(folder / "test.duckdb", 128)
        self.random = random.Random(seed)
        self.decoder = Decoder(partial(price, book=BOOK), 1000, 1000)
        self.sent: list[bytes] = []
        self.ids: list[str] = []
        self.position = 0

    def take(self, bodies: Sequence[bytes]) -> None:
        """Apply ``bodies`` in two transactions."""
        middle = self.random.randrange(len(bodies))
        for part in (bodies[:middle], bodies[middle:]):
            batch = Batch()
            for body in part:
                batch.extend(self.decoder.decode(body, int(LATE.timestamp() * 1e9)))
            self.position += 1
            self.store.apply(pack(batch, self.store.schemas), Position(1, self.position))

    def calls(self, count: int) -> None:
        """Calls anywhere in the days, retried or not, some without a known price."""
        pick = self.random.choice
        sent: list[bytes] = []
        for _ in range(count):
            unit_id = f"msg_{self.random.getrandbits(64):016x}"
            usage = {"input_tokens": self.random.randrange(9000), "output_tokens": self.random.randrange(900)}
            model = pick(["claude-sonnet-4-5", "claude-haiku-4-5", "nobody-knows"])
            unit = otlp_unit(id=unit_id, model=model, usage=usage, estimated=pick([True, False]))
            outcome = pick(["ok", "ok", "rate_limited"])
            first = {"tallystick.attempt.outcome": "rate_limited", "tallystick.attempt.retry_after_s": 2.0}
            second = {"started_ms": pick([900.0, 4e6]), "tallystick.attempt.waited_s": 2.5}
            request = otlp_call(
                model=model, units=[unit] if outcome == "ok" else [], outcome=outcome,
                attempts=pick([[{}], [first, second]]), latency_ms=pick([5.0, 900.0, 4.1e6]),
                started_ns=int((NOON.timestamp() + self.random.random() * DAYS * 86400) * 1e9),
                tallystick__feature=pick(["chat", "search"]), environment=pick(["prod", None]),
            )  # fmt: skip
            body = request.SerializeToString()
            if pick([True, False]):  # the attempts come by themselves, in either order
                parts = [type(request).FromString(body) for _ in range(2)]
                del parts[0].resource_spans[0].scope_spans[0].spans[-1]
                del parts[1].resource_spans[0].scope_spans[0].spans[:-1]
                bodies = [part.SerializeToString() for part in parts]
                self.random.shuffle(bodies)
            else:
                bodies = [body]
            sent += bodies
            self.ids.append(unit_id)
        self.sent += sent
        self.take(sent)

    def resend(self, count: int) -> None:
        self.take(self.random.sample(self.sent, min(count, len(self.sent))))

    def foreign(self, count: int) -> None:
        """Another emitter tells of the same responses, and of its own, which ours replace later on."""
        bodies = []
        for _ in range(count):
            unit_id = self.random.choice([*self.ids, f"msg_{self.random.getrandbits(64):016x}"])
            at_ns = int((NOON.timestamp() + self.random.random() * DAYS * 86400) * 1e9)
            told: dict[str, Any] = {
                "gen_ai.response.id": unit_id, "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 10,
            }  # fmt: skip
            request = otlp_call(started_ns=at_ns, scope="opentelemetry.instrumentation.anthropic", **told)
            span = request.resource_spans[0].scope_spans[0].spans[0]
            kept = [pair for pair in span.attributes if not pair.key.startswith("tallystick.")]
            del span.attributes[:]
            span.attributes.extend(kept)
            bodies.append(request.SerializeToString())
            unit = otlp_unit(id=unit_id, usage={"input_tokens": 1000, "output_tokens": 20})
            if self.random.random() < 0.5:
                bodies.append(otlp_call(units=[unit], started_ns=at_ns).SerializeToString())
        self.take(bodies)

    def reprice(self, _: int) -> None:
        scope = reprice.Scope(start=NOON, end=NOON + timedelta(days=60))
        decoder = Decoder(self.random.choice([dearer, partial(price, book=BOOK)]), 1000, 1000)
        at = datetime(2026, 12, 1)  # noqa: DTZ001
        for start, end in reprice.slices(self.store.ask, scope):
            priced = price_page(decoder, reprice.page(self.store.ask_table, scope, start, end))
            self.store.revise(
                reprice.Revision(reprice_id=f"r{self.position}", revised_at=at, start=start, end=end, priced=priced)
            )

    def roll(self, hours: int) -> None:
        self.store.roll(datetime(2026, 12, 1), hours)  # noqa: DTZ001

    def dirty(self) -> int:
        return int(self.store.ask("SELECT count(*) FROM rollup_dirty")[0][0])


@contextmanager
def ledger(seed: int) -> Iterator[Ledger]:
    with TemporaryDirectory() as folder:
        made = Ledger(Path(folder), seed)
        try:
            yield made
        finally:
            made.store.close()
