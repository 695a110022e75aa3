"""The mock speaks OpenAI's APIs as the real SDK reads them."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from pydantic import BaseModel

from fakes.provider import Provider

HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
LONG: Any = [{"role": "user", "content": "A parcel that is late is sent again. " * 300}]
PARAMETERS = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


class Parcel(BaseModel):
    name: str
    weight_kg: float
    tags: list[str]


def test_a_chat_names_the_dated_model_and_its_usage(gpt: OpenAI) -> None:
    completion = gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

    assert completion.model == "gpt-4o-mini-2024-07-18"
    assert completion.service_tier == "default"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion._request_id is not None


def test_a_chat_stream_says_its_usage_only_when_asked(gpt: OpenAI) -> None:
    whole = gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

    silent = list(gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
    asked = list(
        gpt.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )

    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    assert asked[-1].choices == []
    assert asked[-1].usage == whole.usage
    assert "".join(chunk.choices[0].delta.content or "" for chunk in silent) == whole.choices[0].message.content


async def test_async_clients_get_answers_and_streams(async_gpt: AsyncOpenAI) -> None:
    whole = await async_gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

    text = ""
    async for chunk in await async_gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True):
        text += chunk.choices[0].delta.content or ""

    assert text == whole.choices[0].message.content
    response = await async_gpt.responses.create(model="gpt-5-mini", input="Hello")
    assert response.status == "completed"


def test_a_long_prompt_is_read_from_the_cache_the_second_time(gpt: OpenAI) -> None:
    first, second = (
        gpt.chat.completions.create(model="gpt-4o-mini", messages=LONG).usage.prompt_tokens_details.cached_tokens
        for _ in range(2)
    )

    assert first == 0
    assert second >= 1024
    assert second % 128 == 0


@pytest.mark.parametrize(
    ("model", "effort", "reasons"),
    [
        ("gpt-5-mini", None, True),
        ("gpt-5.4-mini", None, False),
        ("gpt-5.4-mini", "high", True),
        ("gpt-4o-mini", None, False),
    ],
)
def test_models_reason_as_they_would(gpt: OpenAI, model: str, effort: Any, reasons: bool) -> None:
    extra = {"reasoning_effort": effort} if effort else {}

    usage = gpt.chat.completions.create(model=model, messages=HELLO, **extra).usage

    reasoned = usage.completion_tokens_details.reasoning_tokens
    assert bool(reasoned) is reasons
    assert reasoned < usage.completion_tokens


def test_a_chat_calls_a_tool(gpt: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "find_order", "parameters": PARAMETERS}}]

    choice = gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO, tools=tools).choices[0]
    chunks = list(gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO, tools=tools, stream=True))

    assert choice.finish_reason == "tool_calls"
    arguments = choice.message.tool_calls[0].function.arguments
    assert arguments == '{"number":2}'
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in streamed) == arguments


def test_structured_output_parses(gpt: OpenAI) -> None:
    completion = gpt.chat.completions.parse(model="gpt-4o-mini", messages=HELLO, response_format=Parcel)
    response = gpt.responses.parse(model="gpt-4o-mini", input="Which parcel?", text_format=Parcel)

    assert isinstance(completion.choices[0].message.parsed, Parcel)
    assert isinstance(response.output_parsed, Parcel)


def test_several_choices_are_all_paid(gpt: OpenAI) -> None:
    one = gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    three = gpt.chat.completions.create(model="gpt-4o-mini", messages=HELLO, n=3)

    assert len(three.choices) == 3
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens


def test_a_response_streams_from_created_to_completed(gpt: OpenAI) -> None:
    whole = gpt.responses.create(model="gpt-5-mini", input="Hello")

    events = list(gpt.responses.create(model="gpt-5-mini", input="Hello", stream=True))

    assert [event.type for event in (events[0], events[-1])] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.usage == whole.usage
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == whole.output_text
    with gpt.responses.stream(model="gpt-5-mini", input="Hello") as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_a_response_that_does_not_fit_is_incomplete(gpt: OpenAI) -> None:
    response = gpt.responses.create(model="gpt-4o-mini", input="Hello", max_output_tokens=16)
    events = list(gpt.responses.create(model="gpt-4o-mini", input="Hello", max_output_tokens=16, stream=True))

    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 16
    assert events[-1].type == "response.incomplete"


def test_a_response_calls_a_function_and_searches_the_web(gpt: OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "find_order", "parameters": PARAMETERS}]
    called = gpt.responses.create(model="gpt-4o-mini", input="Hello", tools=tools)
    searched = gpt.responses.create(model="gpt-4o-mini", input="Hello", tools=[{"type": "web_search"}])

    assert called.output[-1].type == "function_call"
    assert searched.output[0].type == "web_search_call"
    assert searched.tool_usage.web_search.num_requests == 1


def test_a_background_response_tells_its_usage_when_it_is_fetched_and_is_billed_once(
    gpt: OpenAI, provider: Provider
) -> None:
    queued = gpt.responses.create(model="gpt-5-mini", input="Hello", background=True)
    fetched = [gpt.responses.retrieve(queued.id) for _ in range(2)]

    assert (queued.status, queued.usage) == ("queued", None)
    assert all(response.usage.output_tokens > 0 for response in fetched)
    assert [item["id"] for item in provider.invoice()["items"]] == [queued.id]
    with pytest.raises(NotFoundError):
        gpt.responses.retrieve("resp_none")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_vectors_of_the_size_that_was_asked(gpt: OpenAI, encoding: Any) -> None:
    answer = gpt.embeddings.create(
        model="text-embedding-3-small", input=["one parcel", "two parcels"], dimensions=256, encoding_format=encoding
    )

    assert len(answer.data) == 2
    if encoding == "float":
        assert [len(entry.embedding) for entry in answer.data] == [256, 256]
    assert answer.usage.prompt_tokens == 4


def test_embeddings_come_as_numbers_by_default(gpt: OpenAI) -> None:
    answer = gpt.embeddings.create(model="text-embedding-3-small", input="one parcel")

    assert len(answer.data[0].embedding) == 1536
    assert all(-1 <= number <= 1 for number in answer.data[0].embedding)


def test_the_old_completions_answer_and_stream(gpt: OpenAI) -> None:
    whole = gpt.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", max_tokens=12)
    chunks = list(gpt.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", max_tokens=12, stream=True))

    assert whole.usage.completion_tokens == 12
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_a_model_that_nobody_lists_is_answered_under_its_own_name(gpt: OpenAI, provider: Provider) -> None:
    answer = gpt.chat.completions.create(model="house-model-1", messages=HELLO)

    assert answer.model == "house-model-1"
    assert [item["usd"] for item in provider.invoice()["items"]] == [None]
    assert "house-model-1" in {model.id for model in gpt.models.list()}
