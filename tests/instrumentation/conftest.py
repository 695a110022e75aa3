"""A loopback provider, a receiver where the collector would be, and the SDKs instrumented between them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import tallystick
from fakes.provider import Provider, provider
from fakes.receiver import Receiver, running_receiver

__all__ = ["provider"]

ABSENT = re.compile(r"has no attribute|unexpected keyword argument")
KEY = "sk-canary-0123456789abcdef-last"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """In the version matrix, and only there, what an older SDK does not have is skipped and named."""
    try:
        return (yield)
    except (AttributeError, TypeError) as error:
        if "TALLYSTICK_MATRIX" not in os.environ or not ABSENT.search(str(error)):
            raise
        pytest.skip(f"absent: {error}")


@dataclass
class Seen:
    """A span as the receiver got it."""

    name: str
    id: str
    parent: str
    trace: str
    status: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]

    @property
    def units(self) -> list[dict[str, Any]]:
        units: list[dict[str, Any]] = json.loads(self.attributes["tallystick.units"])
        return units

    @property
    def outcome(self) -> str:
        return str(self.attributes["tallystick.outcome"])


class Ledger:
    """What arrived, told apart."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def spans(self) -> list[Seen]:
        assert tallystick.flush()
        return [_seen(span) for span in self._receiver.spans()]

    def calls(self) -> list[Seen]:
        return [span for span in self.spans() if "tallystick.outcome" in span.attributes]

    def call(self) -> Seen:
        [call] = self.calls()
        return call

    def attempts(self) -> list[Seen]:
        return [span for span in self.spans() if span.attributes.get("tallystick.attempt")]


def _seen(span: Any) -> Seen:
    return Seen(
        name=span.name,
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        trace=span.trace_id.hex(),
        status=span.status.code,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={item.key: _value(item.value) for item in span.attributes},
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture
def ledger(provider: Provider, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Instrument this process, the provider's two addresses mapped to the names they play.

    Parametrized indirectly, it takes further arguments of `tallystick.instrument`.
    """
    with running_receiver() as receiver:
        tallystick.instrument(
            service="shop",
            environment="test",
            collector=receiver.url,
            spool=tmp_path / "spool",
            providers=provider.mapping,
            **getattr(request, "param", {}),
        )
        try:
            yield Ledger(receiver)
        finally:
            tallystick.uninstrument()


@pytest.fixture
def oai(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.openai_url, api_key=KEY, max_retries=2) as client:
        yield client


@pytest.fixture
def ant(provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key=KEY, max_retries=2) as client:
        yield client


@pytest.fixture
async def async_oai(provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key=KEY, max_retries=2) as client:
        yield client


@pytest.fixture
async def async_ant(provider: Provider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=provider.anthropic_url, api_key=KEY, max_retries=2) as client:
        yield client
