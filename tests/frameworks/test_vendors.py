"""Another vendor's instrumentation of the same SDKs in the same process: neither of us notices the other.

The calls are on our ledger once, with their attempts; the app gets what it gets without us; the vendor's spans are
those it makes without us, before, while and after we are active.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tallystick
from fakes.provider import Provider
from frameworks.house import FRAMEWORK, WE_ARE_FIRST, House, Watch
from frameworks.loop import run_async
from frameworks.vendors import VENDORS

GPT, CLAUDE, EMBEDDING = "gpt-4o-mini", "claude-haiku-4-5", "text-embedding-3-small"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
NOT_THEIRS = {"tallystick", "com.anthropic.sdk.python"}
"""Our own twins; and the spans of anthropic itself, which ours replace."""


BY_FRAMES = {"logfire.exception.fingerprint"}
"""A hash of the traceback: whoever wraps a function is in it."""


def openai(provider: Provider, kind: str = "OpenAI") -> Any:
    import openai

    return getattr(openai, kind)(base_url=provider.openai_url, api_key="k", max_retries=1)


def anthropic(provider: Provider, kind: str = "Anthropic") -> Any:
    import anthropic

    return getattr(anthropic, kind)(base_url=provider.anthropic_url, api_key="k", max_retries=1)


def chat(provider: Provider, **more: Any) -> Any:
    return openai(provider).chat.completions.create(model=GPT, messages=HELLO, **more)


def message(provider: Provider, **more: Any) -> Any:
    return anthropic(provider).messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, **more)


def helped(manager: Any) -> list[Any]:
    with manager as stream:
        return list(stream)


async def async_chat(provider: Provider) -> Any:
    return await openai(provider, "AsyncOpenAI").chat.completions.create(model=GPT, messages=HELLO)


async def async_chat_stream(provider: Provider) -> list[Any]:
    client = openai(provider, "AsyncOpenAI")
    return [chunk async for chunk in await client.chat.completions.create(model=GPT, messages=HELLO, stream=True)]


async def async_message(provider: Provider) -> Any:
    return await anthropic(provider, "AsyncAnthropic").messages.create(model=CLAUDE, max_tokens=200, messages=HELLO)


async def async_message_stream(provider: Provider) -> list[Any]:
    client = anthropic(provider, "AsyncAnthropic")
    stream = await client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True)
    return [event async for event in stream]


def tried_again(ask: Callable[[Provider], Any]) -> Callable[[Provider], Any]:
    def run(provider: Provider) -> Any:
        provider.script("429:retry-after=0.01,200")
        return ask(provider)

    return run


def refused(ask: Callable[[Provider], Any]) -> Callable[[Provider], Any]:
    def run(provider: Provider) -> str:
        provider.script("401")
        try:
            ask(provider)
        except Exception as error:  # noqa: BLE001 -- of either SDK
            return type(error).__qualname__
        raise AssertionError("the provider refused, and the app was not told")

    return run


SHAPES: dict[str, Callable[[Provider], Any]] = {
    "openai chat": chat,
    "openai chat stream": lambda p: list(chat(p, stream=True)),
    "openai chat stream helper": lambda p: helped(openai(p).chat.completions.stream(model=GPT, messages=HELLO)),
    "openai chat raw": lambda p: openai(p).chat.completions.with_raw_response.create(model=GPT, messages=HELLO).parse(),
    "openai responses": lambda p: openai(p).responses.create(model=GPT, input="Where?"),
    "openai responses stream": lambda p: list(openai(p).responses.create(model=GPT, input="Where?", stream=True)),
    "openai embeddings": lambda p: openai(p).embeddings.create(model=EMBEDDING, input="a parcel"),
    "openai async chat": lambda p: run_async(async_chat(p)),
    "openai async chat stream": lambda p: run_async(async_chat_stream(p)),
    "openai chat tried again": tried_again(chat),
    "openai chat refused": refused(chat),
    "anthropic message": message,
    "anthropic message stream": lambda p: list(message(p, stream=True)),
    "anthropic message stream helper": lambda p: helped(
        anthropic(p).messages.stream(model=CLAUDE, max_tokens=200, messages=HELLO)
    ),
    "anthropic async message": lambda p: run_async(async_message(p)),
    "anthropic async message stream": lambda p: run_async(async_message_stream(p)),
    "anthropic message tried again": tried_again(message),
    "anthropic message refused": refused(message),
}


@dataclass
class Vendor:
    exporter: InMemorySpanExporter
    stop: Callable[[], None] | None

    def spans_of(self, shape: Callable[[Provider], Any], provider: Provider) -> tuple[Any, list[ReadableSpan]]:
        """Run a shape; return what the app got and the vendor's spans."""
        self.exporter.clear()
        got = shape(provider)
        theirs = [
            span for span in self.exporter.get_finished_spans() if span.instrumentation_scope.name not in NOT_THEIRS
        ]
        return got, sorted(theirs, key=lambda span: span.name)


@pytest.fixture(scope="session")
def vendor() -> Vendor:
    """Start the vendor, with an app's TracerProvider."""
    exporter = InMemorySpanExporter()
    if FRAMEWORK != "logfire":  # which sets a provider of its own
        trace.set_tracer_provider(TracerProvider())
    stop = VENDORS[FRAMEWORK]()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
    return Vendor(exporter, stop)


@dataclass
class Run:
    """A shape driven three times: beside us, and twice without us."""

    together: tuple[Any, list[ReadableSpan]]
    problem: AssertionError | None
    """What the ledger has wrong of it."""
    alone: list[tuple[Any, list[ReadableSpan]]]


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest) -> dict[str, Run]:
    """Drive every shape with us first and then, undone, without; or without, then with us, and again without."""
    if WE_ARE_FIRST:
        house = request.getfixturevalue("house")
        vendor = request.getfixturevalue("vendor")
    else:
        vendor = request.getfixturevalue("vendor")
        provider = request.getfixturevalue("loopback")
        before = {name: vendor.spans_of(shape, provider) for name, shape in SHAPES.items()}
        house = request.getfixturevalue("house")
    together = {name: beside_us(vendor, shape, house) for name, shape in SHAPES.items()}
    tallystick.uninstrument()
    after = {name: vendor.spans_of(shape, house.provider) for name, shape in SHAPES.items()}
    if WE_ARE_FIRST:
        before = {name: vendor.spans_of(shape, house.provider) for name, shape in SHAPES.items()}
    return {name: Run(*together[name], alone=[before[name], after[name]]) for name in SHAPES}


def beside_us(vendor: Vendor, shape: Any, house: House) -> tuple[tuple[Any, list[ReadableSpan]], AssertionError | None]:
    watch = Watch(house)
    together = vendor.spans_of(shape, house.provider)
    try:
        watch.check(calls=1)
    except AssertionError as problem:
        return together, problem
    return together, None


def told(span: ReadableSpan) -> dict[str, Any]:
    attributes = {name: untimed(value) for name, value in (span.attributes or {}).items() if name not in BY_FRAMES}
    return {"": (span.name, span.kind, span.status.status_code, len(span.events), span.parent is None), **attributes}


def untimed(value: Any) -> Any:
    return re.sub(r"\d+\.\d+s", "…s", value) if isinstance(value, str) else value


def steady(first: list[ReadableSpan], second: list[ReadableSpan]) -> list[dict[str, Any]]:
    """Return what two runs of the vendor alone have in common: ids and times differ, and say nothing."""
    assert len(first) == len(second)
    return [
        {name: value if told(again).get(name) == value else ... for name, value in told(span).items()}
        for span, again in zip(first, second, strict=True)
    ]


def differences(spans: list[ReadableSpan], like: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Return (name, beside us, alone) of what is steady without us and is not the same beside us."""
    assert len(spans) == len(like)
    return [
        (name, told(span).get(name), pattern.get(name))
        for span, pattern in zip(spans, like, strict=True)
        for name in told(span).keys() | pattern.keys()
        if pattern.get(name) is not ... and told(span).get(name) != pattern.get(name)
    ]


def kinds(got: Any) -> Any:
    return [type(item) for item in got] if isinstance(got, list) else (type(got), got if isinstance(got, str) else None)


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str, runs: dict[str, Run]) -> None:
    run = runs[name]
    if run.problem is not None:
        raise run.problem
    (got, theirs), (got_alone, alone), (_, again) = run.together, *run.alone

    assert kinds(got) == kinds(got_alone)
    assert differences(theirs, steady(alone, again)) == []
    if not alone:
        pytest.skip(f"absent: {FRAMEWORK} alone makes no span of it; our ledger has it")


def test_stopped_while_we_are_active_it_leaves_us_whole(runs: Any, vendor: Vendor, house: House) -> None:
    if vendor.stop is None:
        pytest.skip(f"absent: {FRAMEWORK} cannot be stopped")
    house.instrument()
    vendor.stop()
    watch = Watch(house)
    beside = [vendor.spans_of(shape, house.provider)[1] for shape in (chat, message, chat)]
    recorded = [call["gen_ai.request.model"] for call in watch.calls]
    watch.check(calls=3)
    tallystick.uninstrument()
    alone = [vendor.spans_of(shape, house.provider)[1] for shape in (chat, message, chat)]

    assert recorded == [GPT, CLAUDE, GPT]
    # openllmetry 0.62.4 goes on with OpenAI when it is stopped, with and without us.
    assert [[span.name for span in spans] for spans in beside] == [[span.name for span in spans] for spans in alone]
