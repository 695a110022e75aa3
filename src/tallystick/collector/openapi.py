"""``/api/v1/openapi.json``: the questions as OpenAPI, from one table; docs/api.md is held to it by a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from tallystick.collector.advice import ABOUT
from tallystick.collector.export import FORMATS
from tallystick.collector.query import BUCKETS, COLUMNS, ORDERS
from tallystick.collector.schemas import ANSWERS, TEXT, TIME, Schema

NUMBER: Schema = {"type": "integer", "minimum": 1}
FORMAT: Schema = {"type": "string", "enum": list(FORMATS)}

RANGE: dict[str, Schema] = {"start": TIME, "end": TIME}
FILTERS: dict[str, Schema] = dict.fromkeys(COLUMNS, TEXT)
PAGE: dict[str, Schema] = {"limit": NUMBER, "cursor": TEXT, "format": FORMAT}

# Path below /api/v1, what it answers, whether filters are taken, and its own parameters.
QUESTIONS: Mapping[str, tuple[str, bool, dict[str, Schema]]] = {
    "totals": ("What was spent and on how much", True, RANGE),
    "series": ("Spend over time", True, RANGE | {
        "bucket": {"type": "string", "enum": list(BUCKETS)}, "by": TEXT, "timezone": TEXT, "limit": NUMBER,
        "format": FORMAT,
    }),
    "groups": ("Spend by a dimension, dearest first", True, RANGE | {"by": TEXT, "limit": NUMBER, "format": FORMAT}),
    "failures": ("What failed, and what retries made of it", True, RANGE),
    "cause": ("What the range cost beside the usual, and which calls explain it", True, RANGE),
    "waste": ("What was paid without a result, by cause; tries, waits, fallbacks and headroom", True, RANGE),
    "calls": ("A page of calls", True, RANGE | PAGE | {"order": {"type": "string", "enum": list(ORDERS)}}),
    "units": ("A page of billable responses with receipts", True, RANGE | PAGE),
    "dimensions": ("The values of a dimension, most calls first", True, RANGE | {"name": TEXT, "limit": NUMBER}),
    "alerts": ("The alerts of the range, newest first", False, RANGE | {"format": FORMAT}),
    "refusals": ("The calls that a budget did not let through, newest first", False, RANGE | {
        "budget": TEXT, "limit": NUMBER, "format": FORMAT,
    }),
    "changes": ("Who changed which budget when, newest first", False, RANGE),
    "spans": ("Stored spans by attribute: how many, which, and a sum", False, RANGE | {
        "sum": TEXT, "kind": {"type": "string", "enum": ["call", "attempt", "span"]}, "limit": NUMBER,
    }),
    "advice": ("What could be saved, each figure with its cause and its calls", True, RANGE | {
        "about": {"type": "string", "enum": list(ABOUT)}, "to": TEXT,
    }),
}  # fmt: skip
OTHERS: Mapping[str, str] = {
    "/api/v1/calls/{id}": "One call with its units, receipts and attempts",
    "/api/v1/traces/{id}": "All that is stored of a trace",
    "/api/v1/budgets": "How far each budget is spent",
    "/api/v1/guard": "The budgets that enforce, for apps",
    "/api/v1/ledger": "What came and what became of it",
    "/api/v1/doctor": "Whether the ledger is right, and what to do if not",
    "/api/v1/openapi.json": "This document",
    "/metrics": "The ledger and the budgets for Prometheus",
    "/readyz": "Whether what had arrived can be asked for",
    "/healthz": "Whether what arrives is being stored",
}
POSTS: Mapping[str, str] = {
    "/api/v1/budgets": "Put a new budget in force",
    "/api/v1/reservations": "Hold the worst case of a call in every budget that covers it",
    "/api/v1/reservations/renew": "Lengthen leases",
    "/api/v1/reservations/settle": "Charge what calls cost",
    "/api/v1/reprice": "Price stored units again by the book in force",
    "/api/v1/alerts/test": "Send a test message to every channel",
    "/v1/traces": "Take an OTLP export of spans",
}

# Path, method, what it does.
ORDERS_BY_ID: tuple[tuple[str, str, str], ...] = (
    ("/api/v1/alerts/{id}/ack", "post", "Write down that somebody has seen an alert"),
    ("/api/v1/alerts/{id}/snooze", "post", "Hold back what is told of the same budget or subject"),
    ("/api/v1/budgets/{id}", "put", "Put a budget in force in place of the one of its name"),
    ("/api/v1/budgets/{id}", "delete", "Take a budget out of force"),
)


def document(questions: Iterable[str]) -> dict[str, Any]:
    """Return the OpenAPI document of a collector that answers ``questions``."""
    paths: dict[str, Any] = {f"/api/v1/{name}": {"get": _question(name)} for name in questions}
    paths |= {path: {"get": _operation(told, path)} for path, told in OTHERS.items()}
    for path, method, told in (*((path, "post", told) for path, told in POSTS.items()), *ORDERS_BY_ID):
        paths.setdefault(path, {})[method] = _operation(told, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tallystick collector", "version": version("tallystick")},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


_ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"code": TEXT, "message": TEXT}}},
}


def _question(name: str) -> dict[str, Any]:
    told, is_filtered, own = QUESTIONS[name]
    operation = _operation(told, name)
    taken = own | FILTERS if is_filtered else own
    # Any filter may be repeated; a tag and an attribute are named behind a dot, for which OpenAPI has no word.
    operation["parameters"] = [
        {"name": key, "in": "query", "schema": {"type": "array", "items": schema} if key in FILTERS else schema}
        for key, schema in taken.items()
    ]
    return operation


def _operation(told: str, path: str) -> dict[str, Any]:
    error = {
        "description": "why not",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    operation: dict[str, Any] = {
        "summary": told,
        "responses": {"200": {"description": told}, "4XX": error, "5XX": error},
    }
    if path in ANSWERS:
        operation["responses"]["200"]["content"] = {"application/json": {"schema": ANSWERS[path]}}
    if "{id}" in path:
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": TEXT}]
    return operation
