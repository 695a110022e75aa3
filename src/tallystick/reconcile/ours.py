"""The ledger's side: a collector's units as charges, by UTC day, model and class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.client import Collector
from tallystick.pricing import Book
from tallystick.pricing._names import Place
from tallystick.reconcile.compare import PRIORITY, Charge

PAGE = 5000
LABELS = ("compaction_", "advisor_", "fallback_")
LINES = {"cache_write_5m": "cache_write_5m", "cache_write_30m": "cache_write", "cache_write_12h": "cache_write"}
"""Classes that OpenAI's bill has in one line; Anthropic's has both of its own."""
MARGIN = timedelta(hours=1)
"""A call that starts before the range may be answered within it."""

Unit = Mapping[str, Any]


def units_of(collector: Collector, provider: str, start: date, end: date) -> Iterator[Unit]:
    """Yield the units that ``provider`` answered on the UTC days from ``start`` (within) to ``end`` (outside)."""
    first, last = (datetime.combine(day, datetime.min.time(), UTC) for day in (start, end))
    for page in collector.pages("units", first - MARGIN, last, {"limit": PAGE, "provider": provider}):
        for unit in page:
            if first <= datetime.fromisoformat(unit["at"]) < last:
                yield unit


def charges(units: Iterable[Unit], provider: str, book: Book, accounts: Mapping[str, str]) -> Iterator[Charge]:
    """Yield a charge for each line of each unit's receipt.

    ``accounts`` leads from our fingerprint of a key to the provider's id of it; empty: not by account.
    """
    for unit in units:
        day = datetime.fromisoformat(unit["at"]).date()
        key = unit["key"] or ""
        account = accounts.get(key, key) if accounts else ""
        tier = _tier(unit) if provider == "anthropic" else ""
        receipt = unit["receipt"] or {}
        lines = receipt.get("lines") or ()
        if unit["cost_usd"] is None or not lines:
            yield Charge(day=day, model=canonical(book, provider, unit["model"] or ""), line="input", usd=Decimal(0),
                         account=account, tier=tier, unpriced=int(unit["cost_usd"] is None))  # fmt: skip
        share = _share(receipt)
        for line in lines:
            cost = Decimal(line["cost_usd"])
            item = line["item"]
            for label in LABELS:
                item = item.removeprefix(label)
            yield Charge(
                day=day, model=line["model"] if line["unit"] == "token" else "", line=LINES.get(item, item),
                usd=cost * share, list_usd=cost, quantity=Decimal(line["quantity"]), account=account, tier=tier,
            )  # fmt: skip


def canonical(book: Book, provider: str, model: str) -> str:
    """Return the book's id of ``model``: a bill and a response may date the same model differently."""
    found = book.find(Place(provider), model) if model else None
    return found.model.id if found else model


def _tier(unit: Unit) -> str:
    told = (unit["usage"] or {}).get("service_tier") or (unit["params"] or {}).get("service_tier")
    return PRIORITY if told == PRIORITY else ""


def _share(receipt: Mapping[str, Any]) -> Decimal:
    """Return what the contract makes of the list price, as a factor."""
    listed, contracted = receipt.get("cost_usd"), receipt.get("contracted_usd")
    if listed is None or contracted is None or not Decimal(listed):
        return Decimal(1)
    return Decimal(contracted) / Decimal(listed)
