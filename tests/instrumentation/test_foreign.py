"""Calls that are made without an SDK, by httpx or httpx2 alone; and the app's own instrumentation of both."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tallystick
from fakes.provider import Provider
from fakes.receiver import running_receiver
from tallystick.instrumentation import _attempts, _call, _foreign

LIBRARIES = [name for name in ("httpx", "httpx2") if find_spec(name)]
GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
KEY = "sk-plain-0123456789abcdef-tail"
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/anthropic/v1/messages", {"model": CLAUDE, "max_tokens": 200, "messages": HELLO}),
    "chat": ("/openai/v1/chat/completions", {"model": GPT, "messages": HELLO}),
    "responses": ("/openai/v1/responses", {"model": GPT, "input": "Where?"}),
    "embeddings": ("/openai/v1/embeddings", {"model": "text-embedding-3-small", "input": "a parcel"}),
}
STREAMED = {"chat": {"stream": True, "stream_options": {"include_usage": True}}}


@pytest.fixture(params=LIBRARIES)
def http(request: pytest.FixtureRequest) -> Any:
    """The HTTP library that the app uses."""
    return import_module(request.param)


def asked(provider: Provider, api: str, *, stream: bool = False) -> dict[str, Any]:
    path, body = ASKED[api]
    more = STREAMED.get(api, {"stream": True}) if stream else {}
    return {"url": provider.url + path, "json": body | more, "headers": {"authorization": f"Bearer {KEY}"}}


def check(ledger: Any, provider: Provider) -> Any:
    """The one call has the one unit that was billed, at its price, and one attempt."""
    call = ledger.call()
    [unit], [item], [attempt] = call.units, provider.invoice()["items"], ledger.attempts()
    assert call.outcome == "ok"
    assert (unit["id"] or item["id"]) == item["id"]
    assert (unit["provider"], unit["model"], unit["usage"]) == (item["provider"], item["model"], item["usage"])
    assert (Decimal(unit["cost_usd"]), unit["cost_status"]) == (Decimal(item["usd"]), "exact")
    assert (attempt.parent, attempt.trace) == (call.id, call.trace)
    assert attempt.attributes["http.response.status_code"] == 200
    return call


@pytest.mark.parametrize("api", ASKED)
def test_a_plain_post_to_a_provider_is_a_call(api: str, ledger: Any, provider: Provider, http: Any) -> None:
    with http.Client() as client:
        answer = client.post(**asked(provider, api))

    assert answer.json()["model"]
    said = check(ledger, provider).attributes
    assert said["gen_ai.request.model"] == ASKED[api][1]["model"]
    assert said["tallystick.key"].endswith(KEY[-4:])
    assert said["tallystick.caller"].startswith(f"{__name__}:test_a_plain_post")


@pytest.mark.parametrize("api", ["messages", "chat", "responses"])
def test_a_plain_stream_is_read_as_the_app_reads_it(api: str, ledger: Any, provider: Provider, http: Any) -> None:
    with http.Client() as client, client.stream("POST", **asked(provider, api, stream=True)) as answer:
        lines = list(answer.iter_lines())

    assert any(line.startswith("data:") for line in lines)
    call = check(ledger, provider)
    assert call.attributes["gen_ai.request.stream"] is True
    # It is over with the last word; the marker after it may or may not be read.
    assert call.attributes["tallystick.stream.chunks"] >= sum(line.startswith("data:") for line in lines) - 1


async def test_a_plain_async_post_and_stream_are_calls(ledger: Any, provider: Provider, http: Any) -> None:
    async with http.AsyncClient() as client:
        await client.post(**asked(provider, "messages"))
        async with client.stream("POST", **asked(provider, "messages", stream=True)) as answer:
            assert [line async for line in answer.aiter_lines()]

    units = [unit["id"] for call in ledger.calls() for unit in call.units]
    assert units == [item["id"] for item in provider.invoice()["items"]]
    assert [call.outcome for call in ledger.calls()] == ["ok", "ok"]
    assert len(ledger.attempts()) == 2


def test_a_stream_that_is_left_after_its_last_word_is_over_then(ledger: Any, provider: Provider, http: Any) -> None:
    provider.script("slow:body=0.02")
    with http.Client() as client:
        answer = client.send(client.build_request("POST", **asked(provider, "messages", stream=True)), stream=True)
        for line in answer.iter_lines():
            if "message_delta" in line and line.startswith("data:"):
                break

        for _ in range(1000):  # the provider bills with its last event, which this client does not wait for
            if provider.invoice()["items"]:
                break
            time.sleep(0.01)
        check(ledger, provider)
        answer.close()
    assert len(ledger.calls()) == 1


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("401", "auth"),
        ("429", "rate_limited"),
        ("quota", "quota"),
        ("529", "overloaded"),
        ("context_length", "context_length"),
    ],
)
def test_a_refusal_is_told_by_the_answer_for_nothing_is_raised(
    script: str, outcome: str, ledger: Any, provider: Provider, http: Any
) -> None:
    provider.script(script)
    with http.Client() as client:
        assert client.post(**asked(provider, "chat")).status_code >= 400

    assert (ledger.call().outcome, ledger.call().units, ledger.call().status) == (outcome, [], 2)
    assert len(ledger.attempts()) == 1


def test_a_timeout_and_a_reset_are_told_apart(ledger: Any, provider: Provider, http: Any) -> None:
    provider.script("hang,reset")
    with http.Client(timeout=0.3) as client:
        with pytest.raises(http.ReadTimeout):
            client.post(**asked(provider, "chat"))
        with pytest.raises((http.ReadError, http.RemoteProtocolError)):
            client.post(**asked(provider, "chat"))

    assert [call.outcome for call in ledger.calls()] == ["timeout_read", "connection"]


async def test_a_cancelled_post_is_cancelled(ledger: Any, provider: Provider, http: Any) -> None:
    provider.script("hang")
    async with http.AsyncClient() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.post(**asked(provider, "chat"))

    assert ledger.call().outcome == "cancelled"


def quiet(http: Any, seen: list[Any]) -> Any:
    """A client that answers itself, and shows the requests that it would have sent."""

    def answer(request: Any) -> Any:
        seen.append(request)
        return http.Response(200, json={"model": GPT, "usage": {"prompt_tokens": 5, "completion_tokens": 5}})

    return http.Client(transport=http.MockTransport(answer))


@pytest.mark.parametrize(
    ("method", "url"),
    [
        pytest.param("POST", "https://shop.example/v1/chat/completions", id="a-host-that-nobody-named"),
        pytest.param("POST", "https://api.openai.com/v1/files", id="a-path-that-costs-nothing"),
        pytest.param("GET", "https://api.openai.com/v1/models", id="a-look"),
        pytest.param("POST", "https://api.openai.com.shop.example/v1/chat/completions", id="a-host-that-ends-so"),
    ],
)
def test_other_traffic_of_the_app_is_none_of_ours(method: str, url: str, ledger: Any, http: Any) -> None:
    seen: list[Any] = []
    with quiet(http, seen) as client:
        client.request(method, url, json={"model": GPT} if method == "POST" else None)

    assert ledger.spans() == []
    assert "traceparent" not in seen[0].headers


@pytest.mark.parametrize(
    ("url", "provider_name"),
    [
        ("https://api.openai.com/v1/chat/completions", "openai"),
        ("https://api.groq.com/openai/v1/chat/completions", "groq"),
        ("https://openrouter.ai/api/v1/chat/completions", "openrouter"),
        ("https://shop.openai.azure.com/openai/deployments/clerk/chat/completions?api-version=1", "azure.ai.openai"),
    ],
)
def test_who_bills_is_told_by_the_host(url: str, provider_name: str, ledger: Any, http: Any) -> None:
    with quiet(http, []) as client:
        client.post(url, json={"model": GPT, "messages": HELLO})

    assert ledger.call().attributes["gen_ai.provider.name"] == provider_name


def test_only_the_named_part_of_a_gateway_bills(provider: Provider, tmp_path: Path, http: Any) -> None:
    with running_receiver() as receiver, quiet(http, []) as client:
        tallystick.instrument(collector=receiver.url, spool=tmp_path, providers={"gate.example/ai": "openai"})
        client.post("https://gate.example/shop/v1/chat/completions", json={"model": GPT})
        client.post("https://gate.example/ai/v1/chat/completions", json={"model": GPT})
        assert tallystick.flush()
        tallystick.uninstrument()

        assert [span.name for span in receiver.spans()] == ["POST", f"chat {GPT}"]


def test_a_failed_send_raises_the_very_error(ledger: Any, http: Any) -> None:
    error = http.ConnectError("the app's own transport says no")

    def refuse(request: Any) -> Any:
        raise error

    with http.Client(transport=http.MockTransport(refuse)) as client, pytest.raises(http.ConnectError) as raised:
        client.post("https://api.openai.com/v1/chat/completions", json={"model": GPT})

    assert raised.value is error
    assert error.__context__ is None
    assert ledger.call().outcome == "connection"


def test_uninstrument_restores_the_identity_of_send(tmp_path: Path, http: Any) -> None:
    places = [http.Client, http.AsyncClient]
    before = [vars(place)["send"] for place in places]
    tallystick.instrument(spool=tmp_path)
    assert all(vars(place)["send"] is not was for place, was in zip(places, before, strict=True))

    tallystick.uninstrument()

    assert all(vars(place)["send"] is was for place, was in zip(places, before, strict=True))


LATE = """
import sys, tallystick
tallystick.instrument(providers={sys.argv[2]: "anthropic"})
assert not {"httpx", "httpx2"} & set(sys.modules)
http = __import__(sys.argv[3])
http.post(sys.argv[1] + "/v1/messages", json={"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []})
"""


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_imported_later_is_patched_then(
    name: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = provider.anthropic_url.partition("://")[2]
    with running_receiver() as receiver:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", receiver.url)
        subprocess.run([sys.executable, "-c", LATE, provider.anthropic_url, place, name], check=True, timeout=60)

        assert [span.name for span in receiver.spans()] == ["POST", f"chat {CLAUDE}"]


OURS = [
    (_foreign, "current_call"), (_foreign, "route_at"), (_foreign, "_is_named"), (_foreign, "_body"),
    (_foreign, "_key"), (_foreign, "_read"), (_attempts, "_Attempt"), (_attempts._Attempt, "answered"),
    (_attempts._Attempt, "failed"), (_call.Call, "attempted"), (_call.Call, "refused"),
    (_call, "otel_context"),
]  # fmt: skip


@pytest.mark.swallows
@pytest.mark.parametrize(("place", "name"), OURS, ids=[name for _, name in OURS])
async def test_a_fault_of_ours_at_any_step_changes_nothing_for_the_app(
    place: Any, name: str, provider: Provider, ledger: Any, oai: Any, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a fault of ours")

    real = getattr(place, name)
    monkeypatch.setattr(
        place, name, SimpleNamespace(set_value=fault, get_value=real.get_value) if name == "otel_context" else fault
    )
    provider.script("200,200,200,401,200")

    with http.Client() as client:
        assert client.post(**asked(provider, "chat")).json()["usage"]
        with client.stream("POST", **asked(provider, "messages", stream=True)) as answer:
            assert "message_stop" in answer.read().decode()
    async with http.AsyncClient() as client:
        assert (await client.post(**asked(provider, "chat"))).json()["usage"]
        assert (await client.post(**asked(provider, "chat"))).status_code == 401
    assert oai.chat.completions.create(model=GPT, messages=HELLO).usage
    assert len(provider.requests()) == 5, "each was sent once"


def instrumentor_of(http: Any) -> Any:
    return HTTPXClientInstrumentor if http.__name__ == "httpx" else HTTPX2ClientInstrumentor


@pytest.fixture
def theirs() -> Iterator[Callable[[], list[Any]]]:
    """The app's own spans, from a provider of its own; nothing global is set."""
    exporter = InMemorySpanExporter()
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))

    def spans() -> list[Any]:
        finished = list(exporter.get_finished_spans())
        exporter.clear()
        return finished

    spans.provider = tracer_provider  # type: ignore[attr-defined]
    yield spans
    tracer_provider.shutdown()


def talk(client: Any) -> None:
    client.chat.completions.create(model=GPT, messages=HELLO)


def said(spans: list[Any], requests: list[dict[str, Any]]) -> list[Any]:
    """Return what the app sees of its own instrumentation: its spans, their parents, what is sent on."""
    ids = {format(span.context.span_id, "016x"): span.name for span in spans}
    return [
        [(span.name, span.parent and ids.get(format(span.parent.span_id, "016x"), "unknown")) for span in spans],
        [ids.get(dict(request["headers"]).get("traceparent", "--").split("-")[2]) for request in requests],
    ]


@pytest.mark.parametrize("order", ["before us", "after us"])
@pytest.mark.parametrize("reach", ["global", "client"])
def test_the_apps_own_http_instrumentation_sees_what_it_sees_without_us(
    reach: str, order: str, provider: Provider, theirs: Any, tmp_path: Path
) -> None:
    client = openai.OpenAI(base_url=provider.openai_url, api_key="k")
    http = import_module(type(client._client).__mro__[-3].__module__.partition(".")[0])
    instrumentor = instrumentor_of(http)()

    def on() -> None:
        if reach == "global":
            instrumentor.instrument(tracer_provider=theirs.provider)
        else:
            instrumentor.instrument_client(client._client, tracer_provider=theirs.provider)

    def run() -> list[Any]:
        count = len(provider.requests())
        with trace.use_span(theirs.provider.get_tracer("app").start_span("page"), end_on_exit=True):
            provider.script("429:retry-after=0.01,200")
            talk(client)
        return said(theirs(), provider.requests()[count:])

    with running_receiver() as receiver:
        if order == "before us":
            on()
        tallystick.instrument(collector=receiver.url, spool=tmp_path, providers=provider.mapping)
        if order == "after us":
            on()
        try:
            beside = run()
            assert tallystick.flush()
            names = sorted(span.name for span in receiver.spans())
            tallystick.uninstrument()
            alone = run()
            count = len(receiver.spans())
        finally:
            tallystick.uninstrument()
            instrumentor.uninstrument() if reach == "global" else instrumentor.uninstrument_client(client._client)
            client.close()

    assert alone == [[("POST", "page"), ("POST", "page"), ("page", None)], ["POST", "POST"]]
    assert beside == alone
    assert names == ["POST", "POST", f"chat {GPT}"]
    assert count == 3, "nothing more after uninstrument()"


def test_a_client_shared_with_an_sdk_sends_the_apps_other_requests_as_they_are(ledger: Any) -> None:
    with openai.OpenAI(api_key="k") as bare:
        http = import_module(type(bare._client).__mro__[-3].__module__.partition(".")[0])
    seen: list[Any] = []
    with quiet(http, seen) as shared:
        talk(openai.OpenAI(api_key="k", http_client=shared))
        shared.post("https://shop.example/orders", json={})

    assert [(str(request.url.host), "traceparent" in request.headers) for request in seen] == [
        ("api.openai.com", False),
        ("shop.example", False),
    ]
    assert len(ledger.calls()) == len(ledger.attempts()) == 1


@pytest.mark.swallows
def test_an_answer_that_we_cannot_read_still_ends_its_call(
    ledger: Any, provider: Provider, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(_call.Call, "answered", fault)
    with http.Client() as client:
        assert client.post(**asked(provider, "chat")).json()["usage"]

    assert (len(ledger.calls()), len(ledger.attempts())) == (1, 1)
