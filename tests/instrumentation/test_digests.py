"""A request's looks: equal where requests are equal, growing with a conversation, and without a word of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallystick
from fakes.provider import Provider
from fakes.receiver import running_receiver
from tallystick.instrumentation._digests import PREFIXES_MAX, Digests

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
DIGESTS = Digests(b"s" * 32)
LONG = "You answer for a parcel service. " * 60


def turn(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def look(api: str = "chat", **request: Any) -> dict[str, Any]:
    return dict(DIGESTS.look({"model": GPT, **request}, api).attributes)


def prefixes(attributes: dict[str, Any]) -> list[tuple[str, int]]:
    return [(digest, size) for digest, size in json.loads(attributes["tallystick.prefix_digests"])]


def test_the_order_of_keys_is_no_difference() -> None:
    one = look(messages=[{"role": "user", "content": "hi"}], temperature=1, tools=[{"name": "f", "type": "function"}])
    other = look(tools=[{"type": "function", "name": "f"}], temperature=1, messages=[{"content": "hi", "role": "user"}])

    assert one == other


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-4o"},
        {"temperature": 0.5},
        {"messages": [turn("hi!")]},
        {"messages": [turn("hi", "system")]},
        {"messages": [turn("h"), turn("i")]},
        {"messages": [turn("hi"), turn("")]},
        {"tools": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"seed": 1},
    ],
    ids=str,
)
def test_whatever_is_asked_otherwise_has_another_digest(change: dict[str, Any]) -> None:
    before, after = look(messages=[turn("hi")]), look(**{"messages": [turn("hi")], **change})

    assert before["tallystick.request_digest"] != after["tallystick.request_digest"]


@pytest.mark.parametrize("change", [{"stream": True}, {"stream_options": {"include_usage": True}}], ids=str)
def test_how_an_answer_is_sent_is_no_other_question(change: dict[str, Any]) -> None:
    assert look(messages=[turn("hi")]) == look(messages=[turn("hi")], **change)


def test_a_conversation_that_goes_on_keeps_the_beginnings_of_its_prefixes() -> None:
    first = look(messages=[turn("be brief", "system"), turn("one")])
    second = look(messages=[turn("be brief", "system"), turn("one"), turn("1", "assistant"), turn("two")])

    assert prefixes(second)[:2] == prefixes(first)
    assert [size for _, size in prefixes(second)] == [8, 11, 12, 15]
    assert second["tallystick.request.characters"] == 15
    assert second["tallystick.request.messages"] == 4


def test_the_blocks_of_a_message_are_prefixes_and_a_cache_breakpoint_changes_nothing() -> None:
    document = {"type": "text", "text": LONG}
    marked = {**document, "cache_control": {"type": "ephemeral"}}
    one = look("messages", messages=[{"role": "user", "content": [document, {"type": "text", "text": "Who?"}]}])
    other = look("messages", messages=[{"role": "user", "content": [marked, {"type": "text", "text": "When?"}]}])

    assert prefixes(one)[0] == prefixes(other)[0] == (prefixes(one)[0][0], len(LONG))
    assert prefixes(one)[1][0] != prefixes(other)[1][0]


def test_a_long_conversation_has_its_first_and_its_last_prefixes() -> None:
    turns = [turn(f"turn {n:03}") for n in range(100)]
    every = [prefixes(look(messages=turns[: n + 1]))[-1] for n in range(100)]

    assert prefixes(look(messages=turns)) == every[: PREFIXES_MAX // 2] + every[-PREFIXES_MAX // 2 :]


def test_tools_come_first_and_have_a_size_of_their_own() -> None:
    tools = [{"name": "track", "input_schema": {"type": "object"}}]
    attributes = look("messages", tools=tools, system="be kind", messages=[turn("hi")])

    assert attributes["tallystick.request.tools_characters"] == len(
        '[{"input_schema":{"type":"object"},"name":"track"}]'
    )
    assert prefixes(attributes)[0][1] == attributes["tallystick.request.tools_characters"]
    assert len(prefixes(attributes)) == 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(LONG, LONG, True, id="equal"),
        pytest.param(LONG, LONG + "Be brief.", False, id="another-sentence"),
        pytest.param("Answer in 3 words.", "Answer in 5 words.", False, id="another-small-number"),
        pytest.param("Today is 2026-11-20.", "Today is 2026-11-21.", True, id="date"),
        pytest.param("Now: 2026-11-20T09:01:02Z", "Now: 2026-11-20T10:11:12.5Z", True, id="timestamp"),
        pytest.param(
            "It is Friday, November 20, 2026", "It is Saturday, November 21, 2026", True, id="words-of-a-date"
        ),
        pytest.param("Order 4711234", "Order 90", False, id="a-long-number-is-not-a-short-one"),
        pytest.param("Order 4711234", "Order 90821", True, id="long-numbers"),
        pytest.param(
            "Session 0f8fad5b-d9cb-469f-a165-70867728950e",
            "Session 7c9e6679-7425-40de-944b-e07fc1f90ae7",
            True,
            id="uuid",
        ),
    ],
)
@pytest.mark.parametrize("where", ["system", "message", "instructions"])
def test_a_template_is_what_stays_of_the_system_prompt(one: str, other: str, same: bool, where: str) -> None:
    def template(text: str, question: str) -> Any:
        if where == "system":
            attributes = look("messages", system=text, messages=[turn(question)])
        elif where == "instructions":
            attributes = look("responses", instructions=text, input=question)
        else:
            attributes = look(messages=[turn(text, "system"), turn(question)])
        return attributes["tallystick.template"]

    assert (template(one, "Where is my parcel?") == template(other, "And when?")) is same


def test_without_a_stable_part_there_is_no_template() -> None:
    assert "tallystick.template" not in look(messages=[turn("hi")])


def test_installations_have_digests_of_their_own() -> None:
    request = {"model": GPT, "messages": [turn("hi")]}

    assert Digests(b"a" * 32).look(request, "chat").digest != Digests(b"b" * 32).look(request, "chat").digest


def test_the_same_words_are_known_over_apis() -> None:
    asked = [
        DIGESTS.look({"messages": [turn("be kind", "system"), turn("Where?")]}, "chat"),
        DIGESTS.look({"system": "be kind", "messages": [turn("Where?")]}, "messages"),
        DIGESTS.look({"messages": [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]}, "messages"),
        DIGESTS.look({"input": "Where?"}, "responses"),
        DIGESTS.look({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Where?"}]}]}, "responses"),
    ]

    assert len({one.words for one in asked}) == 1
    assert DIGESTS.look({"input": "When?"}, "responses").words != asked[0].words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["model", "messages", "system", "tools", "input", "prompt", "n"]), JSON))
def test_no_request_is_too_odd_to_look_at(request: dict[str, Any]) -> None:
    for api in ("chat", "messages", "embeddings"):
        assert DIGESTS.look(request, api) == DIGESTS.look(dict(reversed(request.items())), api)


def test_a_call_shows_its_looks_and_none_of_its_words(ledger: Any, oai: Any, ant: Any, tmp_path: Path) -> None:
    words = "Zanzibar Quokka"
    for _ in range(2):
        oai.chat.completions.create(model=GPT, messages=[turn(LONG + words, "system"), turn(words)])
    ant.messages.create(model=CLAUDE, max_tokens=50, system=LONG + words, messages=[turn(words)])

    one, again, other = (call.attributes for call in ledger.calls())
    assert one["tallystick.request_digest"] == again["tallystick.request_digest"]
    assert one["tallystick.request_digest"] != other["tallystick.request_digest"]
    assert one["tallystick.template"] == other["tallystick.template"]
    assert one["tallystick.request.characters"] == len(LONG + words + words)
    assert not any(words in str(value) for value in {**one, **other}.values())


def test_embeddings_have_a_digest_but_no_prefixes(ledger: Any, oai: Any) -> None:
    oai.embeddings.create(model="text-embedding-3-small", input=["a parcel", "a house"])

    attributes = ledger.call().attributes
    assert attributes["tallystick.request_digest"]
    assert "tallystick.prefix_digests" not in attributes


def test_a_file_beside_the_request_leaves_it_without_a_digest(ledger: Any, oai: Any) -> None:
    """Two recordings with the same options would look alike."""
    oai.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"), language="en")

    assert "tallystick.request_digest" not in ledger.call().attributes


APP = """
import sys, openai, tallystick
tallystick.instrument(providers={sys.argv[1].partition("://")[2]: "openai"}, collector=sys.argv[2])
openai.OpenAI(base_url=sys.argv[1], api_key="k").chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
tallystick.flush()
"""


def test_processes_of_one_installation_agree(provider: Provider, tmp_path: Path) -> None:
    with running_receiver() as receiver:
        for _ in range(2):
            subprocess.run([sys.executable, "-c", APP, provider.openai_url, receiver.url], check=True, timeout=60)
        digests = [
            item.value.string_value
            for span in receiver.spans()
            for item in span.attributes
            if item.key == "tallystick.request_digest"
        ]

    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_looking_takes_little_time() -> None:
    """Measured: 8 us for a small chat request, 1.6 ms per megabyte (json.dumps: 2.8); many times that is a fault."""
    small: Any = {"model": GPT, "messages": [turn("hello " * 50)]}
    started = time.thread_time()
    for _ in range(1000):
        DIGESTS.look(small, "chat")
    assert time.thread_time() - started < 0.15
    huge: Any = {"model": GPT, "messages": [turn("hello " * 170_000)]}
    looked = _seconds(lambda: DIGESTS.look(huge, "chat"))
    assert looked < 3 * _seconds(lambda: json.dumps(huge).encode())


def _seconds(do: Any) -> float:
    times = []
    for _ in range(5):
        started = time.thread_time()
        do()
        times.append(time.thread_time() - started)
    return min(times)


def test_a_salt_that_cannot_be_kept_still_gives_digests(provider: Provider, oai: Any, tmp_path: Path) -> None:
    spool = tmp_path / "a-file"
    spool.write_text("not a folder")
    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=spool, providers=provider.mapping)
        try:
            assert oai.chat.completions.create(model=GPT, messages=[turn("hi")]).id
        finally:
            tallystick.uninstrument()
