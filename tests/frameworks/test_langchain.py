"""langchain-openai and langchain-anthropic: every way to run a chat model."""

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
    """Where a parcel is."""

    place: str
    days: int


def openai(provider: Provider, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=GPT, base_url=provider.openai_url, api_key="k", **more)


def anthropic(provider: Provider, **more: Any) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model=CLAUDE, base_url=provider.anthropic_url, api_key="k", max_tokens=200, **more)


def embeddings(provider: Provider) -> Any:
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=provider.openai_url, api_key="k", check_embedding_ctx_length=False
    )


async def drained(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def fallen_back(provider: Provider) -> Any:
    provider.script("529,529,529", provider="anthropic")
    return anthropic(provider).with_fallbacks([openai(provider)]).invoke(HELLO)


def tool_used(provider: Provider) -> Any:
    from langchain_core.messages import HumanMessage, ToolMessage

    model = openai(provider).bind_tools([Parcel])
    asked = model.invoke([HumanMessage(HELLO)])
    assert asked.tool_calls
    told = ToolMessage("on the moon", tool_call_id=asked.tool_calls[0]["id"])
    return model.invoke([HumanMessage(HELLO), asked, told])


# Each shape, and how many calls it is.
SHAPES: dict[str, tuple[Callable[[Provider], Any], int]] = {
    "openai invoke": (lambda p: openai(p).invoke(HELLO), 1),
    "openai stream": (lambda p: list(openai(p).stream(HELLO)), 1),
    "openai ainvoke": (lambda p: run_async(openai(p).ainvoke(HELLO)), 1),
    "openai astream": (lambda p: run_async(drained(openai(p).astream(HELLO))), 1),
    "openai batch of 3": (lambda p: openai(p).batch([HELLO] * 3), 3),
    "openai structured": (lambda p: openai(p).with_structured_output(Parcel).invoke(HELLO), 1),
    "openai tool and answer": (tool_used, 2),
    "openai responses": (lambda p: openai(p, use_responses_api=True).invoke(HELLO), 1),
    "openai responses stream": (lambda p: list(openai(p, use_responses_api=True).stream(HELLO)), 1),
    "openai embeddings": (lambda p: embeddings(p).embed_documents(["a parcel", "a house"]), 1),
    "openai aembeddings": (lambda p: run_async(embeddings(p).aembed_query("a parcel")), 1),
    "anthropic invoke": (lambda p: anthropic(p).invoke(HELLO), 1),
    "anthropic stream": (lambda p: list(anthropic(p).stream(HELLO)), 1),
    "anthropic ainvoke": (lambda p: run_async(anthropic(p).ainvoke(HELLO)), 1),
    "anthropic astream": (lambda p: run_async(drained(anthropic(p).astream(HELLO))), 1),
    "anthropic structured": (lambda p: anthropic(p).with_structured_output(Parcel).invoke(HELLO), 1),
    "anthropic fails, openai answers": (fallen_back, 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_langchain(shape: str, drive: Any) -> None:
    run, calls = SHAPES[shape]

    drive(run).check(calls)


def test_who_made_the_call_is_the_app_and_not_the_framework(drive: Any) -> None:
    [call] = drive(SHAPES["openai invoke"][0]).calls

    assert call["tallystick.caller"].startswith(f"{__name__}:")
