"""OTLP on the wire, read shallowly: spans and attributes stay bytes until somebody asks for them.

Two things come of it.  A span that cannot be decoded is rejected alone, and its neighbours are kept, because protobuf
looks into each by itself.  And an attribute that was seen before costs one look into a dictionary instead of a parse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_Field = descriptor_pb2.FieldDescriptorProto
_BYTES, _MESSAGE, _UINT32, _FIXED64 = _Field.TYPE_BYTES, _Field.TYPE_MESSAGE, _Field.TYPE_UINT32, _Field.TYPE_FIXED64
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED

# Field numbers: opentelemetry/proto/{collector/trace,trace,resource,common}/v1/*.proto, 1.45.
_SHALLOW = {
    "Whole": [("resource_spans", 1, _MANY, "WholeResourceSpans")],
    "WholeResourceSpans": [("resource", 1, _ONE, "Resource"), ("scope_spans", 2, _MANY, "WholeScopeSpans")],
    "WholeScopeSpans": [("scope", 1, _ONE, "Scope"), ("spans", 2, _MANY, "Span")],
    "Request": [("resource_spans", 1, _MANY, "ResourceSpans")],
    "ResourceSpans": [("resource", 1, _ONE, "Resource"), ("scope_spans", 2, _MANY, "ScopeSpans")],
    "Resource": [("attributes", 1, _MANY, _BYTES)],
    "ScopeSpans": [("scope", 1, _ONE, "Scope"), ("spans", 2, _MANY, _BYTES)],
    "Scope": [("name", 1, _ONE, _BYTES), ("version", 2, _ONE, _BYTES)],
    "Span": [
        ("trace_id", 1, _ONE, _BYTES),
        ("span_id", 2, _ONE, _BYTES),
        ("parent_span_id", 4, _ONE, _BYTES),
        ("name", 5, _ONE, _BYTES),
        ("kind", 6, _ONE, _UINT32),
        ("start_time_unix_nano", 7, _ONE, _FIXED64),
        ("end_time_unix_nano", 8, _ONE, _FIXED64),
        ("attributes", 9, _MANY, _BYTES),
        ("status", 15, _ONE, "Status"),
    ],
    "Status": [("message", 2, _ONE, _BYTES), ("code", 3, _ONE, _UINT32)],
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="tallystick/shallow.proto", package="tallystick.shallow", syntax="proto3"
    )
    for name, fields in _SHALLOW.items():
        message = file.message_type.add(name=name)
        for field, number, label, kind in fields:
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".tallystick.shallow.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tallystick.shallow.{name}"))
        for name in _SHALLOW
    }


_CLASSES = _messages()
Whole, Request, Span = _CLASSES["Whole"], _CLASSES["Request"], _CLASSES["Span"]

Value = str | bool | int | float | bytes | list[Any] | dict[str, Any] | None
Attributes = dict[str, Value]

KEYS_DISTINCT_MAX = 2_000
"""When a key was seen with more values than this, its values are ids or texts, and remembering them is of no use."""
REMEMBERED_MAX = 200_000
PAIR_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Scoped:
    """Spans, decoded or as bytes, with the resource and the scope that they came in."""

    resource: Attributes
    scope: str
    spans: Any


class Memory:
    """Attributes by their encoding, so that one that repeats is parsed once.  For one thread."""

    def __init__(self) -> None:
        self._pairs: dict[bytes, tuple[str, Value]] = {}
        self._distinct: dict[str, int] = {}

    def attributes(self, encoded: Any) -> Attributes:
        """Return the attributes that ``encoded`` are; raises DecodeError for one that is none.

        A key that comes twice keeps its last value, as in the OpenTelemetry SDKs.
        """
        found: Attributes = {}
        pairs = self._pairs
        for data in encoded:
            pair = pairs.get(data)
            if pair is None:
                pair = self._parse(data)
            found[pair[0]] = pair[1]
        return found

    def _parse(self, data: bytes) -> tuple[str, Value]:
        parsed = KeyValue.FromString(data)
        pair = parsed.key, plain(parsed.value)
        seen = self._distinct.get(pair[0], 0)
        if seen >= KEYS_DISTINCT_MAX or len(data) > PAIR_BYTES_MAX:
            return pair
        if len(self._pairs) >= REMEMBERED_MAX:
            self._pairs.clear()
            self._distinct.clear()
            seen = 0
        self._distinct[pair[0]] = seen + 1
        self._pairs[data] = pair
        return pair


def plain(value: AnyValue) -> Value:
    """Return the Python value of an OTLP value."""
    if text := value.string_value:  # what most are; a third of the time that asking for the kind takes
        return text
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: plain(item.value) for item in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


def request_of(body: bytes) -> Any:
    """Return an ``ExportTraceServiceRequest``; its spans are bytes when one of them, at least, cannot be decoded.

    Raises DecodeError when ``body`` is none.  Spans that are decoded together cost half of what they cost one by one.
    """
    try:
        return Whole.FromString(body)
    except DecodeError:
        return Request.FromString(body)


def scopes(body: bytes, memory: Memory) -> Iterator[Scoped]:
    """Yield the spans of an ``ExportTraceServiceRequest`` by scope; raises DecodeError when ``body`` is none."""
    for resource_spans in request_of(body).resource_spans:
        resource = lenient(resource_spans.resource.attributes, memory)
        for scope_spans in resource_spans.scope_spans:
            name = scope_spans.scope.name.decode(errors="replace")
            yield Scoped(resource, name, scope_spans.spans)


def lenient(encoded: Any, memory: Memory) -> Attributes:
    """Return the attributes that can be read; one that cannot is left out."""
    try:
        return memory.attributes(encoded)
    except DecodeError:
        found: Attributes = {}
        for data in encoded:
            try:
                found |= memory.attributes([data])
            except DecodeError:
                continue
        return found
