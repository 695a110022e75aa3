"""Tables: figures stay numbers, so that a column sorts by them, and are shown as words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from tallystick.dashboard import words

Teller = Callable[[float | None], str]


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], show: Mapping[str, Teller] | None = None) -> Any:
    """Return ``rows`` as a frame with ``columns``; the numbers of a column in ``show`` are said by its function.

    A Decimal becomes a float: enough to sort by and for the three digits that a table shows, not for a receipt.
    """
    frame = pd.DataFrame({name: [_sortable(row[name]) for row in rows] for name in columns}, columns=list(columns))
    if not show:
        return frame
    for name in show:
        frame[name] = pd.to_numeric(frame[name])
    return frame.style.format({name: _speaker(tell) for name, tell in show.items()}, na_rep="")


def told(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *always: str) -> list[str]:
    """Return the ``columns`` in which a row says something, and those that stand there ``always``."""
    return [name for name in columns if name in always or any(row[name] not in (None, "") for row in rows)]


def _sortable(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _speaker(tell: Teller) -> Callable[[float], str]:
    return lambda value: tell(None if pd.isna(value) else value)


def usd(amount: float | None) -> str:
    """Say a column of money."""
    return words.usd(None if amount is None else Decimal(repr(float(amount))))


def amount(unit: str) -> Teller:
    """Return what says a column of a budget's amounts."""
    return lambda value: "" if value is None else words.amount(Decimal(repr(float(value))), unit)


def percent(share: float | None) -> str:
    """Say a column of shares."""
    return "" if share is None else words.percent(share)


def count(number: float | None) -> str:
    """Say a column of counts."""
    return "" if number is None else words.count(number)
