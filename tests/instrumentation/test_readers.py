"""A stream says the same however the network cuts it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.instrumentation._wire import ChatStream, MessagesStream, ResponsesStream, StreamReader

TEXTS = (
    "word ",
    "an error_",
    "message_stop",
    "[DONE]",
    '{"error": 1}',
    '"usage":{',
    "data: ",
    "response.completed",
    "ü\n",
)


def events(pairs: list[tuple[str, Any]], *, space: str = "", end: str = "\n") -> bytes:
    lines = []
    for name, data in pairs:
        text = data if isinstance(data, str) else json.dumps(data, separators=(",", f":{space}"))
        lines += [*([f"event: {name}"] if name else []), f"data: {text}", ""]
    return (end.join(lines) + end).encode()


def chat(texts: list[str], usage: Any) -> list[tuple[str, Any]]:
    def chunk(delta: Any, reason: Any, usage: Any = None) -> tuple[str, Any]:
        return "", {"id": "c1", "model": "m", "choices": [{"delta": delta, "finish_reason": reason}], "usage": usage}

    written = [chunk({"content": text}, None) for text in texts]
    return [chunk({"role": "assistant"}, None), *written, chunk({}, "stop"), chunk({}, None, usage), ("", "[DONE]")]


def messages(texts: list[str], usage: Any) -> list[tuple[str, Any]]:
    told = [
        {"type": "message_start", "message": {"id": "m1", "model": "m", "usage": {"input_tokens": 7}}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in texts],
        {"type": "content_block_stop"},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [(str(event["type"]), event) for event in told]


def responses(texts: list[str], usage: Any) -> list[tuple[str, Any]]:
    response = {"id": "r1", "model": "m", "status": "in_progress", "usage": None}
    told = [
        {"type": "response.created", "response": response},
        *[{"type": "response.output_text.delta", "delta": text} for text in texts],
        {"type": "response.output_text.done", "text": "".join(texts)},
        {"type": "response.completed", "response": response | {"status": "completed", "usage": usage}},
    ]
    return [(str(event["type"]), event) for event in told]


KINDS: dict[str, tuple[Any, type[StreamReader]]] = {
    "chat": (chat, ChatStream),
    "messages": (messages, MessagesStream),
    "responses": (responses, ResponsesStream),
}


def told(kind: type[StreamReader], chunks: list[bytes], *, ended: bool) -> Any:
    """Return all that a reader says of a stream that came in ``chunks``."""
    reader = kind()
    for chunk in chunks:
        reader.feed(chunk)
    reader.end() if ended else reader.settle()
    reader.estimate()
    return reader.answer, reader.events, reader.complete, reader.failed, reader.first_content, reader.kept


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_however_it_is_cut_it_says_the_same(kind: str, data: st.DataObject) -> None:
    make, reader = KINDS[kind]
    texts = data.draw(st.lists(st.sampled_from(TEXTS), max_size=12))
    pairs = make(texts, {"input_tokens": 7, "output_tokens": 9})
    if data.draw(st.booleans(), label="fails"):
        pairs[-2:] = [("error" if kind != "chat" else "", {"error": {"type": "overloaded_error"}, "type": "error"})]
    body = events(pairs, space=data.draw(st.sampled_from(["", " "])), end=data.draw(st.sampled_from(["\n", "\r\n"])))
    if data.draw(st.booleans(), label="is cut off"):
        body = body[: data.draw(st.integers(0, len(body)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    for ended in (True, False):
        assert told(reader, chunks, ended=ended) == told(reader, [body], ended=ended)
