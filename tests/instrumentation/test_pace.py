"""How fast a stream came, and the longest that the app had to wait for its next piece."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from fakes.provider import Provider

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
RATE, GAP = "tallystick.stream.tokens_per_second", "tallystick.stream.longest_gap_s"


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, stream=True, **more)


def message(client: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_slow_stream_shows_its_pace(ledger: Any, provider: Provider, oai: Any, ant: Any, sdk: str) -> None:
    provider.script("slow:body=0.03")
    list(chat(oai) if sdk == "openai" else message(ant))

    call = ledger.call()
    took_s = (call.end_ns - call.start_ns) / 1e9 - call.attributes["gen_ai.response.time_to_first_chunk"]
    tokens = call.attributes["gen_ai.usage.output_tokens"]
    assert call.attributes[GAP] >= 0.025
    assert call.attributes[RATE] == pytest.approx(tokens / took_s, rel=0.2)


async def test_an_async_stream_shows_its_pace(ledger: Any, provider: Provider, async_oai: Any) -> None:
    provider.script("slow:body=0.03")
    async for _ in await chat(async_oai):
        pass

    assert ledger.call().attributes[GAP] >= 0.025
    assert ledger.call().attributes[RATE] > 0


def test_an_app_that_takes_its_time_makes_no_gap(ledger: Any, provider: Provider, oai: Any) -> None:
    """What had come meanwhile was not waited for."""
    for n, _ in enumerate(chat(oai)):
        if n == 0:
            time.sleep(0.5)

    assert ledger.call().attributes[GAP] < 0.4


class Stalling(httpx2.SyncByteStream):
    """One event, then nothing until the client's patience is over."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Your"}}]}\n\n'
        time.sleep(0.2)
        raise httpx2.ReadTimeout("timed out")


def test_a_stream_that_stops_shows_how_long_it_was_waited_for(ledger: Any) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Stalling())

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = openai.OpenAI(api_key="k", http_client=http, max_retries=0)
        with pytest.raises(Exception, match="timed out"):
            list(chat(client))

    call = ledger.call()
    assert call.outcome == "timeout_read"
    assert call.attributes[GAP] >= 0.2
    assert RATE not in call.attributes


def test_a_stream_that_was_left_has_no_rate(ledger: Any, provider: Provider, ant: Any) -> None:
    stream = message(ant)
    next(iter(stream))
    stream.close()

    assert RATE not in ledger.call().attributes


def test_a_call_that_was_no_stream_has_no_pace(ledger: Any, oai: Any) -> None:
    oai.chat.completions.create(model=GPT, messages=HELLO)

    assert not {RATE, GAP} & set(ledger.call().attributes)
