"""How figures, times and outcomes are said.  No Streamlit here: these are tables of cases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from tallystick.model.failures import MAY_BE_BILLED, TOLD
from tallystick.model.money import show_amount, show_usd

NONE = "(none)"
"""Shown for calls that have no value in a dimension."""
TEXT_LENGTH_MAX = 120

# Everything that CommonMark, GitHub's tables and autolinks, or Streamlit's own directives ($math$, :material/x:) read.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$:&\"'@=^/])")
# Characters that turn or hide the text around them: controls, zero width, bidirectional marks, line separators.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]")


def clean(text: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """Return ``text`` on one line, without characters that turn its neighbours around, cut to ``length_max``."""
    flat = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return flat if len(flat) <= length_max else flat[: length_max - 1] + "…"


# GitHub's autolinks are made from the text after escapes are undone, so only a character in between stops them:
# (https?://|www(?=\.))[-.\w]+ and [-.\w+]+@[-\w]+ in mdast-util-gfm-autolink-literal 2.
_AUTOLINK = re.compile(r"(://|www|@)", re.IGNORECASE)
WORD_JOINER = "\u2060"


def escape(text: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """Return ``text`` so that markdown shows it letter by letter: no link, no image, no HTML, no formula."""
    unlinked = _AUTOLINK.sub(rf"\1{WORD_JOINER}", clean(text, length_max))
    return _MARKDOWN.sub(r"\\\1", unlinked)


def code(text: str) -> str:
    """Return ``text`` as markdown's inline code, where nothing is obeyed and what is copied is what it was."""
    return f"`{clean(text).replace('`', chr(39))}`"


def usd(amount: Decimal | str | None) -> str:
    """Return ``amount`` as a person reads it; a string is a decimal of the collector's answer."""
    return show_usd(decimal(amount))


def amount(value: Decimal | str, unit: str) -> str:
    """Return an amount of a budget in its unit: ``$12.30``, ``8,000 tokens``, ``12 calls``."""
    return show_amount(Decimal(value), unit)


def exact_amount(value: Decimal, unit: str) -> str:
    """Return the same with every digit, so that a sum that is shown adds up."""
    told = plain(format(value, "f"))
    return f"${told}" if unit == "usd" else told


def group(values: Mapping[str, str]) -> str:
    """Return which group of a budget: ``user = u1, feature = (none)``."""
    return ", ".join(f"{clean(name, 40)} = {clean(value, 40) or NONE}" for name, value in values.items())


def decimal(amount: Decimal | str | None) -> Decimal | None:
    """Return the collector's amount, None when it is unknown."""
    return None if amount is None else Decimal(amount)


def spend(amount: Decimal | str | None, units: int, unpriced: int) -> str:
    """Return a sum of which ``unpriced`` of ``units`` responses have no part: a word when none has a price."""
    if units and unpriced >= units:
        return usd(None)
    return usd(amount)


def count(number: float) -> str:
    """Return a whole number with separators."""
    return f"{number:,.0f}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 call``, ``2 calls``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def size(number: float) -> str:
    """Return a number of bytes: ``640 B``, ``2.3 kB``, ``41 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5 or unit == "GB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if number < 10 and unit != "B" else f"{number:,.0f} {unit}"


def percent(share: float | Decimal) -> str:
    """Return a share as whole percents; one decimal below ten; ``<0.1 %`` for what would look like none."""
    size = abs(Decimal(str(share)) * 100)
    sign = "-" if share < 0 else ""
    if size == 0:
        return "0 %"
    if size < Decimal("0.1"):
        return f"{sign}<0.1 %"
    if size < 10:
        return f"{sign}{size:.1f} %".replace(".0 %", " %")
    return f"{sign}{size:,.0f} %"


def change(now: float | Decimal, before: float | Decimal) -> str | None:
    """Return how ``now`` differs from ``before``: ``+12 %``, ``-3.4 %``, ``×5.2``, ``same``; None without a base."""
    if not before:
        return None
    now, before = Decimal(str(now)), Decimal(str(before))
    share = (now - before) / before
    if abs(share) < Decimal("0.001"):
        return "same"
    if share >= 2:
        times = now / before
        return f"×{times:,.1f}" if times < 100 else f"×{times:,.0f}"
    return ("+" if share > 0 else "") + percent(share)


def duration(milliseconds: float | None) -> str:
    """Return a duration with two or three digits: ``85 ms``, ``1.24 s``, ``3 min 20 s``."""
    if milliseconds is None:
        return "unknown"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    return left(timedelta(seconds=round(seconds)))


def left(time: timedelta) -> str:
    """Return a time span in its two largest units: ``3 d 4 h``, ``11 h 59 min``, ``2 min 5 s``."""
    rest = max(0, int(time.total_seconds()))
    parts: list[tuple[int, str]] = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        whole, rest = divmod(rest, size)
        if whole or parts:
            parts.append((whole, name))
    shown = [f"{whole} {name}" for whole, name in parts[:2] if whole]
    return " ".join(shown) or "0 s"


def span(time: timedelta) -> str:
    """Return the length of a range: ``24 h`` rather than ``1 d``, ``7 d``, ``90 min``."""
    minutes = round(time.total_seconds() / 60)
    if minutes % 60 or minutes < 60:
        return f"{minutes:,} min" if minutes < 60 * 48 else left(time)
    return f"{minutes // 60} h" if minutes <= 48 * 60 or minutes % 1440 else f"{minutes // 1440} d"


def instant(text: str | None) -> datetime | None:
    """Return the collector's time as an aware value."""
    return None if text is None else datetime.fromisoformat(text)


def clock(at: datetime | str | None, zone: tzinfo, now: datetime) -> str:
    """Return a time as the reader's wall clock shows it: ``14:02:07`` today, else with the day, else with the year."""
    moment = instant(at) if isinstance(at, str) else at
    if moment is None:
        return "never"
    local, today = moment.astimezone(zone), now.astimezone(zone)
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    if local.year == today.year:
        return f"{local.day} {local:%b %H:%M}"
    return f"{local.day} {local:%b %Y %H:%M}"


def stamp(at: datetime | str, zone: tzinfo) -> str:
    """Return a time in full, with its zone: ``21 Nov 2026 14:02:07 CET``."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    local = moment.astimezone(zone)
    return f"{local.day} {local:%b %Y %H:%M:%S} {local.tzname()}"


def outcome(name: str) -> str:
    """Return an outcome in words; one that this version does not know is shown as it came."""
    return TOLD.get(name) or clean(name).replace("_", " ")


STATUSES = {
    "exact": "exact: counted by the provider, priced by a listed rate",
    "provider_reported": "stated by the provider",
    "estimated": "estimated, for the reason below",
    "unknown": "unknown: no price or no usable usage",
}


def status(name: str | None) -> str:
    """Return a cost's status in a word or two; ``unpriced`` when it is unknown."""
    if name is None or name == "unknown":
        return usd(None)
    return clean(name).replace("_", " ")


ITEMS = {
    "input": "input",
    "cache_read": "input read from cache",
    "cache_write": "input written to cache",
    "cache_write_5m": "input written to cache, 5 min",
    "cache_write_30m": "input written to cache, 30 min",
    "cache_write_1h": "input written to cache, 1 h",
    "cache_write_12h": "input written to cache, 12 h",
    "output": "output",
    "web_search": "web search",
}


def item(name: str) -> str:
    """Return what a line of a receipt charges for, in words."""
    return ITEMS.get(name) or clean(name).replace("_", " ")


def unit_price(price_usd: str, per: int, unit: str) -> str:
    """Return a rate with every digit: ``$3 per 1M tokens``."""
    size = {1: "", 1_000: "1k ", 1_000_000: "1M "}.get(per, f"{per:,} ")
    return f"${plain(price_usd)} per {size}{clean(unit)}{'s' if per != 1 else ''}"


def plain(amount: str) -> str:
    """Return a decimal with every digit it has, separators, and no zeros at its end."""
    shown = f"{Decimal(amount):,f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


ALERT_STATES = {
    "pending": "being delivered",
    "delivered": "delivered",
    "refused": "refused by the receiver",
    "unsent": "not sent: no channel is set",
}


LINKS = {
    "retry": "asked again by the app",
    "fallback": "fallback to another model",
    "re_ask": "re-asked for a usable answer",
}
"""How a call goes on from another, in words."""


WASTE = {
    "timeouts": "no answer in time",
    "abandoned": "stream closed, cancelled or broken",
    "truncated": "cut at the output limit",
    "invalid_output": "answer did not parse",
    "other": "other failures",
    "re_asks": "asked again for a usable answer",
    "duplicates": "same question, answered an hour before at most",
}
"""Why money was paid without a result, in words."""


ADVICE = {
    "other_model": "The same traffic on another model",
    "prompt_caching": "Prompt caching",
    "response_cache": "A cache for answers",
    "repeats": "Work that was done twice",
    "tools": "Tools that are not used",
    "history": "Long conversations",
    "max_tokens": "max_tokens that are not used",
    "batch": "Batches",
    "prices": "Prices",
}
BOUNDS = {"exact": "exact", "about": "an estimate", "at most": "at most", "at least": "at least"}
CHECKS = {
    "ok": ("fine", ":green[:material/check_circle:]"),
    "warn": ("look here", ":orange[:material/warning:]"),
    "fail": ("wrong", ":red[:material/error:]"),
}
"""A check's state in a word, and its sign."""


def is_untold(row: Mapping[str, Any]) -> bool:
    """Tell whether a call got no answer, but may be on the bill: its cost is unknown, not zero."""
    return not row["units"] and row["attempts"] > 0 and row["outcome"] in MAY_BE_BILLED


def trust(row: Mapping[str, Any]) -> str:
    """Return in words how far the cost of a call can be trusted."""
    if is_untold(row):
        return "may be billed"
    return status(row["cost_status"]) if row["units"] else "nothing billed"
