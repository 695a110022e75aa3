"""Admits calls before anything is sent: limits of one call, budgets of runs, budgets of the collector.

What must be waited for is yielded (`Steps`), so that the same decisions serve threads and event loops; a refusal is
raised to the app unchanged, from the SDK's own method, where nothing retries it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from tallystick.errors import BudgetExceededError, RequestLoopError, RequestTooLargeError, TallystickError
from tallystick.instrumentation._ask import Ask
from tallystick.instrumentation._bank import Bank, Refusal, Silence, Steps, Work
from tallystick.instrumentation._call import Call
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._holds import NOTHING, Hold
from tallystick.instrumentation._limits import Limits, Loops, Run, arithmetic, in_run, runs_here
from tallystick.instrumentation._rules import key_of
from tallystick.model.budgets import Budget
from tallystick.model.windows import Window

REFUSALS = (BudgetExceededError, RequestTooLargeError, RequestLoopError)
PAUSE_S = 0.05
"""How long a call that may wait leaves a collector alone that does not answer."""
WAIT_S = 1.0
"""How long a call waits for room at the ledger before it asks again."""


class Gate:
    """Where calls wait, are made smaller, or are refused."""

    def __init__(self, bank: Bank, limits: Limits, told: Mapping[str, str | None]) -> None:
        self.bank = bank
        self._limits = limits
        self.told = {name: value for name, value in told.items() if value}
        """What budgets can be scoped by and is the same for every call of the process."""
        self._loops = None if limits.loop_limit is None else Loops(limits.loop_limit)
        self._has_limits = bool(limits)

    def is_open(self) -> bool:
        """Tell whether every call may pass without a look at it."""
        with guard("the look at budgets"):
            return not (self._has_limits or self.bank.may_refuse() or in_run())
        return False

    def admit(self, call: Call, make: Callable[[], Ask]) -> dict[str, Any]:
        """Set aside what ``call`` can take, and return what of its request's JSON must be sent otherwise.

        Raises BudgetExceededError, RequestTooLargeError or RequestLoopError when it must not be sent.
        """
        changes: dict[str, Any] = {}
        refused: TallystickError | None = None
        with guard("the admission of a call"):
            try:
                changes = _drive(self._steps(call, make))
            except REFUSALS as error:
                refused = error
        _raise(refused)
        return changes

    async def admit_async(self, call: Call, make: Callable[[], Ask]) -> dict[str, Any]:
        """As `admit`; what takes time runs in a thread, never in the event loop."""
        changes: dict[str, Any] = {}
        refused: TallystickError | None = None
        with guard("the admission of a call"):
            try:
                changes = await _drive_async(self._steps(call, make))
            except REFUSALS as error:
                refused = error
        _raise(refused)
        return changes

    def _steps(self, call: Call, make: Callable[[], Ask]) -> Steps:
        if not call.route.billed or call.route.is_fetch:
            return {}
        if not self.bank.has_met():
            yield from self.bank.meet()
        runs = list(runs_here())
        if not (runs or self._has_limits or self.bank.rules.budgets):
            return {}
        ask = make()
        if self._has_limits:
            self._check(ask, call.digest)
        rules = self.bank.rules.covering(ask.dimensions)
        if not (runs or rules):
            return {}
        hold = Hold(ask.need)
        try:
            for run in runs:
                _enter(run, ask, hold)
            # What fits into a slice has a bound in all that the slice is of, and need not be looked at any more.
            if rules and not self.bank.take(rules, key_of(rules, ask.dimensions), ask.need, hold):
                yield from self._reserve(ask, hold)
        except BaseException:
            hold.settle(NOTHING)
            raise
        call.hold = hold
        call.note(ask.notes)
        return ask.changes

    def _check(self, ask: Ask, digest: str | None) -> None:
        self._limits.check(ask.request, ask.need, ask.output_tokens)
        if self._loops is not None and digest is not None:
            self._loops.check(digest)

    # --- budgets of the collector ---------------------------------------------------

    def _reserve(self, ask: Ask, hold: Hold) -> Steps:
        """Set aside at the ledger what a call needs: now, after a wait, as a shorter answer, or of a lesser model."""
        begun_s, until_s = time.monotonic(), None
        while True:
            rules = self.bank.rules.covering(ask.dimensions)
            if not rules:
                return
            _policy(rules, ask)
            _renewed(hold, ask)
            asked_s = time.monotonic()
            wait_s = 0.0 if until_s is None else min(until_s - asked_s, WAIT_S)
            if wait_s > 0:
                answer = yield from self.bank.wait(rules, ask.dimensions, ask.need, hold, wait_s)
            else:
                left_s = begun_s + _patience_s(rules) - asked_s
                answer = yield from self.bank.reserve(rules, ask.dimensions, ask.need, hold, left_s)
            if answer is None:
                return
            if isinstance(answer, Silence):
                if time.monotonic() - begun_s < _patience_s(rules):
                    self.bank.forgo(answer)
                    yield PAUSE_S
                    continue
                self._without(rules, answer, ask, hold)
                return
            rule = _named(rules, answer.told.get("budget"))
            if rule is None:
                raise _refusal(answer, ask)
            if until_s is None:
                until_s = begun_s + float(rule.wait)
            # The ledger refuses before the time is over where waiting cannot help.
            in_vain = wait_s > 0 and time.monotonic() - asked_s < wait_s
            if (in_vain or time.monotonic() >= until_s) and not _smaller(rule, ask, answer):
                raise _refusal(answer, ask)

    def _without(self, rules: Sequence[Budget], silence: Silence, ask: Ask, hold: Hold) -> None:
        """Decide without the ledger: by what each budget says for that case."""
        strict = [rule for rule in rules if rule.fail != "open"]
        if not strict:
            hold.unguarded = [rule.name for rule in rules]
            self.bank.owes(silence.held_id, hold)  # charged when the ledger hears of it
            return
        self.bank.forgo(silence)
        rule = strict[0]
        raise BudgetExceededError(
            f"budget {rule.name!r} cannot be asked for room: the collector at {self.bank.url} does not answer "
            f"({silence.reason}), and the budget has fail = {rule.fail!r}; the call was not sent. Start the collector, "
            'or set fail = "open" in tallystick.toml to spend unguarded while it is away',
            budget=rule.name,
            group=_group(rule, ask),
            unit=rule.unit,
            limit=rule.limit,
            needed=ask.need.of(rule.unit),
        )


def _enter(run: Run, ask: Ask, hold: Hold) -> None:
    """Set aside what a call needs in the budget of a run."""
    refused = run.take(ask.need)
    if refused is not None and run.clamp and ask.fit(refused[0], run.room(refused[0])):
        for entered in hold.purses:  # they hold too much now, and are to hold the same as the rest
            entered.give_back(hold.need, NOTHING)
        hold.need = ask.need
        again, hold.purses = [*hold.purses], []
        for purse in again:
            assert isinstance(purse, Run), "only runs are entered before the ledger is asked"
            purse.take(ask.need)
            hold.purses.append(purse)
        refused = run.take(ask.need)
    if refused is not None:
        raise refused[1]
    hold.purses.append(run)


def _renewed(hold: Hold, ask: Ask) -> None:
    """Set aside in the runs what the changed call needs, in place of what the unchanged one did."""
    if hold.need is ask.need:
        return
    runs = [purse for purse in hold.purses if isinstance(purse, Run)]
    for run in runs:
        run.give_back(hold.need, NOTHING)
    hold.need, hold.purses = ask.need, []
    for run in runs:
        if (refused := run.take(ask.need)) is not None:
            raise refused[1]
        hold.purses.append(run)


def _policy(rules: Sequence[Budget], ask: Ask) -> None:
    """Raise when a call has no bound and a budget wants one; cap its answer first, if that gives it one."""
    if any(_wants(rule, ask) == "cap" for rule in rules):
        ask.cap()
    for rule in rules:
        if _wants(rule, ask) not in {None, "alert"}:
            why = ask.need.why or "nothing bounds its tokens"
            raise BudgetExceededError(
                f"budget {rule.name!r} takes only calls whose cost is bounded, and this one's is not: {why}. The "
                f"call was not sent. {_remedy(ask)}",
                budget=rule.name,
                group=_group(rule, ask),
                unit=rule.unit,
                limit=rule.limit,
            )


def _wants(rule: Budget, ask: Ask) -> str | None:
    """Return what a budget says of a call without a bound; None for one that has a bound."""
    if ask.need.of(rule.unit) is not None:
        return None
    return rule.on_unpriced if ask.need.is_unpriced and rule.unit == "usd" else rule.on_unbounded


def _remedy(ask: Ask) -> str:
    if ask.need.is_unpriced:
        return 'Give the model a price (docs/prices.md), or set on_unpriced = "alert"'
    return 'Set what is missing in the request, or on_unbounded = "alert"'


def _smaller(rule: Budget, ask: Ask, refusal: Refusal) -> bool:
    """Make a call smaller as the budget that has no room for it allows; False when it cannot be."""
    room = _decimal(refusal.told.get("room"))
    if rule.clamp and room is not None and ask.fit(rule.unit, room):
        return True
    return rule.downgrade_to is not None and ask.ask_instead(rule.downgrade_to)


def _refusal(refusal: Refusal, ask: Ask) -> BudgetExceededError:
    """Return the error that tells the ledger's sum."""
    told = refusal.told
    name, unit = str(told.get("budget") or "?"), str(told.get("unit") or "usd")
    limit, spent, reserved = (_decimal(told.get(key)) for key in ("limit", "spent", "reserved"))
    group = told.get("group") or ""
    group = (
        group if isinstance(group, str) else ", ".join(map(str, group.values() if isinstance(group, dict) else group))
    )
    what = f"budget {name!r}" + (f" for {group!r}" if group else "")
    resets_at = _moment(told.get("resets_at"))
    opens = "" if resets_at is None else f"; it opens again at {resets_at:%Y-%m-%dT%H:%M:%SZ}"
    needed = _decimal(told.get("needed")) or ask.need.of(unit)
    return BudgetExceededError(
        arithmetic(what, unit, needed, ask.need, limit=limit, spent=spent, reserved=reserved, opens=opens),
        budget=name,
        group=group,
        unit=unit,
        window=_window(told.get("window")),
        limit=limit,
        spent=spent,
        reserved=reserved,
        needed=needed,
        resets_at=resets_at,
    )


def _patience_s(rules: Sequence[Budget]) -> float:
    """Return how long a call may wait for a collector that does not answer, in seconds."""
    return min((float(rule.wait) for rule in rules if rule.fail != "open"), default=0.0)


def _named(rules: Sequence[Budget], name: object) -> Budget | None:
    return next((rule for rule in rules if rule.name == name), None)


def _group(rule: Budget, ask: Ask) -> str:
    [(_, group)] = key_of([rule], ask.dimensions)
    return ", ".join(group)


def _decimal(value: object) -> Decimal | None:
    try:
        return None if value is None else Decimal(str(value))
    except InvalidOperation:
        return None


def _moment(at: object) -> datetime | None:
    try:
        return datetime.fromisoformat(at) if isinstance(at, str) else None
    except ValueError:
        return None


def _window(told: object) -> Window | None:
    if not isinstance(told, Mapping):
        return None
    start, end = _moment(told.get("start")), _moment(told.get("end"))
    return None if start is None or end is None else Window(start, end)


def _raise(error: TallystickError | None) -> None:
    """Raise what was refused; a fault of ours admits, for an app must not stop by it."""
    if error is not None:
        try:
            raise error
        finally:
            del error  # it holds this frame


def _drive(steps: Steps) -> Any:
    """Run ``steps`` in this thread."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as over:
            return over.value
        try:
            answer = _run(step)
        except BaseException:
            steps.close()
            raise


def _run(step: Work | float) -> Any:
    if callable(step):
        return step()
    time.sleep(step)
    return None


async def _drive_async(steps: Steps) -> Any:
    """Run ``steps`` beside the event loop; anyio, which both SDKs stand on, knows which loop it is."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as over:
            return over.value
        import anyio.to_thread

        try:
            if callable(step):
                # A limiter of its own: the app may have filled the one that all share.
                answer = await anyio.to_thread.run_sync(step, limiter=anyio.CapacityLimiter(1))
            else:
                answer = None
                await anyio.sleep(step)
        except BaseException:
            steps.close()
            raise
