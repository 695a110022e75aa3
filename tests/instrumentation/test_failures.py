"""Every attempt is on the ledger with its class, and the app sees the SDK's own errors."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import anthropic
import openai
import pydantic
import pytest

from fakes.provider import Provider

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, **more)


def message(client: Any, **more: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, **more)


def test_a_retried_call_shows_each_attempt_and_costs_once(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("429:retry-after=0.05,503,200")
    chat(oai)

    call = ledger.call()
    said = [
        (
            attempt.attributes["http.request.resend_count"],
            attempt.attributes["http.response.status_code"],
            attempt.attributes["tallystick.attempt.outcome"],
            attempt.attributes.get("tallystick.attempt.retry_after_s"),
        )
        for attempt in ledger.attempts()
    ]
    assert said == [(0, 429, "rate_limited", 0.05), (1, 503, "overloaded", None), (2, 200, "ok", None)]
    assert {attempt.parent for attempt in ledger.attempts()} == {call.id}
    assert len({attempt.attributes["tallystick.attempt.request_id"] for attempt in ledger.attempts()}) == 3
    assert (call.outcome, call.attributes["tallystick.attempts"], call.status) == ("ok", 3, 0)
    assert len(call.units) == len(provider.invoice()["items"]) == 1


@pytest.mark.parametrize("asked", ["retry-after-ms=40", "retry-after=0.04"])
def test_what_the_server_asked_to_wait_is_in_seconds(ledger: Any, provider: Provider, ant: Any, asked: str) -> None:
    provider.script(f"429:{asked},200")
    message(ant)

    assert ledger.attempts()[0].attributes["tallystick.attempt.retry_after_s"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        pytest.param("429", "rate_limited", id="429"),
        pytest.param("quota", "quota", id="insufficient-quota-is-no-rate-limit"),
        pytest.param("500", "server_error", id="500"),
        pytest.param("529", "overloaded", id="529"),
        pytest.param("401", "auth", id="401"),
        pytest.param("403", "permission", id="403"),
        pytest.param("404", "not_found", id="404"),
        pytest.param("400", "invalid_request", id="400"),
        pytest.param("413", "too_large", id="413"),
        pytest.param("context_length", "context_length", id="context-length"),
        pytest.param("reset", "connection", id="connection-reset"),
        pytest.param("504", "timeout_server", id="504"),
    ],
)
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_failure_has_its_class_and_no_cost(
    ledger: Any, provider: Provider, oai: Any, ant: Any, script: str, outcome: str, sdk: str
) -> None:
    provider.script(script)
    error = openai.OpenAIError if sdk == "openai" else anthropic.AnthropicError
    with pytest.raises(error):
        chat(oai.with_options(max_retries=0)) if sdk == "openai" else message(ant.with_options(max_retries=0))

    call = ledger.call()
    assert (call.outcome, call.attributes["error.type"], call.status) == (outcome, outcome, 2)
    assert call.units == []
    assert len(ledger.attempts()) == 1
    assert provider.invoice()["items"] == []


def test_a_read_timeout_is_told_from_a_connect_timeout(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("hang")
    with pytest.raises(openai.APITimeoutError):
        chat(oai.with_options(max_retries=0, timeout=0.2))

    assert ledger.call().outcome == "timeout_read"
    [attempt] = ledger.attempts()
    assert attempt.attributes["tallystick.attempt.outcome"] == "timeout_read"
    assert "http.response.status_code" not in attempt.attributes


def test_nobody_listens_is_a_connection_failure_of_every_attempt(ledger: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=1) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        chat(client)

    assert ledger.call().outcome == "connection"
    assert [attempt.attributes["tallystick.attempt.outcome"] for attempt in ledger.attempts()] == ["connection"] * 2


@pytest.mark.parametrize(("script", "outcome"), [("truncated", "truncated"), ("content_filter", "refusal")])
def test_a_billed_answer_without_use_is_no_error_but_has_its_class(
    ledger: Any, provider: Provider, oai: Any, script: str, outcome: str
) -> None:
    provider.script(script)
    chat(oai)

    call = ledger.call()
    assert (call.outcome, call.status) == (outcome, 0)
    assert call.units[0]["cost_usd"] == provider.invoice()["items"][0]["usd"]


def test_an_anthropic_refusal_is_a_refusal(ledger: Any, provider: Provider, ant: Any) -> None:
    provider.script("refusal")
    message(ant)

    assert ledger.call().outcome == "refusal"


def test_half_a_body_is_invalid_output_of_unknown_cost(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("bad-json")
    with pytest.raises(json.JSONDecodeError):
        chat(oai)

    call = ledger.call()
    assert call.outcome == "invalid_output"
    assert [unit["cost_status"] for unit in call.units] == ["unknown"]


def test_a_page_of_html_is_invalid_output_of_nobodys_cost(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("html")
    assert isinstance(chat(oai), str), "the SDK hands the page over as text"

    assert (ledger.call().outcome, ledger.call().units) == ("invalid_output", [])


def test_an_answer_that_does_not_validate_was_billed(ledger: Any, provider: Provider, oai: Any) -> None:
    class Strict(pydantic.BaseModel):
        place: str = pydantic.Field(pattern="^never$")

    with pytest.raises(pydantic.ValidationError):
        oai.chat.completions.parse(model=GPT, messages=HELLO, response_format=Strict)

    call = ledger.call()
    assert (call.outcome, call.attributes["exception.type"]) == ("invalid_output", "ValidationError")
    assert call.units[0]["cost_usd"] == provider.invoice()["items"][0]["usd"]


async def test_a_cancelled_call_is_cancelled(ledger: Any, provider: Provider, async_oai: Any) -> None:
    provider.script("hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await chat(async_oai)

    assert (ledger.call().outcome, ledger.call().attributes["exception.type"]) == ("cancelled", "CancelledError")
    assert ledger.attempts()[0].attributes["tallystick.attempt.outcome"] == "cancelled"


def test_a_fallback_to_the_other_provider_is_two_calls_with_their_own_providers(
    ledger: Any, provider: Provider, oai: Any, ant: Any
) -> None:
    provider.script("529,529,529", provider="anthropic")
    try:
        message(ant)
    except anthropic.APIStatusError:
        chat(oai)

    failed, answered = ledger.calls()
    assert (failed.attributes["gen_ai.provider.name"], failed.outcome) == ("anthropic", "overloaded")
    assert (answered.attributes["gen_ai.provider.name"], answered.outcome) == ("openai", "ok")
    assert failed.attributes["tallystick.attempts"] == 3
