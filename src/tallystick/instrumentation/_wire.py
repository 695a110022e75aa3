"""What an answer says of itself: id, model, usage, how it ended; from a whole body, or from a stream as it passes."""

from __future__ import annotations

import base64
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tallystick.instrumentation._routes import Route, route_of
from tallystick.model.failures import Outcome, outcome_of_status, outcome_of_stop

BODY_BYTES_MAX = 16 * 1024 * 1024
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""The longest message of an AWS event stream."""
TAIL_BYTES_MIN = 64 * 1024
"""From here on, the body of an images answer is read for its usage alone: the rest is pictures."""
BATCH_UNITS_MAX = 200
"""How many answers of a batch go on one span."""
KEPT_BYTES_MAX = 256 * 1024
"""How much of an unfinished stream is kept to estimate what it cost."""
PASSING_BYTES_MAX = 64 * 1024
"""How much of it may wait to be counted."""
EDGE_BYTES = 24
"""How much of a chunk's end is looked at together with the next chunk, for words that are cut in two."""


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
    audio_seconds: float | None = None
    """What an answer without a usage says that it heard, in seconds."""
    api: str | None = None
    """The API flavour, where the route does not tell it: a batch of OpenAI says which endpoint it asked."""
    is_batch: bool = False
    """Whether it is billed at the price of a batch though its usage does not say so."""
    is_pending: bool = False
    """Whether nothing was answered yet: a background response that is queued."""
    is_estimated: bool = False
    """Whether the usage is not the final word, or is measured by us."""
    geo: str | None = None
    """Where it is run, where its usage does not say so."""
    is_unreadable: bool = False
    """Whether its body came in an encoding that cannot be undone here."""


def read_content(content: bytes, kind: str, route: Route) -> list[Answer]:
    """Return the answers in a whole body of content type ``kind``: none, one, or those of a batch's results."""
    if route.reads == "results":
        results = BatchResults()
        results.feed(content)
        results.end()
        return results.answers
    if kind.startswith("text/html"):  # some proxy's page: the provider answered nothing
        return [Answer(outcome=Outcome.INVALID_OUTPUT, is_pending=True)]
    if "json" not in kind:
        return [Answer()]
    # Vectors and pictures are most of these bodies, and no text of the app's is in them: read the end alone.
    if route.api == "embeddings" or (route.api == "images" and len(content) > TAIL_BYTES_MIN):
        body = _tail_of(content)
        return [*_drawings(body), read_body(body)]
    try:
        body = json.loads(content)
    except ValueError:
        return [Answer(outcome=Outcome.INVALID_OUTPUT)]
    if route.reads == "batch":
        return [read_batch(body)]
    if route.reads not in {"answer", "stored"} and isinstance(body, Mapping):
        from tallystick.instrumentation._jobs import read_job  # it stands on this module

        return read_job(route, body)
    answer = read_body(body)
    return [*_drawings(body), answer] if route.api == "images" else [answer]


def _tail_of(content: bytes) -> dict[str, Any]:
    """Return what a body says of usage and model, without parsing the rest of it."""
    found: dict[str, Any] = {}
    decoder = json.JSONDecoder()
    for key in ("svg_usage", "usage", "model"):
        start = content.rfind(b'"%s"' % key.encode())
        if start >= 0:
            text = content[start:].decode(errors="replace").partition(":")[2].lstrip()
            with suppress(ValueError):  # the body was cut here
                found[key], _ = decoder.raw_decode(text)
    if "model" in found and found["model"] == _mapping(found.get("svg_usage")).get("model"):
        del found["model"]
    return found


def _drawings(body: Any) -> list[Answer]:
    """Return the unit of who wrote an SVG picture: a model of its own, told beside the usage of the pictures."""
    usage = _mapping(_mapping(body).get("svg_usage"))
    return [Answer(model=_text(usage.get("model")), usage=usage, api="responses")] if usage else []


def read_body(body: Any) -> Answer:
    """Return the facts of a whole JSON body, of any API; unknown shapes give an empty answer."""
    if not isinstance(body, Mapping):
        return Answer(outcome=Outcome.INVALID_OUTPUT)
    answer = Answer()
    _take_common(answer, body)
    if answer.usage is None and "duration" in body:  # verbose_json of a transcription
        answer.audio_seconds = _number(body["duration"])
    for choice in _list(body.get("choices")):
        _take_stop(answer, choice.get("finish_reason"))
    _take_stop(answer, body.get("stop_reason"))
    _take_status(answer, body)
    return answer


def read_batch(body: Any) -> Answer:
    """Return the facts of OpenAI's ``Batch``: one usage for all of its requests, there when it has ended."""
    batch = _mapping(body)
    answer = Answer(id=_text(batch.get("id")), model=_text(batch.get("model")), is_batch=True)
    usage = batch.get("usage")
    # While it is under way, the usage is absent or still zero.
    answer.is_pending = batch.get("completed_at") is None and batch.get("status") not in _BATCH_ENDS
    answer.usage = dict(usage) if isinstance(usage, Mapping) else None
    route = route_of("POST", str(batch.get("endpoint", "")))
    answer.api = route.api if route else None
    return answer


_BATCH_ENDS = frozenset({"completed", "failed", "expired", "cancelled"})


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
    elif status == "cancelled":
        answer.outcome = Outcome.CANCELLED
    elif status in {"queued", "in_progress"}:
        answer.is_pending = True


class StreamReader(ABC):
    """Follows one event stream by its lines; parses only the events that carry facts.

    ``complete`` is true once the terminal marker was seen: a stream that was merely closed is not complete.

    Most of a stream is content.  Once the first of it was seen, chunks that cannot say more pass unread: how many
    events they were is counted later, in one go, and their text is read only when it must be estimated.
    """

    def __init__(self) -> None:
        self.answer = Answer()
        self.complete = False
        self.failed = False
        self.events = 0
        self.first_content = False
        self._tail = b""
        self._event = b""
        self._edge = b""
        self._is_midway = False
        self.passing: list[bytes] = []
        """The chunks that have passed unread since the last that was read."""
        self._passing_bytes = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    @property
    def is_settled(self) -> bool:
        """Whether both how the answer ended and what it wrote were said; only the marker is to come."""
        usage = self.answer.usage or {}
        return bool(self.answer.stop_reasons) and ("output_tokens" in usage or "completion_tokens" in usage)

    @property
    def answers(self) -> list[Answer]:
        """What was answered: one, but for readers that say otherwise."""
        return [self.answer]

    def feed(self, chunk: bytes) -> None:
        """Take decoded bytes, cut anywhere."""
        near = self._edge + chunk
        self._edge = b"" if chunk.endswith(b"\n") else near[-EDGE_BYTES:]  # no word goes over a line's end
        if not self.first_content or self._is_midway or self.tells(near):
            self.settle()
            self._read(chunk)
            return
        self.passing.append(chunk)
        self._passing_bytes += len(chunk)
        if self._passing_bytes > PASSING_BYTES_MAX:
            self.settle()

    def tells(self, text: bytes) -> bool:
        """Tell whether some of a stream's text may say more than content, by words shorter than `EDGE_BYTES`."""
        return True

    def settle(self) -> None:
        """Take account of what has passed unread."""
        if not self.passing:
            return
        passed = b"".join([self._tail, *self.passing])
        self.passing.clear()
        self._passing_bytes = 0
        cut = passed.rfind(b"\n") + 1
        passed, self._tail = passed[:cut], passed[cut:]
        self.events += passed.count(b"\ndata:") + passed.startswith(b"data:")
        self._keep(passed)

    def _read(self, chunk: bytes) -> None:
        lines = (self._tail + chunk).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line[:5] == b"data:":
                self.events += 1
                self.on_data(self._event, line[5:].strip())
                self._event = b""
            elif line[:6] == b"event:":
                self._event = line[6:].strip()
        self._is_midway = self._event != b"" or self.tells(self._tail)

    def end(self) -> None:
        """Say that the body ended; a last line may lack its newline."""
        self.settle()
        if self._tail:
            self._read(b"\n")

    @abstractmethod
    def on_data(self, event: bytes, data: bytes) -> None:
        """Take one event: its name, empty when the stream has none, and its data."""

    def is_content(self, event: bytes, data: bytes) -> bool:
        """Tell whether an event carries a part of the answer's text."""
        return data[:6] != b"[DONE]"

    def estimate(self) -> None:
        """Count the text that was streamed, for an answer that did not say its usage."""
        self.answer.streamed_characters = sum(_characters(_json(data)) for data in self.kept)

    def keep(self, data: bytes) -> None:
        """Keep a content event until the stream has ended."""
        self.first_content = True
        self._keep(b"data: %b\n" % data.replace(b"\n", b" "))

    def _keep(self, text: bytes) -> None:
        if self._kept_bytes < KEPT_BYTES_MAX:
            self._kept.append(text)
            self._kept_bytes += len(text)

    @property
    def kept(self) -> list[bytes]:
        """The content events, or the body, as far as they were kept."""
        found: list[bytes] = []
        event = b""
        for line in b"".join(self._kept).split(b"\n"):
            if line[:6] == b"event:":
                event = line[6:].strip()
            elif line[:5] == b"data:":
                data = line[5:].strip()
                if self.is_content(event, data):
                    found.append(data)
                event = b""
        return found

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
        if self.is_content(event, data):
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

    def tells(self, text: bytes) -> bool:
        """By the names of all events but those of content blocks."""
        return text.find(b"message_") >= 0 or text.find(b"error") >= 0

    def is_content(self, event: bytes, data: bytes) -> bool:
        """By its name."""
        return (event or _type_of(data)) == b"content_block_delta"


# What Bedrock calls its errors amid a stream, as the HTTP status that it gives them before one.
# Source: botocore, bedrock-runtime service-2, ``ResponseStream``.
_BEDROCK_STATUS = {
    "throttlingException": 429,
    "validationException": 400,
    "modelTimeoutException": 408,
    "serviceUnavailableException": 503,
}
_EXCEPTION_TYPE = re.compile(rb":exception-type\x07..([A-Za-z]+)", re.DOTALL)


class BedrockStream(MessagesStream):
    """Anthropic on Bedrock: the same events, each as base64 in a message of AWS's binary event stream.

    A message is: length of all (4 bytes), of the headers (4), a checksum (4), headers, payload, a checksum (4).
    Source: botocore.eventstream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take bytes, cut anywhere."""
        self._buffer += chunk
        while len(self._buffer) >= 16:
            size = int.from_bytes(self._buffer[:4])
            if not 16 <= size <= FRAME_BYTES_MAX:
                raise ValueError(f"an event stream has a message of {size} bytes; 16 to {FRAME_BYTES_MAX} are possible")
            if size > len(self._buffer):
                return
            start = 12 + int.from_bytes(self._buffer[4:8])
            headers, payload = bytes(self._buffer[12:start]), bytes(self._buffer[start : size - 4])
            del self._buffer[:size]
            self._take_message(headers, _json(payload))

    def _take_message(self, headers: bytes, payload: dict[str, Any]) -> None:
        self.events += 1
        if failure := _EXCEPTION_TYPE.search(headers):
            kind = failure[1].decode()
            self.failed = True
            self.answer.outcome, _ = read_error(_BEDROCK_STATUS.get(kind, 500), payload)
            self.answer.error_code = kind
        elif isinstance(payload.get("bytes"), str):
            self.on_data(b"", base64.b64decode(payload["bytes"]))

    def end(self) -> None:
        """A message that is not whole says nothing."""


class ChatStream(StreamReader):
    """OpenAI chat and legacy completions: no event names; usage in the last chunk, if asked for; ``[DONE]`` ends."""

    def on_data(self, event: bytes, data: bytes) -> None:
        if data[:6] == b"[DONE]":
            self.finish()
            return
        if self.answer.id is None or self.tells(data):
            self._take(_json(data))
        self.keep(data)

    def tells(self, text: bytes) -> bool:
        """By what a chunk that says usage or an end has in it: with include_usage all others have ``"usage":null``."""
        return (
            text.find(b'"usage":{') >= 0
            or text.find(b'"finish_reason":"') >= 0
            or text.find(b"[DONE]") >= 0
            or text.find(b'{"error"') >= 0
            or text.find(b'"usage": {') >= 0
            or text.find(b'"finish_reason": "') >= 0
        )

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
        if self.is_content(event, data):
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

    def tells(self, text: bytes) -> bool:
        """By the names of the events that are read."""
        return (
            text.find(b"response.created") >= 0
            or text.find(b"response.completed") >= 0
            or text.find(b"response.in") >= 0  # in_progress and incomplete
            or text.find(b"response.failed") >= 0
            or text.find(b"error") >= 0
        )

    def is_content(self, event: bytes, data: bytes) -> bool:
        """By its name."""
        return (event or _type_of(data)).endswith(b".delta")


class PicturesStream(StreamReader):
    """Streams of images: each picture tells its own usage when it is done; as many as were asked for end it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._pictures: list[Answer] = []

    @property
    def answers(self) -> list[Answer]:
        """A unit for each picture that was done."""
        return self._pictures or [self.answer]

    def on_data(self, event: bytes, data: bytes) -> None:
        self.first_content = True
        if data[:6] == b"[DONE]":
            self.finish()
        elif b'.completed"' in data and b'"usage":' in data:
            body = _tail_of(data)
            self._pictures += [*_drawings(body), read_body(body)]
            if sum(picture.api is None for picture in self._pictures) >= self._number:
                self.finish()


class OtherStream(StreamReader):
    """Streams of audio: the event that carries usage is the last that counts."""

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

    def tells(self, text: bytes) -> bool:
        """By the usage, or the end."""
        return text.find(b'"usage":') >= 0 or text.find(b"[DONE]") >= 0

    def is_content(self, event: bytes, data: bytes) -> bool:
        """Pictures and sound are no text."""
        return False


class RealtimeStream(StreamReader):
    """One response of a realtime session: ``response.created`` begins it, ``response.done`` has its usage."""

    def on_data(self, event: bytes, data: bytes) -> None:
        if event not in {b"response.created", b"response.done"}:
            self.first_content = True
            return
        response = _mapping(_json(data).get("response"))
        _take_common(self.answer, response)
        if event == b"response.done":
            details = _mapping(response.get("status_details"))
            _take_status(
                self.answer, {**response, "incomplete_details": details, **details, "status": response.get("status")}
            )
            self.finish()


class BatchResults(StreamReader):
    """The results of Anthropic's batch: a line for each request, and each message of them is a unit.

    ``full`` takes the answers whenever there are many, because a batch may have a hundred thousand.
    """

    def __init__(self, full: Callable[[list[Answer]], None] | None = None) -> None:
        super().__init__()
        self._answers: list[Answer] = []
        self._full = full

    @property
    def answers(self) -> list[Answer]:
        """Those that were not taken yet; requests that failed or expired are not billed."""
        return self._answers

    def feed(self, chunk: bytes) -> None:
        """Take bytes, cut anywhere."""
        lines = (self._tail + chunk).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.strip():
                self.events += 1
                self.on_data(b"", line)

    def on_data(self, event: bytes, data: bytes) -> None:
        """Take one line."""
        self.first_content = True
        result = _mapping(_json(data).get("result"))
        if isinstance(result.get("message"), Mapping):
            answer = read_body(result["message"])
            answer.is_batch = True
            self._answers.append(answer)
        if self._full is not None and len(self._answers) >= BATCH_UNITS_MAX:
            taken, self._answers = self._answers, []
            self._full(taken)

    def end(self) -> None:
        """JSON lines have no terminal marker: the end of the body is their end."""
        super().end()
        self.complete = True


class OpaqueBody(StreamReader):
    """A body that says nothing of itself, speech or plain text: only its end matters."""

    def feed(self, chunk: bytes) -> None:
        self.first_content = True

    def on_data(self, event: bytes, data: bytes) -> None:
        """A body has no events."""

    def end(self) -> None:
        self.complete = True


class WholeBody(StreamReader):
    """A JSON body that the app reads as a stream: gathered, and read when it is over."""

    def __init__(self, kind: str, route: Route) -> None:
        super().__init__()
        self._body = bytearray()
        self._kind = kind
        self._route = route

    def feed(self, chunk: bytes) -> None:
        self.first_content = True
        if len(self._body) < BODY_BYTES_MAX:
            self._body += chunk

    def on_data(self, event: bytes, data: bytes) -> None:
        """A body has no events."""

    @property
    def kept(self) -> list[bytes]:
        return [bytes(self._body)]

    def end(self) -> None:
        [self.answer] = read_content(bytes(self._body), self._kind, self._route)
        self.complete = True


STREAMS: dict[str, type[StreamReader]] = {
    "messages": MessagesStream,
    "chat": ChatStream,
    "completions": ChatStream,
    "responses": ResponsesStream,
}


def stream_reader(
    route: Route, kind: str, request: Mapping[str, Any], full: Callable[[list[Answer]], None]
) -> StreamReader:
    """Return a reader for a body of content type ``kind`` that is an answer to ``request`` on ``route``."""
    if route.reads == "results":
        return BatchResults(full)
    if "event-stream" in kind:
        return _event_reader(route, request, full)
    if "amazon.eventstream" in kind:
        return BedrockStream()
    return WholeBody(kind, route) if "json" in kind or kind.startswith("text/html") else OpaqueBody()


def _event_reader(route: Route, request: Mapping[str, Any], full: Callable[[list[Answer]], None]) -> StreamReader:
    if (kind := STREAMS.get(route.api)) is not None:
        return kind()
    if route.api == "images":
        number = request.get("n")
        return PicturesStream(number if isinstance(number, int) else 1)
    if route.api in {"runs", "sessions", "agents"}:
        from tallystick.instrumentation._jobs import EventStream, RunStream  # it stands on this module

        return RunStream() if route.api == "runs" else EventStream(route, full)
    return OtherStream()


def _json(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def message_type(data: bytes) -> bytes:
    """Return the type of a message of a websocket; of the many that carry content, without parsing them."""
    found = _DELTA.search(data[:200])
    return found[1] if found is not None else _type_of(data)


_DELTA = re.compile(rb'"type"\s*:\s*"(response\.[a-z_.]+\.delta)"')


def _type_of(data: bytes) -> bytes:
    """Return an event's type from its data, for streams without ``event:`` lines."""
    return str(_json(data).get("type", "")).encode()


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    """Return a number that may be written as text, as whisper writes durations."""
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None


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
