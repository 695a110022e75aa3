"""What only the app knows is on the ledger beside its calls, told by the app or noticed right after an answer."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

import tallystick
from fakes.collector import running_collector
from fakes.provider import Provider

GPT = "gpt-4o-mini"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


class Parcel(pydantic.BaseModel):
    place: str


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, **more)


def markers(ledger: Any) -> list[Any]:
    return [span for span in ledger.spans() if "tallystick.marker" in span.attributes]


def said(marker: Any) -> dict[str, Any]:
    prefix = "tallystick.marker"
    return {
        name[len(prefix) :].lstrip("."): value for name, value in marker.attributes.items() if name.startswith(prefix)
    }


@pytest.mark.parametrize("saved", ["0.0125", Decimal("0.0125"), 0.0125])
def test_a_cache_hit_says_what_it_saved(ledger: Any, saved: Any) -> None:
    with tallystick.tags(feature="search", user="u1"):
        tallystick.cache_hit(saved, model=GPT)

    [marker] = markers(ledger)
    assert (marker.name, said(marker)) == (
        "tallystick.cache_hit",
        {"": "cache_hit", "saved_usd": "0.0125", "model": GPT},
    )
    assert marker.attributes["tallystick.feature"] == "search"
    assert marker.attributes["tallystick.caller"].endswith("test_a_cache_hit_says_what_it_saved")


@pytest.mark.parametrize("saved", [None, -1, float("nan"), "Infinity"])
def test_a_saving_that_is_none_is_left_out(ledger: Any, saved: Any) -> None:
    tallystick.cache_hit(saved)

    assert said(markers(ledger)[0]) == {"": "cache_hit"}


@pytest.mark.swallows
def test_a_marker_never_raises(ledger: Any) -> None:
    tallystick.cache_hit("a lot")

    assert markers(ledger) == []


def test_going_a_lesser_way_names_the_call_that_failed(ledger: Any, provider: Provider, oai: Any) -> None:
    provider.script("401")
    try:
        chat(oai)
    except openai.AuthenticationError:
        tallystick.degraded(to="keywords")
    chat(oai)
    tallystick.degraded(to="a shorter text")

    failed, _ = ledger.calls()
    first, second = markers(ledger)
    assert said(first) == {"": "degraded", "to": "keywords", "call": failed.id}
    assert (first.parent, first.trace) == (failed.id, failed.trace)
    assert said(second) == {"": "degraded", "to": "a shorter text"}, "the last call did answer"


def test_a_bad_answer_is_that_of_the_last_call(ledger: Any, oai: Any) -> None:
    chat(oai)
    chat(oai)
    tallystick.bad_output("too short")

    _, last = ledger.calls()
    [marker] = markers(ledger)
    assert said(marker) == {"": "bad_output", "reason": "too short", "call": last.id}
    assert (marker.parent, marker.trace) == (last.id, last.trace)


def test_a_bad_answer_without_a_call_is_told_all_the_same(ledger: Any) -> None:
    import contextvars
    import threading

    thread = threading.Thread(target=contextvars.Context().run, args=(tallystick.bad_output,))
    thread.start()
    thread.join()

    assert said(markers(ledger)[0]) == {"": "bad_output"}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(Parcel.model_validate_json, id="pydantic"),
        pytest.param(lambda text: json.loads("{" + text), id="json"),
    ],
)
def test_an_error_of_a_parser_that_leaves_tags_is_noticed(ledger: Any, oai: Any, use: Any) -> None:
    with pytest.raises(ValueError) as raised, tallystick.tags(feature="parcels"), tallystick.tags(user="u1"):
        use(chat(oai).choices[0].message.content)

    [marker] = markers(ledger)
    assert said(marker) == {
        "": "bad_output",
        "reason": type(raised.value).__name__,
        "noticed": True,
        "call": ledger.call().id,
    }


def refuse() -> None:
    raise KeyError("place")


def test_other_errors_and_errors_of_other_things_are_not_noticed(ledger: Any, oai: Any, provider: Provider) -> None:
    chat(oai)  # before the block: not what the block was about
    with pytest.raises(pydantic.ValidationError), tallystick.tags(feature="parcels"):
        Parcel.model_validate_json("{}")
    with pytest.raises(KeyError), tallystick.tags(feature="parcels"):
        chat(oai)
        refuse()
    provider.script("401")
    with pytest.raises(openai.AuthenticationError), tallystick.tags(feature="parcels"):
        chat(oai)

    assert markers(ledger) == []


def test_what_the_sdk_could_not_parse_is_not_told_twice(ledger: Any, oai: Any) -> None:
    class Strict(pydantic.BaseModel):
        place: str = pydantic.Field(pattern="^never$")

    with pytest.raises(pydantic.ValidationError), tallystick.tags(feature="parcels"):
        oai.chat.completions.parse(model=GPT, messages=HELLO, response_format=Strict)

    assert ledger.call().outcome == "invalid_output"
    assert markers(ledger) == []


async def test_an_async_apps_markers_are_of_its_own_task(ledger: Any, async_oai: Any) -> None:
    await chat(async_oai)
    tallystick.bad_output()

    assert said(markers(ledger)[0])["call"] == ledger.call().id


def test_without_instrument_a_marker_does_nothing() -> None:
    tallystick.cache_hit()
    tallystick.degraded("keywords")
    tallystick.bad_output()
    with pytest.raises(pydantic.ValidationError), tallystick.tags(feature="parcels"):
        Parcel.model_validate_json("{}")


def test_a_marker_is_no_call_for_the_collector(provider: Provider, oai: Any, tmp_path: Path) -> None:
    with running_collector(tmp_path) as collector:
        tallystick.instrument(collector=collector.url, spool=collector.spool, providers=provider.mapping)
        try:
            chat(oai)
            tallystick.bad_output("too short")
            tallystick.cache_hit("0.01", model=GPT)
            tallystick.degraded("keywords")
            assert tallystick.flush()
        finally:
            tallystick.uninstrument()
        collector.settle()

        assert collector.ask("totals")["calls"] == 1
        assert [row["id"] for row in collector.ask("calls")["rows"]]
