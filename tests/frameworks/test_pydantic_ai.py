"""pydantic-ai: agents over both SDKs, with structured output and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from fakes.provider import Provider
from frameworks.loop import run_async

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO = "Where is my parcel?"


class Parcel(BaseModel):
    place: str
    days: int


def openai(provider: Provider, *, responses: bool = False, **more: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OpenAIResponsesModel if responses else OpenAIChatModel
    return Agent(kind(GPT, provider=OpenAIProvider(base_url=provider.openai_url, api_key="k")), **more)


def anthropic(provider: Provider, **more: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    place = AnthropicProvider(base_url=provider.anthropic_url, api_key="k")
    return Agent(AnthropicModel(CLAUDE, provider=place), **more)


async def streamed(agent: Any) -> Any:
    async with agent.run_stream(HELLO) as result:
        return [text async for text in result.stream_text()]


def with_a_tool(agent: Any) -> Any:
    @agent.tool_plain
    def parcel_place(name: str) -> str:
        return "on the moon"

    return agent.run_sync(HELLO)


SHAPES: dict[str, tuple[Callable[[Provider], Any], int]] = {
    "openai run_sync": (lambda p: openai(p).run_sync(HELLO), 1),
    "openai run": (lambda p: run_async(openai(p).run(HELLO)), 1),
    "openai run_stream": (lambda p: run_async(streamed(openai(p))), 1),
    "openai structured": (lambda p: openai(p, output_type=Parcel).run_sync(HELLO), 1),
    "openai tool and answer": (lambda p: with_a_tool(openai(p)), 2),
    "openai responses": (lambda p: openai(p, responses=True).run_sync(HELLO), 1),
    "anthropic run_sync": (lambda p: anthropic(p).run_sync(HELLO), 1),
    "anthropic run_stream": (lambda p: run_async(streamed(anthropic(p))), 1),
    "anthropic structured": (lambda p: anthropic(p, output_type=Parcel).run_sync(HELLO), 1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pydantic_ai(shape: str, drive: Any) -> None:
    run, calls = SHAPES[shape]

    drive(run).check(calls)


def test_who_made_the_call_is_the_app_and_not_the_framework(drive: Any) -> None:
    [call] = drive(SHAPES["openai run_sync"][0]).calls

    assert call["tallystick.caller"].startswith(f"{__name__}:")
