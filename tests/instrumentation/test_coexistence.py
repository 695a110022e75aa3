"""Nothing of the app changes: identities, its own OpenTelemetry, its requests; our faults stay with us."""

from __future__ import annotations

import contextvars
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.util._once import Once

import tallystick
from fakes.provider import Provider
from fakes.receiver import Receiver, running_receiver
from tallystick.errors import SettingsError
from tallystick.instrumentation import _call, _hooks

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
PATCHED: list[tuple[Any, str]] = [
    (openai._base_client.SyncAPIClient, "request"),
    (openai._base_client.AsyncAPIClient, "request"),
    (openai._base_client.SyncAPIClient, "_process_response"),
    (openai._base_client.AsyncAPIClient, "_process_response"),
    (openai._streaming.Stream, "__stream__"),
    (openai._streaming.AsyncStream, "__stream__"),
    (anthropic._base_client.SyncAPIClient, "request"),
    (anthropic._base_client.AsyncAPIClient, "request"),
    (anthropic._base_client.SyncAPIClient, "_process_response"),
    (anthropic._base_client.AsyncAPIClient, "_process_response"),
]
if hasattr(anthropic._base_client, "start_api_call_span"):  # since 1.14
    PATCHED.append((anthropic._base_client, "start_api_call_span"))


def chat(client: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO)


def message(client: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=100, messages=HELLO)


def test_uninstrument_restores_every_identity(tmp_path: Path) -> None:
    before = [vars(parent)[name] for parent, name in PATCHED]
    tallystick.instrument(spool=tmp_path)
    assert all(vars(parent)[name] is not was for (parent, name), was in zip(PATCHED, before, strict=True))

    tallystick.uninstrument()

    assert all(vars(parent)[name] is was for (parent, name), was in zip(PATCHED, before, strict=True))


def test_instrumented_twice_each_call_is_there_once(ledger: Any, oai: Any) -> None:
    tallystick.instrument()
    chat(oai)

    assert len(ledger.calls()) == 1


def test_signatures_are_the_sdks(ledger: Any) -> None:
    instrumented = [inspect.signature(getattr(parent, name)) for parent, name in PATCHED]
    tallystick.uninstrument()

    assert instrumented == [inspect.signature(getattr(parent, name)) for parent, name in PATCHED]


def test_a_client_made_before_instrument_is_recorded(provider: Provider, tmp_path: Path) -> None:
    with running_receiver() as receiver, openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:
        chat(client)
        tallystick.instrument(collector=receiver.url, spool=tmp_path, providers=provider.mapping)
        chat(client)
        assert tallystick.flush()
        recorded = len(receiver.spans())
        tallystick.uninstrument()
        chat(client)

        assert recorded == len(receiver.spans()) == 2, "one call and its attempt; none before, none after"


LATE = """
import sys, tallystick
tallystick.instrument(providers={sys.argv[2]: "openai"})
assert "openai" not in sys.modules
import openai
assert openai._base_client.__spec__.loader is openai._base_client.__loader__
assert type(openai._base_client.__loader__).__name__ == "SourceFileLoader"
assert not [finder for finder in sys.meta_path if type(finder).__name__ == "_Finder" and finder._name in sys.modules]
openai.OpenAI(base_url=sys.argv[1], api_key="k").chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
"""


def test_an_sdk_that_is_imported_later_is_patched_then(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    place = provider.openai_url.partition("://")[2]
    with running_receiver() as receiver:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", receiver.url)
        subprocess.run([sys.executable, "-c", LATE, provider.openai_url, place], check=True, timeout=60)

        assert [span.name for span in receiver.spans()] == ["POST", "chat gpt-4o-mini"]


def wire(requests: list[dict[str, Any]]) -> list[Any]:
    return [(seen["path"], seen.get("body_sha256") or seen.get("body"), sorted(seen["headers"])) for seen in requests]


def test_the_requests_on_the_wire_are_those_of_the_bare_sdk(provider: Provider, tmp_path: Path) -> None:
    def talk() -> None:
        with (
            openai.OpenAI(base_url=provider.openai_url, api_key="k") as oai,
            anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k") as ant,
        ):
            chat(oai)
            message(ant)
            list(ant.messages.create(model=CLAUDE, max_tokens=50, messages=HELLO, stream=True))

    talk()
    bare = wire(provider.requests())
    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=tmp_path, providers=provider.mapping)
        talk()
        tallystick.uninstrument()

    assert wire(provider.requests())[len(bare) :] == bare
    assert "traceparent" not in repr(bare)


@pytest.fixture
def own_provider(monkeypatch: pytest.MonkeyPatch) -> Callable[[TracerProvider], InMemorySpanExporter]:
    """Set a global TracerProvider for the length of a test, as an app would."""

    def set_it(tracer_provider: TracerProvider) -> InMemorySpanExporter:
        exporter = InMemorySpanExporter()
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        trace.set_tracer_provider(tracer_provider)
        return exporter

    return set_it


def test_the_apps_provider_sees_the_call_inside_its_own_span(own_provider: Any, ledger: Any, oai: Any) -> None:
    exporter = own_provider(TracerProvider())
    with trace.get_tracer("app").start_as_current_span("request") as outer:
        chat(oai)

    call = ledger.call()
    [theirs] = [span for span in exporter.get_finished_spans() if span.name.startswith("chat")]
    assert format(theirs.context.span_id, "016x") == call.id
    assert format(theirs.context.trace_id, "032x") == call.trace
    assert format(outer.get_span_context().span_id, "016x") == call.parent
    assert theirs.attributes["tallystick.units"] == call.attributes["tallystick.units"]


def test_what_the_app_samples_away_is_on_the_ledger(own_provider: Any, ledger: Any, oai: Any) -> None:
    exporter = own_provider(TracerProvider(sampler=ALWAYS_OFF))
    with trace.get_tracer("app").start_as_current_span("request"):
        chat(oai)

    assert ledger.call().outcome == "ok"
    assert exporter.get_finished_spans() == ()


def test_anthropics_own_span_is_replaced_by_ours(own_provider: Any, ledger: Any, provider: Provider) -> None:
    assert anthropic._base_client.start_api_call_span, "this SDK makes spans of its own"
    exporter = own_provider(TracerProvider())
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k") as client:
        message(client)
    names = [span.name for span in exporter.get_finished_spans()]

    assert names == [f"chat {CLAUDE}"], "the call once, and no anthropic.messages.create beside it"
    tallystick.uninstrument()
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k") as client:
        message(client)
    assert "anthropic.messages.create" in [span.name for span in exporter.get_finished_spans()]


def test_tags_nest_and_reach_threads_that_copy_the_context(ledger: Any, oai: Any) -> None:
    @tallystick.tags(feature="search", tenant="acme")
    def search() -> None:
        with tallystick.tags(user="u1", feature="rank"):
            chat(oai)
            context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(chat, oai))
        thread.start()
        thread.join()
        chat(oai)

    search()
    chat(oai)

    names = ("tallystick.feature", "user.id", "tallystick.tag.tenant")
    assert [tuple(call.attributes.get(name) for name in names) for call in ledger.calls()] == [
        ("rank", "u1", "acme"),
        ("rank", "u1", "acme"),
        ("search", None, "acme"),
        (None, None, None),
    ]


def test_many_threads_each_call_once(ledger: Any, oai: Any, provider: Provider) -> None:
    threads = [threading.Thread(target=lambda: [chat(oai) for _ in range(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    calls = ledger.calls()
    assert len({call.id for call in calls}) == len(calls) == 40
    assert {call.units[0]["id"] for call in calls} == {item["id"] for item in provider.invoice()["items"]}
    assert len(ledger.attempts()) == 40


OURS: list[tuple[Any, str]] = [
    *[(_hooks, name) for name in ("route_of", "caller", "current_tags", "provider_of", "current_call", "wants_usage")],
    *[(_call, name) for name in ("read_content", "price_unit", "tap", "unit_attributes", "stream_reader")],
    *[(_call.Call, name) for name in ("answered", "_over", "returned", "failed", "take")],
    (_hooks.Hooks, "_told"),
]


@pytest.mark.swallows
@pytest.mark.parametrize(("place", "name"), OURS, ids=[name for _, name in OURS])
def test_a_fault_of_ours_at_any_step_changes_nothing_for_the_app(
    place: Any, name: str, provider: Provider, ledger: Any, oai: Any, ant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(place, name, fault)

    assert chat(oai).choices[0].message.content
    assert message(ant).content[0].text
    events = list(ant.messages.create(model=CLAUDE, max_tokens=50, messages=HELLO, stream=True))
    assert events[-1].type == "message_stop"
    assert all(chunk.id for chunk in oai.chat.completions.create(model=GPT, messages=HELLO, stream=True))
    provider.script("401")
    with pytest.raises(openai.AuthenticationError):
        chat(oai)


KILLED = """
import os, signal, sys, tallystick
tallystick.instrument(providers={sys.argv[2]: "openai"})
import openai
openai.OpenAI(base_url=sys.argv[1], api_key="k").chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_app_that_is_killed_right_after_a_call_has_it_in_its_spool(provider: Provider, tmp_path: Path) -> None:
    place = provider.openai_url.partition("://")[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, provider.openai_url, place], check=False, timeout=60)

    assert killed.returncode == -9
    spooled = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.tly"))
    assert provider.invoice()["items"][0]["id"].encode() in spooled


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        pytest.param(
            {"collector": "localhost:4318"}, "collector is 'localhost:4318'; it must be a URL", id="no-scheme"
        ),
        pytest.param({"collector": "ftp://host"}, "collector is 'ftp://host'", id="other-scheme"),
    ],
)
def test_a_wrong_setting_is_told_at_instrument(setting: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        tallystick.instrument(**setting)  # type: ignore[arg-type]


def test_a_wrong_mapping_of_providers_is_told_at_instrument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_PROVIDERS", "gateway")

    with pytest.raises(SettingsError, match="TALLYSTICK_PROVIDERS has 'gateway'; each pair is"):
        tallystick.instrument()
