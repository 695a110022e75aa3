"""Whether an alert is due, and when to try again to deliver it: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from tallystick.model.budgets import Budget
    from tallystick.model.windows import Window


REACHED = Decimal(1)
"""The share at which a limit is reached."""
BACKOFF_S = 1
BACKOFF_S_MAX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The calls that a budget refused in a window because they did not fit, and the sum of the last of them."""

    calls: int
    spent: Decimal
    reserved: Decimal
    needed: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold of ``budget`` that was crossed in ``window``."""

    budget: Budget
    window: Window
    threshold: Decimal
    """The share of the limit that was crossed; 0.8 is 80 %."""
    spent: Decimal
    """What was spent in the window when the alert became due, in the budget's unit."""
    refused: Refused | None = None
    group: tuple[str, ...] = ()
    """Which group of the budget it is, by the values that are in its scope for that."""

    @property
    def is_limit(self) -> bool:
        """Whether the limit is reached: by what was spent, or because calls that would have passed it are refused."""
        return self.share >= REACHED or self.refused is not None

    @property
    def limit(self) -> Decimal:
        """The budget's limit, in its unit."""
        return self.budget.limit

    @property
    def share(self) -> Decimal:
        """What was spent, as a share of the limit; it may be above the threshold."""
        return self.spent / self.limit


def due_alert(
    budget: Budget, window: Window, spent: Decimal, told: Collection[Decimal], refused: Refused | None = None
) -> Alert | None:
    """Return the alert that is due for ``budget`` in ``window``, or None.

    ``told`` are the thresholds already announced in this window.  When one batch jumps over several thresholds only
    the highest is due: one message, not three.  Spend that falls again, because a price was corrected, tells nothing.
    A budget that refuses never spends its limit to the last cent, so its first refusal reaches the threshold 1.
    """
    crossed = [
        share
        for share in budget.thresholds
        if spent >= share * budget.limit or (refused is not None and share <= REACHED)
    ]
    if not crossed or max(crossed) <= max(told, default=Decimal(0)):
        return None
    is_refusal = refused is not None and max(crossed) >= REACHED
    return Alert(
        budget=budget, window=window, threshold=max(crossed), spent=spent, refused=refused if is_refusal else None
    )


def next_try_at(deliveries: int, now: datetime, retry_after_s: float | None = None) -> datetime:
    """Return when to try again after ``deliveries`` failed tries: 1, 2, 4 ... 300 s later, never before Retry-After."""
    # The exponent is bounded too: a receiver that is down for weeks must not make a huge number of it.
    backoff_s = min(BACKOFF_S_MAX, BACKOFF_S * 2 ** min(max(deliveries - 1, 0), 16))
    return now + timedelta(seconds=max(backoff_s, retry_after_s or 0.0))
