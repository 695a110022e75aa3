"""The invoice is arithmetic that a person can follow, and shares no code with what it is to check."""

from __future__ import annotations

import ast
import json
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

import tallystick.mock
from fakes.provider import Provider
from tallystick.mock.books import charge_usd

HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


@pytest.mark.parametrize(
    ("provider", "model", "counts", "usd"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", {"input": 1200, "output": 350}, "0.00885"),
        (
            "anthropic",
            "claude-opus-5-5",
            {"cache_write_5m": 1000, "cache_write_1h": 1000, "cache_read": 1000},
            "0.0132",
        ),
        ("anthropic", "claude-haiku-4-5-20251001", {"input": 10, "web_search": 2}, "0.02001"),
        ("openai", "gpt-4o-mini-2024-07-18", {"input": 1000, "cache_read": 1000, "output": 1000}, "0.000825"),
        ("openai", "text-embedding-3-small", {"input": 1_000_000}, "0.02"),
        ("openai", "house-model-1", {"input": 10}, None),
        ("openai", "text-embedding-3-small", {"output": 1}, None),
    ],
)
def test_a_charge_is_counts_times_rates(provider: str, model: str, counts: dict[str, int], usd: str | None) -> None:
    assert charge_usd(provider, model, counts, "standard", "standard") == (None if usd is None else Decimal(usd))


def test_fast_costs_twice_where_it_is_offered_and_a_tier_without_a_rate_is_unknown() -> None:
    counts = {"input": 1000}
    assert charge_usd("anthropic", "claude-opus-5-5", counts, "standard", "fast") == Decimal("0.008")
    assert charge_usd("anthropic", "claude-haiku-4-5-20251001", counts, "standard", "fast") is None
    assert charge_usd("openai", "gpt-5-mini-2025-08-07", counts, "flex", "standard") == Decimal("0.000125")
    assert charge_usd("openai", "gpt-5-mini-2025-08-07", counts, "scale", "standard") is None


def test_a_cloud_charges_what_the_maker_does_but_for_its_regions() -> None:
    counts = {"input": 1000}
    model = "claude-haiku-4-5-20251001"
    assert charge_usd("aws.bedrock", model, counts, "standard", "standard") == Decimal("0.001")
    assert charge_usd("aws.bedrock", model, counts, "standard", "standard", "1.1") == Decimal("0.0011")


def test_the_invoice_is_the_sum_of_what_was_answered(claude: Anthropic, gpt: OpenAI, provider: Provider) -> None:
    message = claude.messages.create(model="claude-sonnet-5-5", max_tokens=500, messages=HELLO)
    completion = gpt.chat.completions.create(model="gpt-5-mini", messages=HELLO)

    invoice = provider.invoice()
    expected = Decimal(2 * message.usage.input_tokens + 10 * message.usage.output_tokens) / 1_000_000
    assert completion.usage is not None
    used = completion.usage
    expected += (Decimal("0.25") * used.prompt_tokens + 2 * used.completion_tokens) / 1_000_000
    assert [item["id"] for item in invoice["items"]] == [message.id, completion.id]
    assert Decimal(invoice["total_usd"]) == expected


def test_the_books_are_open_over_http_and_hold_no_key(claude: Anthropic, provider: Provider) -> None:
    claude.messages.create(model="claude-sonnet-5-5", max_tokens=500, messages=HELLO)

    connection = HTTPConnection("127.0.0.1", provider.port, timeout=20)
    answers = []
    for path in ("/_mock/invoice", "/_mock/requests", "/_mock/requests?bodies=true"):
        connection.request("GET", path)
        answers.append(json.loads(connection.getresponse().read()))
    connection.close()
    invoice, requests, with_bodies = answers
    assert invoice == provider.invoice()
    (seen,) = requests["requests"]
    assert seen["path"] == "/anthropic/v1/messages"
    assert len(seen["body_sha256"]) == 64
    assert "body" not in seen
    names = {name.lower() for name, _ in seen["headers"]}
    assert "x-stainless-retry-count" in names
    assert not names & {"x-api-key", "authorization"}
    assert with_bodies["requests"][0]["body"]["model"] == "claude-sonnet-5-5"


def test_the_mock_takes_nothing_from_pricing() -> None:
    folder = Path(tallystick.mock.__file__).parent
    modules = [
        node.module or ""
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]

    assert modules
    assert not [module for module in modules if module.startswith(("tallystick.pricing", "tallystick.collector"))]
