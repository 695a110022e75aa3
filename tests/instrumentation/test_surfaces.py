"""Every surface that costs something: clouds, pictures, sound, batches, background; on the ledger as it is billed."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from fakes.provider import Provider
from tallystick.instrumentation._hooks import Hooks
from tallystick.instrumentation._settings import Settings
from tallystick.model.providers import provider_of

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
KEY = "sk-canary-0123456789abcdef-last"
HELLO: Any = [{"role": "user", "content": "Where is my parcel? I have waited for a week."}]
RECORDING = ("parcel.mp3", bytes(2_000))
PICTURE = ("parcel.png", bytes(2_000))


def bills(ledger: Any) -> dict[str, Decimal]:
    """What each unit costs, once: as the collector counts, by provider and id."""
    return {
        f"{unit['provider']} {unit['id'] or at}": Decimal(unit["cost_usd"])
        for at, unit in enumerate(unit for call in ledger.calls() for unit in call.units)
    }


def check(ledger: Any, provider: Provider, status: str = "exact") -> Any:
    """The one call's one unit is the invoice's one item, to the last digit."""
    call = ledger.call()
    [item] = provider.invoice()["items"]
    [unit] = call.units
    assert call.outcome == "ok"
    assert (unit["provider"], unit["cost_status"]) == (item["provider"], status)
    assert Decimal(unit["cost_usd"]) == Decimal(item["usd"]) > 0
    assert len(ledger.attempts()) == call.attributes["tallystick.attempts"] == 1
    return call


# Clouds ---------------------------------------------------------------------------------------------------------------

DEPLOYMENT = "parcels--gpt-4o-mini"


def azure(provider: Provider) -> Any:
    return openai.AzureOpenAI(azure_endpoint=f"{provider.url}/azure", api_key=KEY, api_version="2024-10-21")


AZURE: dict[str, Callable[[Any], Any]] = {
    "chat": lambda c: c.chat.completions.create(model=DEPLOYMENT, messages=HELLO),
    "chat-stream-usage": lambda c: list(
        c.chat.completions.create(model=DEPLOYMENT, messages=HELLO, stream=True, stream_options={"include_usage": True})
    ),
    "embeddings": lambda c: c.embeddings.create(model="parcels--text-embedding-3-small", input="a parcel"),
}


@pytest.mark.parametrize("shape", AZURE)
def test_azure_is_billed_by_the_model_behind_the_deployment(shape: str, ledger: Any, provider: Provider) -> None:
    with azure(provider) as client:
        AZURE[shape](client)

    call = check(ledger, provider)
    assert call.attributes["gen_ai.request.model"].startswith("parcels--")
    assert call.attributes["gen_ai.provider.name"] == "azure.ai.openai"


async def test_azure_async(ledger: Any, provider: Provider) -> None:
    client = openai.AsyncAzureOpenAI(azure_endpoint=f"{provider.url}/azure", api_key=KEY, api_version="2024-10-21")
    async with client:
        await client.chat.completions.create(model=DEPLOYMENT, messages=HELLO)

    check(ledger, provider)


def test_an_azure_stream_without_usage_is_estimated_and_nothing_is_added_to_the_request(
    ledger: Any, provider: Provider
) -> None:
    with azure(provider) as client:
        list(client.chat.completions.create(model=DEPLOYMENT, messages=HELLO, stream=True))

    assert ledger.call().units[0]["cost_status"] == "estimated"
    assert "stream_options" not in provider.requests()[0]["body"], "some deployments refuse it"


def bedrock(provider: Provider, kind: Any = None) -> Any:
    pytest.importorskip("boto3", reason="absent: the SDK signs with it")
    keys = {"aws_access_key": "AKIAEXAMPLE", "aws_secret_key": "example", "aws_region": "us-east-1"}
    return (kind or anthropic.AnthropicBedrock)(base_url=f"{provider.url}/bedrock", **keys)


def vertex(provider: Provider, kind: Any = None, region: str = "global") -> Any:
    return (kind or anthropic.AnthropicVertex)(
        base_url=f"{provider.url}/vertex/v1", region=region, project_id="parcels", access_token=KEY
    )


def foundry(provider: Provider, kind: Any = None) -> Any:
    return (kind or anthropic.AnthropicFoundry)(base_url=f"{provider.url}/foundry", api_key=KEY)


CLOUDS: dict[str, tuple[Callable[[Provider], Any], str]] = {
    "bedrock-global": (bedrock, "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
    "bedrock-regional": (bedrock, "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
    "vertex-global": (vertex, "claude-haiku-4-5@20251001"),
    "vertex-regional": (lambda provider: vertex(provider, region="us-east5"), "claude-haiku-4-5@20251001"),
    "foundry": (foundry, "claude-haiku-4-5"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_claude_in_a_cloud_is_billed_by_the_cloud(cloud: str, stream: bool, ledger: Any, provider: Provider) -> None:
    make, model = CLOUDS[cloud]
    with make(provider) as client:
        answer = client.messages.create(model=model, max_tokens=200, messages=HELLO, stream=stream)
        if stream:
            list(answer)

    call = check(ledger, provider)
    assert call.units[0]["usage"] == provider.invoice()["items"][0]["usage"]
    assert call.units[0]["id"] == provider.invoice()["items"][0]["id"]
    assert call.attributes["gen_ai.request.model"] == model


@pytest.mark.parametrize("cloud", ["bedrock", "vertex", "foundry"])
async def test_claude_in_a_cloud_async_stream(cloud: str, ledger: Any, provider: Provider) -> None:
    made: dict[str, Callable[[], Any]] = {
        "bedrock": lambda: bedrock(provider, anthropic.AsyncAnthropicBedrock),
        "vertex": lambda: vertex(provider, anthropic.AsyncAnthropicVertex),
        "foundry": lambda: foundry(provider, anthropic.AsyncAnthropicFoundry),
    }
    model = "global.anthropic.claude-haiku-4-5-20251001-v1:0" if cloud == "bedrock" else CLAUDE
    async with made[cloud]() as client:
        async for _ in await client.messages.create(model=model, max_tokens=200, messages=HELLO, stream=True):
            pass

    check(ledger, provider)


def test_a_bedrock_stream_that_is_throttled_under_way_is_rate_limited(ledger: Any, provider: Provider) -> None:
    provider.script("sse-error:after=4")
    with bedrock(provider) as client:
        model = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
        stream = client.messages.create(model=model, max_tokens=200, messages=HELLO, stream=True)
        try:
            list(stream)
        except Exception as error:  # noqa: BLE001 -- which one, if any, differs by SDK
            assert "verloaded" in str(error)

    call = ledger.call()
    assert (call.outcome, call.attributes["tallystick.error.code"]) == ("rate_limited", "throttlingException")
    assert call.units[0]["estimated"]


@pytest.mark.parametrize(
    ("base_url", "biller"),
    [
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("https://bedrock-mantle.us-east-1.api.aws/v1", "aws.bedrock"),
        ("https://us-east5-aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://aiplatform.eu.rep.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://parcels.openai.azure.com/openai", "azure.ai.openai"),
        ("https://parcels.services.ai.azure.com/anthropic/", "azure.ai.inference"),
        ("https://lambda.us-east-1.amazonaws.com", "lambda.us-east-1.amazonaws.com"),
    ],
)
def test_the_real_hosts_of_clouds_are_who_bills(base_url: str, biller: str) -> None:
    assert provider_of(base_url) == biller


def test_a_gateway_hides_the_region_so_the_client_tells_it(tmp_path: Any) -> None:
    settings = Settings(
        service="shop",
        environment=None,
        collector="http://127.0.0.1:1",
        spool=tmp_path,
        providers={"llm.example": "gcp.vertex_ai"},
    )
    hooks = Hooks(settings, None, None)  # type: ignore[arg-type] -- no span is made here

    assert hooks._place("https://llm.example/v1", "us-east5").params == {"region": "us-east5"}
    real = hooks._place("https://us-east5-aiplatform.googleapis.com/v1", "us-east5")
    assert (real.provider, real.params["region"]) == ("gcp.vertex_ai", "us-east5")
    assert real.params["base_url"] == "https://us-east5-aiplatform.googleapis.com/v1"


# Pictures and sound ---------------------------------------------------------------------------------------------------

MEDIA: dict[str, Callable[[Any], Any]] = {
    "images": lambda c: c.images.generate(model="gpt-image-1", prompt="a parcel", n=2),
    "images-stream": lambda c: list(c.images.generate(model="gpt-image-1", prompt="a parcel", stream=True)),
    "images-edit": lambda c: c.images.edit(model="gpt-image-1", prompt="a red parcel", image=PICTURE),
    "images-edit-stream": lambda c: list(
        c.images.edit(model="gpt-image-1", prompt="a red parcel", image=PICTURE, stream=True)
    ),
    "transcription-tokens": lambda c: c.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=RECORDING),
    "transcription-stream": lambda c: list(
        c.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=RECORDING, stream=True)
    ),
    "transcription-duration": lambda c: c.audio.transcriptions.create(model="whisper-1", file=RECORDING),
    "transcription-verbose": lambda c: c.audio.transcriptions.create(
        model="whisper-1", file=RECORDING, response_format="verbose_json"
    ),
    "translation": lambda c: c.audio.translations.create(
        model="whisper-1", file=RECORDING, response_format="verbose_json"
    ),
    "speech": lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="Your parcel is on its way.").read(),
    "speech-chunks": lambda c: spoken(c, model="tts-1"),
    "speech-events": lambda c: spoken(c, model="gpt-4o-mini-tts", stream_format="sse"),
}


def spoken(client: Any, **more: Any) -> bytes:
    with client.audio.speech.with_streaming_response.create(voice="alloy", input="Your parcel!", **more) as response:
        return b"".join(response.iter_bytes())


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # openai's own, of translations
@pytest.mark.parametrize("shape", MEDIA)
def test_pictures_and_sound(shape: str, ledger: Any, provider: Provider, oai: Any) -> None:
    MEDIA[shape](oai)

    check(ledger, provider)


async def test_pictures_and_sound_async(ledger: Any, provider: Provider, async_oai: Any) -> None:
    await async_oai.images.generate(model="gpt-image-1", prompt="a parcel")
    await async_oai.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=RECORDING)
    await async_oai.audio.speech.create(model="tts-1", voice="alloy", input="Your parcel is on its way.")

    assert sum(bills(ledger).values()) == Decimal(provider.invoice()["total_usd"])
    assert [call.outcome for call in ledger.calls()] == ["ok"] * 3


def test_a_transcription_as_plain_text_says_no_usage_and_is_unknown(ledger: Any, provider: Provider, oai: Any) -> None:
    assert "parcel" in str(oai.audio.transcriptions.create(model="whisper-1", file=RECORDING, response_format="text"))

    call = ledger.call()
    assert call.outcome == "ok"
    assert (call.units[0]["cost_usd"], call.units[0]["cost_status"]) == (None, "unknown")


def test_what_says_nothing_of_its_price_is_unknown_and_never_zero(ledger: Any, oai: Any) -> None:
    oai.images.generate(model="dall-e-3", prompt="a parcel")

    call = ledger.call()
    assert call.outcome == "ok"
    assert [(unit["cost_usd"], unit["cost_status"]) for unit in call.units] == [(None, "unknown")]
    assert call.attributes["tallystick.cost.status"] == "unknown"


def test_a_picture_stream_that_is_cut_is_unknown_because_pictures_cannot_be_guessed(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    provider.script("cut:after=1")
    stream = oai.images.generate(model="gpt-image-1", prompt="a parcel", stream=True)
    with pytest.raises(Exception):  # noqa: B017 -- which one differs by SDK
        list(stream)

    call = ledger.call()
    assert call.outcome == "stream_interrupted"
    assert (call.units[0]["usage"], call.units[0]["cost_status"]) == (None, "unknown")


def test_moderation_and_counting_are_calls_that_cost_nothing(ledger: Any, oai: Any) -> None:
    oai.moderations.create(model="omni-moderation-latest", input="a parcel")
    oai.responses.input_tokens.count(model=GPT, input="a parcel")

    operations = [call.attributes["gen_ai.operation.name"] for call in ledger.calls()]
    assert operations == ["moderation", "count_tokens"]
    assert [call.units for call in ledger.calls()] == [[], []]


# Batches --------------------------------------------------------------------------------------------------------------


def batches(client: Any) -> Any:
    """Batches were a beta once."""
    return client.messages.batches if hasattr(client.messages, "batches") else client.beta.messages.batches


def batch_of(client: Any, requests: int = 3) -> str:
    asked: list[Any] = [
        {"custom_id": f"parcel-{n}", "params": {"model": CLAUDE, "max_tokens": 100, "messages": HELLO}}
        for n in range(requests)
    ]
    asked.append({"custom_id": "broken", "params": {"model": CLAUDE, "messages": HELLO}})
    return str(batches(client).create(requests=asked).id)


def test_each_message_of_a_batch_is_a_unit_at_half_price(ledger: Any, provider: Provider, ant: Any) -> None:
    batch = batch_of(ant)
    results = list(batches(ant).results(batch))

    assert [result.result.type for result in results] == ["succeeded"] * 3 + ["errored"]
    call = ledger.call()
    items = {item["id"]: Decimal(item["usd"]) for item in provider.invoice()["items"]}
    assert {unit["id"]: Decimal(unit["cost_usd"]) for unit in call.units} == items
    assert {unit["cost_status"] for unit in call.units} == {"exact"}
    assert call.outcome == "ok"
    assert "gen_ai.usage.cost.amount" not in call.attributes, "who sums over spans would count it at each reading"


def test_results_that_are_read_again_are_the_same_units(ledger: Any, provider: Provider, ant: Any) -> None:
    batch = batch_of(ant)
    for _ in range(2):
        list(batches(ant).results(batch))

    first, second = ledger.calls()
    assert [unit["id"] for unit in first.units] == [unit["id"] for unit in second.units]
    assert sum(bills(ledger).values()) == Decimal(provider.invoice()["total_usd"])


async def test_results_async_and_left_early_keep_what_was_read(ledger: Any, async_ant: Any) -> None:
    asked: Any = [
        {"custom_id": f"parcel-{n}", "params": {"model": CLAUDE, "max_tokens": 100, "messages": HELLO}}
        for n in range(2)
    ]
    batch = await batches(async_ant).create(requests=asked)
    async for _ in await batches(async_ant).results(batch.id):
        pass

    assert [unit["cost_status"] for unit in ledger.call().units] == ["exact", "exact"]


def test_a_long_batch_goes_on_several_spans_and_none_is_lost(ledger: Any, provider: Provider, ant: Any) -> None:
    batch = batch_of(ant, requests=450)
    assert sum(1 for _ in batches(ant).results(batch)) == 451

    assert max(len(call.units) for call in ledger.calls()) <= 200
    assert sum(bills(ledger).values()) == Decimal(provider.invoice()["total_usd"])
    assert len(bills(ledger)) == 450
    *parts, whole = sorted(ledger.calls(), key=lambda call: call.end_ns)
    assert {(part.parent, part.trace) for part in parts} == {(whole.id, whole.trace)}, "as parts of one reading"


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_a_batch_of_openai_is_one_unit_once_it_has_ended(
    endpoint: Any, ledger: Any, provider: Provider, oai: Any
) -> None:
    asked = {"messages": HELLO} if "chat" in endpoint else {"input": "Where is my parcel?"}
    lines = "\n".join(json.dumps({"custom_id": str(n), "body": {"model": GPT, **asked}}) for n in range(3))
    file = oai.files.create(file=("batch.jsonl", lines.encode()), purpose="batch")
    batch = oai.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    seen = [oai.batches.retrieve(batch.id).status for _ in range(3)]

    assert seen == ["in_progress", "completed", "completed"]
    assert [len(call.units) for call in ledger.calls()] == [0, 1, 1]
    [total] = bills(ledger).values()
    assert total == Decimal(provider.invoice()["total_usd"])
    assert ledger.calls()[1].units[0]["params"]["batch"] is True


# The background -------------------------------------------------------------------------------------------------------


def test_a_background_response_is_a_unit_when_it_is_there_and_the_same_at_each_poll(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    provider.script("200:polls=2")
    queued = oai.responses.create(model=GPT, input="Where is my parcel?", background=True)
    polled = [oai.responses.retrieve(queued.id).status for _ in range(4)]

    assert (queued.status, polled) == ("queued", ["in_progress", "in_progress", "completed", "completed"])
    calls = ledger.calls()
    assert [len(call.units) for call in calls] == [0, 0, 0, 1, 1]
    assert [call.attributes["gen_ai.operation.name"] for call in calls] == ["chat", *["fetch_response"] * 4]
    assert {call.attributes["tallystick.attempts"] for call in calls} == {1}
    [item] = provider.invoice()["items"]
    assert bills(ledger) == {f"openai {item['id']}": Decimal(item["usd"])}


def test_a_response_that_is_fetched_again_has_the_id_of_its_first_telling(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    answered = oai.responses.create(model=GPT, input="Where is my parcel?")
    oai.responses.retrieve(answered.id)

    first, second = ledger.calls()
    assert first.units[0]["id"] == second.units[0]["id"] == answered.id
    assert "gen_ai.usage.input_tokens" in first.attributes
    assert "gen_ai.usage.input_tokens" not in second.attributes
    assert sum(bills(ledger).values()) == Decimal(provider.invoice()["total_usd"])


async def test_the_background_async(ledger: Any, provider: Provider, async_oai: Any) -> None:
    queued = await async_oai.responses.create(model=GPT, input="Where is my parcel?", background=True)
    await async_oai.responses.retrieve(queued.id)

    assert sum(bills(ledger).values()) == Decimal(provider.invoice()["total_usd"])


def test_a_compaction_is_billed_as_a_response(ledger: Any, provider: Provider, oai: Any) -> None:
    oai.responses.compact(model=GPT, input="Where is my parcel? I have waited for a week.")

    check(ledger, provider)
