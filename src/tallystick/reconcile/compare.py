"""Two lists of charges, ours and the provider's, line by line.  Pure: no clock, no network, no price book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum

CENT = Decimal("0.01")
SAME_QUANTITY = Decimal("0.001")
"""Quantities this close to each other, relatively, are the same traffic: near midnight a call falls on either day."""
COMMON_MIN = 3
"""A ratio that so many lines share is a contract's; what only one line has is a price."""

CREDITS, FEES = "credits", frozenset({"code_execution", "session_usage", "storage", "image_generation", "other"})
TOOLS = frozenset({"web_search", "file_search"})
PRIORITY = "priority"


class Cause(StrEnum):
    """Why the provider's figure is another one."""

    UNSEEN = "unseen traffic"
    """The provider counted more than the ledger: calls that nothing of ours saw."""
    ELSEWHERE = "not on this bill"
    """The ledger counted more: calls on another account, or a bill that is not complete yet."""
    PRICE = "price"
    """The same quantity at another price: a wrong or old rate in the book."""
    DISCOUNT = "discount"
    """The same quantity, less by the factor of a contract; add a [[discount]]."""
    CREDITS = "credits"
    TOOL_FEES = "tool fees"
    """What a provider charges for its tools and no response tells."""
    PRIORITY = "priority tier"
    """Committed capacity is billed by contract, and is not in the report."""
    UNKNOWN_PRICE = "no price"
    """Units on the ledger that nobody could price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one line of a bill says: a UTC day, a model, a class."""

    day: date
    model: str
    line: str
    """``input``, ``cache_read``, ``output``, ``web_search``, ``credits`` ..."""
    usd: Decimal
    """What is to be paid; ours with the contract's discount."""
    list_usd: Decimal | None = None
    """At list prices; None when the provider does not say."""
    quantity: Decimal | None = None
    account: str = ""
    """A key or workspace; empty when the two sides are not compared by it."""
    tier: str = ""
    unpriced: int = 0
    """Units of ours without a known cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A line on which the two disagree by more than a cent."""

    day: date
    account: str
    model: str
    line: str
    ours_usd: Decimal
    theirs_usd: Decimal
    cause: Cause
    detail: str

    @property
    def usd(self) -> Decimal:
        """What the provider charges more."""
        return self.theirs_usd - self.ours_usd


Key = tuple[date, str, str, str, str]


def compare(ours: Iterable[Charge], theirs: Iterable[Charge], within_usd: Decimal = CENT) -> list[Difference]:
    """Return the lines that differ by more than ``within_usd``, each with its cause, the largest difference first."""
    mine, other = _by_key(ours), _by_key(theirs)
    ratio = _common_ratio(mine, other)
    found = []
    for key in mine.keys() | other.keys():
        left, right = _sides(mine.get(key), other.get(key))
        if abs(right.usd - left.usd) <= within_usd:
            continue
        cause, detail = _cause(left, right, key in other, ratio)
        found.append(
            Difference(
                day=left.day, account=left.account, model=left.model, line=left.line,
                ours_usd=left.usd, theirs_usd=right.usd, cause=cause, detail=detail,
            )
        )  # fmt: skip
    return sorted(found, key=lambda d: (-abs(d.usd), d.day, d.model, d.line, d.account))


def _by_key(charges: Iterable[Charge]) -> dict[Key, Charge]:
    found: dict[Key, Charge] = {}
    for charge in charges:
        key = (charge.day, charge.account, charge.model, charge.line, charge.tier)
        found[key] = _sum(found[key], charge) if key in found else charge
    return found


def _sum(one: Charge, two: Charge) -> Charge:
    return replace(
        one,
        usd=one.usd + two.usd,
        list_usd=_added(one.list_usd, two.list_usd),
        quantity=_added(one.quantity, two.quantity),
        unpriced=one.unpriced + two.unpriced,
    )


def _added(one: Decimal | None, two: Decimal | None) -> Decimal | None:
    return two if one is None else one if two is None else one + two


def _sides(mine: Charge | None, other: Charge | None) -> tuple[Charge, Charge]:
    """Return both sides; the one that is missing is a line of nothing."""
    some = mine or other
    assert some is not None, "one of the two has the key"
    nothing = replace(some, usd=Decimal(0), list_usd=None, quantity=None, unpriced=0)
    return mine or nothing, other or nothing


def _cause(mine: Charge, other: Charge, is_billed: bool, ratio: Decimal | None) -> tuple[Cause, str]:
    if other.line == CREDITS:
        return Cause.CREDITS, "credits are on the bill, not in any response"
    if other.line in FEES or (other.line in TOOLS and not mine.usd and not mine.quantity):
        return Cause.TOOL_FEES, "no response tells of it"
    if mine.tier == PRIORITY and not other.usd:
        return Cause.PRIORITY, "billed by contract; the ledger has the list price"
    if mine.unpriced and mine.usd < other.usd:
        return Cause.UNKNOWN_PRICE, f"{mine.unpriced} units have no price on the ledger"
    if (by_quantity := _by_quantity(mine, other, is_billed)) is not None:
        return by_quantity
    return _by_price(mine, other, ratio)


def _by_quantity(mine: Charge, other: Charge, is_billed: bool) -> tuple[Cause, str] | None:
    if not is_billed:
        return Cause.ELSEWHERE, "the report has no such line"
    if not mine.usd and not mine.quantity:
        return Cause.UNSEEN, "the ledger has no such line"
    if mine.quantity is None or other.quantity is None:
        return None
    more = other.quantity - mine.quantity
    if abs(more) <= SAME_QUANTITY * max(mine.quantity, other.quantity):
        return None
    counted = f"the provider counted {other.quantity:,.0f}, the ledger {mine.quantity:,.0f}"
    return (Cause.UNSEEN if more > 0 else Cause.ELSEWHERE), counted


def _by_price(mine: Charge, other: Charge, ratio: Decimal | None) -> tuple[Cause, str]:
    ours_list = mine.list_usd if mine.list_usd is not None else mine.usd
    if other.list_usd is not None:
        if abs(other.list_usd - ours_list) > max(CENT, SAME_QUANTITY * ours_list):
            return Cause.PRICE, f"the provider's list price makes {other.list_usd:f} USD, the book's {ours_list:f}"
        return Cause.DISCOUNT, f"x{_ratio(other.usd, other.list_usd)} of the list price"
    found = _ratio(other.usd, mine.usd)
    if ratio is not None and found == ratio:
        return Cause.DISCOUNT, f"x{ratio} as on most lines"
    return Cause.PRICE, f"x{found} of the book's price for the same quantity"


def _ratio(part: Decimal, whole: Decimal) -> Decimal:
    return round(part / whole, 3) if whole else Decimal(0)


def _common_ratio(mine: Mapping[Key, Charge], other: Mapping[Key, Charge]) -> Decimal | None:
    """Return the factor below 1 that most lines of equal quantity share; None when there is none."""
    ratios: Counter[Decimal] = Counter()
    for key in mine.keys() & other.keys():
        left, right = mine[key], other[key]
        # Below ten cents, rounding on a bill makes ratios of its own.
        if left.usd >= 10 * CENT and left.quantity and right.list_usd is None and not _by_quantity(left, right, True):
            ratios[_ratio(right.usd, left.usd)] += 1
    for ratio, count in ratios.most_common(1):
        if ratio < 1 and count >= COMMON_MIN and 2 * count > ratios.total():
            return ratio
    return None
