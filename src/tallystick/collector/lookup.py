"""Looking things up from outside: a trace by its id, and which stored spans have an attribute."""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from tallystick.collector import places
from tallystick.collector.decode import HEADROOM
from tallystick.collector.query import (
    ATTEMPT,
    CALL,
    BadParameterError,
    Json,
    NotFoundError,
    Params,
    _integer,
    _named,
    _plain,
    _range,
)
from tallystick.collector.rollups import Ask
from tallystick.model import attributes as names

ATTRIBUTE = "attribute."
IDS, IDS_MAX = 100, 10_000
SPAN = ("id", "parent_id", "started_at", "duration_ms", "name", "scope", "service", "status")
TRACE_ROWS_MAX = 10_000

# Where an attribute of our own spans went that has a column: docs/spans.md and migrations/0001.
OF_CALLS: Mapping[str, str] = {
    names.OPERATION: "operation", names.PROVIDER: "provider", names.REQUEST_MODEL: "model",
    names.RESPONSE_MODEL: "response_model", names.REQUEST_STREAM: "stream", names.INPUT_TOKENS: "input_tokens",
    names.OUTPUT_TOKENS: "output_tokens", names.CACHE_READ_TOKENS: "cache_read_tokens",
    names.CACHE_WRITE_TOKENS: "cache_write_tokens", names.REASONING_TOKENS: "reasoning_tokens",
    names.COST_AMOUNT: "cost_usd", names.COST_STATUS: "cost_status", names.PROMPT_NAME: "prompt",
    names.EXCEPTION_TYPE: "exception", names.OUTCOME: "outcome", names.ERROR_CODE: "error_code",
    names.ATTEMPTS: "attempts", names.FEATURE: "feature", names.USER: "user_id", names.SESSION: "session_id",
    names.CALLER: "caller", names.KEY: "key_id", names.REQUEST_MAX_TOKENS: "max_tokens",
    names.REQUEST_DIGEST: "digest", names.TEMPLATE: "template", names.REQUEST_CHARACTERS: "request_characters",
    names.REQUEST_TOOLS_CHARACTERS: "tools_characters", names.REQUEST_MESSAGES: "messages",
    names.LINK_ID: "nullif(chain, id)", names.LINK_KIND: "link", names.LINK_INDEX: "link_index",
}  # fmt: skip
OF_ATTEMPTS: Mapping[str, str] = {
    names.RESEND_COUNT: "number", names.STATUS_CODE: "status", names.ATTEMPT_OUTCOME: "outcome",
    names.REQUEST_ID: "request_id", names.RETRY_AFTER_S: "retry_after_s", names.ERROR_TYPE: "error_type",
    names.ATTEMPT_CODE: "code", names.WAITED_S: "waited_s", names.SHOULD_RETRY: "should_retry",
    **{name: column for column, name in HEADROOM},
}  # fmt: skip
# A call of another emitter is there as a span too, and counts as one.
TABLES: Mapping[str, tuple[str, str]] = {
    "call": ("calls", "source = 'tallystick'"), "attempt": ("attempts", "true"), "span": ("spans", "true"),
}  # fmt: skip


def spans(ask: Ask, params: Params, now: datetime) -> Json:
    """How many stored spans have these attributes, which, and the sum of one; for checks from outside."""
    wanted = [(name.removeprefix(ATTRIBUTE), value) for name, value in params if name.startswith(ATTRIBUTE)]
    rest = [pair for pair in params if not pair[0].startswith(ATTRIBUTE)]
    asked = _range(rest, now, "sum", "limit", "kind", filters=False)
    limit = _integer(asked.rest, "limit", IDS, 0, IDS_MAX)
    kind = asked.rest.get("kind")
    if kind is not None and kind not in TABLES:
        raise BadParameterError(f"kind is {kind[:64]!r}; one of {', '.join(TABLES)}")
    parts: list[str] = []
    values: list[Any] = []
    for name in [kind] if kind else TABLES:
        summed, more = _value(name, asked.rest.get("sum") or "")
        values += more
        table, which = TABLES[name]
        where = f"{which} AND started_at >= ? AND started_at < ?"
        values += asked.values[:2]
        for attribute, value in wanted:
            found, more = _value(name, attribute)
            where += f" AND {found} = ?"
            values += [*more, value]
        parts.append(f"SELECT trace_id, id, TRY_CAST({summed} AS DECIMAL(38, 12)) AS summed FROM {table} WHERE {where}")
    stored = " UNION ALL ".join(parts)
    count, total = ask(f"SELECT count(*)::BIGINT, sum(summed) FROM ({stored})", values)[0]
    ids = ask(f"SELECT trace_id, id FROM ({stored}) ORDER BY trace_id, id LIMIT {limit}", values)
    return {
        "count": count,
        "sum": None if total is None else _plain(Decimal(total)),
        "ids": [{"trace_id": trace_id, "id": span_id} for trace_id, span_id in ids],
    }


def _value(kind: str, attribute: str) -> tuple[str, list[str]]:
    """Return the SQL of an attribute's value as text, and its values; the name comes from outside and is bound."""
    if kind == "attempt":
        return f"{OF_ATTEMPTS[attribute]}::VARCHAR" if attribute in OF_ATTEMPTS else "NULL::VARCHAR", []
    if kind == "call" and attribute in OF_CALLS:
        return f"{OF_CALLS[attribute]}::VARCHAR", []
    if kind == "call" and attribute.startswith(names.TAG_PREFIX):
        return "map_extract_value(tags, ?)", [attribute.removeprefix(names.TAG_PREFIX)]
    return "map_extract_value(attributes, ?)", [attribute]


def trace(ask: Ask, trace_id: str) -> Json:
    """All that is stored of one trace, in the order in which it began: calls, attempts, and spans of the rest."""
    wanted = trace_id.lower()
    if len(wanted) != 32 or not set(wanted) <= set("0123456789abcdef"):
        raise BadParameterError(f"{trace_id[:64]!r} is no trace; an id is 32 hex digits")
    hours = places.of_prefix(ask, wanted)
    if hours is None:
        raise NotFoundError(f"no trace {wanted} is stored; it may still be on its way")
    where, values = f"{hours[0]} AND trace_id = ?", [*hours[1], wanted]
    columns = ", ".join(CALL.values())
    sql = f"SELECT {columns} FROM calls WHERE {where} ORDER BY started_at, id LIMIT {TRACE_ROWS_MAX}"
    calls = [_named(tuple(CALL), row) for row in ask(sql, values)]
    attempted = ("id", "call_id", *ATTEMPT)
    sql = f"""
        SELECT {", ".join(attempted)} FROM attempts WHERE {where}
        ORDER BY started_at, number, id LIMIT {TRACE_ROWS_MAX}
    """
    attempts = [_named(attempted, row) for row in ask(sql, values)]
    sql = f"SELECT {', '.join(SPAN)} FROM spans WHERE {where} ORDER BY started_at, id LIMIT {TRACE_ROWS_MAX}"
    others = [_named(SPAN, row) for row in ask(sql, values)]
    if not (calls or attempts or others):
        raise NotFoundError(f"no trace {wanted} is stored; it may still be on its way")
    return {"trace_id": wanted, "calls": calls, "attempts": attempts, "spans": others}
