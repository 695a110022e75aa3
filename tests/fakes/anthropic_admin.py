"""Anthropic's ``GET /v1/organizations/analytics/{cost,usage}``: grouped, paged, amounts as texts in fractional cents.

Source of the shapes: anthropic 2.12, types/beta/organization/analytics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from fakes.reports import Answer, Query, served

ADMIN_KEY = "sk-ant-admin01-" + "0" * 12
BETA = "analytics-usage-cost-2026-08-24"
RANGE_DAYS_MAX = 31


@dataclass(frozen=True)
class Row:
    """One component of a day's cost, and the usage behind it; a priority-tier row has usage and no cost."""

    day: date
    model: str | None
    usd: Decimal = Decimal(0)
    list_usd: Decimal | None = None
    cost_type: str = "tokens"
    token_type: str | None = None
    count: int = 0
    service_tier: str = "standard"
    api_key_id: str = "apikey_1"


def running(rows: Sequence[Row], page_max: int = 11) -> AbstractContextManager[str]:
    """Serve ``rows``; a page has at most ``page_max`` of them, whatever limit is asked for.  Yields the base URL."""

    def answer(path: str, query: Query, headers: Mapping[str, str]) -> Answer:
        # The SDK sends a key as a bearer token from 2.x on.
        if ADMIN_KEY not in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer ")):
            return 401, _error("authentication_error", "invalid x-api-key")
        if BETA not in headers.get("anthropic-beta", ""):
            return 400, _error("invalid_request_error", "this endpoint is in beta")
        start, end = (date.fromisoformat(query[name][0][:10]) for name in ("starting_at", "ending_at"))
        if (end - start).days > RANGE_DAYS_MAX:
            return 400, _error("invalid_request_error", "the range may span at most 31 days")
        asked = [row for row in rows if start <= row.day < end]
        items = {"cost": _costs, "usage": _usages}[path.rpartition("/")[2]](asked, query.get("group_by", []))
        begin = int(query.get("page", ["0"])[0])
        page = items[begin : begin + min(int(query["limit"][0]), page_max)]
        following = begin + len(page)
        has_more = following < len(items)
        return 200, {"data": page, "has_more": has_more, "next_page": str(following) if has_more else None}

    return served(answer)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _grouped(rows: Sequence[Row], by: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    names = ("day", *(name for name in dict.fromkeys(by)))
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(getattr(row, name) for name in names)].append(row)
    return groups


def _item(key: tuple[Any, ...], by: Sequence[str]) -> dict[str, Any]:
    day = key[0]
    return {
        "starting_at": f"{day}T00:00:00Z",
        "ending_at": f"{day + timedelta(days=1)}T00:00:00Z",
        "group": dict(zip(dict.fromkeys(by), key[1:], strict=True)),
    }


def _costs(rows: Sequence[Row], by: Sequence[str]) -> list[dict[str, Any]]:
    billed = [row for row in rows if row.service_tier != "priority"]
    return [
        {**_item(key, by), "cost": {
            "amount": f"{sum(row.usd for row in of_it) * 100:f}",
            "list_amount": f"{sum(row.usd if row.list_usd is None else row.list_usd for row in of_it) * 100:f}",
            "currency": "USD", "requests": None,
        }}
        for key, of_it in _grouped(billed, by).items()
    ]  # fmt: skip


def _usages(rows: Sequence[Row], by: Sequence[str]) -> list[dict[str, Any]]:
    items = []
    for key, of_it in _grouped(rows, by).items():
        counts: dict[str, int] = defaultdict(int)
        for row in of_it:
            counts[row.token_type or row.cost_type] += row.count
        creation = {f"ephemeral_{ttl}_input_tokens": counts[f"cache_creation.ephemeral_{ttl}_input_tokens"]
                    for ttl in ("5m", "1h")}  # fmt: skip
        items.append({**_item(key, by), "usage": {
            "uncached_input_tokens": counts["uncached_input_tokens"], "output_tokens": counts["output_tokens"],
            "cache_read_input_tokens": counts["cache_read_input_tokens"], "cache_creation": creation,
            "server_tool_use": {"web_search_requests": counts["web_search"]}, "total_tokens": 0, "requests": 1,
        }})  # fmt: skip
    return items
