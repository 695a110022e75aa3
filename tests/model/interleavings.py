"""Walks through every interleaving of a few workers and one budget, with our own ledger in the middle.

    make interleavings        # prints a table: the rule as it is, and three ways to break it

Three workers make two calls each.  A call asks, is sent (which the provider bills, a little or the worst case), and is
settled.  At any point the answer to an asking may be lost, with the holding written down or not; a worker may die; a
lease may run out, also of a worker that lives and sends later; one settlement arrives once more, at any time after
the first; the span of a dead worker's call may arrive; the collector may be killed and begin again from what it wrote
down.  The provider's bill is the judge.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from tallystick.model.budgets import Budget
from tallystick.model.ledger import NOTHING, OPEN, SETTLED, Demand, Ledger, Refusal, as_json

WORST, LIMIT, COSTS = 2, 4, (1, 2)
AT_US = 1_800_000_000_000_000
BUDGET = Budget(name="b", limit_usd=Decimal(LIMIT), action="block")


class Freeing(Ledger):
    """Broken on purpose: a lease that runs out frees what it held."""

    def _take_expired(self, event: Mapping[str, Any]) -> None:
        for name in event["ids"]:
            reservation = self.reservations[name]
            if reservation.state == OPEN:
                self._change(reservation, SETTLED, NOTHING)


class Repeating(Ledger):
    """Broken on purpose: a settlement that is told twice frees twice."""

    def _take_settled(self, event: Mapping[str, Any]) -> None:
        for told in event["settlements"]:
            reservation = self.reservations[told["id"]]
            if reservation.state == SETTLED:
                for key, start in reservation.places:
                    pot = self.pots[key][start]
                    pot.reserved -= reservation.worst[0]
                    pot.spent += Decimal(told["usd"])
        super()._take_settled(event)


class Averaging(Ledger):
    """Broken on purpose: half of the worst case is held."""

    def admit(self, demand: Demand, at_us: int) -> Any:
        return super().admit(replace(demand, usd=(demand.usd or Decimal()) / 2), at_us)


@dataclass(frozen=True, slots=True)
class Worker:
    """``phase`` of its call number ``call``; ``cost`` is what the provider billed for it."""

    call: int = 0
    phase: str = "idle"
    cost: int = 0

    def next(self) -> Worker:
        return Worker(self.call + 1)


@dataclass(frozen=True, slots=True)
class World:
    """Everything; ``ledger`` is what the collector has written down."""

    workers: tuple[Worker, ...]
    ledger: str
    billed: int = 0
    repeated: tuple[str, int] | None = None
    """The settlement that arrives once more."""
    may_repeat: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    states: int
    worst_billed: int
    undercounted: int
    """States in which the ledger charges and holds less than was billed."""

    @property
    def overshoot_percent(self) -> int:
        return max(self.worst_billed - LIMIT, 0) * 100 // LIMIT


def walk(kind: type[Ledger] = Ledger, workers: int = 3, calls: int = 2, *, to_the_end: bool = True) -> Found:
    """Visit every state that can be reached; or stop at the first in which more was billed than the limit."""
    ledger = kind()
    ledger.apply({"event": "define", "at": AT_US, "budget": as_json(BUDGET), "source": "file"})
    first = World((Worker(),) * workers, _written(ledger))
    seen, left = {first}, deque([first])
    worst, undercounted = 0, 0
    while left and (to_the_end or worst <= LIMIT):
        world = left.popleft()
        for following in _steps(world, kind, calls):
            following = _canonical(following, calls)
            if following not in seen:
                seen.add(following)
                left.append(following)
                worst = max(worst, following.billed)
                undercounted += _charged(following, kind) < following.billed
    return Found(len(seen), worst, undercounted)


def _steps(world: World, kind: type[Ledger], calls: int) -> Iterator[World]:
    for number, worker in enumerate(world.workers):
        if worker.phase == "dead":
            if worker.cost:  # what its spool held arrives at last
                yield _set(world, number, Worker(worker.call, "dead"), _told(world, kind, _span(number, worker)))
            continue
        if worker.call < calls:
            yield _set(world, number, Worker(worker.call, "dead", worker.cost))
            yield from _work(world, number, worker, kind)
    state = _read(world.ledger, kind)
    for name, reservation in state.reservations.items():
        if reservation.state == OPEN:
            yield replace(world, ledger=_told(world, kind, {"event": "expired", "ids": [name]}))
    if world.repeated is not None:
        name, cost = world.repeated
        yield replace(world, ledger=_told(world, kind, _settlement(name, cost)), repeated=None)


def _work(world: World, number: int, worker: Worker, kind: type[Ledger]) -> Iterator[World]:
    name = f"{number}.{worker.call}"
    if worker.phase in {"idle", "asked"}:
        ledger = _read(world.ledger, kind)
        if name in ledger.reservations:
            yield _set(world, number, Worker(worker.call, "held"))
        else:
            outcome = ledger.admit(Demand(id=name, dimensions={}, usd=Decimal(WORST), tokens=0), AT_US)
            if isinstance(outcome, Refusal):
                yield _set(world, number, worker.next())
            else:
                ledger.apply(outcome)
                yield _set(world, number, Worker(worker.call, "held"), _written(ledger))
                yield _set(world, number, Worker(worker.call, "asked"), _written(ledger))  # the answer is lost
        if worker.phase == "idle":  # the collector is killed before it wrote anything down
            yield _set(world, number, Worker(worker.call, "asked"))
        else:
            yield _set(world, number, worker.next())  # it gives up, and sends nothing
    elif worker.phase == "held":
        for cost in COSTS:
            yield replace(_set(world, number, Worker(worker.call, "sent", cost)), billed=world.billed + cost)
    elif worker.phase == "sent":
        settled = _set(world, number, worker.next(), _told(world, kind, _settlement(name, worker.cost)))
        yield settled
        if world.may_repeat:
            yield replace(settled, repeated=(name, worker.cost), may_repeat=False)


def _settlement(name: str, cost: int) -> dict[str, Any]:
    return {"event": "settled", "settlements": [{"id": name, "usd": str(cost), "tokens": 0, "calls": 1}]}


def _span(number: int, worker: Worker) -> dict[str, Any]:
    call = {"id": f"{number}.{worker.call}", "usd": str(worker.cost), "tokens": 0, "calls": 1, "certain": True,
            "at": AT_US, "dimensions": {}}  # fmt: skip
    return {"event": "observed", "calls": [call]}


def _set(world: World, number: int, worker: Worker, ledger: str | None = None) -> World:
    workers = (*world.workers[:number], worker, *world.workers[number + 1 :])
    return replace(world, workers=workers, ledger=ledger or world.ledger)


def _told(world: World, kind: type[Ledger], event: dict[str, Any]) -> str:
    ledger = _read(world.ledger, kind)
    ledger.apply(json.loads(json.dumps(event)))
    return _written(ledger)


def _read(text: str, kind: type[Ledger]) -> Ledger:
    """Begin again from what was written down, as a collector that was killed does: at every step."""
    ledger = kind()
    ledger.apply(json.loads(text))
    return ledger


def _written(ledger: Ledger) -> str:
    return json.dumps(ledger.dump())


def _charged(world: World, kind: type[Ledger]) -> Decimal:
    standing = _read(world.ledger, kind).standing("b", (), AT_US)
    return standing.spent + standing.reserved


def _canonical(world: World, calls: int) -> World:
    """Return ``world`` with its workers in order: which of them did what makes no difference."""
    told = json.loads(world.ledger)
    found: dict[int, list[Any]] = {number: [] for number in range(len(world.workers))}
    for reservation in told["reservations"]:
        found[int(reservation[0][0])].append([reservation[0][2:], *reservation[1:]])
    for name in told["done"]:
        found[int(name[0])].append([name[2:]])
    marks = [
        (repr(worker), repr(sorted(found[number])), repr(world.repeated) if _is_of(world.repeated, number) else "")
        for number, worker in enumerate(world.workers)
    ]
    order = sorted(range(len(marks)), key=marks.__getitem__)
    place = {str(old): str(new) for new, old in enumerate(order)}
    for reservation in told["reservations"]:
        reservation[0] = place[reservation[0][0]] + reservation[0][1:]
    told["reservations"].sort()
    told["done"] = {place[name[0]] + name[1:]: at_us for name, at_us in told["done"].items()}
    told["done"] = dict(sorted(told["done"].items()))
    repeated = world.repeated and (place[world.repeated[0][0]] + world.repeated[0][1:], world.repeated[1])
    return replace(
        world, workers=tuple(world.workers[old] for old in order), ledger=json.dumps(told), repeated=repeated
    )


def _is_of(repeated: tuple[str, int] | None, number: int) -> bool:
    return repeated is not None and repeated[0][0] == str(number)


KINDS = {
    "as it is": Ledger,
    "an expired lease is freed": Freeing,
    "a settlement counts twice": Repeating,
    "half of the worst case is held": Averaging,
}


def main() -> None:
    print(f"{'rule':32} {'states':>8} {'overshoot':>10} {'undercounted':>13} {'CPU s':>7}")
    for name, kind in KINDS.items():
        begun = time.process_time()
        found = walk(kind, to_the_end=kind is Ledger)
        took = time.process_time() - begun
        print(f"{name:32} {found.states:8,} {found.overshoot_percent:8} % {found.undercounted:13,} {took:7.1f}")


if __name__ == "__main__":
    main()
