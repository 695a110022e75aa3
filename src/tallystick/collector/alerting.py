"""Watches the budgets after each commit, claims an alert in the journal, and brings it to Slack; never in ingest's way.

A claim is durable before anything is sent, and so is "being sent", and the outcome: whatever moment the collector is
killed at, it knows afterwards what was told and what may have been.
"""

# ruff: noqa: S608 -- what is put into SQL here are columns by name and conditions of query.py; values are bound

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from tallystick.alerts import (
    Alert,
    Context,
    Contributor,
    DearestCall,
    Message,
    Notice,
    Others,
    Spending,
    combined,
    digest_message,
    digest_window,
    due_alert,
    late,
    next_try_at,
    notice_message,
    repeated,
    resolved_message,
    slack_message,
)
from tallystick.alerts.decide import REACHED
from tallystick.alerts.digest import DAY, DAYS_SHOWN
from tallystick.alerts.watch import URGENT
from tallystick.collector import query
from tallystick.collector.apply import Applier
from tallystick.collector.journal import Journal, Position
from tallystick.collector.settings import AlertSettings, Settings
from tallystick.collector.watching import Watching
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError, SettingsError, StoreError, TallystickError
from tallystick.model.budgets import Budget, is_dimension
from tallystick.model.money import show_amount, show_usd
from tallystick.model.segment import Kind
from tallystick.model.windows import Window, window_at

if TYPE_CHECKING:
    from tallystick.alerts.clicks import Clicks

log = logging.getLogger("tallystick.alerts")

HOUR = timedelta(hours=1)
IDLE_S = 0.5
CONTRIBUTORS = 3
CONTRIBUTING = ("feature", "user", "model")
APPLIED_S = 30.0
STOP_S = 2.0
WATCH_EVERY = timedelta(seconds=15)
BEHIND = {
    "auth": timedelta(minutes=10), "failures": timedelta(minutes=10), "unpriced": timedelta(days=1),
    "silent": timedelta(days=7), "anomaly": HOUR, "forecast": HOUR, "burn_rate": HOUR,
}  # fmt: skip
"""How far back the calls go that a notice is about; those of no calls are left out."""
RESOLVED = "resolved"
DIGEST = "digest"
RESOLVED_WITHIN = timedelta(days=1)
"""How late it is still told that a window is over."""
AT_ONCE_MAX = 5
"""When more than so many alerts are due, one message tells of all."""
TEST = Message(
    stands_alone=True,
    text="Tallystick: this is a test. Alerts about budgets will come here.",
    blocks=(
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "*This is a test.* Alerts about budgets will come here."},
        },
    ),
)


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Channel(Protocol):
    """Where messages go."""

    name: str

    def deliver(self, message: Message, alert: str) -> None:
        """Bring ``message`` there; raises DeliveryDelayedError or DeliveryRefusedError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """An alert that is still to be delivered."""

    alert: str
    message: Message
    raised_at: datetime
    attempts: int
    not_before: datetime
    is_ambiguous: bool
    reached: tuple[str, ...]


class Alerting:
    """Two threads: one that looks at the budgets, one that delivers."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        applier: Applier,
        budgets: Callable[[], Sequence[Budget]],
        prices: Callable[[], tuple[str, int | None]],
        raise_limit: Callable[[str], str],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.budgets = budgets
        self.journal = journal
        self.applier = applier
        self.clock = clock
        self.every_s = settings.alerts.every_ms / 1000
        self.dashboard_url = settings.alerts.dashboard_url
        self.quiet = settings.alerts.is_quiet
        self.raise_limit = raise_limit
        self._settings = settings.alerts
        self._channels = _channels(settings.alerts)
        self._clicks = self._bot(settings.alerts)
        self.watching = Watching(self._ask, settings.alerts.watch, prices)
        self._watched_at = datetime.min.replace(tzinfo=UTC)
        self._noticed: set[str] = set()
        """The claims of notices that were told."""
        self._told: dict[tuple[str, str | None], list[tuple[datetime, Decimal]]] = defaultdict(list)
        """By budget and group: the start of the window, and the threshold."""
        self._stopping = threading.Event()
        self._raised = threading.Event()
        self._ready = threading.Event()
        self._upto = Position(0, 0)
        self._threads = [
            threading.Thread(target=self._watch_forever, name="tallystick-budgets", daemon=True),
            threading.Thread(target=self._deliver_forever, name="tallystick-deliver", daemon=True),
        ]

    def start(self) -> None:
        """Begin to watch and deliver; when there is no budget there is nothing to watch."""
        for thread in self._threads:
            thread.start()
        if self._clicks is not None:
            self._clicks.start()

    def stop(self) -> None:
        """End the threads; a message under way is waited for a little, to write down its outcome.

        One that takes longer is left: it is written down that it was being sent, so the next start marks the repeat.
        """
        self._stopping.set()
        if self._clicks is not None:
            self._clicks.stop()
        self.applier.committed.set()
        self._raised.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(STOP_S)

    def channels(self) -> list[str]:
        """Return where alerts go, by name."""
        return [channel.name for channel in self._channels]

    def test(self) -> list[dict[str, Any]]:
        """Send a message that says that it is a test, once, and return what became of it at each channel."""
        return [_tried(channel) for channel in self._channels]

    def acknowledge(self, alert: str) -> dict[str, Any]:
        """Write down that somebody has seen ``alert``; raises NotFoundError when there is none."""
        self._must_exist(alert)
        now = self.clock()
        self._order({"event": "acked", "id": alert, "at": now.isoformat()})
        return {"id": alert, "acked_at": now.isoformat()}

    def snooze(self, alert: str, minutes: int) -> dict[str, Any]:
        """Hold back what is told of the same budget or subject for ``minutes``."""
        self._must_exist(alert)
        now = self.clock()
        until = now + timedelta(minutes=minutes)
        self._order({"event": "snoozed", "id": alert, "at": now.isoformat(), "until": until.isoformat()})
        return {"id": alert, "snoozed_until": until.isoformat()}

    # Slack's bot

    def _bot(self, settings: AlertSettings) -> Clicks | None:
        """Add the bot to the channels, and return what listens to its buttons, if anything does."""
        if settings.slack_bot_token is None or settings.slack_channel is None:
            return None
        from tallystick.alerts.bot import SlackBot  # slack_sdk loads here

        app_token = settings.slack_app_token
        try:
            bot = SlackBot(
                settings.slack_bot_token.get_secret_value(), settings.slack_channel, root_of=self._root_of,
                posted=self._posted, has_buttons=app_token is not None, api_url=settings.slack_api_url,
            )  # fmt: skip
        except ValueError as error:
            raise SettingsError(f"[alerts]: {error}") from error
        self._channels.append(bot)
        if app_token is None:
            return None
        from tallystick.alerts.clicks import Clicks

        return Clicks(app_token.get_secret_value(), settings.slack_api_url, bot, self.clicked)

    def _root_of(self, alert: str) -> tuple[str, str] | None:
        """Return the message that tells of the same window of the same budget and group, if there is one."""
        self.applier.wait_applied(self._upto, APPLIED_S)
        sql = """
            SELECT other.slack_channel, other.slack_ts FROM alerts AS other JOIN alerts AS own ON own.id = ?
            WHERE other.budget = own.budget AND other.budget_group IS NOT DISTINCT FROM own.budget_group
                AND other.window_start = own.window_start AND other.kind IN ('threshold', 'resolved')
                AND own.kind IN ('threshold', 'resolved') AND other.slack_ts IS NOT NULL
            ORDER BY other.raised_at DESC LIMIT 1
        """
        return next(((channel, ts) for channel, ts in self._ask(sql, [alert])), None)

    def _posted(self, alert: str, channel: str, ts: str) -> None:
        self._write({"event": "posted", "id": alert, "channel": channel, "ts": ts})

    def clicked(self, what: str, alert: str) -> str:
        """Do what a button says, and return it in words."""
        try:
            if what == "ack":
                self.acknowledge(alert)
                return "Acknowledged"
            if what == "snooze":
                until = datetime.fromisoformat(self.snooze(alert, 60)["snoozed_until"])
                return f"Snoozed until {until.astimezone(UTC):%H:%M} UTC"
            self._must_exist(alert)
            [[budget]] = self._ask("SELECT budget FROM alerts WHERE id = ?", [alert])
            return self.raise_limit(budget)
        except TallystickError as error:
            return f"Not done: {error}"

    def _must_exist(self, alert: str) -> None:
        if not self._ask("SELECT id FROM alerts WHERE id = ?", [alert]):
            raise query.NotFoundError(f"there is no alert {alert[:40]!r}")

    # Watching

    def _watch_forever(self) -> None:
        while not self._stopping.is_set() and not self.applier.wait_applied(self.journal.end, 1.0):
            continue  # claims that are still to be applied would be raised again
        while not self._stopping.is_set():
            try:
                if not self._ready.is_set():
                    self._recall()
                    self._ready.set()
                self.look(self.clock())
            except (StoreError, OSError) as error:
                log.warning("the budgets cannot be looked at now: %s", error)
            self.applier.committed.wait(timeout=30.0)
            self.applier.committed.clear()
            self._stopping.wait(self.every_s)

    def _recall(self) -> None:
        sql = "SELECT budget, budget_group, window_start, threshold FROM alerts WHERE kind = 'threshold'"
        for budget, group, start, threshold in self._ask(sql):
            self._told[budget, group].append((start.replace(tzinfo=UTC), Decimal(threshold)))
        self._noticed = {row[0] for row in self._ask("SELECT id FROM alerts WHERE kind <> 'threshold'")}

    def look(self, now: datetime) -> None:
        """Raise what is due at ``now``."""
        for budget in self.budgets():
            window = window_at(budget, now)
            refused = query.refused(self._ask, budget, window) if budget.enforces else {}
            least = Decimal(0) if refused else budget.thresholds[0] * budget.limit
            found = dict.fromkeys(refused, (Decimal(0), 0)) | query.spent(self._ask, budget, window, least)
            for group, (spent, unpriced_units) in found.items():
                # A group's alert is that of a budget for its values alone.
                name = json.dumps(dict(zip(budget.group_by, group, strict=True))) if group else None
                told = self._told[budget.name, name]
                alert = due_alert(
                    budget.narrowed(group), window, spent, _in_force(budget, window, told), refused.get(group)
                )
                if alert is not None:
                    alert = replace(alert, group=group)
                    self._raise(alert, name, unpriced_units, now)
                    told.append((window.start, alert.threshold))
            self._resolve(budget, now)
        if now - self._watched_at >= WATCH_EVERY:
            self._watched_at = now
            self._digest(now)
            for notice in self.watching.notices(now, self.budgets()):
                self._notice(notice, now)

    def _resolve(self, budget: Budget, now: datetime) -> None:
        """Tell of windows of the calendar whose limit was reached that they are over."""
        if budget.rolling is not None:
            return
        for (name, group), told in list(self._told.items()):
            for start in {start for start, threshold in told if name == budget.name and threshold >= REACHED}:
                window = window_at(budget, start)
                if window.end <= now < window.end + RESOLVED_WITHIN:
                    self._tell_resolved(budget, group, window, now)

    def _tell_resolved(self, budget: Budget, group: str | None, window: Window, now: datetime) -> None:
        values = tuple(json.loads(group)[name] for name in budget.group_by) if group else ()
        own = budget.narrowed(values)
        claim = notice_id(Notice(kind=RESOLVED, subject=f"{budget.name}\n{group}", period=str(window.start), title=""))
        if claim in self._noticed:
            return
        self._noticed.add(claim)
        spent, _ = query.spent(self._ask, own, window).get((), (Decimal(0), 0))
        alert = Alert(budget=own, window=window, threshold=REACHED, spent=spent, group=values)
        context = Context(at=now, dashboard_url=self.dashboard_url)
        self._claim(
            claim,
            alert,
            group,
            now,
            resolved_message(alert, context),
            kind=RESOLVED,
            title=f"{budget.name}: a new {budget.window} has begun",
        )

    def _digest(self, now: datetime) -> None:
        """Tell what was spent in the last day or week, once."""
        window = digest_window(self._settings.digest, self._settings.digest_at, self._settings.timezone, now)
        if window is None:
            return
        claim = notice_id(Notice(kind=DIGEST, subject=self._settings.digest, period=str(window.start), title=""))
        if claim in self._noticed:
            return
        told = self._spending(window, now)
        if told is None:
            return
        self._noticed.add(claim)
        message = digest_message(*told)
        self._write({
            "event": "raised", "id": claim, "at": now.isoformat(), "kind": DIGEST, "title": message.text,
            "budget": self._settings.digest, "window_start": window.start.isoformat(),
            "window_end": window.end.isoformat(), "threshold": "", "limit_usd": "", "spent_usd": "",
            "message": _packed(message if self._channels else None),
        })  # fmt: skip
        self._raised.set()

    def _spending(self, window: Window, now: datetime) -> tuple[Spending, Context] | None:
        """Return what a digest tells; None when there was no call, in ``window`` and in the one before."""
        everything = Budget(name="all", limit_usd=Decimal(1))

        def counted(start: datetime, end: datetime) -> tuple[Decimal, int, int]:
            where, values = query.scope_where(everything, start, end)
            sql = f"""
                SELECT coalesce(sum(cost_usd), 0), count(*), count_if(outcome NOT IN ('ok', 'abandoned', 'cancelled'))
                FROM calls WHERE {where}
            """
            [(spent, calls, failed)] = self._ask(sql, values)
            return Decimal(spent), calls, failed

        spent, calls, failed = counted(window.start, window.end)
        before, calls_before, _ = counted(window.start - (window.end - window.start), window.start)
        if not (calls or calls_before):
            return None
        firsts = [window.end - day * DAY for day in range(DAYS_SHOWN, 0, -1)]
        days = [(first.date(), counted(first, first + DAY)[0]) for first in firsts]
        where, values = query.scope_where(everything, window.start, window.end)
        context = Context(
            at=now, dashboard_url=self.dashboard_url, contributors=self._contributors(everything, where, values),
            dearest_call=self._dearest_call(where, values),
        )  # fmt: skip
        return Spending(window=window, spent=spent, before=before, calls=calls, failed=failed, days=days), context

    def _notice(self, notice: Notice, now: datetime) -> None:
        claim = notice_id(notice)
        if claim in self._noticed:
            return
        self._noticed.add(claim)
        message = notice_message(notice, self._notice_context(notice, now)) if self._channels else None
        self._write({
            "event": "raised", "id": claim, "at": now.isoformat(), "kind": notice.kind, "title": notice.title,
            "budget": notice.subject, "window_start": now.isoformat(), "window_end": now.isoformat(),
            "threshold": "", "limit_usd": "", "spent_usd": "", "message": _packed(message),
        })  # fmt: skip
        self._raised.set()

    def _notice_context(self, notice: Notice, now: datetime) -> Context:
        """Return what the calls that a notice is about cost, how fast they come, and whose they are."""
        if notice.kind not in BEHIND:
            return Context(at=now, dashboard_url=self.dashboard_url)
        length = BEHIND[notice.kind]
        start = datetime.fromisoformat(notice.period) if notice.kind == "anomaly" else now - length
        scope = {name: value for name, value in notice.filters.items() if is_dimension(name)}
        about = Budget(name="calls", limit_usd=Decimal(1), scope=scope)
        where, values = query.scope_where(about, start, start + length)
        if (outcome := notice.filters.get("outcome")) is not None:
            where, values = f"{where} AND outcome = ?", [*values, outcome]
        [[calls, spent]] = self._ask(f"SELECT count(*), coalesce(sum(cost_usd), 0) FROM calls WHERE {where}", values)
        hours = Decimal(length // timedelta(minutes=1)) / 60
        return Context(
            at=now,
            dashboard_url=self.dashboard_url,
            behind=(
                ("It is about", f"{show_amount(calls, 'calls')}, {show_usd(spent)}"),
                ("Pace", f"{show_amount(calls / hours, 'calls')} and {show_usd(spent / hours)} per hour"),
            ),
            contributors=self._contributors(about, where, values, by_calls=True),
            dearest_call=self._dearest_call(where, values),
        )

    def _raise(self, alert: Alert, group: str | None, unpriced_units: int, now: datetime) -> None:
        message = slack_message(alert, self._context(alert, unpriced_units, now))
        self._claim(alert_id(alert, group), alert, group, now, message)

    def _claim(self, claim: str, alert: Alert, group: str | None, now: datetime, message: Message, **more: str) -> None:
        """Write down what is to be told about a window of a budget."""
        self._write(
            {
                "event": "raised",
                "id": claim,
                "at": now.isoformat(),
                "budget": alert.budget.name,
                "window_start": alert.window.start.isoformat(),
                "window_end": alert.window.end.isoformat(),
                "threshold": str(alert.threshold),
                "limit_usd": str(alert.limit),
                "spent_usd": str(alert.spent),
                "unit": alert.budget.unit,
                "group": group,
                "message": _packed(message if self._channels else None),
                **more,
            }
        )
        self._raised.set()

    def _context(self, alert: Alert, unpriced_units: int, now: datetime) -> Context:
        budget, window = alert.budget, alert.window
        where, values = query.scope_where(budget, window.start, window.end)
        return Context(
            at=now,
            dashboard_url=self.dashboard_url,
            pace_per_hour=self._pace(budget, window, now),
            contributors=self._contributors(budget, where, values),
            dearest_call=self._dearest_call(where, values),
            unpriced_units=unpriced_units,
            price_version=self._price_version(where, values),
        )

    def _pace(self, budget: Budget, window: Window, now: datetime) -> Decimal | None:
        start = max(window.start, now - HOUR)
        elapsed_s = Decimal((now - start).total_seconds())
        if elapsed_s <= 0:
            return None
        spent, _ = query.spent(self._ask, budget, Window(start, now))[()]
        return spent * 3600 / elapsed_s

    def _contributors(
        self, budget: Budget, where: str, values: list[Any], *, by_calls: bool = False
    ) -> tuple[Contributor, ...]:
        """Return the dearest values of the first dimension that tells calls apart and is not fixed by the scope.

        ``by_calls`` has calls that cost nothing count too, as those that failed.
        """
        counted = "" if by_calls else "AND cost_usd > 0"
        for dimension in CONTRIBUTING:
            if dimension in budget.scope:
                continue
            column = query.COLUMNS[dimension]
            sql = f"""
                SELECT coalesce({column}, ''), coalesce(sum(cost_usd), 0), count(*) FROM calls WHERE {where} {counted}
                GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1 LIMIT {CONTRIBUTORS}
            """
            rows = self._ask(sql, values)
            if any(value for value, *_ in rows):
                return tuple(
                    Contributor(dimension=dimension, value=value, spend_usd=spent, calls=calls if by_calls else None)
                    for value, spent, calls in rows
                )
        return ()

    def _dearest_call(self, where: str, values: list[Any]) -> DearestCall | None:
        sql = f"""
            SELECT id, cost_usd, coalesce(model, ''), started_at FROM calls WHERE {where} AND cost_usd > 0
            ORDER BY cost_usd DESC, started_at LIMIT 1
        """
        for call_id, cost_usd, model, at in self._ask(sql, values):
            return DearestCall(id=call_id, cost_usd=cost_usd, model=model, at=at.replace(tzinfo=UTC))
        return None

    def _price_version(self, where: str, values: list[Any]) -> str | None:
        sql = f"""
            SELECT max(price_version) FROM units
            WHERE (trace_id, call_id) IN (SELECT (trace_id, id) FROM calls WHERE {where})
        """
        version: str | None = self._ask(sql, values)[0][0]
        return version

    # Delivering

    def _deliver_forever(self) -> None:
        while not self._stopping.is_set():
            wait_s = IDLE_S
            if self._channels and self._ready.is_set():
                try:
                    self._deliver_due()
                except (StoreError, OSError) as error:
                    log.warning("alerts cannot be delivered now: %s", error)
                    wait_s = 2.0
            self._raised.wait(wait_s)
            self._raised.clear()

    def _deliver_due(self) -> None:
        """Send, oldest first, what may be sent now; one that has to wait holds up those behind it, for the order."""
        if not self.applier.wait_applied(self._upto, APPLIED_S):
            return
        due = []
        for one in self._outbox():
            if one.not_before > self.clock():
                break
            due.append(one)
        if len(due) > AT_ONCE_MAX:
            self._deliver_together(due)
            return
        for one in due:
            message = late(one.message, one.raised_at, self.clock())
            if self._stopping.is_set() or not self._deliver([one], message):
                return

    def _outbox(self) -> list[_Waiting]:
        """Return what waits, oldest first, without what is snoozed or has to wait for the end of quiet hours."""
        sql = """
            SELECT alert_id, message, raised_at, outbox.attempts, not_before, is_ambiguous, reached, kind, threshold
            FROM outbox JOIN alerts ON alerts.id = alert_id WHERE NOT EXISTS (
                FROM alerts AS other WHERE other.kind = alerts.kind AND other.budget = alerts.budget
                AND other.snoozed_until > ?
            ) ORDER BY raised_at, alert_id
        """
        now = self.clock()
        found = []
        for alert, text, raised_at, attempts, not_before, is_ambiguous, reached, kind, threshold in self._ask(
            sql, [now.astimezone(UTC).replace(tzinfo=None)]
        ):
            is_urgent = kind in URGENT or (kind == "threshold" and Decimal(threshold) >= 1)
            if self.quiet(now) and not is_urgent:
                continue
            content = json.loads(text)
            found.append(
                _Waiting(
                    alert=alert,
                    message=Message(
                        text=content["text"],
                        blocks=tuple(content["blocks"]),
                        stands_alone=content.get("alone", False),
                        chart=tuple(map(tuple, content.get("chart", ()))),
                    ),
                    raised_at=raised_at.replace(tzinfo=UTC),
                    attempts=attempts,
                    not_before=not_before.replace(tzinfo=UTC),
                    is_ambiguous=is_ambiguous,
                    reached=tuple(reached or ()),
                )
            )
        return found

    def _deliver_together(self, due: Sequence[_Waiting]) -> None:
        """Send one message for many, and write down of each of them what became of it."""
        first = due[0]
        alike = [one for one in due if one.reached == first.reached]
        message = combined([one.message for one in alike], self.dashboard_url)
        self._deliver(alike, late(message, first.raised_at, self.clock()))

    def _deliver(self, waiting: Sequence[_Waiting], message: Message) -> bool:
        """Bring one message to every channel that does not have it; False when one of them has to be tried again.

        ``waiting`` are the alerts that it tells of; all have reached the same channels so far.
        """
        first = waiting[0]
        left = [channel for channel in self._channels if channel.name not in first.reached]
        may_have_arrived = any(one.is_ambiguous for one in waiting)
        refusals = []
        for channel in left:
            at = self.clock().isoformat()
            self._write_of(waiting, {"event": "sending", "at": at})
            try:
                channel.deliver(repeated(message) if may_have_arrived else message, first.alert)
            except DeliveryDelayedError as error:
                not_before = next_try_at(first.attempts + 1, self.clock(), error.retry_after_s)
                # Once a message may have arrived, every later one is a possible repeat.
                self._write_of(waiting, {
                    "event": "delayed", "at": self.clock().isoformat(), "error": str(error),
                    "not_before": not_before.isoformat(), "is_ambiguous": error.ambiguous or may_have_arrived,
                })  # fmt: skip
                return False
            except DeliveryRefusedError as error:
                log.warning("an alert was not delivered: %s", error)
                refusals.append(str(error))
            if channel is not left[-1]:
                self._write_of(waiting, {"event": "reached", "at": at, "channel": channel.name})
                may_have_arrived = False
        outcome: dict[str, Any] = {"event": "delivered", "at": self.clock().isoformat()}
        if refusals:
            outcome |= {"event": "refused", "error": "; ".join(refusals)}
        self._write_of(waiting, outcome)
        return True

    def _write(self, event: dict[str, Any]) -> None:
        self._upto = max(self._upto, self._append(event).result())

    def _order(self, event: dict[str, Any]) -> None:
        """Write down what somebody orders, and wait for it to be in the tables: they will look at once."""
        self._write(event)
        self.applier.wait_applied(self._upto, APPLIED_S)

    def _write_of(self, waiting: Sequence[_Waiting], event: dict[str, Any]) -> None:
        """Write down the same of many alerts; it is durable of all of them when this returns."""
        for written in [self._append(event | {"id": one.alert}) for one in waiting]:
            self._upto = max(self._upto, written.result())

    def _append(self, event: dict[str, Any]) -> Future[Position]:
        return self.journal.append(Kind.ALERT, json.dumps(event).encode())

    def _ask(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self.applier.ask(sql, params)


def _in_force(budget: Budget, window: Window, told: Sequence[tuple[datetime, Decimal]]) -> list[Decimal]:
    """Return the thresholds that were told in ``window``, of a rolling one in the last one of its length."""
    if budget.rolling is None:
        return [threshold for start, threshold in told if start == window.start]
    return [threshold for start, threshold in told if start + budget.rolling > window.start]


def alert_id(alert: Alert, group: str | None = None) -> str:
    """Return what names the claim: one per budget, group, window and threshold."""
    claim = f"{alert.budget.name}\n{alert.window.start.isoformat()}\n{alert.threshold.normalize()}"
    claim += f"\n{group}" if group else ""
    return hashlib.sha256(claim.encode()).hexdigest()[:16]


def notice_id(notice: Notice) -> str:
    """Return what names the claim of a notice: one per kind, subject and period."""
    return hashlib.sha256(f"{notice.kind}\n{notice.subject}\n{notice.period}".encode()).hexdigest()[:16]


def _packed(message: Message | None) -> str | None:
    if message is None:
        return None
    told = {"text": message.text, "blocks": message.blocks, "alone": message.stands_alone, "chart": message.chart}
    return json.dumps(told)


def _tried(channel: Channel) -> dict[str, Any]:
    error = None
    try:
        channel.deliver(TEST, "test")
    except (DeliveryDelayedError, DeliveryRefusedError) as failed:
        error = str(failed)
    return {"channel": channel.name, "delivered": error is None, "error": error}


def _channels(settings: AlertSettings) -> list[Channel]:
    channels: list[Channel] = []
    try:
        if settings.slack_webhook_url is not None:
            from tallystick.alerts.deliver import Slack  # slack_sdk loads here

            channels.append(Slack(settings.slack_webhook_url.get_secret_value()))
        if settings.webhook_url is not None:
            from tallystick.alerts.webhook import Webhook  # slack_sdk loads here

            secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
            channels.append(Webhook(settings.webhook_url.get_secret_value(), secret))
        if settings.apprise_urls:
            channels.append(Others([url.get_secret_value() for url in settings.apprise_urls]))
    except ValueError as error:
        raise SettingsError(f"[alerts]: {error}") from error
    return channels
