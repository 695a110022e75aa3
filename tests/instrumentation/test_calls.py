"""Every shape of a call is on the ledger once, and its units are what the provider billed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest

from fakes.provider import Provider
from tallystick.instrumentation import _tracing

GPT, CLAUDE, EMBEDDING = "gpt-4o-mini", "claude-haiku-4-5", "text-embedding-3-small"
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}
HELLO: Any = [{"role": "user", "content": "Where is my parcel? I have waited for a week."}]


class Parcel(pydantic.BaseModel):
    place: str
    days: int


def drain(stream: Any) -> list[Any]:
    return list(stream)


def helped(manager: Any) -> list[Any]:
    with manager as stream:
        return list(stream)


def lines(manager: Any) -> list[str]:
    with manager as response:
        return list(response.iter_lines())


def parsed_lately(manager: Any) -> Any:
    with manager as response:
        return response.parse()


OPENAI: dict[str, Callable[[Any], Any]] = {
    "chat": lambda c: c.chat.completions.create(model=GPT, messages=HELLO),
    "chat-stream": lambda c: drain(c.chat.completions.create(model=GPT, messages=HELLO, stream=True)),
    "chat-stream-usage": lambda c: drain(
        c.chat.completions.create(model=GPT, messages=HELLO, stream=True, stream_options={"include_usage": True})
    ),
    "chat-stream-helper": lambda c: helped(c.chat.completions.stream(model=GPT, messages=HELLO)),
    "chat-parse": lambda c: c.chat.completions.parse(model=GPT, messages=HELLO, response_format=Parcel),
    "chat-raw": lambda c: c.chat.completions.with_raw_response.create(model=GPT, messages=HELLO).parse(),
    "chat-raw-unparsed": lambda c: c.chat.completions.with_raw_response.create(model=GPT, messages=HELLO),
    "chat-raw-stream": lambda c: drain(
        c.chat.completions.with_raw_response.create(model=GPT, messages=HELLO, stream=True).parse()
    ),
    "chat-streaming-response": lambda c: parsed_lately(
        c.chat.completions.with_streaming_response.create(model=GPT, messages=HELLO)
    ),
    "chat-streaming-response-lines": lambda c: lines(
        c.chat.completions.with_streaming_response.create(
            model=GPT, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    ),
    "chat-untyped": lambda c: c.post("/chat/completions", cast_to=object, body={"model": GPT, "messages": HELLO}),
    "chat-with-options": lambda c: c.with_options(timeout=20).chat.completions.create(model=GPT, messages=HELLO),
    "responses": lambda c: c.responses.create(model=GPT, input="Where is my parcel?"),
    "responses-stream": lambda c: drain(c.responses.create(model=GPT, input="Where is my parcel?", stream=True)),
    "responses-stream-helper": lambda c: helped(c.responses.stream(model=GPT, input="Where is my parcel?")),
    "responses-parse": lambda c: c.responses.parse(model=GPT, input="Where?", text_format=Parcel),
    "completions": lambda c: c.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Where is it?", max_tokens=300
    ),
    "completions-stream": lambda c: drain(
        c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Where is it?", max_tokens=300, stream=True)
    ),
    "embeddings": lambda c: c.embeddings.create(model=EMBEDDING, input=["a parcel", "a house"]),
    "embeddings-floats": lambda c: c.embeddings.create(model=EMBEDDING, input="a parcel", encoding_format="float"),
}

ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "messages": lambda c: c.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO),
    "messages-stream": lambda c: drain(c.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True)),
    "messages-stream-helper": lambda c: helped(c.messages.stream(model=CLAUDE, max_tokens=200, messages=HELLO)),
    "messages-raw": lambda c: c.messages.with_raw_response.create(model=CLAUDE, max_tokens=200, messages=HELLO).parse(),
    "messages-raw-unparsed": lambda c: c.messages.with_raw_response.create(
        model=CLAUDE, max_tokens=200, messages=HELLO
    ),
    "messages-raw-stream": lambda c: drain(
        c.messages.with_raw_response.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True).parse()
    ),
    "messages-streaming-response": lambda c: parsed_lately(
        c.messages.with_streaming_response.create(model=CLAUDE, max_tokens=200, messages=HELLO)
    ),
    "messages-streaming-response-lines": lambda c: lines(
        c.messages.with_streaming_response.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True)
    ),
    "messages-untyped": lambda c: c.post(
        "/v1/messages", cast_to=object, body={"model": CLAUDE, "max_tokens": 200, "messages": HELLO}
    ),
    "beta-messages": lambda c: c.beta.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO),
    "beta-messages-stream": lambda c: helped(c.beta.messages.stream(model=CLAUDE, max_tokens=200, messages=HELLO)),
    "messages-cache": lambda c: c.messages.create(
        model=CLAUDE,
        max_tokens=200,
        messages=HELLO,
        system=[{"type": "text", "text": "the rules of the house " * 400, "cache_control": ONE_HOUR}],
    ),
    "messages-thinking": lambda c: c.messages.create(
        model=CLAUDE, max_tokens=4000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 1024}
    ),
}  # fmt: skip


def check(ledger: Any, provider: Provider) -> None:
    """The one call has the one unit that the provider billed, priced to the last digit."""
    call = ledger.call()
    [item] = provider.invoice()["items"]
    [unit] = call.units
    assert call.outcome == "ok"
    assert (unit["id"] or item["id"]) == item["id"]
    assert (unit["provider"], unit["model"], unit["estimated"]) == (item["provider"], item["model"], False)
    assert unit["usage"] == item["usage"]
    assert Decimal(unit["cost_usd"]) == Decimal(item["usd"])
    assert unit["cost_status"] == "exact"
    [attempt] = ledger.attempts()
    assert (attempt.parent, attempt.trace) == (call.id, call.trace)
    assert attempt.attributes["http.response.status_code"] == 200
    assert call.start_ns <= attempt.start_ns <= attempt.end_ns <= call.end_ns
    assert call.attributes["tallystick.attempts"] == 1


@pytest.mark.parametrize("shape", OPENAI)
def test_openai(shape: str, ledger: Any, provider: Provider, oai: Any) -> None:
    OPENAI[shape](oai)

    check(ledger, provider)


@pytest.mark.parametrize("shape", ANTHROPIC)
def test_anthropic(shape: str, ledger: Any, provider: Provider, ant: Any) -> None:
    ANTHROPIC[shape](ant)

    check(ledger, provider)


async def drained(awaited: Any) -> list[Any]:
    return [item async for item in await awaited]


async def helped_async(manager: Any) -> list[Any]:
    async with manager as stream:
        return [item async for item in stream]


ASYNC_OPENAI: dict[str, Callable[[Any], Any]] = {
    "chat": lambda c: c.chat.completions.create(model=GPT, messages=HELLO),
    "chat-stream": lambda c: drained(c.chat.completions.create(model=GPT, messages=HELLO, stream=True)),
    "chat-stream-helper": lambda c: helped_async(c.chat.completions.stream(model=GPT, messages=HELLO)),
    "chat-parse": lambda c: c.chat.completions.parse(model=GPT, messages=HELLO, response_format=Parcel),
    "responses": lambda c: c.responses.create(model=GPT, input="Where is my parcel?"),
    "responses-stream": lambda c: drained(c.responses.create(model=GPT, input="Where is my parcel?", stream=True)),
    "embeddings": lambda c: c.embeddings.create(model=EMBEDDING, input="a parcel"),
}

ASYNC_ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "messages": lambda c: c.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO),
    "messages-stream": lambda c: drained(c.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True)),
    "messages-stream-helper": lambda c: helped_async(c.messages.stream(model=CLAUDE, max_tokens=200, messages=HELLO)),
    "messages-raw": lambda c: c.messages.with_raw_response.create(model=CLAUDE, max_tokens=200, messages=HELLO),
}


@pytest.mark.parametrize("shape", ASYNC_OPENAI)
async def test_async_openai(shape: str, ledger: Any, provider: Provider, async_oai: Any) -> None:
    await ASYNC_OPENAI[shape](async_oai)

    check(ledger, provider)


@pytest.mark.parametrize("shape", ASYNC_ANTHROPIC)
async def test_async_anthropic(shape: str, ledger: Any, provider: Provider, async_ant: Any) -> None:
    await ASYNC_ANTHROPIC[shape](async_ant)

    check(ledger, provider)


def test_counting_tokens_is_a_call_without_a_unit(ledger: Any, ant: Any) -> None:
    ant.messages.count_tokens(model=CLAUDE, messages=HELLO)

    assert ledger.call().attributes["gen_ai.operation.name"] == "count_tokens"
    assert ledger.call().units == []


def test_other_requests_of_the_sdk_are_no_calls(ledger: Any, oai: Any) -> None:
    oai.models.list()

    assert ledger.spans() == []


def test_a_model_without_a_price_is_unknown_and_never_zero(ledger: Any, provider: Provider, oai: Any) -> None:
    oai.chat.completions.create(model="house-model-1", messages=HELLO)

    [unit] = ledger.call().units
    assert (unit["cost_usd"], unit["cost_status"]) == (None, "unknown")
    assert unit["usage"] == provider.invoice()["items"][0]["usage"]
    assert "gen_ai.usage.cost.amount" not in ledger.call().attributes


def test_the_span_says_what_the_conventions_ask_for(ledger: Any, ant: Any) -> None:
    ant.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO)

    said = ledger.call().attributes
    assert ledger.call().name == f"chat {CLAUDE}"
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "anthropic"
    assert (said["gen_ai.request.model"], said["gen_ai.request.max_tokens"]) == (CLAUDE, 200)
    assert said["gen_ai.response.model"] == "claude-haiku-4-5-20251001"
    assert said["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.usage.output_tokens"] > 0
    assert said["server.address"] == "127.0.0.1"
    assert said["tallystick.caller"] == f"{__name__}:test_the_span_says_what_the_conventions_ask_for"


def test_no_prompt_no_answer_and_no_key_is_in_what_is_sent(ledger: Any, provider: Provider, oai: Any, ant: Any) -> None:
    secret = "canary-of-the-prompt"
    for shape in ("chat", "chat-stream"):
        OPENAI[shape](oai)
    answer = ant.messages.create(
        model=CLAUDE, max_tokens=200, system=secret, messages=[{"role": "user", "content": secret}]
    )
    provider.script("400", provider="openai")
    with pytest.raises(Exception, match="400"):
        oai.chat.completions.create(model=GPT, messages=[{"role": "user", "content": secret}])

    sent = repr(ledger.spans())
    assert secret not in sent
    assert answer.content[0].text not in sent
    assert oai.api_key not in sent
    assert oai.api_key[-4:] in sent, "the fingerprint ends with the key's last four"


@pytest.mark.swallows
def test_a_call_that_a_fault_of_ours_keeps_off_the_ledger_is_missed(
    oai: Any, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    oai.chat.completions.create(model=GPT, messages=HELLO)
    with monkeypatch.context() as broken:
        broken.setattr(_tracing, "encode_request", lambda *_: 1 / 0)
        oai.chat.completions.create(model=GPT, messages=HELLO)
    oai.chat.completions.create(model=GPT, messages=HELLO)

    told = [call.attributes.get("tallystick.finished.calls", 1) for call in ledger.calls()]
    assert told == [1, 2], "three have finished, two are here"
