"""Work that is done apart from its request: told late, again, as a sum; on the ledger once, as it is billed."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from fakes.provider import Provider
from tallystick.instrumentation import _jobs
from tallystick.instrumentation._routes import route_of

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
CLIP = ("parcel.mp4", bytes(2_000))

# openai's own words about what it is about to end
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def bills(ledger: Any) -> dict[str, Decimal]:
    """What each unit costs, once: as the collector counts, by id, the last telling of a sum that grows."""
    units = [unit for call in ledger.calls() for unit in call.units]
    return {unit["id"]: Decimal(unit["cost_usd"]) for unit in units if unit["cost_usd"] is not None}


def invoice(provider: Provider) -> dict[str, Decimal]:
    return {item["id"]: Decimal(item["usd"]) for item in provider.invoice()["items"]}


def outcomes(ledger: Any) -> set[str]:
    return {call.outcome for call in ledger.calls()}


# Anthropic's agents -------------------------------------------------------------------------------------------------


def session_of(client: Any) -> Any:
    agent = client.beta.agents.create(name="parcels", model=CLAUDE)
    return client.beta.sessions.create(agent=agent.id, environment_id="env_1")


HELLO: Any = [{"type": "user.message", "content": [{"type": "text", "text": "Where is my parcel?"}]}]


def read(events: Any) -> None:
    with events as stream:
        for event in stream:
            if event.type == "session.status_idle":
                break


READ: dict[str, Callable[[Any, str], Any]] = {
    "stream": lambda c, s: read(c.beta.sessions.events.stream(s)),
    "list": lambda c, s: list(c.beta.sessions.events.list(s)),
    "raw-list": lambda c, s: list(c.beta.sessions.events.with_raw_response.list(s).parse()),
    "both": lambda c, s: [read(c.beta.sessions.events.stream(s)), list(c.beta.sessions.events.list(s))],
}


@pytest.mark.parametrize("how", READ)
def test_each_request_of_an_agents_model_is_a_unit_however_its_events_are_read(
    how: str, ledger: Any, provider: Provider, ant: Any
) -> None:
    session = session_of(ant)
    ant.beta.sessions.events.send(session.id, events=HELLO)
    READ[how](ant, session.id)

    assert bills(ledger) == invoice(provider)
    assert len(bills(ledger)) == 3, "two requests, and the time at work"
    assert outcomes(ledger) == {"ok"}
    units = [unit for call in ledger.calls() for unit in call.units]
    assert {unit["model"] for unit in units} == {CLAUDE}
    assert not [unit for unit in units if unit["estimated"]]


def test_the_sums_that_a_session_tells_are_not_added(ledger: Any, provider: Provider, ant: Any) -> None:
    session = session_of(ant)
    for _ in range(2):
        ant.beta.sessions.events.send(session.id, events=HELLO)
        READ["stream"](ant, session.id)
        ant.beta.sessions.retrieve(session.id)

    assert bills(ledger) == invoice(provider)
    assert len(bills(ledger)) == 5
    told = [call.attributes.get("gen_ai.usage.input_tokens") for call in ledger.calls()]
    assert set(told) == {None}, "who sums over spans would count them at each telling"


async def test_an_agents_events_async(ledger: Any, provider: Provider, async_ant: Any) -> None:
    agent = await async_ant.beta.agents.create(name="parcels", model={"id": CLAUDE})
    session = await async_ant.beta.sessions.create(agent=agent.id, environment_id="env_1")
    await async_ant.beta.sessions.events.send(session.id, events=HELLO)
    async with await async_ant.beta.sessions.events.stream(session.id) as stream:
        async for event in stream:
            if event.type == "session.status_idle":
                break

    assert bills(ledger) == invoice(provider)
    assert outcomes(ledger) == {"ok"}


def test_an_agent_whose_model_nobody_told_is_unknown_and_never_zero(
    ledger: Any, provider: Provider, ant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(ant)
    ant.beta.sessions.events.send(session.id, events=HELLO)
    monkeypatch.setattr(_jobs, "owners", _jobs.Owners())
    READ["list"](ant, session.id)

    call = ledger.calls()[-1]
    assert {unit["id"] for unit in call.units} == set(invoice(provider))
    assert {(unit["cost_usd"], unit["cost_status"]) for unit in call.units} == {(None, "unknown")}


def test_events_that_are_followed_for_long_are_told_under_way(
    ledger: Any, provider: Provider, ant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jobs, "PART_S", 0.0)
    session = session_of(ant)
    ant.beta.sessions.events.send(session.id, events=HELLO)
    READ["stream"](ant, session.id)

    assert bills(ledger) == invoice(provider)
    followed = [call for call in ledger.calls() if call.attributes["gen_ai.operation.name"] == "fetch_events"]
    assert [len(call.units) for call in followed] == [1, 1, 1, 0]
    assert {call.parent for call in followed[:-1]} == {followed[-1].id}


def test_a_dream_is_one_unit_that_grows(ledger: Any, provider: Provider, ant: Any) -> None:
    inputs: Any = [{"type": "memory_store", "memory_store_id": "m"}, {"type": "sessions", "session_ids": ["s"]}]
    dream = ant.beta.dreams.create(inputs=inputs, model=CLAUDE)
    seen = [ant.beta.dreams.retrieve(dream.id).status for _ in range(3)]

    assert seen == ["running", "completed", "completed"]
    assert [[unit["estimated"] for unit in call.units] for call in ledger.calls()] == [[], [True], [False], [False]]
    assert bills(ledger) == invoice(provider)


# OpenAI's jobs ------------------------------------------------------------------------------------------------------


def test_a_fine_tuning_is_billed_when_it_has_ended_and_once(ledger: Any, provider: Provider, oai: Any) -> None:
    job = oai.fine_tuning.jobs.create(model="gpt-4o-2024-08-06", training_file="file-1")
    seen = [oai.fine_tuning.jobs.retrieve(job.id).status for _ in range(3)]

    assert seen == ["queued", "succeeded", "succeeded"]
    assert [len(call.units) for call in ledger.calls()] == [0, 0, 1, 1]
    assert bills(ledger) == invoice(provider)


def test_a_fine_tuning_that_is_billed_by_the_hour_is_unknown(ledger: Any, oai: Any) -> None:
    method: Any = {"type": "reinforcement"}
    job = oai.fine_tuning.jobs.create(model="o4-mini-2025-04-16", training_file="file-1", method=method)
    for _ in range(2):
        oai.fine_tuning.jobs.retrieve(job.id)

    [unit] = ledger.calls()[-1].units
    assert (unit["cost_usd"], unit["cost_status"], unit["usage"]["trained_tokens"]) == (None, "unknown", 90_000)


def test_an_evaluation_is_a_unit_of_each_model_that_it_asked(ledger: Any, provider: Provider, oai: Any) -> None:
    run = oai.evals.runs.create("eval_1", data_source={"type": "jsonl"})
    for _ in range(3):
        oai.evals.runs.retrieve(run.id, eval_id="eval_1")

    assert [len(call.units) for call in ledger.calls()] == [0, 0, 2, 2]
    assert bills(ledger) == invoice(provider)


RUNS: dict[str, Callable[[Any], Any]] = {
    "polled": lambda c: c.beta.threads.runs.create_and_poll(
        thread_id="thread_1", assistant_id="a", model=GPT, poll_interval_ms=1
    ),
    "stream": lambda c: list(c.beta.threads.runs.create("thread_1", assistant_id="a", model=GPT, stream=True)),
    "handler": lambda c: followed(c),
    "new-thread": lambda c: list(c.beta.threads.create_and_run(assistant_id="a", model=GPT, stream=True)),
}


def followed(client: Any) -> None:
    with client.beta.threads.runs.stream(thread_id="thread_1", assistant_id="a", model=GPT) as stream:
        stream.until_done()


@pytest.mark.parametrize("how", RUNS)
def test_an_assistants_run_is_one_unit(how: str, ledger: Any, provider: Provider, oai: Any) -> None:
    RUNS[how](oai)

    assert bills(ledger) == invoice(provider)
    assert outcomes(ledger) == {"ok"}


async def test_an_assistants_run_async_and_looked_at_again(ledger: Any, provider: Provider, async_oai: Any) -> None:
    stream = await async_oai.beta.threads.runs.create("thread_1", assistant_id="a", model=GPT, stream=True)
    told = [event async for event in stream]
    for _ in range(2):
        await async_oai.beta.threads.runs.retrieve(told[-1].data.id, thread_id="thread_1")

    assert bills(ledger) == invoice(provider)


FILMS: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.videos.create(model="sora-2", prompt="a parcel on its way"),
    "pro": lambda c: c.videos.create(model="sora-2-pro", prompt="a parcel", seconds="8", size="1792x1024"),
    "raw": lambda c: c.videos.with_raw_response.create(model="sora-2", prompt="a parcel", seconds="12").parse(),
    "edit": lambda c: c.videos.edit(prompt="a red parcel", video=CLIP),
    "extend": lambda c: c.videos.extend(prompt="it arrives", seconds="8", video=CLIP),
    "remix": lambda c: c.videos.remix("video_1", prompt="a blue parcel"),
    "polled": lambda c: c.videos.create_and_poll(model="sora-2", prompt="a parcel", poll_interval_ms=1),
}


@pytest.mark.parametrize("how", FILMS)
def test_a_film_is_billed_by_the_second_and_once(how: str, ledger: Any, provider: Provider, oai: Any) -> None:
    FILMS[how](oai)

    assert bills(ledger) == invoice(provider)
    [unit] = ledger.call().units
    assert (unit["cost_status"], unit["estimated"]) == ("estimated", True), "whether it will be made is not known"


def test_a_film_of_a_size_without_a_price_is_unknown(ledger: Any, oai: Any) -> None:
    oai.videos.create(model="sora-2", prompt="a parcel", size="1920x1080")

    [unit] = ledger.call().units
    assert (unit["cost_usd"], unit["cost_status"]) == (None, "unknown")


# OpenAI's decisions and agents --------------------------------------------------------------------------------------

QUESTIONS: Any = [{"type": "predicate", "instructions": "Is it about a parcel?"}]


def test_a_decision_is_billed_by_its_tokens(ledger: Any, provider: Provider, oai: Any) -> None:
    oai.decisions.create(model=GPT, input="Where is my parcel?", questions=QUESTIONS)
    oai.decisions.with_raw_response.create(model=GPT, input="Where is my parcel?", questions=QUESTIONS).parse()

    calls = ledger.calls()
    assert [call.attributes["gen_ai.operation.name"] for call in calls] == ["decision"] * 2
    billed = [Decimal(unit["cost_usd"]) for call in calls for unit in call.units]
    assert billed == list(invoice(provider).values())


async def test_a_turn_of_openais_agents_is_one_unit_of_the_sessions_model(
    ledger: Any, provider: Provider, async_oai: Any
) -> None:
    sessions = async_oai.beta.agents.sessions
    session = await sessions.create(agent={"model": GPT}, environment={"type": "none"})
    await sessions.events.create(session.id, events=[])
    turns = [event async for event in await sessions.events.stream(session.id) if "completed" in event.type]
    for _ in range(2):
        await sessions.turns.retrieve(turns[0].turn_id, session_id=session.id)

    assert bills(ledger) == invoice(provider)
    [unit] = ledger.calls()[-1].units
    assert unit["estimated"], "OpenAI calls the figure best effort"


# Pictures -----------------------------------------------------------------------------------------------------------


def test_each_picture_of_a_stream_is_a_unit(ledger: Any, provider: Provider, oai: Any) -> None:
    list(oai.images.generate(model="gpt-image-1", prompt="a parcel", n=3, stream=True))

    call = ledger.call()
    assert (call.outcome, len(call.units)) == ("ok", 3)
    assert sum(Decimal(unit["cost_usd"]) for unit in call.units) == Decimal(provider.invoice()["total_usd"])


def test_pictures_that_were_done_before_the_cut_are_kept(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("cut:after=4")
    stream = oai.images.generate(model="gpt-image-1", prompt="a parcel", n=3, stream=True)
    with pytest.raises(Exception):  # noqa: B017 -- which one differs by SDK
        list(stream)

    call = ledger.call()
    assert call.outcome == "stream_interrupted"
    assert [unit["cost_status"] for unit in call.units] == ["exact", "exact"]


@pytest.mark.parametrize("n", [1, 2], ids=["small", "large"])
def test_who_writes_a_drawing_is_a_unit_of_its_own(n: int, ledger: Any, provider: Provider, oai: Any) -> None:
    oai.images.generate(model="gpt-image-1", prompt="a parcel", n=n, output_format="svg")

    call = ledger.call()
    assert [unit["model"] for unit in call.units] == ["gpt-5-mini-2025-08-07", "gpt-image-1"]
    assert sum(Decimal(unit["cost_usd"]) for unit in call.units) == Decimal(provider.invoice()["total_usd"])


# What is no call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/videos/video_1"),
        ("GET", "/fine_tuning/jobs"),
        ("GET", "/fine_tuning/jobs/ftjob-1/events"),
        ("POST", "/realtime/sessions"),
        ("POST", "/live/sessions"),
        ("POST", "/chatkit/sessions"),
        ("GET", "/threads/t/runs/r/steps"),
        ("POST", "/threads"),
        ("DELETE", "/v1/sessions/sesn_1"),
        ("GET", "/agents/sessions/s/items"),
    ],
)
def test_what_bills_nothing_is_no_call(method: str, url: str) -> None:
    assert route_of(method, url) is None


def test_a_thread_of_a_session_is_priced_by_its_own_agent(ledger: Any) -> None:
    route = route_of("GET", "/v1/sessions/sesn_1/threads/sthr_1/events")
    assert route is not None
    _jobs.owners.learn({"id": "sesn_1", "agent": {"model": {"id": "claude-opus-5-5"}}})
    _jobs.owners.learn({"id": "sthr_1", "agent": {"model": {"id": CLAUDE, "inference_geo": "us"}}})
    usage = {"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 9}
    body = {"data": [{"type": "span.model_request_end", "id": "sevt_1", "model_usage": usage}]}

    [answer] = _jobs.read_job(route, json.loads(json.dumps(body)))

    assert (answer.model, answer.geo, answer.is_estimated) == (CLAUDE, "us", True)
