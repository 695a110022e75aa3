"""Units carry the money, not calls: a call may have none, one or several, on several models, at several prices."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import pytest

from fakes.provider import Provider
from fakes.receiver import running_receiver
from tallystick.instrumentation._routes import route_of
from tallystick.instrumentation._websocket import RealtimeMessages
from tallystick.instrumentation._wire import BatchResults, BedrockStream, read_batch
from tallystick.model.failures import Outcome

CLAUDE, OPUS, SONNET = "claude-haiku-4-5", "claude-opus-5-5", "claude-sonnet-5-5"
KEY = "sk-canary-0123456789abcdef-last"
HELLO: Any = [{"role": "user", "content": "Where is my parcel? I have waited for a week, and nobody answers me."}]


def client_with(provider: Provider, *middleware: Any, kind: Any = anthropic.Anthropic) -> Any:
    return kind(base_url=provider.anthropic_url, api_key=KEY, middleware=middleware)


def fallback() -> Any:
    return anthropic.BetaRefusalFallbackMiddleware([{"model": SONNET}])


def check(ledger: Any, provider: Provider) -> Any:
    """One call, whose units are the invoice's items, to the last digit."""
    call = ledger.call()
    items = {item["id"]: Decimal(item["usd"]) for item in provider.invoice()["items"]}
    assert {unit["id"]: Decimal(unit["cost_usd"]) for unit in call.units} == items
    assert {unit["cost_status"] for unit in call.units} == {"exact"}
    return call


# Middleware -----------------------------------------------------------------------------------------------------------


def test_a_fallback_is_a_second_unit_of_the_one_call(ledger: Any, provider: Provider) -> None:
    provider.script("refusal:credit,200")
    with client_with(provider, fallback()) as client, anthropic.BetaFallbackState():
        answer = client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO)

    assert answer.model == SONNET
    call = check(ledger, provider)
    assert [unit["model"] for unit in call.units] == [OPUS, SONNET]
    assert (call.outcome, call.attributes["tallystick.attempts"]) == ("ok", 2)
    assert {attempt.parent for attempt in ledger.attempts()} == {call.id}


@pytest.mark.parametrize("raw", [False, True], ids=["stream", "helper"])
def test_a_fallback_that_is_asked_while_the_app_reads_is_of_the_call_that_returned(
    raw: bool, ledger: Any, provider: Provider
) -> None:
    provider.script("refusal:credit,200")
    with client_with(provider, fallback()) as client, anthropic.BetaFallbackState():
        if raw:
            with client.beta.messages.stream(model=OPUS, max_tokens=200, messages=HELLO) as stream:
                events = list(stream)
        else:
            events = list(client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=True))

    assert events
    call = check(ledger, provider)
    assert [unit["model"] for unit in call.units] == [OPUS, SONNET]
    assert (call.outcome, call.attributes["tallystick.attempts"]) == ("ok", 2)
    assert not any(unit["estimated"] for unit in call.units), "a refused stream has said its usage"
    assert {attempt.parent for attempt in ledger.attempts()} == {call.id}
    assert call.end_ns >= max(attempt.end_ns for attempt in ledger.attempts())


async def test_a_fallback_while_the_app_reads_async(ledger: Any, provider: Provider) -> None:
    provider.script("refusal:credit,200")
    async with client_with(provider, fallback(), kind=anthropic.AsyncAnthropic) as client:
        with anthropic.BetaFallbackState():
            async for _ in await client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=True):
                pass

    call = check(ledger, provider)
    assert [unit["model"] for unit in call.units] == [OPUS, SONNET]
    assert (call.outcome, call.attributes["tallystick.attempts"]) == ("ok", 2)


def test_a_stream_that_nobody_refused_passes_through_the_middleware_as_one_unit(
    ledger: Any, provider: Provider
) -> None:
    with client_with(provider, fallback()) as client:
        list(client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=True))

    assert len(check(ledger, provider).units) == 1
    assert ledger.call().outcome == "ok"


def test_a_spliced_stream_that_is_left_early_ends_the_call_and_keeps_both_units(
    ledger: Any, provider: Provider
) -> None:
    provider.script("refusal:credit,slow:body=0.01")
    with client_with(provider, fallback()) as client, anthropic.BetaFallbackState():
        stream = client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=True)
        for event in stream:
            if event.type == "content_block_start" and event.content_block.type == "fallback":
                break
        next(iter(stream))
        stream.close()

    call = ledger.call()
    assert call.outcome == "abandoned"
    assert [(unit["model"], unit["estimated"]) for unit in call.units] == [(OPUS, False), (SONNET, True)]


def test_when_everybody_refuses_the_call_is_a_refusal_and_each_is_billed(ledger: Any, provider: Provider) -> None:
    provider.script("refusal:credit,refusal:credit")
    with client_with(provider, fallback()) as client, anthropic.BetaFallbackState():
        list(client.beta.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=True))

    assert check(ledger, provider).outcome == "refusal"


def test_what_a_middleware_remembers_costs_nothing(ledger: Any, provider: Provider) -> None:
    remembered: list[Any] = []

    def cache(request: Any, call_next: Callable[[Any], Any]) -> Any:
        if not remembered:
            remembered.append(call_next(request).parse())
        return remembered[0]

    with client_with(provider, cache) as client:
        first, second = (client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO) for _ in range(2))

    assert first.usage == second.usage
    asked, cached = ledger.calls()
    assert (len(asked.units), len(cached.units)) == (1, 0)
    assert cached.attributes["tallystick.attempts"] == 0
    assert len(provider.invoice()["items"]) == 1


def test_models_that_a_middleware_asks_in_threads_are_of_its_call(ledger: Any, provider: Provider) -> None:
    def hedge(request: Any, call_next: Callable[[Any], Any]) -> Any:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(call_next(request))) for _ in range(2)]
        for thread in threads:
            thread.start()
        answers.insert(0, call_next(request))
        for thread in threads:
            thread.join()
        return answers[0]

    with client_with(provider, hedge) as client:
        client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO)

    assert len(check(ledger, provider).units) == 3
    assert ledger.call().attributes["tallystick.attempts"] == 3


def test_what_a_middleware_asks_after_its_call_has_ended_is_a_call_of_its_own(ledger: Any, provider: Provider) -> None:
    go_on, threads = threading.Event(), []

    def later(request: Any, call_next: Callable[[Any], Any]) -> Any:
        def ask() -> None:
            assert go_on.wait(20)
            call_next(request)

        threads.append(threading.Thread(target=ask))
        threads[0].start()
        return call_next(request)

    with client_with(provider, later) as client:
        client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO)
        go_on.set()
        threads[0].join()

    assert [len(call.units) for call in ledger.calls()] == [1, 1]
    assert {call.units[0]["id"] for call in ledger.calls()} == {item["id"] for item in provider.invoice()["items"]}


# Prices that one usage has several of ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("script", "more", "attribute"),
    [
        pytest.param("200:compaction=700", {}, None, id="a-compaction-outside-the-totals"),
        pytest.param("200", {"inference_geo": "us"}, ("tallystick.inference_geo", "us"), id="geography"),
        pytest.param("200", {"speed": "fast"}, ("tallystick.speed", "fast"), id="speed"),
        pytest.param("200:web_search=3", {}, ("tallystick.web_search_requests", 3), id="server-tools"),
    ],
)
def test_what_moves_the_price_is_on_the_span_and_priced(
    script: str, more: dict[str, Any], attribute: Any, stream: bool, ledger: Any, provider: Provider, ant: Any
) -> None:
    provider.script(script)
    answer = ant.messages.create(model=OPUS, max_tokens=200, messages=HELLO, stream=stream, extra_body=more)
    if stream:
        list(answer)

    call = check(ledger, provider)
    if attribute:
        assert call.attributes[attribute[0]] == attribute[1]


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_the_tier_that_served_is_on_the_span_and_priced(tier: Any, ledger: Any, provider: Provider, oai: Any) -> None:
    oai.responses.create(model="gpt-5-mini", input="Where is my parcel?", service_tier=tier)

    assert check(ledger, provider).attributes["tallystick.service_tier"] == tier


def test_the_usual_tier_is_not_worth_an_attribute(ledger: Any, ant: Any) -> None:
    ant.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO)

    assert "tallystick.service_tier" not in ledger.call().attributes
    assert "tallystick.speed" not in ledger.call().attributes


# Encodings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_a_stream_that_the_http_library_can_decode_is_read(
    coding: str, ledger: Any, provider: Provider, ant: Any
) -> None:
    request = ant._client.build_request("GET", "/")
    if coding not in request.headers["accept-encoding"]:
        pytest.skip(f"absent: this HTTP library does not advertise {coding}")
    provider.script(coding)
    list(ant.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, stream=True))

    assert check(ledger, provider).outcome == "ok"


UNREADABLE = """
import sys
sys.modules["brotli"] = sys.modules["brotlicffi"] = None
import tallystick
tallystick.instrument(providers={sys.argv[2]: "anthropic"})
import anthropic
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="k")
with client.messages.with_streaming_response.create(
    model="claude-haiku-4-5", max_tokens=300, stream=True, messages=[{"role": "user", "content": "hello"}],
    extra_headers={"x-mock-script": "br"},
) as response:
    print(sum(len(chunk) for chunk in response.http_response.iter_raw()))
"""


def test_an_encoding_that_nobody_can_undo_is_unknown_and_the_app_gets_its_bytes(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = provider.anthropic_url.partition("://")[2]
    with running_receiver() as receiver:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", receiver.url)
        command = [sys.executable, "-W", "ignore", "-c", UNREADABLE, provider.anthropic_url, place]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        [call] = [span for span in receiver.spans() if span.name == "chat claude-haiku-4-5"]

    said = {item.key: item.value.string_value for item in call.attributes}
    assert int(ended.stdout) > 0
    assert "tallystick" not in ended.stderr
    assert (said["tallystick.outcome"], said["tallystick.cost.status"]) == ("ok", "unknown")


# The binary stream ----------------------------------------------------------------------------------------------------


def test_a_bedrock_stream_may_be_cut_anywhere(provider: Provider) -> None:
    from tallystick.mock.answers import Frame

    frames = [
        Frame("message_start", {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 9}}}, 0),
        Frame("message_delta", {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}, 7),
        Frame("message_stop", {"type": "message_stop"}, 7),
    ]
    body = b"".join(frame.packed() for frame in frames)
    for size in range(1, 40):
        reader = BedrockStream()
        for start in range(0, len(body), size):
            reader.feed(body[start : start + size])

        assert reader.complete
        assert reader.answer.usage == {"input_tokens": 9, "output_tokens": 7}


@pytest.mark.parametrize("size", [0, 15, 2**32 - 1])
def test_a_bedrock_message_of_an_impossible_length_is_refused(size: int) -> None:
    reader = BedrockStream()
    with pytest.raises(ValueError, match=str(size)):
        reader.feed(size.to_bytes(4) + bytes(40))


# What is a call, and how it ended -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "url", "reads"),
    [
        ("post", "/v1/messages?beta=true", "answer"),
        ("post", "/responses/compact", "answer"),
        ("post", "/responses/resp_1/cancel", "stored"),
        ("get", "/responses/resp_1", "stored"),
        ("get", "/responses/resp_1?stream=true", "stored"),
        ("get", "/responses/resp_1/input_items", None),
        ("get", "/v1/messages/batches/msgbatch_1", None),
        ("get", "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results", "results"),
        ("get", "https://llm.example/claude/v1/messages/batches/msgbatch_1/results", "results"),
        ("get", "/batches/batch_1", "batch"),
        ("get", "/batches", None),
        ("post", "/batches", None),
        ("post", "/videos/video_1/remix", "job"),
        ("get", "/videos/video_1", None),
        ("delete", "/responses/resp_1", None),
    ],
)
def test_which_requests_are_calls(method: str, url: str, reads: str | None) -> None:
    route = route_of(method, url)

    assert (route and route.reads) == reads


@pytest.mark.parametrize(
    ("ended", "outcome", "code"),
    [
        ({"status": "completed"}, Outcome.OK, None),
        ({"status": "cancelled", "status_details": {"reason": "turn_detected"}}, Outcome.CANCELLED, None),
        ({"status": "incomplete", "status_details": {"reason": "max_output_tokens"}}, Outcome.TRUNCATED, None),
        ({"status": "incomplete", "status_details": {"reason": "content_filter"}}, Outcome.REFUSAL, None),
        (
            {"status": "failed", "status_details": {"error": {"type": "x", "code": "rate_limit_exceeded"}}},
            Outcome.RATE_LIMITED,
            "rate_limit_exceeded",
        ),
    ],
)
def test_how_a_realtime_response_ended(ended: dict[str, Any], outcome: Outcome, code: str | None) -> None:
    reader = RealtimeMessages()
    usage = {"input_tokens": 3, "output_tokens": 5}
    reader.feed(json.dumps({"type": "response.done", "response": {"id": "resp_1", "usage": usage, **ended}}).encode())

    assert reader.complete
    assert (reader.answer.id, reader.answer.usage) == ("resp_1", usage)
    assert (reader.answer.outcome, reader.answer.error_code) == (outcome, code)


@pytest.mark.parametrize(
    ("batch", "is_pending"),
    [
        ({"status": "in_progress", "usage": {"input_tokens": 0, "output_tokens": 0}}, True),
        ({"status": "finalizing"}, True),
        ({"status": "completed", "usage": {"input_tokens": 9, "output_tokens": 7}}, False),
        ({"status": "expired", "usage": {"input_tokens": 9, "output_tokens": 7}}, False),
    ],
)
def test_a_batch_is_billed_when_it_has_ended(batch: dict[str, Any], is_pending: bool) -> None:
    answer = read_batch({"id": "batch_1", "endpoint": "/v1/embeddings", "model": "m", **batch})

    assert (answer.is_pending, answer.is_batch, answer.api) == (is_pending, True, "embeddings")


def test_half_a_line_of_results_is_no_unit() -> None:
    line = json.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": {"id": "m", "usage": {}}}}).encode()
    reader = BatchResults()
    for start in range(0, len(line) * 2, 7):
        reader.feed((line + b"\n" + line)[start : start + 7])
    reader.feed(b"\n" + line[:40])
    reader.end()

    assert [answer.id for answer in reader.answers] == ["m", "m"]
