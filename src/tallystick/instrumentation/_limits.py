"""What holds without a collector: limits of one call, a budget for a run, and a stop for loops."""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from types import TracebackType
from typing import Any, Self

from tallystick.errors import BudgetExceededError, RequestLoopError, RequestTooLargeError, SettingsError
from tallystick.instrumentation._holds import ZERO, Need, Spent

LOOP_S = 60.0
LOOPS_MAX = 4096
"""How many different requests are remembered."""
ASCII_PER_TOKEN = 3
"""Characters; English has 4 to a token, code 3.3, digits 3 (measured against o200k)."""

_run: ContextVar[Run | None] = ContextVar("tallystick.run", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may come to; None for no limit."""

    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_usd: Decimal | None = None
    loop_limit: int | None = None

    def __bool__(self) -> bool:
        return any(
            limit is not None
            for limit in (self.max_input_tokens, self.max_output_tokens, self.max_cost_usd, self.loop_limit)
        )

    def check(self, request: Mapping[str, Any], need: Need, output_tokens: int | None) -> None:
        """Raise RequestTooLargeError when a call can come to more than is allowed.

        ``output_tokens``: the most that one attempt of it can write; None when nothing bounds it.
        """
        if self.max_input_tokens is not None and (read := input_tokens(request)) > self.max_input_tokens:
            raise RequestTooLargeError(
                f"the prompt has about {read} tokens, and max_input_tokens is {self.max_input_tokens}; "
                "the call was not sent. Shorten what is sent, or raise the limit",
                setting="max_input_tokens",
                limit=Decimal(self.max_input_tokens),
                needed=Decimal(read),
            )
        if self.max_output_tokens is not None and (output_tokens is None or output_tokens > self.max_output_tokens):
            most = "any number of tokens" if output_tokens is None else f"{output_tokens} tokens"
            raise RequestTooLargeError(
                f"the answer may have {most}, and max_output_tokens is {self.max_output_tokens}; the call was not "
                "sent. Set max_tokens (max_completion_tokens, max_output_tokens) in the request, or raise the limit",
                setting="max_output_tokens",
                limit=Decimal(self.max_output_tokens),
                needed=None if output_tokens is None else Decimal(output_tokens),
            )
        if self.max_cost_usd is not None and (need.usd is None or need.usd > self.max_cost_usd):
            raise RequestTooLargeError(
                f"{_at_most(need)}, and max_cost_usd is {_plain(self.max_cost_usd)}; the call was not sent. "
                "Set a lower max_tokens or max_retries, or raise the limit",
                setting="max_cost_usd",
                limit=self.max_cost_usd,
                needed=need.usd,
            )


def _at_most(need: Need) -> str:
    if need.usd is None:
        return f"nothing bounds what the call costs ({need.why})"
    return f"the call can cost {_plain(need.usd)} USD ({need.attempts} x {_plain(need.attempt_usd)} with its retries)"


def input_tokens(request: Mapping[str, Any]) -> int:
    """Return about how many tokens a prompt has, rather too many than too few for natural text and code.

    A token for three ASCII characters and for each other one; pictures and files by their size in the request.
    """
    parts = [request.get(name) for name in ("system", "instructions", "messages", "input", "prompt", "tools")]
    said = [part for part in parts if isinstance(part, str | list | tuple | Mapping)]
    text = json.dumps(said, ensure_ascii=False, default=str, separators=(",", ":"))
    size = len(text)
    plain = size if text.isascii() else sum(character < "\x80" for character in text)
    return -(-plain // ASCII_PER_TOKEN) + size - plain


class Loops:
    """The requests of the last minute, by their digest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._seen: dict[str, deque[float]] = {}

    def check(self, digest: str) -> None:
        """Raise RequestLoopError when the same request was made as often as is allowed within a minute."""
        now = time.monotonic()
        with self._lock:
            times = self._seen.pop(digest, None) or deque()
            self._seen[digest] = times  # the latest is the last
            while times and now - times[0] > LOOP_S:
                times.popleft()
            times_before = len(times)
            if times_before < self._limit:
                times.append(now)
            if len(self._seen) > LOOPS_MAX:
                del self._seen[next(iter(self._seen))]
        if times_before >= self._limit:
            raise RequestLoopError(
                f"the very same request was made {times_before} times within {LOOP_S:.0f} s, and loop_limit is "
                f"{self._limit}; the call was not sent. Mend the loop, or raise the limit",
                times=times_before + 1,
                limit=self._limit,
            )


class Run:
    """What a block of the app may spend, and has."""

    def __init__(self, name: str, limits: Mapping[str, Decimal], parent: Run | None, *, clamp: bool) -> None:
        self.name = name
        self.limits = limits
        self.parent = parent
        self.clamp = clamp
        self.spent = dict.fromkeys(("usd", "tokens", "calls"), ZERO)
        self.reserved = dict.fromkeys(("usd", "tokens", "calls"), ZERO)
        self._lock = threading.RLock()

    def take(self, need: Need) -> tuple[str, BudgetExceededError] | None:
        """Set aside what a call needs; None when it fits, else the unit that has no room and the error to raise."""
        with self._lock:
            for unit, limit in self.limits.items():
                wanted = need.of(unit)
                if wanted is None or self.spent[unit] + self.reserved[unit] + wanted > limit:
                    return unit, self._refusal(unit, need, wanted)
            for unit in self.reserved:
                wanted = need.of(unit) or ZERO
                self.reserved[unit] += wanted  # read and written in one go: the garbage collector may end a call here
        return None

    def room(self, unit: str) -> Decimal:
        """Return what is left."""
        with self._lock:
            return self.limits[unit] - self.spent[unit] - self.reserved[unit]

    def give_back(self, need: Need, spent: Spent) -> None:
        """Replace what was set aside for a call by what it took."""
        with self._lock:
            for unit in self.reserved:
                wanted = need.of(unit)
                self.reserved[unit] -= wanted or ZERO
                taken = spent.of(unit, wanted)
                self.spent[unit] += taken

    def _refusal(self, unit: str, need: Need, wanted: Decimal | None) -> BudgetExceededError:
        limit, spent, reserved = self.limits[unit], self.spent[unit], self.reserved[unit]
        what = f"the budget of this run ({self.name!r})"
        return BudgetExceededError(
            arithmetic(what, unit, wanted, need, limit=limit, spent=spent, reserved=reserved),
            budget=self.name,
            unit=unit,
            limit=limit,
            spent=spent,
            reserved=reserved,
            needed=wanted,
        )


def arithmetic(
    what: str,
    unit: str,
    needed: Decimal | None,
    need: Need,
    *,
    limit: Decimal | None,
    spent: Decimal | None,
    reserved: Decimal | None,
    opens: str = "",
) -> str:
    """Return why a call was refused, as a sum that can be checked."""
    name = unit if unit != "usd" else "USD"
    if needed is None:
        why = need.why or "nothing in the request does"
        return f"{what} takes only calls whose {name} are bounded, and this one is not: {why}. The call was not sent"
    if limit is None or spent is None or reserved is None:
        return (
            f"{what} has no room for the {_plain(needed)} {name} that this call can take; the call was not sent{opens}"
        )
    if needed > limit:
        opens = ". It never fits: set a lower max_tokens or max_retries, or raise the limit"
    retries = (
        f" ({need.attempts} x {_plain(need.attempt_usd)} with its retries)"
        if unit == "usd" and need.attempt_usd
        else ""
    )
    figures = f"{_plain(spent)} spent + {_plain(reserved)} reserved + {_plain(needed)} at most for this call{retries}"
    total = f"{_plain(spent + reserved + needed)} of {_plain(limit)} {name}"
    return f"{what} has no room for this call: {figures} = {total}; it was not sent{opens}"


def _plain(amount: Decimal | None) -> str:
    """Return an amount in digits, without zeros that say nothing."""
    text = format(amount or ZERO, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def runs_here() -> Iterator[Run]:
    """Yield the budgets of the runs that are under way here, the innermost first."""
    run = _run.get()
    while run is not None:
        yield run
        run = run.parent


def in_run() -> bool:
    """Tell whether a run with a budget is under way here."""
    return _run.get() is not None


class budget:  # noqa: N801 -- it reads as a statement: with budget(usd=0.50):
    """Cap what the calls made inside may take: ``with tallystick.budget(usd=0.50):``, ``@tallystick.budget(calls=20)``.

    A call that could pass the cap is not sent: BudgetExceededError.  Needs no collector; nests (every cap holds), and
    follows contextvars into tasks and, where the caller copies its context, threads.  ``usd`` and ``tokens`` count the
    worst case of calls in flight, their retries included.  ``clamp``: where only a shorter answer fits, ask for that.
    On a coroutine function, as ``with`` and as ``async with`` it is the same; each call of a decorated function has a
    budget of its own.
    """

    def __init__(
        self,
        *,
        usd: Decimal | str | float | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        name: str = "run",
        clamp: bool = False,
    ) -> None:
        given = {"usd": usd, "tokens": tokens, "calls": calls}
        self._limits = {unit: amount_of(unit, value) for unit, value in given.items() if value is not None}
        if not self._limits:
            raise SettingsError("tallystick.budget() caps nothing; give usd=, tokens= or calls=")
        self._name = name
        self._clamp = clamp
        self._entered: list[tuple[Run, Token[Run | None]]] = []
        self._last: Run | None = None

    def __enter__(self) -> Self:
        run = Run(self._name, self._limits, _run.get(), clamp=self._clamp)
        self._entered.append((run, _run.set(run)))
        self._last = run
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _, token = self._entered.pop()
        _run.reset(token)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with a budget of its own for each call of it."""
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def asynchronous(*args: Any, **kwargs: Any) -> Any:
                with self._anew():
                    return await function(*args, **kwargs)

            return asynchronous

        @wraps(function)
        def synchronous(*args: Any, **kwargs: Any) -> Any:
            with self._anew():
                return function(*args, **kwargs)

        return synchronous

    def _anew(self) -> budget:
        copy = budget(calls=1)
        copy._limits, copy._name, copy._clamp = self._limits, self._name, self._clamp
        return copy

    def spent(self, unit: str = "usd") -> Decimal:
        """Return what the calls of the block have taken so far; ``unit`` is usd, tokens or calls."""
        return ZERO if self._last is None else self._last.spent[unit]

    def reserved(self, unit: str = "usd") -> Decimal:
        """Return the worst case of the calls of the block that are in flight."""
        return ZERO if self._last is None else self._last.reserved[unit]


def amount_of(name: str, value: object) -> Decimal:
    """Return a limit as a Decimal; raises SettingsError when it is none that can work."""
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount <= 0:
        raise SettingsError(f"{name} is {value!r}; it must be a number above 0")
    if "usd" not in name.lower() and amount != int(amount):
        raise SettingsError(f"{name} is {value!r}; it must be a whole number")
    return amount
