"""Usage that contradicts itself has no cost: a wrong figure is worse than none."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick.model.receipt import CostStatus
from tallystick.pricing import Refusal, price, read_usage

MODELS = {"anthropic": "claude-sonnet-5", "openai": "gpt-5.4", "google": "gemini-2.5-flash", "xai": "grok-4.7",
          "openrouter": "openai/gpt-5.4", "aws": "amazon.nova-lite-v1:0"}  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "api", "wire", "reason"),
    [
        pytest.param(
            "anthropic",
            "messages",
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "cache_creation_input_tokens": 10,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 1},
            },
            "cache_creation (11) is more than cache_creation_input_tokens (10)",
            id="split-larger-than-its-sum",
        ),
        pytest.param(
            "anthropic",
            "messages",
            {"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}},
            "thinking_tokens (2) is more than output_tokens (1)",
            id="more-thought-than-written",
        ),
        pytest.param(
            "anthropic",
            "messages",
            {"input_tokens": 1, "output_tokens": 1, "iterations": [{"type": "compaction"}]},
            "the usage has no input_tokens",
            id="iteration-without-counts",
        ),
        pytest.param(
            "anthropic",
            "messages",
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "iterations": [{"type": "advisor_message", "input_tokens": 1, "output_tokens": 1}],
            },
            "an advisor's iteration does not name its model",
            id="advisor-without-model",
        ),
        pytest.param("anthropic", "messages", {"output_tokens": 1}, "the usage has no input_tokens", id="nothing-read"),
        pytest.param(
            "anthropic", "messages", {"input_tokens": 1}, "the usage has no output_tokens", id="nothing-written"
        ),
        pytest.param("anthropic", "messages", {}, "the usage is empty", id="empty"),
        pytest.param("anthropic", "messages", "12 tokens", "the usage is a str, not an object", id="text"),
        pytest.param(
            "openai",
            "responses",
            {
                "input_tokens": 1,
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 6},
                "total_tokens": 6,
            },
            "reasoning_tokens (6) is more than the output tokens (5)",
            id="more-reasoning-than-output",
        ),
        pytest.param(
            "openai",
            "chat",
            {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 19},
            "total_tokens (19) is less than what was read and written (10 + 10)",
            id="total-too-small",
        ),
        pytest.param(
            "openai",
            "responses",
            {
                "input_tokens": 9,
                "output_tokens": 1,
                "input_tokens_details": {"cache_write_tokens": 5, "cache_write_tokens_details": {"ttl_12h_tokens": 6}},
            },
            "cache_write_tokens_details (6) is more than cache_write_tokens (5)",
            id="write-split-too-large",
        ),
        pytest.param(
            "openai",
            "realtime",
            {
                "input_tokens": 9,
                "output_tokens": 1,
                "input_token_details": {
                    "audio_tokens": 1,
                    "cached_tokens": 4,
                    "cached_tokens_details": {"audio_tokens": 2},
                },
            },
            "cached audio tokens (2) is more than audio_tokens (1)",
            id="more-audio-cached-than-heard",
        ),
        pytest.param("openai", "chat", {"prompt_tokens": 10}, "the usage has no completion_tokens", id="no-completion"),
        pytest.param(
            "openai",
            "chat",
            {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": [1]},
            "prompt_tokens_details = [1] is not an object",
            id="details-of-another-shape",
        ),
        pytest.param(
            "google",
            "generateContent",
            {"promptTokenCount": 5, "cachedContentTokenCount": 6, "candidatesTokenCount": 1},
            "cachedContentTokenCount (6) is more than promptTokenCount (5)",
            id="more-cached-than-read",
        ),
        pytest.param(
            "google",
            "generateContent",
            {"promptTokenCount": 5, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}]},
            "promptTokensDetails (6) is more than its total (5)",
            id="more-audio-than-prompt",
        ),
        pytest.param(
            "google",
            "generateContent",
            {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 9},
            "totalTokenCount (9) is less than what was read and written (5 + 5)",
            id="gemini-total-too-small",
        ),
        pytest.param(
            "xai",
            "chat",
            {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 9},
            "total_tokens (9) is less than what was read and written (5 + 5)",
            id="xai-total-too-small",
        ),
        pytest.param("openrouter", "chat", {"cost": -0.01}, "cost = -0.01 is not a number of 0 or more", id="credit"),
        pytest.param("openrouter", "chat", {"cost": "free"}, "cost = 'free' is not a number", id="charge-in-words"),
        pytest.param("aws", "converse", {"inputTokens": 5}, "the usage has no output_tokens", id="converse-half"),
    ],
)
def test_a_contradiction_is_refused_and_named(provider: str, api: str, wire: Any, reason: str) -> None:
    receipt = price(provider, MODELS[provider], wire, api=api, timestamp="2026-11-20T12:00:00Z")

    assert (receipt.status, receipt.cost_usd, receipt.usage) == (CostStatus.UNKNOWN, None, None)
    assert receipt.reason == reason
    assert read_usage(provider, api, wire) == Refusal(reason)


@pytest.mark.parametrize("kind", ["application-inference-profile", "provisioned-model", "imported-model"])
def test_an_arn_of_ones_own_is_not_priced_by_what_its_name_resembles(kind: str) -> None:
    model = f"arn:aws:bedrock:us-east-1:111122223333:{kind}/us.anthropic.claude-sonnet-4-5-20250929-v1:0"

    assert price("aws", model, {"input_tokens": 1, "output_tokens": 1}).status is CostStatus.UNKNOWN


def test_inference_geography_is_anthropics_own_and_never_stacks_on_a_clouds_endpoint() -> None:
    wire = {"input_tokens": 1000, "output_tokens": 0, "inference_geo": "us"}

    receipt = price("aws", "us.anthropic.claude-opus-4-6-v1", wire, api="messages", timestamp="2026-11-20T12:00:00Z")

    assert str(receipt.lines[0].multiplier) == "1.1"
