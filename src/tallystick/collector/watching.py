"""Counts what `tallystick.alerts.watch` decides over: one question for each kind of notice."""

# ruff: noqa: S608 -- what is put into SQL here are conditions of query.py and constants; values are bound

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.alerts import watch
from tallystick.alerts.watch import Notice
from tallystick.collector import query
from tallystick.model.budgets import Budget
from tallystick.model.failures import Outcome
from tallystick.model.windows import Window, window_at

Ask = Callable[..., list[tuple[Any, ...]]]

HOUR = timedelta(hours=1)
RECENT = timedelta(minutes=10)
WEEK = timedelta(days=7)
EARLIER_DAYS = 14
OURS = (Outcome.OK, Outcome.AUTH, Outcome.CANCELLED, Outcome.ABANDONED, Outcome.BUDGET_BLOCKED)
"""What is no fault of a provider: success, a wrong key, and what the app or a budget ended."""


class Watching:
    """Looks at the ledger for notices of ``kinds``; dear questions are asked seldom."""

    def __init__(self, ask: Ask, kinds: Sequence[str], prices: Callable[[], tuple[str, int | None]]) -> None:
        self.ask = ask
        self.kinds = frozenset(kinds)
        self.prices = prices
        self._dropped: Mapping[str, int] | None = None
        """What had been dropped when the collector began to look."""
        self._silence_at = self._hour_at = datetime.min.replace(tzinfo=UTC)

    def notices(self, now: datetime, budgets: Sequence[Budget]) -> Iterator[Notice]:
        """Yield what is to be told at ``now``; the caller knows what was told already."""
        found = [*self._failing(now), *self._unpriced(now), self._old_prices(now), *self._losses(now)]
        found += [*self._silent(now), self._odd_hour(now), *self._budgets(now, budgets)]
        yield from (notice for notice in found if notice is not None and notice.kind in self.kinds)

    def _failing(self, now: datetime) -> Iterator[Notice | None]:
        sql = """
            SELECT coalesce(provider, ''), outcome, count(*), max(coalesce(service, '')) FROM calls
            WHERE started_at >= ? GROUP BY ALL ORDER BY 1, 3 DESC, 2
        """
        by_provider: dict[str, list[tuple[str, int, str]]] = {}
        for provider, outcome, count, service in self.ask(sql, [_naive(now - RECENT)]):
            by_provider.setdefault(provider, []).append((outcome, count, service))
        for provider, rows in by_provider.items():
            refused = [(count, service) for outcome, count, service in rows if outcome == Outcome.AUTH]
            if refused:
                yield watch.failing_key(provider, refused[0][0], refused[0][1], now)
            failed = [(outcome, count) for outcome, count, _ in rows if outcome not in OURS]
            if failed:
                calls = sum(count for outcome, count, _ in rows if outcome != Outcome.AUTH)
                yield watch.failing_provider(provider, calls, sum(count for _, count in failed), failed[0][0], now)

    def _unpriced(self, now: datetime) -> Iterator[Notice]:
        sql = """
            SELECT coalesce(units.provider, ''), coalesce(units.model, ''), count(*)
            FROM calls JOIN units ON units.trace_id = calls.trace_id AND units.call_id = calls.id
            WHERE started_at >= ? AND unpriced_units > 0 AND units.cost_status = 'unknown'
            GROUP BY ALL ORDER BY 3 DESC LIMIT 20
        """
        for provider, model, answers in self.ask(sql, [_naive(now - timedelta(days=1))]):
            yield watch.unpriced_model(provider, model, answers)

    def _old_prices(self, now: datetime) -> Notice | None:
        version, age_days = self.prices()
        return watch.old_prices(version, age_days, now)

    def _losses(self, now: datetime) -> Iterator[Notice | None]:
        sql = "SELECT name, count FROM counters WHERE name LIKE 'dropped:%'"
        counts = {name.removeprefix("dropped:"): count for name, count in self.ask(sql)}
        before = counts if self._dropped is None else self._dropped
        self._dropped = counts
        for reason, count in counts.items():
            yield watch.dropped_records(reason, before.get(reason, 0), count, now)

    def _silent(self, now: datetime) -> Iterator[Notice | None]:
        if "silent" not in self.kinds or now - self._silence_at < RECENT:
            return
        self._silence_at = now
        sql = """
            SELECT service, count(*), max(pause), max(started_at) FROM (
                SELECT service, started_at, started_at - lag(started_at) OVER (
                    PARTITION BY service ORDER BY started_at
                ) AS pause FROM calls WHERE started_at >= ? AND service IS NOT NULL
            ) GROUP BY service
        """
        for service, calls, pause, last in self.ask(sql, [_naive(now - WEEK)]):
            yield watch.silent_service(service, calls, pause or WEEK, last.replace(tzinfo=UTC), now)

    def _odd_hour(self, now: datetime) -> Notice | None:
        hour = now.replace(minute=0, second=0, microsecond=0) - HOUR
        if "anomaly" not in self.kinds or hour <= self._hour_at:
            return None
        self._hour_at = hour
        starts = [hour - timedelta(days=day) for day in range(EARLIER_DAYS + 1)]
        hours = ", ".join("?" * len(starts))
        sql = f"""
            SELECT date_trunc('hour', started_at), coalesce(sum(cost_usd), 0) FROM calls
            WHERE started_at >= ? AND started_at < ? AND date_trunc('hour', started_at) IN ({hours}) GROUP BY 1
        """
        values = [_naive(starts[-1]), _naive(hour + HOUR), *map(_naive, starts)]
        spent = {at.replace(tzinfo=UTC): Decimal(amount) for at, amount in self.ask(sql, values)}
        return watch.odd_hour(hour, spent.pop(hour, Decimal(0)), list(spent.values()))

    def _budgets(self, now: datetime, budgets: Sequence[Budget]) -> Iterator[Notice | None]:
        for budget in budgets if self.kinds & {"forecast", "burn_rate"} else ():
            window = window_at(budget, now)
            # Below a quarter of the limit a pace is mostly chance, also that of a group.
            for group in query.spent(self.ask, budget, window, watch.FORECAST_SHARE_MIN * budget.limit):
                own = budget.narrowed(group)
                if group:
                    own = dataclasses.replace(own, name=f"{budget.name} ({', '.join(group)})")
                yield from self._pace(now, own, window)

    def _pace(self, now: datetime, budget: Budget, window: Window) -> Iterator[Notice | None]:
        def spent_since(start: datetime) -> Decimal:
            found = query.spent(self.ask, budget, Window(max(start, window.start), now))
            return found[()][0] if () in found else Decimal(0)

        if budget.rolling is None:  # what rolls has no end that a forecast could speak of
            elapsed_h = Decimal(min(now - window.start, HOUR) / HOUR)
            pace = spent_since(now - HOUR) / elapsed_h if elapsed_h else None
            yield watch.forecast(budget, window, spent_since(window.start), pace, now)
        length = window.end - window.start
        fast, slow = spent_since(now - length / watch.BURN_FAST), spent_since(now - length / watch.BURN_SLOW)
        yield watch.burn_rate(budget, window, fast, slow)


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
