"""The mock speaks Anthropic's Messages as the real SDK reads them."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic, BadRequestError

from fakes.provider import Provider

MODEL = "claude-sonnet-5-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
HANDBOOK = "A parcel that is late is sent again. " * 300


def test_an_answer_has_text_usage_and_a_request_id(claude: Anthropic) -> None:
    message = claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO)

    assert message.content[0].type == "text"
    assert message.usage.output_tokens == len(message.content[0].text.split())
    assert message.usage.service_tier == "standard"
    assert message._request_id is not None
    assert message._request_id.startswith("req_")


def test_the_same_request_is_counted_the_same(claude: Anthropic) -> None:
    first, second = (claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO) for _ in range(2))

    assert first.usage == second.usage
    assert first.id != second.id


def test_a_stream_says_the_input_first_a_placeholder_of_output_and_the_total_last(claude: Anthropic) -> None:
    whole = claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO)

    events = list(claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO, stream=True))

    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop")
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens
    assert events[0].message.usage.output_tokens == 1
    assert events[-2].usage.output_tokens == whole.usage.output_tokens


def test_the_stream_helper_gathers_the_same_answer(claude: Anthropic) -> None:
    whole = claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO)

    with claude.messages.stream(model=MODEL, max_tokens=500, messages=HELLO) as stream:
        gathered = stream.get_final_message()

    assert gathered.content[0].text == whole.content[0].text
    assert gathered.usage.output_tokens == whole.usage.output_tokens


async def test_async_clients_get_answers_and_streams(async_claude: AsyncAnthropic) -> None:
    whole = await async_claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO)

    async with async_claude.messages.stream(model=MODEL, max_tokens=500, messages=HELLO) as stream:
        gathered = await stream.get_final_message()

    assert gathered.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize(("short", "full"), [("claude-opus-4-5", "claude-opus-4-5-20251101"), (MODEL, MODEL)])
def test_an_answer_names_the_dated_model_where_there_is_one(claude: Anthropic, short: str, full: str) -> None:
    assert claude.messages.create(model=short, max_tokens=100, messages=HELLO).model == full


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_a_marked_prefix_is_written_to_the_cache_once_and_then_read(claude: Anthropic, ttl: Any) -> None:
    system: Any = [{"type": "text", "text": HANDBOOK, "cache_control": {"type": "ephemeral", "ttl": ttl}}]

    first, second = (
        claude.messages.create(model=MODEL, max_tokens=100, system=system, messages=HELLO).usage for _ in range(2)
    )

    split = first.cache_creation
    assert split is not None
    written = {"5m": split.ephemeral_5m_input_tokens, "1h": split.ephemeral_1h_input_tokens}
    assert written[ttl] == first.cache_creation_input_tokens > 2000
    assert sum(written.values()) == written[ttl]
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, written[ttl])
    assert first.input_tokens == second.input_tokens < 50


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_a_part_of_the_output(claude: Anthropic, stream: bool) -> None:
    asked: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000, "messages": HELLO}
    if stream:
        with claude.messages.stream(model=MODEL, **asked) as streamed:
            message = streamed.get_final_message()
    else:
        message = claude.messages.create(model=MODEL, **asked)

    details = message.usage.output_tokens_details
    assert details is not None
    assert message.content[0].type == "thinking"
    assert 0 < details.thinking_tokens < message.usage.output_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_with_arguments_of_its_schema_and_then_answered(claude: Anthropic, stream: bool) -> None:
    schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
    tools: Any = [{"name": "find_order", "description": "Find an order.", "input_schema": schema}]
    asked: Any = {"model": MODEL, "max_tokens": 500, "tools": tools}
    if stream:
        with claude.messages.stream(messages=HELLO, **asked) as streamed:
            message = streamed.get_final_message()
    else:
        message = claude.messages.create(messages=HELLO, **asked)

    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.type == "tool_use"
    assert isinstance(call.input["number"], int)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "on its way"}
    turns: Any = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert claude.messages.create(messages=turns, **asked).stop_reason == "end_turn"


def test_a_web_search_is_counted_apart_from_tokens(claude: Anthropic) -> None:
    tools: Any = [{"type": "web_search_20250305", "name": "web_search"}]

    message = claude.messages.create(model=MODEL, max_tokens=500, messages=HELLO, tools=tools)

    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 1
    assert [block.type for block in message.content] == ["server_tool_use", "web_search_tool_result", "text"]


def test_an_answer_that_does_not_fit_is_truncated(claude: Anthropic) -> None:
    message = claude.messages.create(model=MODEL, max_tokens=5, messages=HELLO)

    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)


def test_counting_tokens_agrees_with_the_answer_and_bills_nobody(claude: Anthropic, provider: Provider) -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=HELLO)
    assert provider.invoice()["items"] == []

    assert claude.messages.create(model=MODEL, max_tokens=9, messages=HELLO).usage.input_tokens == counted.input_tokens


def test_a_request_that_lacks_something_is_refused_with_its_name(claude: Anthropic) -> None:
    with pytest.raises(BadRequestError, match="messages: Field required"):
        claude.messages.create(model=MODEL, max_tokens=5, messages=[])


def test_models_are_listed(claude: Anthropic) -> None:
    assert MODEL in {model.id for model in claude.models.list()}
