"""What the app repeats by itself is one piece of work; what merely looks alike is not."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import tallystick
from fakes.provider import Provider
from tallystick.instrumentation import _attempts, _hooks, _links, _markers
from tallystick.instrumentation._digests import Digests, Look
from tallystick.instrumentation._links import QUOTED_WITHIN_S, WITHIN_S, Asked, Scope, decide
from tallystick.instrumentation._otlp import Ids
from tallystick.model.failures import Outcome

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
LONGER: Any = [*HELLO, {"role": "assistant", "content": "{oops"}, {"role": "user", "content": "That is no JSON."}]
OTHER: Any = [{"role": "user", "content": "Where is my house?"}]
DIGESTS = Digests(b"s" * 32)


def look(messages: Any = HELLO, model: str = GPT, **more: Any) -> Look:
    return DIGESTS.look({"model": model, "messages": messages, **more}, "chat")


FAILED = Asked(
    id="a1", ids=Ids(0, 0), look=look(), provider="openai", model=GPT, api="chat", tags={},
    started_s=99.0, ended_s=100.0, outcome=Outcome.RATE_LIMITED,
)  # fmt: skip
ANSWERED = replace(FAILED, outcome=Outcome.OK)
NOW = replace(FAILED, id="b2", started_s=101.0, ended_s=None, outcome=Outcome.OK)


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [
        pytest.param(None, {}, None, id="nothing-before"),
        pytest.param(FAILED, {}, "retry", id="same-after-a-failure"),
        pytest.param(ANSWERED, {}, None, id="same-after-an-answer-is-a-repeated-call"),
        pytest.param(FAILED, {"look": look(OTHER)}, None, id="another-question"),
        pytest.param(FAILED, {"look": look(temperature=1)}, "retry", id="same-question-with-other-options"),
        pytest.param(FAILED, {"look": look(model="gpt-4o"), "model": "gpt-4o"}, "fallback", id="another-model"),
        pytest.param(FAILED, {"provider": "anthropic", "model": CLAUDE}, "fallback", id="another-provider"),
        pytest.param(FAILED, {"started_s": 100.0 + WITHIN_S}, "retry", id="just-in-time"),
        pytest.param(FAILED, {"started_s": 100.1 + WITHIN_S}, None, id="too-late"),
        pytest.param(FAILED, {"started_s": 99.9}, None, id="before-it-ended"),
        pytest.param(replace(FAILED, ended_s=None), {}, None, id="still-in-flight"),
        pytest.param(FAILED, {"tags": {"user.id": "another"}}, None, id="another-users"),
        pytest.param(FAILED, {"look": None}, None, id="looks-unknown"),
        pytest.param(replace(FAILED, look=None), {}, None, id="former-looks-unknown"),
        pytest.param(replace(FAILED, outcome=Outcome.CANCELLED), {}, None, id="the-app-gave-up"),
        pytest.param(replace(FAILED, outcome=Outcome.ABANDONED), {}, None, id="the-app-stopped-reading"),
        pytest.param(replace(FAILED, outcome=Outcome.BUDGET_BLOCKED), {}, None, id="nothing-was-sent"),
        pytest.param(replace(FAILED, outcome=Outcome.TRUNCATED), {"look": look(max_tokens=9)}, "retry", id="more-room"),
        pytest.param(
            replace(FAILED, outcome=Outcome.REFUSAL),
            {"model": "o", "look": look(model="o")},
            "fallback",
            id="other-after-refusal",
        ),
        pytest.param(ANSWERED, {"look": look(LONGER)}, None, id="a-conversation-goes-on"),
        pytest.param(FAILED, {"look": look(LONGER)}, None, id="extended-after-a-failure-that-gave-no-answer"),
        pytest.param(replace(FAILED, outcome=Outcome.INVALID_OUTPUT), {"look": look(LONGER)}, "re_ask", id="re-ask"),
        pytest.param(replace(ANSWERED, unusable=True), {"look": look(LONGER)}, "re_ask", id="re-ask-of-a-marked-one"),
        pytest.param(replace(ANSWERED, unusable=True), {}, "retry", id="same-after-a-marked-one"),
        pytest.param(replace(ANSWERED, unusable=True), {"look": look(OTHER)}, None, id="another-after-a-marked-one"),
    ],
)
def test_what_a_call_is_to_the_one_before(before: Asked | None, now: dict[str, Any], kind: str | None) -> None:
    link = decide(before, replace(NOW, **now))

    assert (link and link.kind.value) == kind
    assert link is None or (link.first, link.index) == ("a1", 1)


@pytest.mark.parametrize(
    ("waited_s", "messages", "kind"),
    [(0.1, LONGER, "re_ask"), (QUOTED_WITHIN_S + 0.1, LONGER, None), (0.1, HELLO, None), (0.1, OTHER, None)],
)
def test_a_quoted_error_tells_a_re_ask_only_at_once(waited_s: float, messages: Any, kind: str | None) -> None:
    now = replace(NOW, look=look(messages), started_s=100.0 + waited_s)
    link = decide(ANSWERED, now, quotes_error=True)

    assert (link and link.kind.value) == kind


def test_a_chain_counts_on_and_keeps_its_first() -> None:
    link = decide(replace(FAILED, id="b2", first="a1", index=1), NOW)

    assert link is not None
    assert (link.first, link.index) == ("a1", 2)


def links(ledger: Any) -> list[tuple[Any, Any, Any]]:
    """What each call says, in the order in which they began: the position of its chain's first call, kind and index."""
    calls = sorted(ledger.calls(), key=lambda call: call.start_ns)
    ids = [call.id for call in calls]
    names = [f"tallystick.link.{name}" for name in ("id", "kind", "index")]
    told = [[call.attributes.get(name) for name in names] for call in calls]
    return [(None if first is None else ids.index(first), kind, index) for first, kind, index in told]


NONE = (None, None, None)


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": GPT, "messages": HELLO, **more})


def message(client: Any, **more: Any) -> Any:
    return client.messages.create(**{"model": CLAUDE, "max_tokens": 200, "messages": HELLO, **more})


def test_a_hand_written_loop_is_one_chain(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("429,503,200")
    client = oai.with_options(max_retries=0)
    for _ in range(3):
        try:
            chat(client)
            break
        except openai.APIStatusError:
            time.sleep(0.01)
    chat(client)

    assert links(ledger) == [NONE, (0, "retry", 1), (0, "retry", 2), NONE]


class Retrying:
    """The shape of tenacity: the error is kept, the handler is left, the function is called again."""

    def __call__(self, function: Any) -> Any:
        for attempt in range(5):
            try:
                result, error = function(), None
            except openai.OpenAIError as raised:
                error = raised
            if error is None:
                return result
            time.sleep(0.001 * attempt)
        raise AssertionError("never answered")


def test_a_retrying_decorator_is_one_chain(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("500,200")
    Retrying()(lambda: chat(oai.with_options(max_retries=0)))

    assert links(ledger) == [NONE, (0, "retry", 1)]


def test_a_fallback_to_the_other_provider_goes_on_from_the_failure(
    ledger: Any, provider: Provider, oai: Any, ant: Any
) -> None:
    provider.script("529", provider="anthropic")
    provider.script("503,200", provider="openai")
    with pytest.raises(anthropic.APIStatusError):
        message(ant.with_options(max_retries=0), system="Be kind.")
    system = {"role": "system", "content": "Be kind."}
    with pytest.raises(openai.APIStatusError):
        chat(oai.with_options(max_retries=0), messages=[system, *HELLO])
    chat(oai, model="gpt-4o", messages=[system, *HELLO])

    assert links(ledger) == [NONE, (0, "fallback", 1), (0, "fallback", 2)]


def test_a_failed_stream_that_is_asked_again_is_a_retry(ledger: Any, provider: Provider, ant: Any) -> None:
    provider.script("cut:after=3,200")
    with pytest.raises(Exception, match=r"peer closed|incomplete"):
        list(message(ant, stream=True))
    list(message(ant, stream=True))

    assert links(ledger) == [NONE, (0, "retry", 1)]


class Parcel(pydantic.BaseModel):
    place: str


def test_a_re_ask_within_the_handler_is_told_by_the_error_that_is_handled(ledger: Any, oai: Any) -> None:
    answer = chat(oai).choices[0].message.content
    try:
        Parcel.model_validate_json(answer)
    except pydantic.ValidationError:
        chat(oai, messages=[*HELLO, {"role": "assistant", "content": answer}, {"role": "user", "content": "Again!"}])
        chat(oai, messages=OTHER)  # while the same error is handled, but not about this answer

    assert links(ledger) == [NONE, (0, "re_ask", 1), NONE]


def test_a_re_ask_after_the_handler_is_told_by_the_error_that_it_quotes(ledger: Any, oai: Any) -> None:
    messages = list(HELLO)
    for _ in range(3):
        answer = chat(oai, messages=messages).choices[0].message.content
        try:
            Parcel.model_validate_json(answer)
        except pydantic.ValidationError as error:
            messages = [
                *messages,
                {"role": "assistant", "content": answer},
                {"role": "user", "content": f"Mend this: {error}"},
            ]

    assert links(ledger) == [NONE, (0, "re_ask", 1), (0, "re_ask", 2)]


def test_an_answer_that_was_called_bad_is_asked_again(ledger: Any, oai: Any) -> None:
    chat(oai)
    tallystick.bad_output("too short")
    chat(oai, messages=LONGER)

    assert links(ledger) == [NONE, (0, "re_ask", 1)]


def test_a_conversation_is_no_chain(ledger: Any, oai: Any) -> None:
    chat(oai)
    chat(oai, messages=LONGER)

    assert links(ledger) == [NONE, NONE]


def test_a_failure_of_another_request_in_another_thread_is_no_link(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("500")

    def fail() -> None:
        with pytest.raises(openai.APIStatusError):
            chat(oai.with_options(max_retries=0))

    for act in (fail, lambda: chat(oai)):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    assert links(ledger) == [NONE, NONE]


async def test_parallel_calls_of_different_requests_are_not_linked(
    ledger: Any, provider: Provider, async_oai: Any
) -> None:
    """Twenty requests ask the same, half fail; the ones that come later are nobody's retries."""
    provider.script(",".join(["500"] * 10))
    client = async_oai.with_options(max_retries=0)
    at_once = asyncio.Semaphore(3)

    async def handle() -> None:
        async with at_once:
            try:
                await chat(client)
            except openai.APIStatusError:
                await asyncio.sleep(0)

    await asyncio.gather(*[handle() for _ in range(20)])

    assert [call.outcome for call in ledger.calls()].count("server_error") == 10
    assert links(ledger) == [NONE] * 20


async def test_each_task_has_its_own_chain(ledger: Any, provider: Provider, async_oai: Any) -> None:
    client = async_oai.with_options(max_retries=0)

    async def handle(n: int) -> None:
        with tallystick.tags(user=n):
            for script in ("500", "200"):
                try:
                    await chat(client, extra_headers={"x-mock-script": script})
                except openai.APIStatusError:
                    await asyncio.sleep(0.01)

    await asyncio.gather(*[handle(n) for n in range(6)])

    chains: dict[str, list[Any]] = {}
    for call in sorted(ledger.calls(), key=lambda call: call.start_ns):
        chains.setdefault(call.attributes["user.id"], []).append(call)
    assert len(chains) == 6
    for first, second in chains.values():
        assert "tallystick.link.id" not in first.attributes
        assert (second.attributes["tallystick.link.id"], second.attributes["tallystick.link.kind"]) == (
            first.id,
            "retry",
        )


@pytest.fixture
def tracer() -> Any:
    provider = TracerProvider(shutdown_on_exit=False)
    before, done = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE._done
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE._done = provider, True
    yield provider.get_tracer("app")
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE._done = before, done


async def test_a_span_of_the_app_holds_a_chain_together_over_tasks(
    tracer: Any, ledger: Any, provider: Provider, async_oai: Any
) -> None:
    """`asyncio.wait_for` before Python 3.12 runs what it waits for in a task of its own."""
    provider.script("500,200")
    client = async_oai.with_options(max_retries=0)
    with tracer.start_as_current_span("GET /ask"):
        with pytest.raises(openai.APIStatusError):
            await asyncio.create_task(chat(client))
        await asyncio.create_task(chat(client))

    assert links(ledger) == [NONE, (0, "retry", 1)]


async def test_two_spans_of_the_app_are_two_requests(tracer: Any, ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("500,200")
    with tracer.start_as_current_span("GET /ask"), pytest.raises(openai.APIStatusError):
        chat(oai.with_options(max_retries=0))
    with tracer.start_as_current_span("GET /ask"):
        chat(oai)

    assert links(ledger) == [NONE, NONE]


async def test_samples_within_one_span_are_no_chain(
    tracer: Any, ledger: Any, provider: Provider, async_oai: Any
) -> None:
    provider.script("500,500")
    client = async_oai.with_options(max_retries=0)
    with tracer.start_as_current_span("GET /vote"):
        await asyncio.gather(*[chat(client) for _ in range(4)], return_exceptions=True)
        await chat(client)

    assert links(ledger) == [NONE] * 5


OURS = [
    (Digests, "look"), (_hooks, "follow"), (_links.Scope, "began"), (_links.Scope, "ended"), (_links, "decide"),
    (_attempts, "answer_facts"), (_attempts, "rate_limits"), (_attempts._Attempt, "_begins"),
    (_markers, "scope_here"), (_markers, "caller"),
]  # fmt: skip


@pytest.mark.swallows
@pytest.mark.parametrize(("place", "name"), OURS, ids=[name for _, name in OURS])
def test_a_fault_of_ours_costs_a_detail_not_the_call(
    place: Any, name: str, ledger: Any, provider: Provider, oai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(place, name, fault)
    provider.script("500,200")
    with pytest.raises(openai.InternalServerError):
        chat(oai.with_options(max_retries=0))
    assert chat(oai).id
    tallystick.bad_output()

    assert [call.outcome for call in ledger.calls()] == ["server_error", "ok"]
    assert len(ledger.attempts()) == 2


def test_a_call_whose_end_was_lost_does_not_end_all_links() -> None:
    scope = Scope()

    def begin() -> Asked:
        asked = replace(FAILED, started_s=time.monotonic(), ended_s=None)
        scope.began(asked, {}, lambda _before, _error: None)
        return asked

    begin()  # and nobody ever says that it ended
    begin()
    failed = begin()
    scope.ended(failed, Outcome.RATE_LIMITED)

    assert scope.began(replace(NOW, started_s=time.monotonic()), {}, lambda _before, _error: None) is not None
