"""instructor: each question anew after an answer that does not validate is a call of its own, and was billed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fakes.provider import Provider
from frameworks.loop import run_async

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


class Parcel(BaseModel):
    place: str
    days: int


class Impossible(BaseModel):
    place: str = Field(pattern="^nowhere at all$")


def openai(provider: Provider, mode: str = "TOOLS", *, asynchronous: bool = False) -> Any:
    import instructor
    import openai

    client = (openai.AsyncOpenAI if asynchronous else openai.OpenAI)(base_url=provider.openai_url, api_key="k")
    return instructor.from_openai(client, mode=getattr(instructor.Mode, mode)).chat.completions


def anthropic(provider: Provider) -> Any:
    import anthropic
    import instructor

    return instructor.from_anthropic(anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k")).messages


def asked(client: Any, model: str = GPT, name: str = "create", **more: Any) -> Any:
    return getattr(client, name)(model=model, messages=HELLO, response_model=Parcel, **more)


def asked_three_times(client: Any, model: str, **more: Any) -> None:
    from instructor.core import InstructorRetryException

    with pytest.raises(InstructorRetryException):
        client.create(model=model, messages=HELLO, response_model=Impossible, max_retries=2, **more)


SHAPES: dict[str, tuple[Callable[[Provider], Any], int]] = {
    "openai tools": (lambda p: asked(openai(p)), 1),
    "openai json": (lambda p: asked(openai(p, "JSON_SCHEMA")), 1),
    "openai async": (lambda p: run_async(asked(openai(p, asynchronous=True))), 1),
    "openai partial stream": (lambda p: list(asked(openai(p), name="create_partial")), 1),
    "openai never valid, asked 3 times": (lambda p: asked_three_times(openai(p), GPT), 3),
    "anthropic tools": (lambda p: asked(anthropic(p), CLAUDE, max_tokens=200), 1),
    "anthropic never valid, asked 3 times": (lambda p: asked_three_times(anthropic(p), CLAUDE, max_tokens=200), 3),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_instructor(shape: str, drive: Any) -> None:
    run, calls = SHAPES[shape]

    drive(run).check(calls)


def test_who_made_the_call_is_the_app_and_not_the_framework(drive: Any) -> None:
    [call] = drive(SHAPES["openai tools"][0]).calls

    assert call["tallystick.caller"].startswith(f"{__name__}:")
