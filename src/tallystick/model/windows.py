"""When a budget's window starts and ends, exact over every change of the clocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tallystick.model.budgets import WEEKDAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tallystick.model.budgets import Budget

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A stretch of time in UTC: ``start`` is within, ``end`` is outside."""

    start: datetime
    end: datetime

    def __contains__(self, at: datetime) -> bool:
        return self.start <= at < self.end


def window_at(budget: Budget, at: datetime) -> Window:
    """Return the window of ``budget`` in which ``at``, an aware time, lies.

    A window starts when the clock on the wall in the budget's zone first shows its reset time, or jumps over it.  So a
    day has 23, 23.5, 24 or 25 hours, and one whose midnight does not exist starts with the first minute that does.
    A rolling window is the one that ends ``at``.  Raises ValueError when ``at`` has no zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no zone, so it is no instant; give it one, UTC say")
    if budget.rolling is not None:
        return Window(at - budget.rolling, at)
    zone = ZoneInfo(budget.timezone)
    starts = {_instant(label, zone) for label in _labels(budget, at.astimezone(zone))}
    return Window(
        start=max(start for start in starts if start <= at),
        end=min(start for start in starts if start > at),
    )


def _labels(budget: Budget, local: datetime) -> Iterator[datetime]:
    """Yield what the wall clock shows at the starts around ``local``; two days to each side are sure to be enough.

    No change of clocks so far moved one by more than a day (Samoa left out 2011-12-30).
    """
    today = local.date()
    if budget.window == "hour":
        for day in (today - DAY, today, today + DAY):
            for hour in range(24):
                label = datetime.combine(day, time(hour, budget.reset_at.minute))
                yield from (label, label.replace(fold=1))  # the hour that comes twice is two windows
        return
    if budget.window == "day":
        days = [today + n * DAY for n in range(-2, 4)]
    elif budget.window == "week":
        first = today - (today.weekday() - WEEKDAYS.index(budget.week_start)) % 7 * DAY
        days = [first + n * 7 * DAY for n in range(-1, 3)]
    else:
        days = [_month(today, n) for n in range(-1, 3)]
    for day in days:
        yield datetime.combine(day, budget.reset_at)


def _month(day: date, later: int) -> date:
    """Return the first day of the month that is ``later`` months after that of ``day``."""
    months = day.year * 12 + day.month - 1 + later
    return date(months // 12, months % 12 + 1, 1)


def _instant(label: datetime, zone: ZoneInfo) -> datetime:
    """Return the UTC instant at which the wall clock in ``zone`` shows ``label``, or jumps over it."""
    instant = label.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == label.replace(fold=0):
        return instant
    # The clock jumps over the label.  Read with the offset of before and of after, it lies on both sides of the jump.
    before, after = sorted(label.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    offset = before.astimezone(zone).utcoffset()
    while after - before > SECOND:
        middle = before + (after - before) // 2 // SECOND * SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after
