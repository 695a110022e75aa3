"""Spans as OTLP protobuf bytes, written by hand: this stands on the app's path for every call.

The generated messages take 2 to 3 times as long (bench/overhead.py), and without them an app needs no protobuf.  Field
numbers: opentelemetry-proto, trace/v1/trace.proto and common/v1/common.proto, stable since 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_SPAN_KIND_CLIENT = b"\x30\x03"  # kind = 6
_STATUS_ERROR = b"\x7a\x02\x18\x02"  # status = 15; in it code = 3, STATUS_CODE_ERROR = 2
_IDS = struct.Struct(">BBQQBBQ")  # trace_id = 1, of 16 bytes, and span_id = 2, of 8
_PARENT = struct.Struct(">BBQ")  # parent_span_id = 4
_LOW = (1 << 64) - 1
_TIMES = struct.Struct("<BQBQ")  # start_time_unix_nano = 7 and end_time_unix_nano = 8, both fixed64
_DOUBLE = struct.Struct("<Bd")  # double_value = 4
_INT_MAX = 1 << 63
_SMALL = frozenset({int, bool, tuple})
_SHORT = 64
"""The length of a text that may be said by the next call as well: model, caller, outcome."""


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
    said = [
        # What may recur, a model or an outcome, is encoded once.
        _recurring(key, value)
        if type(value) in _SMALL or (type(value) is str and len(value) <= _SHORT)
        else _attribute(key, value)
        for key, value in attributes.items()
    ]
    return b"".join([
        _IDS.pack(0x0A, 16, ids.trace_id >> 64, ids.trace_id & _LOW, 0x12, 8, ids.span_id),
        _PARENT.pack(0x22, 8, parent_id) if parent_id else b"",
        _field(5, name.encode("utf-8", "replace")),
        _SPAN_KIND_CLIENT,
        _TIMES.pack(0x39, start_ns, 0x41, end_ns),
        *said,
        _STATUS_ERROR if failed else b"",
    ])  # fmt: skip


def encode_head(resource: Mapping[str, Any], name: str, version: str) -> tuple[bytes, bytes]:
    """Return what all requests of a process have in common: ``Resource`` and ``InstrumentationScope``, as fields."""
    described = b"".join([_field(1, _key_value(key, value)) for key, value in resource.items()])
    return _field(1, described), _field(1, _field(1, name.encode()) + _field(2, version.encode()))


def encode_request(head: tuple[bytes, bytes], spans: Iterable[bytes]) -> bytes:
    """Return an ``ExportTraceServiceRequest`` around encoded spans.

    resource_spans = 1; in it resource = 1, scope_spans = 2; in that scope = 1, spans = 2.
    """
    resource, scope = head
    scope_spans = b"".join([scope, *[_field(2, span) for span in spans]])
    return _field(1, resource + _field(2, scope_spans))


def _attribute(key: str, value: Any) -> bytes:
    return _field(9, _key_value(key, value))


_recurring = lru_cache(maxsize=1024, typed=True)(_attribute)


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
    if length < 128:
        return b"%c%c%b" % (number << 3 | 2, length, payload)
    return b"%c%b%b" % (number << 3 | 2, _varint(length), payload)


def _varint(number: int) -> bytes:
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7)) if number > 0x7F else bytes((number,))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
