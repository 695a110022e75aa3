"""One whole usage object of each API flavour, as its provider writes it, and what that costs by the provider's list."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tallystick.model.receipt import CostStatus
from tallystick.pricing import price

NOON = "2026-11-20T12:00:00Z"
TEXT = [{"modality": "TEXT", "tokenCount": 1000}]
USAGES: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any], str]] = {
    "gemini": (
        "google", "gemini-2.5-pro", "https://generativelanguage.googleapis.com",
        {"promptTokenCount": 1000, "cachedContentTokenCount": 400, "candidatesTokenCount": 100,
         "thoughtsTokenCount": 50, "totalTokenCount": 1150, "promptTokensDetails": TEXT,
         "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 400}]},
        {"api": "generateContent"}, "600 * 1.25 + 400 * 0.125 + 150 * 10",
    ),
    "gemini-compatible": (
        "google", "gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai/",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1150,
         "prompt_tokens_details": {"cached_tokens": 400}},
        {}, "600 * 1.25 + 400 * 0.125 + 150 * 10",
    ),
    "xai-chat": (
        "xai", "grok-4.7", "https://api.x.ai/v1",
        {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1110, "num_sources_used": 0,
         "prompt_tokens_details": {"text_tokens": 1000, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 163},
         "completion_tokens_details": {"reasoning_tokens": 100, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                       "rejected_prediction_tokens": 0}},
        {}, "837 * 2 + 163 * 0.5 + 110 * 6",
    ),
    "xai-responses": (
        "xai", "grok-4.7", "https://api.x.ai/v1",
        {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 163}, "output_tokens": 110,
         "output_tokens_details": {"reasoning_tokens": 100}, "total_tokens": 1110, "num_sources_used": 0,
         "num_server_side_tools_used": 0},
        {"api": "responses"}, "837 * 2 + 163 * 0.5 + 110 * 6",
    ),
    "groq": (
        "groq", "openai/gpt-oss-120b", "https://api.groq.com/openai/v1",
        {"queue_time": 0.05, "prompt_tokens": 1000, "prompt_time": 0.01, "completion_tokens": 100,
         "completion_time": 0.2, "total_tokens": 1100, "total_time": 0.21,
         "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 30}},
        {"service_tier": "on_demand"}, "600 * 0.15 + 400 * 0.075 + 100 * 0.6",
    ),
    "deepseek": (
        "deepseek", "deepseek-v4-pro", "https://api.deepseek.com",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, "prompt_cache_hit_tokens": 640,
         "prompt_cache_miss_tokens": 360, "completion_tokens_details": {"reasoning_tokens": 50}},
        {}, "360 * 0.66 + 640 * 0.022 + 100 * 1.98",
    ),
    "mistral": (
        "mistral", "mistral-large-2512", "https://api.mistral.ai/v1",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, "prompt_audio_seconds": None,
         "num_cached_tokens": 640},
        {}, "360 * 0.5 + 640 * 0.05 + 100 * 1.5",
    ),
    "mistral-details": (
        "mistral", "mistral-large-2512", "https://api.mistral.ai/v1",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, "num_cached_tokens": 640,
         "prompt_tokens_details": {"cached_tokens": 640}},
        {}, "360 * 0.5 + 640 * 0.05 + 100 * 1.5",
    ),
    "moonshot": (
        "moonshotai", "kimi-k2-0905-preview", "https://api.moonshot.ai/v1",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, "cached_tokens": 500},
        {}, "500 * 0.6 + 500 * 0.15 + 100 * 2.5",
    ),
    "azure": (
        "azure", "gpt-4o-2024-11-20", "https://acme.openai.azure.com/openai/deployments/chat",
        {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100,
         "prompt_tokens_details": {"cached_tokens": 500, "audio_tokens": 0}},
        {}, "500 * 2.5 + 500 * 1.25 + 100 * 10",
    ),
    "bedrock-invoke": (
        "aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "https://bedrock-runtime.us-east-1.amazonaws.com",
        {"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
        {"api": "messages"}, "(1000 * 3 + 100 * 15) * 1.1",
    ),
    "bedrock-converse": (
        "aws.bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "https://bedrock-runtime.us-east-1.amazonaws.com",
        {"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1110, "cacheReadInputTokens": 10,
         "cacheWriteInputTokens": 0},
        {"api": "converse"}, "1000 * 3 + 10 * 0.3 + 100 * 15",
    ),
    "vertex-claude": (
        "anthropic", "claude-sonnet-4-5@20250929", "https://us-east5-aiplatform.googleapis.com/v1",
        {"input_tokens": 1000, "output_tokens": 100}, {"api": "messages"}, "(1000 * 3 + 100 * 15) * 1.1",
    ),
    "vertex-gemini": (
        "gcp.vertex_ai", "google/gemini-2.5-flash", "https://aiplatform.googleapis.com/v1",
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100, "trafficType": "ON_DEMAND"},
        {"api": "generateContent"}, "1000 * 0.3 + 100 * 2.5",
    ),
}  # fmt: skip


def millionths(formula: str) -> Decimal:
    """Reckon ``formula``, tokens times USD per million, exactly."""
    decimals = "".join(f"Decimal('{word}')" if word[0].isdigit() else word for word in _words(formula))
    return Decimal(eval(decimals)) / 1_000_000


def _words(formula: str) -> list[str]:
    return [word for word in formula.replace("(", " ( ").replace(")", " ) ").split(" ") if word]


@pytest.mark.parametrize("flavour", USAGES)
def test_a_usage_object_is_read_as_its_provider_means_it(flavour: str) -> None:
    provider, model, base_url, usage, params, formula = USAGES[flavour]

    receipt = price(provider, model, usage, **{"api": "chat", "base_url": base_url, "timestamp": NOON, **params})

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, millionths(formula)), receipt.reason


@pytest.mark.parametrize(
    ("provider", "model", "base_url", "usage", "cost", "note"),
    [
        pytest.param(
            "xai", "grok-4.7", "https://api.x.ai/v1",
            {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100, "num_server_side_tools_used": 7},
            "1000 * 2 + 100 * 6", "the fees of 7 searches and other tools are not in the usage", id="xai-tools",
        ),
        pytest.param(
            "mistral", "voxtral-small-latest", "https://api.mistral.ai/v1",
            {"prompt_tokens": 300, "completion_tokens": 100, "total_tokens": 400, "prompt_audio_seconds": 60},
            "300 * 0.1 + 100 * 0.4 + 4000", "charged by the second", id="mistral-sound",
        ),
        pytest.param(
            "openai", "gpt-4o-transcribe", "https://api.openai.com/v1",
            {"type": "tokens", "input_tokens": 1000, "input_token_details": {"text_tokens": 0, "audio_tokens": 1000},
             "output_tokens": 100, "total_tokens": 1100},
            "1000 * 6 + 100 * 10", "pricing says 2.50", id="two-tellings",
        ),
    ],
)  # fmt: skip
def test_what_the_usage_leaves_open_makes_an_estimate_that_says_why(
    provider: str, model: str, base_url: str, usage: dict[str, Any], cost: str, note: str
) -> None:
    receipt = price(provider, model, usage, base_url=base_url, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.ESTIMATED, millionths(cost))
    assert note in " ".join(receipt.notes)


def test_deep_research_pays_for_what_it_thinks_cites_and_searches_beside_the_answer() -> None:
    usage = {
        "prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196, "citation_tokens": 20016,
        "num_search_queries": 18, "reasoning_tokens": 73997,
    }  # fmt: skip
    params = {"api": "chat", "base_url": "https://api.perplexity.ai", "timestamp": NOON}

    deep = price("perplexity", "sonar-deep-research", usage, **params)
    plain = price("perplexity", "sonar", usage, **params)

    assert deep.cost_usd == millionths("33 * 2 + 7163 * 8 + 73997 * 3 + 20016 * 2 + 18 * 5000")
    assert deep.status == CostStatus.EXACT
    assert deep.usage is not None
    assert deep.usage.output_tokens == 7163 + 73997 + 20016
    assert plain.status == CostStatus.ESTIMATED
    assert {line.item for line in plain.lines} == {"input", "output", "request"}


@pytest.mark.parametrize("host", ["http://localhost:11434/v1", "http://127.0.0.1:8000/v1", "https://ollama.com/v1"])
def test_a_model_at_home_has_no_price_and_the_reason_says_whose_it_is(host: str) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}

    receipt = price("ollama", "llama3.2", usage, api="chat", base_url=host, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.UNKNOWN, None)
    assert "is its owner's to say" in str(receipt.reason)
