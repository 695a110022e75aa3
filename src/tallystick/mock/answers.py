"""What the two wire formats have in common: an answer, its stream's frames, its bill."""

from __future__ import annotations

import base64
import json
import secrets
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = Mapping[str, Any]


class InvalidRequestError(Exception):
    """The request is not what the API takes; its text is for the 400."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream."""

    event: str | None
    data: Mapping[str, Any] | str
    written: int
    """Output tokens that had been generated when it was sent."""

    def packed(self) -> bytes:
        """Return the frame as a message of AWS's binary event stream, as Bedrock sends it."""
        assert isinstance(self.data, Mapping), "Bedrock's events are objects"
        if self.event == "error":
            kind, payload = "exception", {"message": "Overloaded"}
            named = {":exception-type": "throttlingException", ":content-type": "application/json"}
        else:
            kind, payload = "event", {"bytes": base64.b64encode(dump(self.data).encode()).decode(), "p": "abc"}
            named = {":event-type": "chunk", ":content-type": "application/json"}
        return _message({**named, ":message-type": kind}, dump(payload).encode())

    def encode(self, newline: str) -> bytes:
        """Return the frame as server-sent event with lines ended by ``newline``."""
        data = self.data if isinstance(self.data, str) else dump(self.data)
        lines = [*([f"event: {self.event}"] if self.event else []), f"data: {data}", "", ""]
        return newline.join(lines).encode()


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return a message: lengths, a checksum, headers (7 is the type of text), payload, a checksum of all."""
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack("!I", zlib.crc32(message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A 200: its JSON body, or its frames when a stream was asked for, and how it is billed."""

    id: str
    """Empty when this API gives its answers none."""
    model: str
    api: str
    body: Body
    output_tokens: int
    usage_at: Callable[[int], dict[str, Any]]
    """The wire's usage after so many output tokens."""
    counts_at: Callable[[int], dict[str, int]]
    """What is billed after so many output tokens, by class."""
    frames: tuple[Frame, ...] | None = None
    error_frame: Frame | None = None
    """What this wire sends when a stream fails under way."""
    failed: Callable[[int], Frame] | None = None
    """The frame that ends a stream as failed after so many output tokens; of the Responses API alone."""
    service_tier: str = "default"
    speed: str = "standard"
    factor: str = "1"
    """What multiplies the rates beside tier and speed: a place, a batch."""
    raw: tuple[str, bytes] | None = None
    """Content type and body of an answer that is no JSON: speech, plain text."""
    beside: Answer | None = None
    """What another model did for this answer, and is billed for."""


@dataclass(slots=True)
class Frames:
    """Collects the frames of a stream and counts what has been written."""

    frames: list[Frame] = field(default_factory=list)
    written: int = 0

    def add(self, event: str | None, data: Mapping[str, Any] | str, tokens: int = 0) -> None:
        """Append a frame that carries ``tokens`` of output."""
        self.written += tokens
        self.frames.append(Frame(event, data, self.written))


def dump(value: Any) -> str:
    """Return ``value`` as JSON, compact."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def new_id(prefix: str) -> str:
    """Return a fresh id that begins with ``prefix``."""
    return prefix + secrets.token_hex(12)


def text_of(content: Any) -> str:
    """Return what the model reads of ``content``: a string, a block, or a list of them."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text_of(part) for part in content)
    if isinstance(content, Mapping):
        if isinstance(content.get("text"), str):
            return str(content["text"])
        return dump({name: part for name, part in content.items() if name != "cache_control"})
    return "" if content is None else str(content)


def required(body: Body, name: str) -> Any:
    """Return ``body[name]``; raise InvalidRequestError when it is missing."""
    if body.get(name) in (None, "", []):
        raise InvalidRequestError(f"{name}: Field required")
    return body[name]
