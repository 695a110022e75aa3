"""Each response over a websocket is a call of its own, with the usage that the provider says there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest

import tallystick
from fakes.provider import Provider

pytest.importorskip("websockets")

# openai's way to connect, which websockets 17 would have otherwise.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")

GPT, REALTIME = "gpt-4o-mini", "gpt-realtime"
KEY = "sk-canary-0123456789abcdef-last"
SESSION: Any = {"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}}
QUESTION: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is my parcel?"}]}


def check(ledger: Any, provider: Provider) -> list[Any]:
    """The calls' units are the invoice's items, to the last digit."""
    calls: list[Any] = ledger.calls()
    items = {item["id"]: (item["provider"], Decimal(item["usd"])) for item in provider.invoice()["items"]}
    units = [unit for call in calls for unit in call.units]
    assert {unit["id"]: (unit["provider"], Decimal(unit["cost_usd"])) for unit in units} == items
    assert len(units) == len(items)
    assert {unit["cost_status"] for unit in units} == {"exact"}
    return calls


def addresses(provider: Provider) -> dict[str, str]:
    """Where a client finds the provider; openai before 3.0 asks for TLS unless it is told the websockets' own."""
    return {"base_url": provider.openai_url, "websocket_base_url": provider.openai_url.replace("http", "ws")}


@pytest.fixture
def oai(provider: Provider) -> Iterator[openai.OpenAI]:
    if not hasattr(openai.OpenAI, "realtime"):
        pytest.skip("absent: this SDK has no websockets")
    with openai.OpenAI(api_key=KEY, **addresses(provider)) as client:
        yield client


@pytest.fixture
async def async_oai(provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    if not hasattr(openai.AsyncOpenAI, "realtime"):
        pytest.skip("absent: this SDK has no websockets")
    async with openai.AsyncOpenAI(api_key=KEY, **addresses(provider)) as client:
        yield client


@contextmanager
def session(client: Any, model: str = REALTIME) -> Iterator[Any]:
    with client.realtime.connect(model=model) as connection:
        yield connection


@asynccontextmanager
async def session_async(client: Any) -> AsyncIterator[Any]:
    async with client.realtime.connect(model=REALTIME) as connection:
        yield connection


def until(connection: Any, kind: str) -> list[str]:
    """Receive events until one of ``kind``; return what they were."""
    seen = [connection.recv().type]
    while seen[-1] != kind:
        seen.append(connection.recv().type)
    return seen


async def until_async(connection: Any, kind: str) -> None:
    while (await connection.recv()).type != kind:
        pass


def ask(connection: Any) -> list[str]:
    connection.conversation.item.create(item=QUESTION)
    connection.response.create()
    return until(connection, "response.done")


# Realtime -------------------------------------------------------------------------------------------------------------


def test_each_realtime_response_is_a_call(ledger: Any, provider: Provider, oai: Any) -> None:
    with session(oai) as connection, tallystick.tags(feature="voice"):
        seen = ask(connection)
        ask(connection)

    first, second = check(ledger, provider)
    assert seen.count("response.output_audio.delta") > 1
    assert (first.outcome, first.status) == ("ok", 0)
    assert first.attributes["gen_ai.operation.name"] == "realtime"
    assert first.attributes["gen_ai.request.model"] == REALTIME
    assert first.attributes["gen_ai.provider.name"] == "openai"
    assert first.attributes["tallystick.feature"] == "voice"
    assert first.attributes["tallystick.key"].endswith(KEY[-4:])
    assert 0 < first.attributes["gen_ai.response.time_to_first_chunk"] <= (first.end_ns - first.start_ns) / 1e9
    assert second.start_ns >= first.end_ns


def test_speech_that_is_heard_is_a_unit_of_the_model_that_hears(ledger: Any, provider: Provider, oai: Any) -> None:
    with session(oai) as connection:
        connection.session.update(session=SESSION)
        connection.input_audio_buffer.commit()
        until(connection, "conversation.item.input_audio_transcription.completed")

    [call] = check(ledger, provider)
    assert call.attributes["gen_ai.operation.name"] == "transcription"
    assert call.units[0]["model"] == "gpt-4o-mini-transcribe"


async def test_realtime_async_and_a_wait_that_was_cancelled_ends_nothing(
    ledger: Any, provider: Provider, async_oai: Any
) -> None:
    async with session_async(async_oai) as connection:
        await until_async(connection, "session.created")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.recv(), 0.05)
        await connection.response.create()
        await until_async(connection, "response.done")

    [call] = check(ledger, provider)
    assert call.outcome == "ok"


def test_raw_messages_are_read_as_well_and_reach_the_app_as_they_are(ledger: Any, provider: Provider, oai: Any) -> None:
    with session(oai) as connection:
        connection.response.create()
        while b'"response.done"' not in (message := connection.recv_bytes()):
            pass

    assert isinstance(message, bytes)
    assert len(check(ledger, provider)) == 1


def test_a_session_that_is_closed_amid_a_response_is_abandoned_and_unknown(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    with session(oai) as connection:
        connection.response.create()
        until(connection, "response.output_audio.delta")

    [call] = ledger.calls()
    assert call.outcome == "abandoned"
    assert (call.units[0]["usage"], call.units[0]["cost_status"]) == (None, "unknown"), "sound cannot be estimated"


def test_a_session_that_said_nothing_is_no_call(ledger: Any, oai: Any) -> None:
    with session(oai) as connection:
        until(connection, "session.created")

    assert ledger.spans() == []


def test_azure_bills_for_its_own_sessions(ledger: Any, provider: Provider) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint=f"{provider.url}/azure",
        websocket_base_url=f"{provider.url.replace('http', 'ws')}/azure/openai",
        api_key=KEY,
        api_version="2024-10-01-preview",
    )
    with client, session(client) as connection:
        ask(connection)

    [call] = check(ledger, provider)
    assert call.attributes["gen_ai.provider.name"] == "azure.ai.openai"


# Responses ------------------------------------------------------------------------------------------------------------


def test_each_response_over_a_connection_is_a_call(ledger: Any, provider: Provider, oai: Any) -> None:
    with oai.responses.connect() as connection:
        for _ in range(2):
            connection.response.create(model=GPT, input="Where is my parcel?")
            until(connection, "response.completed")

    first, second = check(ledger, provider)
    assert (first.outcome, second.outcome) == ("ok", "ok")
    assert first.name == f"chat {GPT}"
    assert first.attributes["tallystick.stream.chunks"] > 5
    assert first.attributes["gen_ai.response.id"] != second.attributes["gen_ai.response.id"]


async def test_responses_over_a_connection_async(ledger: Any, provider: Provider, async_oai: Any) -> None:
    async with async_oai.responses.connect() as connection:
        await connection.response.create(model=GPT, input="Where is my parcel?")
        await until_async(connection, "response.completed")

    assert len(check(ledger, provider)) == 1


def test_a_connection_that_breaks_amid_a_response_leaves_it_interrupted_and_estimated(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    connect = oai.responses.connect
    with pytest.raises(Exception, match="1011"), connect() as connection:
        connection.response.create(model=GPT, input="Where is my parcel?", metadata={"mock": "hang-up"})
        until(connection, "response.completed")

    [call] = ledger.calls()
    assert call.outcome == "stream_interrupted"
    [unit] = call.units
    assert (unit["estimated"], unit["cost_status"]) == (True, "estimated")
    assert unit["usage"]["input_tokens"] > 1
    assert unit["usage"]["output_tokens"] > 1


def test_uninstrumented_connections_are_as_they_were(ledger: Any, provider: Provider, oai: Any) -> None:
    with session(oai) as connection:
        kind = type(connection)
        assert hasattr(vars(kind)["recv_bytes"], "__wrapped__")
        tallystick.uninstrument()
        assert not hasattr(vars(kind)["recv_bytes"], "__wrapped__")
        ask(connection)

    assert len(provider.invoice()["items"]) == 1


# Sessions that are billed by their time -------------------------------------------------------------------------------

LIVE: Any = {"model": "gpt-live-1"}


@pytest.fixture
def live(oai: Any) -> Iterator[Any]:
    if not hasattr(oai, "live"):
        pytest.skip("absent: this SDK has no live sessions")
    with oai.live.connect() as connection:
        yield connection


def bills(ledger: Any) -> dict[str, Decimal]:
    """What each unit costs, once: of tellings of a sum that grows, the last."""
    return {unit["id"]: Decimal(unit["cost_usd"]) for call in ledger.calls() for unit in call.units}


def invoice(provider: Provider) -> dict[str, Decimal]:
    return {item["id"]: Decimal(item["usd"]) for item in provider.invoice()["items"]}


def test_a_live_session_is_billed_by_its_time_which_is_told_as_a_sum(
    ledger: Any, provider: Provider, live: Any
) -> None:
    live.session.start(session=LIVE)
    for _ in range(2):
        live.session.commentary.append(content="It is on its way.", delegation_id=None)
        until(live, "session.usage.updated")
    live.session.close()
    until(live, "session.closed")

    [call] = check(ledger, provider)
    assert (call.outcome, call.attributes["gen_ai.operation.name"]) == ("ok", "live")
    assert call.attributes["gen_ai.response.model"] == "gpt-live-1"
    assert call.units[0]["usage"] == {"seconds": 120.0}


def test_what_a_live_session_asks_of_others_are_calls_of_their_own(ledger: Any, provider: Provider, live: Any) -> None:
    live.session.start(session=LIVE)
    live.send({"type": "response.create"})
    while live.recv().type != "response.event" or not provider.invoice()["items"]:
        pass
    live.send({"type": "decision.create"})
    until(live, "decision.event")
    live.session.close()
    until(live, "session.closed")

    calls = check(ledger, provider)
    assert {call.attributes["gen_ai.operation.name"] for call in calls} == {"chat", "decision", "live"}
    assert {call.outcome for call in calls} == {"ok"}


def test_a_live_session_that_is_left_keeps_the_time_that_was_told(ledger: Any, provider: Provider, oai: Any) -> None:
    if not hasattr(oai, "live"):
        pytest.skip("absent: this SDK has no live sessions")
    with oai.live.connect() as connection:
        connection.session.start(session=LIVE)
        connection.session.commentary.append(content="It is on its way.", delegation_id=None)
        until(connection, "session.usage.updated")

    [call] = ledger.calls()
    assert (call.outcome, call.units[0]["cost_status"]) == ("abandoned", "estimated")
    assert bills(ledger) == invoice(provider)


def test_who_watches_a_live_session_from_the_side_tells_the_same_unit(
    ledger: Any, provider: Provider, oai: Any, live: Any
) -> None:
    live.session.start(session=LIVE)
    session_id = live.recv().session.id
    for _ in range(2):
        live.session.commentary.append(content="It is on its way.", delegation_id=None)
    with oai.live.sideband.connect(session_id=session_id) as side:
        until(side, "session.closed")
    live.session.close()
    until(live, "session.closed")

    assert [call.units[0]["id"] for call in ledger.calls()] == [session_id] * 2
    assert bills(ledger) == invoice(provider)


def test_a_translation_is_billed_by_the_sound_that_was_sent(ledger: Any, provider: Provider, oai: Any) -> None:
    if not hasattr(oai.realtime, "translations"):
        pytest.skip("absent: this SDK has no translations")
    minute = base64.b64encode(bytes(2 * 24_000 * 6)).decode()
    with oai.realtime.translations.connect(model="gpt-realtime-translate") as connection:
        for _ in range(10):
            connection.session.input_audio_buffer.append(audio=minute)
        connection.session.close()
        until(connection, "session.closed")

    [call] = ledger.calls()
    assert (call.outcome, call.attributes["gen_ai.operation.name"]) == ("ok", "translation")
    assert call.units[0]["cost_status"] == "estimated", "the provider tells no time"
    assert list(bills(ledger).values()) == list(invoice(provider).values())


async def test_a_live_session_async(ledger: Any, provider: Provider, async_oai: Any) -> None:
    if not hasattr(async_oai, "live"):
        pytest.skip("absent: this SDK has no live sessions")
    async with async_oai.live.connect() as connection:
        await connection.session.start(session=LIVE)
        await connection.session.close()
        await until_async(connection, "session.closed")

    [call] = check(ledger, provider)
    assert call.outcome == "ok"
