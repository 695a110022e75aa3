"""What is spent and what is held of the budgets that enforce: a state machine without clock, disk or network.

What makes a limit hold, whoever crashes when:

- Before it is sent a call holds its worst case in every budget that covers it, or in none.
- Its settlement replaces that by what it cost, once, however often it is told.
- A lease that runs out is charged at the worst case, until the real cost arrives.
- A call is charged to the window that admitted it.  A clock that is set back opens no window again.
- Calls that never asked (an app without a guard) are charged when they become known.

`Ledger.admit` decides and changes nothing; `Ledger.apply` takes events, which are plain JSON: whoever writes each
event down before he acts on it can make the same ledger again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.model.budgets import UNITS, Budget
from tallystick.model.windows import Window, window_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Event = dict[str, Any]
Key = tuple[str, tuple[str, ...]]
"""A budget's name and one of its groups."""
Amounts = tuple[Decimal, ...]
"""In the order of `UNITS`: USD, tokens, calls."""

ZERO = Decimal(0)
NOTHING: Amounts = (ZERO, ZERO, ZERO)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND_US = 1_000_000
SET_BACK_US_MAX = 26 * 3600 * SECOND_US
"""A clock that is set back further than this had been wrong before, and is believed."""
ROLLING_PARTS = 360
"""A rolling hour is kept in parts of ten seconds: a call leaves it so much later at most, never earlier."""
POTS_KEPT = 3
"""Windows kept of each group: the current one, the last one for late costs, and one that a wrong clock opened."""

OPEN, EXPIRED, SETTLED = "open", "expired", "settled"
CERTAIN = frozenset({"exact", "provider_reported"})
SHAPE = ("scope", "group_by", "window", "timezone", "reset_at", "week_start", "unit", "enforces")
"""What of a budget says where a call is charged; when any of it changes, the budget begins anew."""


@dataclass(slots=True)
class Pot:
    """What is charged to a group of a budget in one window, in the budget's unit."""

    spent: Decimal = ZERO
    """Settled, or charged because a lease ran out."""
    reserved: Decimal = ZERO
    external: Decimal = ZERO
    """Of calls that never reserved; not in `spent`."""
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A call that wants to be sent, and the most that it can take."""

    id: str
    dimensions: Mapping[str, str]
    usd: Decimal | None
    """None: it has no known price, or nothing bounds it."""
    tokens: int | None
    calls: int = 1
    why_unbounded: str | None = None
    lease_s: int = 120
    is_slice: bool = False
    """True when it is held for many calls to come, told of by settlements that are not final."""

    def amount(self, unit: str) -> Decimal | None:
        """Return the most that it can take, in ``unit``; None when that is not known."""
        value = {"usd": self.usd, "tokens": self.tokens, "calls": self.calls}[unit]
        return None if value is None else Decimal(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a group of a budget stands at an instant."""

    budget: Budget
    group: tuple[str, ...]
    window: Window
    spent: Decimal
    reserved: Decimal
    refused: int

    @property
    def room(self) -> Decimal:
        """Return what may still be held; below 0 when the limit was lowered or the calls did not ask."""
        return self.budget.limit - self.spent - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a demand is not admitted, and when it may be."""

    standing: Standing
    reason: str
    """``limit``, ``unpriced`` or ``unbounded``."""
    needed: Decimal | None
    resets_at: datetime | None
    """When it fits at the latest, if nothing else comes; None when it never does."""
    may_fit_sooner: bool
    """True when calls in flight hold so much that it may fit when they have settled."""


@dataclass(slots=True)
class Reservation:
    """What a call, or a slice for many calls, holds or was charged."""

    id: str
    at_us: int
    worst: Amounts
    places: tuple[tuple[Key, int], ...]
    dimensions: Mapping[str, str]
    """Kept while it is not settled."""
    lease_s: int
    is_slice: bool = False
    state: str = OPEN
    charge: Amounts = NOTHING
    touched_us: int = 0

    def parts(self, unit: int) -> tuple[Decimal, Decimal]:
        """Return what it adds to a pot's spent and to its reserved."""
        worst, charge = self.worst[unit], self.charge[unit]
        if self.state == OPEN:
            return charge, max(worst - charge, ZERO)
        if self.state == EXPIRED:
            return max(worst, charge), ZERO
        return charge, ZERO


@dataclass(slots=True)
class Terms:
    """A budget as the ledger keeps it."""

    budget: Budget
    source: str
    """``file`` or ``api``."""
    since_us: int
    """Calls that began earlier were never asked for in this budget, also when they hold a reservation in others."""
    unit: int = field(init=False)
    limit: Decimal = field(init=False)
    rolling_us: int = field(init=False)
    part_us: int = field(init=False)
    _window: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.unit = UNITS.index(self.budget.unit)
        self.limit = self.budget.limit
        self.rolling_us = (self.budget.rolling or timedelta()) // MICROSECOND
        self.part_us = max(self.rolling_us // ROLLING_PARTS, SECOND_US)

    def pot_at(self, at_us: int) -> int:
        """Return the start of the pot into which a call at ``at_us`` goes."""
        if self.rolling_us:
            return at_us // self.part_us * self.part_us
        if not self._window[0] <= at_us < self._window[1]:
            window = window_at(self.budget, instant(at_us))
            self._window = microseconds(window.start), microseconds(window.end)
        return self._window[0]

    def window(self, at_us: int) -> Window:
        """Return the window in force at ``at_us``."""
        if self.rolling_us:
            return Window(instant(at_us - self.rolling_us), instant(at_us))
        start = self.pot_at(at_us)
        return Window(instant(start), instant(self._window[1]))

    def counts(self, start: int, at_us: int) -> bool:
        """Tell whether the pot of ``start`` is charged to the window in force at ``at_us``."""
        if self.rolling_us:
            return start + self.part_us + self.rolling_us > at_us
        return start == self.pot_at(at_us)


class Ledger:
    """The state; for one thread at a time."""

    def __init__(self) -> None:
        self.clock_us = 0
        self.terms: dict[str, Terms] = {}
        self.pots: dict[Key, dict[int, Pot]] = {}
        self.reservations: dict[str, Reservation] = {}
        self.done: dict[str, int] = {}
        """The last of which nothing more is expected, and since when: a store that is rebuilt tells of them again."""
        self.repriced: dict[str, None] = {}
        """The ids of the repricings that are counted."""
        self.forgotten_us = 0
        """Of calls that began before, the reservation may have been settled and forgotten."""

    # Deciding

    def now(self, at_us: int) -> int:
        """Return the instant to act at: never before the last one, unless the clock had been wrong."""
        return self.clock_us if 0 < self.clock_us - at_us <= SET_BACK_US_MAX else at_us

    def admit(self, demand: Demand, at_us: int) -> Event | Refusal:
        """Return the event that holds ``demand`` in all budgets that cover it, or why it is refused."""
        at_us = self.now(at_us)
        places: list[Any] = []
        refusals: list[Refusal] = []
        for name, terms in self._covering(demand.dimensions):
            group = terms.budget.group_of(demand.dimensions)
            refusal = self._refusal(terms, group, demand, at_us)
            if refusal is not None:
                refusals.append(refusal)
            places.append([name, list(group), terms.pot_at(at_us)])
        if refusals:
            return min(refusals, key=_urgency)
        worst = [demand.amount(unit) or ZERO for unit in UNITS]
        return {
            "event": "held", "id": demand.id, "at": at_us, "worst": [str(amount) for amount in worst],
            "places": places, "dimensions": dict(demand.dimensions), "lease_s": demand.lease_s,
            "slice": demand.is_slice,
        }  # fmt: skip

    def standing(self, name: str, group: tuple[str, ...], at_us: int) -> Standing:
        """Return how ``group`` of the budget ``name`` stands."""
        terms, at_us = self.terms[name], self.now(at_us)
        spent, reserved, refused = ZERO, ZERO, 0
        for start, pot in self.pots.get((name, group), {}).items():
            if terms.counts(start, at_us):
                spent += pot.spent + pot.external
                reserved += pot.reserved
                refused += pot.refused
        return Standing(
            budget=terms.budget, group=group, window=terms.window(at_us), spent=spent, reserved=reserved,
            refused=refused,
        )  # fmt: skip

    def room(self, name: str, group: tuple[str, ...], at_us: int) -> Decimal:
        """Return what ``group`` of the budget ``name`` has left: the room of its `standing`, and nothing else of it."""
        terms, at_us = self.terms[name], self.now(at_us)
        left = terms.limit
        for start, pot in self.pots.get((name, group), {}).items():
            if terms.counts(start, at_us):
                left -= pot.spent + pot.external + pot.reserved
        return left

    def groups(self, name: str) -> list[tuple[str, ...]]:
        """Return the groups of the budget ``name`` that have been seen."""
        return [group for budget, group in self.pots if budget == name]

    def _covering(self, dimensions: Mapping[str, str]) -> Iterator[tuple[str, Terms]]:
        for name, terms in self.terms.items():
            if terms.budget.enforces and terms.budget.covers(dimensions):
                yield name, terms

    def _refusal(self, terms: Terms, group: tuple[str, ...], demand: Demand, at_us: int) -> Refusal | None:
        budget = terms.budget
        if budget.downgrade_to is not None and budget.downgrade_to == demand.dimensions.get("model"):
            return None  # that is where calls go when the limit is reached
        needed = demand.amount(UNITS[terms.unit])
        if needed is not None and needed <= self.room(budget.name, group, at_us):
            return None
        standing = self.standing(budget.name, group, at_us)
        if needed is None:
            is_unpriced = budget.unit == "usd" and demand.why_unbounded is None
            policy = budget.on_unpriced if is_unpriced else budget.on_unbounded
            if policy == "alert":
                return None
            reason = "unpriced" if is_unpriced else "unbounded"
            return Refusal(standing=standing, reason=reason, needed=None, resets_at=None, may_fit_sooner=False)
        return Refusal(
            standing=standing, reason="limit", needed=needed,
            resets_at=self._resets_at(terms, standing, needed, at_us),
            may_fit_sooner=standing.spent + needed <= budget.limit,
        )  # fmt: skip

    def _resets_at(self, terms: Terms, standing: Standing, needed: Decimal, at_us: int) -> datetime | None:
        if needed > terms.budget.limit:
            return None
        if not terms.rolling_us:
            return standing.window.end
        left = standing.spent + standing.reserved
        for start, pot in sorted(self.pots[terms.budget.name, standing.group].items()):
            if terms.counts(start, at_us):
                left -= pot.spent + pot.external + pot.reserved
                if left + needed <= terms.budget.limit:
                    return instant(start + terms.part_us + terms.rolling_us)
        return None

    # Changing

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take an event; one that was taken before changes nothing, one of a newer tallystick is passed over."""
        take = getattr(self, f"_take_{event['event']}", None)
        if take is not None:
            take(event)

    def _take_define(self, event: Mapping[str, Any]) -> None:
        budget = budget_of(event["budget"])
        known = self.terms.get(budget.name)
        self._tick(event["at"])
        if known is not None and all(getattr(known.budget, key) == getattr(budget, key) for key in SHAPE):
            self.terms[budget.name] = Terms(budget, event["source"], known.since_us)
            return
        self._clear(budget.name)
        terms = self.terms[budget.name] = Terms(budget, event["source"], event["at"])
        if budget.enforces:
            for reservation in self.reservations.values():
                if reservation.state != SETTLED and budget.covers(reservation.dimensions):
                    self._place(reservation, terms)

    def _take_drop(self, event: Mapping[str, Any]) -> None:
        self._clear(event["name"])
        self.terms.pop(event["name"], None)

    def _take_held(self, event: Mapping[str, Any]) -> None:
        self._tick(event["at"])
        if event["id"] in self.reservations:
            return
        reservation = Reservation(
            id=event["id"], at_us=event["at"], worst=_amounts(event["worst"]),
            places=_places(event["places"]),
            dimensions=event["dimensions"], lease_s=event["lease_s"], is_slice=event["slice"], touched_us=event["at"],
        )  # fmt: skip
        self.reservations[reservation.id] = reservation
        self._count(reservation, 1)

    def _take_settled(self, event: Mapping[str, Any]) -> None:
        for settlement in event["settlements"]:
            reservation = self.reservations.get(settlement["id"])
            if reservation is not None and reservation.state != SETTLED:
                self._settle(reservation, settlement)

    def _settle(self, reservation: Reservation, settlement: Mapping[str, Any]) -> None:
        """Charge what is told; what is not known is charged at the worst case."""
        told = [settlement.get(unit) for unit in UNITS]
        charge = tuple(
            worst if value is None else max(Decimal(value), ZERO)
            for value, worst in zip(told, reservation.worst, strict=True)
        )
        if settlement.get("final", True):
            self._change(reservation, SETTLED, charge)
        else:  # messages may overtake each other; what is spent of a slice only grows
            self._change(reservation, reservation.state, tuple(map(max, charge, reservation.charge)))

    def _take_expired(self, event: Mapping[str, Any]) -> None:
        for reservation_id in event["ids"]:
            reservation = self.reservations.get(reservation_id)
            if reservation is not None and reservation.state == OPEN:
                self._change(reservation, EXPIRED, reservation.charge)

    def _take_renewed(self, event: Mapping[str, Any]) -> None:
        # Its worst case is still charged, so holding it again takes no room that another could have got.
        for reservation_id in event["ids"]:
            reservation = self.reservations.get(reservation_id)
            if reservation is not None and reservation.state == EXPIRED:
                self._change(reservation, OPEN, reservation.charge)

    def _take_undone(self, event: Mapping[str, Any]) -> None:
        """A holding could not be written down, so the call was not admitted."""
        reservation = self.reservations.pop(event["id"], None)
        if reservation is not None:
            self._count(reservation, -1)

    def _take_observed(self, event: Mapping[str, Any]) -> None:
        for call in event["calls"]:
            self._observe(call)

    def _observe(self, call: Mapping[str, Any]) -> None:
        """Take the cost of a stored call that names its reservation.

        One that is the whole story (``certain``) replaces what was charged; another one, such as a call of which an
        attempt was lost, or whose answer was cut, may only raise it.
        """
        if call["id"] in self.done:
            return
        reservation = self.reservations.get(call["id"])
        known = tuple(None if call.get(unit) is None else max(Decimal(call[unit]), ZERO) for unit in UNITS)
        if reservation is None:
            if call["at"] > self.forgotten_us:
                self._charge_late(call, known)
            return
        if reservation.is_slice:  # it is settled by its holder, in sums
            return
        if call["certain"]:
            was_settled = reservation.state == SETTLED
            charge = tuple(was if value is None else value for value, was in zip(known, reservation.worst, strict=True))
            self._change(reservation, SETTLED, charge)
            if was_settled:
                self._finish(reservation.id)
        elif reservation.state == SETTLED:
            raised = (
                was if value is None else max(value, was) for value, was in zip(known, reservation.charge, strict=True)
            )
            self._change(reservation, SETTLED, tuple(raised))
            self._finish(reservation.id)

    def _finish(self, reservation_id: str) -> None:
        self.reservations.pop(reservation_id, None)
        self.done[reservation_id] = self.clock_us

    def _charge_late(self, call: Mapping[str, Any], known: Sequence[Decimal | None]) -> None:
        """Charge a call whose asking never arrived here; it went on because its budget fails open."""
        for name, terms in self._covering(call["dimensions"]):
            key = name, terms.budget.group_of(call["dimensions"])
            self._pot(key, terms.pot_at(call["at"])).spent += known[terms.unit] or ZERO
        self._finish(call["id"])

    def _take_repriced(self, event: Mapping[str, Any]) -> None:
        """Calls that had been settled cost more, or less, by other prices."""
        if event["id"] in self.repriced:
            return
        self.repriced[event["id"]] = None
        for name, group, at_us, difference in event["changes"]:
            if name in self.terms:
                self._pot((name, tuple(group)), self.terms[name].pot_at(at_us)).spent += Decimal(difference)

    def _take_turned_away(self, event: Mapping[str, Any]) -> None:
        self._tick(event["at"])
        name = event["budget"]
        if name in self.terms:
            start = self.terms[name].pot_at(event["at"])
            self._pot((name, tuple(event["group"])), start).refused += 1

    def _tick(self, at_us: int) -> None:
        self.clock_us = self.now(at_us)

    def _change(self, reservation: Reservation, state: str, charge: Amounts) -> None:
        self._count(reservation, -1)
        reservation.state, reservation.charge, reservation.touched_us = state, charge, self.clock_us
        if state == SETTLED:
            reservation.dimensions = {}
        self._count(reservation, 1)

    def _count(self, reservation: Reservation, sign: int) -> None:
        for key, start in reservation.places:
            terms = self.terms.get(key[0])
            if terms is not None:
                spent, reserved = reservation.parts(terms.unit)
                pot = self._pot(key, start)
                pot.spent += sign * spent
                pot.reserved += sign * reserved

    def _place(self, reservation: Reservation, terms: Terms) -> None:
        """Have a call in flight count in a budget that is newer than it."""
        self._count(reservation, -1)
        key = terms.budget.name, terms.budget.group_of(reservation.dimensions)
        reservation.places = (*reservation.places, (key, terms.pot_at(reservation.at_us)))
        self._count(reservation, 1)

    def _pot(self, key: Key, start: int) -> Pot:
        pots = self.pots.setdefault(key, {})
        if start not in pots:
            pots[start] = Pot()
        return pots[start]

    def _clear(self, name: str) -> None:
        """Forget all that was charged to the budget ``name``."""
        for key in [key for key in self.pots if key[0] == name]:
            del self.pots[key]
        for reservation in self.reservations.values():
            reservation.places = tuple(place for place in reservation.places if place[0][0] != name)

    # What is known from elsewhere and is no event: it can be asked for again

    def replace_external(self, name: str, sums: Iterable[tuple[tuple[str, ...], int, Decimal]]) -> None:
        """Have only ``sums``, (group, instant, amount) each, as the spend of calls that never asked."""
        terms = self.terms[name]
        for key, pots in self.pots.items():
            if key[0] == name:
                for pot in pots.values():
                    pot.external = ZERO
        for group, at_us, amount in sums:
            self.add_external(terms, group, at_us, amount)

    def add_external(self, terms: Terms, group: tuple[str, ...], at_us: int, amount: Decimal) -> None:
        """Charge a call that never asked."""
        self._pot((terms.budget.name, group), terms.pot_at(at_us)).external += amount

    # Keeping it small

    def forget(self, settled_before_us: int, settled_max: int) -> None:
        """Drop what is settled and old; their own spans, if they come later still, change nothing any more."""
        settled = [(found.touched_us, found.id) for found in self.reservations.values() if found.state == SETTLED]
        settled = sorted([*settled, *((at_us, name) for name, at_us in self.done.items())])
        spare = len(settled) - settled_max
        for number, (touched_us, name) in enumerate(settled):
            if touched_us >= settled_before_us and number >= spare:
                break
            self.reservations.pop(name, None)
            self.done.pop(name, None)
            self.forgotten_us = max(self.forgotten_us, touched_us)

    def prune(self, reference_us: int) -> None:
        """Drop the pots of windows that are long over at ``reference_us``, and what was charged to nothing else."""
        for key in list(self.pots):
            pots, terms = self.pots[key], self.terms[key[0]]
            kept = POTS_KEPT if not terms.rolling_us else POTS_KEPT * (ROLLING_PARTS + 1)
            for start in sorted(pots)[:-kept]:
                del pots[start]
            window = terms.window(max(pots, default=0))
            lasts = (window.end - window.start) // MICROSECOND
            if max(pots, default=0) + 2 * lasts + SET_BACK_US_MAX < reference_us and not any(
                pot.reserved for pot in pots.values()
            ):
                del self.pots[key]
        for reservation in list(self.reservations.values()):
            places = tuple(place for place in reservation.places if place[1] in self.pots.get(place[0], {}))
            if reservation.state == EXPIRED and reservation.places and not places:
                del self.reservations[reservation.id]
            reservation.places = places

    # The whole state as one event

    def dump(self) -> Event:
        """Return the event that makes this ledger of an empty one."""
        return {
            "event": "state",
            "clock": self.clock_us,
            "done": dict(self.done),
            "forgotten": self.forgotten_us,
            "repriced": list(self.repriced),
            "budgets": [[as_json(terms.budget), terms.source, terms.since_us] for terms in self.terms.values()],
            "pots": [
                [name, list(group), start, str(pot.spent), str(pot.reserved), pot.refused]
                for (name, group), pots in self.pots.items()
                for start, pot in pots.items()
                if pot.spent or pot.reserved or pot.refused
            ],
            "reservations": [
                [
                    found.id, found.at_us, [str(amount) for amount in found.worst],
                    [[name, list(group), start] for (name, group), start in found.places], dict(found.dimensions),
                    found.lease_s, found.is_slice, found.state, [str(amount) for amount in found.charge],
                    found.touched_us,
                ]
                for found in self.reservations.values()
            ],
        }  # fmt: skip

    def _take_state(self, event: Mapping[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.clock_us, self.done, self.forgotten_us = event["clock"], dict(event["done"]), event["forgotten"]
        self.repriced = dict.fromkeys(event.get("repriced", ()))
        for told, source, since_us in event["budgets"]:
            budget = budget_of(told)
            self.terms[budget.name] = Terms(budget, source, since_us)
        for name, group, start, spent, reserved, refused in event["pots"]:
            pots = self.pots.setdefault((name, tuple(group)), {})
            pots[start] = Pot(Decimal(spent), Decimal(reserved), ZERO, refused)
        for key, at_us, worst, places, dimensions, *rest in event["reservations"]:
            lease_s, is_slice, state, charge, touched_us = rest
            self.reservations[key] = Reservation(
                id=key, at_us=at_us, worst=_amounts(worst), places=_places(places), dimensions=dimensions,
                lease_s=lease_s, is_slice=is_slice, state=state, charge=_amounts(charge), touched_us=touched_us,
            )  # fmt: skip


def instant(at_us: int) -> datetime:
    """Return ``at_us``, microseconds since 1970, as a time."""
    return EPOCH + at_us * MICROSECOND


def microseconds(at: datetime) -> int:
    """Return ``at`` as microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


def as_json(budget: Budget) -> dict[str, Any]:
    """Return the keys of ``budget`` as JSON has them; decimals are texts."""
    return {key.name: _jsonable(getattr(budget, key.name)) for key in fields(budget)}


def budget_of(told: Mapping[str, Any]) -> Budget:
    """Return the budget of which `as_json` made ``told``."""
    values = dict(told)
    if values["limit_usd"] is not None:
        values["limit_usd"] = Decimal(values["limit_usd"])
    values["reset_at"] = time.fromisoformat(values["reset_at"])
    values["thresholds"] = tuple(map(Decimal, values["thresholds"]))
    values["wait"] = Decimal(values["wait"])
    return Budget(**values)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def _places(told: Iterable[Sequence[Any]]) -> tuple[tuple[Key, int], ...]:
    return tuple(((name, tuple(group)), start) for name, group, start in told)


def _amounts(texts: Iterable[str]) -> Amounts:
    return tuple(Decimal(text) for text in texts)


def _urgency(refusal: Refusal) -> tuple[int, float]:
    """Order refusals, the one to tell first: a budget that offers another model, else the one that blocks longest."""
    offers = refusal.standing.budget.downgrade_to is not None and refusal.reason == "limit"
    until = float("inf") if refusal.resets_at is None else refusal.resets_at.timestamp()
    return (0 if offers else 1, -until)
