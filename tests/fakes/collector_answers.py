"""A server on loopback that answers the collector's questions (docs/api.md) from a list of calls.

It adds up the calls it was given, so a filter, a range or an order changes its answers as it would change the real
collector's.  What is only the collector's business (journal, SQL, prices) is not played.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Row = dict[str, Any]

FILTERS = (
    "provider",
    "model",
    "feature",
    "user",
    "session",
    "service",
    "environment",
    "prompt",
    "key",
    "caller",
    "outcome",
    "cost_status",
    "template",
    "digest",
    "chain",
    "link",
)
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
# USD for a million tokens: input, cache read, cache write, output.
RATES = {
    "claude-sonnet-4-5": ("anthropic", "3", "0.3", "3.75", "15"),
    "claude-haiku-4-5": ("anthropic", "1", "0.1", "1.25", "5"),
    "gpt-5-mini": ("openai", "0.25", "0.025", "0", "2"),
    "gpt-4.1": ("openai", "2", "0.5", "0", "8"),
    "text-embedding-3-small": ("openai", "0.02", "0", "0", "0"),
}
LIMITS = ("requests", "tokens", "input_tokens", "output_tokens")
UNTOLD = dict.fromkeys(("waited_s", "should_retry", "code"), None) | {
    f"{what}_{figure}": None for what in LIMITS for figure in ("limit", "remaining")
}
"""What an attempt may tell, and these do not."""
HOSTILE = "<img src=x onerror=alert(1)>**bold** ![x](https://example.invalid/p.png) [go](javascript:alert(1)) $1$"
"""A name that would do harm on a page that renders data as HTML or markdown."""


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def receipt_lines(model: str, counts: Mapping[str, int]) -> list[Row]:
    _, *prices = RATES[model]
    plain = counts["input_tokens"] - counts["cache_read_tokens"] - counts["cache_write_tokens"]
    quantities = (plain, counts["cache_read_tokens"], counts["cache_write_tokens"], counts["output_tokens"])
    return [
        {
            "item": item,
            "quantity": str(quantity),
            "unit": "token",
            "unit_price_usd": price,
            "per": 1_000_000,
            "multiplier": "1",
            "cost_usd": format(Decimal(quantity) * Decimal(price) / 1_000_000, "f"),
            "model": model,
            "source": "genai-prices 0.2.3",
            "valid_from": "2025-09-29",
        }
        for item, quantity, price in zip(
            ("input", "cache_read", "cache_write_5m", "output"), quantities, prices, strict=True
        )
        if quantity
    ]


def call(number: int, at: datetime, **changes: Any) -> Row:
    """Return one call as ``/api/v1/calls`` tells it, with its units and attempts under ``_units`` and ``_attempts``."""
    model = changes.get("model", "claude-sonnet-4-5")
    counts = {
        "input_tokens": 1200,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 350,
        "reasoning_tokens": 0,
    }
    counts |= {name: changes[name] for name in TOKENS if name in changes}
    outcome = changes.get("outcome", "ok")
    attempts = changes.pop("_attempts", None) or [
        {
            "number": 0,
            "started_at": iso(at),
            "duration_ms": 812.0,
            "status": 200,
            "outcome": "ok",
            "request_id": f"req_{number}",
            "retry_after_s": None,
            **UNTOLD,
        }
    ]
    row = {
        "id": f"{number:016x}",
        "trace_id": f"{number:032x}",
        "parent_id": None,
        "started_at": iso(at),
        "latency_ms": 812.0,
        "first_chunk_ms": None,
        "operation": "chat",
        "provider": RATES.get(model, ("127.0.0.1:8000",))[0],
        "model": model,
        "response_model": model,
        "outcome": outcome,
        "error_code": None,
        "exception": None,
        "stream": False,
        "attempts": len(attempts),
        "units": 1,
        "cost_usd": None,
        "cost_status": "exact",
        **counts,
        "service": "shop",
        "environment": "prod",
        "feature": "chat",
        "user": "u1",
        "session": None,
        "prompt": None,
        "key": "a1b2c3d4…9xyz",
        "caller": "shop.chat:answer",
        "tags": {"tenant": "acme"},
        "finish_reasons": ["end_turn"],
        "max_tokens": None,
        "digest": None,
        "template": None,
        "request_characters": None,
        "tools_characters": None,
        "messages": None,
        "chain": f"{number:016x}",
        "link": None,
        "link_index": None,
    }
    row |= changes
    row["_attempts"] = attempts
    row["_units"] = _units(row)
    known = [Decimal(unit["cost_usd"]) for unit in row["_units"] if unit["cost_usd"] is not None]
    row["units"] = len(row["_units"])
    row["cost_usd"] = format(sum(known, Decimal()), "f") if known else (None if row["units"] else "0")
    if row["units"] and not known:
        row["cost_status"] = "unknown"
    return row


def _units(row: Row) -> list[Row]:
    if not row["units"]:
        return []
    counts = {name: row[name] for name in TOKENS}
    model = row["response_model"]
    priced = model in RATES
    lines = receipt_lines(model, counts) if priced else []
    cost = format(sum((Decimal(line["cost_usd"]) for line in lines), Decimal()), "f") if priced else None
    status = row["cost_status"] if priced else "unknown"
    reason = None if priced else f"no price is listed for model {model!r} of {row['provider']}"
    return [
        {
            "id": f"msg_{row['id']}",
            "provider": row["provider"],
            "model": model,
            "api": "messages",
            "at": row["started_at"],
            "usage": {name: count for name, count in counts.items() if count},
            "params": {},
            "estimated": status == "estimated",
            "cost_usd": cost,
            "cost_status": status,
            "price_version": "2026-11-21",
            "receipt": {
                "status": status,
                "cost_usd": cost,
                "reason": reason,
                "lines": lines,
                "price_version": "2026-11-21",
                "notes": [],
            },
        }
    ]


FAULTS = (
    ("rate_limited", 429, "rate_limit_error", "RateLimitError"),
    ("overloaded", 529, "overloaded_error", "OverloadedError"),
    ("timeout_read", None, None, "APITimeoutError"),
    ("server_error", 500, "api_error", "InternalServerError"),
)


def realistic(now: datetime, count: int = 900, seed: int = 7) -> list[Row]:
    """Return a day and a half of a shop's calls: three services, five priced models, one without a price, faults."""
    chance = random.Random(seed)
    return [_realistic_call(chance, number, now) for number in range(1, count + 1)]


def _realistic_call(chance: random.Random, number: int, now: datetime) -> Row:
    feature, model, size = chance.choices(
        (
            ("chat", "claude-sonnet-4-5", 2400),
            ("search", "gpt-5-mini", 900),
            ("search", "text-embedding-3-small", 600),
            ("summarise", "claude-haiku-4-5", 5200),
            ("report", "gpt-4.1", 7800),
            (None, "llama-local-70b", 1500),
        ),
        weights=(40, 22, 12, 14, 8, 3),
    )[0]
    at = now - timedelta(minutes=chance.triangular(0.5, 36 * 60, 200))
    read = int(size * chance.lognormvariate(0, 0.5))
    cached = int(read * 0.7) if feature == "chat" and chance.random() < 0.6 else 0
    written = 0 if "embedding" in model else int(read * chance.uniform(0.08, 0.5))
    latency = 180 + written * chance.uniform(4, 9)
    changes: Row = {
        "model": model,
        "feature": feature,
        "user": f"u{min(int(chance.paretovariate(0.9)), 40)}",
        "service": {"chat": "shop", "search": "shop", "report": "reports"}.get(feature or "", "batch"),
        "input_tokens": read,
        "cache_read_tokens": cached,
        "output_tokens": written,
        "reasoning_tokens": int(written * 0.4) if model == "gpt-5-mini" else 0,
        "latency_ms": round(latency, 1),
        "stream": feature == "chat",
        "first_chunk_ms": round(latency * 0.2, 1) if feature == "chat" else None,
        "caller": f"{feature or 'jobs'}.tasks:run",
        "operation": "embeddings" if "embedding" in model else "chat",
    }
    return call(number, at, **(changes | _realistic_end(chance, at, latency)))


def _realistic_end(chance: random.Random, at: datetime, latency: float) -> Row:
    """Return how a call ends: mostly well, sometimes after a retry, sometimes cut, refused or given up."""
    draw = chance.random()
    if draw < 0.88:
        return {}
    outcome, status, code, exception = chance.choice(FAULTS)
    if draw < 0.945:  # it went well after one or two retries
        return {"_attempts": _attempts(chance, at, latency, outcome, status, chance.choice((1, 1, 2)), well=True)}
    if draw < 0.955:
        return {"outcome": "truncated", "finish_reasons": ["max_tokens"]}
    if draw < 0.965:
        return {"outcome": "abandoned", "cost_status": "estimated", "finish_reasons": []}
    return {
        "outcome": outcome,
        "error_code": code,
        "exception": exception,
        "units": 0,
        **dict.fromkeys(TOKENS, 0),
        "finish_reasons": [],
        "response_model": None,
        "_attempts": _attempts(chance, at, latency, outcome, status, 3, well=False),
    }


def _attempts(
    chance: random.Random, at: datetime, latency: float, outcome: str, status: int | None, failed: int, *, well: bool
) -> list[Row]:
    rows, begin = [], at
    for number in range(failed):
        asked = chance.choice((1.0, 2.0, 5.0)) if status == 429 else None
        duration = chance.uniform(60, 400) if status else 1000.0
        rows.append(_attempt(number, begin, duration, status, outcome, asked))
        begin += timedelta(milliseconds=duration, seconds=(asked or 0.5) * chance.uniform(1, 1.1))
    if well:
        rows.append(_attempt(failed, begin, latency * 0.9, 200, "ok", None))
    return rows


def _attempt(number: int, at: datetime, duration: float, status: int | None, outcome: str, asked: float | None) -> Row:
    return {
        "number": number,
        "started_at": iso(at),
        "duration_ms": round(duration, 1),
        "status": status,
        "outcome": outcome,
        "request_id": None if status is None else f"req_{int(at.timestamp() * 1000):x}",
        "retry_after_s": asked,
        **UNTOLD,
    }


BUDGETS: list[Row] = [
    {
        "name": "chat",
        "scope": {"feature": "chat"},
        "limit_usd": "10",
        "action": "alert",
        "window": {"kind": "day", "timezone": "UTC", "start": "2026-11-21T00:00:00Z", "end": "2026-11-22T00:00:00Z"},
        "spent_usd": "8.12",
        "share": "0.812",
        "unpriced_units": 0,
        "thresholds": ["0.5", "0.8", "1.0"],
        "alerts": [
            {
                "threshold": "0.5",
                "spent_usd": "5.01",
                "raised_at": "2026-11-21T09:12:00Z",
                "state": "delivered",
                "delivered_at": "2026-11-21T09:12:01Z",
                "deliveries": 1,
                "error": None,
            },
            {
                "threshold": "0.8",
                "spent_usd": "8.03",
                "raised_at": "2026-11-21T11:40:00Z",
                "state": "refused",
                "delivered_at": None,
                "deliveries": 0,
                "error": "404: no_service",
            },
        ],
    },
    {
        "name": "everything",
        "scope": {},
        "limit_usd": "250",
        "action": "block",
        "window": {
            "kind": "month",
            "timezone": "Europe/Berlin",
            "start": "2026-10-31T23:00:00Z",
            "end": "2026-11-30T23:00:00Z",
        },
        "spent_usd": "261.4",
        "share": "1.0456",
        "unpriced_units": 3,
        "thresholds": ["0.8", "1"],
        "alerts": [
            {
                "threshold": "0.8",
                "spent_usd": "200.3",
                "raised_at": "2026-11-17T10:00:00Z",
                "state": "refused",
                "delivered_at": None,
                "deliveries": 0,
                "error": None,
            },
            {
                "threshold": "1",
                "spent_usd": "250.02",
                "raised_at": "2026-11-20T15:30:00Z",
                "state": "unsent",
                "delivered_at": None,
                "deliveries": 0,
                "error": None,
            },
        ],
    },
    {
        "name": "search",
        "scope": {"feature": "search", "environment": "prod"},
        "limit_usd": "5",
        "action": "alert",
        "window": {"kind": "day", "timezone": "UTC", "start": "2026-11-21T00:00:00Z", "end": "2026-11-22T00:00:00Z"},
        "spent_usd": "0.0042",
        "share": "0.00084",
        "unpriced_units": 0,
        "thresholds": ["0.5", "0.8", "1"],
        "alerts": [],
    },
]


def standing(row: Row) -> Row:
    """Return a budget of `BUDGETS` with all that the collector tells of one."""
    spent, limit, end = Decimal(row["spent_usd"]), Decimal(row["limit_usd"]), row["window"]["end"]
    left = (_time(end) - datetime.now(UTC)).total_seconds() if end else None
    return {
        "source": "file",
        "unit": "usd",
        "limit": row["limit_usd"],
        "spent": row["spent_usd"],
        "reserved": "0",
        "left": str(max(limit - spent, Decimal())),
        "pace_per_hour": "0.9",
        "full_at": None,
        "resets_in_s": left,
        "refused": 0,
        "group_by": [],
        "groups": [],
        "groups_count": 0,
        **row,
        "alerts": [{"unit": "usd", "spent": alert["spent_usd"], "group": None, **alert} for alert in row["alerts"]],
    }


def refusal(**changes: Any) -> Row:
    """Return a call that a budget did not let through."""
    return {
        "id": "4f" * 16,
        "refused_at": iso(datetime.now(UTC)),
        "budget": "chat",
        "group": {"user": "u1"},
        "action": "block",
        "reason": "limit",
        "unit": "usd",
        "limit": "10",
        "spent": "9.2",
        "reserved": "0.5",
        "needed": "0.41",
        "window_start": iso(datetime.now(UTC)),
        "window_end": iso(datetime.now(UTC)),
        "resets_at": iso(datetime.now(UTC) + timedelta(hours=2)),
        "dimensions": {"model": "claude-sonnet-4-5", "feature": "chat"},
    } | changes


class RefusedError(Exception):
    """The question is wrong; the answer has status 400."""


class BrokenError(Exception):
    """The collector has a fault; the answer has status 500."""


@dataclass
class Answers:
    """What the server knows; change it and the next answer changes."""

    calls: list[Row] = field(default_factory=list)
    budgets: list[Row] = field(default_factory=list)
    refusals: list[Row] = field(default_factory=list)
    alerts: list[Row] = field(default_factory=list)
    ledger: Row = field(default_factory=dict)
    cause: Row | None = None
    """The combination that explains any rise."""
    waste: Row = field(
        default_factory=lambda: {name: [] for name in ("causes", "tries", "waits", "fallbacks", "headroom")}
    )
    broken: tuple[str, ...] = ()
    """The questions that end in a fault of the collector."""
    silent: tuple[str, ...] = ()
    """The questions that are never answered."""
    over: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    """The questions that came, newest last."""

    def answer(self, path: str, query: Mapping[str, Sequence[str]]) -> Row:
        name, _, rest = path.removeprefix("/api/v1/").partition("/")
        if name in self.broken:
            raise BrokenError("out of memory")
        if name == "calls" and rest:
            return self._one(rest)
        questions: dict[str, Callable[[Mapping[str, Sequence[str]]], Row]] = {
            "totals": self._totals,
            "series": self._series,
            "groups": self._groups,
            "failures": self._failures,
            "cause": self._cause,
            "alerts": lambda _: {"rows": self.alerts},
            "waste": lambda _: self.waste,
            "calls": self._page,
            "dimensions": self._dimensions,
            "budgets": lambda _: {"rows": [standing(row) for row in self.budgets]},
            "refusals": lambda _: {"rows": self.refusals},
            "ledger": self._ledger,
        }
        if name not in questions:
            raise RefusedError(f"no such question: {name}")
        return questions[name](query)

    def _chosen(self, query: Mapping[str, Sequence[str]]) -> tuple[datetime, datetime, list[Row]]:
        known = {*FILTERS, "start", "end", "by", "bucket", "timezone", "order", "limit", "cursor", "name"}
        for name in query:
            if name not in known and not name.startswith("tag."):
                raise RefusedError(f"unknown parameter {name!r}; known: {', '.join(sorted(known))}")
        end = _time(query["end"][0]) if "end" in query else datetime.now(UTC)
        start = _time(query["start"][0]) if "start" in query else end - timedelta(days=1)
        rows = [row for row in self.calls if start <= _time(row["started_at"]) < end]
        for name, values in query.items():
            if name in FILTERS or name.startswith("tag."):
                rows = [row for row in rows if _matches(row, name, values)]
        return start, end, rows

    def _totals(self, query: Mapping[str, Sequence[str]]) -> Row:
        start, end, rows = self._chosen(query)
        times = sorted(row["started_at"] for row in rows)
        edges = {"first_call_at": times[0] if times else None, "last_call_at": times[-1] if times else None}
        return {"start": iso(start), "end": iso(end), **_sums(rows), **edges}

    def _cause(self, query: Mapping[str, Sequence[str]]) -> Row:
        totals = self._totals(query)
        told = {name: totals[name] for name in ("start", "end", "spend_usd", "calls")}
        usual = format(Decimal(totals["spend_usd"] or 0) / 10, "f")
        return {**told, "windows": 24, "usual_usd": usual, "usual_calls": totals["calls"] / 10, "cause": self.cause}

    def _series(self, query: Mapping[str, Sequence[str]]) -> Row:
        _, _, rows = self._chosen(query)
        by, bucket = query.get("by", [None])[0], query.get("bucket", ["hour"])[0]
        zone = ZoneInfo(query.get("timezone", ["UTC"])[0])
        cells: dict[tuple[datetime, str | None], list[Row]] = defaultdict(list)
        for row in rows:
            cells[_bucket(_time(row["started_at"]), bucket, zone), _value(row, by) if by else None].append(row)
        told = [
            {
                "at": iso(at),
                "key": key,
                "rest": False,
                **{name: value for name, value in _sums(cell).items() if name in SERIES},
            }
            for (at, key), cell in sorted(cells.items(), key=lambda item: (item[0][0], item[0][1] or ""))
        ]
        return {"bucket": bucket, "by": by, "rows": told}

    def _groups(self, query: Mapping[str, Sequence[str]]) -> Row:
        _, _, rows = self._chosen(query)
        by = query["by"][0]
        groups: dict[str | None, list[Row]] = defaultdict(list)
        for row in rows:
            groups[_value(row, by)].append(row)
        told = [{"key": key, **_sums(members)} for key, members in groups.items()]
        return {"by": by, "rows": sorted(told, key=lambda row: -Decimal(row["spend_usd"] or 0))}

    def _failures(self, query: Mapping[str, Sequence[str]]) -> Row:
        _, _, rows = self._chosen(query)
        failed: dict[tuple[str, str], list[Row]] = defaultdict(list)
        tries: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in rows:
            if row["outcome"] != "ok":
                failed[row["outcome"], row["provider"]].append(row)
            for attempt in row["_attempts"]:
                if attempt["outcome"] != "ok":
                    tries[attempt["outcome"], row["provider"]].append(attempt["started_at"])
        return {
            "rows": [
                {
                    "outcome": outcome,
                    "provider": provider,
                    "calls": len(members),
                    "wasted_usd": format(_spend(members), "f"),
                    "last_at": max(row["started_at"] for row in members),
                }
                for (outcome, provider), members in failed.items()
            ],
            "attempts": [
                {"outcome": outcome, "provider": provider, "attempts": len(times), "last_at": max(times)}
                for (outcome, provider), times in tries.items()
            ],
            "funnel": {
                "first_try": sum(row["outcome"] == "ok" and len(row["_attempts"]) == 1 for row in rows),
                "after_retry": sum(row["outcome"] == "ok" and len(row["_attempts"]) > 1 for row in rows),
                "gave_up": sum(row["outcome"] != "ok" for row in rows),
            },
            "retry": _retry(rows),
        }

    def _page(self, query: Mapping[str, Sequence[str]]) -> Row:
        _, _, rows = self._chosen(query)
        order, limit = query.get("order", ["-started_at"])[0], int(query.get("limit", ["50"])[0])
        name = order.removeprefix("-")
        if order not in ("-started_at", "started_at", "-cost_usd", "-latency_ms"):
            raise RefusedError(f"order={order} is unknown; known: -started_at, started_at, -cost_usd, -latency_ms")
        rows = sorted(rows, key=lambda row: _sortable(row[name]), reverse=order.startswith("-"))
        cursor = query.get("cursor", ["0"])[0]
        if not cursor.isdecimal():
            raise RefusedError(f"cursor={cursor} is not a cursor that this collector gave")
        at = int(cursor)
        following = str(at + limit) if at + limit < len(rows) else None
        return {"rows": [_public(row) for row in rows[at : at + limit]], "next_cursor": following,
                "previous_cursor": str(max(at - limit, 0)) if at else None}  # fmt: skip

    def _one(self, name: str) -> Row:
        for row in self.calls:
            if row["id"].startswith(name):
                return {"call": _public(row), "units": row["_units"], "attempts": row["_attempts"]}
        raise LookupError(f"no call {name!r}")

    def _dimensions(self, query: Mapping[str, Sequence[str]]) -> Row:
        _, _, rows = self._chosen(query)
        name = query["name"][0]
        if name == "tag":
            tags = Counter(tag for row in rows for tag in row["tags"])
            return {"name": name, "rows": [{"value": tag, "calls": count} for tag, count in tags.most_common()]}
        counts = Counter(_value(row, name) for row in rows)
        return {"name": name, "rows": [{"value": value, "calls": count} for value, count in counts.most_common()]}

    def _ledger(self, _: Mapping[str, Sequence[str]]) -> Row:
        spans = sum(1 + len(row["_attempts"]) for row in self.calls)
        journal = {
            "segments": 1,
            "bytes": 512 * spans,
            "applied_bytes": 512 * spans,
            "behind_bytes": 0,
            "damaged_bytes": 0,
        }
        return {
            "received_spans": spans,
            "stored_spans": spans,
            "duplicate_spans": 0,
            "rejected_spans": {},
            "dropped_records": 0,
            "journal": journal,
            "prices": {"version": "2026-11-21", "age_days": 0},
            **self.ledger,
        }


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise RefusedError(f"{text} has no zone")
    return at


def _sortable(value: Any) -> Any:
    return (
        Decimal(-1)
        if value is None
        else Decimal(value)
        if isinstance(value, str) and value[0].isdigit() and "T" not in value
        else value
    )


def _value(row: Row, name: str) -> str | None:
    value = row["tags"].get(name.removeprefix("tag.")) if name.startswith("tag.") else row[name]
    return None if value is None else str(value)


def _matches(row: Row, name: str, values: Sequence[str]) -> bool:
    value = _value(row, name)
    if name == "outcome" and "failed" in values and value != "ok":
        return True
    return (value or "") in values


def _bucket(at: datetime, bucket: str, zone: ZoneInfo) -> datetime:
    local = at.astimezone(zone).replace(second=0, microsecond=0)
    if bucket == "minute":
        return local.astimezone(UTC)
    local = local.replace(minute=0)
    return (local if bucket == "hour" else local.replace(hour=0)).astimezone(UTC)


def _spend(rows: Iterable[Row]) -> Decimal:
    return sum((Decimal(unit["cost_usd"]) for row in rows for unit in row["_units"] if unit["cost_usd"]), Decimal())


SERIES = frozenset({
    "calls", "failed", "units", "spend_usd", "estimated_usd", "wasted_usd", "unpriced_units", "estimated_units",
})  # fmt: skip


def _sums(rows: list[Row]) -> Row:
    units = [unit for row in rows for unit in row["_units"]]
    estimated = [unit for unit in units if unit["estimated"] and unit["cost_usd"]]
    latencies = sorted(row["latency_ms"] for row in rows) or [None]
    return {
        "calls": len(rows),
        "failed": sum(row["outcome"] != "ok" for row in rows),
        "attempts": sum(len(row["_attempts"]) for row in rows),
        "units": len(units),
        "spend_usd": None if units and all(unit["cost_usd"] is None for unit in units) else format(_spend(rows), "f"),
        "estimated_usd": format(sum((Decimal(unit["cost_usd"]) for unit in estimated), Decimal()), "f"),
        "wasted_usd": format(_spend(row for row in rows if row["outcome"] != "ok"), "f"),
        "unpriced_units": sum(unit["cost_usd"] is None for unit in units),
        "estimated_units": len(estimated),
        **{name: sum(row[name] for row in rows) for name in TOKENS},
        "latency_ms_p50": latencies[len(latencies) // 2],
        "latency_ms_p95": latencies[int(len(latencies) * 0.95)],
    }


def _retry(rows: list[Row]) -> Row:
    asked = waited = 0.0
    for row in rows:
        for tried, following in zip(row["_attempts"], row["_attempts"][1:], strict=False):
            asked += tried["retry_after_s"] or 0
            waited += (_time(following["started_at"]) - _time(tried["started_at"])).total_seconds() - tried[
                "duration_ms"
            ] / 1000
    extra = sum(len(row["_attempts"]) - 1 for row in rows)
    return {"attempts_extra": extra, "retry_after_asked_s": round(asked, 3), "waited_s": round(waited, 3)}


def _public(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_")}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Answers

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.answers.asked.append(self.path)
        if parts.path.removeprefix("/api/v1/") in self.answers.silent:
            self.answers.over.wait(60)
            self.close_connection = True
            return
        try:
            status, told = 200, self.answers.answer(parts.path, parse_qs(parts.query, keep_blank_values=True))
        except RefusedError as error:
            status, told = 400, {"error": {"code": "bad_parameter", "message": str(error)}}
        except BrokenError as error:
            status, told = 500, {"error": {"code": "internal", "message": str(error)}}
        except LookupError as error:
            status, told = 404, {"error": {"code": "not_found", "message": str(error)}}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent; a test that wants to know looks at ``answers.asked``."""


@contextmanager
def serving(answers: Answers, port: int = 0) -> Iterator[str]:
    """Answer on loopback while the block runs; yield the address."""
    handler = type("Handler", (_Handler,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        answers.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
