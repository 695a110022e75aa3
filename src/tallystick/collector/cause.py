"""``/api/v1/cause``: which calls explain what a stretch of time cost beside its usual."""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from tallystick.collector.query import COLUMNS, TAG, Json, Params, _iso, _plain, _range
from tallystick.collector.rollups import Ask, Range, naive

NAMED = ("feature", "model", "user", "key", "service", "environment", "prompt", "session", "caller", "provider")
"""The dimensions that may be the cause; of two that say the same, the first is named.  Tags come after them."""
WINDOWS, WINDOWS_OF_DAYS = 24, 7
"""So many stretches of the same length before are the usual; that bounds what is read, whatever the ledger holds."""
WINDOWS_MIN = 2
LENGTH_MAX = timedelta(days=31)
RISES = Decimal("0.2")
"""Of the usual; what costs less above it is chance, and has no cause."""
EXPLAINS = Decimal("0.6")
"""The part of the rise that a cause must explain."""
STANDS_OUT = Decimal("0.2")
"""By so much its part of the rise must be more than its part of the usual: what is always most is no cause."""
DEPTH_MAX = 3
COSTS = "sum(cost_usd) FILTER (inside) > 0"
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The calls with one value of one dimension, in the stretch and per usual stretch."""

    name: str
    value: str | None
    usd: Decimal
    usual_usd: Decimal
    calls: int
    usual_calls: float

    @property
    def rise_usd(self) -> Decimal:
        """How much more these calls cost than they usually do."""
        return self.usd - self.usual_usd


Parts = Callable[[Mapping[str, str | None]], Sequence[Part]]


def cause(ask: Ask, params: Params, now: datetime) -> Json:
    """What the range cost beside the usual, and which combination of dimensions explains most of it."""
    asked = _range(params, now)
    start, end = naive(asked.start), naive(asked.end)
    length = min(end - start, LENGTH_MAX)
    windows = _windows(ask, start, length)
    parts = partial(_parts, ask, asked, start - length * windows, windows)
    whole, *first = parts({})
    found = explain(whole, lambda chosen: parts(chosen)[1:] if chosen else first) if windows else None
    return {
        "start": _iso(asked.start), "end": _iso(asked.end), "windows": windows, **_figures(whole, windows),
        "cause": None if found is None else {
            "dimensions": [{"name": name, "value": value} for name, value in found[0].items()],
            "filters": {name: value or "" for name, value in found[0].items()}, **_figures(found[1], windows),
        },
    }  # fmt: skip


def explain(whole: Part, parts: Parts) -> tuple[dict[str, str | None], Part] | None:
    """Return the combination that explains the rise, narrowed as long as something stands out; None without one.

    ``parts`` returns, for the combination so far, the calls of each value of each dimension.
    """
    chosen: dict[str, str | None] = {}
    last = whole
    usual: dict[tuple[str, str | None], Decimal] = {}
    is_rise = whole.rise_usd > whole.usual_usd * RISES
    while is_rise and len(chosen) < DEPTH_MAX:
        found = [part for part in parts(chosen) if part.name not in chosen]
        if not chosen and whole.usual_usd:
            usual = {(part.name, part.value): part.usual_usd / whole.usual_usd for part in found}
        best = min(
            (part for part in found if _stands_out(part, last, whole, usual)),
            key=lambda part: (-round(part.rise_usd / whole.rise_usd, 1), _rank(part.name)),
            default=None,
        )
        if best is None:
            break
        chosen[best.name], last = best.value, best
    return (chosen, last) if chosen else None


def _stands_out(part: Part, among: Part, whole: Part, usual: Mapping[tuple[str, str | None], Decimal]) -> bool:
    """Tell whether a part explains the rise, and more of it than its share of the usual lets expect."""
    share = part.rise_usd / among.rise_usd - usual.get((part.name, part.value), ZERO)
    return part.rise_usd >= whole.rise_usd * EXPLAINS and share >= STANDS_OUT


def _rank(name: str) -> int:
    return NAMED.index(name) if name in NAMED else len(NAMED)


def _windows(ask: Ask, start: datetime, length: timedelta) -> int:
    """Return how many stretches before ``start`` the ledger holds whole, up to those that make the usual."""
    most = WINDOWS_OF_DAYS if length >= timedelta(days=1) else WINDOWS
    sql = "SELECT min(started_at) FROM calls WHERE started_at >= ? AND started_at < ?"
    first = ask(sql, [start - length * most, start])[0][0]
    found = 0 if first is None else -((first - start) // length)
    return found if found >= WINDOWS_MIN else 0


def _parts(ask: Ask, asked: Range, since: datetime, windows: int, chosen: Mapping[str, str | None]) -> list[Part]:
    """Return all calls of the combination ``chosen``, and behind them those of each value that cost anything inside.

    What cost nothing there explains no rise, and of users and sessions it is nearly all.
    """
    columns = [COLUMNS[name] for name in NAMED]
    also, more = _only(chosen)
    seen = f"""
        WITH seen AS (
            SELECT started_at >= ? AS inside, cost_usd, tags, {", ".join(columns)} FROM calls
            WHERE started_at >= ? AND started_at < ? {asked.filters} {also})
    """
    figures = "count(*) FILTER (inside), count(*) FILTER (NOT inside), " + ", ".join(
        f"coalesce(sum(cost_usd) FILTER ({which}), 0)" for which in ("inside", "NOT inside")
    )
    values = [naive(asked.start), since, naive(asked.end), *asked.filter_values, *more]
    sets = ", ".join(f"({column})" for column in columns)
    marks = ", ".join(f"grouping({column})" for column in columns)
    rows = ask(f"""
        {seen} SELECT {marks}, {', '.join(columns)}, {figures} FROM seen GROUP BY GROUPING SETS ((), {sets})
        HAVING {COSTS} OR {marks.replace(", ", " + ")} = {len(columns)}
    """, values)  # fmt: skip
    size = len(columns)
    found = []
    for row in rows:
        place = next((place for place in range(size) if not row[place]), None)
        name, value = ("", None) if place is None else (NAMED[place], row[size + place])
        found.append(_part(name, value, row[2 * size :], windows))
    sql = f"""
        {seen}, tagged AS (SELECT unnest(map_entries(tags)) AS tag, * EXCLUDE (tags) FROM seen)
        SELECT tag.key, tag.value, {figures} FROM tagged GROUP BY ALL HAVING {COSTS}
    """
    found += [_part(TAG + name, value, row, windows) for name, value, *row in ask(sql, values)]
    return sorted(found, key=lambda part: part.name != "")


def _only(chosen: Mapping[str, str | None]) -> tuple[str, list[Any]]:
    """Return the condition that picks the calls of a combination."""
    sql, values = "", []
    for name, value in chosen.items():
        tag = [name[len(TAG) :]] if name.startswith(TAG) else []
        sql += f" AND {'map_extract_value(tags, ?)' if tag else COLUMNS[name]} IS NOT DISTINCT FROM ?"
        values += [*tag, value]
    return sql, values


def _part(name: str, value: str | None, row: Sequence[Any], windows: int) -> Part:
    calls, calls_before, usd, usd_before = row
    per = max(windows, 1)
    return Part(
        name=name, value=value, usd=Decimal(usd), usual_usd=Decimal(usd_before) / per, calls=calls,
        usual_calls=calls_before / per,
    )  # fmt: skip


def _figures(part: Part, windows: int) -> Json:
    return {
        "spend_usd": _plain(part.usd), "usual_usd": _plain(round(part.usual_usd, 12)) if windows else None,
        "calls": part.calls, "usual_calls": round(part.usual_calls, 2) if windows else None,
    }  # fmt: skip
