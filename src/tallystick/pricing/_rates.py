"""What a token of each class costs in a model, for who compares models; a bill is made by `price`, never from these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from tallystick.model.usage import Usage
from tallystick.pricing._book import STANDARD, Book
from tallystick.pricing._receipts import place_for, price


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD for one token of each class, at one length of the prompt."""

    input: Decimal
    cache_read: Decimal
    """As ``input`` where the model has no cache."""
    cache_write: Decimal
    """Kept for five minutes, or for as long as the provider keeps it; as ``input`` where a write costs nothing more."""
    cache_write_1h: Decimal | None
    """None where a prompt cannot be kept for an hour."""
    output: Decimal

    def cost_usd(self, usage: Usage) -> Decimal:
        """Return what ``usage`` costs, in USD, unrounded; all writes are taken for the short ones."""
        plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        return (
            plain * self.input
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
            + usage.output_tokens * self.output
        )


def rates_of(
    provider: str, model: str, at: datetime, *, prompt_tokens: int = 1000, batch: bool = False, book: Book | None = None
) -> Rates | None:
    """Return the rates in force at ``at`` for a prompt of that length; None when the book has not all of them."""

    def charged(cached: Mapping[str, Any]) -> dict[str, Decimal]:
        usage = {"input_tokens": prompt_tokens, "output_tokens": 1, **cached}
        receipt = price(provider, model, usage, api="messages", timestamp=at, batch=batch, book=book)
        return {line.item: line.unit_price_usd / line.per * line.multiplier for line in receipt.lines}

    plain = charged({})
    if "input" not in plain or "output" not in plain:
        return None
    short = charged({"cache_read_input_tokens": 1, "cache_creation_input_tokens": 1})
    long = charged({"cache_creation_input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 1}})
    writes = [rate for item, rate in short.items() if item.startswith("cache_write")]
    return Rates(
        input=plain["input"],
        cache_read=short.get("cache_read", plain["input"]),
        cache_write=writes[0] if writes else plain["input"],
        cache_write_1h=long.get("cache_write_1h"),
        output=plain["output"],
    )


def steps_of(provider: str, model: str, at: datetime, *, book: Book) -> Iterable[int]:
    """Return the lengths of a prompt, in tokens, above which the model's rates are others, in order."""
    found = book.find(place_for(book, provider, {}), model)
    rates = (found.model.rates(at, STANDARD) if found else None) or {}
    return sorted({above for spec in rates.values() for above, _ in spec.steps})
