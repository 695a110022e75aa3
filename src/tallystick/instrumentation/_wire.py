"""What an answer says of itself: id, model, usage, how it ended; from a whole body, or from a stream as it passes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tallystick.model.failures import Outcome, outcome_of_status, outcome_of_stop

BODY_BYTES_MAX = 16 * 1024 * 1024
KEPT_BYTES_MAX = 256 * 1024
"""How much of an unfinished stream is kept to estimate what it cost."""


@dataclass(slots=True)
class Answer:
    """The facts of one billable response; no content."""

    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    service_tier: str | None = None
    tool_usage: dict[str, Any] | None = None
    stop_reasons: list[str] = field(default_factory=list)
    outcome: Outcome = Outcome.OK
    error_code: str | None = None
    streamed_characters: int = 0
    """Length of the text that was streamed; set only when the answer did not say its usage."""


def read_body(body: Any) -> Answer:
    """Return the facts of a whole JSON body, of any API; unknown shapes give an empty answer."""
    if not isinstance(body, Mapping):
        return Answer(outcome=Outcome.INVALID_OUTPUT)
    answer = Answer()
    _take_common(answer, body)
    for choice in _list(body.get("choices")):
        _take_stop(answer, choice.get("finish_reason"))
    _take_stop(answer, body.get("stop_reason"))
    _take_status(answer, body)
    return answer


def read_error(status: int, body: Any, message: str = "") -> tuple[Outcome, str | None]:
    """Return how an HTTP error ended and the provider's word for it."""
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    error = error if isinstance(error, Mapping) else {}
    kind, code = _text(error.get("type")), _text(error.get("code"))
    details = error.get("details")
    detail = _text(details.get("error_code")) if isinstance(details, Mapping) else None
    said = _text(error.get("message")) or message
    return outcome_of_status(status, detail, code, kind, message=said), detail or code or kind


def _take_common(answer: Answer, body: Mapping[str, Any]) -> None:
    answer.id = _text(body.get("id")) or answer.id
    answer.model = _text(body.get("model")) or answer.model
    answer.service_tier = _text(body.get("service_tier")) or answer.service_tier
    if isinstance(body.get("usage"), Mapping):
        answer.usage = {**(answer.usage or {}), **body["usage"]}
    if isinstance(body.get("tool_usage"), Mapping):
        answer.tool_usage = dict(body["tool_usage"])


def _take_stop(answer: Answer, reason: object) -> None:
    if isinstance(reason, str):
        answer.stop_reasons.append(reason)
        if answer.outcome is Outcome.OK:
            answer.outcome = outcome_of_stop(reason)


def _take_status(answer: Answer, response: Mapping[str, Any]) -> None:
    """Read the state of an OpenAI response: failed and incomplete ones raise nothing in the SDK."""
    status = response.get("status")
    if status == "failed":
        error = response.get("error")
        answer.outcome, answer.error_code = read_error(500, error if isinstance(error, Mapping) else {})
    elif status == "incomplete":
        details = response.get("incomplete_details")
        _take_stop(answer, details.get("reason") if isinstance(details, Mapping) else "max_output_tokens")
    elif status == "completed":
        answer.stop_reasons.append("stop")


class StreamReader(ABC):
    """Follows one event stream by its lines; parses only the events that carry facts.

    ``complete`` is true once the terminal marker was seen: a stream that was merely closed is not complete.
    """

    def __init__(self) -> None:
        self.answer = Answer()
        self.complete = False
        self.failed = False
        self.events = 0
        self.first_content = False
        self._tail = b""
        self._event = b""
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take decoded bytes, cut anywhere."""
        lines = (self._tail + chunk).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line[:5] == b"data:":
                self.events += 1
                self.on_data(self._event, line[5:].strip())
                self._event = b""
            elif line[:6] == b"event:":
                self._event = line[6:].strip()

    def end(self) -> None:
        """Say that the body ended; a last line may lack its newline."""
        if self._tail:
            self.feed(b"\n")

    @abstractmethod
    def on_data(self, event: bytes, data: bytes) -> None:
        """Take one event: its name, empty when the stream has none, and its data."""

    def estimate(self) -> None:
        """Count the text that was streamed, for an answer that did not say its usage."""
        self.answer.streamed_characters = sum(_characters(_json(data)) for data in self._kept)

    def keep(self, data: bytes) -> None:
        """Keep a content event until the stream has ended."""
        self.first_content = True
        if self._kept_bytes < KEPT_BYTES_MAX:
            self._kept.append(data)
            self._kept_bytes += len(data)

    def finish(self) -> None:
        """The terminal marker was seen."""
        self.complete = True

    def fail(self, body: Any) -> None:
        """An error came in the stream, with HTTP status 200."""
        self.failed = True
        self.answer.outcome, self.answer.error_code = read_error(500, body)


class MessagesStream(StreamReader):
    """Anthropic: ``message_start`` has the input, ``message_delta`` the cumulative output, ``message_stop`` ends it."""

    def on_data(self, event: bytes, data: bytes) -> None:
        event = event or _type_of(data)
        if event == b"content_block_delta":
            self.keep(data)
        elif event == b"message_start":
            message = _mapping(_json(data).get("message"))
            _take_common(self.answer, message)
            # The output count of message_start is a placeholder; the real one comes with message_delta.
            (self.answer.usage or {}).pop("output_tokens", None)
        elif event == b"message_delta":
            body = _json(data)
            # Cumulative: later figures replace earlier ones; the cache split stands only in message_start.
            _take_common(
                self.answer, {"usage": {k: v for k, v in _mapping(body.get("usage")).items() if v is not None}}
            )
            _take_stop(self.answer, _mapping(body.get("delta")).get("stop_reason"))
        elif event == b"message_stop":
            self.finish()
        elif event == b"error":
            self.fail(_json(data))


# What a chunk that says usage or an end has in it; with include_usage every other chunk has ``"usage":null``.
_CHAT_MARKS = (b'"usage":{', b'"usage": {', b'"finish_reason":"', b'"finish_reason": "')


class ChatStream(StreamReader):
    """OpenAI chat and legacy completions: no event names; usage in the last chunk, if asked for; ``[DONE]`` ends."""

    def on_data(self, event: bytes, data: bytes) -> None:
        if data[:6] == b"[DONE]":
            self.finish()
            return
        first = self.answer.id is None
        told = (
            b'"usage":{' in data
            or b'"usage": {' in data
            or b'"finish_reason":"' in data
            or b'"finish_reason": "' in data
        )
        if first or told or data[:8] == b'{"error"':
            self._take(_json(data))
        self.keep(data)

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("error"):
            self.fail(body)
            return
        _take_common(self.answer, body)
        for choice in _list(body.get("choices")):
            _take_stop(self.answer, choice.get("finish_reason"))

    def end(self) -> None:
        """Many compatible hosts send no ``[DONE]``: a finish reason ends it as well once the body is over."""
        super().end()
        if self.answer.stop_reasons:
            self.finish()


class ResponsesStream(StreamReader):
    """OpenAI responses: typed events; the terminal one carries the whole response with its usage."""

    def on_data(self, event: bytes, data: bytes) -> None:
        event = event or _type_of(data)
        if event.endswith(b".delta"):
            self.keep(data)
        elif event in {b"response.created", b"response.in_progress"}:
            _take_common(self.answer, _mapping(_json(data).get("response")))
        elif event in {b"response.completed", b"response.incomplete", b"response.failed"}:
            response = _mapping(_json(data).get("response"))
            _take_common(self.answer, response)
            _take_status(self.answer, response)
            self.finish()
        elif event == b"error":
            self.fail(_json(data))


class OtherStream(StreamReader):
    """Streams of images and audio: the event that carries usage is the last that counts."""

    def on_data(self, event: bytes, data: bytes) -> None:
        self.first_content = True
        if data[:6] == b"[DONE]":
            self.finish()
        elif b'"usage":' in data:
            body = _json(data)
            _take_common(self.answer, body)
            _take_common(self.answer, _mapping(body.get("response")))
            if self.answer.usage is not None:
                self.finish()


class WholeBody(StreamReader):
    """A JSON body that the app reads as a stream: gathered, and read when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self.first_content = True
        if len(self._body) < BODY_BYTES_MAX:
            self._body += chunk

    def on_data(self, event: bytes, data: bytes) -> None:
        """A body has no events."""

    def end(self) -> None:
        self.answer = read_body(_json(bytes(self._body)) or None)
        self.complete = True


STREAMS: dict[str, type[StreamReader]] = {
    "messages": MessagesStream,
    "chat": ChatStream,
    "completions": ChatStream,
    "responses": ResponsesStream,
}


def stream_reader(api: str) -> StreamReader:
    """Return a reader for the event stream of ``api``."""
    flavour = STREAMS.get(api, OtherStream)
    return flavour()


def _json(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _type_of(data: bytes) -> bytes:
    """Return an event's type from its data, for streams without ``event:`` lines."""
    return str(_json(data).get("type", "")).encode()


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


# Where streamed text stands in an event, over the three APIs.
_CONTENT = frozenset(
    {"text", "content", "thinking", "partial_json", "arguments", "refusal", "reasoning_content", "delta"}
)


def _characters(value: object) -> int:
    """Return the length of all streamed text in an event."""
    if isinstance(value, dict):
        return sum(
            len(item) if isinstance(item, str) and key in _CONTENT else _characters(item) for key, item in value.items()
        )
    if isinstance(value, list):
        return sum(_characters(item) for item in value)
    return 0
