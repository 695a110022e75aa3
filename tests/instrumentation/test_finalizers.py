"""A finalizer may run inside any allocation of ours, in the thread that holds our lock: nobody waits, no sum is lost.

The garbage collector seldom meets the moment.  Here it is made: whoever takes the lock finds the collector at work.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import openai
import pytest

import tallystick
from tallystick.instrumentation import _install, _links
from tallystick.instrumentation._bank import Bank
from tallystick.instrumentation._holds import Hold, Need, Spent
from tallystick.instrumentation._jobs import owners
from tallystick.instrumentation._limits import Loops, Run
from tallystick.instrumentation._rules import Rules
from tallystick.model.budgets import Budget

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Where is my parcel?"}]}


class Collecting:
    """A lock; whenever it is taken the garbage collector runs."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.__enter__()
        gc.collect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)


class Farewell:
    """What only the garbage collector finds, and what it then does."""

    def __init__(self, last: Callable[[], object]) -> None:
        self._last = last
        self._itself = self

    def __del__(self) -> None:
        self._last()


def leave_a_stream(client: openai.OpenAI) -> None:
    """Begin to read a stream, and lose it to the garbage collector."""
    stream: Any = client.chat.completions.create(**CHAT, stream=True)
    next(iter(stream))
    stream.itself = stream


@pytest.fixture(autouse=True)
def only_when_told() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def in_time(work: Callable[[], object]) -> None:
    """Do ``work`` in a thread of its own, which may hang; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again where pytest sees it
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for itself"
    if errors:
        raise errors[0]


@contextmanager
def collected_in(holder: Any) -> Iterator[None]:
    """Have the garbage collector run whenever the lock of ``holder`` is taken."""
    was = holder._lock
    holder._lock = Collecting(was)
    try:
        yield
    finally:
        holder._lock = was


def test_a_stream_that_ends_while_its_own_call_is_locked(ledger: Any, oai: openai.OpenAI) -> None:
    def work() -> None:
        leave_a_stream(oai)
        assert _install._installed is not None
        [known] = _install._installed.tracing.flights._calls.values()
        call = known()
        assert call is not None
        with collected_in(call):
            call.write_held()

    in_time(work)

    assert ledger.call().outcome == "abandoned"


def test_a_stream_that_ends_while_the_calls_in_flight_are_locked(ledger: Any, oai: openai.OpenAI) -> None:
    def work() -> None:
        leave_a_stream(oai)
        assert _install._installed is not None
        flights = _install._installed.tracing.flights
        with collected_in(flights):
            assert not flights._look()

    in_time(work)

    assert ledger.call().outcome == "abandoned"


def test_a_stream_that_ends_while_the_next_call_of_its_thread_looks_for_links(ledger: Any, oai: openai.OpenAI) -> None:
    def work() -> None:
        leave_a_stream(oai)
        scope = _links.scope_here(asynchronous=False)
        with collected_in(scope):
            oai.chat.completions.create(**CHAT)

    in_time(work)

    assert sorted(call.outcome for call in ledger.calls()) == ["abandoned", "ok"]


def test_a_stream_that_ends_while_the_budget_of_its_run_is_locked(ledger: Any, oai: openai.OpenAI) -> None:
    asked = {**CHAT, "max_tokens": 100}
    run = tallystick.budget(usd=1, calls=9)

    def work() -> None:
        with run:
            leave_a_stream(oai)
            assert run._last is not None
            with collected_in(run._last):
                oai.chat.completions.create(**asked)

    in_time(work)

    assert sorted(call.outcome for call in ledger.calls()) == ["abandoned", "ok"]
    assert (run.reserved("usd"), run.reserved("calls"), run.spent("calls")) == (0, 0, 2)


def test_a_call_that_a_finalizer_makes_while_the_latest_requests_are_locked() -> None:
    """An app may say good-bye to a session, say, when the object that stood for it goes."""
    loops = Loops(2)

    def work() -> None:
        Farewell(lambda: loops.check("the same"))
        with collected_in(loops):
            loops.check("the same")
        loops.check("the same")

    with pytest.raises(tallystick.RequestLoopError):
        in_time(work)


def test_what_a_finalizer_learns_of_a_session_while_others_are_learned() -> None:
    def body(n: int) -> dict[str, Any]:
        return {"id": f"session {n}", "agent": {"model": f"model {n}"}}

    def work() -> None:
        Farewell(lambda: owners.learn(body(1)))
        with collected_in(owners):
            owners.learn(body(2))

    in_time(work)

    assert [owners._known[f"session {n}"]["id"] for n in (1, 2)] == ["model 1", "model 2"]


# Sums -----------------------------------------------------------------------------------------------------------------

SPENT = Spent(usd=Decimal("0.25"), tokens=10, calls=1, status="exact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Need):
    """A need at whose every asking another call ends."""

    end_another: Callable[[], object]

    def of(self, unit: str) -> Decimal | None:
        self.end_another()
        return super(Interrupted, self).of(unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedSpent(Spent):
    """What a call took, at whose every asking another call ends."""

    end_another: Callable[[], object]

    def of(self, unit: str, otherwise: Decimal | None) -> Decimal:
        self.end_another()
        return super(InterruptedSpent, self).of(unit, otherwise)


class Shop:
    """Calls of one purse: one begins, and at whatever it asks another ends."""

    def __init__(self, take: Callable[[Need, Hold], object]) -> None:
        self._take = take
        self._open: list[Hold] = []
        self.ended = 0

    def begin(self, need: Need) -> Hold:
        hold = Hold(need)
        self._take(need, hold)
        assert hold.purses, "there is room"
        return hold

    def end_another(self) -> None:
        if self._open:
            self._open.pop().settle(SPENT)
            self.ended += 1

    def work(self, calls: int = 20) -> Hold:
        """Begin ``calls`` calls; then one whose beginning and end others interrupt, and one that is left."""
        plain = Need(usd=Decimal(1), tokens=100)
        self._open = [self.begin(plain) for _ in range(calls)]
        interrupted = Interrupted(usd=Decimal(1), tokens=100, end_another=self.end_another)
        spent = InterruptedSpent(usd=SPENT.usd, tokens=10, calls=1, status="exact", end_another=self.end_another)
        self.begin(interrupted).settle(spent)
        assert self.ended >= 3, "in its beginning, and twice in its end"
        while self._open:
            self.end_another()
        self.ended += 1
        return self.begin(plain)


def bank_with_a_slice(folder: Path) -> tuple[Bank, Callable[[Need, Hold], object]]:
    rule = Budget(name="all", limit_usd=Decimal(100), action="block", fail="open")
    bank = Bank("http://127.0.0.1:9", folder, Rules(budgets=(rule,)))
    key = (("all", ""),)
    bank._open("slice", [rule], key, Need(usd=Decimal(1), tokens=100), 90, {})
    return bank, lambda need, hold: bank.take([rule], key, need, hold)


def test_a_call_that_ends_while_the_slices_of_the_process_are_locked(tmp_path: Path) -> None:
    bank, take = bank_with_a_slice(tmp_path)
    [piece] = bank._slices.values()

    def work() -> None:
        first = Shop(take).begin(Need(usd=Decimal(1), tokens=100))
        Farewell(lambda: first.settle(SPENT))
        with collected_in(bank):
            Shop(take).begin(Need(usd=Decimal(1), tokens=100))

    in_time(work)

    assert (piece.in_flight, piece.spent["usd"], piece.reserved["usd"]) == (1, Decimal("0.25"), 1)


def test_calls_that_end_inside_another_ones_sums_leave_the_sums_of_a_slice_right(tmp_path: Path) -> None:
    bank, take = bank_with_a_slice(tmp_path)
    [piece] = bank._slices.values()
    shop = Shop(take)
    in_time(shop.work)

    assert (piece.in_flight, piece.reserved["usd"]) == (1, 1)
    assert piece.spent["usd"] == shop.ended * Decimal("0.25")


def test_calls_that_end_inside_another_ones_sums_leave_the_sums_of_a_run_right() -> None:
    run = Run("run", {"usd": Decimal(100)}, None, clamp=False)

    def take(need: Need, hold: Hold) -> None:
        assert run.take(need) is None
        hold.purses.append(run)

    shop = Shop(take)
    in_time(shop.work)

    assert run.reserved == {"usd": 1, "tokens": 100, "calls": 1}
    assert run.spent == {"usd": shop.ended * Decimal("0.25"), "tokens": shop.ended * 10, "calls": shop.ended}
