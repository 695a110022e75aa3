"""The shop: an app of the demo's own, in a process of its own, that uses the real SDKs as any app does.

Nothing here knows tallystick but `instrument` and `tags`.  The header ``x-mock-script`` asks the loopback provider for
faults; a real provider would ignore it.  After each act the shop prints how many calls it made and waits for a line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from typing import Any

import anthropic
import openai

import tallystick

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-4-5-20251001"
MINI, SMALL, THINKER = "gpt-5.4-mini", "gpt-4o-mini", "gpt-5-mini"
HOUSE = "house-model-1"
"""A fine-tuned model of the shop's own, for which nobody lists a price."""
EMBEDDER = "text-embedding-3-small"
USERS = ("ada", "ben", "cleo", "dina")
HANDBOOK = "A parcel that is late is sent again at no cost. " * 160
FAILURES = (anthropic.AnthropicError, openai.OpenAIError)
LIGHT_S = 2.0

TOOL = {"name": "find_order", "description": "Find an order by its number."}
ORDER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


def script(steps: str) -> dict[str, str]:
    """Return the headers that have the loopback provider play ``steps``, one for each HTTP attempt of the call."""
    return {"x-mock-script": steps, "x-mock-script-id": uuid.uuid4().hex}


def says(text: str) -> Any:
    """Return ``text`` as the messages of a chat."""
    return [{"role": "user", "content": text}]


class Shop:
    """Chats with customers, describes products, writes reports; counts its calls as a second witness."""

    def __init__(self) -> None:
        self.calls = 0
        self.claude = anthropic.Anthropic()
        self.async_claude = anthropic.AsyncAnthropic()
        self.gpt = openai.OpenAI()
        self.async_gpt = openai.AsyncOpenAI()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call; what the SDK raises is the shop's daily business."""
        self.calls += 1
        try:
            yield
        except FAILURES:
            pass
        except Exception as error:  # a cut stream raises what the HTTP library calls it, and there are two of those
            if "RemoteProtocolError" not in type(error).__name__:
                raise

    # The morning: everything goes well -------------------------------------------------------------------------------

    async def support(self, user: str, question: str) -> None:
        """Answer a customer, streamed, with the handbook in the prompt cache."""
        handbook: Any = [{"type": "text", "text": HANDBOOK, "cache_control": {"type": "ephemeral"}}]
        with tallystick.tags(feature="support-chat", user=user), self.call():
            async with self.async_claude.messages.stream(
                model=SONNET,
                max_tokens=2000,
                system=handbook,
                messages=says(question),
                extra_headers=script("200:output=1000"),
            ) as stream:
                async for _ in stream.text_stream:
                    pass

    async def rank(self, user: str) -> None:
        """Embed what a customer looks for."""
        with tallystick.tags(feature="search", user=user), self.call():
            await self.async_gpt.embeddings.create(
                model=EMBEDDER, input=["warm socks", "a lamp for the desk"], extra_headers=script("200:input=4000")
            )

    def describe(self, product: str) -> None:
        """Write a product's text, streamed without being told the usage (nor asking for it)."""
        with tallystick.tags(feature="product-text", prompt="describe-v2"), self.call():
            for chunk in self.gpt.chat.completions.create(
                model=MINI, messages=says(f"Describe {product}."), stream=True, extra_headers=script("200:output=900")
            ):
                assert chunk.choices, "an app may rely on this, instrumented or not"

    def look_up(self, user: str) -> None:
        """Have the model call a tool, then answer with what it found."""
        messages = says("Where is order 2?")
        tools: Any = [TOOL | {"input_schema": ORDER}]
        with tallystick.tags(feature="order-agent", user=user):
            with self.call():
                answer = self.claude.messages.create(model=HAIKU, max_tokens=800, messages=messages, tools=tools)
                found = next(block for block in answer.content if block.type == "tool_use")
                result = {"type": "tool_result", "tool_use_id": found.id, "content": "on its way"}
                messages = [
                    *messages,
                    {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
                    {"role": "user", "content": [result]},
                ]
            with self.call():
                self.claude.messages.create(model=HAIKU, max_tokens=800, messages=messages, tools=tools)

    def think(self, user: str) -> None:
        """Decide over a return, with reasoning."""
        with tallystick.tags(feature="returns", user=user), self.call():
            self.gpt.responses.create(
                model=THINKER,
                input="May this parcel come back after 40 days?",
                extra_headers=script("200:output=400:reasoning=1200"),
            )

    def research(self) -> None:
        """Search the web for a competitor's price."""
        tools: Any = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
        with tallystick.tags(feature="price-watch"), self.call():
            self.claude.messages.create(
                model=SONNET, max_tokens=1000, messages=says("What do socks cost elsewhere?"), tools=tools
            )

    # The afternoon: the dear things, and everything that can go wrong ------------------------------------------------

    def report(self, chapter: int) -> None:
        """Write a chapter of the weekly report with the dearest model."""
        with tallystick.tags(feature="weekly-report", user="ada"), self.call():
            self.claude.messages.create(
                model=OPUS,
                max_tokens=8000,
                messages=says(f"Write chapter {chapter} of the weekly report."),
                extra_headers=script("200:input=6000:output=800"),
            )

    def through_a_bad_patch(self) -> None:
        """Be refused, overloaded and cut off, and get through by the SDK's own retries."""
        with tallystick.tags(feature="support-chat", user="ben"):
            with self.call():
                self.claude.messages.create(
                    model=SONNET,
                    max_tokens=900,
                    messages=says("Hello?"),
                    extra_headers=script("529:retry-after-ms=20,529:retry-after-ms=20,200"),
                )
            with self.call():
                self.gpt.chat.completions.create(
                    model=SMALL, messages=says("Hello?"), extra_headers=script("429:retry-after=0.05,200")
                )
            with self.call():
                self.gpt.chat.completions.create(
                    model=SMALL, messages=says("Are you there?"), extra_headers=script("reset,200")
                )

    def fall_back(self) -> None:
        """Ask the other provider when the first is down."""
        with tallystick.tags(feature="support-chat", user="cleo"):
            with self.call():
                self.claude.with_options(max_retries=1).messages.create(
                    model=SONNET,
                    max_tokens=900,
                    messages=says("My parcel!"),
                    extra_headers=script("529:retry-after-ms=20,529"),
                )
            with self.call():
                self.gpt.chat.completions.create(model=MINI, messages=says("My parcel!"))

    def fail(self) -> None:
        """Fail in every way that happens to apps."""
        with tallystick.tags(feature="nightly-job"):
            with self.call():
                anthropic.Anthropic(api_key="wrong").messages.create(
                    model=HAIKU, max_tokens=100, messages=says("Good night")
                )
            with self.call():
                self.gpt.with_options(max_retries=0).chat.completions.create(
                    model=SMALL, messages=says("More!"), extra_headers=script("quota")
                )
            with self.call():
                self.gpt.chat.completions.create(
                    model=SMALL, messages=says("Read all of this"), extra_headers=script("context_length")
                )
            with self.call():
                patience = openai.Timeout(20.0, read=0.3)  # the request itself must get through
                self.gpt.with_options(max_retries=0, timeout=patience).chat.completions.create(
                    model=SMALL, messages=says("Take your time"), extra_headers=script("hang")
                )
        with tallystick.tags(feature="product-text"):
            with self.call():  # paid, and of no use
                self.claude.messages.create(
                    model=SONNET, max_tokens=300, messages=says("Praise it"), extra_headers=script("refusal:output=120")
                )
            with self.call():  # paid, and cut off by the app's own limit
                self.claude.messages.create(model=SONNET, max_tokens=16, messages=says("Be brief"))

    def be_cut_off(self) -> None:
        """Lose two streams under way; what they cost is only ever an estimate."""
        with tallystick.tags(feature="support-chat", user="dina"):
            with (
                self.call(),
                self.claude.messages.stream(
                    model=SONNET,
                    max_tokens=900,
                    messages=says("Tell me everything"),
                    extra_headers=script("cut:after=8:output=300"),
                ) as stream,
            ):
                for _ in stream.text_stream:
                    pass
            with self.call():
                for _ in self.gpt.chat.completions.create(
                    model=SMALL,
                    messages=says("Tell me all"),
                    stream=True,
                    extra_headers=script("cut:after=6:output=200"),
                ):
                    pass

    def own_model(self) -> None:
        """Use the shop's own model."""
        for text in ("warm socks", "cold feet"):
            with tallystick.tags(feature="tagging"), self.call():
                self.gpt.chat.completions.create(model=HOUSE, messages=says(text))


async def morning(shop: Shop) -> None:
    """Play the first act: many features, many users, sync and async."""
    questions = ("Where is my parcel?", "May I return it?", "Which size?")
    await shop.support("ada", "Are you open?")  # writes the cache that the others read
    await asyncio.gather(
        *(shop.support(user, question) for user in USERS for question in questions),
        *(shop.rank(user) for user in USERS),
    )
    for product in ("socks", "a lamp", "a kettle"):
        shop.describe(product)
    for user in USERS[:2]:
        shop.look_up(user)
        shop.think(user)
    shop.research()


async def afternoon(shop: Shop) -> None:
    """Play the second act."""
    shop.through_a_bad_patch()
    shop.fall_back()
    shop.fail()
    shop.be_cut_off()
    shop.own_model()
    for chapter in range(1, 3):
        shop.report(chapter)


async def light(shop: Shop, ended: asyncio.Event) -> None:
    """Play light traffic until ``ended``."""
    luck = random.Random(7)  # noqa: S311 -- a play, not a secret
    scenes: list[Callable[[str, str], Any]] = [
        lambda user, text: shop.support(user, text),
        lambda user, _: shop.rank(user),
        lambda _, text: asyncio.to_thread(shop.describe, text),
        lambda user, _: asyncio.to_thread(shop.think, user),
        lambda *_: asyncio.to_thread(shop.through_a_bad_patch),
        lambda *_: asyncio.to_thread(shop.own_model),
    ]
    for number, user in zip(count(), cycle(USERS)):
        if ended.is_set():
            return
        await luck.choices(scenes, weights=(5, 5, 3, 2, 1, 1))[0](user, f"Question {number}?")
        try:
            await asyncio.wait_for(ended.wait(), LIGHT_S)
        except TimeoutError:
            continue


def act(number: int, shop: Shop) -> bool:
    """Tell the count of calls so far, wait for a line, and tell whether to go on."""
    tallystick.flush()
    print(json.dumps({"act": number, "calls": shop.calls}), flush=True)  # noqa: T201 -- read by the demo
    return bool(sys.stdin.readline())


async def play() -> None:
    """Play both acts, and light traffic for as long as the demo lets us."""
    shop = Shop()
    await morning(shop)
    if not act(1, shop):
        return
    await afternoon(shop)
    if not act(2, shop):
        return
    ended = asyncio.Event()
    lights = asyncio.create_task(light(shop, ended))
    await asyncio.to_thread(sys.stdin.readline)
    ended.set()
    await lights


def main() -> None:
    """Instrument, then do business."""
    tallystick.instrument(service="shop")
    asyncio.run(play())


if __name__ == "__main__":
    main()
