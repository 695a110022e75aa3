"""From the collector's answers to what a page says: tiles, shares, differences, series.  Pure; no Streamlit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from tallystick.dashboard import words
from tallystick.dashboard.theme import SERIES_COLOURS

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from tallystick.dashboard.view import View

Answer = Mapping[str, Any]
Key = str | None
LABEL_LENGTH_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure with its difference to the equal period before."""

    label: str
    value: str
    difference: str | None = None
    """``+12 %``; None when there is nothing to compare with."""
    versus: str
    """What the difference is to, or what the value means."""
    good: Literal["neither", "down"] = "neither"
    """Whether less is better; a difference in spend is neither good nor bad."""


def tiles(now: Answer, before: Answer, length: timedelta, *, whole: bool = True) -> list[Tile]:
    """Return the five tiles: spend, calls, failed, wasted, and what the spend does not contain.

    ``whole`` is False when the ledger began within the period before: sums are then not compared, rates still are.
    """
    period = words.span(length)
    return [
        _spend(now, before, period, whole),
        _calls(now, before, period, whole),
        *_faults(now, before, whole),
        _unsure(now),
    ]


def begins_within(first_call_at: str | None, before: Answer) -> bool:
    """Tell whether the ledger's very first call lies well within the period ``before``, so that it is not whole."""
    if first_call_at is None:
        return False
    start, end = datetime.fromisoformat(before["start"]), datetime.fromisoformat(before["end"])
    return datetime.fromisoformat(first_call_at) > start + (end - start) / 20


def _spend(now: Answer, before: Answer, period: str, whole: bool) -> Tile:
    shown = words.spend(now["spend_usd"], now["units"], now["unpriced_units"])
    difference = words.change(Decimal(now["spend_usd"] or 0), Decimal(before["spend_usd"] or 0))
    if not before["calls"]:
        return Tile(label="Spend", value=shown, versus=f"none in the prior {period}")
    if not whole:
        return Tile(label="Spend", value=shown, versus=f"prior {period} incomplete")
    if difference is None:
        return Tile(label="Spend", value=shown, versus=f"$0 in the prior {period}")
    return Tile(label="Spend", value=shown, difference=difference, versus=f"vs prior {period}")


def _calls(now: Answer, before: Answer, period: str, whole: bool) -> Tile:
    shown = words.count(now["calls"])
    difference = words.change(now["calls"], before["calls"])
    if difference is None:
        return Tile(label="Calls", value=shown, versus=f"none in the prior {period}")
    if not whole:
        return Tile(label="Calls", value=shown, versus=f"prior {period} incomplete")
    return Tile(label="Calls", value=shown, difference=difference, versus=f"vs prior {period}")


def _faults(now: Answer, before: Answer, whole: bool) -> tuple[Tile, Tile]:
    failed, wasted = Decimal(now["failed"]), Decimal(now["wasted_usd"] or 0)
    rate = failed / now["calls"] if now["calls"] else Decimal(0)
    difference = None
    if now["calls"] and before["calls"]:
        difference = points(rate - Decimal(before["failed"]) / before["calls"])
    spent = Decimal(now["spend_usd"] or 0)
    return (
        Tile(
            label="Failed",
            value=words.count(now["failed"]),
            difference=difference,
            versus=f"{words.percent(rate)} of calls",
            good="down",
        ),
        Tile(
            label="Wasted",
            value=words.usd(wasted),
            difference=words.change(wasted, Decimal(before["wasted_usd"] or 0)) if whole else None,
            versus=f"{words.percent(wasted / spent)} of spend" if spent else "on failed calls",
            good="down",
        ),
    )


def points(difference: Decimal) -> str:
    """Return a difference of two shares in percentage points; ``same`` when it would read as zero."""
    size = difference * 100
    if abs(size) < Decimal("0.05"):
        return "same"
    return f"{size:+.1f} pt"


def _unsure(now: Answer) -> Tile:
    estimated = now["estimated_units"]
    if estimated:
        note = f"{words.usd(now['estimated_usd'])} estimated"
    else:
        note = "not in the spend" if now["unpriced_units"] else "all have a price"
    return Tile(label="Unpriced responses", value=words.count(now["unpriced_units"]), versus=note)


def labels(keys: Iterable[Key]) -> dict[Key, str]:
    """Return a short, harmless and distinct label for each key; two keys never share one."""
    given: dict[Key, str] = {}
    taken: set[str] = set()
    for key in keys:
        if key in given:
            continue
        plain = words.NONE if key is None or not key else words.clean(key, LABEL_LENGTH_MAX)
        label, turn = plain, 2
        while label in taken:
            label, turn = f"{plain} ·{turn}", turn + 1
        given[key] = label
        taken.add(label)
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One row of the table by dimension."""

    key: Key
    label: str
    calls: int
    failed: int
    spend_usd: Decimal | None
    """None when no response of the group has a price."""
    share: Decimal | None
    per_call_usd: Decimal | None
    input_tokens: int
    output_tokens: int
    cached_share: Decimal
    """Part of the input that was read from the provider's cache."""
    unpriced_units: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None


def groups(rows: Sequence[Answer]) -> list[Group]:
    """Return the table's rows, dearest first, those without any price last."""
    total = sum((Decimal(row["spend_usd"] or 0) for row in rows), Decimal())
    named = labels(row["key"] for row in rows)
    made = [_group(row, total, named[row["key"]]) for row in rows]
    return sorted(made, key=lambda group: (group.spend_usd is None, -(group.spend_usd or 0), -group.calls))


def _group(row: Answer, total: Decimal, label: str) -> Group:
    priced = not row["units"] or row["unpriced_units"] < row["units"]
    spent = Decimal(row["spend_usd"] or 0) if priced else None
    return Group(
        key=row["key"],
        label=label,
        calls=row["calls"],
        failed=row["failed"],
        spend_usd=spent,
        share=spent / total if spent is not None and total else None,
        per_call_usd=spent / row["calls"] if spent is not None and row["calls"] else None,
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_share=Decimal(row["cache_read_tokens"]) / row["input_tokens"] if row["input_tokens"] else Decimal(),
        unpriced_units=row["unpriced_units"],
        latency_ms_p50=row["latency_ms_p50"],
        latency_ms_p95=row["latency_ms_p95"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One segment of the stacked bars; times are wall-clock times of the reader's zone, marked as UTC for Vega."""

    start: datetime
    end: datetime
    at: str
    """The bucket's start as the collector said it: what a click asks for."""
    series: str
    spend_usd: Decimal
    calls: int
    failed: int
    unpriced_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The bars and the series in them, dearest first; ``keys`` leads from a series back to its value."""

    bars: tuple[Bar, ...]
    series: tuple[str, ...]
    keys: Mapping[str, Key]
    rest: str | None
    """The name of the series that holds all the small ones, or the smallest: it has no colour of its own."""


def stack(rows: Sequence[Answer], bucket: str, zone: ZoneInfo, series_max: int = len(SERIES_COLOURS)) -> Stack:
    """Return the bars of a series answer: the dearest ``series_max`` values apart, all the others as one."""
    spent: defaultdict[Key, Decimal] = defaultdict(Decimal)
    has_rest = any(row["rest"] for row in rows)  # of values that the collector has not told apart
    for row in rows:
        if not row["rest"]:
            spent[row["key"]] += Decimal(row["spend_usd"] or 0)
    ranked = sorted(spent, key=lambda key: (-spent[key], key or ""))
    # One left over is shown as itself, in the colour of the rest: "1 other" would only hide its name.
    apart = ranked if len(ranked) + has_rest <= series_max + 1 else ranked[:series_max]
    named = labels(apart)
    rest = f"{len(ranked) - len(apart)} others" if len(ranked) > len(apart) else None
    if has_rest:
        rest = "all others"
    if len(apart) > series_max:
        rest = named[apart[-1]]
    cells: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for row in rows:
        series = (rest or "") if row["rest"] else named.get(row["key"], rest or "")
        cells[row["at"], series].append(row)
    bars = tuple(_bar(at, series, members, bucket, zone) for (at, series), members in cells.items())
    order = tuple(dict.fromkeys((*(named[key] for key in apart), *((rest,) if rest else ()))))
    return Stack(bars=bars, series=order, keys={named[key]: key for key in apart}, rest=rest)


def _bar(at: str, series: str, rows: Sequence[Answer], bucket: str, zone: ZoneInfo) -> Bar:
    start = wall(datetime.fromisoformat(at), zone)
    return Bar(
        start=start,
        end=start + BUCKETS[bucket],
        at=at,
        series=series,
        spend_usd=sum((Decimal(row["spend_usd"] or 0) for row in rows), Decimal()),
        calls=sum(row["calls"] for row in rows),
        failed=sum(row["failed"] for row in rows),
        unpriced_units=sum(row["unpriced_units"] for row in rows),
    )


BUCKETS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


def wall(at: datetime, zone: ZoneInfo) -> datetime:
    """Return what a clock in ``zone`` shows at ``at``, marked as UTC.

    Vega can draw times in UTC or in the browser's zone, and neither need be the reader's; drawn as UTC, this shows the
    right hour everywhere.  In the hour that a clock change repeats, two buckets lie over each other.
    """
    return at.astimezone(zone).replace(tzinfo=UTC)


def bucket_end(at: datetime, bucket: str, zone: ZoneInfo) -> datetime:
    """Return where the bucket that begins at ``at`` ends; a day of ``zone`` may have 23 or 25 hours."""
    if bucket != "day":
        return at + BUCKETS[bucket]
    local = at.astimezone(zone)
    return (local.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone).astimezone(UTC)


SPIKES_MAX = 2
SPIKE_TIMES = Decimal("2.5")
"""So many times the usual makes a spike."""
SPIKE_SHARE = Decimal("0.05")
"""Of the spend of the whole range; what rises by less is not worth a line."""
SPIKE_BARS_MIN = 4


def spikes(stack: Stack) -> list[str]:
    """Return when the bars begin that rise far above the median bar, the highest first."""
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    for bar in stack.bars:
        spent[bar.at] += bar.spend_usd
    if len(spent) < SPIKE_BARS_MIN:
        return []
    usual = median(spent.values())
    least = max(usual * SPIKE_TIMES, usual + sum(spent.values()) * SPIKE_SHARE)
    high = sorted((at for at in spent if spent[at] > least), key=lambda at: (-spent[at], at))
    return high[:SPIKES_MAX]


def cause(answer: Answer, when: str) -> str:
    """Return what a stretch of time cost beside the usual and which calls explain it, as plain text."""
    told = f"{when}: {words.usd(answer['spend_usd'])}"
    usual, found = answer["usual_usd"], answer["cause"]
    if usual is None:
        return f"{told}; what is usual is not known, the ledger began too short before."
    times = words.change(Decimal(answer["spend_usd"]), Decimal(usual))
    beside = f"the usual is {words.usd(usual)}"
    if Decimal(answer["spend_usd"]) <= Decimal(usual):
        return f"{told}; {beside}, so nothing rose."
    told += f", {times} the usual {words.usd(usual)}." if times and times.startswith("×") else f"; {beside}."
    if found is None:
        return f"{told} The rise is spread over everything: no model, feature, user or tag stands out."
    whose = ", ".join(f"{row['name']} {words.clean(row['value'] or words.NONE, LABEL_LENGTH_MAX)}"
                      for row in found["dimensions"])  # fmt: skip
    more = Decimal(found["spend_usd"]) - Decimal(found["usual_usd"])
    share = more / (Decimal(answer["spend_usd"]) - Decimal(usual))
    part = "all of it" if share >= Decimal("0.95") else f"{words.percent(share)} of the rise"
    return f"{told} {words.usd(more)} more, {part}, from {whose}: {_instead(found)}."


def _instead(found: Answer) -> str:
    """Return whether there were more calls, or dearer ones: ``60 calls in place of 2.1, $0.083 each``."""
    each = words.usd(Decimal(found["spend_usd"]) / max(found["calls"], 1))
    if not found["usual_calls"]:
        return f"{words.plural(found['calls'], 'call')} where there usually is none, {each} each"
    usual_each = words.usd(Decimal(found["usual_usd"]) / Decimal(str(found["usual_calls"])))
    return (
        f"{words.plural(found['calls'], 'call')} in place of {found['usual_calls']:,.3g}, "
        f"{each} each in place of {usual_each}"
    )


def what_changed(now: Sequence[Answer], before: Sequence[Answer], dimension: str) -> str | None:
    """Return the value that moved the spend most, as a sentence; None when nothing moved it by a tenth.

    The sentence is plain text with names from outside in it: whoever shows it as markdown escapes it.
    """
    old = {row["key"]: Decimal(row["spend_usd"] or 0) for row in before}
    new = {row["key"]: Decimal(row["spend_usd"] or 0) for row in now}
    total = sum(old.values(), Decimal())
    moved = {key: new.get(key, Decimal()) - old.get(key, Decimal()) for key in {**old, **new}}
    change = sum(moved.values(), Decimal())
    if not total or abs(change) < total / 10:
        return None
    same_way = {key: part for key, part in moved.items() if part and (part > 0) == (change > 0)}
    most = max(same_way, key=lambda key: (abs(same_way[key]), key or ""))
    part = same_way[most]
    named = labels([most])[most]
    was = f"was {words.usd(old[most])}" if old.get(most) else "new"
    verb = "up" if change > 0 else "down"
    mine = "more" if part > 0 else "less"
    return (
        f"Spend is {verb} {words.usd(abs(change))}; most of it from {dimension} {named}: "
        f"{words.usd(abs(part))} {mine} ({was}, now {words.usd(new.get(most, Decimal()))})."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One attempt as a bar that begins ``start_ms`` after the call did."""

    name: str
    start_ms: float
    duration_ms: float | None
    """None when the attempt never ended."""
    outcome: str
    status: int | None
    retry_after_s: float | None
    waited_s: float | None
    """From the end of the attempt before to the start of this one; None for the first."""
    request_id: str | None
    ok: bool


def steps(attempts: Sequence[Answer]) -> list[Step]:
    """Return the attempts of one call in the order in which they were made."""
    rows = sorted(attempts, key=lambda row: (row["started_at"], row["number"]))
    made: list[Step] = []
    for row in rows:
        begin = datetime.fromisoformat(row["started_at"])
        start_ms = (begin - datetime.fromisoformat(rows[0]["started_at"])).total_seconds() * 1000
        last = made[-1] if made else None
        gap = None if last is None or last.duration_ms is None else (start_ms - last.start_ms - last.duration_ms) / 1000
        made.append(
            Step(
                name=f"{len(made) + 1}",
                start_ms=start_ms,
                duration_ms=row["duration_ms"],
                outcome=words.outcome(row["outcome"]),
                status=row["status"],
                retry_after_s=row["retry_after_s"],
                waited_s=None if gap is None else max(0.0, gap),
                request_id=row["request_id"],
                ok=row["outcome"] == "ok",
            )
        )
    return made


TOKEN_CLASSES = ("input", "input from cache", "input to cache", "output", "reasoning")


def token_classes(call: Answer) -> list[tuple[str, int]]:
    """Return (class, tokens) as parts that add up: the cache is taken out of the input, reasoning out of the output."""
    read, written, reasoning = call["cache_read_tokens"], call["cache_write_tokens"], call["reasoning_tokens"]
    parts = (call["input_tokens"] - read - written, read, written, call["output_tokens"] - reasoning, reasoning)
    return [(name, part) for name, part in zip(TOKEN_CLASSES, parts, strict=True) if part > 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How calls ended, with or without retries; shares of all of them."""

    first_try: int
    after_retry: int
    gave_up: int

    @property
    def total(self) -> int:
        """All calls."""
        return self.first_try + self.after_retry + self.gave_up

    def rows(self) -> list[tuple[str, int, Decimal]]:
        """Return (what happened, calls, share)."""
        told = (
            ("answered at the first try", self.first_try),
            ("answered after a retry", self.after_retry),
            ("gave up", self.gave_up),
        )
        return [(name, calls, Decimal(calls) / self.total if self.total else Decimal()) for name, calls in told]


def failures(rows: Sequence[Answer], attempts: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return one row for each class and provider: failed calls, failed attempts, money wasted; most calls first.

    A class that only ever cost a retry has attempts and no calls.
    """
    made: dict[tuple[str, Key], dict[str, Any]] = {}
    for row in (*rows, *attempts):
        key = (row["outcome"], row["provider"])
        blank = {"outcome": key[0], "provider": key[1], "calls": 0, "attempts": 0, "wasted_usd": None, "last_at": ""}
        into = made.setdefault(key, blank)
        into["calls"] += row.get("calls", 0)
        into["attempts"] += row.get("attempts", 0)
        into["last_at"] = max(into["last_at"], row["last_at"] or "")
        if row.get("wasted_usd") is not None:
            into["wasted_usd"] = (into["wasted_usd"] or Decimal()) + Decimal(row["wasted_usd"])
    return sorted(made.values(), key=lambda row: (-row["calls"], -row["attempts"], row["outcome"]))


def waiting(retry: Answer) -> str:
    """Return what was waited in all, as a sentence."""
    asked, waited = retry["retry_after_asked_s"], retry["waited_s"]
    extra = words.plural(retry["attempts_extra"], "extra attempt")
    if not asked:
        return f"{extra}; {words.duration(waited * 1000)} spent waiting between attempts; no server asked to wait."
    return (
        f"{extra}; servers asked to wait {words.duration(asked * 1000)} (Retry-After), "
        f"{words.duration(waited * 1000)} were spent waiting between attempts."
    )


def ledger_line(ledger: Answer) -> str:
    """Return what became of what arrived, in one line; reasons of rejection are named."""
    rejected = ledger["rejected_spans"]
    parts = [
        f"{words.plural(ledger['received_spans'], 'span')} received",
        f"{words.count(ledger['stored_spans'])} stored",
        words.plural(ledger["duplicate_spans"], "duplicate"),
        f"{words.count(sum(rejected.values()))} rejected",
        f"{words.count(ledger['dropped_records'])} dropped",
    ]
    if rejected:
        named = ", ".join(f"{words.clean(reason, 60)} {words.count(number)}" for reason, number in rejected.items())
        parts[3] += f" ({named})"
    journal = ledger.get("journal") or {}
    if journal.get("behind_bytes"):
        parts.append(f"{words.size(journal['behind_bytes'])} not counted yet")
    if journal.get("damaged_bytes"):
        parts.append(f"{words.size(journal['damaged_bytes'])} damaged")
    return " · ".join(parts)


def price_line(ledger: Answer) -> str:
    """Return which prices are in force and how old they are."""
    prices = ledger.get("prices") or {}
    if not prices.get("version"):
        return "no price book is loaded"
    age = prices.get("age_days")
    told = "" if age is None else " (today's)" if age == 0 else f" ({words.plural(age, 'day')} old)"
    return f"prices of {words.clean(str(prices['version']), 60)}{told}"


def scope(filters: Mapping[str, object], group_by: Sequence[str] = ()) -> str:
    """Return what a budget covers, in words: ``feature = chat, for each user``."""
    told = [f"{words.clean(name)} = {words.clean(str(value))}" for name, value in filters.items()] or ["all calls"]
    if group_by:
        told.append(f"for each {' and '.join(words.clean(name) for name in group_by)}")
    return ", ".join(told)


def standing(row: Answer, zone: ZoneInfo, now: datetime) -> list[Tile]:
    """Return the tiles of a budget: what is held, what is left, when it is full at this pace, when it begins anew."""
    unit, end = row["unit"], words.instant(row["window"]["end"])
    pace = f"at {words.amount(row['pace_per_hour'], unit)} an hour"
    over = -Decimal(row["left"])
    left = Tile(label="Left", value=words.amount(row["left"], unit), versus=f"of {words.amount(row['limit'], unit)}")
    if over > 0:
        left = Tile(label="Left", value="none", versus=f"over by {words.amount(over, unit)}")
    resets = Tile(label="Resets in", value="rolling", versus="each call leaves by itself")
    if end is not None and row["resets_in_s"] is not None:
        resets = Tile(label="Resets in", value=words.left(end - now), versus=words.stamp(end, zone))
    return [
        Tile(label="Reserved", value=words.amount(row["reserved"], unit), versus="for calls in flight"),
        left,
        Tile(label="Full", value=full_at(row, zone, now), versus=forecast(row) or pace),
        resets,
    ]


def alert(row: Answer) -> str:
    """Return what an alert says: of a budget its threshold and what was spent, of another kind its title."""
    if row["threshold"] is None:
        return str(row["title"] or row["kind"])
    group = f" ({words.group(row['group'])})" if row["group"] else ""
    spent = words.amount(row["spent"], row["unit"])
    return f"{row['budget']}{group} passed {words.percent(Decimal(row['threshold']))}: {spent} spent"


def forecast(row: Answer) -> str | None:
    """Return where the window ends at the pace of the last hour; None when it has no end."""
    if row["resets_in_s"] is None:
        return None
    rest = Decimal(row["pace_per_hour"]) * Decimal(str(row["resets_in_s"])) / 3600
    unit = row["unit"]
    ends_at = words.amount(Decimal(row["spent"]) + (rest if unit == "usd" else round(rest)), unit)
    return f"forecast {ends_at}, at {words.amount(row['pace_per_hour'], unit)} an hour"


def full_at(row: Answer, zone: ZoneInfo, now: datetime) -> str:
    """Return when the limit is reached at the pace of the last hour."""
    if Decimal(row["left"]) <= 0:
        return "now"
    return words.clock(row["full_at"], zone, now) if row["full_at"] else "not in this window"


REASONS = {
    "unpriced": "its model has no known price, so what it costs cannot be bounded",
    "unbounded": "nothing bounds what it can cost",
}


def arithmetic(refusal: Answer) -> str:
    """Return why a budget let a call not through: the sum that did not fit, or what of it is not known."""
    if refusal["reason"] != "limit":
        return REASONS.get(refusal["reason"]) or words.clean(refusal["reason"])
    parts = [Decimal(refusal[name]) for name in ("spent", "reserved", "needed")]
    spent, reserved, needed, whole, limit = (
        words.exact_amount(amount, refusal["unit"])
        for amount in (*parts, sum(parts, Decimal()), Decimal(refusal["limit"]))
    )
    unit = "" if refusal["unit"] == "usd" else f" {refusal['unit']}"
    return f"{spent} spent + {reserved} reserved + {needed} needed = {whole} of {limit}{unit}"


def chosen(view: View) -> list[tuple[str, str]]:
    """Return the filters that are set as (name, value), one for each chip."""
    return [(name, value) for name, values in view.filters.items() for value in values]


def chip(name: str, value: str) -> str:
    """Return what a chip says: ``model = gpt-5-mini``, ``feature = (none)``."""
    if name == "outcome" and value == "failed":
        return "only failed"
    return f"{name} = {words.clean(value, LABEL_LENGTH_MAX) or words.NONE}"
