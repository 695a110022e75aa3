"""Somebody else's wrapper of ``request`` on a client's own class, as openinference and logfire put it there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import wrapt

import tallystick
from fakes.provider import Provider
from fakes.receiver import Receiver, running_receiver

BASE: Any = openai._base_client.SyncAPIClient
SEEN: list[str] = []


def by_wrapt() -> None:
    def theirs(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        SEEN.append("theirs")
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(openai, "OpenAI.request", theirs)


def by_closure() -> None:
    original: Any = openai.OpenAI.request

    @functools.wraps(original)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        SEEN.append("theirs")
        return original(*args, **kwargs)

    openai.OpenAI.request = theirs  # type: ignore[method-assign]


WAYS: dict[str, Callable[[], None]] = {"wrapt": by_wrapt, "closure": by_closure}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    SEEN.clear()
    assert "request" not in vars(openai.OpenAI)
    yield
    tallystick.uninstrument()
    if "request" in vars(openai.OpenAI):
        del openai.OpenAI.request


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def on(provider: Provider, receiver: Receiver, tmp_path: Path) -> Callable[[], None]:
    return lambda: tallystick.instrument(collector=receiver.url, spool=tmp_path / "spool", providers=provider.mapping)


def names(receiver: Receiver, since: int = 0) -> list[str]:
    assert tallystick.flush()
    return sorted(span.name for span in receiver.spans()[since:])


def talk(provider: Provider, client: Any) -> None:
    """One call of two attempts."""
    provider.script("429:retry-after=0.01,200")
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Where is it?"}])


ONE_CALL = ["POST", "POST", "chat gpt-4o-mini"]


@pytest.mark.parametrize("way", WAYS)
def test_their_wrapper_that_was_there_first_has_ours_inside(
    way: str, provider: Provider, receiver: Receiver, on: Any, oai: Any
) -> None:
    original = vars(BASE)["request"]
    WAYS[way]()
    theirs = vars(openai.OpenAI)["request"]
    on()
    talk(provider, oai)

    assert names(receiver) == ONE_CALL
    assert SEEN == ["theirs"]
    tallystick.uninstrument()
    talk(provider, oai)
    assert len(receiver.spans()) == 3
    assert vars(openai.OpenAI)["request"] is theirs
    held = theirs.__wrapped__ if way == "wrapt" else theirs.__closure__[0].cell_contents
    assert held is original
    assert vars(BASE)["request"] is original


@pytest.mark.parametrize("way", WAYS)
def test_their_wrapper_that_came_later_stays_around_ours(
    way: str, provider: Provider, receiver: Receiver, on: Any, oai: Any
) -> None:
    on()
    WAYS[way]()
    oai.models.list()  # an answer that is of no call, after which we look whether we were led past
    talk(provider, oai)

    assert names(receiver) == ONE_CALL
    assert SEEN == ["theirs", "theirs"]


def test_the_unpatched_function_put_back_is_noticed_at_its_first_answer(
    provider: Provider, receiver: Receiver, on: Any, oai: Any
) -> None:
    original = vars(BASE)["request"]
    on()
    openai.OpenAI.request = original  # type: ignore[method-assign]
    talk(provider, oai)

    assert names(receiver) == sorted([*ONE_CALL, "chat gpt-4o-mini"]), "each attempt a call of its own, but none lost"
    talk(provider, oai)
    assert names(receiver, since=4) == ONE_CALL
    tallystick.uninstrument()
    assert vars(openai.OpenAI)["request"] is original


def test_a_second_instrument_finds_its_way_through_what_the_first_left(
    provider: Provider, receiver: Receiver, on: Any, oai: Any
) -> None:
    on()
    by_closure()
    tallystick.uninstrument()
    on()
    talk(provider, oai)

    assert names(receiver) == ONE_CALL


def test_a_class_of_the_apps_own_that_calls_on_to_the_sdk_is_one_call(
    provider: Provider, receiver: Receiver, on: Any
) -> None:
    class Counting(openai.OpenAI):
        def request(self, *args: Any, **kwargs: Any) -> Any:
            SEEN.append("request")
            return super().request(*args, **kwargs)

    on()
    with Counting(base_url=provider.openai_url, api_key="k") as client:
        client.models.list()
        talk(provider, client)

    assert names(receiver) == ONE_CALL
    assert SEEN == ["request", "request"]
