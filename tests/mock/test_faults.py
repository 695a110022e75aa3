"""Every fault that a script can ask for, as the real SDKs feel it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from fakes.provider import Provider
from tallystick.mock.scripts import STEPS, BadScriptError, parse

MODEL = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-4o-mini"}
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
BOTH = pytest.mark.parametrize("name", ["anthropic", "openai"])

Ask = Callable[..., Any]


@pytest.fixture
def ask(claude: Anthropic, gpt: OpenAI) -> Ask:
    """Return a function that asks one of the two, without retries unless told otherwise."""

    def ask(name: str, script: str, *, retries: int = 0, stream: bool = False, timeout: float = 60.0) -> Any:
        extra: dict[str, Any] = {"extra_headers": {"x-mock-script": script}, "stream": stream}
        options: dict[str, Any] = {"max_retries": retries, "timeout": timeout}
        if name == "anthropic":
            messages = claude.with_options(**options).messages
            answer = messages.create(model=MODEL[name], max_tokens=500, messages=HELLO, **extra)
        else:
            completions = gpt.with_options(**options).chat.completions
            answer = completions.create(model=MODEL[name], messages=HELLO, **extra)
        return list(answer) if stream else answer

    return ask


@pytest.mark.parametrize(
    ("name", "step", "status", "code"),
    [
        ("anthropic", "401", 401, "authentication_error"),
        ("anthropic", "403", 403, "permission_error"),
        ("anthropic", "404", 404, "not_found_error"),
        ("anthropic", "413", 413, "request_too_large"),
        ("anthropic", "429", 429, "rate_limit_error"),
        ("anthropic", "quota", 402, "billing_error"),
        ("anthropic", "500", 500, "api_error"),
        ("anthropic", "503", 503, "api_error"),
        ("anthropic", "504", 504, "timeout_error"),
        ("anthropic", "529", 529, "overloaded_error"),
        ("anthropic", "context_length", 400, "invalid_request_error"),
        ("openai", "401", 401, "invalid_api_key"),
        ("openai", "404", 404, "model_not_found"),
        ("openai", "429", 429, "rate_limit_exceeded"),
        ("openai", "quota", 429, "insufficient_quota"),
        ("openai", "500", 500, None),
        ("openai", "503", 503, None),
        ("openai", "529", 503, "server_overloaded"),
        ("openai", "context_length", 400, "context_length_exceeded"),
    ],
)
def test_errors_have_the_providers_status_and_words(
    ask: Ask, provider: Provider, name: str, step: str, status: int, code: str | None
) -> None:
    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as caught:
        ask(name, step)

    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert (body["error"]["type"] if name == "anthropic" else body["code"]) == code
    assert provider.invoice()["items"] == [], "an error answer is not billed"


def test_a_wrong_key_and_no_key_are_refused(provider: Provider) -> None:
    with (
        Anthropic(base_url=provider.anthropic_url, api_key="wrong") as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model=MODEL["anthropic"], max_tokens=5, messages=HELLO)
    assert _post(provider, "/openai/v1/chat/completions", {"model": "m", "messages": HELLO})[0] == 401


@BOTH
def test_a_script_is_used_up_attempt_by_attempt(ask: Ask, provider: Provider, name: str) -> None:
    ask(name, "429:retry-after=0.01,500:retry-after-ms=10,200", retries=2)

    seen = provider.requests()
    assert [request["status"] for request in seen] == [429, 500, 200]
    assert [item["attempt"] for item in provider.invoice()["items"]] == [2]


@BOTH
def test_a_script_that_is_used_up_begins_anew(ask: Ask, provider: Provider, name: str) -> None:
    for _ in range(2):
        ask(name, "429:retry-after=0.01,200", retries=1)

    assert [request["status"] for request in provider.requests()] == [429, 200, 429, 200]


@pytest.mark.parametrize("wanted", ["retry-after=0.4", "retry-after-ms=400", "retry-after=date+2"])
@BOTH
def test_clients_wait_as_long_as_they_are_told(ask: Ask, provider: Provider, name: str, wanted: str) -> None:
    ask(name, f"429:{wanted},200", retries=1)

    first, second = (request["monotonic_s"] for request in provider.requests())
    # A date has whole seconds; so of two of them up to one is lost.
    assert second - first >= 0.4


def test_a_client_that_is_told_not_to_retry_does_not(ask: Ask, provider: Provider) -> None:
    with pytest.raises(anthropic.RateLimitError):
        ask("anthropic", "429:should-retry=false,200", retries=2)

    assert len(provider.requests()) == 1


@BOTH
@pytest.mark.parametrize("step", ["reset", "cut", "hang"])
def test_a_connection_that_breaks_is_a_connection_error(ask: Ask, provider: Provider, name: str, step: str) -> None:
    with pytest.raises((anthropic.APIConnectionError, openai.APIConnectionError, Exception)) as caught:
        ask(name, step, timeout=1.0)

    kinds = {type(error).__name__ for error in (caught.value, caught.value.__cause__) if error}
    expected = {"reset": "ReadError", "cut": "RemoteProtocolError", "hang": "ReadTimeout"}[step]
    assert expected in kinds
    billed = [item["cut"] for item in provider.invoice()["items"]]
    assert billed == (["connection"] if step == "cut" else [])


@BOTH
def test_an_answer_that_was_made_but_never_arrived_is_billed_when_the_script_says_so(
    ask: Ask, provider: Provider, name: str
) -> None:
    ask(name, "reset:billed,200", retries=1)

    assert [item["cut"] for item in provider.invoice()["items"]] == ["undelivered", None]


@BOTH
def test_a_stream_that_is_cut_breaks_and_is_billed_for_what_had_been_written(
    ask: Ask, provider: Provider, name: str
) -> None:
    whole = len(ask(name, "200:output=200", stream=True))
    with pytest.raises(Exception, match=r"peer closed connection|Connection error"):
        ask(name, "cut:after=6:output=200", stream=True)

    full, cut = provider.invoice()["items"]
    assert whole > 20
    assert full["cut"] is None
    assert cut["cut"] == "connection"
    assert cut["counts"]["input"] == full["counts"]["input"]
    assert 0 < cut["counts"]["output"] < full["counts"]["output"] == 200
    assert 0 < float(cut["usd"]) < float(full["usd"])


@BOTH
def test_a_stream_that_is_cut_before_its_first_event_is_billed_for_its_input(
    ask: Ask, provider: Provider, name: str
) -> None:
    with pytest.raises(Exception, match=r"peer closed connection|Connection error"):
        ask(name, "cut:after=0", stream=True)

    (item,) = provider.invoice()["items"]
    assert (item["cut"], item["counts"]["output"]) == ("connection", 0)
    assert item["counts"]["input"] > 0


@BOTH
def test_a_stream_that_the_client_leaves_is_billed_for_what_had_been_written(
    claude: Anthropic, gpt: OpenAI, provider: Provider, name: str
) -> None:
    headers = {"x-mock-script": "slow:body=0.05:output=400"}
    stream: Any
    if name == "anthropic":
        stream = claude.messages.create(
            model=MODEL[name], max_tokens=500, messages=HELLO, stream=True, extra_headers=headers
        )
    else:
        stream = gpt.chat.completions.create(model=MODEL[name], messages=HELLO, stream=True, extra_headers=headers)
    for _ in range(5):
        next(stream)
    stream.close()

    (item,) = _until(lambda: provider.invoice()["items"])
    assert item["cut"] == "client"
    assert item["counts"]["output"] < 400


@BOTH
def test_an_error_event_ends_a_stream(ask: Ask, provider: Provider, name: str) -> None:
    with pytest.raises((anthropic.APIStatusError, openai.APIError)):
        ask(name, "sse-error:after=4", stream=True)

    assert [item["cut"] for item in provider.invoice()["items"]] == ["error"]


@BOTH
def test_a_stream_without_its_terminal_marker_ends_in_silence(ask: Ask, provider: Provider, name: str) -> None:
    events = ask(name, "unterminated", stream=True)

    assert events
    assert "message_stop" not in {getattr(event, "type", None) for event in events}
    assert [item["cut"] for item in provider.invoice()["items"]] == ["unterminated"]


def test_a_response_fails_under_way_with_its_usage(gpt: OpenAI) -> None:
    headers = {"x-mock-script": "failed:after=6"}
    events = list(gpt.responses.create(model="gpt-4o-mini", input="Hello", stream=True, extra_headers=headers))
    whole = gpt.responses.create(model="gpt-4o-mini", input="Hello", extra_headers=headers)

    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert events[-1].response.usage.output_tokens > 0
    assert (whole.status, whole.error.code) == ("failed", "server_error")


def test_an_error_event_of_a_response_raises_nothing(gpt: OpenAI) -> None:
    headers = {"x-mock-script": "sse-error:after=5"}

    events = list(gpt.responses.create(model="gpt-4o-mini", input="Hello", stream=True, extra_headers=headers))

    assert events[-1].type == "error"


def test_a_model_refuses(ask: Ask, gpt: OpenAI, provider: Provider) -> None:
    message = ask("anthropic", "refusal")
    completion = ask("openai", "refusal")
    filtered = ask("openai", "content_filter")
    response = gpt.responses.create(model="gpt-4o-mini", input="Hello", extra_headers={"x-mock-script": "refusal"})

    assert message.stop_reason == "refusal"
    assert message.stop_details.type == "refusal"
    assert completion.choices[0].message.refusal
    assert filtered.choices[0].finish_reason == "content_filter"
    assert response.output[0].content[0].type == "refusal"
    assert len(provider.invoice()["items"]) == 4, "a refusal is paid"


def test_an_answer_is_truncated_on_request(ask: Ask) -> None:
    assert ask("anthropic", "truncated").stop_reason == "max_tokens"
    assert ask("openai", "truncated").choices[0].finish_reason == "length"


@BOTH
def test_half_a_body_is_no_json(ask: Ask, provider: Provider, name: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        ask(name, "bad-json")

    assert [item["cut"] for item in provider.invoice()["items"]] == ["garbled"]


@BOTH
def test_a_page_of_html_is_no_answer_and_not_billed(ask: Ask, provider: Provider, name: str) -> None:
    assert "Bad Gateway" in ask(name, "html")
    assert provider.invoice()["items"] == []


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("flavour", ["gzip", "crlf", "200:gzip:crlf"])
def test_encodings_and_line_ends_change_nothing_for_the_app(ask: Ask, name: str, stream: bool, flavour: str) -> None:
    plain, packed = (ask(name, script, stream=stream) for script in ("200", flavour))

    if stream:
        assert len(plain) == len(packed) > 5
    else:
        assert plain.usage == packed.usage


@BOTH
def test_a_slow_answer_comes_late_in_headers_and_body(ask: Ask, name: str) -> None:
    started = time.monotonic()
    ask(name, "slow:headers=0.2:body=0.2")

    assert time.monotonic() - started >= 0.4


def test_counts_can_be_dictated(ask: Ask) -> None:
    usage = ask("anthropic", "200:input=1200:output=350:cache_read=800:cache_write_1h=90").usage

    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (1200, 350, 800)
    assert usage.cache_creation.ephemeral_1h_input_tokens == 90


async def test_async_clients_feel_the_same(async_claude: AsyncAnthropic, async_gpt: AsyncOpenAI) -> None:
    headers = {"x-mock-script": "cut:after=6"}
    stream: Any = await async_claude.messages.create(
        model=MODEL["anthropic"], max_tokens=500, messages=HELLO, stream=True, extra_headers=headers
    )
    with pytest.raises(Exception, match="peer closed connection"):
        async for _ in stream:
            pass
    retried = {"x-mock-script": "503:retry-after-ms=5,200"}
    completion = await async_gpt.chat.completions.create(model=MODEL["openai"], messages=HELLO, extra_headers=retried)
    assert completion.choices


def test_a_script_can_be_laid_down_for_clients_that_set_no_headers(claude: Anthropic, provider: Provider) -> None:
    laid = _post(provider, "/_mock/script", {"script": "529:retry-after-ms=5,200", "match": {"provider": "anthropic"}})
    _ask = claude.messages.create(model=MODEL["anthropic"], max_tokens=50, messages=HELLO)
    claude.messages.create(model=MODEL["anthropic"], max_tokens=50, messages=HELLO)

    assert laid[0] == 200
    assert [request["status"] for request in provider.requests()] == [529, 200, 200]


def test_a_laid_down_script_leaves_others_alone(ask: Ask, gpt: OpenAI, provider: Provider) -> None:
    provider.script("500", model="gpt-4o")
    provider.script("500", provider="anthropic")

    gpt.chat.completions.create(model="gpt-5.4-mini", messages=HELLO)
    with pytest.raises(openai.InternalServerError):
        gpt.with_options(max_retries=0).chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    provider.clear_scripts()
    ask("anthropic", "200")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", "has no step"),
        ("teapot", "unknown step 'teapot'.*known: 200, 429"),
        ("200:sugar=2", "unknown option 'sugar'.*known: after, billed"),
    ],
)
def test_a_bad_script_is_refused_with_what_is_known(script: str, complaint: str) -> None:
    with pytest.raises(BadScriptError, match=complaint):
        parse(script)


def test_a_bad_script_in_a_header_is_told_to_the_client(ask: Ask) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown step 'teapot'"):
        ask("openai", "teapot")


def test_every_step_is_told_by_the_index(provider: Provider) -> None:
    connection = HTTPConnection("127.0.0.1", provider.port, timeout=20)
    connection.request("GET", "/")
    told = json.loads(connection.getresponse().read())
    connection.close()

    assert set(told["steps"]) == set(STEPS)


def _post(provider: Provider, path: str, body: Any) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", provider.port, timeout=20)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found
