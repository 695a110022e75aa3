"""A provider of each test's own, and the real SDKs that ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from fakes.provider import Provider, running_provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def claude(provider: Provider) -> Iterator[Anthropic]:
    with Anthropic(base_url=provider.anthropic_url, api_key="any") as client:
        yield client


@pytest.fixture
def gpt(provider: Provider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.openai_url, api_key="any") as client:
        yield client


@pytest.fixture
async def async_claude(provider: Provider) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=provider.anthropic_url, api_key="any") as client:
        yield client


@pytest.fixture
async def async_gpt(provider: Provider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.openai_url, api_key="any") as client:
        yield client
