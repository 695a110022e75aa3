"""OpenAI's ``GET /v1/organization/costs``: daily buckets, grouped, paged, amounts as floats.

Source of the shapes: openai 3.54, types/admin/organization/usage_costs_{params,response}.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from fakes.reports import Answer, Query, served

ADMIN_KEY = "sk-admin-" + "0" * 12
DAY_S = 86_400


@dataclass(frozen=True)
class Row:
    day: date
    line_item: str
    usd: Decimal
    quantity: float | None = None
    api_key_id: str = "key_1"


def running(rows: Sequence[Row], buckets_max: int = 7) -> AbstractContextManager[str]:
    """Serve ``rows``; a page has at most ``buckets_max`` buckets, whatever limit is asked for.  Yields the base URL."""

    def answer(path: str, query: Query, headers: Mapping[str, str]) -> Answer:
        if headers.get("authorization") != f"Bearer {ADMIN_KEY}":
            return 401, {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}}
        if path != "/v1/organization/costs":
            return 404, {"error": {"message": f"no {path}"}}
        limit = min(int(query["limit"][0]), buckets_max)
        start, end = int(query["start_time"][0]), int(query["end_time"][0])
        begin = int(query["page"][0].removeprefix("page_")) if "page" in query else start
        starts = list(range(begin, end, DAY_S))
        buckets = [_bucket(rows, at, query.get("group_by", [])) for at in starts[:limit]]
        has_more = len(starts) > limit
        return 200, {"object": "page", "data": buckets, "has_more": has_more,
                     "next_page": f"page_{starts[limit]}" if has_more else None}  # fmt: skip

    return served(answer)


def _bucket(rows: Sequence[Row], at: int, by: Sequence[str]) -> dict[str, Any]:
    day = datetime.fromtimestamp(at, UTC).date()
    groups: dict[tuple[str | None, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        if row.day == day:
            key = row.line_item if "line_item" in by else None, row.api_key_id if "api_key_id" in by else None
            groups[key].append(row)
    results = []
    for (line_item, api_key_id), of_it in groups.items():
        counted = [row.quantity for row in of_it if row.quantity is not None]
        results.append({
            "object": "organization.costs.result",
            "amount": {"value": float(sum(row.usd for row in of_it)), "currency": "usd"},
            "line_item": line_item, "api_key_id": api_key_id, "project_id": None, "user_id": None,
            "quantity": sum(counted) if counted and line_item else None, "quantity_unit": None,
        })  # fmt: skip
    return {"object": "bucket", "start_time": at, "end_time": at + DAY_S, "results": results}
