"""Keeps the budgets' ledger: its events in the journal before they are answered, the leases, and what calls cost.

The journal is the truth: the ledger is made again from its last whole state and the events behind it.  What calls cost
that never asked comes out of the store, which can be asked again at any time, so it is in no event.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tallystick.collector import query
from tallystick.collector.apply import Applier
from tallystick.collector.decode import Row
from tallystick.collector.journal import Journal, JournalFullError, Position
from tallystick.collector.packed import rows_of
from tallystick.errors import StoreError
from tallystick.model.budgets import UNITS, Budget
from tallystick.model.failures import Outcome
from tallystick.model.ledger import (
    EXPIRED,
    OPEN,
    SETTLED,
    Demand,
    Event,
    Ledger,
    Refusal,
    Standing,
    Terms,
    as_json,
    instant,
    microseconds,
)
from tallystick.model.segment import Kind, Record

log = logging.getLogger("tallystick.budgets")

TICK_S = 0.2
TIDY_S = 10.0
LEASE_S = 60
"""What apps are told to ask for."""
SETTLED_US_MAX = 3600 * 1_000_000
"""How long a settled reservation waits for the span of its call."""
SETTLED_MAX = 50_000
REFUSED_MAX = 10_000
COLUMNS = {
    "service": "service", "environment": "environment", "feature": "feature", "user": "user_id",
    "session": "session_id", "model": "model", "provider": "provider", "key": "key_id", "prompt": "prompt",
    "caller": "caller",
}  # fmt: skip


READ = (
    *COLUMNS.values(), "tags", "reservation_id", "started_at", "outcome", "attempts", "units", "unpriced_units",
    "estimated_units",
    "cost_usd", "input_tokens", "output_tokens",
)  # fmt: skip


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000


class Budgeting:
    """The ledger of the budgets in force, for any thread; see the module's text."""

    def __init__(
        self, budgets: Sequence[Budget], journal: Journal, applier: Applier, clock: Callable[[], int] = now_us
    ) -> None:
        self.journal = journal
        self.applier = applier
        self.clock = clock
        self.freed: Callable[[], None] = lambda: None
        """Called, on any thread, when there may be room that was not there before."""
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._leases: dict[str, float] = {}
        self._begun = journal.end
        self._fed = Position(0, 0)
        """How far in the journal the costs of calls were told."""
        self._external: dict[str, Position] = {}
        """Of each budget, how far the calls that never asked are counted in it."""
        self._is_stale = False
        self._tidy_at = time.monotonic() + TIDY_S
        self._refused: OrderedDict[str, None] = OrderedDict()
        """The ids of the last calls that were refused."""
        self.version = ""
        """A hash of the budgets that enforce."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tallystick-leases", daemon=True)
        self._replay()
        self._take_file(budgets)
        applier.observer = self.stored
        applier.repricer.ended = self.changed

    def start(self) -> None:
        """Begin to watch the leases."""
        self._catch_up()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    # Asking

    @property
    def is_ready(self) -> bool:
        """Tell whether all that calls had cost before the start is counted."""
        with self._lock:
            return all(terms.budget.name in self._external for terms in self._enforcing())

    def budgets(self) -> list[Budget]:
        """Return the budgets in force, those of the file first."""
        with self._lock:
            found = sorted(self._ledger.terms.values(), key=lambda terms: terms.source != "file")
            return [terms.budget for terms in found]

    def standings(self, name: str) -> list[Standing]:
        """Return how each group of the budget ``name`` stands, of those that have been seen."""
        with self._lock:
            at = self.clock()
            return [self._ledger.standing(name, group, at) for group in self._ledger.groups(name)]

    def guard(self) -> dict[str, Any]:
        """Return what an app has to know: the budgets that enforce, and a hash that changes with them."""
        with self._lock:
            told = [_told(terms.budget) for terms in self._enforcing()]
            return {"version": self.version, "lease_s": LEASE_S, "budgets": told}

    def keeps_from(self) -> int:
        """Return the first segment of the journal that a restart needs."""
        return self._state_segment

    # Admitting

    def room(self, demand: Demand, names: Iterable[str]) -> dict[str, Decimal]:
        """Return what is left by unit, in the fullest of the budgets ``names``."""
        found: dict[str, Decimal] = {}
        with self._lock:
            at = self.clock()
            for name in names:
                if (terms := self._ledger.terms.get(name)) is not None:
                    left = self._ledger.room(name, terms.budget.group_of(demand.dimensions), at)
                    unit = UNITS[terms.unit]
                    found[unit] = min(left, found.get(unit, left))
        return found

    def admit(self, demand: Demand) -> tuple[Refusal | list[str], Future[Position] | None]:
        """Hold ``demand``, at once, or say why not; it may be told when the future is done."""
        with self._lock:
            known = self._ledger.reservations.get(demand.id)
            if known is not None:  # asked again, because the answer was lost
                if known.state != SETTLED:
                    self._leases[demand.id] = time.monotonic() + demand.lease_s
                return [key[0] for key, _ in known.places], self._written
            if demand.id in self._ledger.done:
                return [], self._written
            outcome = self._ledger.admit(demand, self.clock())
            if isinstance(outcome, Refusal):
                return outcome, None
            if not outcome["places"]:
                return [], None
            self._ledger.apply(outcome)
            self._leases[demand.id] = time.monotonic() + demand.lease_s
            return [place[0] for place in outcome["places"]], self._write(outcome)

    def ends_at(self, names: Iterable[str]) -> datetime | None:
        """Return when the first of the calendar's windows in force ends, of the budgets ``names``."""
        with self._lock:
            at = self._ledger.now(self.clock())
            found = [terms for name in names if (terms := self._ledger.terms.get(name)) and not terms.rolling_us]
            return min((terms.window(at).end for terms in found), default=None)

    def undo(self, reservation_id: str) -> None:
        """Take back a holding that could not be written down."""
        with self._lock:
            self._ledger.apply({"event": "undone", "id": reservation_id})
            self._leases.pop(reservation_id, None)

    def refuse(self, demand: Demand, refusal: Refusal) -> None:
        """Write down that ``demand`` was not let through, and why; once, however often it asks again."""
        standing = refusal.standing
        with self._lock:
            if demand.id in self._refused:
                return
            self._refused[demand.id] = None
            if len(self._refused) > REFUSED_MAX:
                self._refused.popitem(last=False)
            event = {
                "event": "turned_away", "id": demand.id, "at": self._ledger.now(self.clock()),
                "budget": standing.budget.name, "group": list(standing.group),
                "group_by": list(standing.budget.group_by), "action": standing.budget.action, "reason": refusal.reason,
                "unit": standing.budget.unit, "limit": str(standing.budget.limit), "spent": str(standing.spent),
                "reserved": str(standing.reserved), "needed": None if refusal.needed is None else str(refusal.needed),
                "window": [microseconds(standing.window.start), microseconds(standing.window.end)],
                "resets_at": None if refusal.resets_at is None else microseconds(refusal.resets_at),
                "dimensions": dict(demand.dimensions),
            }  # fmt: skip
            self._ledger.apply(event)
            self._write(event)

    def renew(self, ids: Iterable[str], lease_s: int) -> list[str]:
        """Lengthen leases; return those of which nothing is known (any more)."""
        unknown: list[str] = []
        expired: list[str] = []
        with self._lock:
            for reservation_id in ids:
                known = self._ledger.reservations.get(reservation_id)
                if known is None or known.state not in {OPEN, EXPIRED}:
                    unknown.append(reservation_id)
                    continue
                if known.state == EXPIRED:
                    expired.append(reservation_id)
                known.lease_s = lease_s
                self._leases[reservation_id] = time.monotonic() + lease_s
            if expired:
                self._do({"event": "renewed", "ids": expired})
        return unknown

    def settle(self, settlements: Sequence[Mapping[str, Any]]) -> Future[Position]:
        """Charge what calls cost; it is charged at once, and for good when the future is done."""
        with self._lock:
            for settlement in settlements:
                if settlement["final"]:
                    self._leases.pop(settlement["id"], None)
            written = self._do({"event": "settled", "settlements": list(settlements)})
        self.freed()
        return written

    # What the store says

    def stored(self, calls: pa.Table, upto: Position) -> None:
        """Take the costs of ``calls``, which are in the store now; for the applier's thread."""
        with self._lock:
            if upto < self._fed:  # the store was lost, and is made again
                self._is_stale = True
            self._fed = upto
            enforcing = list(self._enforcing())
            if not enforcing:
                return
            told: list[dict[str, Any]] = []
            at = self._ledger.now(self.clock())
            for row in rows_of(calls.select(READ)):
                dimensions = _dimensions(row)
                if row["reservation_id"] is not None:
                    told.append(_observation(row, dimensions))
                for terms in enforcing:
                    if self._is_external(terms, row, upto, at) and terms.budget.covers(dimensions):
                        amount = _amount(row, terms.budget.unit)
                        self._ledger.add_external(terms, terms.budget.group_of(dimensions), row["started_at"], amount)
            if told:
                self._do({"event": "observed", "calls": told})
        self.freed()

    def changed(self) -> None:
        """Have what the store says counted again: costs that were there have changed."""
        self._is_stale = True
        self._tidy_at = 0.0

    def _is_external(self, terms: Terms, row: Row, upto: Position, at_us: int) -> bool:
        name = terms.budget.name
        if upto <= self._external.get(name, Position(0, 0)):
            return False
        start = terms.pot_at(row["started_at"])
        if start <= at_us and not terms.counts(start, at_us):
            return False  # late spans change history, not the window in force
        if row["reservation_id"] is None:
            return True
        known = self._ledger.reservations.get(row["reservation_id"])
        holds = known is not None and any(key[0] == name for key, _ in known.places)
        return not holds and row["started_at"] < terms.since_us

    def _refresh(self, terms: Terms) -> None:
        """Count the calls that never asked anew, out of the store."""
        budget = terms.budget
        start, part_us = self._counted(terms)
        told, sums = query.never_asked(self.applier.ask, budget, instant(start), instant(terms.since_us), part_us)
        position = Position(*told)
        with self._lock:
            known = self._external.get(budget.name)
            # A store that is being rebuilt knows less than what was counted; one that went on meanwhile knows more.
            if self._ledger.terms.get(budget.name) is not terms or (known is not None and position < known):
                return
            if self._fed > position:
                self._is_stale = True
                return
            self._ledger.replace_external(budget.name, ((group, at_us or start, sum_) for group, at_us, sum_ in sums))
            self._external[budget.name] = position

    def _counted(self, terms: Terms) -> tuple[int, int | None]:
        """Return from when on calls count in the window in force, and into parts of which length they go."""
        with self._lock:
            at = self._ledger.now(self.clock())
            if terms.rolling_us:
                return at - terms.rolling_us - terms.part_us, terms.part_us
            return terms.pot_at(at), None

    def _take_repricings(self) -> None:
        """Charge what was held and settled at the prices that it has now."""
        for (reprice_id,) in self.applier.ask("SELECT id FROM reprices ORDER BY rowid"):
            if reprice_id in self._ledger.repriced:
                continue
            changes: list[Any] = []
            with self._lock:
                counted = [terms for terms in self._enforcing() if terms.budget.unit == "usd"]
            for terms in counted:
                start, part_us = self._counted(terms)
                since = instant(terms.since_us)
                found = query.repriced(self.applier.ask, terms.budget, reprice_id, instant(start), since, part_us)
                changes += [[terms.budget.name, list(group), at_us or start, str(usd)] for group, at_us, usd in found]
            with self._lock:
                self._do({"event": "repriced", "id": reprice_id, "changes": changes})

    def _catch_up(self) -> None:
        if self.applier.store.applied < self._begun:
            return
        with self._lock:
            found = list(self._enforcing())
            missing = [terms for terms in found if terms.budget.name not in self._external]
        with suppress(StoreError):
            self._take_repricings()
            for terms in found if self._is_stale else missing:
                self._is_stale = False
                self._refresh(terms)

    # Changing budgets

    def define(self, budget: Budget, source: str) -> None:
        """Put ``budget`` in force, in place of one with its name; durable when it returns."""
        self._put({"event": "define", "at": self.clock(), "budget": as_json(budget), "source": source})

    def drop(self, name: str, source: str) -> None:
        """Take the budget ``name`` out of force; durable when it returns."""
        self._put({"event": "drop", "at": self.clock(), "name": name, "source": source})

    def source_of(self, name: str) -> str | None:
        """Return where the budget ``name`` comes from, ``file`` or ``api``; None when there is none."""
        with self._lock:
            terms = self._ledger.terms.get(name)
            return terms.source if terms else None

    def _put(self, event: Event) -> None:
        self._write(event).result()
        with self._lock:
            name = event["name"] if event["event"] == "drop" else event["budget"]["name"]
            before = self._ledger.terms.get(name)
            self._ledger.apply(event)
            after = self._ledger.terms.get(name)
            if before is None or after is None or before.since_us != after.since_us:
                self._external.pop(name, None)
            self._name_version()
        self._catch_up()
        self.freed()

    def _take_file(self, budgets: Sequence[Budget]) -> None:
        """Bring the ledger up to what the settings say now."""
        given = {budget.name: budget for budget in budgets}
        for name, terms in list(self._ledger.terms.items()):
            if terms.source == "file" and name not in given:
                self._do({"event": "drop", "at": self.clock(), "name": name, "source": "file"})
        for budget in budgets:
            known = self._ledger.terms.get(budget.name)
            if known is None or known.budget != budget or known.source != "file":
                if known is not None and known.source != "file":
                    log.warning("budget %r of the settings replaces one that was made by the API", budget.name)
                event = {"event": "define", "at": self.clock(), "budget": as_json(budget), "source": "file"}
                self._do(event)
        self._name_version()
        try:
            self._write_state()
        except JournalFullError as error:
            log.warning("the budgets are not in the journal yet: %s; trying again", error)

    def _name_version(self) -> None:
        told = json.dumps([_told(terms.budget) for terms in self._enforcing()], sort_keys=True)
        self.version = hashlib.sha256(told.encode()).hexdigest()[:16]

    # The journal

    def _do(self, event: Event) -> Future[Position]:
        self._ledger.apply(event)
        return self._write(event)

    def _write(self, event: Event) -> Future[Position]:
        payload = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        self._written = self.journal.append(Kind.BUDGET, payload)
        return self._written

    def _write_state(self) -> None:
        """Write all that is known; when the journal is full the next tick that finds room does."""
        number = self.journal.end.segment
        text = json.dumps(self._ledger.dump(), separators=(",", ":"), ensure_ascii=False)
        self._state_segment = 0
        self.journal.append(Kind.BUDGET, zlib.compress(text.encode(), 1)).result()
        self._state_segment = number

    def _replay(self) -> None:
        """Make the ledger of the last whole state and the events behind it."""
        events: list[Event] = []
        for number in reversed(self.journal.segments()):
            found = list(self._events_of(number))
            whole = max((index for index, event in enumerate(found) if event["event"] == "state"), default=None)
            events = (found if whole is None else found[whole:]) + events
            if whole is not None:
                break
        for event in events:
            self._ledger.apply(event)
        until = time.monotonic()
        for reservation in self._ledger.reservations.values():
            if reservation.state == OPEN:  # how long it was down is not known of a clock that can be trusted
                self._leases[reservation.id] = until + reservation.lease_s

    def _events_of(self, number: int) -> Iterable[Event]:
        at = Position(number, 0)
        while at.segment == number and at < self._begun:
            found, at = self.journal.read(at)
            for record in found:
                if isinstance(record, Record) and record.kind == Kind.BUDGET:
                    is_plain = record.payload[:1] == b"{"
                    yield json.loads(record.payload if is_plain else zlib.decompress(record.payload))

    # Watching

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self._expire()
                if not self.is_ready:
                    self._catch_up()
                if time.monotonic() > self._tidy_at:
                    self._tidy_at = time.monotonic() + TIDY_S
                    self._catch_up()
                    self._tidy()
                    self.freed()
                if self._state_segment != self.journal.end.segment and self.journal.fault is None:
                    with self._lock:
                        self._write_state()
            except (StoreError, OSError) as error:
                log.warning("the budgets' ledger cannot be kept now: %s", error)

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [reservation_id for reservation_id, until in self._leases.items() if until < now]
            for reservation_id in due:
                del self._leases[reservation_id]
            if due:
                self._do({"event": "expired", "ids": due})

    def _tidy(self) -> None:
        with self._lock:
            self._ledger.forget(self._ledger.clock_us - SETTLED_US_MAX, SETTLED_MAX)
            self._ledger.prune(self._ledger.clock_us)

    def _enforcing(self) -> Iterable[Terms]:
        return (terms for terms in self._ledger.terms.values() if terms.budget.enforces)


def _told(budget: Budget) -> dict[str, Any]:
    """Return what an app has to know of a budget."""
    told = as_json(budget)
    told["unit"], told["limit"] = budget.unit, format(budget.limit, "f")
    told["wait_s"] = float(told.pop("wait"))
    for key in ("limit_usd", "limit_tokens", "limit_calls", "thresholds"):
        del told[key]
    return told


def _dimensions(row: Row) -> dict[str, str]:
    found = {name: row[column] or "" for name, column in COLUMNS.items()}
    return found | {f"tag.{key}": value for key, value in row["tags"]}


def _amount(row: Row, unit: str) -> Any:
    if unit == "usd":
        return row["cost_usd"] or 0
    if unit == "calls":
        return 0 if row["outcome"] == Outcome.BUDGET_BLOCKED else 1
    return row["input_tokens"] + row["output_tokens"]


def _observation(row: Row, dimensions: Mapping[str, str]) -> dict[str, Any]:
    """Return what a stored call says of its reservation.

    It is the whole story when one attempt was made and every answer of it is priced by what the provider counted.
    """
    is_priced = row["units"] > 0 and not row["unpriced_units"]
    return {
        "id": row["reservation_id"], "usd": str(row["cost_usd"]) if is_priced else None,
        "tokens": row["input_tokens"] + row["output_tokens"] if row["units"] else None, "calls": 1,
        "certain": is_priced and not row["estimated_units"] and row["attempts"] <= 1,
        "at": row["started_at"], "dimensions": dimensions,
    }  # fmt: skip
