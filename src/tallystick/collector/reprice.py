"""Prices stored units again from their raw usage; the old figures are kept beside the new ones.

A repricing is a record of the journal, and so is every price book: whoever applies the journal again gets the same
figures.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tallystick.collector.decode import EPOCH, MICROSECOND, Decoder, Row
from tallystick.pricing import Book

ZERO = Decimal(0)
PAGE = 20_000
"""Units that are priced and written together; bounds the memory, and how long the applier shows no progress."""
NAIVE_EPOCH = EPOCH.replace(tzinfo=None)

Ask = Callable[..., list[tuple[Any, ...]]]
UNIT = (
    "trace_id", "call_id", "position", "provider", "model", "api", "answered_at", "usage", "params", "estimated",
    "cost_usd", "cost_status", "price_version", "receipt",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which units: answered from ``start`` (within) to ``end`` (outside), of one provider or model if these are set."""

    start: datetime
    end: datetime
    provider: str | None = None
    model: str | None = None
    """As the response named it; ``gpt-4o*`` stands for every name that begins so."""

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition, and its values."""
        sql = "answered_at >= ? AND answered_at < ?"
        values: list[Any] = [_naive(self.start), _naive(self.end)]
        if self.provider is not None:
            sql, values = f"{sql} AND provider = ?", [*values, self.provider]
        if self.model is not None and self.model.endswith("*"):
            sql, values = f"{sql} AND starts_with(model, ?)", [*values, self.model[:-1]]
        elif self.model is not None:
            sql, values = f"{sql} AND model = ?", [*values, self.model]
        return sql, values

    def as_dict(self) -> dict[str, Any]:
        """Return the scope for the journal."""
        return {"start": self.start.isoformat(), "end": self.end.isoformat(), "provider": self.provider,
                "model": self.model}  # fmt: skip


def scope_of(raw: Mapping[str, Any]) -> Scope:
    """Return the scope that the journal holds."""
    return Scope(
        start=datetime.fromisoformat(raw["start"]),
        end=datetime.fromisoformat(raw["end"]),
        provider=raw.get("provider"),
        model=raw.get("model"),
    )


def pages(ask: Ask, scope: Scope) -> Iterator[list[Row]]:
    """Yield the units of ``scope``, some at a time."""
    where, values = scope.where()
    first, last = ask(f"SELECT min(rowid), max(rowid) FROM units WHERE {where}", values)[0]  # noqa: S608 -- our own
    if first is None:
        return
    sql = f"SELECT {', '.join(UNIT)} FROM units WHERE rowid >= ? AND rowid < ? AND {where}"  # noqa: S608
    for begin in range(first, last + 1, PAGE):
        yield [dict(zip(UNIT, row, strict=True)) for row in ask(sql, [begin, min(begin + PAGE, last + 1), *values])]


def changed(units: Sequence[Row], decoder: Decoder) -> list[tuple[Row, Row]]:
    """Return (unit, its new columns) for each of ``units`` that costs something else by the decoder's prices."""
    found = []
    for unit in units:
        record = {
            "usage": _load(unit["usage"]),
            "params": _load(unit["params"]),
            "api": unit["api"],
            "estimated": unit["estimated"],
        }
        at_us = (unit["answered_at"] - NAIVE_EPOCH) // MICROSECOND
        receipt = decoder.receipt(unit["provider"], unit["model"] or "", record, at_us)
        status, cost_usd = decoder.verdict(receipt, estimated=unit["estimated"])
        if (cost_usd, status) != (unit["cost_usd"], unit["cost_status"]):
            found.append((unit, decoder.columns(receipt, status, cost_usd)))
    return found


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


@dataclass(slots=True)
class Figures:
    """What a repricing changes of one model."""

    units: int = 0
    changed: int = 0
    filled: int = 0
    """Units whose cost was not known before."""
    before_usd: Decimal = ZERO
    after_usd: Decimal = ZERO


def preview(ask: Ask, scope: Scope, decoder: Decoder) -> dict[tuple[str, str], Figures]:
    """Return what a repricing would change, by (provider, model); nothing is written."""
    found: dict[tuple[str, str], Figures] = {}
    for units in pages(ask, scope):
        for unit in units:
            found.setdefault(_model(unit), Figures()).units += 1
        for unit, new in changed(units, decoder):
            figures = found[_model(unit)]
            figures.changed += 1
            figures.filled += unit["cost_usd"] is None and new["cost_usd"] is not None
            figures.before_usd += unit["cost_usd"] or 0
            figures.after_usd += new["cost_usd"] or 0
    return found


def _model(unit: Row) -> tuple[str, str]:
    return unit["provider"], unit["model"] or ""


def done(ask: Ask, reprice_id: str) -> tuple[int, dict[tuple[str, str], Figures]] | None:
    """Return how many units were examined and what changed, by (provider, model); None while it is not done."""
    examined = ask("SELECT examined FROM reprices WHERE id = ?", [reprice_id])
    if not examined:
        return None
    sql = """
        SELECT provider, coalesce(model, ''), count(*), count(*) FILTER (old_cost_usd IS NULL AND cost_usd IS NOT NULL),
            coalesce(sum(old_cost_usd), 0), coalesce(sum(cost_usd), 0)
        FROM unit_revisions WHERE reprice_id = ? GROUP BY ALL
    """
    figures = {
        (provider, model): Figures(count, count, filled, before, after)
        for provider, model, count, filled, before, after in ask(sql, [reprice_id])
    }
    return examined[0][0], figures


# --- price books in the journal ------------------------------------------------------------


def encode_book(book: Book) -> bytes:
    """Return the journal's record of a price book."""
    return zlib.compress(text_of(book).encode())


def decode_book(payload: bytes) -> tuple[str, str]:
    """Return the document's text and its digest."""
    text = zlib.decompress(payload).decode()
    return text, digest_of(text)


def digest(book: Book) -> str:
    """Return what tells this book from every other."""
    return digest_of(text_of(book))


def digest_of(text: str) -> str:
    """Return the digest of a book's document."""
    return hashlib.sha256(text.encode()).hexdigest()


def text_of(book: Book) -> str:
    """Return the document of a book."""
    return json.dumps(book.document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
