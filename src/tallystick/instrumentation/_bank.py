"""The dealings of a process with the ledger of budgets: what may be spent, what is held, what an account is owed of.

A call is admitted by a reservation at the collector, or without a round trip inside a *slice*, a small part of the
budget that the process holds.  One thread of the process reads the rules, tells what calls took, renews what lives and
gives back slices that nobody uses.  The thread starts with the first call, and again in a forked child, which owes
nothing for its parent.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._holds import ZERO, Hold, Need, Slice, Spent, text
from tallystick.instrumentation._line import Line, Unreachable
from tallystick.instrumentation._rules import RULES_BYTES_MAX, Copy, Key, Rules, key_of, read_rules
from tallystick.model.budgets import Budget

log = logging.getLogger("tallystick.budget")

ANSWER_S = 0.5
"""How long a call waits for the answer of a collector that has answered so far: the machine may be busy."""
SILENT_S = 0.045
"""As ANSWER_S, once it has failed to answer, until it answers again: then a refusal takes less than 50 ms."""
PATIENT_S_MAX = 2.0
"""As ANSWER_S, of a call that may wait: asking a busy collector again and again would only keep it busier."""
PROBE_S = 0.25
"""How soon a collector that has failed to answer is asked again in the background."""
FIRST_S = 0.045
"""How long the first call of a process waits for the rules."""
FIRST_THERE_S = 2.0
"""As FIRST_S, of a process that knows no rules at all, where somebody has taken the connection and thinks."""
RULES_S = 10.0
"""How long the background waits for the first rules of a process."""
KEEPER_S = 2.0
"""How long the background waits for an answer."""
EXIT_S = 0.2
REFRESH_S = 10.0
REFRESH_SILENT_S = 1.0
"""As REFRESH_S, while no collector answers."""
REFRESH_ELSE_S = 60.0
"""As REFRESH_S, where an OTLP receiver answers that knows no budgets."""
GATHER_S = 0.01
TURN_S = 1.0
"""How often the thread looks after what is held; a collector that is gone is noticed as soon."""
CONTACT_S = 3.0
"""Without a word of the collector for so long, a slice of a budget that fails closed is not spent from."""
SLICE_IDLE_S = 2.0
SLICE_PART = 50
"""A slice is at most this part of what is left: with sixteen processes a third of it."""
SLICE_CALLS_MAX = 64
ROOM_S = 5.0
"""How long it is believed what was left."""
BATCH_MAX = 256
QUEUE_MAX = 100_000
RELEASE_AGAIN_S = 5.0
"""A release may overtake the reservation that it is of, so it is told twice."""
NO_BUDGETS = frozenset({404, 405, 501})

Work = Callable[[], Any]
Steps = Generator[Work | float, Any, Any]
"""Yields what must be waited for: a function to run, or seconds to sleep; so one way serves threads and asyncio."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The ledger has no room for a call."""

    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Silence:
    """The ledger could not be asked."""

    reason: str
    held_id: str = ""
    """What it may hold all the same, if it heard the question."""
    was_sent: bool = True
    """False when it cannot have heard the question."""
    is_final: bool = False
    """True when it heard the question and finds no sense in it."""


@dataclass(slots=True)
class _Live:
    """A reservation of one call that is under way."""

    renew_at_s: float


class Bank:
    """What a process knows, holds and owes; safe for threads."""

    def __init__(self, url: str, folder: Path, of_file: Rules) -> None:
        self.url = url
        self._line = Line(url)
        self._copy = Copy(folder, url)
        self.rules = _merged(self._copy.read(), of_file)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._first = threading.Event()
        self._woken = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._slices: dict[Key, Slice] = {}
        self._leaving: list[Slice] = []
        self._asking: set[Key] = set()
        self._room: dict[Key, tuple[float, dict[str, Any]]] = {}
        self._live: dict[str, _Live] = {}
        self._telling = threading.Lock()
        """Held while an account is under way to the collector."""
        self._owed: deque[dict[str, Any]] = deque(maxlen=QUEUE_MAX)
        self._later: deque[tuple[float, dict[str, Any]]] = deque(maxlen=QUEUE_MAX)
        self._refresh_at_s = 0.0
        self._heard_at_s = float("-inf")
        self._is_silent = False
        self._is_there = False

    # --- what the call path asks ----------------------------------------------------

    def may_refuse(self) -> bool:
        """Tell whether a call must be looked at: there are budgets that enforce, or it is not known yet."""
        return bool(self.rules.budgets) or self._pid != os.getpid() or not self._first.is_set()

    def has_met(self) -> bool:
        """Tell whether this process has waited for the rules already."""
        return self._pid == os.getpid() and self._first.is_set()

    def meet(self) -> Steps:
        """Wait for the rules, before the first call of a process; not for long, and once."""
        if self._pid != os.getpid():
            self._reset()
        if not self._first.is_set():
            self._start()
            yield partial(self._first.wait, FIRST_S)
            if self._is_there and not self.rules.budgets:
                yield partial(self._first.wait, FIRST_THERE_S)
            self._first.set()

    def take(self, rules: Sequence[Budget], key: Key, need: Need, hold: Hold) -> bool:
        """Set aside what a call needs from a slice of this process, if there is one and it has room."""
        with self._lock:
            piece = self._slices.get(key)
            if piece is None or not self._is_usable(piece, rules) or not piece.take(need):
                return False
        hold.id = piece.id
        hold.purses.append(_Of(self, piece, self._pid))
        return True

    def _is_usable(self, piece: Slice, rules: Sequence[Budget]) -> bool:
        if piece.resets_at_s is not None and time.time() >= piece.resets_at_s:
            return False
        if piece.version != self.rules.version:
            return False
        gone = self._is_silent or time.monotonic() - self._heard_at_s > CONTACT_S
        return not gone or all(rule.fail != "closed" for rule in rules)

    def reserve(
        self, rules: Sequence[Budget], dimensions: Mapping[str, str], need: Need, hold: Hold, patience_s: float = 0.0
    ) -> Steps:
        """Set aside what a call needs at the ledger; ends with None when it is held, else a Refusal or a Silence.

        ``patience_s`` is how long the call may wait for a collector that does not answer.
        """
        key = key_of(rules, dimensions)
        if self.take(rules, key, need, hold):
            return None
        times = self._slice_calls(rules, key, need)
        if times > 1:
            answer = yield from self._ask(rules, key, dimensions, need, times, patience_s=patience_s)
            self._asking.discard(key)
            if answer is None and self.take(rules, key, need, hold):
                return None
            if isinstance(answer, Silence):
                return answer
        has_news = self._has_news(key)
        answer = yield from self._ask(rules, key, dimensions, need, 1, hold, patience_s=patience_s, asks_again=has_news)
        if isinstance(answer, Refusal) and has_news:
            self._give_up(key)
            yield partial(self._settle_owed, ANSWER_S)  # what this process holds for nobody may be just what is missing
            answer = yield from self._ask(rules, key, dimensions, need, 1, hold, patience_s=patience_s)
        return answer

    def wait(
        self, rules: Sequence[Budget], dimensions: Mapping[str, str], need: Need, hold: Hold, wait_s: float
    ) -> Steps:
        """As `reserve`, but the ledger waits for room for as long as ``wait_s``."""
        key = key_of(rules, dimensions)
        if self.take(rules, key, need, hold):
            return None
        return (yield from self._ask(rules, key, dimensions, need, 1, hold, wait_s=wait_s))

    def _slice_calls(self, rules: Sequence[Budget], key: Key, need: Need) -> int:
        """Return for how many calls like this one a slice is worth asking for; 1 is for none."""
        if key in self._asking:
            return 1
        until_s, room = self._room.get(key, (0.0, {}))
        known = room if time.monotonic() < until_s else {}
        times = SLICE_CALLS_MAX
        for budget in rules:
            wanted, left = need.of(budget.unit), known.get(budget.unit, budget.limit)
            if wanted is None or left is None:
                return 1
            if wanted:
                times = min(times, int(Decimal(str(left)) / SLICE_PART / wanted))
        if times > 1:
            self._asking.add(key)
        return times

    def _ask(
        self,
        rules: Sequence[Budget],
        key: Key,
        dimensions: Mapping[str, str],
        need: Need,
        times: int,
        hold: Hold | None = None,
        *,
        wait_s: float = 0.0,
        patience_s: float = 0.0,
        asks_again: bool = False,
    ) -> Steps:
        """Ask for a reservation, of a slice when there is no ``hold``; ends with None when it is held.

        ``asks_again``: a refusal is not the call's last word, and is counted nowhere; nor is that of a slice.
        """
        held_id = secrets.token_hex(16)
        body = {
            "id": held_id,
            "dimensions": dimensions,
            "usd": None if need.usd is None else text(need.usd * times),
            "why_unbounded": need.why,
            "tokens": None if need.tokens is None else need.tokens * times,
            "calls": need.calls * times,
            "lease_s": self.rules.lease_s,
            "wait_s": wait_s,
            "slice": hold is None,
            "asks_again": asks_again or hold is None,
        }
        try:
            patience_s = max(SILENT_S if self._is_silent else ANSWER_S, min(patience_s, PATIENT_S_MAX))
            answer = yield partial(self._post, "/api/v1/reservations", body, patience_s + wait_s)
        except BaseException:  # cancelled while it waited: whatever is held for it is nobody's
            self._asking.discard(key)
            self.release(held_id)
            raise
        if isinstance(answer, Silence):
            silence = replace(answer, held_id=held_id)
            if hold is None:
                self.forgo(silence)
            return silence
        status, told = answer
        self._learn_room(key, told)
        if status == 409:
            return Refusal(told)
        if hold is None:
            self._open(held_id, rules, key, need, times, told)
        elif told.get("budgets") != []:
            self._live[held_id] = _Live(time.monotonic() + self.rules.lease_s / 3)
            self.owes(held_id, hold)
        return None

    def owes(self, held_id: str, hold: Hold) -> None:
        """Have what is held under ``held_id`` settled when the call has ended."""
        hold.id, hold.settles = held_id, partial(self._settled, self._pid)

    def _learn_room(self, key: Key, told: Mapping[str, Any]) -> None:
        """Remember what is left, for a while: others spend, too."""
        room = told.get("room")
        if room is not None:
            left = dict(room) if isinstance(room, Mapping) else {str(told.get("unit")): room}
            self._room[key] = (time.monotonic() + ROOM_S, left)

    def _open(
        self, held_id: str, rules: Sequence[Budget], key: Key, need: Need, times: int, told: Mapping[str, Any]
    ) -> None:
        units = frozenset(rule.unit for rule in rules)
        piece = Slice(
            id=held_id,
            key=key,
            units=units,
            held={unit: (need.of(unit) or ZERO) * times for unit in units},
            version=self.rules.version,
            resets_at_s=_epoch(told.get("ends_at")),
            spent=dict.fromkeys(units, ZERO),
            reserved=dict.fromkeys(units, ZERO),
            used_at_s=time.monotonic(),
        )
        with self._lock:
            if (old := self._slices.get(key)) is not None:
                self._leaving.append(old)
            self._slices[key] = piece
        self._live[held_id] = _Live(time.monotonic() + self.rules.lease_s / 3)
        self._woken.set()

    def _has_news(self, key: Key) -> bool:
        """Tell whether this process has what the ledger may have back: then a refusal is not the last word."""
        with self._lock:
            return bool(self._owed or self._idle(key)) or self._telling.locked()

    def _give_up(self, key: Key) -> None:
        """Give back the slices that draw on the same money as ``key`` and that no call uses."""
        with self._lock:
            for piece in self._idle(key):
                self._close(piece)

    def _idle(self, key: Key) -> list[Slice]:
        names = {name for name, _ in key}
        pieces = [*self._slices.values(), *self._leaving]
        return [piece for piece in pieces if not piece.in_flight and names & {name for name, _ in piece.key}]

    def _close(self, piece: Slice) -> None:
        """Owe the last account of a slice; the lock is held."""
        if self._slices.get(piece.key) is piece:
            del self._slices[piece.key]
        elif piece in self._leaving:
            self._leaving.remove(piece)
        self._live.pop(piece.id, None)
        self._owed.append(piece.settlement(final=True))

    def give_back(self, piece: Slice, pid: int, need: Need, spent: Spent) -> None:
        """Put back into a slice what was set aside for a call, but for what it took."""
        if pid != os.getpid():
            return  # forked since: the parent's
        with self._lock:
            piece.put_back(need, spent)
            if not piece.in_flight and piece in self._leaving:
                self._close(piece)
                self._woken.set()

    def _settled(self, pid: int, held_id: str, spent: Spent) -> None:
        if pid != os.getpid():
            return
        self._live.pop(held_id, None)
        self._owe(held_id, spent)

    def _owe(self, held_id: str, spent: Spent) -> None:
        self._owed.append({
            "id": held_id,
            "usd": None if spent.usd is None else text(spent.usd),
            "tokens": spent.tokens,
            "calls": spent.calls,
            "status": spent.status,
            "final": True,
        })  # fmt: skip
        self._woken.set()

    def forgo(self, silence: Silence) -> None:
        """Give back what may be held for a call that did not wait for the answer."""
        if silence.was_sent:
            self.release(silence.held_id)

    def release(self, held_id: str) -> None:
        """Give back what may be held for a call that was never sent."""
        entry = {"id": held_id, "usd": "0", "tokens": 0, "calls": 0, "status": "exact", "final": True}
        self._owed.append(entry)
        self._later.append((time.monotonic() + RELEASE_AGAIN_S, entry))
        self._woken.set()

    def _post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> tuple[int, dict[str, Any]] | Silence:
        """Return what the collector answered to a question of ours: 200 or 409; anything else says nothing."""
        try:
            status, told = self._line.ask("POST", path, body, timeout_s)
        except Unreachable as error:
            self._fell_silent()
            return Silence(str(error), was_sent=error.was_sent)
        if status not in {200, 409}:
            detail = (told.get("error") or {}).get("message") if isinstance(told.get("error"), dict) else None
            reason = f"it answered {status}" + (f": {detail}" if detail else "")
            return Silence(reason, is_final=status == 400)
        self._is_silent, self._heard_at_s = False, time.monotonic()
        if told.get("version", self.rules.version) != self.rules.version:
            self._refresh_at_s = 0.0
            self._woken.set()
        return status, told

    def _fell_silent(self) -> None:
        self._is_silent = True
        self._refresh_at_s = min(self._refresh_at_s, time.monotonic() + PROBE_S)
        self._woken.set()

    # --- the thread -------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="tallystick-budget", daemon=True)
        with guard("the start of the budgets' thread"):
            self._thread.start()

    def _run(self) -> None:
        woken = self._woken
        while not self._stopped:
            with guard("the keeping of budgets"):
                self._turn()
            busy = self._slices or self._live or self._leaving or self._owed or self._later
            idle_s = max(self._refresh_at_s - time.monotonic(), 0.05)
            if woken.wait(min(idle_s, TURN_S) if busy else idle_s):
                time.sleep(GATHER_S)
                woken.clear()

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._refresh_at_s:
            self._refresh()
            self._first.set()
        while self._later and self._later[0][0] <= now:
            self._owed.append(self._later.popleft()[1])
        self._look_after_slices(now)
        if self._settle_owed(KEEPER_S):
            self._renew(now)

    def _refresh(self) -> None:
        self._refresh_at_s = time.monotonic() + REFRESH_S
        try:
            if not self._is_there:
                self._line.open(KEEPER_S)
                self._is_there = True
            # Until the rules are known calls pass unguarded, so a collector that is only slow is given its time.
            patience_s = KEEPER_S if self._heard_at_s > 0 else RULES_S
            status, told = self._line.ask("GET", "/api/v1/guard", None, patience_s, RULES_BYTES_MAX)
        except Unreachable as error:
            self._is_silent = True
            self._refresh_at_s = time.monotonic() + REFRESH_SILENT_S
            log.debug("the collector at %s does not tell its budgets: %s", self.url, error)
            return
        if status in NO_BUDGETS:
            self._refresh_at_s = time.monotonic() + REFRESH_ELSE_S
            return
        if status != 200 or "budgets" not in told:
            return
        self._is_silent, self._heard_at_s = False, time.monotonic()
        rules = read_rules(told)
        if rules != self.rules:
            self._copy.write(told)
        self.rules = rules

    def _look_after_slices(self, now: float) -> None:
        """Give back what nobody uses, and tell what was spent of the rest: that it is heard is how we know."""
        with self._lock:
            for piece in [*self._slices.values(), *self._leaving]:
                late = piece.resets_at_s is not None and time.time() >= piece.resets_at_s
                old = piece.version != self.rules.version
                idle = now - piece.used_at_s > SLICE_IDLE_S
                if not piece.in_flight and (late or old or idle or piece in self._leaving):
                    self._close(piece)
                elif (not piece.told) or now - self._heard_at_s > TURN_S:
                    piece.told = True
                    self._owed.append(piece.settlement(final=False))

    def _settle_owed(self, timeout_s: float) -> bool:
        """Tell what was taken; True when nothing is left to tell, and nobody else is about to."""
        until = time.monotonic() + timeout_s
        if not self._telling.acquire(timeout=timeout_s):
            return False
        try:
            return self._told_all(until)
        finally:
            self._telling.release()

    def _told_all(self, until: float) -> bool:
        while self._owed:
            batch: list[dict[str, Any]] = []
            while self._owed and len(batch) < BATCH_MAX:
                batch.append(self._owed.popleft())
            answer = self._post(
                "/api/v1/reservations/settle", {"settlements": batch}, max(until - time.monotonic(), 0.001)
            )
            if isinstance(answer, Silence) and answer.is_final:
                log.warning("the collector takes no account of %d calls: %s", len(batch), answer.reason)
            elif isinstance(answer, Silence):
                self._owed.extendleft(reversed(batch))
                return False
        return True

    def _renew(self, now: float) -> None:
        due = [held_id for held_id, live in list(self._live.items()) if now >= live.renew_at_s]
        for start in range(0, len(due), BATCH_MAX):
            ids = due[start : start + BATCH_MAX]
            body = {"ids": ids, "lease_s": self.rules.lease_s}
            if isinstance(self._post("/api/v1/reservations/renew", body, KEEPER_S), Silence):
                return
            for held_id in ids:
                if (live := self._live.get(held_id)) is not None:
                    live.renew_at_s = now + self.rules.lease_s / 3

    def leave(self) -> None:
        """Give everything back when the process ends, within `EXIT_S`; what is still under way counts in full."""
        if self._pid != os.getpid():
            return
        self._stopped = True
        self._woken.set()
        with self._lock:
            for piece in [*self._slices.values(), *self._leaving]:
                self._close(piece)
        for held_id in list(self._live):
            self._live.pop(held_id, None)
            self._owe(held_id, Spent(usd=None, tokens=None, calls=1, status="unknown"))
        self._owed.extend(entry for _, entry in self._later)
        self._later.clear()
        if not self._is_silent:
            self._settle_owed(EXIT_S)
        self._line.close()


@dataclass(frozen=True, slots=True)
class _Of:
    """A slice as the purse of a call."""

    bank: Bank
    piece: Slice
    pid: int

    def give_back(self, need: Need, spent: Spent) -> None:
        self.bank.give_back(self.piece, self.pid, need, spent)


def _merged(copy: Rules | None, of_file: Rules) -> Rules:
    """Return what holds until the collector is heard: its last word, and what stands in a file beside it."""
    if copy is None:
        return of_file
    named = {budget.name for budget in copy.budgets}
    more = tuple(budget for budget in of_file.budgets if budget.name not in named)
    return Rules(copy.version, copy.lease_s, (*copy.budgets, *more)) if more else copy


def _epoch(at: object) -> float | None:
    if not isinstance(at, str):
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
