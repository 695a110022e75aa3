"""Limits that need no collector: of one call, of a run, of a loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

import tallystick
from fakes.provider import Provider
from tallystick.errors import BudgetExceededError, RequestLoopError, RequestTooLargeError, SettingsError

ASKED: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "hi " * 20}],
}
WORST = Decimal("0.0007191")
"""Three sendings of ASKED at their dearest."""


@pytest.fixture
def app(provider: Provider, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Provider]:
    """Instrument this process, with what a test gives; nobody answers where the collector would be."""
    settings = getattr(request, "param", {})
    tallystick.instrument(
        collector="http://127.0.0.1:9", spool=tmp_path / "spool", providers=provider.mapping, **settings
    )
    try:
        yield provider
    finally:
        tallystick.uninstrument()


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(**{**ASKED, **changes})


@pytest.mark.parametrize(
    ("app", "changes", "says"),
    [
        pytest.param({"max_input_tokens": 10}, {}, "about 31 tokens", id="prompt"),
        pytest.param({"max_output_tokens": 299}, {}, "300 tokens", id="answer"),
        pytest.param({"max_output_tokens": 500}, {"n": 2}, "600 tokens", id="two answers"),
        pytest.param({"max_output_tokens": 10_000}, {"max_tokens": None}, "16384 tokens", id="the model's own maximum"),
        pytest.param({"max_cost_usd": "0.0007"}, {}, "0.0007191", id="cost with retries"),
        pytest.param({"max_cost_usd": 5}, {"model": "house-model-1"}, "nothing bounds", id="no price"),
    ],
    indirect=["app"],
)
def test_a_call_that_may_pass_a_limit_is_not_sent(
    app: Provider, oai: openai.OpenAI, changes: dict[str, Any], says: str
) -> None:
    given = {name: value for name, value in {**ASKED, **changes}.items() if value is not None}
    with pytest.raises(RequestTooLargeError, match=says) as caught:
        oai.chat.completions.create(**given)

    assert caught.value.setting.startswith("max_")
    assert app.requests() == []


@pytest.mark.parametrize(
    "app",
    [{"max_input_tokens": 60, "max_output_tokens": 300, "max_cost_usd": "0.0008", "loop_limit": 5}],
    indirect=True,
)
def test_a_call_within_its_limits_is_sent(app: Provider, oai: openai.OpenAI) -> None:
    ask(oai)
    assert len(app.requests()) == 1


@pytest.mark.parametrize("app", [{"loop_limit": 3}], indirect=True)
def test_the_same_request_again_and_again_is_stopped_and_another_is_not(app: Provider, oai: openai.OpenAI) -> None:
    for _ in range(3):
        ask(oai)
    with pytest.raises(RequestLoopError, match="3 times"):
        ask(oai)
    ask(oai, messages=[{"role": "user", "content": "something else"}])
    assert len(app.requests()) == 4


def test_variables_and_the_file_set_limits_and_arguments_beat_them(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oai: openai.OpenAI
) -> None:
    (tmp_path / "app.toml").write_text("[instrument]\nmax_output_tokens = 10\nmax_input_tokens = 1\n")
    monkeypatch.setenv("TALLYSTICK_CONFIG", str(tmp_path / "app.toml"))
    monkeypatch.setenv("TALLYSTICK_MAX_INPUT_TOKENS", "2")
    tallystick.instrument(collector="http://127.0.0.1:9", providers=provider.mapping, max_input_tokens=1000)
    try:
        with pytest.raises(RequestTooLargeError, match="max_output_tokens is 10"):
            ask(oai)
    finally:
        tallystick.uninstrument()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[instrument]\nmax_cost = 1\n", "unknown key 'max_cost'"),
        ("[instrument]\nmax_cost_usd = -1\n", "max_cost_usd is -1"),
        ("[instrument]\nloop_limit = 1.5\n", "whole number"),
        ("[instrument", "cannot be read as TOML"),
    ],
)
def test_a_wrong_limit_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    (tmp_path / "app.toml").write_text(text)
    monkeypatch.setenv("TALLYSTICK_CONFIG", str(tmp_path / "app.toml"))
    with pytest.raises(SettingsError, match=says):
        tallystick.instrument()


# --- a run ---------------------------------------------------------------------------


def test_a_run_ends_before_it_passes_its_cap_and_the_error_shows_the_sum(app: Provider, oai: openai.OpenAI) -> None:
    calls = 0
    with tallystick.budget(usd="0.0008", name="agent") as run, pytest.raises(BudgetExceededError) as caught:
        while True:
            ask(oai)
            calls += 1

    error = caught.value
    assert calls == 4
    assert (error.budget, error.limit, error.needed) == ("agent", Decimal("0.0008"), WORST)
    assert error.spent == run.spent() == Decimal(app.invoice()["total_usd"])
    assert "0.000081 spent + 0 reserved + 0.0007191 at most" in str(error)
    assert "= 0.0008001 of 0.0008 USD" in str(error)
    assert run.reserved() == 0


@pytest.mark.parametrize(
    ("cap", "passes"),
    [({"calls": 2}, 2), ({"tokens": 2200}, 3), ({"usd": "0.0007"}, 0)],
    ids=["calls", "tokens", "usd"],
)
def test_a_run_is_capped_in_each_unit(app: Provider, oai: openai.OpenAI, cap: dict[str, Any], passes: int) -> None:
    passed = 0
    with tallystick.budget(**cap), pytest.raises(BudgetExceededError):
        while True:
            ask(oai)
            passed += 1
    assert passed == passes


def test_the_caps_of_nested_runs_all_hold(app: Provider, oai: openai.OpenAI) -> None:
    with tallystick.budget(calls=3, name="outer") as outer:
        for _ in range(2):
            with tallystick.budget(calls=2, name="inner"):
                ask(oai)
        with tallystick.budget(calls=2, name="inner"):
            ask(oai)
            with pytest.raises(BudgetExceededError, match="'outer'"):
                ask(oai)
    assert outer.spent("calls") == 3
    ask(oai)


def test_each_call_of_a_decorated_function_has_a_cap_of_its_own(app: Provider, oai: openai.OpenAI) -> None:
    @tallystick.budget(calls=1)
    def work(times: int) -> None:
        for _ in range(times):
            ask(oai)

    work(1)
    work(1)
    with pytest.raises(BudgetExceededError):
        work(2)


async def test_a_run_holds_over_tasks_and_for_coroutine_functions(app: Provider, async_oai: openai.AsyncOpenAI) -> None:
    @tallystick.budget(calls=4)
    async def work() -> list[Any]:
        calls = (async_oai.chat.completions.create(**ASKED) for _ in range(10))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = await work()
    assert sum(isinstance(answer, BudgetExceededError) for answer in answers) == 6
    async with tallystick.budget(calls=1):
        await async_oai.chat.completions.create(**ASKED)


def test_a_run_holds_over_threads_that_copy_its_context(app: Provider, oai: openai.OpenAI) -> None:
    refused: list[BudgetExceededError] = []

    def work() -> None:
        try:
            ask(oai)
        except BudgetExceededError as error:
            refused.append(error)

    with tallystick.budget(calls=3):
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 5


def test_a_run_may_ask_for_a_shorter_answer(app: Provider, oai: openai.OpenAI) -> None:
    asked = {**ASKED, "max_tokens": 4000}
    with tallystick.budget(usd="0.001", clamp=True):
        oai.with_options(max_retries=0).chat.completions.create(**asked)
    [request] = app.requests()
    assert 256 <= request["body"]["max_tokens"] < 1700
    assert asked["max_tokens"] == 4000


def test_a_lost_answer_counts_at_its_worst_case(app: Provider, oai: openai.OpenAI) -> None:
    app.script("reset:billed")
    with tallystick.budget(usd=1) as run, pytest.raises(openai.APIConnectionError):
        oai.with_options(max_retries=0).chat.completions.create(**ASKED)
    assert run.spent() == WORST / 3 > Decimal(app.invoice()["total_usd"]) > 0


def test_a_cap_of_nothing_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="caps nothing"):
        tallystick.budget()
    with pytest.raises(SettingsError, match="above 0"):
        tallystick.budget(usd=0)
