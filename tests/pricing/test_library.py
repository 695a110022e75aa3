"""The compiled book against the library that it is made from."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tallystick.pricing import load_book, price
from tallystick.pricing._names import Place
from tallystick.pricing.compile import BOOK, OVERRIDES, compile_book, encode
from tallystick.pricing.overrides import read_overrides

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = datetime(2027, 1, 2, 2, 30, tzinfo=UTC)
EARLIER = datetime(2025, 3, 3, 12, tzinfo=UTC)
MILLION = 1_000_000

needs_the_same_library = pytest.mark.skipif(
    not load_book().library.endswith(f" {importlib.metadata.version('genai-prices')}"),
    reason="the book was compiled from another release of genai-prices: python -m tallystick.pricing.compile",
)


@needs_the_same_library
def test_the_shipped_book_is_what_compiling_gives() -> None:
    assert encode(compile_book(read_overrides(OVERRIDES))) == BOOK.read_text(encoding="utf-8")


def test_the_shipped_book_is_small() -> None:
    assert BOOK.stat().st_size < 1_000_000


def library_models() -> list[Any]:
    from genai_prices.data import providers

    return [(provider, model) for provider in providers for model in provider.models]


def overridden() -> set[tuple[str, str]]:
    return {(entry["provider"], entry["model"]) for entry in read_overrides(OVERRIDES)["price"]}


@needs_the_same_library
@pytest.mark.parametrize("at", [EARLIER, NOON, LATER], ids=lambda at: at.date().isoformat())
@pytest.mark.parametrize("prompt", [1000, 250_000, 300_000])
def test_every_listed_model_costs_what_the_library_says(at: datetime, prompt: int) -> None:
    """Where neither an override nor a cloud's own rule speaks, both must agree: thousands of models, to the digit."""
    from genai_prices.types import Usage

    book, skipped, compared = load_book(), overridden(), 0
    for provider, model in library_models():
        name = model.id.lower()
        found = book.find(Place(provider.id), name)
        if (
            found is None
            or found.model.provider != provider.id
            or found.model.id != name
            or (provider.id, name) in skipped
        ):
            continue
        if found.model.is_free or "request" in (found.model.rates(at, "") or {}):
            continue
        theirs = model.calc_price(Usage(input_tokens=prompt, output_tokens=500), provider, genai_request_timestamp=at)
        wire = {"prompt_tokens": prompt, "completion_tokens": 500, "total_tokens": prompt + 500}
        ours = price(provider.id, model.id, wire, api="chat", timestamp=at)
        if ours.cost_usd is None:  # priced by something else than tokens
            assert "no input rate" in (ours.reason or "") or "no output rate" in (ours.reason or ""), (
                name,
                ours.reason,
            )
            continue
        assert ours.cost_usd == theirs.total_price, (provider.id, name, theirs)
        compared += 1
    assert compared > 1500


@needs_the_same_library
@pytest.mark.parametrize(
    ("library_case", "params"),
    [
        pytest.param({"processing": "batch"}, {"service_tier": "batch"}, id="batch"),
        pytest.param({"speed": "fast"}, {"speed": "fast"}, id="fast"),
    ],
)
def test_anthropics_factors_give_the_librarys_variants(library_case: dict[str, str], params: dict[str, Any]) -> None:
    """Our multipliers replace the library's rows for batch and fast mode: the figures must be the same."""
    from genai_prices.types import Usage

    counts = {"cache_read": 1000, "write_5m": 1000, "write_1h": 1000}
    theirs_usage = Usage(
        input_tokens=4000,
        cache_read_tokens=1000,
        cache_write_tokens=2000,
        cache_write_1h_tokens=1000,
        output_tokens=1000,
    )
    wire = {
        "input_tokens": 1000,
        "cache_read_input_tokens": counts["cache_read"],
        "cache_creation_input_tokens": counts["write_5m"] + counts["write_1h"],
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts["write_5m"],
            "ephemeral_1h_input_tokens": counts["write_1h"],
        },
        "output_tokens": 1000,
        **params,
    }
    compared = 0
    for provider, model in library_models():
        listed = any(variant.when == library_case for variant in model.price_variants or ())
        if provider.id != "anthropic" or not listed:
            continue
        theirs = model.calc_price(theirs_usage, provider, genai_request_timestamp=NOON, price_context=library_case)
        assert price("anthropic", model.id, wire, api="messages", timestamp=NOON).cost_usd == theirs.total_price, (
            model.id
        )
        compared += 1
    assert compared >= 4


@needs_the_same_library
@pytest.mark.parametrize("at", [NOON, LATER], ids=lambda at: at.date().isoformat())
@pytest.mark.parametrize(
    ("context", "params", "enough"),
    [
        pytest.param({"service_tier": "flex"}, {"service_tier": "flex"}, 15, id="flex"),
        pytest.param({"service_tier": "priority"}, {"service_tier": "priority"}, 15, id="priority"),
        pytest.param({"processing": "batch"}, {"batch": True}, 60, id="batch"),
    ],
)
def test_tiers_and_batches_of_all_providers_are_the_librarys(
    context: dict[str, str], params: dict[str, Any], enough: int, at: datetime
) -> None:
    from genai_prices.types import Usage

    book, compared = load_book(), 0
    usage = Usage(input_tokens=280_000, cache_read_tokens=1000, output_tokens=1000)
    details = {"cached_tokens": 1000}
    wire = {
        "prompt_tokens": 280_000,
        "prompt_tokens_details": details,
        "completion_tokens": 1000,
        "total_tokens": 281_000,
    }
    for provider, model in library_models():
        found = book.find(Place(provider.id), model.id)
        listed = any(variant.when == context for variant in model.price_variants or ())
        if not listed or found is None or "output" not in (found.model.rates(at, "") or {}):
            continue
        if found.is_clouded or (provider.id, model.id) in overridden():
            continue
        theirs = model.calc_price(usage, provider, genai_request_timestamp=at, price_context=context)
        ours = price(provider.id, model.id, wire, api="chat", timestamp=at, **params)
        assert ours.cost_usd == theirs.total_price, (provider.id, model.id, ours.reason)
        compared += 1
    assert compared >= enough


@needs_the_same_library
def test_no_name_in_the_book_is_another_model_in_the_library() -> None:
    """Our exact names must lead to the model to which the library's own first match leads."""
    from genai_prices.data import providers

    book = load_book()
    for provider in providers:
        for model in book.models(provider.id):
            for name in model.names:
                theirs = next((known for known in provider.models if known.is_match(name)), None)
                assert theirs is None or theirs.id.lower() == model.id or (provider.id, model.id) in overridden(), name


def test_a_day_before_a_tier_was_listed_keeps_the_ratio() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 0, "total_tokens": 1000}

    receipt = price("openai", "gpt-5.6-luna", usage, service_tier="flex", timestamp="2026-07-01T00:00:00Z")

    assert receipt.cost_usd == 1000 * Decimal("0.5") / MILLION
