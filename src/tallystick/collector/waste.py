"""``/api/v1/waste``: what failures cost, by cause; and retries, waits, fallbacks and the headroom of rate limits."""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.collector.advice import repeated
from tallystick.collector.advise import TTLS_S
from tallystick.collector.query import Json, Params, _named, _plain, _range
from tallystick.collector.rollups import ATTEMPT_WITHIN, Ask, Range, naive, sources, summed
from tallystick.model.failures import MAY_BE_BILLED, Outcome

CAUSES: Mapping[str, tuple[Outcome, ...]] = {
    "timeouts": (
        Outcome.TIMEOUT_CONNECT, Outcome.TIMEOUT_POOL, Outcome.TIMEOUT_READ, Outcome.TIMEOUT_WRITE,
        Outcome.TIMEOUT_SERVER,
    ),
    "abandoned": (Outcome.ABANDONED, Outcome.CANCELLED, Outcome.STREAM_INTERRUPTED),
    "truncated": (Outcome.TRUNCATED,),
    "invalid_output": (Outcome.INVALID_OUTPUT,),
}  # fmt: skip
OTHER = tuple(each for each in Outcome if each is not Outcome.OK and each not in sum(CAUSES.values(), ()))
TRIES_MAX = 6
DIGESTS_MAX = 20
"""So many of the dearest repeated requests are named, so that a link to their calls is not too long."""
HEADROOM_WITHIN = timedelta(days=1)
HEADROOM_MAX = 50
SOONER_S = 0.05
"""A wait that is shorter than asked by no more than this was kept."""
LIMITED = ("requests", "tokens", "input_tokens", "output_tokens")


def waste(ask: Ask, params: Params, now: datetime) -> Json:
    """What was paid without a result, by cause; how often calls were tried; waits, fallbacks and headroom."""
    asked = _range(params, now)
    return {
        "causes": [*_failed(ask, asked), _asked_again(ask, asked), _duplicates(ask, asked)],
        "tries": _tries(ask, asked), "waits": _waits(ask, asked), "fallbacks": _fallbacks(ask, asked),
        "headroom": _headroom(ask, asked),
    }  # fmt: skip


def _failed(ask: Ask, asked: Range) -> list[Json]:
    rows = summed(ask, asked, sources(ask, asked, ()), [("outcome", ("outcome", []))], ("calls", "spend_usd"))
    found = {outcome: (calls, usd) for outcome, calls, usd in rows}
    billed = ", ".join(f"'{outcome}'" for outcome in sorted(MAY_BE_BILLED))
    sql = f"""
        SELECT outcome, count(*)::BIGINT FROM calls
        WHERE {asked.where} AND units = 0 AND attempts > 0 AND outcome IN ({billed}) GROUP BY 1
    """
    untold: dict[str, int] = dict(ask(sql, asked.values))
    return [
        _cause(
            name, sum(found.get(each, (0, 0))[0] for each in outcomes),
            sum((Decimal(found.get(each, (0, 0))[1]) for each in outcomes), Decimal()),
            {"outcome": [str(each) for each in outcomes if each in found]},
            untold=sum(untold.get(each, 0) for each in outcomes),
        )
        for name, outcomes in {**CAUSES, "other": OTHER}.items()
    ]  # fmt: skip


def _asked_again(ask: Ask, asked: Range) -> Json:
    sql = f"""
        SELECT count(*)::BIGINT, coalesce(sum(cost_usd), 0) FROM calls
        WHERE {asked.where} AND link = 're_ask' AND outcome = 'ok'
    """
    calls, usd = ask(sql, asked.values)[0]
    return _cause("re_asks", calls, usd, {"link": "re_ask", "outcome": "ok"})


def _duplicates(ask: Ask, asked: Range) -> Json:
    """Answered calls with the digest of an answered one that had ended at most an hour before."""
    hour = 2 + 2 * TTLS_S.index(3600)
    found = sorted((row for row in repeated(ask, asked) if row[hour]), key=lambda row: (-row[hour + 1], row[0]))
    calls, usd = sum(row[hour] for row in found), sum((Decimal(row[hour + 1]) for row in found), Decimal())
    return _cause("duplicates", calls, usd, {"digest": [row[0] for row in found[:DIGESTS_MAX]]})


def _cause(name: str, calls: int, usd: Any, filters: Mapping[str, Any], untold: int = 0) -> Json:
    return {"cause": name, "calls": calls, "usd": _plain(Decimal(usd)), "untold": untold, "filters": dict(filters)}


def _tries(ask: Ask, asked: Range) -> list[Json]:
    sql = f"""
        SELECT greatest(least(attempts, {TRIES_MAX}), 1)::BIGINT AS tries, count(*)::BIGINT,
            count(*) FILTER (outcome = 'ok')::BIGINT
        FROM calls WHERE {asked.where} GROUP BY 1 ORDER BY 1
    """
    return _rows(("tries", "calls", "answered"), ask(sql, asked.values))


def _within(asked: Range) -> tuple[str, list[Any]]:
    """Return the SQL of the calls whose attempts may have begun in the range, and its values."""
    sql = f"SELECT * FROM calls WHERE started_at >= ? AND started_at < ? {asked.filters}"
    return sql, [naive(asked.start) - ATTEMPT_WITHIN, naive(asked.end), *asked.filter_values]


def _waits(ask: Ask, asked: Range) -> list[Json]:
    """Return, by provider, how often a server asked to wait, and what became of it where another attempt followed."""
    calls, values = _within(asked)
    start, end = naive(asked.start), naive(asked.end)
    sql = f"""
        WITH asked AS (
            SELECT trace_id, call_id, number, retry_after_s FROM attempts
            WHERE started_at >= ? AND started_at < ? AND retry_after_s IS NOT NULL
        ),
        followed AS (
            SELECT asked.*, attempts.waited_s FROM asked LEFT JOIN attempts
            ON attempts.trace_id = asked.trace_id AND attempts.call_id = asked.call_id
                AND attempts.number = asked.number + 1 AND attempts.started_at >= ? AND attempts.started_at < ?
        )
        SELECT provider, count(*)::BIGINT AS asked, count(waited_s)::BIGINT,
            count(*) FILTER (waited_s < retry_after_s - {SOONER_S})::BIGINT,
            coalesce(sum(retry_after_s) FILTER (waited_s IS NOT NULL), 0)::DOUBLE, coalesce(sum(waited_s), 0)::DOUBLE
        FROM followed JOIN ({calls}) AS calls ON calls.trace_id = followed.trace_id AND calls.id = followed.call_id
        GROUP BY 1 ORDER BY asked DESC, 1
    """
    found = ask(sql, [start, end, start, end + ATTEMPT_WITHIN, *values])
    return _rows(("provider", "asked", "followed", "sooner", "asked_s", "waited_s"), found)


def _fallbacks(ask: Ask, asked: Range) -> list[Json]:
    """Return which model took over from which, and how that ended."""
    start, end = naive(asked.start), naive(asked.end)
    sql = f"""
        WITH linked AS (SELECT DISTINCT chain FROM calls WHERE {asked.where} AND link = 'fallback'),
        chained AS (
            SELECT calls.*, lag(model) OVER (PARTITION BY chain ORDER BY link_index NULLS FIRST, started_at) AS before
            FROM calls SEMI JOIN linked USING (chain) WHERE started_at >= ? AND started_at < ?
        )
        SELECT before, model, count(*)::BIGINT AS calls, count(*) FILTER (outcome = 'ok')::BIGINT,
            coalesce(sum(cost_usd), 0)
        FROM chained WHERE link = 'fallback' AND {asked.where} GROUP BY 1, 2 ORDER BY calls DESC, 1, 2
    """
    found = ask(sql, [*asked.values, start - ATTEMPT_WITHIN, end, *asked.values])
    return _rows(("model_before", "model", "calls", "answered", "spend_usd"), found)


def _headroom(ask: Ask, asked: Range) -> list[Json]:
    """Return how little was left of each rate limit on the last day of the range, and how much is left now."""
    calls, values = _within(asked)
    told = " UNION ALL ".join(
        f"SELECT '{name}' AS of, trace_id, call_id, started_at, {name}_limit AS most, {name}_remaining AS rest "
        f"FROM tried WHERE {name}_limit > 0 AND {name}_remaining IS NOT NULL"
        for name in LIMITED
    )
    figures = "SELECT trace_id, call_id, started_at, " + ", ".join(
        f"{name}_limit, {name}_remaining" for name in LIMITED
    )
    sql = f"""
        WITH tried AS ({figures} FROM attempts WHERE started_at >= ? AND started_at < ?), told AS ({told})
        SELECT provider, model, key_id, of, arg_min(rest, rest / most), arg_min(most, rest / most),
            arg_min(told.started_at, rest / most), arg_max(rest, told.started_at), arg_max(most, told.started_at),
            max(told.started_at)
        FROM told JOIN ({calls}) AS calls ON calls.trace_id = told.trace_id AND calls.id = told.call_id
        GROUP BY provider, model, key_id, of
        ORDER BY min(rest / most), provider, model, key_id, of LIMIT {HEADROOM_MAX}
    """
    since = max(asked.start, asked.end - HEADROOM_WITHIN)
    recent = [naive(since), naive(asked.end)]
    values = [recent[0] - ATTEMPT_WITHIN, *values[1:]]
    names = ("provider", "model", "key", "of", "lowest", "lowest_limit", "lowest_at", "latest", "latest_limit",
             "latest_at")  # fmt: skip
    return _rows(names, ask(sql, [*recent, *values]))


def _rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Json]:
    return [_named(names, row) for row in rows]
