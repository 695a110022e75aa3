"""However a stream ends, it is recorded once, with what was seen; what was not seen is estimated and marked."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import tallystick
from fakes.provider import Provider
from fakes.receiver import running_receiver

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Tell me a long story about a parcel, please, with every detail you know."}]


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, stream=True, **more)


def message(client: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=300, messages=HELLO, stream=True)


def response(client: Any) -> Any:
    return client.responses.create(model=GPT, input="Tell me a story.", stream=True)


STREAMS = [
    pytest.param("chat", id="chat"),
    pytest.param("messages", id="messages"),
    pytest.param("responses", id="responses"),
]
OPEN = {"chat": chat, "messages": message, "responses": response}


@pytest.fixture
def client(kind: str, oai: Any, ant: Any) -> Any:
    return ant if kind == "messages" else oai


@pytest.mark.parametrize("kind", STREAMS)
def test_read_to_its_end_it_is_exact_and_timed(kind: str, client: Any, ledger: Any, provider: Provider) -> None:
    events = list(OPEN[kind](client))

    call = ledger.call()
    assert (call.outcome, call.units[0]["estimated"]) == ("ok", False)
    assert call.units[0]["cost_usd"] == provider.invoice()["items"][0]["usd"]
    assert 0 < call.attributes["gen_ai.response.time_to_first_chunk"] <= (call.end_ns - call.start_ns) / 1e9
    assert call.attributes["tallystick.stream.chunks"] >= len(events)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("close", [True, False], ids=["closed", "dropped"])
def test_left_early_it_is_abandoned_and_estimated(
    kind: str, client: Any, close: bool, ledger: Any, provider: Provider
) -> None:
    provider.script("slow:body=0.01")
    stream = OPEN[kind](client)
    for n, _ in enumerate(stream):
        if n == 5:
            break
    if close:
        stream.close()
    del stream
    gc.collect()

    call = ledger.call()
    assert (call.outcome, call.status) == ("abandoned", 0)
    [unit] = call.units
    assert (unit["estimated"], unit["cost_status"]) == (True, "estimated")
    assert unit["usage"].get("input_tokens", unit["usage"].get("prompt_tokens")) > 0


@pytest.mark.parametrize("kind", STREAMS)
def test_never_read_it_is_abandoned_too(kind: str, client: Any, ledger: Any, provider: Provider) -> None:
    provider.script("slow:body=0.01")
    OPEN[kind](client).close()

    assert ledger.call().outcome == "abandoned"
    assert ledger.call().units[0]["estimated"]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("script", ["cut:after=5", "unterminated"])
def test_cut_or_ended_without_its_marker_it_is_interrupted(
    kind: str, script: str, client: Any, ledger: Any, provider: Provider
) -> None:
    provider.script(script)
    stream = OPEN[kind](client)
    try:
        list(stream)
    except Exception as error:  # noqa: BLE001 -- which one differs by SDK; a clean end raises none at all
        assert script.startswith("cut"), error

    call = ledger.call()
    # OpenAI's finish reason says that the answer was whole, though the marker is missing.
    ended = "ok" if (kind, script) == ("chat", "unterminated") else "stream_interrupted"
    assert call.outcome == ended
    assert len(call.units) == 1


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_an_error_in_the_stream_has_its_class(kind: str, client: Any, ledger: Any, provider: Provider) -> None:
    provider.script("sse-error:after=4")
    with pytest.raises((openai.APIError, anthropic.APIError)):
        list(OPEN[kind](client))

    call = ledger.call()
    assert call.outcome in {"overloaded", "server_error"}
    assert call.attributes["tallystick.error.code"]
    assert call.status == 2


def test_a_failed_response_raises_nothing_and_is_recorded(oai: Any, ledger: Any, provider: Provider) -> None:
    provider.script("failed")
    list(response(oai))

    assert ledger.call().outcome == "server_error"


def test_a_truncated_response_is_truncated(oai: Any, ledger: Any, provider: Provider) -> None:
    provider.script("truncated")
    list(response(oai))

    assert ledger.call().outcome == "truncated"
    assert ledger.call().units[0]["cost_usd"] == provider.invoice()["items"][0]["usd"]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("script", ["gzip", "crlf"])
def test_compressed_or_with_other_line_ends_it_is_read_as_well(
    kind: str, script: str, client: Any, ledger: Any, provider: Provider
) -> None:
    provider.script(script)
    list(OPEN[kind](client))

    assert ledger.call().outcome == "ok"
    assert ledger.call().units[0]["usage"] == provider.invoice()["items"][0]["usage"]


def test_an_exception_of_the_app_leaves_the_stream_abandoned(ant: Any, ledger: Any, provider: Provider) -> None:
    provider.script("slow:body=0.01")
    with pytest.raises(ZeroDivisionError), message(ant) as stream:
        next(iter(stream))
        raise ZeroDivisionError

    call = ledger.call()
    assert call.outcome == "abandoned"
    assert call.units[0]["usage"]["input_tokens"] == provider.invoice()["items"][0]["usage"]["input_tokens"], (
        "as billed"
    )


async def test_cancelled_while_it_is_read_it_is_cancelled(async_ant: Any, ledger: Any, provider: Provider) -> None:
    provider.script("slow:body=0.2")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            async for _ in await message(async_ant):
                pass

    assert ledger.call().outcome == "cancelled"
    assert ledger.call().units[0]["estimated"]


def test_the_app_sees_the_very_chunks_that_it_would_see_without_us(provider: Provider, tmp_path: Path) -> None:
    def seen() -> tuple[type, list[Any]]:
        with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:
            stream = chat(client)
            chunks = [chunk.model_dump(exclude={"id", "created"}) for chunk in stream]
            return type(stream), chunks

    bare = seen()
    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=tmp_path / "spool", providers=provider.mapping)
        instrumented = seen()
        tallystick.uninstrument()

    assert instrumented == bare
    assert all(chunk["choices"] for chunk in instrumented[1]), "the usage chunk that we asked for is not the app's"


def test_interleaved_streams_keep_apart(ant: Any, oai: Any, ledger: Any, provider: Provider) -> None:
    outer = message(ant)
    for n, _ in enumerate(outer):
        if n == 2:
            list(chat(oai))

    inner_call, outer_call = ledger.calls()
    bills = {item["id"]: item["usd"] for item in provider.invoice()["items"]}
    for call in (inner_call, outer_call):
        assert call.outcome == "ok"
        assert call.units[0]["cost_usd"] == bills[call.units[0]["id"]]
    assert inner_call.trace != outer_call.trace, "a stream that is being read is nobody's parent"


LEFT_OPEN = """
import sys
import tallystick
tallystick.instrument(providers={sys.argv[2]: "anthropic"})
import anthropic
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="k")
stream = client.messages.create(
    model="claude-haiku-4-5", max_tokens=300, stream=True, messages=[{"role": "user", "content": "hello"}])
next(iter(stream))
"""


def test_still_open_when_the_process_ends_it_is_recorded(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.script("slow:body=0.05")
    place = provider.anthropic_url.partition("://")[2]
    with running_receiver() as receiver:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", receiver.url)
        command = [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, provider.anthropic_url, place]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        names = [span.name for span in receiver.spans()]

    assert ended.stderr == ""
    assert "chat claude-haiku-4-5" in names
