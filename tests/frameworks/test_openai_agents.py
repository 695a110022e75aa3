"""openai-agents: the runner, over both of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fakes.provider import Provider
from frameworks.loop import run_async

GPT = "gpt-4o-mini"
HELLO = "Where is my parcel?"


def agent(provider: Provider, *, chat: bool = False, **more: Any) -> Any:
    import agents
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    kind = agents.OpenAIChatCompletionsModel if chat else agents.OpenAIResponsesModel
    model = kind(model=GPT, openai_client=AsyncOpenAI(base_url=provider.openai_url, api_key="k"))
    return agents.Agent(name="clerk", model=model, **more)


def run(agent: Any) -> Any:
    import agents

    return agents.Runner.run_sync(agent, HELLO)


async def streamed(agent: Any) -> Any:
    import agents

    return [event async for event in agents.Runner.run_streamed(agent, HELLO).stream_events()]


def with_a_tool(provider: Provider, *, chat: bool) -> Any:
    import agents

    @agents.function_tool
    def parcel_place(name: str) -> str:
        """Tell where a parcel is."""
        return "on the moon"

    return run(agent(provider, chat=chat, tools=[parcel_place]))


def handed_over(provider: Provider) -> Any:
    return run(agent(provider, chat=True, handoffs=[agent(provider, chat=True)]))


SHAPES: dict[str, tuple[Callable[[Provider], Any], int]] = {
    "responses run_sync": (lambda p: run(agent(p)), 1),
    "responses run_streamed": (lambda p: run_async(streamed(agent(p))), 1),
    "responses tool and answer": (lambda p: with_a_tool(p, chat=False), 2),
    "chat run_sync": (lambda p: run(agent(p, chat=True)), 1),
    "chat run_streamed": (lambda p: run_async(streamed(agent(p, chat=True))), 1),
    "chat tool and answer": (lambda p: with_a_tool(p, chat=True), 2),
    "chat hand-over": (handed_over, 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_openai_agents(shape: str, drive: Any) -> None:
    run, calls = SHAPES[shape]

    drive(run).check(calls)
