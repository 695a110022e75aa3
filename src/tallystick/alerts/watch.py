"""Whether something besides a threshold is to be told: pure decisions over counted facts.

Each is told once per ``period``: the claim is (kind, subject, period), written down before anything is sent.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tallystick.model.money import show_amount, show_usd

if TYPE_CHECKING:
    from tallystick.model.budgets import Budget
    from tallystick.model.windows import Window

HOUR = timedelta(hours=1)

KINDS = ("auth", "failures", "unpriced", "prices", "silent", "dropped", "anomaly", "forecast", "burn_rate")
URGENT = frozenset({"auth", "burn_rate", "dropped"})
"""Told in quiet hours too: a wrong key stops an app, fast money is gone by the morning, and what is dropped is lost."""

RATE_CALLS_MIN = 20
"""With fewer calls a rate says little: one failure of two would be half."""
RATE_SHARE = Decimal("0.5")
PRICES_AGE_DAYS = 30
SILENT_MIN = HOUR
SILENT_TIMES = 4
"""A service that is silent for so many times its longest pause of the last week has stopped."""
SILENT_CALLS_MIN = 50
ANOMALY_Z = 6.0
ANOMALY_TIMES = 2
ANOMALY_USD_MIN = Decimal(1)
ANOMALY_DAYS_MIN = 7
MAD_TO_SIGMA = 0.6745
"""The median absolute deviation of a normal distribution is 0.6745 of its standard deviation."""
FORECAST_SHARE_MIN = Decimal("0.25")
"""Below a quarter of the limit a pace is mostly chance."""
BURN_FAST, BURN_SLOW = 24, 8
"""The two stretches are a 24th and an 8th of the window: an hour and three hours of a day."""
BURN_FAST_TIMES, BURN_SLOW_TIMES = 4, 2
"""So many times the pace at which the limit would just last; both must hold, so neither a blip nor the past tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that somebody should know.  Its texts are plain: names in them may come from anybody."""

    kind: str
    subject: str
    """What it is about: a provider, a model, a service, a budget."""
    period: str
    """What it is told once in: an hour, a day, a window; empty: once for ever."""
    title: str
    figures: tuple[tuple[str, str], ...] = ()
    todo: str = ""
    filters: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Which calls it is about, as the dashboard's parameters."""

    @property
    def is_urgent(self) -> bool:
        """Whether quiet hours do not hold it back."""
        return self.kind in URGENT


def failing_key(provider: str, refused: int, service: str, now: datetime) -> Notice | None:
    """Return the notice that calls are refused for their key, at the first one; a key is no outage."""
    if refused < 1:
        return None
    return Notice(
        kind="auth",
        subject=provider,
        period=_hour(now),
        title=f"{provider} refuses the key of {service or 'an app'}",
        figures=(("Calls refused in 10 min", f"{refused:,}"),),
        todo="Check the key: it may be revoked, expired or of another project. No retry will help.",
        filters={"provider": provider, "outcome": "auth"},
    )


def failing_provider(provider: str, calls: int, failed: int, worst: str, now: datetime) -> Notice | None:
    """Return the notice that half of the calls or more fail; wrong keys and calls that the app ended are not counted.

    ``worst`` is the class of most of the failures.
    """
    if calls < RATE_CALLS_MIN or failed < RATE_SHARE * calls:
        return None
    return Notice(
        kind="failures",
        subject=provider,
        period=_hour(now),
        title=f"{failed * 100 // calls} % of the calls to {provider} fail",
        figures=(("Failed in 10 min", f"{failed:,} of {calls:,}"), ("Most of them", worst.replace("_", " "))),
        todo="Look at the failures; the provider's status page may know of an outage.",
        filters={"provider": provider},
    )


def unpriced_model(provider: str, model: str, answers: int) -> Notice:
    """Return the notice that a model has no known price; once for each."""
    return Notice(
        kind="unpriced",
        subject=f"{provider}/{model}",
        period="",
        title=f"{model} of {provider} has no known price",
        figures=(("Answers without a price", f"{answers:,}"),),
        todo="They are in no sum and move no budget. Run “tallystick prices update”, or add a [[price]], then reprice.",
        filters={"provider": provider, "model": model},
    )


def old_prices(version: str, age_days: int | None, now: datetime) -> Notice | None:
    """Return the notice that the price book is more than 30 days old; once a week."""
    if age_days is None or age_days <= PRICES_AGE_DAYS:
        return None
    year, week, _ = now.isocalendar()
    return Notice(
        kind="prices",
        subject=version,
        period=f"{year}-W{week:02}",
        title=f"The prices are {age_days} days old",
        figures=(("Version", version),),
        todo="Run “tallystick prices update”; costs may be of yesterday's list.",
    )


def silent_service(
    service: str, calls: int, longest_pause: timedelta, last_call_at: datetime, now: datetime
) -> Notice | None:
    """Return the notice that ``service`` has stopped sending: silent for four times its longest pause of the week."""
    silent = now - last_call_at
    if calls < SILENT_CALLS_MIN or silent < max(SILENT_MIN, SILENT_TIMES * longest_pause):
        return None
    return Notice(
        kind="silent",
        subject=service,
        period=last_call_at.isoformat(),
        title=f"Nothing comes from {service} any more",
        figures=(
            ("Last call", f"{last_call_at.astimezone(UTC):%a %d %b %H:%M} UTC"),
            ("Longest pause of the week before", _length(longest_pause)),
        ),
        todo="Is it running, and does it reach the collector? “tallystick doctor” there says.",
        filters={"service": service},
    )


def dropped_records(reason: str, before: int, count: int, now: datetime) -> Notice | None:
    """Return the notice that records were lost since ``before`` were; at most once an hour for a reason."""
    if count <= before:
        return None
    return Notice(
        kind="dropped",
        subject=reason,
        period=_hour(now),
        title=f"{_records(count - before)} dropped: {reason.replace('_', ' ')}",
        figures=(("In all", f"{count:,}"),),
        todo="What is dropped is in no figure. The Settings page shows the ledger's equation.",
    )


def _records(count: int) -> str:
    return "1 record was" if count == 1 else f"{count:,} records were"


def odd_hour(hour: datetime, spent: Decimal, earlier: Sequence[Decimal]) -> Notice | None:
    """Return the notice that an hour cost far more than the same hour of earlier days.

    ``earlier`` are the sums of that hour on the days before, days without any call left out.  The robust z is that of
    Iglewicz and Hoaglin: how many deviations from the median, with the median absolute deviation for one.
    """
    if len(earlier) < ANOMALY_DAYS_MIN:
        return None
    usual = Decimal(statistics.median(earlier))
    deviation = Decimal(statistics.median([abs(one - usual) for one in earlier]))
    deviation = max(deviation, usual / 10)  # equal days would make a cent extraordinary
    if spent - usual < ANOMALY_USD_MIN or spent < ANOMALY_TIMES * usual:
        return None
    z = float("inf") if not deviation else MAD_TO_SIGMA * float((spent - usual) / deviation)
    if z < ANOMALY_Z:
        return None
    times = f", {spent / usual:.1f} times the usual" if usual else ""
    return Notice(
        kind="anomaly",
        subject="spend",
        period=hour.isoformat(),
        title=f"{show_usd(spent)} in an hour{times}",
        figures=(
            ("Hour", f"{hour.astimezone(UTC):%a %d %b %H:%M} UTC"),
            ("Usual at this hour", f"{show_usd(usual)} (median of {len(earlier)} days)"),
        ),
        todo="Open the hour to see who spent it.",
        filters={"start": _iso(hour), "end": _iso(hour + HOUR)},
    )


def forecast(
    budget: Budget, window: Window, spent: Decimal, pace_per_hour: Decimal | None, now: datetime
) -> Notice | None:
    """Return the notice that at the pace of the last hour the limit is reached before the window ends."""
    left = budget.limit - spent
    if not pace_per_hour or left <= 0 or spent < FORECAST_SHARE_MIN * budget.limit:
        return None
    remaining_h = Decimal((window.end - now).total_seconds()) / 3600
    if pace_per_hour * remaining_h <= left:
        return None
    full_at = (now + timedelta(hours=float(left / pace_per_hour))).astimezone(ZoneInfo(budget.timezone))
    todo = "This budget only warns."
    if budget.downgrade_to is not None:
        todo = f"Calls will then go to {budget.downgrade_to}."
    elif budget.enforces:
        todo = "Calls that do not fit will then be refused."
    is_today = full_at.date() == now.astimezone(full_at.tzinfo).date()
    told_at = full_at.strftime("%H:%M %Z" if is_today else "%a %d %b %H:%M %Z")
    return Notice(
        kind="forecast",
        subject=budget.name,
        period=window.start.isoformat(),
        title=f"{budget.name} passes 100 % at {told_at}, at this pace",
        figures=(
            ("Spent", f"{_shown(spent, budget)} of {_shown(budget.limit, budget)}"),
            ("Pace", f"{_shown(pace_per_hour, budget)} per hour"),
        ),
        todo=todo,
        filters=dict(budget.scope),
    )


def burn_rate(budget: Budget, window: Window, fast: Decimal, slow: Decimal) -> Notice | None:
    """Return the notice that money goes much faster than the limit can bear.

    ``fast`` and ``slow`` are what was spent in the last 24th and the last 8th of the window's length.
    """
    even_fast, even_slow = budget.limit / BURN_FAST, budget.limit / BURN_SLOW
    if fast < BURN_FAST_TIMES * even_fast or slow < BURN_SLOW_TIMES * even_slow:
        return None
    length = window.end - window.start
    rolled = str(int(window.end.timestamp() // length.total_seconds()))
    return Notice(
        kind="burn_rate",
        subject=budget.name,
        period=window.start.isoformat() if budget.rolling is None else rolled,
        title=f"{budget.name} burns at {fast / even_fast:.0f} times the pace that its limit can bear",
        figures=(
            (f"In the last {_length(length / BURN_FAST)}", _shown(fast, budget)),
            (f"In the last {_length(length / BURN_SLOW)}", _shown(slow, budget)),
            ("Limit", f"{_shown(budget.limit, budget)} for {_length(length)}"),
        ),
        todo="Look at who spends it now.",
        filters=dict(budget.scope),
    )


def _shown(amount: Decimal, budget: Budget) -> str:
    return show_amount(amount, budget.unit)


def _hour(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H")


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _length(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"
