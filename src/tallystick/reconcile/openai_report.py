"""OpenAI's costs report: daily buckets in UTC, amounts as floats in USD, line items as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from tallystick.pricing import Book
from tallystick.reconcile.compare import CREDITS, Charge
from tallystick.reconcile.ours import canonical

KEY = "OPENAI_ADMIN_KEY"
BUCKETS = 31

# The SDK (openai 3.54) documents `gpt-6-astra, input_tokens`; other spellings of a class have the same words.
_CLASSES = (
    (re.compile(r"cache.?writ"), "cache_write"),
    (re.compile(r"(?<!un)cache"), "cache_read"),
    (re.compile(r"output"), "output"),
    (re.compile(r"input"), "input"),
)
_FEES = (
    (re.compile(r"credit|grant"), CREDITS),
    (re.compile(r"web.?search"), "web_search"),
    (re.compile(r"file.?search.*(call|request)"), "file_search"),
    (re.compile(r"code.?interpreter|container|shell"), "code_execution"),
    (re.compile(r"storage|vector"), "storage"),
)


def fetch(key: str, start: date, end: date, book: Book, *, by_account: bool) -> Iterator[Charge]:
    """Yield the charges of the UTC days from ``start`` to ``end`` (outside); errors are the SDK's."""
    import openai

    first, last = (int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) for day in (start, end))
    asked: dict[str, Any] = {"start_time": first, "end_time": last, "bucket_width": "1d", "limit": BUCKETS,
                             "group_by": ["line_item", *(["api_key_id"] if by_account else [])]}  # fmt: skip
    with openai.OpenAI(api_key="", admin_api_key=key) as client:
        while True:
            page = client.admin.organization.usage.costs(**asked)
            for bucket in page.data:
                day = datetime.fromtimestamp(bucket.start_time, UTC).date()
                for result in bucket.results:
                    if (charge := _charge(day, result, book)) is not None:
                        yield charge
            if not page.has_more or not page.next_page:
                return
            asked["page"] = page.next_page


def _charge(day: date, result: Any, book: Book) -> Charge | None:
    amount = getattr(result, "amount", None)
    if amount is None or amount.value is None:
        return None
    if (amount.currency or "usd").lower() != "usd":
        raise ValueError(f"the report is in {amount.currency}, not in USD")
    model, line = read_line_item(result.line_item or "")
    quantity = result.quantity
    return Charge(
        day=day,
        model=canonical(book, "openai", model),
        line=line,
        usd=Decimal(str(amount.value)),  # as it is written, not as the float's bits are
        quantity=None if quantity is None else Decimal(str(quantity)),
        account=result.api_key_id or "",
    )


def read_line_item(text: str) -> tuple[str, str]:
    """Return (model, class) of a line item; the model is empty when the line is about none."""
    model, comma, rest = text.strip().lower().rpartition(",")
    words = rest.strip().replace("_", " ")
    if comma:
        for pattern, line in _CLASSES:
            if pattern.search(words):
                kind = next((f"_{kind}" for kind in ("audio", "image") if kind in words), "")
                return model.strip(), line + (kind if line != "cache_write" else "")
    for pattern, line in _FEES:
        if pattern.search(text.lower().replace("_", " ")):
            return "", line
    return "", "other"
