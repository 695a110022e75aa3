"""The published price lists, row by row, as a person read them: the book must say the same."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tallystick.model.receipt import CostStatus
from tallystick.pricing import price

NOON = "2026-11-20T12:00:00Z"
MILLION = 1_000_000

# model: input, cache read, cache write 5m, cache write 1h, output; USD per million tokens.
# Source: platform.claude.com/docs/en/about-claude/pricing, copies of spring 2026 and of 2026-09-26.
CLAUDE = {
    "claude-fable-5-2": ("8", "0.20", "10", "16", "40"),
    "claude-mythos-5-2": ("8", "0.20", "10", "16", "40"),
    "claude-fable-5-1": ("10", "0.25", "12.5", "20", "50"),
    "claude-mythos-5-1": ("10", "0.25", "12.5", "20", "50"),
    "claude-fable-5": ("10", "1", "12.5", "20", "50"),
    "claude-mythos-5": ("10", "1", "12.5", "20", "50"),
    "claude-opus-5-5": ("4", "0.20", "5", "8", "20"),
    "claude-opus-5": ("5", "0.50", "6.25", "10", "25"),
    "claude-opus-4-8": ("5", "0.50", "6.25", "10", "25"),
    "claude-opus-4-7": ("5", "0.50", "6.25", "10", "25"),
    "claude-opus-4-6": ("5", "0.50", "6.25", "10", "25"),
    "claude-opus-4-5": ("5", "0.50", "6.25", "10", "25"),
    "claude-opus-4-1": ("15", "1.5", "18.75", "30", "75"),
    "claude-opus-4-1-20250805": ("15", "1.5", "18.75", "30", "75"),
    "claude-sonnet-5-5": ("2", "0.10", "2.5", "4", "10"),
    "claude-sonnet-5": ("2", "0.20", "2.5", "4", "10"),
    "claude-sonnet-4-6": ("3", "0.30", "3.75", "6", "15"),
    "claude-sonnet-4-5-20250929": ("3", "0.30", "3.75", "6", "15"),
    "claude-haiku-4-5": ("1", "0.10", "1.25", "2", "5"),
    "claude-haiku-4-5-20251001": ("1", "0.10", "1.25", "2", "5"),
}

# model: input, cached input, output.  Source: developers.openai.com/api/docs/pricing, copy of September 2026.
OPENAI = {
    "gpt-6-astra": ("10", "1", "50"),
    "gpt-6-sol": ("2", "0.20", "10"),
    "gpt-6.1-sol": ("2", "0.10", "10"),
    "gpt-6-luna": ("0.10", "0.01", "0.50"),
    "gpt-6.1-terra": ("1", "0.05", "5"),
    "gpt-5.6-sol": ("4", "0.40", "20"),
    "gpt-5.6-terra": ("2", "0.20", "12"),
    "gpt-5.6-luna": ("0.20", "0.02", "1.20"),
    "gpt-5.5": ("5", "0.50", "30"),
    "gpt-5.4": ("2.5", "0.25", "15"),
    "gpt-5.4-2026-03-05": ("2.5", "0.25", "15"),
    "gpt-5.4-mini": ("0.75", "0.075", "4.5"),
    "gpt-5.4-nano": ("0.20", "0.02", "1.25"),
    "gpt-5.2": ("1.75", "0.175", "14"),
    "gpt-5.1": ("1.25", "0.125", "10"),
    "gpt-5": ("1.25", "0.125", "10"),
    "gpt-5-2025-08-07": ("1.25", "0.125", "10"),
    "gpt-5-mini": ("0.25", "0.025", "2"),
    "gpt-5-nano": ("0.05", "0.005", "0.40"),
    "gpt-5-nano-2025-08-07": ("0.05", "0.005", "0.40"),
    "gpt-4.1": ("2", "0.50", "8"),
    "gpt-4.1-mini": ("0.40", "0.10", "1.60"),
    "gpt-4.1-nano": ("0.10", "0.025", "0.40"),
    "gpt-4o": ("2.5", "1.25", "10"),
    "gpt-4o-2024-05-13": ("5", "5", "15"),  # no cached price: cached is charged as any input
    "gpt-4o-mini": ("0.15", "0.075", "0.60"),
    "o3": ("2", "0.50", "8"),
    "o4-mini": ("1.1", "0.275", "4.4"),
    "o3-mini": ("1.1", "0.55", "4.4"),
    "o1-pro": ("150", "150", "600"),
    "ft:gpt-4o-2024-08-06:acme::a": ("3.75", "1.875", "15"),
    "ft:gpt-4o-mini-2024-07-18:acme:support:b": ("0.30", "0.15", "1.20"),
    "ft:gpt-4.1-2025-04-14:acme::c": ("3", "0.75", "12"),
    "ft:gpt-4.1-mini-2025-04-14:acme::d": ("0.80", "0.20", "3.20"),
    "ft:gpt-4.1-nano-2025-04-14:acme::e": ("0.20", "0.05", "0.80"),
}

# Where a write has a price: it lives 30 minutes at 1.25x, or 12 hours at 2.5x of the input price.
OPENAI_WRITES = {
    "gpt-6-astra": ("12.5", "25"),
    "gpt-6-sol": ("2.5", "5"),
    "gpt-6.1-sol": ("2.5", "5"),
    "gpt-6-luna": ("0.125", "0.25"),
    "gpt-6.1-terra": ("1.25", "2.50"),
    "gpt-5.6-sol": ("5", "10"),
    "gpt-5.6-terra": ("2.5", "5"),
    "gpt-5.6-luna": ("0.25", "0.50"),
}

# (provider, model, API, prices as above); USD per million tokens.  Sources: groq, mistral, x.ai price pages.
OTHERS = {
    ("groq", "openai/gpt-oss-120b"): ("0.15", "0.075", "0.60"),
    ("groq", "openai/gpt-oss-20b"): ("0.075", "0.0375", "0.30"),
    ("mistral", "mistral-large-2512"): ("0.5", "0.05", "1.5"),
    ("mistral_ai", "mistral-small-2603"): ("0.15", "0.015", "0.6"),
    ("mistral", "mistral-medium-3-5"): ("1.5", "0.15", "7.5"),
    ("xai", "grok-4.7"): ("2", "0.5", "6"),
    ("x_ai", "grok-4.7"): ("2", "0.5", "6"),
    ("deepseek", "deepseek-v4-pro"): ("0.66", "0.022", "1.98"),
}


def each(prices: tuple[str, ...], per_class: int) -> Decimal:
    return sum((Decimal(p) for p in prices), Decimal(0)) * per_class / MILLION


@pytest.mark.parametrize("model", CLAUDE)
def test_claude_charges_each_class_at_the_listed_rate(model: str) -> None:
    usage = {
        "input_tokens": 1000,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 1000},
        "output_tokens": 1000,
    }

    receipt = price("anthropic", model, usage, api="messages", timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, each(CLAUDE[model], 1000))


@pytest.mark.parametrize("model", OPENAI)
def test_openai_charges_each_class_at_the_listed_rate(model: str) -> None:
    usage = {
        "prompt_tokens": 2000,
        "prompt_tokens_details": {"cached_tokens": 1000},
        "completion_tokens": 1000,
        "total_tokens": 3000,
    }

    receipt = price("openai", model, usage, api="chat", service_tier="default", timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, each(OPENAI[model], 1000))


@pytest.mark.parametrize("model", OPENAI_WRITES)
def test_openai_cache_writes_cost_by_how_long_they_live(model: str) -> None:
    writes = {"ttl_30m_tokens": 1000, "ttl_12h_tokens": 1000}
    details = {"cached_tokens": 0, "cache_write_tokens": 2000, "cache_write_tokens_details": writes}
    usage = {"input_tokens": 2000, "input_tokens_details": details, "output_tokens": 0, "total_tokens": 2000}

    receipt = price("openai", model, usage, api="responses", timestamp=NOON)

    assert receipt.cost_usd == each(OPENAI_WRITES[model], 1000)


@pytest.mark.parametrize(("provider", "model"), OTHERS)
def test_other_providers_charge_each_class_at_the_listed_rate(provider: str, model: str) -> None:
    usage = {
        "prompt_tokens": 2000,
        "prompt_tokens_details": {"cached_tokens": 1000},
        "completion_tokens": 1000,
        "total_tokens": 3000,
    }

    receipt = price(provider, model, usage, api="chat", timestamp=NOON)

    assert receipt.cost_usd == each(OTHERS[provider, model], 1000)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param(100_000, ("0.10", "0.50"), id="at-the-step-is-still-the-lower-rate"),
        pytest.param(100_001, ("0.50", "2.50"), id="one-more-reprices-the-whole-request"),
    ],
)
def test_haiku_5_5_costs_five_times_past_100k(prompt: int, expected: tuple[str, str]) -> None:
    receipt = price("anthropic", "claude-haiku-5-5", {"input_tokens": prompt, "output_tokens": 10}, timestamp=NOON)

    assert receipt.cost_usd == (prompt * Decimal(expected[0]) + 10 * Decimal(expected[1])) / MILLION


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-6-sol", "gpt-6.1-terra", "gpt-5.5", "gpt-5.4", "gpt-5.6-luna"])
@pytest.mark.parametrize(
    ("prompt", "read_factor", "written_factor"),
    [
        pytest.param(272_000, Decimal(1), Decimal(1), id="at"),
        pytest.param(272_001, Decimal(2), Decimal("1.5"), id="over"),
    ],
)
def test_openai_long_context_doubles_what_is_read(
    model: str, prompt: int, read_factor: Decimal, written_factor: Decimal
) -> None:
    usage = {"input_tokens": prompt, "output_tokens": 100, "total_tokens": prompt + 100}

    receipt = price("openai", model, usage, api="responses", timestamp=NOON)

    read, _, written = (Decimal(p) for p in OPENAI[model])
    assert receipt.cost_usd == (prompt * read * read_factor + 100 * written * written_factor) / MILLION


@pytest.mark.parametrize(("prompt", "rate"), [(199_999, "2"), (200_000, "4")])
def test_xai_reprices_from_the_step_on(prompt: int, rate: str) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}

    assert price("xai", "grok-4.7", usage, api="chat", timestamp=NOON).cost_usd == prompt * Decimal(rate) / MILLION


@pytest.mark.parametrize(("model", "rate"), [("text-embedding-3-small", "0.02"), ("text-embedding-3-large", "0.13")])
def test_embeddings_charge_what_is_read(model: str, rate: str) -> None:
    receipt = price("openai", model, {"prompt_tokens": 1000, "total_tokens": 1000}, api="embeddings", timestamp=NOON)

    assert receipt.cost_usd == 1000 * Decimal(rate) / MILLION


@pytest.mark.parametrize(
    ("model", "tier", "rates"),
    [
        pytest.param("gpt-5.5", "priority", ("12.5", "75"), id="fast-is-2.5x-here"),
        pytest.param("gpt-4.1", "priority", ("3.5", "14"), id="and-1.75x-here"),
        pytest.param("gpt-4o", "fast", ("4.25", "17"), id="and-1.7x-here"),
        pytest.param("gpt-4o-mini", "priority", ("0.25", "1"), id="and-1.67x-here"),
        pytest.param("gpt-6-sol", "priority", ("4", "20"), id="and-2x-here"),
        pytest.param("gpt-5.6-sol", "flex", ("2", "10"), id="flex-is-half"),
        pytest.param("o3", "flex", ("1", "4"), id="flex-of-an-older-model"),
    ],
)
def test_openai_tiers_have_their_own_rates(model: str, tier: str, rates: tuple[str, str]) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1000, "total_tokens": 2000}

    receipt = price("openai", model, usage, api="responses", service_tier=tier, timestamp=NOON)

    assert receipt.cost_usd == each(rates, 1000)


@pytest.mark.parametrize(
    ("provider", "model", "case", "rates"),
    [
        # Fine-tuned models in a batch: no plain halves.  Input, cached input, output.
        pytest.param("openai", "ft:gpt-4o-2024-08-06:acme::a", {"batch": True}, ("2.225", "0.90", "12.50"), id="ft-4o"),
        pytest.param("openai", "ft:gpt-4.1-2025-04-14:acme::a", {"batch": True}, ("1.5", "0.5", "6"), id="ft-4.1"),
        pytest.param("openai", "ft:gpt-4.1-mini-2025-04-14:a::a", {"batch": True}, ("0.4", "0.1", "1.6"), id="ft-mini"),
        pytest.param("google", "gemini-2.5-pro", {"service_tier": "flex"}, ("0.625", "0.125", "5"), id="gemini-flex"),
        pytest.param("google", "gemini-2.5-flash", {"service_tier": "flex"}, ("0.15", "0.03", "1.25"), id="flash-flex"),
        pytest.param(
            "google", "gemini-2.5-pro", {"service_tier": "priority"}, ("2.25", "0.225", "18"), id="gemini-priority"
        ),
    ],
)
def test_batches_and_tiers_that_the_library_leaves_out(
    provider: str, model: str, case: dict[str, Any], rates: tuple[str, ...]
) -> None:
    usage = {"prompt_tokens": 2000, "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens": 1000,
             "total_tokens": 3000}  # fmt: skip

    receipt = price(provider, model, usage, api="chat", timestamp=NOON, **case)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, each(rates, 1000))


@pytest.mark.parametrize(
    ("model", "rate"),
    [("text-embedding-3-small", "0.01"), ("text-embedding-3-large", "0.065"), ("text-embedding-ada-002", "0.05")],
)
def test_embeddings_in_a_batch_cost_half(model: str, rate: str) -> None:
    usage = {"prompt_tokens": 1000, "total_tokens": 1000}

    receipt = price("openai", model, usage, api="embeddings", batch=True, timestamp=NOON)

    assert receipt.cost_usd == each((rate,), 1000)


@pytest.mark.parametrize("model", ["claude-sonnet-4-20250514", "claude-sonnet-4-5-20250929"])
@pytest.mark.parametrize(
    ("prompt", "at", "rates"),
    [
        pytest.param(200_000, "2026-02-10T10:00:00Z", ("3", "15"), id="at-the-step"),
        pytest.param(200_001, "2026-02-10T10:00:00Z", ("6", "22.5"), id="over-it"),
        pytest.param(200_001, "2026-04-29T23:59:59Z", ("6", "22.5"), id="on-the-last-day"),
        pytest.param(200_001, "2026-04-30T00:00:00Z", ("3", "15"), id="when-the-beta-had-ended"),
    ],
)
def test_sonnet_4_and_4_5_had_a_long_context_rate(model: str, prompt: int, at: str, rates: tuple[str, str]) -> None:
    receipt = price("anthropic", model, {"input_tokens": prompt, "output_tokens": 10}, api="messages", timestamp=at)

    assert receipt.cost_usd == (prompt * Decimal(rates[0]) + 10 * Decimal(rates[1])) / MILLION


@pytest.mark.parametrize(
    ("model", "tier", "cached"),
    [("gpt-5.4", "flex", "0.13"), ("o4-mini", "flex", "0.138"), ("gpt-5.4", "batch", "0.13")],
)
def test_the_published_rounded_cache_rate_is_charged_not_half(model: str, tier: str, cached: str) -> None:
    usage = {"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens": 0}

    receipt = price("openai", model, usage, api="chat", service_tier=tier, timestamp=NOON)

    assert receipt.cost_usd == 1000 * Decimal(cached) / MILLION


@pytest.mark.parametrize(
    ("model", "at", "rates"),
    [
        pytest.param("gpt-5.6-sol", "2026-08-20T23:59:59Z", ("5", "30"), id="sol-last-day-of-the-old-price"),
        pytest.param("gpt-5.6-sol", "2026-08-21T00:00:00Z", ("4", "20"), id="sol-first-day-of-the-new"),
        pytest.param("gpt-5.6-luna", "2026-07-29T12:00:00Z", ("1", "6"), id="luna-before-the-cut"),
        pytest.param("o3", "2025-06-09T12:00:00Z", ("10", "40"), id="o3-before-the-cut"),
        pytest.param("gpt-5.6-sol", "2026-08-20T20:00:00-05:00", ("4", "20"), id="the-day-is-utc"),
    ],
)
def test_the_price_of_the_day_of_the_call_is_taken(model: str, at: str, rates: tuple[str, str]) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1000, "total_tokens": 2000}

    assert price("openai", model, usage, api="responses", timestamp=at).cost_usd == each(rates, 1000)


@pytest.mark.parametrize(
    ("at", "rates"),
    [
        pytest.param("2026-12-31T23:59:59Z", ("0.75", "3.75"), id="introductory"),
        pytest.param("2027-01-01T00:00:00Z", ("1.5", "7.5"), id="then"),
    ],
)
def test_a_price_that_is_announced_for_later_waits_for_its_day(at: str, rates: tuple[str, str]) -> None:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 1000, "totalTokenCount": 2000}

    receipt = price("google", "gemini-3.8-flash", usage, api="generateContent", timestamp=at)

    assert receipt.cost_usd == each(rates, 1000)


@pytest.mark.parametrize(
    ("at", "is_peak"),
    [
        pytest.param("2026-11-18T00:59:59Z", False, id="before"),
        pytest.param("2026-11-18T01:00:00Z", True, id="first-window"),
        pytest.param("2026-11-18T04:00:00Z", False, id="between"),
        pytest.param("2026-11-18T09:59:59Z", True, id="second-window"),
        pytest.param("2026-11-18T10:00:00Z", False, id="after"),
        pytest.param("2026-11-21T02:00:00Z", False, id="saturday"),
        pytest.param("2026-11-22T07:00:00Z", False, id="sunday"),
        pytest.param("2026-11-20T02:00:00Z", True, id="friday"),
    ],
)
@pytest.mark.parametrize(
    ("model", "rate"), [("deepseek-flash", "0.60"), ("deepseek-v4-pro", "1.98"), ("deepseek-v4-flash", "0.60")]
)
def test_deepseek_peak_hours_are_on_working_days_only(model: str, rate: str, at: str, is_peak: bool) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 1000, "total_tokens": 1000}

    receipt = price("deepseek", model, usage, api="chat", timestamp=at)

    assert receipt.cost_usd == 1000 * Decimal(rate) * (2 if is_peak else 1) / MILLION
