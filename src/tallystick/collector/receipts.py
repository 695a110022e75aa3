"""A receipt in two halves: its form, which many units share, and its figures, which are its own.

What was charged is kept as it was, whatever becomes of the price book: the form holds every rate, factor, source and
note.  It is stored once, under a hash of itself; a unit keeps the hash and its counts, of which the amounts follow by
multiplication.  A receipt of which that is not so is kept whole.  A receipt is 700 bytes, its figures are 30.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from tallystick.model.receipt import Receipt

FORMS_MAX = 10_000
"""With more forms than this, something in them is not shared; further receipts are kept whole."""
EXACT = Context(prec=28, rounding=ROUND_HALF_EVEN)
ZERO, ONE = Decimal(0), Decimal(1)
ENCODER = json.JSONEncoder(separators=(",", ":"), default=str, ensure_ascii=False)


@dataclass(slots=True)
class Forms:
    """The forms that were seen, by what makes them; for one thread."""

    used: dict[str, str] = field(default_factory=dict)
    """The forms that were needed since somebody last took them from here, by their ids."""
    _ids: dict[Any, tuple[str, str]] = field(default_factory=dict)

    def take(self) -> dict[str, str]:
        """Return ``used`` and begin a new one."""
        used, self.used = self.used, {}
        return used

    def fold(self, receipt: Receipt, status: str) -> str:
        """Return what a unit keeps of ``receipt``; the form that it needs is in ``used`` then."""
        if not _is_derivable(receipt):
            return whole(receipt, status)
        counts = receipt.usage
        key = (
            receipt.provider, receipt.model, status, receipt.price_version, receipt.notes, receipt.reason,
            None if counts is None else tuple(map(bool, counts)),
            *[(line.item, line.unit, str(line.unit_price_usd), line.per, str(line.multiplier), line.model, line.source,
               line.valid_from) for line in receipt.lines],
        )  # fmt: skip
        form = self._ids.get(key)
        if form is None:
            if len(self._ids) >= FORMS_MAX:
                return whole(receipt, status)
            form = self._ids[key] = _form(receipt, status)
        form_id, self.used[form_id] = form
        quantities = ",".join([format(line.quantity, "f") for line in receipt.lines])
        text = f"{form_id} {quantities} {','.join(map(str, filter(None, counts or ())))}"
        assert receipt.cost_usd is not None, "it is derivable"
        assert receipt.contracted_usd is not None, "it is derivable"
        if receipt.contracted_usd.compare_total(receipt.cost_usd):
            text += f" {format(receipt.contracted_usd, 'f')}"
        return text


def whole(receipt: Receipt, status: str) -> str:
    """Return all of a receipt as JSON, with the status that its unit has."""
    return ENCODER.encode({**receipt.as_dict(), "status": status})


def form_id_of(text: str | None) -> str | None:
    """Return the id of the form that a stored receipt needs, None when it is whole, or none."""
    return text.partition(" ")[0] if text and not text.startswith("{") else None


def unfold(text: str, forms: Mapping[str, str]) -> dict[str, Any]:
    """Return the receipt that `Forms.fold` or `whole` made ``text`` of, as `Receipt.as_dict` gives it."""
    if text.startswith("{"):
        found: dict[str, Any] = json.loads(text)
        return found
    form_id, quantities, counts, *contracted = text.split(" ")
    found = json.loads(forms[form_id])
    total = ZERO
    for line, quantity in zip(found["lines"], quantities.split(",") if quantities else (), strict=True):
        cost = _cost(Decimal(quantity), Decimal(line["unit_price_usd"]), Decimal(line["multiplier"]), line["per"])
        line["quantity"], line["cost_usd"] = quantity, format(cost, "f")
        total = EXACT.add(total, cost)
    found["cost_usd"] = format(total, "f")
    found["contracted_usd"] = contracted[0] if contracted else found["cost_usd"]
    if found["usage"] is not None:
        found["usage"] = dict(zip(found["usage"], map(int, counts.split(",") if counts else ()), strict=True))
    return found


def _form(receipt: Receipt, status: str) -> tuple[str, str]:
    """Return the id and the text of a form: the receipt, with null for each figure."""
    blank = {**receipt.as_dict(), "status": status, "cost_usd": None, "contracted_usd": None}
    blank["lines"] = [{**line, "quantity": None, "cost_usd": None} for line in blank["lines"]]
    blank["usage"] = None if receipt.usage is None else list(receipt.usage.as_dict())
    text = ENCODER.encode(blank)
    return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=12).digest()).decode(), text


def _is_derivable(receipt: Receipt) -> bool:
    """Tell whether the amounts follow from quantities and rates, to the last digit as they are written.

    A charge that the provider stated is its own rate, so its form would be shared with nobody.
    """
    if receipt.cost_usd is None or receipt.contracted_usd is None or receipt.status == "provider_reported":
        return False
    total = ZERO
    for line in receipt.lines:
        total = EXACT.add(total, line.cost_usd)
        if _cost(line.quantity, line.unit_price_usd, line.multiplier, line.per).compare_total(line.cost_usd):
            return False
    return not total.compare_total(receipt.cost_usd)


def _cost(quantity: Decimal, unit_price: Decimal, multiplier: Decimal, per: int) -> Decimal:
    """Return ``quantity x unit_price x multiplier / per`` as the price book reckons it."""
    cost = EXACT.multiply(quantity, unit_price)
    if multiplier != ONE:
        cost = EXACT.multiply(cost, multiplier)
    return EXACT.divide(cost, per)
