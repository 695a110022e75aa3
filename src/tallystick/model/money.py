"""How an amount is shown to a person.  Sums are made with ``Decimal``; only here is rounding allowed."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

UNPRICED = "unpriced"


def show_amount(amount: Decimal, unit: str) -> str:
    """Return ``amount`` of a budget as a person wants to read it: ``$12.30``, ``8,000 tokens``, ``1 call``."""
    if unit == "usd":
        return show_usd(amount)
    count = f"{amount:,.0f}"
    return f"{count} {unit.removesuffix('s') if count in {'1', '-1'} else unit}"


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
    # What rounds up to the next step is shown in that step's digits: 0.9996 is $1.00, not $1.000.
    for below, digits in ((1, 3), (1000, 2)):
        if round(size, digits) < below:
            return f"{sign}${size:.{digits}f}"
    return f"{sign}${size:,.0f}"
