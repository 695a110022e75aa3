"""The mock passes its wires on as clouds do, and charges as they charge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from fakes.provider import Provider
from tallystick.mock.answers import Frame
from tallystick.mock.clouds import factor_of, model_of

GLOBAL = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (GLOBAL, "claude-haiku-4-5-20251001"),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5-20251001"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5-20251001"),
        ("parcels--gpt-4.1-mini", "gpt-4.1-mini"),
        ("gpt-4o-mini", "gpt-4o-mini"),
    ],
)
def test_the_model_behind_a_clouds_name(name: str, model: str) -> None:
    assert model_of(name) == model


def test_regions_cost_a_tenth_more_and_global_endpoints_do_not() -> None:
    assert factor_of("aws.bedrock", {"model": GLOBAL}) == factor_of("gcp.vertex_ai", {"region": "global"}) == "1"
    assert factor_of("aws.bedrock", {"model": "us.anthropic.x-v1:0"}) == "1.1"
    assert factor_of("gcp.vertex_ai", {"region": "us-east5"}) == "1.1"
    assert factor_of("azure.ai.openai", {"model": "x"}) == factor_of(None, {}) == "1"


@pytest.fixture
def bedrock(provider: Provider) -> Iterator[anthropic.AnthropicBedrock]:
    url = f"{provider.url}/bedrock"
    with anthropic.AnthropicBedrock(
        base_url=url, aws_access_key="AKIAEXAMPLE", aws_secret_key="example", aws_region="us-east-1"
    ) as client:
        yield client


def test_bedrock_streams_what_it_answers(bedrock: anthropic.AnthropicBedrock, provider: Provider) -> None:
    whole = bedrock.messages.create(model=GLOBAL, max_tokens=200, messages=HELLO)
    events = list(bedrock.messages.create(model=GLOBAL, max_tokens=200, messages=HELLO, stream=True))

    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    assert {item["provider"] for item in provider.invoice()["items"]} == {"aws.bedrock"}


def test_botocore_reads_the_binary_stream_and_its_checksums() -> None:
    from botocore.eventstream import ChecksumMismatch, EventStreamBuffer

    packed = Frame("message_stop", {"type": "message_stop"}, 0).packed()
    whole, broken = EventStreamBuffer(), EventStreamBuffer()
    whole.add_data(packed)
    broken.add_data(packed[:-9] + b"x" + packed[-8:])

    assert next(whole).headers[":event-type"] == "chunk"
    with pytest.raises(ChecksumMismatch):
        next(broken)


def test_a_deployment_of_azure_is_answered_by_its_model(provider: Provider) -> None:
    with openai.AzureOpenAI(azure_endpoint=f"{provider.url}/azure", api_key="any", api_version="2024-10-21") as client:
        answer = client.chat.completions.create(model="parcels--gpt-4o-mini", messages=HELLO)

    assert answer.model == "gpt-4o-mini-2024-07-18"
    [item] = provider.invoice()["items"]
    assert (item["provider"], item["id"]) == ("azure.ai.openai", answer.id)
    assert item["usd"] is not None
