"""What is set aside for a call before it is sent, and what it turned out to take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol

from tallystick.instrumentation._rules import Key
from tallystick.model import attributes as names

ZERO = Decimal(0)
PICO = Decimal("1e-12")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The most that a call can take, its retries included; None where nothing bounds it."""

    usd: Decimal | None
    tokens: int | None
    calls: int = 1
    attempts: int = 1
    attempt_usd: Decimal | None = None
    attempt_tokens: int | None = None
    why: str | None = None
    """Why there is no bound in USD."""
    is_unpriced: bool = False

    def of(self, unit: str) -> Decimal | None:
        """Return what is needed of a budget's unit."""
        if unit == "usd":
            return self.usd
        value = self.tokens if unit == "tokens" else self.calls
        return None if value is None else Decimal(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a call took; None where it is not known."""

    usd: Decimal | None
    tokens: int | None
    calls: int
    status: str
    """As `tallystick.model.receipt.CostStatus`."""

    def of(self, unit: str, otherwise: Decimal | None) -> Decimal:
        """Return what was taken of a budget's unit; what is not known is the worst case, ``otherwise``."""
        value = {"usd": self.usd, "tokens": self.tokens, "calls": self.calls}[unit]
        return Decimal(value) if value is not None else otherwise or ZERO


NOTHING = Spent(usd=ZERO, tokens=0, calls=0, status="exact")


class Purse(Protocol):
    """What money is set aside in: a slice, or the budget of a run."""

    def give_back(self, need: Need, spent: Spent) -> None:
        """Put back what was set aside for a call, but for what it took."""


@dataclass(slots=True, eq=False)
class Slice:
    """A part of the budgets of ``key`` that this process holds; guarded by its bank's lock.

    The garbage collector may end a call of this slice inside another's turn, in the same thread: so a sum is read and
    written in one go.
    """

    id: str
    key: Key
    units: frozenset[str]
    held: dict[str, Decimal]
    version: str
    resets_at_s: float | None
    """When the first window of its budgets ends, of the wall clock."""
    spent: dict[str, Decimal]
    reserved: dict[str, Decimal]
    in_flight: int = 0
    used_at_s: float = 0.0
    told: bool = True
    """Whether the collector knows what was spent."""

    def take(self, need: Need) -> bool:
        """Set aside what a call needs, if it fits."""
        wants = [(unit, need.of(unit)) for unit in self.units]
        for unit, wanted in wants:
            if wanted is None or self.spent[unit] + self.reserved[unit] + wanted > self.held[unit]:
                return False
        for unit, wanted in wants:
            self.reserved[unit] += wanted or ZERO
        self.in_flight += 1
        self.used_at_s = time.monotonic()
        return True

    def put_back(self, need: Need, spent: Spent) -> None:
        """Replace what was set aside for a call by what it took."""
        for unit in self.units:
            wanted = need.of(unit) or ZERO
            self.reserved[unit] -= wanted
            taken = spent.of(unit, wanted)
            self.spent[unit] += taken
        self.in_flight -= 1
        self.used_at_s = time.monotonic()
        self.told = False

    def settlement(self, *, final: bool) -> dict[str, Any]:
        """Return what the collector is told of it; what is in flight at the end counts in full."""
        taken = {unit: self.spent[unit] + (self.reserved[unit] if final else ZERO) for unit in self.units}
        return {
            "id": self.id,
            "usd": text(taken.get("usd", ZERO)),
            "tokens": int(taken.get("tokens", ZERO)),
            "calls": int(taken.get("calls", ZERO)),
            "status": "exact",
            "final": final,
        }


class Hold:
    """What was set aside for one call, wherever; settled once."""

    __slots__ = ("id", "need", "purses", "settles", "unguarded")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.id: str | None = None
        """The reservation's, or the slice's."""
        self.purses: list[Purse] = []
        self.settles: Callable[[str, Spent], None] | None = None
        """Tells the collector; None when it holds nothing for this call alone."""
        self.unguarded: list[str] = []
        """The budgets that could not be asked and let the call pass."""

    def settle(self, spent: Spent) -> dict[str, Any]:
        """Replace what was set aside by what was taken, and return what the call's span tells of it."""
        purses, self.purses = self.purses, []
        for purse in purses:
            purse.give_back(self.need, spent)
        settles, self.settles = self.settles, None
        if settles is not None and self.id is not None:
            settles(self.id, spent)
        return self.told()

    def told(self) -> dict[str, Any]:
        """Return what the call's span tells of it."""
        found: dict[str, Any] = {}
        if self.id is not None:
            found[names.RESERVATION] = self.id
        if self.unguarded:
            found[names.UNGUARDED] = ", ".join(self.unguarded)
        return found


def text(amount: Decimal) -> str:
    """Return an amount in digits, never as 1E-7, rounded up where the ledger's digits end."""
    return format(amount.quantize(PICO, ROUND_CEILING), "f")


def spent_of(need: Need, units: Iterable[Mapping[str, Any]], *, doubtful: int, sent: bool) -> Spent:
    """Return what a call with these ``units`` took.

    A unit is the facts of a billable response, with its ``tokens`` or None.  ``doubtful``: how many attempts the
    provider may have billed without telling; each counts at its worst case, as does a unit that is a guess.
    """
    usd, tokens, statuses = ZERO, 0, {"exact"}
    doubtful_usd = doubtful_tokens = doubtful
    for unit in units:
        if unit["tokens"] is not None and not unit["estimated"]:
            tokens += unit["tokens"]
        else:
            doubtful_tokens += 1
        if unit["cost_status"] in {"exact", "provider_reported"}:
            usd += Decimal(unit["cost_usd"])
            statuses.add(unit["cost_status"])
        elif need.attempt_usd is None and unit["cost_usd"] is not None:  # a guess is better than no figure
            usd += Decimal(unit["cost_usd"])
            statuses.add("estimated")
        else:
            doubtful_usd += 1
            statuses.add("unknown" if need.attempt_usd is None else "estimated")
    if doubtful:
        statuses.add("unknown" if need.attempt_usd is None else "estimated")
    return Spent(
        usd=_with_doubt(usd, doubtful_usd, need.attempt_usd),
        tokens=_with_doubt(tokens, doubtful_tokens, need.attempt_tokens),
        calls=int(sent),
        status=next(status for status in ("unknown", "estimated", "provider_reported", "exact") if status in statuses),
    )


def _with_doubt(sure: Any, doubtful: int, worst: Any) -> Any:
    if not doubtful:
        return sure
    return None if worst is None else sure + doubtful * worst


# Answers that are made in the background: the call that asked for one is over long before its usage is told.
PARKED_MAX = 10_000
_parked: dict[str, Hold] = {}


def park(response_id: str, hold: Hold) -> None:
    """Keep what is set aside until an answer is told that is not made yet."""
    _parked[response_id] = hold
    if len(_parked) > PARKED_MAX:
        hold = _parked.pop(next(iter(_parked)))
        hold.settle(Spent(usd=None, tokens=None, calls=1, status="unknown"))


def claim(response_id: object) -> Hold | None:
    """Return what was set aside for an answer that is told now, once."""
    return _parked.pop(response_id, None) if isinstance(response_id, str) else None
