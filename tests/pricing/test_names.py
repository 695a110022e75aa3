"""Which names have a price: those that are listed, and nothing that merely begins like one."""

from __future__ import annotations

import pytest

from tallystick.model.receipt import CostStatus
from tallystick.pricing import price

WIRE = {"input_tokens": 10, "output_tokens": 10}


def is_priced(provider: str, model: str) -> bool:
    receipt = price(provider, model, WIRE, api="responses", timestamp="2026-11-20T12:00:00Z")
    assert (receipt.status is CostStatus.UNKNOWN) == (receipt.cost_usd is None)
    return receipt.cost_usd is not None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        pytest.param("anthropic", "claude-sonnet-4-5", id="id"),
        pytest.param("anthropic", "Claude-Sonnet-4-5", id="letter-case"),
        pytest.param("anthropic", " claude-sonnet-4-5\n", id="blanks"),
        pytest.param("anthropic", "claude-sonnet-4-5-20250929", id="id-and-date"),
        pytest.param("anthropic", "claude-sonnet-4-5@20250929", id="id-and-vertex-date"),
        pytest.param("anthropic", "claude-sonnet-4-20250514", id="the-source-lists-the-beginning-of-the-date"),
        pytest.param("anthropic", "claude-3-5-haiku-latest", id="latest"),
        pytest.param("openai", "gpt-5.2-2025-12-11", id="alias"),
        pytest.param("openai", "gpt-5.2-20251211", id="date-without-dashes"),
        pytest.param("openai", "gpt-5-nano-2025-08-07", id="id-and-dashed-date"),
        pytest.param("openai", "gpt-4o-realtime-preview-2024-12-17", id="preview-and-date"),
        pytest.param("openai", "ft:gpt-3.5-turbo-0125:acme::x", id="fine-tuned-short-date"),
        pytest.param("openai", "computer-use-preview", id="our-alias"),
        pytest.param("google", "models/gemini-2.5-pro", id="resource-name"),
        pytest.param("gcp.gemini", "gemini-2.5-pro", id="opentelemetrys-provider-name"),
        pytest.param("google", "gemini-2.0-flash-001", id="googles-version"),
        pytest.param("azure.ai.openai", "gpt-35-turbo", id="azures-spelling"),
        pytest.param("mistral", "magistral-medium-2509", id="mistrals-short-date"),
    ],
)
def test_a_listed_name_has_a_price(provider: str, model: str) -> None:
    assert is_priced(provider, model)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        pytest.param("anthropic", "claude-haiku-4-5-lite", id="longer-than-a-known-one"),
        pytest.param("anthropic", "claude-haiku-4-5-20251301", id="no-such-month"),
        pytest.param("anthropic", "claude-haiku-4-5-99999999", id="digits-that-are-no-date"),
        pytest.param("anthropic", "claude-sonnet-4-7", id="never-released"),
        pytest.param("anthropic", "claude-sonnet", id="shorter-than-a-known-one"),
        pytest.param("anthropic", "claude-opus-5-5-fast", id="suffix"),
        pytest.param("anthropic", "gpt-4o", id="somebody-elses"),
        pytest.param("openai", "gpt-5.4-turbo", id="turbo"),
        pytest.param("openai", "gpt-5-nano-acme", id="clone"),
        pytest.param("openai", "o3-ultra", id="ultra"),
        pytest.param("openai", "gpt-4o-latest", id="latest-that-nobody-lists"),
        pytest.param("openai", "gpt-4o-2501", id="short-date-that-nobody-lists"),
        pytest.param("openai", "ft:gpt-5.4:acme::x", id="fine-tuned-without-a-price"),
        pytest.param("openai", "ft:", id="fine-tuned-nothing"),
        pytest.param("openai", "claude-sonnet-4-5", id="not-openais"),
        pytest.param("google", "gemini-1.5-flash-mega", id="gemini-mega"),
        pytest.param("google", "gemini-3.8-flash-vision", id="gemini-vision"),
        pytest.param("aws", "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/x", id="profile-arn"),
        pytest.param("aws", "arn:aws:sagemaker:us-east-1:1:endpoint/claude-sonnet-4-5", id="another-arn"),
        pytest.param("aws", "us.anthropic.claude-sonnet-4-7-v1:0", id="never-released-on-bedrock"),
        pytest.param("xai", "grok-4.7-mega", id="grok-mega"),
        pytest.param("openai", "", id="nothing"),
        pytest.param("openai", "   ", id="blank"),
    ],
)
def test_a_name_that_is_not_listed_has_no_price(provider: str, model: str) -> None:
    assert not is_priced(provider, model)


def test_a_date_of_its_own_wins_over_the_name_without_it() -> None:
    dated = price("openai", "gpt-4o-2024-05-13", WIRE).cost_usd
    plain = price("openai", "gpt-4o", WIRE).cost_usd

    assert dated is not None
    assert plain is not None
    assert dated > plain


def test_the_reason_tells_what_to_do() -> None:
    receipt = price("openai", "our-own-deployment", WIRE)

    assert receipt.reason == "openai lists no model 'our-own-deployment'; a name of your own needs an [[alias]]"
