"""Prices stored units again from their raw usage; the old figures are kept beside the new ones.

A repricing is a record of the journal, and so is every price book: whoever applies the journal again gets the same
figures.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tallystick.collector.priced import TAKEN, Priced, price_pages
from tallystick.pricing import Book

ZERO = Decimal(0)
PAGE = 20_000
"""Units that are priced and written together; bounds the memory, and how long what arrives waits for a transaction."""
MINUTE = timedelta(minutes=1)
UNITS = "ledger.main.units"
"""The units in the database; those in the archive are settled."""

Ask = Callable[..., list[tuple[Any, ...]]]
AskTable = Callable[..., pa.Table]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a repricing makes of the units that were answered in a time."""

    reprice_id: str
    revised_at: datetime
    start: datetime
    end: datetime
    priced: Priced


def slices(ask: Ask, scope: Scope) -> list[tuple[datetime, datetime]]:
    """Return the times in which the units of ``scope`` were answered, in pieces of `PAGE` units or somewhat more."""
    where, values = scope.where()
    sql = f"SELECT date_trunc('minute', answered_at), count(*) FROM {UNITS} WHERE {where} GROUP BY 1 ORDER BY 1"  # noqa: S608 -- our own
    found: list[tuple[datetime, datetime]] = []
    start, gathered = None, 0
    for at, count in ask(sql, values):
        start, gathered = start or at, gathered + count
        if gathered >= PAGE:
            found.append((start, at + MINUTE))
            start, gathered = None, 0
    if start is not None:
        found.append((start, at + MINUTE))
    return found


def page(ask_table: AskTable, scope: Scope, start: datetime, end: datetime) -> pa.Table:
    """Return the units of ``scope`` that were answered in that time."""
    where, values = scope.where()
    sql = f"SELECT {', '.join(TAKEN)} FROM {UNITS} WHERE {where} AND answered_at >= ? AND answered_at < ?"  # noqa: S608
    return ask_table(sql, [*values, start, end])


@dataclass(slots=True)
class Figures:
    """What a repricing changes of one model."""

    changed: int = 0
    filled: int = 0
    """Units whose cost was not known before."""
    before_usd: Decimal = ZERO
    after_usd: Decimal = ZERO


def preview(ask: Ask, ask_table: AskTable, scope: Scope, book: Book) -> tuple[int, dict[tuple[str, str], Figures]]:
    """Return how many units a repricing would examine and what it would change, by (provider, model)."""
    examined, found = 0, dict[tuple[str, str], Figures]()
    units = (page(ask_table, scope, *times) for times in slices(ask, scope))
    for priced in price_pages(text_of(book), units):
        examined += priced.examined
        for change in priced.changes.select(["provider", "model", "old_cost_usd", "cost_usd"]).to_pylist():
            figures = found.setdefault((change["provider"], change["model"] or ""), Figures())
            figures.changed += 1
            figures.filled += change["old_cost_usd"] is None and change["cost_usd"] is not None
            figures.before_usd += change["old_cost_usd"] or 0
            figures.after_usd += change["cost_usd"] or 0
    return examined, found


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
        (provider, model): Figures(count, filled, before, after)
        for provider, model, count, filled, before, after in ask(sql, [reprice_id])
    }
    return examined[0][0], figures


def ended(reprice_id: str, at: datetime, scope: Scope) -> tuple[str, list[Any]]:
    """Return the statement that notes a repricing among those that are done."""
    sql = "INSERT INTO reprices SELECT ?, ?, ?, ?, ?, ?, coalesce((SELECT version FROM price_version " \
          "ORDER BY rowid DESC LIMIT 1), ''), examined FROM repricing WHERE id = ?"  # fmt: skip
    return sql, [reprice_id, at, _naive(scope.start), _naive(scope.end), scope.provider, scope.model, reprice_id]


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
    """Return a book's document, the same for the same prices."""
    return json.dumps(book.document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
