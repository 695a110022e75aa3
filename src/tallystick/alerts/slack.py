"""An alert as a Slack message: what was spent, why, and what happens next."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from tallystick.model.money import show_amount, show_usd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tallystick.alerts.decide import Alert
    from tallystick.alerts.watch import Notice

API_URL = "https://slack.com/api"
# Slack refuses a whole message with invalid_blocks when one of its limits is passed.
# Source: Block Kit reference, and the validators in slack_sdk 3.47.0, models/blocks.
HEADER_CHARS_MAX = 150
SECTION_CHARS_MAX = 3000
URL_CHARS_MAX = 900
"""Ours, below Slack's 3,000: three links share one section."""
NAME_CHARS_MAX = 60
GROUP_CHARS_MAX = 40
LINES_MAX = 15
"""In a section of a message that tells of many; each may be as long as a header."""
DIGEST_LINES_MAX = 150
SHOWN_MAX = 3
"""How many contributors, and parts of a scope, are named."""

CENT = Decimal("0.01")
MINUTE = timedelta(minutes=1)
LATE = timedelta(minutes=5)
REPEATED = "(repeated: the first answer was lost)"

Block = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributor:
    """One value of a dimension and its part of the spend in the window."""

    dimension: str
    """``model``, ``feature``, ``user`` ... or ``tag.NAME``."""
    value: str
    """Empty for the calls without one."""
    spend_usd: Decimal
    calls: int | None = None
    """Told where a sum of money says little, as of calls that fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DearestCall:
    """The call in the window that cost the most."""

    id: str
    cost_usd: Decimal
    model: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known around an alert when its message is written."""

    at: datetime
    """Now; when it lies behind the alert's window, the message says that it is late."""
    dashboard_url: str | None = None
    """Where the dashboard is served, without a path; None leaves the links out."""
    pace_per_hour: Decimal | None = None
    """What went in the last hour (or in the window, when it is younger), in the budget's unit; None when not known."""
    behind: tuple[tuple[str, str], ...] = ()
    """How many calls a notice is about, what they cost, and the pace, as further figures."""
    contributors: tuple[Contributor, ...] = ()
    """Dearest first; the first three are shown."""
    dearest_call: DearestCall | None = None
    unpriced_units: int = 0
    """Answers in the window without a known price; they are in no sum."""
    price_version: str | None = None
    """The day of the price book, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message for Slack: ``blocks`` are what is seen, ``text`` is for notifications and screen readers."""

    text: str
    blocks: tuple[Block, ...]
    stands_alone: bool = False
    """Whether it is of no single alert, so that no message of an alert can be changed into it."""
    chart: tuple[tuple[str, str], ...] = ()
    """Labels and amounts in USD, for a picture where one can be shown."""


def slack_message(alert: Alert, context: Context) -> Message:
    """Return the message that tells ``alert``.

    Names come from spans, so from anybody: they are cut, and shown such that no markup, link or mention in them works.
    The links are text, because Slack puts a warning sign on a button of an incoming webhook once it was clicked
    (slackapi/slack-github-action#513).
    """
    told = _Told(alert, context)
    blocks = (
        {"type": "header", "text": {"type": "plain_text", "text": told.header(), "emoji": True}},
        section(told.opening()),
        {"type": "section", "fields": [mrkdwn(f"*{name}*\n{value}") for name, value in told.figures()]},
        *(section(text) for text in (told.why(), told.outlook(), told.links()) if text),
        {"type": "context", "elements": [mrkdwn(told.footing())]},
    )
    return Message(text=told.fallback(), blocks=blocks)


def resolved_message(alert: Alert, context: Context) -> Message:
    """Return the message that the window of ``alert``, whose limit was reached, is over and another one has begun."""
    told = _Told(alert, context)
    budget = alert.budget
    header = f"✅ {told.name(NAME_CHARS_MAX + GROUP_CHARS_MAX)}: a new {budget.window} has begun"
    spent = f"{told.spent()} were spent {told.when()}"
    goes = "It counts from 0 again."
    if budget.downgrade_to is not None:
        goes = "Calls go to the model that they ask for again."
    elif budget.enforces:
        goes = "Calls go again."
    blocks = (
        {"type": "header", "text": {"type": "plain_text", "text": header, "emoji": True}},
        section(f"*Resolved:* {spent}, and the limit was reached. {goes}"),
        *([section(links)] if (links := told.links()) else []),
        {"type": "context", "elements": [mrkdwn(told.footing())]},
    )
    return Message(text=f"{header}. {spent}. {goes}", blocks=blocks)


def notice_message(notice: Notice, context: Context) -> Message:
    """Return the message that tells ``notice``; names are shown as in `slack_message`."""
    emoji = "🚨" if notice.is_urgent else "⚠️"
    title = f"{emoji} {_plain(notice.title, HEADER_CHARS_MAX - 10)}"
    told_figures = dict(notice.figures)
    told_figures |= {name: value for name, value in context.behind if name not in told_figures}
    figures = [(_plain(name), _plain(value)) for name, value in told_figures.items()]
    parts = [section(_plain(notice.todo, SECTION_CHARS_MAX))] if notice.todo else []
    if found := contributions(context):
        parts.append(section("\n".join(["*Where it went*", *found])))
    if link := _notice_link(notice, context):
        parts.append(section(link))
    counted: Block = {"type": "section", "fields": [mrkdwn(f"*{name}*\n{value}") for name, value in figures]}
    blocks: tuple[Block, ...] = (
        {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": True}},
        *([counted] if figures else []),
        *parts,
        {"type": "context", "elements": [mrkdwn(f"{context.at.astimezone(UTC):%a %d %b %H:%M} UTC")]},
    )
    told = "; ".join(f"{name}: {value}" for name, value in figures)
    return Message(text=". ".join(part for part in (title, told, _plain(notice.todo, 300)) if part), blocks=blocks)


def contributions(context: Context) -> list[str]:
    """Return a line for each of the three who spent most, and one for the dearest call."""
    lines = [
        f"{number}. {_filter(one.dimension, one.value)}: {show_usd(one.spend_usd)}{_of_calls(one)}"
        for number, one in enumerate(context.contributors[:SHOWN_MAX], start=1)
    ]
    if call := context.dearest_call:
        lines.append(f"Dearest call: {show_usd(call.cost_usd)}, {_code(call.model)}, {_code(call.id)}")
    return lines


def _of_calls(one: Contributor) -> str:
    return "" if one.calls is None else f" ({one.calls:,} {'call' if one.calls == 1 else 'calls'})"


def _notice_link(notice: Notice, context: Context) -> str:
    base = base_url(context.dashboard_url)
    if not base:
        return ""
    if not notice.filters:
        return f"<{_escape(f'{base}/settings')}|Open the settings page>"
    link = f"<{_escape(_url(base, 'calls', notice.filters))}|Open these calls>"
    return link if _size(link) <= URL_CHARS_MAX else ""


def base_url(url: str | None) -> str:
    """Return where the dashboard is, for links; empty when that is no URL that may stand in one."""
    base = (url or "").rstrip("/")
    return "" if not base.startswith(("http://", "https://")) or any(char in base for char in ' <>|"\n') else base


def combined(messages: Sequence[Message], dashboard_url: str | None) -> Message:
    """Return one message for many that are due at once: a line for each."""
    lines = [f"• {message.blocks[0]['text']['text']}" for message in messages[:DIGEST_LINES_MAX]]
    if len(messages) > DIGEST_LINES_MAX:
        lines.append(f"… and {len(messages) - DIGEST_LINES_MAX} more")
    base = base_url(dashboard_url)
    blocks: list[Block] = [
        {"type": "header", "text": {"type": "plain_text", "text": f"⚠️ {len(messages)} alerts at once", "emoji": True}},
        *(section("\n".join(lines[at : at + LINES_MAX])) for at in range(0, len(lines), LINES_MAX)),
    ]
    if base:
        blocks.append(section(f"<{_escape(f'{base}/budgets')}|Open the alerts>"))
    return Message(
        text=f"{len(messages)} alerts at once: {'; '.join(lines)}"[:SECTION_CHARS_MAX],
        blocks=tuple(blocks),
        stands_alone=True,
    )


def repeated(message: Message) -> Message:
    """Return ``message`` marked as possibly the second of its kind: whether the first arrived is not known."""
    if message.text.endswith(REPEATED):
        return message
    mark: Block = {"type": "context", "elements": [mrkdwn(REPEATED)]}
    return replace(message, text=f"{message.text} {REPEATED}", blocks=(*message.blocks, mark))


def late(message: Message, written_at: datetime, now: datetime) -> Message:
    """Return ``message`` as it should be sent ``now``: one that had to wait says since when, as its "today" is another.

    A message of less than `LATE` is returned as it is.
    """
    waited = now - written_at
    if waited < LATE:
        return message
    note = f"(late: written {written_at.astimezone(UTC):%a %d %b %H:%M} UTC, {_duration(waited)} ago)"
    mark: Block = {"type": "context", "elements": [mrkdwn(note)]}
    return replace(message, text=f"{note} {message.text}", blocks=(message.blocks[0], mark, *message.blocks[1:]))


@dataclass(frozen=True, slots=True)
class _Told:
    """The sentences about one alert; everything in them is ready for Slack."""

    alert: Alert
    context: Context

    def header(self) -> str:
        """Return ``chat: 80 % of $10.00 spent today``; the name gives way when it is too long."""
        emoji, _ = _level(self.alert)
        rest = f": {_percent(self.alert.share)} % of {self._shown(self.alert.limit)} spent {self.when()}"
        return f"{emoji} {self.name(HEADER_CHARS_MAX - _size(f'{emoji} {rest}'))}{rest}"

    def name(self, chars_max: int) -> str:
        """Return the budget's name, and which group of it: many of them may be told at the same time."""
        budget, group = self.alert.budget, self.alert.group
        if not group:
            return _plain(budget.name, min(chars_max, NAME_CHARS_MAX))
        keys = list(budget.scope)[-len(group) :]
        values = [value or f"no {key}" for key, value in zip(keys, group, strict=True)]
        shown = f" ({_plain(', '.join(values), GROUP_CHARS_MAX)})"
        return f"{_plain(budget.name, min(chars_max - _size(shown), NAME_CHARS_MAX))}{shown}"

    def opening(self) -> str:
        _, level = _level(self.alert)
        threshold = f"{_exact_percent(self.alert.threshold)} %"
        if (refused := self.alert.refused) is not None:
            calls = f"{refused.calls:,} {'call' if refused.calls == 1 else 'calls'}"
            sum_ = refused.spent + refused.reserved + refused.needed
            return (
                f"*{level}:* budget {_code(self.alert.budget.name)} refused {calls} that had no room. The last one: "
                f"{self._summed(refused.spent)} spent + {self._summed(refused.reserved)} reserved + "
                f"{self._summed(refused.needed)} at most = {self._summed(sum_)} of {self._summed(self.alert.limit)}. "
                f"{self._scope()}"
            )
        return f"*{level}:* budget {_code(self.alert.budget.name)} passed {threshold} of its limit. {self._scope()}"

    def spent(self) -> str:
        alert = self.alert
        spent = self._shown(alert.spent) if alert.budget.unit == "usd" else f"{alert.spent:,.0f}"
        return f"{spent} of {self._shown(alert.limit)} ({_percent(alert.share)} %)"

    def figures(self) -> list[tuple[str, str]]:
        alert, left = self.alert, self.alert.limit - self.alert.spent
        spent = self.spent()
        rest = ("Over by", self._shown(-left)) if left < 0 else ("Left", self._shown(left))
        if self._is_late():
            return [("Spent", spent), rest, ("Window", f"over since {self._stamp(alert.window.end)}")]
        if alert.budget.rolling is not None:
            hours = alert.budget.rolling // timedelta(hours=1)
            return [("Spent", spent), rest, ("Pace", self._pace(left)), ("Window", f"the last {hours} h, rolling")]
        resets = f"{_duration(alert.window.end - self.context.at)} ({self._stamp(alert.window.end)})"
        return [("Spent", spent), rest, ("Pace", self._pace(left)), ("Resets in", resets)]

    def why(self) -> str:
        shown, more = self.context.contributors[:SHOWN_MAX], len(self.context.contributors) - SHOWN_MAX
        lines = [f"{number}. {self._contributor(one)}" for number, one in enumerate(shown, start=1)]
        if more > 0:
            lines.append(f"… and {more} more")
        if call := self.context.dearest_call:
            at = self._stamp(call.at)
            lines.append(f"Dearest call: {show_usd(call.cost_usd)}, {_code(call.model)}, {at}, {_code(call.id)}")
        return "\n".join(["*Where it went*", *lines]) if lines else ""

    def outlook(self) -> str:
        later = [share for share in self.alert.budget.thresholds if share > self.alert.threshold]
        following = (
            f"The next message comes at {_exact_percent(later[0])} %."
            if later
            else ("This was the last message about this window.")
        )
        if self._is_late():
            return "*What happens now:* nothing; the window is over, and this message could not be delivered before."
        when = "What happens now" if self.alert.is_limit else "What happens at 100 %"
        return f"*{when}:* {self._consequence()} {following}"

    def links(self) -> str:
        """Return the ways into the dashboard; the filters are in the URL, so a link shows what the alert counted."""
        base = base_url(self.context.dashboard_url)
        if not base:
            return ""
        window = self.alert.window
        within = {"start": _iso(window.start), "end": _iso(window.end), "tz": self.alert.budget.timezone}
        counted = {**self.alert.budget.scope, **within, "order": "-cost_usd"}
        targets = [("Open these calls", _url(base, "calls", counted))]
        if call := self.context.dearest_call:
            targets.append(("Open the dearest call", _url(base, "calls", {"call": call.id, **within})))
        targets.append(("Budgets", f"{base}/budgets"))
        links = [f"<{_escape(url)}|{label}>" for label, url in targets]
        # A cut URL would filter otherwise than the budget does, so it is left out whole.
        return "  ·  ".join(link for link in links if _size(link) <= URL_CHARS_MAX)

    def footing(self) -> str:
        parts = [f"Times in {_plain(self.alert.budget.timezone)}"]
        if self.context.price_version:
            parts.append(f"prices of {_word(self.context.price_version)}")
        if count := self.context.unpriced_units:
            parts.append(f"{count:,} {'answer' if count == 1 else 'answers'} without a price, in no sum here")
        return "  ·  ".join(parts)

    def _consequence(self) -> str:
        budget = self.alert.budget
        if budget.downgrade_to is not None:
            return f"calls go to {_code(budget.downgrade_to)}."
        if budget.enforces:
            return "calls that do not fit are refused before they are sent."
        return "this budget only warns; no call is refused."

    def fallback(self) -> str:
        _, level = _level(self.alert)
        consequence = self._consequence()
        figures = [f"{name}: {value}" for name, value in self.figures()]
        return f"{self.header()} ({level}). {'; '.join(figures)}. {consequence[0].upper()}{consequence[1:]}"

    def _is_late(self) -> bool:
        return self.alert.budget.rolling is None and self.context.at >= self.alert.window.end

    def when(self) -> str:
        budget, window = self.alert.budget, self.alert.window
        if budget.rolling is not None:
            return f"in {budget.rolling // timedelta(hours=1)} h"
        if self._is_late() and budget.window == "day" and budget.reset_at == time():
            return f"on {self._local(window.start):%a %d %b}"
        if self._is_late():
            return f"in the {budget.window} from {self._stamp(window.start)}"
        if budget.window != "hour" and budget.reset_at != time():
            return f"since {self._stamp(window.start)}"
        return "today" if budget.window == "day" else f"this {budget.window}"

    def _scope(self) -> str:
        scope = list(self.alert.budget.scope.items())
        if not scope:
            return "It counts every call."
        parts = [_filter(key, value) for key, value in scope[:SHOWN_MAX]]
        more = f" and {len(scope) - SHOWN_MAX} more" if len(scope) > SHOWN_MAX else ""
        return f"It counts the calls with {', '.join(parts)}{more}."

    def _contributor(self, one: Contributor) -> str:
        spent = self.alert.spent if self.alert.budget.unit == "usd" else None
        share = f" ({_percent(one.spend_usd / spent)} %)" if spent else ""
        return f"{_filter(one.dimension, one.value)}: {show_usd(one.spend_usd)}{share}"

    def _shown(self, amount: Decimal) -> str:
        """Return an amount in the digits of the limit that it stands beside: $0.80 of $10.00, not $0.800."""
        budget = self.alert.budget
        if budget.unit == "usd" and self.alert.limit >= 1 and CENT <= abs(amount) < 1:
            return f"{'-' if amount < 0 else ''}${abs(amount):.2f}"
        return show_amount(amount, budget.unit)

    def _summed(self, amount: Decimal) -> str:
        """Return a part of a sum that somebody may check: in USD to the hundredth of a cent, if that says anything."""
        if self.alert.budget.unit != "usd" or self.alert.limit < 1:
            return show_amount(amount, self.alert.budget.unit)
        whole, _, digits = f"{amount:,.4f}".partition(".")
        return f"${whole}.{digits.rstrip('0').ljust(2, '0')}"

    def _pace(self, left: Decimal) -> str:
        pace = self.context.pace_per_hour
        if pace is None:
            return "not known yet"
        shown = f"{self._shown(pace)} per hour"
        if left <= 0 or self.alert.is_limit or self.alert.budget.rolling is not None:
            return shown
        remaining_s = Decimal((self.alert.window.end - self.context.at).total_seconds())
        if pace * remaining_s < left * 3600:
            return f"{shown}; at that pace it stays within the limit"
        passes_at = self.context.at + timedelta(seconds=float(left / pace * 3600))
        return f"{shown}; would pass 100 % at {self._stamp(passes_at)}"

    def _stamp(self, at: datetime) -> str:
        """Return a time as the budget's zone reads it, with the date when it is not today's."""
        local, now = self._local(at), self._local(self.context.at)
        return local.strftime("%H:%M %Z" if local.date() == now.date() else "%a %d %b %H:%M %Z")

    def _local(self, at: datetime) -> datetime:
        return at.astimezone(ZoneInfo(self.alert.budget.timezone))


def _level(alert: Alert) -> tuple[str, str]:
    """Return emoji and word: the level is never told by a colour alone."""
    if alert.is_limit:
        return "🚨", "Limit reached"
    return ("⚠️", "Warning") if alert.threshold >= Decimal("0.75") else ("🔔", "Heads-up")


def _percent(share: Decimal) -> str:
    """Return ``share`` in whole per cent, rounded down: 99.9 % is not yet 100 %."""
    return f"{(share * 100).to_integral_value(ROUND_FLOOR):,f}"


def _exact_percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f}"


def _duration(left: timedelta) -> str:
    """Return a stretch of time in its two largest units, rounded down."""
    minutes = left // MINUTE
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{minutes} min" if minutes else "less than a minute"


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def section(text: str) -> Block:
    """Return a block that shows ``text``."""
    return {"type": "section", "text": mrkdwn(text)}


def mrkdwn(text: str) -> Mapping[str, Any]:
    """Return ``text`` in Slack's markup, in which nothing is made a link by itself."""
    # verbatim: Slack must not make links or mentions of its own from what only looks like one.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _plain(name: str, chars_max: int = NAME_CHARS_MAX) -> str:
    """Return ``name`` in one line, without control characters and backticks, escaped, cut to ``chars_max``."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in name.replace("`", "ʼ")).split())
    cut = clean[:chars_max]
    while _size(_escape(cut)) > chars_max - (len(cut) < len(clean)):
        cut = cut[:-1]
    return _escape(cut) + ("…" if len(cut) < len(clean) else "")


def _code(name: str) -> str:
    """Return ``name`` as inline code, in which Slack reads no other markup."""
    return f"`{_plain(name) or '(empty)'}`"


def _word(name: str) -> str:
    """Return ``name`` as it is when nothing in it can be markup, else as code."""
    return name if name and re.fullmatch(r"[A-Za-z0-9.-]{,60}", name) else _code(name)


def _filter(dimension: str, value: str) -> str:
    return f"{_word(dimension)} {_code(value)}" if value else f"no {_word(dimension)}"


def _url(base: str, page: str, query: Mapping[str, str]) -> str:
    return f"{base}/{page}?{urlencode(query, errors='replace')}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _size(text: str) -> int:
    """Return the length in UTF-16 units, the largest of the ways in which Slack may count."""
    return len(text.encode("utf-16-le")) // 2
