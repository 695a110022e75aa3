"""A call that wants to be admitted: who makes it, what it can take at most, and how it may be made smaller."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.instrumentation._holds import Need
from tallystick.model import attributes as names
from tallystick.model.budgets import TAG_PREFIX

if TYPE_CHECKING:
    from tallystick.instrumentation._call import Call
    from tallystick.pricing import Bound

CLAMP_MIN = 256
"""Tokens; a shorter answer than this is of no use to anybody, and costs money."""
CAP_TOKENS = 4096
"""What an answer may have where the request sets no cap, nothing lists one, and ``on_unbounded`` is ``cap``."""
CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_CAP_OF = {"messages": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens"}
_DIMENSIONS = {
    names.FEATURE: "feature", names.USER: "user", names.SESSION: "session", names.PROMPT_NAME: "prompt",
    names.KEY: "key", names.CALLER: "caller",
}  # fmt: skip
_NOT_GIVEN = frozenset({"NotGiven", "Omit"})


class Ask:
    """What a call asks for, and the changes under which it may be sent."""

    def __init__(
        self,
        call: Call,
        told: Mapping[str, str],
        *,
        retries: int,
        unbounded: str | None = None,
        is_fixed: bool = False,
    ) -> None:
        self.call = call
        self.api = call.route.api
        self.request = {k: v for k, v in call.request.items() if type(v).__name__ not in _NOT_GIVEN}
        self.retries = retries
        self.is_fixed = is_fixed
        """True when nothing of the request can be changed any more."""
        self.changes: dict[str, Any] = {}
        """Keys of the request's JSON that are to be sent otherwise."""
        self.notes: dict[str, Any] = {}
        """What the call's span tells of the changes."""
        self.dimensions = dimensions_of(call, told)
        self._unbounded = unbounded
        self._need: Need | None = None
        self._bound: Bound | None = None

    @property
    def model(self) -> str:
        """The model that is to be asked."""
        return str(self.request.get("model") or "")

    @property
    def bound(self) -> Bound:
        """The most that the call costs."""
        if self._bound is None:
            self._bound = self._bounded(self.request)
        return self._bound

    @property
    def need(self) -> Need:
        """The most that the call can take."""
        if self._need is None:
            self._need = self._need_of(self.bound)
        return self._need

    @property
    def output_tokens(self) -> int | None:
        """The most that one attempt can write; None when nothing bounds it."""
        bound = self.bound
        if bound.usd is not None or bound.output_tokens:
            return bound.output_tokens
        answers = self.request.get("n")
        cap = self._cap()
        return None if cap is None else cap * (answers if isinstance(answers, int) else 1)

    def _bounded(self, request: Mapping[str, Any]) -> Bound:
        from tallystick.pricing import Bound, upper_bound  # with the first call that a budget covers, as `_units` does

        if self._unbounded is not None:
            return Bound(usd=None, reason=self._unbounded)
        place = self.call.place
        return upper_bound(
            place.provider,
            str(request.get("model") or ""),
            request,
            max_retries=self.retries,
            api=self.api,
            **place.params,
        )

    def _need_of(self, bound: Bound) -> Need:
        per_attempt = bound.input_tokens + bound.output_tokens
        is_counted = bound.usd is not None or (bound.is_unpriced and bound.input_tokens > 0)
        return Need(
            usd=bound.usd,
            tokens=per_attempt * bound.attempts if is_counted else None,
            attempts=bound.attempts,
            attempt_usd=bound.attempt_usd,
            attempt_tokens=per_attempt if is_counted else None,
            why=bound.reason,
            is_unpriced=bound.is_unpriced,
        )

    # --- made smaller ---------------------------------------------------------------

    def fit(self, unit: str, room: Decimal) -> bool:
        """Ask for a shorter answer, so that the call takes ``room`` at most; False when none that short is of use."""
        key = self._cap_key()
        if key is None or self.is_fixed or unit == "calls":
            return False
        cap = self._cap()
        low = self._need_of(self._bounded(self.request | {key: 1})).of(unit)
        high = self._need_of(self._bounded(self.request | {key: 1001})).of(unit)
        if low is None or high is None or high <= low or room <= low:
            return False
        most = int((room - low) * 1000 / (high - low)) + 1
        if cap is not None:
            most = min(most, cap - 1)
        if most < max(CLAMP_MIN, self._thinking() + 1):
            return False
        self._set_cap(key, most)
        fitting = self.need.of(unit)
        return fitting is not None and fitting <= room

    def cap(self) -> bool:
        """Set a cap on the answer where the request sets none; False when that cannot be done."""
        key = self._cap_key()
        if key is None or self.is_fixed or self._cap() is not None:
            return False
        self._set_cap(key, CAP_TOKENS)
        return self.need.usd is not None

    def ask_instead(self, model: str) -> bool:
        """Ask a lesser model; False when it is the one that is asked already."""
        if self.is_fixed or model == self.model:
            return False
        self.notes.setdefault(names.ASKED_MODEL, self.model)
        self._change("model", model)
        self.notes[names.REQUEST_MODEL] = model
        self.dimensions = self.dimensions | {"model": model}
        return True

    def _set_cap(self, key: str, tokens: int) -> None:
        self.notes.setdefault(names.ASKED_MAX_TOKENS, self._cap() or 0)
        for name in {key, *(name for name in CAPS if isinstance(self.request.get(name), int))}:
            self._change(name, tokens)
        self.notes[names.REQUEST_MAX_TOKENS] = tokens

    def _change(self, key: str, value: object) -> None:
        self.changes[key] = value
        self.request = self.request | {key: value}
        self._need = self._bound = None

    def _cap(self) -> int | None:
        found = [value for name in CAPS if isinstance(value := self.request.get(name), int)]
        return max(found, default=None)

    def _cap_key(self) -> str | None:
        """Return the key that caps an answer's tokens; None where none does."""
        for name in CAPS:
            if isinstance(self.request.get(name), int):
                return name
        if self.api == "chat":
            return "max_completion_tokens" if self.call.place.provider == "openai" else "max_tokens"
        return _CAP_OF.get(self.api)

    def _thinking(self) -> int:
        """Return the tokens that Anthropic wants to be fewer than ``max_tokens``."""
        thinking = self.request.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
        return budget if isinstance(budget, int) else 0


def dimensions_of(call: Call, told: Mapping[str, str]) -> dict[str, str]:
    """Return what budgets can be scoped by; ``told`` is what is the same for every call of the process."""
    found = dict(told)
    for name, value in call.told.items():
        if name in _DIMENSIONS:
            found[_DIMENSIONS[name]] = str(value)
        elif name.startswith(names.TAG_PREFIX):
            found[TAG_PREFIX + name[len(names.TAG_PREFIX) :]] = str(value)
    found["provider"] = call.place.provider
    if isinstance(model := call.request.get("model"), str):
        found["model"] = model
    return {name: value for name, value in found.items() if value}
