"""The mock's pictures, sound, batches and websockets are read by the real SDK and are on its invoice."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from fakes.provider import Provider
from tallystick.mock.media_wire import PICTURE, SECONDS, TEXT, fields_of, parts_of

HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
RECORDING = ("parcel.mp3", bytes(100))


def usd(provider: Provider) -> list[Decimal]:
    return [Decimal(item["usd"]) for item in provider.invoice()["items"]]


def test_a_form_has_fields_and_files() -> None:
    kind = "multipart/form-data; boundary=b"
    field = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n\x00\xff\r\n--b--\r\n'

    assert parts_of(field + file, kind) == {"model": "whisper-1", "file": b"\x00\xff"}
    assert fields_of(field + file, kind) == {"model": "whisper-1", "file": 2}


def test_pictures_are_charged_by_what_was_read_and_written(gpt: OpenAI, provider: Provider) -> None:
    made = gpt.images.generate(model="gpt-image-1", prompt="a parcel", n=2)
    edited = gpt.images.edit(model="gpt-image-1", prompt="a parcel", image=("a.png", PICTURE))

    assert (made.usage.output_tokens, edited.usage.output_tokens) == (544, 272)
    assert usd(provider) == [Decimal("0.02177"), Decimal("0.01153")], "2x5 + 544x40; 2x5 + 64x10 + 272x40 a million"


def test_sound_is_charged_by_the_second_the_token_or_the_character(gpt: OpenAI, provider: Provider) -> None:
    assert gpt.audio.transcriptions.create(model="whisper-1", file=RECORDING).usage.seconds == SECONDS
    assert gpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=RECORDING).text == TEXT
    assert gpt.audio.speech.create(model="tts-1", voice="alloy", input="x" * 1000).content

    assert usd(provider) == [Decimal("0.0012"), Decimal("0.00077"), Decimal("0.015")]


@pytest.mark.parametrize("response_format", ["text", "srt"])
def test_a_transcription_as_text_says_nothing_else(gpt: OpenAI, response_format: Any) -> None:
    said = gpt.audio.transcriptions.create(model="whisper-1", file=RECORDING, response_format=response_format)

    assert said == TEXT


def test_a_batch_of_messages_is_charged_half(claude: Anthropic, provider: Provider) -> None:
    params: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": HELLO}
    whole = claude.messages.create(**params)
    batch = claude.messages.batches.create(
        requests=[{"custom_id": "a", "params": params}, {"custom_id": "b", "params": {"model": "x"}}]  # type: ignore[typeddict-item]
    )
    assert batch.processing_status == "in_progress"
    assert claude.messages.batches.retrieve(batch.id).processing_status == "ended"
    good, bad = claude.messages.batches.results(batch.id)

    assert (good.result.type, bad.result.type) == ("succeeded", "errored")
    assert good.result.message.content[0].text == whole.content[0].text
    full, half = usd(provider)
    assert half == full / 2


def test_a_batch_of_openai_is_under_way_once_and_then_tells_one_usage(gpt: OpenAI, provider: Provider) -> None:
    line = json.dumps({"custom_id": "a", "body": {"model": "gpt-4o-mini", "messages": HELLO}})
    file = gpt.files.create(file=("a.jsonl", f"{line}\n{line}".encode()), purpose="batch")
    batch = gpt.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    first, second = (gpt.batches.retrieve(batch.id) for _ in range(2))

    assert (first.status, first.usage, second.status) == ("in_progress", None, "completed")
    items = provider.invoice()["items"]
    assert [item["id"] for item in items] == [batch.id] * 2
    assert second.usage.input_tokens == sum(item["usage"]["prompt_tokens"] for item in items)


def test_a_compaction_and_a_count(gpt: OpenAI, provider: Provider) -> None:
    compacted = gpt.responses.compact(model="gpt-4o-mini", input="Where is my parcel?")
    counted = gpt.responses.input_tokens.count(model="gpt-4o-mini", input="Where is my parcel?")

    assert compacted.output[0].type == "compaction"
    assert counted.input_tokens == compacted.usage.input_tokens
    assert [item["id"] for item in provider.invoice()["items"]] == [compacted.id]


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")  # openai's way to connect
def test_a_realtime_session_answers_in_sound_and_is_charged_for_it(gpt: OpenAI, provider: Provider) -> None:
    with gpt.realtime.connect(model="gpt-realtime") as connection:
        assert connection.recv().session.model == "gpt-realtime"
        connection.response.create()
        events = [connection.recv()]
        while events[-1].type != "response.done":
            events.append(connection.recv())

    usage = events[-1].response.usage
    text, sound = usage.output_token_details.text_tokens, usage.output_token_details.audio_tokens
    assert usage.output_tokens == text + sound
    assert usd(provider) == [(16 * text + 64 * sound) / Decimal(1_000_000)]
