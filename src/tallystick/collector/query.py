"""The questions of docs/api.md: names from an allow-list, values bound, decimals as text."""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from tallystick.alerts import Refused
from tallystick.collector import places
from tallystick.collector.receipts import form_id_of, unfold
from tallystick.collector.rollups import (
    ATTEMPT_WITHIN,
    STEPS_PER_E,
    Ask,
    Range,
    Sources,
    Sql,
    naive,
    sizes,
    sources,
    summed,
    tried,
)
from tallystick.errors import TallystickError
from tallystick.model.budgets import Budget
from tallystick.model.failures import Outcome
from tallystick.model.windows import Window, window_at

Params = Sequence[tuple[str, str]]
Json = dict[str, Any]

COLUMNS = {
    "provider": "provider",
    "model": "model",
    "feature": "feature",
    "user": "user_id",
    "session": "session_id",
    "service": "service",
    "environment": "environment",
    "prompt": "prompt",
    "key": "key_id",
    "caller": "caller",
    "outcome": "outcome",
    "cost_status": "cost_status",
    "template": "template",
    "digest": "digest",
    "chain": "chain",
    "link": "link",
}
MANY = frozenset({"user", "session", "digest", "chain"})
"""Dimensions that may have about as many values as there are calls; tags too."""
MINUTE = "minute"
TAG = "tag."
TAGS = "tag"
"""In the place of a dimension: which tags there are."""
FAILED = "failed"
LIMIT_MAX = 1000
ID_CHARS = 16
ROWS_MAX = 10_000
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
BUCKETS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
BUCKETS_MAX = 50_000
SERIES_LIMIT = 100
ALL: tuple[tuple[str, Sql], ...] = (("key", ("NULL::VARCHAR", [])), ("rest", ("false", [])))
NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,17})?")
"""What a cursor holds of the order; more digits than a cost, a time or a latency has, do not come from us."""

# The sums that several questions share.
FIGURE_NAMES = (
    "calls", "failed", "attempts", "units", "spend_usd", "estimated_usd", "wasted_usd", "unpriced_units",
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
QUANTILES = {"latency_ms_p50": 0.5, "latency_ms_p95": 0.95}
EXACT_CALLS_MAX = 500_000
"""Of more calls than this the quantiles come from counts by size of latency: sorting all would not fit the memory."""

# Names in the answer, and the columns where they come from.
CALL = {name: COLUMNS.get(name, name) for name in (
    "id", "trace_id", "parent_id", "started_at", "latency_ms", "first_chunk_ms", "operation", "provider", "model",
    "response_model", "outcome", "error_code", "exception", "stream", "attempts", "units", "cost_usd", "cost_status",
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "service",
    "environment", "feature", "user", "session", "prompt", "key", "caller", "tags", "finish_reasons", "max_tokens",
    "digest", "template", "request_characters", "tools_characters", "messages", "chain", "link", "link_index",
)}  # fmt: skip
UNIT = (
    "id", "provider", "model", "api", "at", "usage", "params", "estimated", "cost_usd", "cost_status", "price_version",
    "receipt",
)  # fmt: skip
UNIT_OF_CALL = ("service", "environment", "feature", "user", "session", "prompt", "key", "caller", "tags")
"""What a unit's call says of it, in an answer that lists units alone."""
ATTEMPT = (
    "number", "started_at", "duration_ms", "status", "outcome", "request_id", "retry_after_s", "waited_s",
    "should_retry", "code", "requests_limit", "requests_remaining", "tokens_limit", "tokens_remaining",
    "input_tokens_limit", "input_tokens_remaining", "output_tokens_limit", "output_tokens_remaining",
)  # fmt: skip
ALERT = (
    "id", "kind", "title", "threshold", "spent", "unit", "budget_group", "raised_at", "state", "delivered_at",
    "deliveries", "error", "acked_at", "snoozed_until",
)  # fmt: skip
ALERT_COLUMNS = ", ".join("spent_usd" if name == "spent" else name for name in ALERT)
"""The column is older than other units."""
# What a page of calls is in the order of, and how a cursor's number becomes that again.
ORDERS = {
    "-started_at": ("started_at", "DESC", "make_timestamp(?::BIGINT)"),
    "started_at": ("started_at", "ASC", "make_timestamp(?::BIGINT)"),
    "-cost_usd": ("coalesce(cost_usd, -1)", "DESC", "?::DECIMAL(18, 12)"),
    "-latency_ms": ("coalesce(latency_ms, -1)", "DESC", "?::DOUBLE"),
}
ON, BACK = "on", "back"
"""Which way a cursor of calls leads."""
NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- DuckDB's TIMESTAMP is naive, and UTC here


class BadParameterError(TallystickError):
    """A question has a parameter that does not exist, or a value that cannot be."""


class NotFoundError(TallystickError):
    """What was asked for is not there."""


def totals(ask: Ask, params: Params, now: datetime) -> Json:
    """What was spent and on how much, in one row."""
    asked = _range(params, now)
    source = sources(ask, asked, ())
    names = (*FIGURE_NAMES, "estimated_units", "first_at", "last_at")
    found = _spent(names, summed(ask, asked, source, (), names)[0])
    first, last = found.pop("first_at"), found.pop("last_at")
    latencies = _latencies(ask, asked, source, ("NULL::VARCHAR", []), found["calls"])
    return {"start": _iso(asked.start), "end": _iso(asked.end), **found, **latencies(None),
            "first_call_at": first, "last_call_at": last}  # fmt: skip


def groups(ask: Ask, params: Params, now: datetime) -> Json:
    """The same by a dimension, dearest first."""
    asked = _range(params, now, "by", "limit")
    by = asked.rest.get("by", "model")
    column = _dimension(by)
    limit = _integer(asked.rest, "limit", ROWS_MAX, 1, ROWS_MAX)
    source = sources(ask, asked, [by])
    dearest = f"ORDER BY spend_usd DESC, calls DESC, key LIMIT {limit}"
    key = [("key", column)]
    if by in MANY or by.startswith(TAG):  # sums over all of the calls for the few of which they are wanted
        ranked = summed(ask, asked, source, key, ("spend_usd", "calls"), dearest)
        _only(asked, column, [row[0] for row in ranked])
    found = [_spent(("key", *FIGURE_NAMES), row) for row in summed(ask, asked, source, key, FIGURE_NAMES, dearest)]
    latencies = _latencies(ask, asked, source, column, sum(row["calls"] for row in found))
    return {"by": by, "rows": [row | latencies(row["key"]) for row in found]}


def _only(asked: Range, column: Sql, keys: Sequence[str | None]) -> None:
    """Narrow a range to the calls whose ``column`` is one of ``keys``."""
    sql, values = column
    asked.filters += f" AND ({sql} IN (SELECT unnest(?::VARCHAR[]))"
    asked.filter_values += [*values, [key for key in keys if key is not None]]
    if None in keys:
        asked.filters += f" OR {sql} IS NULL"
        asked.filter_values += values
    asked.filters += ")"


def _latencies(ask: Ask, asked: Range, source: Sources, column: Sql, calls: int) -> Callable[[str | None], Json]:
    """Return what gives the quantiles of the latencies of a key, a value of ``column``."""
    if calls <= EXACT_CALLS_MAX and not source.lacks_rows:
        shares = list(QUANTILES.values())
        sql = f"""
            SELECT {column[0]} AS key, quantile_cont(latency_ms, {shares}) FROM calls WHERE {asked.where} GROUP BY 1
        """
        exact: dict[str | None, list[float | None]] = dict(ask(sql, [*column[1], *asked.values]))
        return lambda key: dict(zip(QUANTILES, exact.get(key) or [None] * len(shares), strict=True))
    counted: dict[str | None, list[tuple[int, int]]] = {}
    for key, size, count in sizes(ask, asked, source, column):
        counted.setdefault(key, []).append((size, count))
    return lambda key: {name: _quantile(counted.get(key, []), share) for name, share in QUANTILES.items()}


def _quantile(sizes: Sequence[tuple[int, int]], share: float) -> float | None:
    """Return the latency that a ``share`` of all does not pass, from how many there are of each size, ascending."""
    if not sizes:
        return None
    upto = list(accumulate(count for _, count in sizes))
    place = (upto[-1] - 1) * share
    lower, upper = (
        math.exp(sizes[bisect_right(upto, rank)][0] / STEPS_PER_E) for rank in (math.floor(place), math.ceil(place))
    )
    return round(lower + (upper - lower) * (place % 1), 3)


def series(ask: Ask, params: Params, now: datetime) -> Json:
    """Spend over time, by a dimension or in all; buckets without calls are left out.

    Apart are the ``limit`` values that are dearest in the range; all others are summed in rows with ``rest`` true.
    """
    asked = _range(params, now, "bucket", "by", "timezone", "limit")
    bucket, by = asked.rest.get("bucket", "hour"), asked.rest.get("by")
    if bucket not in BUCKETS:
        raise BadParameterError(f"bucket is {bucket!r}; one of {', '.join(BUCKETS)}")
    if (asked.end - asked.start) / BUCKETS[bucket] > BUCKETS_MAX:
        raise BadParameterError(f"the range has more than {BUCKETS_MAX} buckets of a {bucket}; ask for larger ones")
    zone = _zone(asked.rest.get("timezone", "UTC"))
    at = _bucket(bucket, zone, asked)
    source = sources(ask, asked, [name for name in (by, MINUTE if bucket == "minute" else None) if name], at.cuts)
    limit = _integer(asked.rest, "limit", SERIES_LIMIT, 1, LIMIT_MAX)
    keys = [("begun", at.sql), *(_apart(ask, asked, by, limit) if by else ALL)]
    money = ("spend_usd", "estimated_usd", "wasted_usd")
    names = ("calls", "failed", "units", *money, "unpriced_units", "estimated_units")
    rows = summed(ask, asked, source, keys, names, "ORDER BY begun, rest, spend_usd DESC, key")
    starts = {row[0]: _day_start(row[0].date(), zone) if bucket == "day" else row[0] for row in rows}
    rows = [(starts[row[0]], *row[1:]) for row in rows]
    return {"bucket": bucket, "by": by, "rows": [_spent(("at", "key", "rest", *names), row) for row in rows]}


def _apart(ask: Ask, asked: Range, by: str, limit: int) -> Sequence[tuple[str, Sql]]:
    """Return the keys of a dimension of which only the ``limit`` dearest values count by themselves."""
    column = _dimension(by)
    dearest = f"ORDER BY spend_usd DESC, calls DESC, key LIMIT {limit + 1}"
    ranked = summed(ask, asked, sources(ask, asked, [by]), [("key", column)], ("spend_usd", "calls"), dearest)
    if len(ranked) <= limit:
        return ("key", column), ALL[1]
    sql, values = column
    kept = [row[0] for row in ranked[:limit] if row[0] is not None]
    is_kept = f"list_contains(?::VARCHAR[], {sql})"
    return (
        ("key", (f"CASE WHEN {is_kept} THEN {sql} END", [kept, *values, *values])),
        ("rest", (f"{sql} IS NOT NULL AND NOT {is_kept}", [*values, kept, *values])),
    )


def failures(ask: Ask, params: Params, now: datetime) -> Json:
    """What failed, how often, and what retries made of it."""
    asked = _range(params, now)
    source = sources(ask, asked, ())
    keys: list[tuple[str, Sql]] = [(name, (name, [])) for name in ("outcome", "provider")]
    names = ("calls", "spend_usd", "last_at", "retried", "attempts_extra")
    ended = summed(ask, asked, source, keys, names, "ORDER BY calls DESC, outcome, provider")
    well = [row for row in ended if row[0] == "ok"]
    after_retry = sum(row[5] for row in well)
    found = tried(ask, asked, source)
    rows = [row[:5] for row in ended if row[0] != "ok"]
    return {
        "rows": [_named(("outcome", "provider", "calls", "wasted_usd", "last_at"), row) for row in rows],
        "attempts": [
            _named(("outcome", "provider", "attempts", "last_at"), row) for row in found if row[0] not in {"ok", None}
        ],
        "funnel": {
            "first_try": sum(row[2] for row in well) - after_retry, "after_retry": after_retry,
            "gave_up": sum(row[2] for row in rows),
        },
        "retry": {
            "attempts_extra": sum(row[6] for row in ended), "retry_after_asked_s": math.fsum(row[4] for row in found),
            "waited_s": math.fsum(row[5] for row in found),
        },
    }  # fmt: skip


def calls(ask: Ask, params: Params, now: datetime) -> Json:
    """A page of calls; ``next_cursor`` and ``previous_cursor`` lead to its neighbours, null where there is none."""
    asked = _range(params, now, "order", "limit", "cursor")
    order = asked.rest.get("order", "-started_at")
    if order not in ORDERS:
        raise BadParameterError(f"order is {order!r}; one of {', '.join(ORDERS)}")
    limit = _integer(asked.rest, "limit", 50, 1, LIMIT_MAX)
    cursor = asked.rest.get("cursor")
    at, *ids = _opened(cursor, order) if cursor else [None]
    is_back = bool(ids) and ids.pop() == BACK
    column, direction, opened = ORDERS[order]
    if is_back:  # the page before is read from its end, and turned around
        direction = "ASC" if direction == "DESC" else "DESC"
    where, values = asked.where, list(asked.values)
    following, within = ("<", ">=") if direction == "DESC" else (">", "<=")
    if cursor:
        where += f" AND ({column} {following} {opened} OR ({column} = {opened} AND (trace_id, id) {following} (?, ?)))"
        values += [at, at, *ids]
    # The place of the page's end first, from one column; then the rest of what lies within it.
    sql = f"SELECT {column} FROM calls WHERE {where} ORDER BY 1 {direction} LIMIT {limit + 1}"
    places = ask(sql, values)
    if not places:
        return {"rows": [], "next_cursor": None, "previous_cursor": None}
    sql = f"""
        SELECT {", ".join(CALL.values())}, {column} FROM calls WHERE {where} AND {column} {within} ?
        ORDER BY {column} {direction}, trace_id {direction}, id {direction} LIMIT {limit + 1}
    """
    rows = ask(sql, [*values, places[-1][0]])
    page, has_more = rows[:limit], len(rows) > limit
    if is_back:
        page.reverse()
    return {
        "rows": [_named(tuple(CALL), row) for row in page],
        "next_cursor": _closed(page[-1], order, ON) if is_back or has_more else None,
        "previous_cursor": _closed(page[0], order, BACK) if (has_more if is_back else cursor) else None,
    }


def call(ask: Ask, call_id: str) -> Json:
    """One call with its units, receipts and attempts; ``call_id`` may be its beginning."""
    wanted = call_id.lower()
    if not 1 <= len(wanted) <= ID_CHARS or not set(wanted) <= set("0123456789abcdef"):
        raise BadParameterError(f"{call_id[:64]!r} is no call; an id is 16 hex digits, or its beginning")
    where = "id = ?" if len(wanted) == ID_CHARS else "starts_with(id, ?)"
    hours = places.of_prefix(ask, wanted)
    rows = ask(
        f"""
        SELECT {", ".join(CALL.values())}, started_at FROM calls WHERE {hours[0]} AND {where}
        ORDER BY id, trace_id LIMIT 6
        """,
        [*hours[1], wanted],
    ) if hours else []  # fmt: skip
    if not rows:
        raise NotFoundError(f"no call {call_id} is stored; it may still be on its way, or be named otherwise")
    if len(rows) > 1:
        matches = ", ".join(str(row[0]) for row in rows[:5]) + (" ..." if len(rows) > 5 else "")
        raise BadParameterError(
            f"{len(rows) if len(rows) < 6 else 'more than 5'} calls begin with {call_id}: {matches}"
        )
    found = _named(tuple(CALL), rows[0])
    begun = rows[0][-1]
    units = _units_of(ask, found, begun)
    revisions = _revisions(ask, found)
    for position, unit in enumerate(units):
        unit["revisions"] = revisions.get(position, [])
    sql = f"""
        SELECT {", ".join(ATTEMPT)} FROM attempts
        WHERE started_at >= ? AND started_at < ? AND trace_id = ? AND call_id = ? ORDER BY number, started_at
    """
    near = [begun - ATTEMPT_WITHIN, begun + ATTEMPT_WITHIN]
    attempts = [_named(ATTEMPT, row) for row in ask(sql, [*near, found["trace_id"], found["id"]])]
    return {"call": found, "units": units, "attempts": attempts}


def _units_of(ask: Ask, found: Json, begun: datetime) -> list[Json]:
    """Return the units of a call: looked for around its time first, and everywhere when they are not all there."""
    sql = """
        SELECT unit_id, provider, model, api, answered_at, usage, params, estimated, cost_usd, cost_status,
            price_version, receipt
        FROM units WHERE answered_at >= ? AND answered_at < ? AND trace_id = ? AND call_id = ? ORDER BY position
    """
    rows: list[tuple[Any, ...]] = []
    near = (begun - ATTEMPT_WITHIN, begun + ATTEMPT_WITHIN)
    for start, end in (near, (naive(EARLIEST), naive(LATEST))):
        if len(rows) < found["units"]:
            rows = ask(sql, [start, end, found["trace_id"], found["id"]])
    units = [_named(UNIT, row) for row in rows]
    _open_units(ask, units)
    return units


def _open_units(ask: Ask, units: list[Json]) -> None:
    """Turn what is stored as text into objects: usage, params, receipt."""
    needed = sorted({form_id for unit in units if (form_id := form_id_of(unit["receipt"])) is not None})
    forms: dict[str, str] = dict(
        ask("SELECT id, form FROM receipt_forms WHERE id IN (SELECT unnest(?::VARCHAR[]))", [needed])
    )
    for unit in units:
        for name in ("usage", "params"):
            unit[name] = None if unit[name] is None else json.loads(unit[name])
        unit["receipt"] = None if unit["receipt"] is None else unfold(unit["receipt"], forms)


def units(ask: Ask, params: Params, now: datetime) -> Json:
    """The billable responses of the calls in the range, in the order of their calls, with receipts; a page of them."""
    asked = _range(params, now, "limit", "cursor")
    limit = _integer(asked.rest, "limit", LIMIT_MAX, 1, ROWS_MAX)
    columns = ", ".join(f"calls.{COLUMNS.get(name, name)}" for name in UNIT_OF_CALL)
    order = "epoch_us(calls.started_at), units.trace_id, units.call_id, units.position"
    where, values = "", list(asked.values)
    if asked.rest.get("cursor"):
        where, values = f"WHERE ({order}) > (?, ?, ?, ?)", [*values, *_opened_unit(asked.rest["cursor"])]
    sql = f"""
        SELECT units.unit_id, units.provider, units.model, units.api, units.answered_at, units.usage, units.params,
            units.estimated, units.cost_usd, units.cost_status, units.price_version, units.receipt, {columns}, {order}
        FROM (SELECT * FROM calls WHERE {asked.where}) AS calls
        JOIN units ON units.trace_id = calls.trace_id AND units.call_id = calls.id {where}
        ORDER BY {order} LIMIT {limit + 1}
    """
    rows = ask(sql, values)
    page = [_named((*UNIT, *UNIT_OF_CALL, "at_us", "trace_id", "call_id", "position"), row) for row in rows[:limit]]
    following = None
    if len(rows) > limit:
        last = [page[-1][name] for name in ("at_us", "trace_id", "call_id", "position")]
        following = base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")
    for unit in page:
        del unit["at_us"]
    _open_units(ask, page)
    return {"rows": page, "next_cursor": following}


def _opened_unit(cursor: str) -> list[Any]:
    try:
        opened = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        opened = None
    kinds = [int, str, str, int]
    if not isinstance(opened, list) or [type(part) for part in opened] != kinds or not 0 <= opened[0] < 2**63:
        raise BadParameterError("cursor is not one that this question gave; begin again without it")
    return opened


def _revisions(ask: Ask, found: Json) -> dict[int, list[Json]]:
    """Return the figures that each unit of a call had before it was priced again, by its place, the oldest first."""
    sql = """
        SELECT position, revised_at, old_cost_usd, old_cost_status, old_price_version FROM unit_revisions
        WHERE trace_id = ? AND call_id = ? ORDER BY position, revised_at
    """
    revisions: dict[int, list[Json]] = {}
    for position, *row in ask(sql, [found["trace_id"], found["id"]]):
        names = ("revised_at", "cost_usd", "cost_status", "price_version")
        revisions.setdefault(position, []).append(_named(names, row))
    return revisions


def dimensions(ask: Ask, params: Params, now: datetime) -> Json:
    """The distinct values of a dimension, most calls first."""
    asked = _range(params, now, "name", "limit")
    name = asked.rest.get("name", "")
    limit = _integer(asked.rest, "limit", LIMIT_MAX, 1, ROWS_MAX)
    if name == TAGS:
        sql = f"""
            SELECT unnest(map_keys(tags)) AS value, count(*)::BIGINT AS calls FROM calls WHERE {asked.where}
            GROUP BY 1 ORDER BY calls DESC, value LIMIT {limit}
        """
        return {"name": name, "rows": [_named(("value", "calls"), row) for row in ask(sql, asked.values)]}
    column = _dimension(name)
    asked.filters += f" AND {column[0]} IS NOT NULL"
    asked.filter_values += column[1]
    source = sources(ask, asked, [name])
    rows = summed(ask, asked, source, [("value", column)], ["calls"], f"ORDER BY calls DESC, value LIMIT {limit}")
    return {"name": name, "rows": [_named(("value", "calls"), row) for row in rows]}


def alerts(ask: Ask, params: Params, now: datetime) -> Json:
    """All alerts of the range, newest first."""
    asked = _range(params, now, filters=False)
    sql = f"""
        SELECT budget, {ALERT_COLUMNS} FROM alerts WHERE raised_at >= ? AND raised_at < ?
        ORDER BY raised_at DESC, threshold DESC
    """
    rows = ask(sql, [naive(asked.start), naive(asked.end)])
    return {"rows": [_alert(_named(("budget", *ALERT), row)) for row in rows]}


def alerts_of(ask: Ask, budget: Budget, window: Window) -> list[Json]:
    """Return the alerts of the budget's window in force; of a rolling one those that were raised in it."""
    which = "window_start = ?" if budget.rolling is None else "raised_at >= ?"
    sql = f"""
        SELECT {ALERT_COLUMNS} FROM alerts WHERE kind = 'threshold' AND budget = ? AND {which}
        ORDER BY raised_at, threshold
    """
    return [_alert(_named(ALERT, row)) for row in ask(sql, [budget.name, naive(window.start)])]


def _alert(row: Json) -> Json:
    """Return an alert with its group as an object, and what was spent under its unit's name too."""
    group = row.pop("budget_group")
    is_usd = row["unit"] == "usd"
    if row["kind"] != "threshold":
        row = {**row, "threshold": None, "spent": None}
    return {**row, "group": group and json.loads(group), "spent_usd": row["spent"] if is_usd else None}


def spent(
    ask: Ask, budget: Budget, window: Window, least: Decimal = Decimal(0)
) -> dict[tuple[str, ...], tuple[Decimal, int]]:
    """Return what each group of ``budget`` took in ``window``, and how many of its units have no known price.

    Groups that took less than ``least`` are left out, but not the one group of a budget that has no others.
    """
    where, values = scope_where(budget, window.start, window.end)
    columns, grouped = group_columns(budget)
    having = "HAVING amount >= ?" if columns else ""
    sql = f"""
        SELECT coalesce({AMOUNTS[budget.unit]}, 0) AS amount, coalesce(sum(unpriced_units), 0)::BIGINT
            {"".join(f", {column}" for column in columns)}
        FROM calls WHERE {where} {"GROUP BY ALL" if columns else ""} {having}
    """
    rows = ask(sql, [*grouped, *values, *([least] if columns else [])])
    return {tuple(group): (Decimal(amount), unpriced) for amount, unpriced, *group in rows}


def refused(ask: Ask, budget: Budget, window: Window) -> dict[tuple[str, ...], Refused]:
    """Return what each group of ``budget`` refused in ``window`` for want of room, that of calls which can ever fit."""
    sql = """
        SELECT budget_group, count(*), arg_max(spent, refused_at), arg_max(reserved, refused_at),
            arg_max(needed, refused_at)
        FROM refusals WHERE budget = ? AND refused_at >= ? AND refused_at < ? AND reason = 'limit'
            AND resets_at IS NOT NULL GROUP BY ALL
    """
    rows = ask(sql, [budget.name, naive(window.start), naive(window.end)])
    return {
        tuple(group.get(name, "") for name in budget.group_by): Refused(
            calls=calls, spent=Decimal(spent), reserved=Decimal(reserved), needed=Decimal(needed)
        )
        for group, calls, spent, reserved, needed in rows
    }


def scope_where(budget: Budget, start: datetime, end: datetime) -> tuple[str, list[Any]]:
    """Return the condition that picks the calls of ``budget`` between two instants, and its values."""
    where = "started_at >= ? AND started_at < ?"
    values: list[Any] = [naive(start), naive(end)]
    for name, value in budget.scope.items():
        column, more = _dimension(name)
        where += f" AND coalesce({column}, '') = ?"
        values += [*more, value]
    return where, values


def group_columns(budget: Budget) -> tuple[list[str], list[Any]]:
    """Return the columns that make a group of ``budget``, and their values."""
    columns, values = [], []
    for name in budget.group_by:
        column, more = _dimension(name)
        columns.append(f"coalesce({column}, '')")
        values += more
    return columns, values


SENT = f"outcome IS DISTINCT FROM '{Outcome.BUDGET_BLOCKED}'"
"""What was refused before it was sent is no call that a budget pays for."""
AMOUNTS = {
    "usd": "sum(cost_usd)", "tokens": "sum(input_tokens + output_tokens)",
    "calls": f"count_if({SENT})",
}  # fmt: skip


def never_asked(
    ask: Ask, budget: Budget, start: datetime, since: datetime, part_us: int | None
) -> tuple[tuple[int, int], list[tuple[tuple[str, ...], int | None, Decimal]]]:
    """Return how far the journal is applied, and what calls from ``start`` on took of ``budget`` without holding it.

    Those are calls without a reservation, and all that began before ``since``.  It is one row per group, and with
    ``part_us`` one per part of time, whose start in microseconds is the second value.
    """
    where, values = scope_where(budget, start, LATEST)
    columns, grouped = group_columns(budget)
    columns.insert(0, "NULL" if part_us is None else f"epoch_us(started_at) // {part_us} * {part_us}")
    listed = ", ".join(f"{column} AS c{number}" for number, column in enumerate(columns))
    sql = f"""
        SELECT value, found.* FROM meta LEFT JOIN (
            SELECT {AMOUNTS[budget.unit]} AS amount, {listed} FROM calls
            WHERE {where} AND (reservation_id IS NULL OR started_at < ?) GROUP BY ALL
        ) AS found ON true WHERE key = 'applied'
    """
    rows = ask(sql, [*grouped, *values, naive(since)])
    sums = [(tuple(group), at, Decimal(amount)) for _, amount, at, *group in rows if amount]
    segment, offset = json.loads(rows[0][0])
    return (segment, offset), sums


def repriced(
    ask: Ask, budget: Budget, reprice_id: str, start: datetime, since: datetime, part_us: int | None
) -> list[tuple[tuple[str, ...], int | None, Decimal]]:
    """Return by how much a repricing changed the cost of the calls from ``start`` on that held a part of ``budget``.

    Groups and parts are as in `never_asked`, whose calls are all the others.
    """
    where, values = scope_where(budget, start, LATEST)
    columns, grouped = group_columns(budget)
    columns.insert(0, "NULL" if part_us is None else f"epoch_us(started_at) // {part_us} * {part_us}")
    sql = f"""
        SELECT sum(difference), {", ".join(columns)} FROM calls JOIN (
            SELECT trace_id AS of_trace, call_id, sum(coalesce(cost_usd, 0) - coalesce(old_cost_usd, 0)) AS difference
            FROM unit_revisions WHERE reprice_id = ? GROUP BY ALL
        ) ON trace_id = of_trace AND id = call_id
        WHERE {where} AND reservation_id IS NOT NULL AND started_at >= ? GROUP BY ALL
    """
    rows = ask(sql, [*grouped, reprice_id, *values, naive(since)])
    return [(tuple(group), at, Decimal(difference)) for difference, at, *group in rows if difference]


# Parameters


def _range(params: Params, now: datetime, *own: str, filters: bool = True) -> Range:
    _refuse_unknown(params, ("start", "end", *own), filters=filters)
    single = {name: value for name, value in params if name in {"start", "end", *own}}
    end = _instant("end", single["end"]) if single.get("end") else now
    start = _instant("start", single["start"]) if single.get("start") else end - timedelta(days=1)
    if start > end:
        raise BadParameterError(f"start {_iso(start)} is after end {_iso(end)}")
    found = Range(start, end)
    found.rest = {name: value for name, value in single.items() if name in own}
    if filters:
        for name in dict.fromkeys(name for name, _ in params if _is_filter(name)):
            _filter(found, name, [value for other, value in params if other == name])
    return found


def _refuse_unknown(params: Params, own: Sequence[str], *, filters: bool = False) -> None:
    for name, _ in params:
        if name not in own and not (filters and _is_filter(name)):
            known = [*own, *(COLUMNS if filters else ()), *(("tag.NAME",) if filters else ())]
            raise BadParameterError(f"unknown parameter {name[:64]!r}; known: {', '.join(known) or 'none'}")


def _is_filter(name: str) -> bool:
    return name in COLUMNS or (name.startswith(TAG) and len(name) > len(TAG))


def _filter(asked: Range, name: str, wanted: list[str]) -> None:
    column, values = _column(name)
    either = []
    for value in dict.fromkeys(wanted):
        if value == "":
            either.append(f"coalesce({column}, '') = ''")
            asked.filter_values += values
        elif name == "outcome" and value == FAILED:
            either.append("outcome <> 'ok'")
        else:
            either.append(f"{column} = ?")
            asked.filter_values += [*values, value]
    asked.names.add(name)
    asked.filters += f" AND ({' OR '.join(either)})"


def _dimension(name: str) -> Sql:
    if not _is_filter(name) or name == "cost_status":
        known = ", ".join([*(known for known in COLUMNS if known != "cost_status"), "tag.NAME"])
        raise BadParameterError(f"{name[:64]!r} is no dimension; known: {known}")
    return _column(name)


def _column(name: str) -> Sql:
    """Return the SQL of a dimension and its values; only a tag's name comes from outside, and it is bound."""
    if name.startswith(TAG):
        return "map_extract_value(tags, ?)", [name[len(TAG) :]]
    return COLUMNS[name], []


def _instant(name: str, text: str) -> datetime:
    try:
        # A plus sign in a URL that nobody escaped arrives as a space.
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise BadParameterError(f"{name} is {text[:64]!r}; a time is ISO 8601, as 2026-11-21T12:00:00Z") from error
    return min(max(at, EARLIEST), LATEST)


def _integer(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
        raise BadParameterError(f"{name} is {text[:64]!r}; a number from {least} to {most}")
    return int(text)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise BadParameterError(f"timezone {name[:64]!r} is unknown; an IANA name, as Europe/Berlin") from error


# Buckets


@dataclass(frozen=True, slots=True)
class _Bucket:
    sql: Sql
    """A call's bucket: its start in UTC, for days their local date."""
    cuts: Sequence[datetime] = ()
    """Where buckets meet within an hour."""


def _bucket(bucket: str, zone: ZoneInfo, asked: Range) -> _Bucket:
    if bucket != "day":
        return _Bucket((f"date_trunc('{bucket}', started_at)", []))
    # A zone's offset is constant but for its changes in the range, so a CASE over those gives the local time.
    changes = list(_offsets(zone, asked))
    whens = "".join(" WHEN started_at < ? THEN to_seconds(?::BIGINT)" for _ in changes[1:])
    values: list[Any] = []
    for (_, offset), (until, _) in pairwise(changes):
        values += [naive(until), offset]
    values.append(changes[-1][1])
    shift = f"CASE{whens} ELSE to_seconds(?::BIGINT) END" if whens else "to_seconds(?::BIGINT)"
    cuts = [naive(at) for at, _ in changes[1:]]
    for (start, offset), until in zip(changes, [*(at for at, _ in changes[1:]), asked.end], strict=True):
        if offset % 3600:
            cuts += _midnights(naive(start), naive(until), timedelta(seconds=offset))
    return _Bucket((f"date_trunc('day', started_at + {shift})", values), cuts)


def _midnights(start: datetime, end: datetime, offset: timedelta) -> list[datetime]:
    """Return when days begin between two instants where local time is ``offset`` ahead."""
    first = (start + offset).replace(hour=0, minute=0, second=0, microsecond=0) - offset
    return [first + timedelta(days=day) for day in range((end - first).days + 2)]


def _offsets(zone: ZoneInfo, asked: Range) -> list[tuple[datetime, int]]:
    """Return (from, offset from UTC in seconds) at the range's start and for each change of it in the range."""
    found = [(asked.start, _offset(asked.start, zone))]
    at = asked.start
    while at < asked.end:
        following = min(at + timedelta(days=1), asked.end)
        if _offset(following, zone) != found[-1][1]:
            low, high = at, following
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if _offset(middle, zone) == found[-1][1] else (low, middle)
            found.append((high.replace(microsecond=0), _offset(high, zone)))
        at = following
    return found


def _offset(at: datetime, zone: ZoneInfo) -> int:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None, "a ZoneInfo always knows its offset"
    return int(offset.total_seconds())


def _day_start(day: date, zone: ZoneInfo) -> datetime:
    """Return the UTC instant at which ``day`` begins in ``zone``, also where its midnight does not exist."""
    daily = Budget(name="day", limit_usd=Decimal(1), window="day", timezone=zone.key)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone)
    return window_at(daily, noon).start


# Cursors


def _closed(row: tuple[Any, ...], order: str, way: str) -> str:
    at = (row[-1] - NAIVE_EPOCH) // timedelta(microseconds=1) if isinstance(row[-1], datetime) else row[-1]
    text = json.dumps([order, format(Decimal(repr(at) if isinstance(at, float) else at), "f"), row[1], row[0], way])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _opened(cursor: str, order: str) -> list[Any]:
    try:
        opened = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        opened = None
    is_ours = isinstance(opened, list) and len(opened) == 5 and all(isinstance(part, str) for part in opened)
    if not is_ours or opened[0] != order or not NUMBER.fullmatch(opened[1]) or opened[4] not in {ON, BACK}:
        raise BadParameterError("cursor is not one that this question gave; begin again without it")
    return list(opened[1:])


# Answers


def _named(names: Sequence[str], values: Sequence[Any]) -> Json:
    return {name: _shown(value) for name, value in zip(names, values, strict=False)}


def _spent(names: Sequence[str], values: Sequence[Any]) -> Json:
    """Return a row of sums, in which what responses without any price cost is unknown, not zero."""
    row = _named(names, values)
    if row["units"] and row["unpriced_units"] >= row["units"]:
        row["spend_usd"] = None
    return row


def _shown(value: Any) -> Any:
    if isinstance(value, Decimal):
        return _plain(value)
    return _iso(value) if isinstance(value, datetime) else value


def _plain(amount: Decimal, *, trim: bool = True) -> str:
    """Return every digit of an amount and no more: ``0.00885``, not ``0.008850000000`` or ``8.85E-3``."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if trim and "." in text else text


def _iso(at: datetime | None) -> str | None:
    if at is None:
        return None
    at = at.astimezone(UTC) if at.tzinfo else at
    return at.replace(tzinfo=None).isoformat() + "Z"
