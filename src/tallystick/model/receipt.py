"""A priced unit, down to quantity x unit price x multiplier."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from tallystick.model.usage import Usage


class CostStatus(StrEnum):
    """How far a cost can be trusted."""

    EXACT = "exact"
    """Counted by the provider, priced by a listed rate."""
    PROVIDER_REPORTED = "provider_reported"
    """The provider stated the charge itself."""
    ESTIMATED = "estimated"
    """The usage was not complete (a cut stream, say); the figure is our best estimate."""
    UNKNOWN = "unknown"
    """No price, or no usable usage.  Never shown as zero."""


class Line(NamedTuple):
    """One term of a receipt: ``quantity x unit_price_usd / per x multiplier``.

    A named tuple, because a receipt has several and every call is priced: it is made in a third of a dataclass's time.
    """

    item: str
    """The class that was charged: ``input``, ``cache_read``, ``cache_write_5m``, ``output``, ``web_search`` ..."""
    quantity: Decimal
    unit: str
    """``token``, ``request``, ``second``, ``character`` or ``image``."""
    unit_price_usd: Decimal
    """USD for ``per`` units."""
    per: int
    multiplier: Decimal
    """Batch, geography, region: what the listed price was multiplied with."""
    cost_usd: Decimal
    model: str
    """The model of this term; an advisor's iteration is charged at its own model's price."""
    source: str
    """Where the rate comes from."""
    valid_from: str | None = None
    """The day from which the rate is in force, ISO 8601, or None when it has always been."""

    def as_dict(self) -> dict[str, Any]:
        """Return the term for JSON; decimals are strings, so that no digit is lost."""
        return {
            "item": self.item,
            "quantity": format(self.quantity, "f"),
            "unit": self.unit,
            "unit_price_usd": format(self.unit_price_usd, "f"),
            "per": self.per,
            "multiplier": format(self.multiplier, "f"),
            "cost_usd": format(self.cost_usd, "f"),
            "model": self.model,
            "source": self.source,
            "valid_from": self.valid_from,
        }


class Receipt(NamedTuple):
    """What one billable response costs, and why.

    ``cost_usd`` is the exact sum of the lines, in USD, unrounded; None when ``status`` is unknown, and then ``reason``
    says what is missing.
    """

    provider: str
    model: str
    """The model as the response named it."""
    status: CostStatus
    cost_usd: Decimal | None = None
    contracted_usd: Decimal | None = None
    """The same with the discounts of the user's own contract; equal to ``cost_usd`` where none applies."""
    lines: tuple[Line, ...] = ()
    usage: Usage | None = None
    """The counts in our one convention; None when the usage was absent or refused."""
    reason: str | None = None
    price_version: str = ""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> Mapping[str, Any]:
        """Return the receipt for JSON; decimals are strings."""
        return {
            "provider": self.provider,
            "model": self.model,
            "status": self.status.value,
            "cost_usd": None if self.cost_usd is None else format(self.cost_usd, "f"),
            "contracted_usd": None if self.contracted_usd is None else format(self.contracted_usd, "f"),
            "lines": [line.as_dict() for line in self.lines],
            "usage": None if self.usage is None else self.usage.as_dict(),
            "reason": self.reason,
            "price_version": self.price_version,
            "notes": list(self.notes),
        }
