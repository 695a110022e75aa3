"""Anthropic's analytics reports: amounts are texts in fractional cents, listed and discounted, before credits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from tallystick.pricing import Book
from tallystick.reconcile.compare import PRIORITY, Charge
from tallystick.reconcile.ours import canonical

KEY = "ANTHROPIC_ADMIN_KEY"
RANGE_DAYS = 31
LIMIT = 1000

LINES = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}
FEES = frozenset({"web_search", "code_execution", "session_usage"})


def fetch(key: str, start: date, end: date, book: Book, *, by_account: bool) -> Iterator[Charge]:
    """Yield the charges of the UTC days from ``start`` to ``end`` (outside); errors are the SDK's."""
    import anthropic

    # The names are the SDK's own literals, which a list that is put together cannot be shown to have.
    by: list[Any] = ["model", "service_tier", *(["api_key_id"] if by_account else [])]
    with anthropic.Anthropic(api_key=key) as client:
        reports = client.beta.organization.analytics
        while start < end:
            until = min(end, start + timedelta(days=RANGE_DAYS))
            asked: dict[str, Any] = {"starting_at": f"{start}T00:00:00Z", "ending_at": f"{until}T00:00:00Z",
                                     "time_bucket_width": "1d", "limit": LIMIT}  # fmt: skip
            for cost in reports.cost.list(**asked, group_by=[*by, "cost_type", "token_type"]):
                yield _cost(cost, book)
            for usage in reports.usage.list(**asked, group_by=by):
                yield from _usage(usage, book)
            start = until


def _cost(item: Any, book: Book) -> Charge:
    group, cost = item.group, item.cost
    if cost.currency.upper() != "USD":
        raise ValueError(f"the report is in {cost.currency}, not in USD")
    kind = group.cost_type or ("tokens" if group.token_type else "other")
    if kind == "tokens":
        line, model = LINES.get(group.token_type or "", "other"), canonical(book, "anthropic", group.model or "")
    else:
        line, model = (kind if kind in FEES else "other"), ""
    return Charge(
        day=item.starting_at.date(), model=model, line=line, account=group.api_key_id or "", tier=_tier(group),
        usd=Decimal(cost.amount) / 100, list_usd=Decimal(cost.list_amount) / 100,
    )  # fmt: skip


def _usage(item: Any, book: Book) -> Iterator[Charge]:
    """Yield the quantities of a row, as charges of nothing: they are added to the lines that they belong to."""
    usage, group = item.usage, item.group
    model = canonical(book, "anthropic", group.model or "")
    counts = {
        "input": usage.uncached_input_tokens,
        "cache_read": usage.cache_read_input_tokens,
        "cache_write_5m": usage.cache_creation.ephemeral_5m_input_tokens,
        "cache_write_1h": usage.cache_creation.ephemeral_1h_input_tokens,
        "output": usage.output_tokens,
        "web_search": usage.server_tool_use.web_search_requests,
    }
    for line, count in counts.items():
        if count:
            yield Charge(
                day=item.starting_at.date(), model="" if line in FEES else model, line=line,
                account=group.api_key_id or "", tier=_tier(group), usd=Decimal(0), quantity=Decimal(count),
            )  # fmt: skip


def _tier(group: Any) -> str:
    return PRIORITY if group.service_tier == PRIORITY else ""
