"""litellm: OpenAI's SDK for OpenAI, an HTTP client of its own for Anthropic."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from fakes.provider import Provider
from frameworks.loop import run_async

GPT, CLAUDE = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


def openai(provider: Provider, name: str = "completion", **more: Any) -> Any:
    import litellm

    return getattr(litellm, name)(**{"model": GPT, "api_base": provider.openai_url, "api_key": "k"} | more)


def anthropic(provider: Provider, name: str = "completion", **more: Any) -> Any:
    import litellm

    asked = {"model": CLAUDE, "messages": HELLO, "max_tokens": 200, "api_base": provider.anthropic_url, "api_key": "k"}
    return getattr(litellm, name)(**asked | more)


async def awaited(ask: Callable[[], Any]) -> Any:
    return await ask()


async def drained(ask: Callable[[], Any]) -> list[Any]:
    return [chunk async for chunk in await ask()]


def refused(provider: Provider) -> None:
    provider.script("401", provider="anthropic")
    with suppress(Exception):
        anthropic(provider)


def tried_again(provider: Provider) -> None:
    provider.script("529,200", provider="anthropic")
    anthropic(provider, num_retries=2)


EMBED = {"model": "openai/text-embedding-3-small", "input": ["a parcel", "a house"]}
SHAPES: dict[str, tuple[Callable[[Provider], Any], int]] = {
    "openai completion": (lambda p: openai(p, messages=HELLO), 1),
    "openai stream": (lambda p: list(openai(p, messages=HELLO, stream=True)), 1),
    "openai acompletion": (lambda p: run_async(awaited(lambda: openai(p, "acompletion", messages=HELLO))), 1),
    "openai acompletion stream": (
        lambda p: run_async(drained(lambda: openai(p, "acompletion", messages=HELLO, stream=True))), 1),
    "openai embedding": (lambda p: openai(p, "embedding", **EMBED), 1),
    "openai aembedding": (lambda p: run_async(awaited(lambda: openai(p, "aembedding", **EMBED))), 1),
    "openai responses": (lambda p: openai(p, "responses", input="Where is my parcel?"), 1),
    "openai text_completion": (
        lambda p: openai(
            p, "text_completion", model="text-completion-openai/gpt-3.5-turbo-instruct", prompt="Where?"), 1),
    "anthropic completion": (anthropic, 1),
    "anthropic stream": (lambda p: list(anthropic(p, stream=True)), 1),
    "anthropic acompletion": (lambda p: run_async(awaited(lambda: anthropic(p, "acompletion"))), 1),
    "anthropic acompletion stream": (
        lambda p: run_async(drained(lambda: anthropic(p, "acompletion", stream=True))), 1),
    "anthropic wrong key": (refused, 1),
    "anthropic asked again by litellm": (tried_again, 2),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_litellm(shape: str, drive: Any) -> None:
    run, calls = SHAPES[shape]

    drive(run).check(calls)


def test_a_refusal_to_litellm_has_its_class_and_its_key(drive: Any) -> None:
    watch = drive(refused)

    [call] = watch.calls
    assert (call["tallystick.outcome"], call["gen_ai.provider.name"]) == ("auth", "anthropic")


def test_who_made_the_call_is_the_app_and_not_the_framework(drive: Any) -> None:
    [call] = drive(SHAPES["anthropic completion"][0]).calls

    assert call["tallystick.caller"].startswith(f"{__name__}:")
