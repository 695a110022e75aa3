"""What every answer of the API is made of, as JSON Schema: a test holds real answers to it, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.collector.advice import ABOUT
from tallystick.model.failures import Outcome

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
TIME: Schema = {"type": "string", "format": "date-time"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLOAT: Schema = {"type": "number"}
MONEY: Schema = {"type": "string", "description": "USD, every digit"}
AMOUNT: Schema = {"type": "string", "description": "In the budget's unit, every digit"}
STRINGS: Schema = {"type": "array", "items": TEXT}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
ANYTHING: Schema = {"type": "object"}
ONE_OR_MORE: Schema = {"type": "object", "additionalProperties": {"anyOf": [TEXT, STRINGS]}}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _rows(**properties: Schema) -> Schema:
    return {"type": "array", "items": _object(**properties)}


def _all(schema: Schema, *names: str) -> dict[str, Schema]:
    return dict.fromkeys(names, schema)


USD = {**_or_null(MONEY), "description": "USD, every digit; null when unknown"}
LATER = _or_null(TIME)
WORD = _or_null(TEXT)
NUMBER = _or_null(FLOAT)
TOKENS = _all(COUNT, "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
WHOSE = {**_all(WORD, "service", "environment", "feature", "user", "session", "prompt", "key", "caller"), "tags": TEXTS}
OUTCOME: Schema = {"type": "string", "enum": [str(outcome) for outcome in Outcome]}
COST_STATUS: Schema = {"type": "string", "enum": ["exact", "provider_reported", "estimated", "unknown"]}

SUMS = {
    **_all(COUNT, "calls", "failed", "attempts", "units", "unpriced_units"),
    "spend_usd": USD, **_all(MONEY, "estimated_usd", "wasted_usd"),
    **TOKENS, **_all(NUMBER, "latency_ms_p50", "latency_ms_p95"),
}  # fmt: skip
CALL = {
    "id": TEXT, "trace_id": TEXT, "parent_id": WORD, "started_at": TIME, "latency_ms": FLOAT, "first_chunk_ms": NUMBER,
    **_all(WORD, "operation", "provider", "model", "response_model"), "outcome": OUTCOME,
    **_all(WORD, "error_code", "exception"), "stream": FLAG, "attempts": COUNT, "units": COUNT, "cost_usd": USD,
    "cost_status": {"enum": [*COST_STATUS["enum"], None]}, **TOKENS, **WHOSE, "finish_reasons": STRINGS,
    "max_tokens": _or_null(COUNT), "digest": WORD, "template": WORD,
    **_all(_or_null(COUNT), "request_characters", "tools_characters", "messages"),
    "chain": TEXT, "link": WORD, "link_index": _or_null(COUNT),
}  # fmt: skip
RECEIPT = _object(
    provider=WORD, model=WORD, status=COST_STATUS, cost_usd=USD, contracted_usd=USD,
    lines=_rows(
        item=TEXT, quantity=TEXT, unit=TEXT, unit_price_usd=TEXT, per=COUNT, multiplier=TEXT, cost_usd=MONEY,
        model=TEXT, source=WORD, valid_from=WORD,
    ),
    usage=_or_null(ANYTHING), reason=WORD, price_version=WORD, notes=STRINGS,
)  # fmt: skip
UNIT = {
    "id": WORD, "provider": WORD, "model": WORD, "api": WORD, "at": TIME, "usage": _or_null(ANYTHING),
    "params": ANYTHING,
    "estimated": FLAG, "cost_usd": USD, "cost_status": COST_STATUS, "price_version": WORD, "receipt": RECEIPT,
}  # fmt: skip
ATTEMPT = {
    "number": COUNT, "started_at": TIME, "duration_ms": FLOAT, "status": _or_null(COUNT), "outcome": OUTCOME,
    "request_id": WORD, "retry_after_s": NUMBER, "waited_s": NUMBER, "should_retry": _or_null(FLAG), "code": WORD,
    **_all(
        _or_null(COUNT), *(
            f"{counted}_{told}"
            for counted in ("requests", "tokens", "input_tokens", "output_tokens") for told in ("limit", "remaining")
        ),
    ),
}  # fmt: skip
ALERT = {
    "id": TEXT, "kind": TEXT, "title": WORD, "threshold": WORD, "spent": _or_null(AMOUNT), "unit": TEXT,
    "group": _or_null(ANYTHING), "spent_usd": USD, "acked_at": LATER, "snoozed_until": LATER,
    "raised_at": TIME, "state": TEXT, "delivered_at": LATER, "deliveries": COUNT, "error": WORD,
}  # fmt: skip
STANDING = {
    **_all(AMOUNT, "spent", "reserved", "left", "share", "pace_per_hour"), "full_at": LATER, "refused": COUNT,
}  # fmt: skip
BESIDE = {"spend_usd": MONEY, "usual_usd": USD, "calls": COUNT, "usual_calls": NUMBER}

# By the question, or by the path of what is none of the questions.
ANSWERS: Mapping[str, Schema] = {
    "totals": _object(
        start=TIME, end=TIME, **SUMS, estimated_units=COUNT, first_call_at=LATER, last_call_at=LATER,
    ),
    "series": _object(
        bucket=TEXT, by=WORD,
        rows=_rows(
            at=TIME, key=WORD, rest={"type": "boolean"}, calls=COUNT, failed=COUNT, units=COUNT, spend_usd=USD,
            **_all(MONEY, "estimated_usd", "wasted_usd"),
            unpriced_units=COUNT, estimated_units=COUNT,
        ),
    ),
    "groups": _object(by=TEXT, rows=_rows(key=WORD, **SUMS)),
    "waste": _object(
        causes=_rows(cause=TEXT, calls=COUNT, usd=MONEY, untold=COUNT, filters=ONE_OR_MORE),
        tries=_rows(tries=COUNT, calls=COUNT, answered=COUNT),
        waits=_rows(provider=WORD, asked=COUNT, followed=COUNT, sooner=COUNT, asked_s=FLOAT, waited_s=FLOAT),
        fallbacks=_rows(model_before=WORD, model=WORD, calls=COUNT, answered=COUNT, spend_usd=MONEY),
        headroom=_rows(
            **_all(WORD, "provider", "model", "key"), of=TEXT,
            **_all(COUNT, "lowest", "lowest_limit", "latest", "latest_limit"), lowest_at=TIME, latest_at=TIME,
        ),
    ),
    "cause": _object(
        start=TIME, end=TIME, windows=COUNT, **BESIDE,
        cause={"anyOf": [{"type": "null"}, _object(
            dimensions=_rows(name=TEXT, value=WORD), filters=TEXTS, **BESIDE,
        )]},
    ),
    "failures": _object(
        rows=_rows(outcome=OUTCOME, provider=WORD, calls=COUNT, wasted_usd=MONEY, last_at=TIME),
        attempts=_rows(outcome=OUTCOME, provider=WORD, attempts=COUNT, last_at=TIME),
        funnel=_object(**_all(COUNT, "first_try", "after_retry", "gave_up")),
        retry=_object(attempts_extra=COUNT, retry_after_asked_s=FLOAT, waited_s=FLOAT),
    ),
    "calls": _object(rows=_rows(**CALL), next_cursor=WORD, previous_cursor=WORD),
    "units": _object(
        rows=_rows(**UNIT, **WHOSE, trace_id=TEXT, call_id=TEXT, position=COUNT), next_cursor=WORD,
    ),
    "dimensions": _object(name=TEXT, rows=_rows(value=WORD, calls=COUNT)),
    "alerts": _object(rows=_rows(budget=TEXT, **ALERT)),
    "refusals": _object(
        rows=_rows(
            id=TEXT, refused_at=TIME, budget=TEXT, group=ANYTHING, action=TEXT, reason=TEXT, unit=TEXT,
            **_all(_or_null(AMOUNT), "limit", "spent", "reserved", "needed"),
            **_all(LATER, "window_start", "window_end", "resets_at"), dimensions=ANYTHING,
        ),
    ),
    "changes": _object(rows=_rows(changed_at=TIME, budget=TEXT, source=TEXT, definition=_or_null(ANYTHING))),
    "spans": _object(count=COUNT, sum=WORD, ids=_rows(trace_id=TEXT, id=TEXT)),
    "/api/v1/calls/{id}": _object(
        call=_object(**CALL), units=_rows(**UNIT, revisions={"type": "array", "items": ANYTHING}),
        attempts=_rows(**ATTEMPT),
    ),
    "/api/v1/traces/{id}": _object(
        trace_id=TEXT, calls=_rows(**CALL), attempts=_rows(id=TEXT, call_id=TEXT, **ATTEMPT),
        spans={"type": "array", "items": ANYTHING},
    ),
    "/api/v1/budgets": _object(
        rows=_rows(
            name=TEXT, source=TEXT, scope=TEXTS, group_by=STRINGS, action=TEXT, unit=TEXT, limit=AMOUNT, limit_usd=USD,
            window=_object(kind=TEXT, timezone=TEXT, start=TIME, end=TIME), resets_in_s=NUMBER, **STANDING,
            spent_usd=USD, unpriced_units=COUNT, groups_count=COUNT, groups=_rows(group=ANYTHING, **STANDING),
            thresholds=STRINGS, alerts=_rows(**ALERT), definition=ANYTHING,
        ),
    ),
    "/api/v1/guard": _object(version=TEXT, lease_s=COUNT, budgets={"type": "array", "items": ANYTHING}),
    "/api/v1/ledger": _object(
        **_all(COUNT, "received_spans", "stored_spans", "duplicate_spans", "conflicting_spans"), rejected_spans=COUNTS,
        unaccounted_spans={"type": "integer"}, dropped_records=COUNT, dropped=COUNTS, duplicate_units=COUNT,
        apps=_rows(
            service=TEXT, **_all(COUNT, "finished_calls", "spooled_calls", "dropped_calls", "dropped_records"),
            unaccounted_calls={"type": "integer"},
        ),
        journal=_object(**_all(COUNT, "segments", "bytes", "applied_bytes", "behind_bytes", "damaged_bytes")),
        prices=_object(version=TEXT, age_days=_or_null(COUNT), fault=WORD),
        forward={"anyOf": [{"type": "null"}, _object(
            host=TEXT, **_all(COUNT, "sent_records", "refused_records", "rejected_spans", "behind_bytes"), fault=WORD,
        )]},
    ),
    "advice": _object(
        start=TIME, end=TIME, days=TEXT, calls=COUNT, spend_usd=TEXT, monthly_spend_usd=USD,
        rows=_rows(
            about={"type": "string", "enum": list(ABOUT)}, title=TEXT, cause=TEXT, calls=COUNT, usd=USD,
            monthly_usd=USD,
            means={"type": "string", "enum": ["saved", "held", "unknown"]},
            bound={"type": "string", "enum": ["exact", "about", "at most", "at least"]},
            counted=TEXT, assumes=STRINGS, evidence=ANYTHING, filters=ONE_OR_MORE,
            parts=_rows(label=TEXT, calls=COUNT, usd=USD, monthly_usd=USD, filters=ONE_OR_MORE),
        ),
        quiet=_rows(about=TEXT, reason=TEXT), targets=STRINGS,
    ),
    "/api/v1/doctor": _object(
        version=TEXT, address=TEXT, data=TEXT, spool=TEXT,
        checks=_rows(name=TEXT, state={"type": "string", "enum": ["ok", "warn", "fail"]}, told=TEXT, todo=TEXT),
        services=_rows(
            service=WORD, calls=COUNT, last_call_at=TIME, ahead_s=NUMBER
        ),
        emitters=_rows(emitter=TEXT, calls=COUNT, last_call_at=TIME), channels=STRINGS, ledger=ANYTHING,
        kept=_object(archive_days=COUNT, retention_days=COUNT, retention_gb=NUMBER),
    ),
    "/api/v1/alerts/test": _object(
        rows=_rows(channel=TEXT, delivered=FLAG, error=WORD)
    ),
}  # fmt: skip
