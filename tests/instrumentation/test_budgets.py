"""Hard budgets over real SDK clients, a real collector and the loopback provider, whose own bill is the judge."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

import tallystick
from fakes.collector import Running, collector_process, running_collector, until
from fakes.provider import Provider
from tallystick.errors import BudgetExceededError
from tallystick.instrumentation import _bank

MODEL = "gpt-4o-mini"
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "messages": [{"role": "user", "content": "hi " * 20}]}
CLAUDE: dict[str, Any] = {**ASKED, "model": "claude-haiku-4-5"}
BUDGETS = """
[[budget]]
name = "each feature"
limit_usd = 1
group_by = ["feature"]
action = "block"
wait = 10

[[budget]]
name = "tiny"
limit_usd = 0.0000001
scope = { feature = "tiny" }
action = "block"
wait = 10

[[budget]]
name = "narrow"
limit_usd = 0.0008
scope = { feature = "narrow" }
action = "block"
wait = 10

[[budget]]
name = "threads"
limit_usd = 0.05
scope = { feature = "threads" }
action = "block"
wait = 0.4

[[budget]]
name = "clamped"
limit_usd = 0.005
scope = { feature = "clamped" }
action = "block"
clamp = true
wait = 10

[[budget]]
name = "downgraded"
limit_usd = 0.02
scope = { feature = "downgraded" }
action = "downgrade:gpt-4o-mini"
wait = 10

[[budget]]
name = "capped"
limit_usd = 0.05
scope = { feature = "capped" }
action = "block"
on_unbounded = "cap"
wait = 10

[[budget]]
name = "three calls"
limit_calls = 3
scope = { feature = "counted" }
action = "block"
wait = 10
"""


class Guarded:
    """An instrumented process with a collector that keeps its budgets."""

    def __init__(self, collector: Running, provider: Provider) -> None:
        self.collector = collector
        self.provider = provider

    def standing(self, **dimensions: str) -> dict[str, Decimal]:
        """Return what the ledger says is spent and held, as it tells somebody whom it refuses."""
        told = {
            "id": secrets.token_hex(16), "dimensions": {"service": "shop", "environment": "test", **dimensions},
            "usd": "999999999", "tokens": 10**11, "calls": 10**11, "lease_s": 1, "asks_again": True,
        }  # fmt: skip
        status, body = self.collector.post(
            json.dumps(told).encode(), "/api/v1/reservations", content_type="application/json"
        )
        assert status == 409, body
        answer = json.loads(body)
        return {key: Decimal(answer[key]) for key in ("spent", "reserved", "limit", "room")}

    def rests(self, **dimensions: str) -> dict[str, Decimal]:
        """Wait until nothing is held, and return how the budget stands then."""
        until(lambda: self.standing(**dimensions)["reserved"] == 0, "something is still held", 8)
        return self.standing(**dimensions)

    def spans(self, feature: str) -> list[dict[str, Any]]:
        assert tallystick.flush()
        self.collector.settle()
        rows: list[dict[str, Any]] = self.collector.ask("calls", feature=feature)["rows"]
        return rows

    @property
    def billed(self) -> Decimal:
        return Decimal(str(self.provider.invoice()["total_usd"]))


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("collector"), BUDGETS) as running:
        yield running


@contextmanager
def instrumented(url: str, provider: Provider, spool: Path, **settings: Any) -> Iterator[None]:
    tallystick.instrument(
        service="shop", environment="test", collector=url, spool=spool, providers=provider.mapping, **settings
    )
    try:
        yield
    finally:
        tallystick.uninstrument()


@pytest.fixture
def app(collector: Running, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setattr(_bank, "SLICE_IDLE_S", 0.1)
    monkeypatch.setattr(_bank, "TURN_S", 0.05)
    with instrumented(collector.url, provider, tmp_path / "spool"):
        yield Guarded(collector, provider)


def test_a_call_that_does_not_fit_is_not_sent_and_the_error_shows_the_sum(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="tiny"), pytest.raises(BudgetExceededError) as caught:
        oai.chat.completions.create(**ASKED)

    error = caught.value
    assert app.provider.requests() == []
    assert (error.budget, error.unit, error.limit, error.spent) == ("tiny", "usd", Decimal("0.0000001"), 0)
    assert error.needed is not None
    assert error.window is not None
    assert error.resets_at is None  # it never fits
    for figure in (error.spent, error.reserved, error.needed, error.limit):
        assert f"{figure:f}" in str(error)
    [call] = app.spans("tiny")
    assert call["outcome"] == "budget_blocked"


@pytest.mark.parametrize("how", ["stream", "raw", "streaming_response", "anthropic stream helper"])
def test_the_refusal_is_the_same_whatever_the_app_calls(
    app: Guarded, oai: openai.OpenAI, ant: anthropic.Anthropic, how: str
) -> None:
    with tallystick.tags(feature="tiny"), pytest.raises(BudgetExceededError):
        if how == "stream":
            oai.chat.completions.create(**ASKED, stream=True)
        elif how == "raw":
            oai.chat.completions.with_raw_response.create(**ASKED)
        elif how == "streaming_response":
            with oai.chat.completions.with_streaming_response.create(**ASKED):
                pass
        else:
            with ant.messages.stream(**CLAUDE):
                pass
    assert app.provider.requests() == []


async def test_async_calls_are_held_to_it(app: Guarded, async_oai: openai.AsyncOpenAI) -> None:
    with tallystick.tags(feature="narrow"):
        answers = await asyncio.gather(
            *(async_oai.chat.completions.create(**ASKED) for _ in range(12)), return_exceptions=True
        )

    refused = [answer for answer in answers if isinstance(answer, BudgetExceededError)]
    assert 0 < len(refused) < 12
    assert len(refused) + len(app.provider.requests()) == 12
    assert app.rests(feature="narrow")["spent"] == app.billed <= Decimal("0.0008")


async def test_the_event_loop_goes_on_while_a_call_waits_for_an_answer(
    provider: Provider, tmp_path: Path, async_oai: openai.AsyncOpenAI
) -> None:
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            since = time.perf_counter()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.perf_counter() - since)

    with (
        collector_process(tmp_path, budget_of("limit_usd = 0.002", wait=0.6)) as running,
        instrumented(running.url, provider, tmp_path / "spool"),
    ):
        await asyncio.to_thread(until, lambda: _passes_once(provider), "the collector does not answer")
        os.kill(running.pid, signal.SIGSTOP)
        ticking = asyncio.create_task(tick())
        with pytest.raises(BudgetExceededError):
            await async_oai.chat.completions.create(**ASKED)
        ticking.cancel()
        os.kill(running.pid, signal.SIGCONT)
    assert longest_s < 0.3


def _passes_once(provider: Provider) -> bool:
    with openai.OpenAI(base_url=provider.openai_url, api_key="sk-x") as client:
        return _passes(client)


def test_threads_never_pass_the_limit_and_use_nearly_all_of_it(app: Guarded, ant: anthropic.Anthropic) -> None:
    def work() -> None:
        misses = 0
        with tallystick.tags(feature="threads"):
            while misses < 2:
                try:
                    ant.with_options(max_retries=0).messages.create(**CLAUDE)
                except BudgetExceededError:
                    misses += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Decimal("0.045") <= app.billed <= Decimal("0.05")
    assert app.rests(feature="threads")["spent"] == app.billed


def test_calls_are_counted_where_the_limit_is_in_calls(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="counted"):
        for _ in range(3):
            oai.chat.completions.create(**ASKED)
        with pytest.raises(BudgetExceededError, match="3 spent"):
            oai.chat.completions.create(**ASKED)
    assert len(app.provider.requests()) == 3
    assert len(app.spans("counted")) == 4
    [row] = [row for row in app.collector.ask("budgets")["rows"] if row["name"] == "three calls"]
    assert row["spent"] == "3", "what was refused was counted as a call"


# --- every end of a call (the terminal paths) --------------------------------------

Paths = dict[str, tuple[str, Callable[[openai.OpenAI], Any], bool]]


def plain(client: openai.OpenAI) -> None:
    client.chat.completions.create(**ASKED)


def refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.OpenAIError):
        client.chat.completions.create(**ASKED)


def impatient(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3, max_retries=0).chat.completions.create(**ASKED)


def streamed(client: openai.OpenAI) -> None:
    assert list(client.chat.completions.create(**ASKED, stream=True))


def left(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**ASKED, stream=True) as stream:
        next(iter(stream))


def dropped(client: openai.OpenAI) -> None:
    next(iter(client.chat.completions.create(**ASKED, stream=True)))
    gc.collect()


def exited(client: openai.OpenAI) -> None:
    def chunks() -> Iterator[Any]:
        yield from client.chat.completions.create(**ASKED, stream=True)

    generator = chunks()
    next(generator)
    generator.close()
    gc.collect()


def broken(client: openai.OpenAI) -> None:
    with pytest.raises((openai.OpenAIError, httpx2.HTTPError)):
        list(client.chat.completions.create(**ASKED, stream=True))


def cut_short(client: openai.OpenAI) -> None:
    with suppress(Exception):
        list(client.chat.completions.create(**ASKED, stream=True))


def unreadable(client: openai.OpenAI) -> None:
    with pytest.raises(json.JSONDecodeError):
        client.chat.completions.create(**ASKED)


# name: what the provider does, what the app does, whether the provider told all that it billed
PATHS: Paths = {
    "success": ("200", plain, True),
    "an error": ("400", refused, True),
    "retried, then answered": ("429:retry-after=0.01,529,200", plain, True),
    "the money is used up": ("quota,quota,quota", refused, True),
    "read timeout": ("hang", impatient, False),
    "lost answer, retried": ("reset:billed,200", plain, False),
    "every answer lost": ("reset:billed,reset:billed,reset:billed", refused, False),
    "200 that cannot be parsed": ("bad-json", unreadable, False),
    "stream": ("200", streamed, True),
    "stream left": ("slow:body=0.02", left, False),
    "stream dropped": ("slow:body=0.02", dropped, False),
    "generator closed": ("slow:body=0.02", exited, False),
    "stream cut before the first event": ("cut:after=0", broken, False),
    "stream cut after 1": ("cut:after=1", broken, False),
    "stream cut after 4": ("cut:after=4", broken, False),
    "error amid a stream": ("sse-error", broken, False),
    "stream without its end": ("unterminated", cut_short, False),
}


IN_SLICE = ["success", "read timeout", "every answer lost", "stream", "stream left", "stream cut after 1"]


@pytest.mark.parametrize(("path", "warm"), [*((path, 0) for path in PATHS), *((path, 2) for path in IN_SLICE)])
def test_every_end_of_a_call_settles_it(app: Guarded, oai: openai.OpenAI, path: str, warm: int) -> None:
    script, drive, told_all = PATHS[path]
    feature = f"{path} {warm}"
    with tallystick.tags(feature=feature):
        for _ in range(warm):
            plain(oai)
        app.provider.script(script)
        drive(oai)

    stands = app.rests(feature=feature)
    if told_all:
        assert stands["spent"] == app.billed
    else:
        assert app.billed <= stands["spent"]
        assert stands["spent"] > 0  # what may have been billed is never counted as nothing
    assert stands["spent"] < Decimal("0.005")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_call_is_settled_at_its_worst_case(
    app: Guarded, async_oai: openai.AsyncOpenAI, stream: bool
) -> None:
    feature = f"cancelled {stream}"

    async def ask() -> None:
        with tallystick.tags(feature=feature):
            answer = await async_oai.chat.completions.create(**ASKED, stream=stream)
            async for _ in answer:
                pass

    app.provider.script("slow:body=0.2" if stream else "hang")
    task = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await asyncio.to_thread(gc.collect)
    stands = await asyncio.to_thread(app.rests, feature=feature)
    assert app.billed <= stands["spent"]
    assert stands["spent"] > 0


def test_a_background_response_is_settled_when_it_is_fetched(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="background"):
        response = oai.responses.create(model="gpt-5-mini", input="hi", background=True, max_output_tokens=300)
        assert app.standing(feature="background")["reserved"] > 0
        while oai.responses.retrieve(response.id).status != "completed":
            time.sleep(0.02)

    assert app.rests(feature="background")["spent"] == app.billed > 0


def forked(url: str, feature: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="sk-child", max_retries=0)
    with tallystick.tags(feature=feature):
        client.chat.completions.create(**ASKED)
    time.sleep(0.3)  # multiprocessing ends a child with os._exit; what was not told by then is told by its spool


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_spends_nothing_of_its_parents_slice(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="forked"):
        for _ in range(3):
            plain(oai)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=forked, args=(app.provider.openai_url, "forked")) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0

    assert len(app.provider.requests()) == 5
    assert app.rests(feature="forked")["spent"] == app.billed


def test_what_is_held_is_given_back_when_the_process_ends(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="leaving"):
        for _ in range(3):
            plain(oai)
    tallystick.uninstrument()

    assert app.standing(feature="leaving")["reserved"] == 0
    assert app.standing(feature="leaving")["spent"] == app.billed


# --- made smaller, or let through --------------------------------------------------


def test_a_shorter_answer_is_asked_for_where_only_that_fits(app: Guarded, ant: anthropic.Anthropic) -> None:
    asked = {**CLAUDE, "max_tokens": 4000}
    with tallystick.tags(feature="clamped"):
        ant.with_options(max_retries=0).messages.create(**asked)

    [request] = app.provider.requests()
    assert 256 <= request["body"]["max_tokens"] < 1000
    assert asked["max_tokens"] == 4000
    assert app.rests(feature="clamped")["spent"] == app.billed <= Decimal("0.005")


def test_a_lesser_model_is_asked_where_the_dear_one_does_not_fit(app: Guarded, oai: openai.OpenAI) -> None:
    with tallystick.tags(feature="downgraded"):
        answer = oai.chat.completions.create(**{**ASKED, "model": "gpt-4o", "max_tokens": 3000})

    assert answer.model.startswith("gpt-4o-mini")
    assert [request["body"]["model"] for request in app.provider.requests()] == ["gpt-4o-mini"]
    [call] = app.spans("downgraded")
    assert call["model"] == "gpt-4o-mini"
    assert app.rests(feature="downgraded")["spent"] == app.billed


def test_a_call_without_a_bound_or_a_price_is_refused(app: Guarded, oai: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    unbounded = {**ASKED, "messages": [{"role": "user", "content": [image]}]}
    unpriced = {**ASKED, "model": "house-model-1"}
    for asked in (unbounded, unpriced):
        with tallystick.tags(feature="strict"), pytest.raises(BudgetExceededError, match="not sent"):
            oai.chat.completions.create(**asked)
    assert app.provider.requests() == []


def test_an_answer_that_nothing_bounds_is_capped_where_a_budget_says_so(app: Guarded, oai: openai.OpenAI) -> None:
    endless = {"model": "ft:gpt-4o-mini-2024-07-18:me::1", "messages": ASKED["messages"]}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with tallystick.tags(feature="capped"):
        oai.chat.completions.create(**endless)
        with pytest.raises(BudgetExceededError, match="not sent"):
            oai.chat.completions.create(**{**ASKED, "messages": [{"role": "user", "content": [image]}]})
    [request] = app.provider.requests()
    assert request["body"]["max_completion_tokens"] == 4096
    assert "max_completion_tokens" not in endless


# --- without a collector -------------------------------------------------------------


def budget_of(limit: str, **keys: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[budget]]", 'name = "team"', limit, 'action = "block"', *lines])


def known_rules(tmp_path: Path, provider: Provider, oai: openai.OpenAI, budget: str) -> str:
    """Have a collector tell a process of a budget, and be gone; return where it was."""
    with running_collector(tmp_path, budget) as running, instrumented(running.url, provider, tmp_path / "spool"):
        until(lambda: _passes(oai), "no call was let through")
    return running.url


def _passes(oai: openai.OpenAI) -> bool:
    with suppress(BudgetExceededError):  # a busy machine may not answer within 45 ms
        plain(oai)
        return True
    return False


def test_a_new_process_knows_of_a_hard_limit_while_the_collector_is_away_and_refuses_within_50_ms(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI
) -> None:
    url = known_rules(tmp_path, provider, oai, budget_of("limit_usd = 1", fail="closed"))
    sent = len(provider.requests())
    with instrumented(url, provider, tmp_path / "spool"):
        with pytest.raises(BudgetExceededError, match="does not answer"):
            plain(oai)
        took_s = []
        for _ in range(5):
            since = time.perf_counter()
            with pytest.raises(BudgetExceededError):
                plain(oai)
            took_s.append(time.perf_counter() - since)
    assert min(took_s) < 0.05
    assert len(provider.requests()) == sent


def test_a_call_is_not_refused_for_what_the_call_before_it_gives_back(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bank, "GATHER_S", 3.0)  # the background tells what was taken long after the next call
    with (
        collector_process(tmp_path, budget_of("limit_usd = 0.0012")) as running,
        instrumented(running.url, provider, tmp_path / "spool"),
    ):
        for _ in range(3):
            plain(oai)
        [budget] = running.ask("budgets")["rows"]
    assert budget["refused"] == 0, "nobody is told of a refusal that was none"
    assert len(provider.requests()) == 3


def test_a_budget_that_fails_open_lets_calls_through_and_their_spans_say_so(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI
) -> None:
    budget = budget_of("limit_usd = 1", fail="open")
    url = known_rules(tmp_path, provider, oai, budget)
    with instrumented(url, provider, tmp_path / "spool"):
        plain(oai)
    assert len(provider.requests()) == 2
    with running_collector(tmp_path, budget) as running:
        again = Guarded(running, provider)
        until(lambda: again.standing()["spent"] == again.billed, "what was spent unguarded is not counted")


def test_a_budget_that_fails_to_a_slice_goes_on_within_it(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI
) -> None:
    limit, passed = Decimal("0.08"), 0
    with (
        collector_process(tmp_path, budget_of(f"limit_usd = {limit}", fail="slice", wait=1)) as running,
        instrumented(running.url, provider, tmp_path / "spool"),
    ):
        for _ in range(2):
            plain(oai)
        running.process.kill()  # type: ignore[union-attr]
        with pytest.raises(BudgetExceededError):
            while True:
                plain(oai)
                passed += 1
    assert passed > 2
    assert Decimal(provider.invoice()["total_usd"]) <= limit / 50


def test_a_tallystick_toml_beside_the_app_counts_while_no_collector_answers(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tallystick.toml").write_text(budget_of("limit_usd = 1"))
    monkeypatch.chdir(tmp_path)
    with (
        instrumented("http://127.0.0.1:9", provider, tmp_path / "spool"),
        pytest.raises(BudgetExceededError, match="does not answer"),
    ):
        plain(oai)
    assert provider.requests() == []


def test_without_a_budget_no_call_asks_anybody(tmp_path: Path, provider: Provider, oai: openai.OpenAI) -> None:
    asked: list[str] = []
    with running_collector(tmp_path) as running, instrumented(running.url, provider, tmp_path / "spool"):
        plain(oai)
        original = _bank.Bank._post
        _bank.Bank._post = lambda self, path, *rest: asked.append(path) or original(self, path, *rest)  # type: ignore[method-assign]
        try:
            for _ in range(3):
                plain(oai)
        finally:
            _bank.Bank._post = original  # type: ignore[method-assign]
    assert asked == []


def test_foreign_clients_are_refused_too(app: Guarded) -> None:
    with tallystick.tags(feature="tiny"), pytest.raises(BudgetExceededError):
        httpx2.post(f"{app.provider.openai_url}/chat/completions", json=ASKED, headers={"authorization": "Bearer sk-x"})
    assert app.provider.requests() == []
