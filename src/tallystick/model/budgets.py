"""What may be spent, on what, until when, what happens at the limit, and at which shares of it somebody is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

DIMENSIONS = (
    "service", "environment", "feature", "user", "session", "model", "provider", "key", "prompt", "caller",
)  # fmt: skip
"""The keys of a scope; beside them ``tag.NAME`` for every tag that the app sets."""
TAG_PREFIX = "tag."

UNITS = ("usd", "tokens", "calls")
WINDOWS = ("hour", "day", "week", "month")
ROLLING = re.compile(r"rolling ([1-9][0-9]{0,2})h")
ROLLING_HOURS_MAX = 744
"""31 days."""
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
ALERT, BLOCK, DOWNGRADE = "alert", "block", "downgrade:"
FAIL = ("closed", "open", "slice")
ON_UNPRICED = ("block", "alert")
ON_UNBOUNDED = ("block", "cap", "alert")
WAIT_S_MAX = 600
THRESHOLDS = (Decimal("0.5"), Decimal("0.8"), Decimal("1.0"))
THRESHOLD_MAX = Decimal(10)
"""Ten times the limit: what is above was meant as a percentage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on what a scope may spend in a window of time: in USD, tokens or calls, exactly one of them.

    Raises ValueError when a value cannot work; the text names the key, the value and what is allowed.
    """

    name: str
    limit_usd: Decimal | None = None
    limit_tokens: int | None = None
    """Tokens read and written; what came from a cache is read too."""
    limit_calls: int | None = None
    scope: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Which calls count: all of these must match.  Empty: every call.  An empty value: calls without one."""
    group_by: tuple[str, ...] = ()
    """Dimensions; each combination of their values has the limit for itself.  Empty: one for all."""
    window: str = "day"
    """``hour``, ``day``, ``week`` or ``month`` of the calendar and the clock in ``timezone``, or ``rolling 24h``."""
    timezone: str = "UTC"
    """An IANA name, ``Europe/Berlin`` say."""
    reset_at: time = time()
    """The local time at which a window ends and the next one starts; of ``hour`` only the minute counts."""
    week_start: str = "monday"
    """The day with which a ``week`` begins."""
    thresholds: tuple[Decimal, ...] = THRESHOLDS
    """Shares of the limit at which an alert is due, ascending; 0.8 is 80 %."""
    action: str = ALERT
    """At 100 %: ``alert`` tells and refuses nothing, ``block`` refuses, ``downgrade:MODEL`` has calls go to MODEL."""
    fail: str = "closed"
    """What an app does while the collector does not answer: refuse, go on, or go on within what it holds already."""
    on_unpriced: str = "block"
    """What happens to a call of a model without a known price."""
    on_unbounded: str = "block"
    """What happens to a call whose cost nothing bounds; ``cap`` has the app set a bound of its output."""
    wait: Decimal = Decimal(0)
    """How long a call may wait for room, in seconds."""
    clamp: bool = False
    """Whether a call's ``max_tokens`` may be lowered to what still fits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", dict(self.scope))  # the caller's own may change
        if not isinstance(self.name, str) or not self.name.strip():
            _refuse("name", self.name, "a word that tells this budget from the others")
        self._check_limit()
        self._check_scope()
        self._check_window()
        self._check_thresholds()
        self._check_enforcement()

    @property
    def unit(self) -> str:
        """Return what is limited: ``usd``, ``tokens`` or ``calls``."""
        if self.limit_usd is not None:
            return "usd"
        return "calls" if self.limit_tokens is None else "tokens"

    @property
    def limit(self) -> Decimal:
        """Return the limit in the budget's `unit`."""
        return Decimal(getattr(self, f"limit_{self.unit}"))

    @property
    def enforces(self) -> bool:
        """Tell whether the limit is more than told: whether a call may be refused or changed by it."""
        return self.action != ALERT

    @property
    def downgrade_to(self) -> str | None:
        """Return the model that calls go to when the limit is reached, None when they do not."""
        return self.action.removeprefix(DOWNGRADE) if self.action.startswith(DOWNGRADE) else None

    @property
    def rolling(self) -> timedelta | None:
        """Return how long a rolling window is, None for one of the calendar."""
        found = ROLLING.fullmatch(self.window)
        return timedelta(hours=int(found[1])) if found else None

    def covers(self, dimensions: Mapping[str, str | None]) -> bool:
        """Tell whether a call with ``dimensions`` counts; a dimension that it lacks equals an empty value."""
        return all((dimensions.get(key) or "") == value for key, value in self.scope.items())

    def group_of(self, dimensions: Mapping[str, str | None]) -> tuple[str, ...]:
        """Return which of the budget's groups a call with ``dimensions`` belongs to; empty without ``group_by``."""
        return tuple(dimensions.get(key) or "" for key in self.group_by)

    def narrowed(self, group: tuple[str, ...]) -> Budget:
        """Return the budget of one group alone: its values are part of the scope."""
        return replace(self, scope={**self.scope, **dict(zip(self.group_by, group, strict=True))}, group_by=())

    def _check_limit(self) -> None:
        given = [unit for unit in UNITS if getattr(self, f"limit_{unit}") is not None]
        if len(given) != 1:
            found = " and ".join(f"limit_{unit}" for unit in given) or "none"
            _refuse("limit", found, "exactly one of limit_usd, limit_tokens, limit_calls")
        if given == ["usd"] and not _is_amount(self.limit_usd):
            _refuse("limit_usd", self.limit_usd, "an amount above 0, in USD")
        for unit in ("tokens", "calls"):
            count = getattr(self, f"limit_{unit}")
            if count is not None and (type(count) is not int or count <= 0):
                _refuse(f"limit_{unit}", count, "a whole number above 0")

    def _check_scope(self) -> None:
        for key, value in self.scope.items():
            _check_dimension("scope", key)
            if not isinstance(value, str):
                _refuse(f"scope.{key}", value, "one text")
        object.__setattr__(self, "group_by", tuple(self.group_by))
        for key in self.group_by:
            _check_dimension("group_by", key)
            if key in self.scope:
                _refuse("group_by", key, f"a dimension that scope does not fix already (it is {self.scope[key]!r})")
        if len(set(self.group_by)) < len(self.group_by):
            _refuse("group_by", list(self.group_by), "each dimension once")

    def _check_window(self) -> None:
        rolling = ROLLING.fullmatch(self.window) if isinstance(self.window, str) else None
        if self.window not in WINDOWS and not (rolling and int(rolling[1]) <= ROLLING_HOURS_MAX):
            _refuse("window", self.window, f"{', '.join(WINDOWS)} or rolling Nh, as rolling 24h, up to 744")
        if not is_zone(self.timezone):
            _refuse("timezone", self.timezone, "an IANA name as Europe/Berlin, or UTC")
        if not isinstance(self.reset_at, time) or self.reset_at.tzinfo is not None or self.reset_at.microsecond:
            _refuse("reset_at", self.reset_at, "a time of day in the budget's timezone, as 06:00")
        _check_one_of("week_start", self.week_start, WEEKDAYS)

    def _check_thresholds(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        for share in self.thresholds:
            if not _is_amount(share) or share > THRESHOLD_MAX:
                _refuse("thresholds", share, f"shares of the limit above 0 and up to {THRESHOLD_MAX}; 0.8 is 80 %")
        if not self.thresholds or list(self.thresholds) != sorted(set(self.thresholds)):
            _refuse("thresholds", [str(share) for share in self.thresholds], "one or more, ascending, none twice")

    def _check_enforcement(self) -> None:
        if self.action not in {ALERT, BLOCK} and not (isinstance(self.action, str) and self.downgrade_to):
            _refuse("action", self.action, "alert, block or downgrade:MODEL")
        if self.downgrade_to and "model" in self.scope:
            _refuse("action", self.action, "alert or block, as the scope holds for one model only")
        _check_one_of("fail", self.fail, FAIL)
        _check_one_of("on_unpriced", self.on_unpriced, ON_UNPRICED)
        _check_one_of("on_unbounded", self.on_unbounded, ON_UNBOUNDED)
        if not (isinstance(self.wait, Decimal) and self.wait.is_finite() and 0 <= self.wait <= WAIT_S_MAX):
            _refuse("wait", self.wait, f"seconds from 0 to {WAIT_S_MAX}")
        if not isinstance(self.clamp, bool):
            _refuse("clamp", self.clamp, "true or false")


def is_dimension(name: Any) -> bool:
    """Tell whether budgets can be scoped by ``name``."""
    is_tag = isinstance(name, str) and name.startswith(TAG_PREFIX) and len(name) > len(TAG_PREFIX)
    return is_tag or name in DIMENSIONS


def _check_dimension(key: str, name: Any) -> None:
    if not is_dimension(name):
        _refuse(key, name, f"{', '.join(DIMENSIONS)} or {TAG_PREFIX}NAME")


def _check_one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        _refuse(key, value, " or ".join(allowed))


def _refuse(key: str, value: Any, allowed: str) -> NoReturn:
    shown = str(value) if isinstance(value, Decimal) else repr(value)
    raise ValueError(f"{key} {shown} cannot work; allowed: {allowed}")


def _is_amount(value: Any) -> bool:
    # A float is refused: 0.1 + 0.2 is not 0.3 in it, and money is counted here.
    return isinstance(value, Decimal) and value.is_finite() and value > 0


def is_zone(name: Any) -> bool:
    """Tell whether ``name`` is a time zone that is known here, ``Europe/Berlin`` say."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError):  # unknown; "../x"; "America", a folder; not a text
        return False
    return True
