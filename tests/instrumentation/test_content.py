"""Content is on a span only where the app opted in, redacted as it said, and never longer than a bound."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallystick
from fakes.collector import running_collector
from tallystick.errors import SettingsError
from tallystick.instrumentation._content import (
    CONTENT_CHARACTERS_MAX,
    MESSAGES_MAX,
    TEXT_CHARACTERS_MAX,
    Capture,
    redacted,
)

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
IN, OUT, SYSTEM = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"
NAMES = {IN, OUT, SYSTEM}
HELLO: Any = [{"role": "user", "content": "Write to ann@example.com, sk-live-0123456789abcdef is her key."}]


def with_content(**arguments: Any) -> Any:
    return pytest.mark.parametrize("ledger", [arguments], indirect=True, ids=[""])


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=HELLO, **more)


def message(client: Any, **more: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=200, messages=HELLO, **more)


def shown(ledger: Any, name: str) -> Any:
    return json.loads(ledger.call().attributes[name])


def test_by_default_there_is_none(ledger: Any, oai: Any) -> None:
    list(chat(oai, stream=True))
    chat(oai)

    assert not any(NAMES & set(call.attributes) for call in ledger.calls())


@with_content(content="full")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_full_content_is_what_was_said(ledger: Any, oai: Any, ant: Any, stream: bool, sdk: str) -> None:
    if sdk == "openai":
        answer = chat(oai, stream=stream)
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            if stream
            else answer.choices[0].message.content
        )
    else:
        answer = message(ant, stream=stream, system="Be kind.")
        text = (
            "".join(getattr(event.delta, "text", "") for event in answer if event.type == "content_block_delta")
            if stream
            else answer.content[0].text
        )
        assert shown(ledger, SYSTEM) == [{"type": "text", "content": "Be kind."}]

    assert text
    assert shown(ledger, IN) == [
        {"role": "user", "parts": [{"type": "text", "content": HELLO[0]["content"]}]},
    ]
    [said] = shown(ledger, OUT)
    assert (said["role"], said["parts"]) == ("assistant", [{"type": "text", "content": text}])
    assert said["finish_reason"] in {"stop", "end_turn"}


@with_content(content="full")
@pytest.mark.parametrize("stream", [False, True])
def test_the_content_of_responses(ledger: Any, oai: Any, stream: bool) -> None:
    answer = oai.responses.create(model=GPT, input="Where?", instructions="Be kind.", stream=stream)
    text = (
        "".join(event.delta for event in answer if event.type.endswith("text.delta")) if stream else answer.output_text
    )

    assert shown(ledger, IN) == [{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}]
    assert shown(ledger, SYSTEM) == [{"type": "text", "content": "Be kind."}]
    assert [part["content"] for said in shown(ledger, OUT) for part in said["parts"]] == [text]


@with_content(content="full")
def test_a_body_that_is_read_late_is_shown(ledger: Any, oai: Any) -> None:
    with oai.chat.completions.with_streaming_response.create(model=GPT, messages=HELLO) as response:
        text = response.parse().choices[0].message.content

    assert shown(ledger, OUT)[0]["parts"] == [{"type": "text", "content": text}]


TOOL_TURNS: Any = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "data:"}}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "found"},
]
TOOL_BLOCKS: Any = [
    {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image", "source": {"data": "AAAA"}}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "find", "input": {"q": 1}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "found"}]},
]
TOOL_ITEMS: Any = [
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": "data:"}],
    },
    {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"q":1}'},
    {"type": "function_call_output", "call_id": "c1", "output": "found"},
]


@pytest.mark.parametrize("turns", [TOOL_TURNS, TOOL_BLOCKS, TOOL_ITEMS], ids=["chat", "messages", "responses"])
def test_tools_and_pictures_have_parts_of_their_own(turns: Any) -> None:
    name = "input" if turns is TOOL_ITEMS else "messages"
    shown = json.loads(Capture("full", None).asked({name: turns})[IN])
    parts = [part for turn in shown for part in turn["parts"]]

    assert parts[0] == {"type": "text", "content": "Look"}
    assert set(parts[1]) == {"type"}, "a picture is named, and left out"
    assert {**parts[2], "arguments": json.loads(parts[2]["arguments"])} == {
        "type": "tool_call",
        "id": "c1",
        "name": "find",
        "arguments": {"q": 1},
    }
    assert parts[3] == {"type": "tool_call_response", "id": "c1", "response": "found"}


def test_the_arguments_of_a_streamed_tool_call_are_put_together() -> None:
    pieces = ['{"q"', ": 1}"]
    events = [
        json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": function}]}}]}).encode()
        for function in ({"name": "find", "arguments": pieces[0]}, {"arguments": pieces[1]})
    ]

    [said] = json.loads(Capture("full", None).streamed(events, ["tool_calls"])[OUT])
    assert said["parts"] == [{"type": "tool_call", "name": "find", "arguments": '{"q": 1}'}]
    assert said["finish_reason"] == "tool_calls"


@with_content(content="redacted")
def test_redacted_content_has_no_key_and_no_address(ledger: Any, oai: Any) -> None:
    chat(oai)

    assert shown(ledger, IN)[0]["parts"][0]["content"] == "Write to [email], [key] is her key."
    assert shown(ledger, OUT)


@with_content(content="redacted", redact=lambda text: text.replace("Write", "[verb]"))
def test_the_apps_redactor_runs_after_ours(ledger: Any, oai: Any) -> None:
    chat(oai)

    assert shown(ledger, IN)[0]["parts"][0]["content"] == "[verb] to [email], [key] is her key."


def broken(text: str) -> str:
    raise ZeroDivisionError(text)


FAILING = [{"content": "redacted", "redact": redact} for redact in (broken, lambda text: None)]


@pytest.mark.swallows
@pytest.mark.parametrize("ledger", FAILING, indirect=True, ids=["raises", "gives-no-text"])
def test_a_redactor_that_fails_drops_the_content_not_the_call(ledger: Any, oai: Any) -> None:
    assert chat(oai).choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chat(oai, stream=True))

    calls = ledger.calls()
    assert [call.outcome for call in calls] == ["ok", "ok"]
    assert not any(NAMES & set(call.attributes) for call in calls)
    assert [call.units[0]["cost_status"] for call in calls] == ["exact", "exact"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail bob.o'neil+x@mail.example.co.uk now", "mail bob.o'[email] now"),
        ("Authorization: Bearer abcdef123456.xyz", "Authorization: [token]"),
        ("sk-ant-api03-AbCd_1234567890-xyz", "[key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ456789", "[key]"),
        ("xoxb-123456789012-abcdefghij", "[key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_1", "[token]"),
        ('{"password": "hunter22"}', '{"[secret]"}'),
        ("api_key=abcd1234", "[secret]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[key]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE that was cut", "[key]"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("card 4111-1111-1111-1112 is none", "card 4111-1111-1111-1112 is none"),
        ("call +49 30 1234567 today", "call [phone] today"),
        ("call (030) 123-456-78", "call [phone]"),
        ("call +14155550123.", "call [phone]."),
        ("on 2026-11-21 at 10:15, order 123456789, 3.14159", "on 2026-11-21 at 10:15, order 123456789, 3.14159"),
        ("max_tokens: 2000, a task-list for the api-gateway", "max_tokens: 2000, a task-list for the api-gateway"),
        ("", ""),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


@settings(deadline=None)
@given(st.text(max_size=300))
def test_redaction_never_fails_and_is_done_once(text: str) -> None:
    once = redacted(text)

    assert "@" not in once or "@" in text
    assert isinstance(redacted(once), str)


@pytest.mark.parametrize(
    "text", ["a" * 9000, "1 " * 4500, "a@" * 4500, "sk-" * 3000, "-----BEGIN " * 800, "eyJ" * 3000]
)
def test_redaction_takes_no_time_on_any_text(text: str) -> None:
    started = time.thread_time()
    redacted(text)

    assert time.thread_time() - started < 1


def test_a_secret_at_the_cut_is_not_cut_in_two() -> None:
    text = "x" * (TEXT_CHARACTERS_MAX - 8) + " sk-live-0123456789abcdef" + "y" * 5000
    shown = Capture("redacted", None).asked({"messages": [{"role": "user", "content": text}]})[IN]

    assert "sk-live" not in shown
    assert f"cut; {len(text)} characters" in shown


def test_long_content_is_bounded_and_keeps_its_ends() -> None:
    turns = [{"role": "user", "content": f"turn {n} " + "x" * 5000} for n in range(200)]
    shown = Capture("full", None).asked({"messages": turns})[IN]
    said = json.loads(shown)

    assert len(shown) < CONTENT_CHARACTERS_MAX + 1000
    texts = [turn["parts"][0].get("content", "left out")[:8] for turn in said]
    assert texts[0] == "turn 0 x"
    assert "left out" in texts
    assert texts[-1] == "turn 199"


def test_many_turns_are_counted_where_they_are_left_out() -> None:
    turns = [{"role": "user", "content": str(n)} for n in range(MESSAGES_MAX + 10)]
    said = json.loads(Capture("full", None).asked({"messages": turns})[IN])

    assert said[1]["parts"] == [{"type": "omitted", "messages": 10}]
    assert [turn["parts"][0].get("content") for turn in (said[0], said[2], said[-1])] == [
        "0",
        "11",
        str(MESSAGES_MAX + 9),
    ]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"content": "all"}, "content is 'all'; it must be off, redacted or full"),
        ({"content": "full", "redact": str}, "redact is given but content is 'full'"),
        ({"content": "redacted", "redact": "emails"}, "redact is 'emails'; it must be a function"),
    ],
)
def test_a_wrong_setting_is_told_at_instrument(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        tallystick.instrument(**setting)


def test_a_wrong_variable_is_told_at_instrument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_CONTENT", "yes")

    with pytest.raises(SettingsError, match="content is 'yes'"):
        tallystick.instrument()


CANARY = "CaNaRy7391"
SAID: dict[str, Any] = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": f"The answer is {CANARY}.",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": f'["{CANARY}"]'}}],
    }}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
}  # fmt: skip


def answering(request: httpx2.Request) -> httpx2.Response:
    """Say the canary wherever a provider could."""
    headers = {"x-request-id": "req_1", "set-cookie": f"session={CANARY}"}
    if b"fail" in request.content:
        error = {"message": f"no such thing as {CANARY}", "type": "invalid_request_error", "param": CANARY}
        return httpx2.Response(400, headers=headers, json={"error": error})
    if b'"stream":true' not in request.content:
        return httpx2.Response(200, headers=headers, json=SAID)
    chunk = {**SAID, "choices": [{"index": 0, "delta": {"content": CANARY}, "finish_reason": None}]}
    return httpx2.Response(
        200, headers={**headers, "content-type": "text/event-stream"}, content=f"data: {json.dumps(chunk)}\n\n"
    )


@pytest.fixture
def everywhere() -> Iterator[openai.OpenAI]:
    with httpx2.Client(transport=httpx2.MockTransport(answering)) as http:
        yield openai.OpenAI(
            api_key=f"sk-{CANARY}-0123456789abcdef",
            http_client=http,
            default_headers={"x-tenant": CANARY},
            default_query={"code": CANARY},
            max_retries=0,
        )


def test_a_canary_is_nowhere_while_content_is_off(
    everywhere: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """In prompt, system, tools, tool arguments, key, header, URL query, error text, cookie and answer."""
    turns: Any = [{"role": "system", "content": f"You are {CANARY}."}, *TOOL_TURNS, {"role": "user", "content": CANARY}]
    tools: Any = [{"type": "function", "function": {"name": "f", "description": CANARY, "parameters": {}}}]
    with caplog.at_level(logging.DEBUG, logger="tallystick"), running_collector(tmp_path) as collector:
        tallystick.instrument(collector=collector.url, spool=collector.spool, service="shop")
        try:
            ask = everywhere.chat.completions.create
            ask(model=GPT, messages=turns, tools=tools, user=CANARY)
            list(ask(model=GPT, messages=turns, stream=True))  # cut: it ends without its marker
            with pytest.raises(openai.BadRequestError, match=CANARY):
                ask(model=GPT, messages=[*turns, {"role": "user", "content": "fail"}])
            tallystick.bad_output("empty")
            spooled = b"".join(path.read_bytes() for path in collector.spool.glob("*"))
            assert tallystick.flush()
        finally:
            tallystick.uninstrument()
        collector.settle()
        calls = collector.ask("calls")["rows"]
        told = [collector.ask(f"calls/{call['id']}") for call in calls]
        told += [collector.ask(question) for question in ("totals", "failures", "ledger")]
        told += [collector.ask("dimensions", name=name) for name in ("key", "model", "caller", "feature")]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    logged = caplog.text + "".join(capfd.readouterr())

    assert len(calls) == 3
    assert b"chatcmpl-1" in kept, "what is looked through holds the calls"
    for where in (spooled, kept, json.dumps(told, default=str).encode(), logged.encode()):
        assert CANARY.encode().lower() not in where.lower()


def test_the_canary_would_be_found(everywhere: Any, tmp_path: Path) -> None:
    """With content on, the same search finds it: the one above can fail."""
    tallystick.instrument(collector="http://127.0.0.1:9", spool=tmp_path / "spool", content="full")
    try:
        everywhere.chat.completions.create(model=GPT, messages=[{"role": "user", "content": CANARY}])
        spooled = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.tly"))
    finally:
        tallystick.uninstrument()

    assert CANARY.encode() in spooled
