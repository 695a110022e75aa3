"""Spans as OTLP protobuf bytes, written by hand: this stands on the app's path for every call.

The generated messages take 2 to 3 times as long (bench/overhead.py), and without them an app needs no protobuf.  Field
numbers: opentelemetry-proto, trace/v1/trace.proto and common/v1/common.proto, stable since 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_SMALL = [bytes([n]) for n in range(128)]
_SPAN_KIND_CLIENT = b"\x30\x03"  # kind = 6
_STATUS_ERROR = b"\x7a\x02\x18\x02"  # status = 15; in it code = 3, STATUS_CODE_ERROR = 2
_TIMES = struct.Struct("<BQBQ")  # start_time_unix_nano = 7 and end_time_unix_nano = 8, both fixed64
_DOUBLE = struct.Struct("<Bd")  # double_value = 4
_INT_MAX = 1 << 63


class Ids(NamedTuple):
    """Which span it is; zeros stand for none."""

    trace_id: int
    span_id: int


def encode_span(
    name: str,
    ids: Ids,
    parent_id: int,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, Any],
    *,
    failed: bool,
) -> bytes:
    """Return a ``Span`` message of kind CLIENT; ``parent_id`` is 0 for a root."""
    return b"".join([
        _field(1, ids.trace_id.to_bytes(16, "big")),
        _field(2, ids.span_id.to_bytes(8, "big")),
        _field(4, parent_id.to_bytes(8, "big")) if parent_id else b"",
        _field(5, name.encode("utf-8", "replace")),
        _SPAN_KIND_CLIENT,
        _TIMES.pack(0x39, start_ns, 0x41, end_ns),
        *[_field(9, _key_value(key, value)) for key, value in attributes.items()],
        _STATUS_ERROR if failed else b"",
    ])  # fmt: skip


def encode_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """Return an ``ExportTraceServiceRequest`` around encoded spans.

    resource_spans = 1; in it resource = 1, scope_spans = 2; in that scope = 1, spans = 2.
    """
    scope_spans = b"".join([_field(1, scope), *[_field(2, span) for span in spans]])
    return _field(1, _field(1, resource) + _field(2, scope_spans))


def encode_resource(attributes: Mapping[str, Any]) -> bytes:
    """Return a ``Resource`` message."""
    return b"".join(_field(1, _key_value(key, value)) for key, value in attributes.items())


def encode_scope(name: str, version: str) -> bytes:
    """Return an ``InstrumentationScope`` message."""
    return _field(1, name.encode()) + _field(2, version.encode())


def _key_value(key: str, value: Any) -> bytes:
    return _key(key) + _field(2, _any_value(value))


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    return _field(1, key.encode("utf-8", "replace"))


def _any_value(value: Any) -> bytes:
    if isinstance(value, str):
        return _field(1, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and -_INT_MAX <= value < _INT_MAX:
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return _DOUBLE.pack(0x21, value)
    if isinstance(value, Sequence):
        return _field(5, b"".join(_field(1, _any_value(item)) for item in value))
    return _field(1, str(value).encode("utf-8", "replace"))


def _field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field; every number here is below 16, so its tag is one byte."""
    length = len(payload)
    head = _SMALL[length] if length < 128 else _varint(length)
    return _SMALL[number << 3 | 2] + head + payload


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
