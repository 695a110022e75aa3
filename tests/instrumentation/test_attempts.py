"""What an attempt tells: its class, the provider's word, the room that is left, and how long it had been waited for."""

from __future__ import annotations

import threading
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from fakes.provider import Provider
from tallystick.instrumentation._attempts import answer_facts, rate_limits

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
DATE = "Fri, 20 Nov 2026 12:00:00 GMT"


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, **more)


def message(client: Any, **more: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, **more)


@pytest.mark.parametrize(
    ("header", "value", "attribute", "expected"),
    [
        ("x-ratelimit-limit-requests", "10000", "requests.limit", 10000),
        ("x-ratelimit-remaining-tokens", "149984", "tokens.remaining", 149984),
        ("x-ratelimit-reset-requests", "12ms", "requests.reset_s", 0.012),
        ("x-ratelimit-reset-tokens", "1m3s", "tokens.reset_s", 63.0),
        ("x-ratelimit-reset-tokens", "6m0s", "tokens.reset_s", 360.0),
        ("x-ratelimit-reset-tokens", "1.5s", "tokens.reset_s", 1.5),
        ("x-ratelimit-reset-tokens", "1s20ms", "tokens.reset_s", 1.02),
        ("x-ratelimit-reset-tokens", "2d4h1m", "tokens.reset_s", 187260.0),
        ("anthropic-ratelimit-requests-limit", "50", "requests.limit", 50),
        ("anthropic-ratelimit-input-tokens-remaining", "39000", "input_tokens.remaining", 39000),
        ("anthropic-ratelimit-output-tokens-reset", "2026-11-20T12:00:07Z", "output_tokens.reset_s", 7.0),
        ("anthropic-ratelimit-tokens-reset", "2026-11-20T13:00:30+01:00", "tokens.reset_s", 30.0),
        ("anthropic-ratelimit-tokens-reset", "2026-11-20T11:00:00Z", "tokens.reset_s", 0.0),
    ],
)
def test_the_room_that_is_left_is_in_counts_and_seconds(
    header: str, value: str, attribute: str, expected: float
) -> None:
    assert rate_limits({header: value, "date": DATE}) == {f"tallystick.ratelimit.{attribute}": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-ratelimit-limit-requests", "many"),
        ("x-ratelimit-limit-requests", "-1"),
        ("x-ratelimit-reset-requests", ""),
        ("x-ratelimit-reset-requests", "soon"),
        ("x-ratelimit-reset-requests", "1x"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-20"),
        ("anthropic-ratelimit-other-limit", "4"),
        ("x-ratelimit-reset", "1732104000"),
        ("ratelimit-limit", "4"),
    ],
)
def test_a_limit_that_nobody_understands_is_left_out(header: str, value: str) -> None:
    assert rate_limits({header: value, "date": DATE}) == {}


def said(ledger: Any, *names: str) -> list[tuple[Any, ...]]:
    return [
        tuple(attempt.attributes.get(f"tallystick.attempt.{name}") for name in names)
        for attempt in sorted(ledger.attempts(), key=lambda attempt: attempt.start_ns)
    ]


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_every_answer_shows_the_room_that_is_left(ledger: Any, oai: Any, ant: Any, sdk: str) -> None:
    chat(oai) if sdk == "openai" else message(ant)

    [attempt] = ledger.attempts()
    limit = 10000 if sdk == "openai" else 4000
    found = {name: attempt.attributes[f"tallystick.ratelimit.requests.{name}"] for name in ("limit", "remaining")}
    assert found == {"limit": limit, "remaining": limit}
    assert 0 <= attempt.attributes["tallystick.ratelimit.tokens.reset_s"] <= 2


def test_a_quota_that_the_sdk_asks_again_in_vain_is_a_quota_each_time(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    provider.script("quota,quota,quota")
    with pytest.raises(openai.RateLimitError):
        chat(oai)

    assert said(ledger, "outcome", "code") == [("quota", "insufficient_quota")] * 3
    assert ledger.call().outcome == "quota"


async def test_a_quota_is_told_from_a_rate_limit_between_attempts(
    ledger: Any, provider: Provider, async_oai: Any
) -> None:
    provider.script("429:retry-after-ms=5,quota,503,200")
    await chat(async_oai.with_options(max_retries=3))

    assert said(ledger, "outcome", "retry_after_s") == [
        ("rate_limited", 0.005),
        ("quota", None),
        ("overloaded", None),
        ("ok", None),
    ]


class Refusing:
    """An answer whose body nobody has read yet."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers = httpx2.Headers({"X-Should-Retry": "false"})

    @property
    def content(self) -> bytes:
        raise RuntimeError("not read")


def test_a_body_that_the_client_did_not_read_is_not_read_by_us() -> None:
    assert answer_facts(Refusing(429))["tallystick.attempt.outcome"] == "rate_limited"


@pytest.mark.parametrize(
    ("script", "outcome", "code"),
    [
        pytest.param("quota,quota", "quota", "insufficient_quota", id="quota"),
        pytest.param("429,429", "rate_limited", "rate_limit_exceeded", id="rate-limit"),
        pytest.param("429,200", "ok", None, id="rate-limit-that-passed"),
    ],
)
def test_a_streams_quota_is_told_from_a_rate_limit_when_the_call_ends(
    script: str, outcome: str, code: str | None, ledger: Any, provider: Provider, oai: Any
) -> None:
    """The client reads the body of its last answer alone."""
    provider.script(script)
    try:
        list(chat(oai.with_options(max_retries=1), stream=True))
    except openai.RateLimitError:
        assert outcome != "ok"

    refused = "quota" if outcome == "quota" else "rate_limited"
    last = ("ok", None) if outcome == "ok" else (refused, code if outcome == "quota" else None)
    assert said(ledger, "outcome", "code") == [(refused, code if outcome == "quota" else None), last]
    assert ledger.call().outcome == outcome
    assert {attempt.parent for attempt in ledger.attempts()} == {ledger.call().id}


@pytest.mark.parametrize(("asked", "retried"), [("true", True), ("false", False)])
def test_what_the_server_thinks_of_a_retry_is_kept(
    ledger: Any, provider: Provider, ant: Any, asked: str, retried: bool
) -> None:
    provider.script(f"429:should-retry={asked}:retry-after-ms=5,200")
    try:
        message(ant)
    except anthropic.RateLimitError:
        assert not retried

    assert said(ledger, "should_retry")[0] == (asked == "true",)
    assert len(ledger.attempts()) == (2 if retried else 1)


def test_the_real_wait_stands_beside_what_was_asked(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("429:retry-after=0.1,429:retry-after-ms=40,200")
    chat(oai)

    (first, first_asked), (second, second_asked), (third, third_asked) = said(ledger, "waited_s", "retry_after_s")
    assert (first, first_asked) == (None, 0.1)
    assert second >= 0.1
    assert second_asked == 0.04
    assert third >= 0.04
    assert third_asked is None
    first_sent, second_sent, third_sent = ledger.attempts()
    assert second >= (second_sent.start_ns - first_sent.end_ns) / 1e9
    assert third >= (third_sent.start_ns - second_sent.end_ns) / 1e9


def test_a_timeout_is_waited_for_and_named(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("hang,200")
    chat(oai.with_options(timeout=0.3, max_retries=1))

    (phase, none), (answered, waited_s) = said(ledger, "outcome", "waited_s")
    assert (phase, none, answered) == ("timeout_read", None, "ok")
    assert waited_s > 0.2, "the SDK's own backoff, of half a second less a random part"


def test_what_an_error_says_in_words_is_not_kept(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("401")
    with pytest.raises(openai.AuthenticationError) as raised:
        chat(oai)

    text = raised.value.body["message"]  # type: ignore[index]
    assert text
    assert not any(text in str(value) for span in ledger.spans() for value in span.attributes.values())


def test_a_finished_attempt_is_on_the_ledger_while_the_sdk_waits_to_ask_again(
    ledger: Any, provider: Provider, oai: Any
) -> None:
    """A process that is killed then has shown what its provider answered."""
    provider.script("429:retry-after=1,200")
    calling = threading.Thread(target=chat, args=(oai,))
    calling.start()
    while not said(ledger, "outcome"):
        time.sleep(0.01)
    waiting = calling.is_alive()
    calling.join()

    assert waiting
    assert said(ledger, "outcome") == [("rate_limited",), ("ok",)]


def test_the_attempt_of_a_stream_is_on_the_ledger_before_the_stream_has_ended(ledger: Any, oai: Any) -> None:
    with chat(oai, stream=True) as stream:
        next(iter(stream))

        assert said(ledger, "outcome") == [("ok",)]
        assert ledger.calls() == []


def test_an_answer_after_which_the_call_goes_on_is_on_the_ledger_then(
    ledger: Any, provider: Provider, ant: Any
) -> None:
    """Client middleware may ask again, or wait, after an answer that seemed to be the last."""
    seen = []

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        seen.append(said(ledger, "outcome"))
        answer = call_next(request)
        seen.append(said(ledger, "outcome"))
        return answer

    message(ant.with_options(middleware=[twice]))

    assert seen == [[], [("ok",)]], "the last is written with its call"
    assert said(ledger, "outcome") == [("ok",), ("ok",)]
    assert len(ledger.calls()) == 1
