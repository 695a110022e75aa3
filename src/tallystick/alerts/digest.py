"""What was spent in a day or a week, told when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tallystick.alerts.slack import Block, Context, Message, base_url, contributions, mrkdwn, section
from tallystick.model.money import show_usd
from tallystick.model.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGESTS = ("off", "daily", "weekly")
DAYS_SHOWN = 14
"""How many days the picture shows."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a digest tells of."""

    window: Window
    spent: Decimal
    before: Decimal
    """Of the day or week before."""
    calls: int
    failed: int
    days: Sequence[tuple[date, Decimal]] = ()
    """The last days, oldest first."""


def digest_window(kind: str, at: time, timezone: str, now: datetime) -> Window | None:
    """Return the day or week that is to be told of at ``now``, the last one that is over; None before ``at``."""
    local = now.astimezone(ZoneInfo(timezone))
    if kind == "off" or local.time() < at:
        return None
    last = local.date() if kind == "daily" else local.date() - local.weekday() * DAY
    if kind == "weekly" and local.weekday() != 0:
        return None
    first = last - (1 if kind == "daily" else 7) * DAY
    return Window(*(datetime.combine(day, time(), ZoneInfo(timezone)) for day in (first, last)))


def digest_message(spending: Spending, context: Context) -> Message:
    """Return the message that tells ``spending``; its chart is drawn where a picture can be shown."""
    window = spending.window
    is_day = window.end - window.start < 2 * DAY
    when = f"{window.start:%a %d %b}" if is_day else f"{window.start:%d %b} to {window.end - DAY:%d %b}"
    header = f"📊 {show_usd(spending.spent)} on {when}" if is_day else f"📊 {show_usd(spending.spent)}, {when}"
    figures = [
        ("The day before" if is_day else "The week before", f"{show_usd(spending.before)}{_change(spending)}"),
        ("Calls", f"{spending.calls:,}, of which {spending.failed:,} failed"),
    ]
    found = contributions(context)
    base = base_url(context.dashboard_url)
    blocks: list[Block] = [
        {"type": "header", "text": {"type": "plain_text", "text": header, "emoji": True}},
        {"type": "section", "fields": [mrkdwn(f"*{name}*\n{value}") for name, value in figures]},
        *([section("\n".join(["*Where it went*", *found]))] if found else []),
        *([section(f"<{base}|Open the spend>")] if base else []),
        {"type": "context", "elements": [mrkdwn(f"Times in {window.start.tzinfo}")]},
    ]
    told = "; ".join(f"{name}: {value}" for name, value in figures)
    chart = tuple((f"{day:%d %b}", str(amount)) for day, amount in spending.days)
    return Message(text=f"{header}. {told}", blocks=tuple(blocks), stands_alone=True, chart=chart)


def _change(spending: Spending) -> str:
    if not spending.before:
        return ""
    change = (spending.spent - spending.before) / spending.before * 100
    return f" ({change:+,.0f} %)"
