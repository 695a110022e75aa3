"""Where every cent of a limit went: what was billed, what is charged for calls that nobody can know, and what is left.

Made of three books that know nothing of each other: the provider's invoice, the events of the budgets' ledger in the
collector's journal, and its table of calls.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from tallystick.model.ledger import EXPIRED, Ledger, Reservation
from tallystick.model.segment import Kind, Record, read_records

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A limit, in USD: the sum of all but ``charged`` is the limit."""

    charged: Decimal
    """What the ledger's events come to; the collector's own word of what is spent must be the same."""
    billed: Decimal
    killed_calls: Decimal
    """Charged above the bill for calls in flight when their process was killed: their worst case."""
    killed_slices: Decimal
    """The same of the slices that killed processes held."""
    doubtful: Decimal
    """Charged above the bill for calls that ended without a full answer: lost, cut or left."""
    left: Decimal


class _Kept(Ledger):
    """A ledger that remembers what it has settled."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: dict[str, Reservation] = {}

    def _finish(self, reservation_id: str) -> None:
        if (known := self.reservations.get(reservation_id)) is not None:
            self.finished[reservation_id] = known
        super()._finish(reservation_id)


def account(data: Path, limit: Decimal, items: Iterable[Mapping[str, Any]], requests: Iterable[Any]) -> Account:
    """Return the account of the one budget of the collector that has ended and whose folder is ``data``.

    ``items`` and ``requests`` are the provider's; each call says its id as ``x-mock-script-id`` and as its session.
    """
    ledger, call_of = _Kept(), dict[str, str]()
    for event in _events(data):
        ledger.apply(event)
        if event["event"] == "held" and not event["slice"]:
            call_of[event["id"]] = event["dimensions"]["session"]
    held = {**ledger.finished, **ledger.reservations}
    holder_of = {call: reservation_id for reservation_id, call in call_of.items()} | _in_slices(data, held)
    billed_of = defaultdict[str | None, Decimal](Decimal)
    for call, usd in _billed(items, requests):
        billed_of[holder_of.get(call)] += usd
    above = {"calls": ZERO, "slices": -billed_of.pop(None, ZERO), "doubtful": ZERO}  # killed inside a slice: no record
    for reservation_id, known in held.items():
        kind = ("slices" if known.is_slice else "calls") if known.state == EXPIRED else "doubtful"
        above[kind] += known.parts(0)[0] - billed_of[reservation_id]
    charged = sum((known.parts(0)[0] for known in held.values()), ZERO)
    return Account(
        charged=charged, billed=charged - sum(above.values()), killed_calls=above["calls"],
        killed_slices=above["slices"], doubtful=above["doubtful"], left=limit - charged,
    )  # fmt: skip


def _events(data: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of the budgets, from the first on; whole states say nothing new."""
    for path in sorted(data.glob("**/*.tly")):
        for record in read_records(path.read_bytes()):
            if isinstance(record, Record) and record.kind == Kind.BUDGET:
                is_plain = record.payload[:1] == b"{"
                event: dict[str, Any] = json.loads(record.payload if is_plain else zlib.decompress(record.payload))
                if event["event"] != "state":
                    yield event


def _in_slices(data: Path, held: Mapping[str, Reservation]) -> dict[str, str]:
    """Return the slice of each call that was made inside one and written down."""
    with duckdb.connect(str(data / "tallystick.duckdb"), read_only=True) as store:
        rows = store.execute("SELECT session_id, reservation_id FROM calls WHERE reservation_id IS NOT NULL").fetchall()
    return {call: found for call, found in rows if (known := held.get(found)) is not None and known.is_slice}


def _billed(items: Iterable[Mapping[str, Any]], requests: Iterable[Any]) -> Iterator[tuple[str, Decimal]]:
    call_of = {request["number"]: dict(request["headers"])["x-mock-script-id"] for request in requests}
    for item in items:
        yield call_of[item["request"]], Decimal(item["usd"])
