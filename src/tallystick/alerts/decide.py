"""Whether an alert is due: a pure decision over spend, limit and what was told before."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tallystick.model.budgets import Budget
    from tallystick.model.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold of ``budget`` that was crossed in ``window``."""

    budget: Budget
    window: Window
    threshold: Decimal
    """The share of the limit that was crossed; 0.8 is 80 %."""
    spent: Decimal
    """What was spent in the window when the alert became due, in the budget's unit."""

    @property
    def limit(self) -> Decimal:
        """The budget's limit, in its unit."""
        return self.budget.limit

    @property
    def share(self) -> Decimal:
        """What was spent, as a share of the limit; it may be above the threshold."""
        return self.spent / self.limit


def due_alert(budget: Budget, window: Window, spent: Decimal, told: Collection[Decimal]) -> Alert | None:
    """Return the alert that is due for ``budget`` in ``window``, or None.

    ``told`` are the thresholds already announced in this window.  When one batch jumps over several thresholds only
    the highest is due: one message, not three.  Spend that falls again, because a price was corrected, tells nothing.
    """
    crossed = [share for share in budget.thresholds if spent >= share * budget.limit]
    if not crossed or max(crossed) <= max(told, default=Decimal(0)):
        return None
    return Alert(budget=budget, window=window, threshold=max(crossed), spent=spent)
