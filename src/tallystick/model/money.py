"""How an amount is shown to a person.  Sums are made with ``Decimal``; only here is rounding allowed."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

UNPRICED = "unpriced"


def show_usd(amount: Decimal | None) -> str:
    """Return ``amount`` in USD as a person wants to read it.

    Unknown is a word, never a zero; below one cent two significant digits ($0.00042), below one dollar three decimals
    ($0.417), below a thousand cents ($12.30), above that whole dollars with separators ($12,345).
    """
    if amount is None:
        return UNPRICED
    if amount == 0:
        return "$0"
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    if size < Decimal("0.01"):
        return f"{sign}${Context(prec=2, rounding=ROUND_HALF_EVEN).plus(size):f}"
    if size < 1:
        return f"{sign}${size:.3f}"
    if size < 1000:
        return f"{sign}${size:,.2f}"
    return f"{sign}${size:,.0f}"
