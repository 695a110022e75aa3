"""What may be spent, on what, until when, and at which shares of it somebody is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import time
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

WINDOWS = ("hour", "day", "week", "month")
ACTIONS = ("alert",)
THRESHOLDS = (Decimal("0.5"), Decimal("0.8"), Decimal("1.0"))
THRESHOLD_MAX = Decimal(10)
"""Ten times the limit: what is above was meant as a percentage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on the spend of a scope in a window of time.

    Raises ValueError when a value cannot work; the text names the key, the value and what is allowed.
    """

    name: str
    limit_usd: Decimal
    scope: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Which calls count: all of these must match.  Empty: every call.  An empty value: calls without one."""
    window: str = "day"
    """``hour``, ``day``, ``week`` (from Monday) or ``month``, of the calendar and the clock in ``timezone``."""
    timezone: str = "UTC"
    """An IANA name, ``Europe/Berlin`` say."""
    reset_at: time = time()
    """The local time at which a window ends and the next one starts; of ``hour`` only the minute counts."""
    thresholds: tuple[Decimal, ...] = THRESHOLDS
    """Shares of the limit at which an alert is due, ascending; 0.8 is 80 %."""
    action: str = "alert"
    """What happens at 100 %; ``alert`` tells and refuses nothing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", dict(self.scope))  # the caller's own may change
        if not isinstance(self.name, str) or not self.name.strip():
            _refuse("name", self.name, "a word that tells this budget from the others")
        if not _is_amount(self.limit_usd):
            _refuse("limit_usd", self.limit_usd, "an amount above 0, in USD")
        self._check_scope()
        self._check_window()
        self._check_thresholds()
        if self.action not in ACTIONS:
            _refuse("action", self.action, " or ".join(ACTIONS))

    def covers(self, dimensions: Mapping[str, str | None]) -> bool:
        """Tell whether a call with ``dimensions`` counts; a dimension that it lacks equals an empty value."""
        return all((dimensions.get(key) or "") == value for key, value in self.scope.items())

    def _check_scope(self) -> None:
        for key, value in self.scope.items():
            if key not in DIMENSIONS and not (key.startswith(TAG_PREFIX) and len(key) > len(TAG_PREFIX)):
                _refuse("scope", key, f"{', '.join(DIMENSIONS)} or {TAG_PREFIX}NAME")
            if not isinstance(value, str):
                _refuse(f"scope.{key}", value, "one text")

    def _check_window(self) -> None:
        if self.window not in WINDOWS:
            _refuse("window", self.window, ", ".join(WINDOWS))
        if not _is_zone(self.timezone):
            _refuse("timezone", self.timezone, "an IANA name as Europe/Berlin, or UTC")
        if not isinstance(self.reset_at, time) or self.reset_at.tzinfo is not None or self.reset_at.microsecond:
            _refuse("reset_at", self.reset_at, "a time of day in the budget's timezone, as 06:00")

    def _check_thresholds(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        for share in self.thresholds:
            if not _is_amount(share) or share > THRESHOLD_MAX:
                _refuse("thresholds", share, f"shares of the limit above 0 and up to {THRESHOLD_MAX}; 0.8 is 80 %")
        if not self.thresholds or list(self.thresholds) != sorted(set(self.thresholds)):
            _refuse("thresholds", [str(share) for share in self.thresholds], "one or more, ascending, none twice")


def _refuse(key: str, value: Any, allowed: str) -> NoReturn:
    raise ValueError(f"{key} {value!r} cannot work; allowed: {allowed}")


def _is_amount(value: Any) -> bool:
    # A float is refused: 0.1 + 0.2 is not 0.3 in it, and money is counted here.
    return isinstance(value, Decimal) and value.is_finite() and value > 0


def _is_zone(name: Any) -> bool:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError):  # unknown; "../x"; "America", a folder; not a text
        return False
    return True
