"""A request's body becomes an ``ExportTraceServiceRequest``, within bounds; and the answers that OTLP wants."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tallystick.errors import MalformedBatchError, TallystickError

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
DEPTH_MAX = 64


class TooLargeError(TallystickError):
    """A body is larger than the collector takes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the body is larger than {bytes_max} bytes (body_bytes_max); send fewer spans at a time")


class UnsupportedError(TallystickError):
    """A content type or encoding that the collector does not read."""


def media_type(content_type: str) -> str:
    """Return the content type without its parameters; raises UnsupportedError for what is not OTLP."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in {PROTOBUF, JSON}:
        raise UnsupportedError(f"content type {media or 'none'!r} is not read; send {PROTOBUF} or {JSON}")
    return media


def inflate(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Return ``body`` without its content encoding, never making more than ``bytes_max`` bytes of it."""
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "deflate"}:
        raise UnsupportedError(f"content encoding {encoding!r} is not read; send gzip, or none")
    parts: list[bytes] = []
    room = bytes_max
    try:
        while body:  # gzip allows several members, one after the other
            inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
            parts.append(inflater.decompress(body, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise TooLargeError(bytes_max)
            if not inflater.eof:
                raise MalformedBatchError(f"the {encoding} body ends too early")
            body = inflater.unused_data
    except zlib.error as error:
        raise MalformedBatchError(f"the body is not {encoding}: {error}") from error
    return b"".join(parts)


def from_json(body: bytes) -> tuple[bytes, Counter[str]]:
    """Return an OTLP/JSON body as protobuf, and why how many spans had to be left out.

    Ids are hex in OTLP/JSON, unlike other bytes of proto3 JSON.  Raises MalformedBatchError.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBatchError(f"the body is not JSON: {error}") from error
    request = ExportTraceServiceRequest()
    rejected: Counter[str] = Counter()
    for resource_spans in _objects(document, "resourceSpans", "resource_spans"):
        resource_message = request.resource_spans.add()
        _parse(_without(resource_spans, "scopeSpans", "scope_spans"), resource_message, "resourceSpans")
        for scope_spans in _objects(resource_spans, "scopeSpans", "scope_spans"):
            scope_message = resource_message.scope_spans.add()
            _parse(_without(scope_spans, "spans"), scope_message, "scopeSpans")
            for span in _objects(scope_spans, "spans"):
                message = Span()
                try:
                    _parse(_with_bytes(span), message, "span")
                except MalformedBatchError:
                    rejected["not decodable"] += 1
                else:
                    scope_message.spans.append(message)
    return request.SerializeToString(), rejected


def _objects(parent: Any, *keys: str) -> list[Any]:
    """Return the list under the first of ``keys`` that is there: camelCase as written, snake_case as also read."""
    if not isinstance(parent, Mapping):
        raise MalformedBatchError(f"{keys[0]} must be in an object, not in {type(parent).__name__}")
    for key in keys:
        if parent.get(key) is not None:
            if not isinstance(parent[key], list):
                raise MalformedBatchError(f"{key} must be a list, not {type(parent[key]).__name__}")
            found: list[Any] = parent[key]
            return found
    return []


def _without(parent: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(parent, Mapping):
        raise MalformedBatchError(f"an object is wanted, not {type(parent).__name__}")
    return {key: value for key, value in parent.items() if key not in keys}


def _with_bytes(span: Any) -> dict[str, Any]:
    if not isinstance(span, Mapping):
        raise MalformedBatchError(f"a span is an object, not {type(span).__name__}")
    found = dict(span)
    found.pop("links", None)  # their ids are hex too, and nobody asks for them
    for key in ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"):
        if key in found:
            found[key] = _base64(found[key])
    return found


def _base64(value: Any) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(value or "")).decode()
    except (binascii.Error, TypeError, ValueError) as error:
        raise MalformedBatchError(f"an id is hex digits, not {str(value)[:64]!r}") from error


def _parse(document: Any, message: ResourceSpans | ScopeSpans | Span, what: str) -> None:
    try:
        json_format.ParseDict(document, message, ignore_unknown_fields=True, max_recursion_depth=DEPTH_MAX)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise MalformedBatchError(f"{what}: {str(error)[:200]}") from error


def answer(media: str, rejected: Counter[str]) -> bytes:
    """Return the body of a 200: which spans were not taken and why; empty when all were."""
    response = ExportTraceServiceResponse()
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        response.partial_success.rejected_spans = rejected.total()
        response.partial_success.error_message = f"not taken: {reasons}"
    return _encoded(media, response)


def error_body(media: str, code: int, message: str) -> bytes:
    """Return a google.rpc.Status, which OTLP wants as the body of an error."""
    if media == JSON:
        return json.dumps({"code": code, "message": message}).encode()
    text = message.encode()[:4096]
    # Fields 1, a varint below 128, and 2, a string.
    return bytes((0x08, code, 0x12)) + _varint(len(text)) + text


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded + bytes((value,)))


def _encoded(media: str, message: ExportTraceServiceResponse) -> bytes:
    if media == JSON:
        return str(json_format.MessageToJson(message, indent=None)).encode()
    return bytes(message.SerializeToString())


__all__ = [
    "DecodeError",
    "TooLargeError",
    "UnsupportedError",
    "answer",
    "error_body",
    "from_json",
    "inflate",
    "media_type",
]
