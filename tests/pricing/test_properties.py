"""What holds for any usage, however odd."""

from __future__ import annotations

from decimal import Decimal, Inexact, localcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.model.receipt import CostStatus, Receipt
from tallystick.model.usage import Usage
from tallystick.pricing import Refusal, price, read_usage

NOON = "2026-11-20T12:00:00Z"
COUNTS = st.integers(0, 10**7)
CLAUDES = st.sampled_from(["claude-sonnet-5", "claude-opus-5-5", "claude-haiku-5-5", "claude-opus-4-1"])
GPTS = st.sampled_from(["gpt-5.4", "gpt-6.1-terra", "gpt-4o", "gpt-5-nano"])
# Prices of one tier of these never step, so that more tokens can never be cheaper by crossing one.
FLAT = st.sampled_from(["claude-sonnet-5", "claude-opus-5", "claude-haiku-4-5"])


def messages(read: int = 0, w5m: int = 0, w1h: int = 0, fresh: int = 0, output: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": w5m + w1h,
        "cache_creation": {"ephemeral_5m_input_tokens": w5m, "ephemeral_1h_input_tokens": w1h},
        "output_tokens": output,
    }


def is_sound(receipt: Receipt) -> None:
    """A receipt explains its sum in decimals, or says why it has none."""
    assert (receipt.cost_usd is None) == (receipt.status is CostStatus.UNKNOWN)
    assert (receipt.reason is not None) == (receipt.status is CostStatus.UNKNOWN)
    if receipt.cost_usd is not None:
        assert receipt.cost_usd == sum((line.cost_usd for line in receipt.lines), Decimal(0))
        assert receipt.cost_usd >= 0
    for line in receipt.lines:
        for figure in (line.quantity, line.unit_price_usd, line.multiplier, line.cost_usd):
            assert type(figure) is Decimal
    receipt.as_dict()


@given(CLAUDES, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from([None, "us"]), st.booleans())
def test_the_lines_add_up_and_are_decimals(
    model: str, read: int, w5m: int, w1h: int, fresh: int, output: int, geo: str | None, batch: bool
) -> None:
    usage = messages(read, w5m, w1h, fresh, output)

    is_sound(price("anthropic", model, usage, api="messages", geo=geo, batch=batch, timestamp=NOON))


@given(FLAT, st.lists(COUNTS, min_size=5, max_size=5), st.integers(0, 4), st.integers(1, 10**6))
def test_more_tokens_never_cost_less(model: str, counts: list[int], which: int, more: int) -> None:
    fewer = price("anthropic", model, messages(*counts), api="messages", timestamp=NOON).cost_usd
    counts[which] += more
    dearer = price("anthropic", model, messages(*counts), api="messages", timestamp=NOON).cost_usd

    assert fewer is not None
    assert dearer is not None
    assert dearer > fewer


@given(COUNTS, COUNTS, COUNTS)
def test_both_conventions_count_the_same(fresh: int, read: int, output: int) -> None:
    outside = messages(read=read, fresh=fresh, output=output)
    inside = {
        "prompt_tokens": fresh + read,
        "prompt_tokens_details": {"cached_tokens": read},
        "completion_tokens": output,
        "total_tokens": fresh + read + output,
    }

    exclusive = price("anthropic", "claude-sonnet-5", outside, api="messages", timestamp=NOON)
    inclusive = price("anthropic", "claude-sonnet-5", inside, api="chat", timestamp=NOON)

    assert exclusive.cost_usd == inclusive.cost_usd
    assert exclusive.usage == inclusive.usage
    assert exclusive.usage is not None
    assert exclusive.usage.input_tokens == fresh + read


@given(GPTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_canonical_counts_are_those_of_the_wire(
    model: str, fresh: int, read: int, written: int, output: int
) -> None:
    prompt = fresh + read + written
    details = {"cached_tokens": read, "cache_write_tokens": written}
    wire = {"input_tokens": prompt, "input_tokens_details": details, "output_tokens": output}

    usage = read_usage("openai", "responses", wire)

    assert isinstance(usage, Usage)
    counted = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
    assert counted == (prompt, read, written, output)
    is_sound(price("openai", model, wire, api="responses", timestamp=NOON))


@given(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"]),
    COUNTS,
    st.integers(1, 10**6),
)
def test_a_part_that_is_larger_than_its_whole_is_refused(part: str, prompt: int, more: int) -> None:
    wire = {"prompt_tokens": prompt, "prompt_tokens_details": {part: prompt + more}, "completion_tokens": 0}

    assert isinstance(read_usage("openai", "chat", wire), Refusal)
    assert price("openai", "gpt-4o", wire, api="chat").cost_usd is None


@pytest.mark.parametrize("name", list(messages()))
@given(
    bad=st.one_of(
        st.integers(max_value=-1), st.text(), st.booleans(), st.just(0.5), st.just(float("nan")), st.lists(COUNTS)
    )
)
def test_a_count_that_is_none_is_refused(name: str, bad: Any) -> None:
    receipt = price("anthropic", "claude-sonnet-5", {**messages(), name: bad}, api="messages")

    assert (receipt.status, receipt.cost_usd) == (CostStatus.UNKNOWN, None)
    assert name in (receipt.reason or "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([
    "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "total_tokens", "cache_creation",
    "cache_read_input_tokens", "prompt_tokens_details", "input_tokens_details", "iterations", "server_tool_use", "cost",
    "promptTokenCount", "promptTokensDetails", "cacheTokensDetails", "service_tier", "speed", "inference_geo", "type",
    "seconds", "billed_units", "inputTokens", "cacheDetails", "usage", "cost_details", "tool_usage", "fallback_credit",
])  # fmt: skip
PARAMS = st.sampled_from([
    "api", "base_url", "service_tier", "requested_service_tier", "batch", "speed", "geo", "cloud", "region",
    "deployment", "timestamp", "tool_usage", "input_characters", "audio_seconds", "request_model", "estimated",
    "never_heard_of",
])  # fmt: skip
PROVIDERS = st.sampled_from(["anthropic", "openai", "google", "xai", "openrouter", "perplexity", "aws", "azure"])


@given(
    PROVIDERS | JSON,
    st.sampled_from(["gpt-4o", "claude-sonnet-5", "us.anthropic.claude-opus-5"]) | JSON,
    st.dictionaries(KEYS, COUNTS | JSON, max_size=8) | JSON,
    st.dictionaries(PARAMS, JSON, max_size=5),
)
@example("openai", "gpt-4o", {"prompt_tokens": 10**400, "completion_tokens": 1}, {})
@example("openrouter", "x", {"cost": float("inf")}, {})
@example("openai", "gpt-4o", {"prompt_tokens": 1, "completion_tokens": 1}, {"base_url": "http://[::1"})
@example("openai", "gpt-4o", {"prompt_tokens": 1, "completion_tokens": 1}, {"timestamp": "0001-01-01T00:00:00+14:00"})
def test_garbage_never_raises(provider: Any, model: Any, usage: Any, params: dict[str, Any]) -> None:
    is_sound(price(provider, model, usage, **params))
    assert isinstance(read_usage(provider, "chat", usage), Usage | Refusal)


def test_the_apps_own_decimal_context_changes_nothing() -> None:
    usage = messages(read=40211, w5m=2110, w1h=9001, fresh=53, output=702)
    with localcontext() as context:
        context.prec = 3
        context.traps[Inexact] = True

        receipt = price("anthropic", "claude-sonnet-4-6", usage, api="messages", timestamp=NOON)

    assert receipt.cost_usd == Decimal("0.0846708")
