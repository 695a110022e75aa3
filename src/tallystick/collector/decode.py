"""Spans become rows: calls, units, attempts and the rest.  Pure but for the price book; contract: docs/spans.md."""

from __future__ import annotations

import json
import logging
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError

from tallystick.collector import wire
from tallystick.collector.emitters import OURS, Emission, emission_of
from tallystick.collector.receipts import Forms
from tallystick.collector.spans import span_or_reason
from tallystick.model import attributes as names
from tallystick.model.failures import Outcome
from tallystick.model.receipt import CostStatus, Receipt
from tallystick.model.usage import Usage

log = logging.getLogger("tallystick.decode")

Price = Callable[..., Receipt]
Row = dict[str, Any]
Column = tuple[str, Callable[[Any], Any]]
"""A column's name, and what makes its value of an attribute's."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LATEST_US = 2**63 // 1000
"""The year 2262, which is as far as OTLP's own times reach."""

COST_MAX = Decimal(1_000_000)
"""USD; what is dearer than this in one response is not a price but a mistake, and does not fit the column."""
PICO = Decimal("1e-12")
COUNT_MAX = 10**12
"""Tokens; more in one response is not a count but a mistake."""
TEXT_CHARS_MAX = 1024
TAGS_MAX = 64
# json.dumps makes an encoder for each call when it is given options.
ENCODER = json.JSONEncoder(separators=(",", ":"), default=str, ensure_ascii=False)
STATUS_CODE_ERROR = 2
GIVEN = frozenset({"provider", "model", "usage", "timestamp", "api", "book"})
"""What a unit's params must not give the price book, because its own fields do."""
ZERO = Decimal(0)
ESTIMATED = CostStatus.ESTIMATED.value
WEAKEST_FIRST = (CostStatus.UNKNOWN, CostStatus.ESTIMATED, CostStatus.PROVIDER_REPORTED, CostStatus.EXACT)
TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
tokens_of = attrgetter(*TOKENS)
NO_USAGE = Usage()
OUTCOMES = frozenset(Outcome)

# Texts of users and models, under the names that other emitters give them; they are not kept.
CONTENT = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.", "gen_ai.prompt.",
    "gen_ai.completion", "gen_ai.content", "llm.input_messages", "llm.output_messages", "llm.prompts", "llm.invocation",
    "input.value", "output.value", "traceloop.entity.", "ai.prompt", "ai.response.text", "ai.response.toolCalls",
    "ai.response.object", "langfuse.observation.input", "langfuse.observation.output", "langfuse.trace.input",
    "langfuse.trace.output", "gen_ai.prompt", "request_data", "response_data", "pydantic_ai.", "all_messages",
    "final_result", "events", "ai.response.reasoning", "ai.response.providerMetadata", "ai.toolCall.", "ai.value",
    "llm.anthropic.", "llm.openai.", "hidden_params", "metadata.", "message",
)  # fmt: skip

# What has a column of its own, or is in the units.
TAKEN = frozenset({
    names.OPERATION, names.PROVIDER, names.REQUEST_MODEL, names.RESPONSE_MODEL, names.RESPONSE_ID, names.REQUEST_STREAM,
    names.RESPONSE_FINISH_REASONS, names.RESPONSE_FIRST_CHUNK, names.INPUT_TOKENS, names.OUTPUT_TOKENS,
    names.CACHE_READ_TOKENS, names.CACHE_WRITE_TOKENS, names.REASONING_TOKENS, names.COST_AMOUNT, names.COST_CURRENCY,
    names.COST_STATUS, names.PROMPT_NAME, names.EXCEPTION_TYPE, names.OUTCOME, names.ERROR_CODE, names.ATTEMPTS,
    names.FEATURE, names.USER, names.SESSION, names.CALLER, names.KEY, names.UNITS, names.REQUEST_MAX_TOKENS,
    names.REQUEST_DIGEST, names.PREFIX_DIGESTS, names.TEMPLATE, names.REQUEST_CHARACTERS,
    names.REQUEST_TOOLS_CHARACTERS, names.REQUEST_MESSAGES, names.LINK_ID, names.LINK_KIND, names.LINK_INDEX,
    names.RESERVATION, names.FINISHED_CALLS,
})  # fmt: skip

# The columns of what a provider said of its rate limits, and where it stands.
HEADROOM = tuple(
    (f"{what}_{figure}", f"{names.RATE_LIMIT_PREFIX}{what}.{figure}")
    for what in ("requests", "tokens", "input_tokens", "output_tokens")
    for figure in ("limit", "remaining")
)
PREFIXES_MAX = 32

BOOKS = {
    "finished": names.FINISHED_CALLS, "dropped_records": names.DROPPED_RECORDS, "dropped_calls": names.DROPPED_CALLS,
}  # fmt: skip
TOLD = "told"
"""What a span says of its app's books, in the words of `BOOKS`; counted, and not a column."""


@dataclass(slots=True)
class Batch:
    """The rows of one transaction, before duplicates are dropped.

    A unit points at its call by (trace_id, call_id).  The sums of a call over its units are made by `settle`, when it
    is known which units count.
    """

    calls: list[Row] = field(default_factory=list)
    units: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    spans: list[Row] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    """What the receipts of the units refer to; see `tallystick.collector.receipts`."""
    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        """Tell whether there is anything to store."""
        return bool(self.calls or self.units or self.attempts or self.spans or self.forms or self.counts)

    def extend(self, other: Batch) -> None:
        """Take what ``other`` holds."""
        self.calls += other.calls
        self.units += other.units
        self.attempts += other.attempts
        self.spans += other.spans
        self.forms |= other.forms
        self.counts += other.counts


@dataclass(slots=True)
class Decoder:
    """Decodes bodies with one price book; for one thread."""

    price: Price
    spans_max: int
    attributes_max: int
    _memory: wire.Memory = field(default_factory=wire.Memory)
    _forms: Forms = field(default_factory=Forms)

    def decode(self, body: bytes, received_ns: int) -> Batch:
        """Return the rows of an ``ExportTraceServiceRequest`` that arrived at ``received_ns``; raises DecodeError."""
        batch = Batch()
        received = 0
        for scoped in wire.scopes(body, self._memory):
            for data in scoped.spans:
                received += 1
                span, reason = span_or_reason(data, received_ns, self.attributes_max)
                if received > self.spans_max:
                    reason = "too many spans"
                if reason is None:
                    reason = self._take_guarded(batch, span, scoped, received_ns)
                if reason is not None:
                    batch.counts[f"rejected:{reason}"] += 1
        batch.counts["received"] += received
        batch.forms = self.take_forms()
        return batch

    def take_forms(self) -> dict[str, str]:
        """Return the forms that receipts have referred to since this was last asked."""
        return self._forms.take()

    def _take_guarded(self, batch: Batch, span: Any, scoped: wire.Scoped, received_ns: int) -> str | None:
        """Take a span, or none of it: what we did not foresee in one span must not cost its neighbours."""
        try:
            self._take(batch, span, scoped, received_ns)
        except Exception:
            log.exception("span %s is not understood and is left out; it stays in the journal", span.span_id.hex())
            return "not understood"
        return None

    def _take(self, batch: Batch, span: Any, scoped: wire.Scoped, received_ns: int) -> None:
        """Make all rows of a span, then put them into the batch: one that raises has left nothing there."""
        try:
            found = self._memory.attributes(span.attributes)
        except DecodeError:
            batch.counts["damaged_attributes"] += 1
            found = wire.lenient(span.attributes, self._memory)
        row = _base(span, received_ns)
        if scoped.scope == names.SCOPE and found.get(names.ATTEMPT) is True:
            batch.attempts.append(_attempt(row, found))
        elif scoped.scope == names.SCOPE and (names.OPERATION in found or names.UNITS in found):
            self._call(batch, row, span, found, scoped, OURS)
        else:
            rest = _rest(row, span, found, scoped)
            if (emission := emission_of(scoped.scope, found)) is not None:
                self._call(batch, dict(row), span, emission.attributes, scoped, emission)
            batch.spans.append(rest)

    def _call(
        self, batch: Batch, row: Row, span: Any, found: wire.Attributes, scoped: wire.Scoped, emission: Emission
    ) -> None:
        call = _call(row, span, found, scoped, emission)
        if emission.usage is not None:
            records: list[Any] = [_unit_of_usage(call, found, emission)]
        else:
            records = _units(found)
        batch.units += [self._unit(call, position, record, emission) for position, record in enumerate(records)]
        batch.calls.append(call)

    def _unit(self, call: Row, position: int, record: Any, emission: Emission) -> Row:
        record = record if isinstance(record, dict) else {"malformed": True}
        at = _instant(record.get("at"), call["started_at"])
        provider, model = (
            _text(record.get("provider")) or call["provider"] or "",
            _text(record.get("model")) or call["model"],
        )
        estimated = record.get("estimated") is True
        receipt = self.receipt(provider, model or "", record, at)
        status, cost_usd = self.verdict(receipt, estimated=estimated)
        return {
            "call_id": call["id"],
            "trace_id": call["trace_id"],
            "position": position,
            "unit_id": _text(record.get("id")),
            "provider": provider,
            "model": model,
            "api": _text(record.get("api")),
            "answered_at": at,
            "usage": _json(record.get("usage")),
            "params": _json(params) if (params := record.get("params")) else "{}",
            "estimated": estimated,
            **self.columns(receipt, status, cost_usd),
            "source": emission.source,
            "precedence": emission.precedence,
        }

    @staticmethod
    def verdict(receipt: Receipt, *, estimated: bool) -> tuple[str, Decimal | None]:
        """Return a unit's status and cost as they are stored, in USD to twelve digits."""
        status, cost_usd = receipt.status, receipt.cost_usd
        if estimated and status is CostStatus.EXACT:
            status = CostStatus.ESTIMATED
        if cost_usd is not None and not 0 <= cost_usd < COST_MAX:
            status, cost_usd = CostStatus.UNKNOWN, None
        return status.value, None if cost_usd is None else cost_usd.quantize(PICO, ROUND_HALF_EVEN)

    def columns(self, receipt: Receipt, status: str, cost_usd: Decimal | None) -> Row:
        """Return the columns of a unit that hang on its price and its usage; `take_forms` has what they refer to."""
        counts = tokens_of(receipt.usage or NO_USAGE)
        if min(counts) < 0 or max(counts) > COUNT_MAX:
            counts = tuple(min(max(count, 0), COUNT_MAX) for count in counts)
        return {
            "cost_usd": cost_usd,
            "cost_status": status,
            "price_version": receipt.price_version or None,
            "receipt": self._forms.fold(receipt, status),
            **dict(zip(TOKENS, counts, strict=True)),
        }

    def receipt(self, provider: str, model: str, record: Mapping[str, Any], at_us: int) -> Receipt:
        """Return what the unit of ``record`` costs by the book that is in force."""
        if "malformed" in record:
            return _unknown(provider, model, f"the span's {names.UNITS} cannot be read")
        told = record.get("params")
        params = {str(key): told[key] for key in told if key not in GIVEN} if told and isinstance(told, dict) else {}
        if record.get("estimated") is True:
            params["estimated"] = True
        at = EPOCH + timedelta(microseconds=at_us)
        try:
            return self.price(provider, model, record.get("usage"), api=record.get("api"), timestamp=at, **params)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            # What a span says can be anything; a unit that breaks the price book is one without a known price.
            return _unknown(provider, model, f"it cannot be priced: {type(error).__name__}: {error}")


def _unknown(provider: str, model: str, reason: str) -> Receipt:
    return Receipt(provider=provider, model=model, status=CostStatus.UNKNOWN, reason=reason)


def settle(call: Row, units: list[Row]) -> None:
    """Write the sums of ``units``, which are the ones that count, into ``call``."""
    if len(units) == 1:
        _settle_one(call, units[0])
        return
    known = [unit["cost_usd"] for unit in units if unit["cost_usd"] is not None]
    statuses = {unit["cost_status"] for unit in units}
    estimated = [unit["cost_usd"] or ZERO for unit in units if unit["cost_status"] == ESTIMATED]
    call["units"] = len(units)
    call["unpriced_units"] = len(units) - len(known)
    call["estimated_units"] = len(estimated)
    call["cost_usd"] = sum(known, ZERO) if known or not units else None
    call["estimated_usd"] = sum(estimated, ZERO)
    call["cost_status"] = next((status.value for status in WEAKEST_FIRST if status.value in statuses), None)
    for name in TOKENS:
        call[name] = sum(unit[name] for unit in units)


def _settle_one(call: Row, unit: Row) -> None:
    """Write what `settle` would, for nearly every call."""
    cost_usd, is_estimated = unit["cost_usd"], unit["cost_status"] == ESTIMATED
    call["units"] = 1
    call["unpriced_units"] = int(cost_usd is None)
    call["estimated_units"] = int(is_estimated)
    call["cost_usd"] = cost_usd
    call["estimated_usd"] = (cost_usd or ZERO) if is_estimated else ZERO
    call["cost_status"] = unit["cost_status"]
    for name in TOKENS:
        call[name] = unit[name]


def _base(span: Any, received_ns: int) -> Row:
    parent_id = span.parent_span_id
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    return {
        "id": span.span_id.hex(),
        "trace_id": span.trace_id.hex(),
        # A span that is its own parent would make every walk up the tree endless.
        "parent_id": parent_id.hex() if len(parent_id) == 8 and any(parent_id) and parent_id != span.span_id else None,
        "started_at": start_ns // 1000,
        "received_at": received_ns // 1000,
        "duration_ms": (end_ns - start_ns) / 1e6 if end_ns >= start_ns else None,
    }


def _call(row: Row, span: Any, found: wire.Attributes, scoped: wire.Scoped, emission: Emission) -> Row:
    call = _placed(found, CALL_COLUMNS, CALL_BLANK, TAKEN)
    call.update(row)
    call["latency_ms"] = call.pop("duration_ms")
    call["provider"] = emission.provider or call["provider"]
    call["model"] = call["model"] or call["response_model"]
    call["outcome"] = _outcome(found, span)
    call["service"] = _text(scoped.resource.get(names.SERVICE))
    call["environment"] = _text(scoped.resource.get(names.ENVIRONMENT))
    call["session_id"] = call["session_id"] or _text(found.get("gen_ai.conversation.id"))
    call["chain"] = call["chain"] or row["id"]
    call["source"], call["precedence"] = emission.source, emission.precedence
    if emission is OURS and (finished := _count(found.get(names.FINISHED_CALLS), 1)) != 1:
        call[TOLD] = {"finished": finished - 1}  # the call itself counts as one anyway
    if names.PREFIX_DIGESTS in found:
        call["prefixes"], call["prefix_characters"] = _prefixes(found[names.PREFIX_DIGESTS])
    return call


def _attempt(row: Row, found: wire.Attributes) -> Row:
    attempt = ATTEMPT_BLANK.copy()
    for key, value in found.items():
        if (column := ATTEMPT_COLUMNS.get(key)) is not None:
            attempt[column[0]] = column[1](value)
    attempt.update(row)
    attempt["call_id"] = attempt.pop("parent_id")
    return attempt


def _rest(row: Row, span: Any, found: wire.Attributes, scoped: wire.Scoped) -> Row:
    rest = _placed(found, {}, {}, frozenset())
    rest.update(row)
    message = span.status.message
    rest["name"] = span.name[:TEXT_CHARS_MAX].decode(errors="replace")
    rest["kind"] = min(span.kind, 127)
    rest["status"] = min(span.status.code, 127)
    rest["status_message"] = message[:TEXT_CHARS_MAX].decode(errors="replace") if message else None
    rest["scope"] = scoped.scope[:TEXT_CHARS_MAX] or None
    rest["service"] = _text(scoped.resource.get(names.SERVICE))
    rest["environment"] = _text(scoped.resource.get(names.ENVIRONMENT))
    if scoped.scope == names.SCOPE:
        rest[TOLD] = {what: count for what, name in BOOKS.items() if (count := _count(found.get(name), 0))}
    return rest


def _placed(found: wire.Attributes, columns: Mapping[str, Column], blank: Row, taken: frozenset[str]) -> Row:
    """Return ``blank`` with each attribute in its column; one that has none and is not ``taken`` is a tag or kept."""
    row = blank.copy()
    tags: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for key, value in found.items():
        if (column := columns.get(key)) is not None:
            row[column[0]] = column[1](value)
        elif key in taken or (kept := _kept(key)) is None:
            continue
        elif kept:
            tags.append((kept, _shown(value)))
        else:
            others.append((key, value if type(value) is str and len(value) <= TEXT_CHARS_MAX else _shown(value)))
    row["tags"], row["attributes"] = tags[:TAGS_MAX], others
    return row


def _units(found: wire.Attributes) -> list[Any]:
    """Return the call's units; one that cannot be read is still a unit, without a price: a silent zero is worse."""
    text = found.get(names.UNITS)
    if text is None:
        return []
    try:
        units = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        units = None
    return units if isinstance(units, list) else [None]


def _unit_of_usage(call: Row, found: wire.Attributes, emission: Emission) -> Row:
    """Return the unit of a span that counts tokens but, unlike ours, has no units of its own."""
    return {
        "id": found.get(names.RESPONSE_ID),
        "provider": call["provider"],
        "model": call["response_model"] or call["model"],
        "api": emission.api,
        "usage": emission.usage,
        "params": {},
    }


def _prefixes(text: Any) -> tuple[list[int], list[int]]:
    """Return the digests of a prompt's beginnings and their sizes in characters; none when they cannot be read."""
    try:
        pairs = json.loads(text) if isinstance(text, str) else []
        # An object, whose KeyError of a slice is no TypeError from Python 3.12 on, is none either.
        listed = pairs[:PREFIXES_MAX] if isinstance(pairs, list) else []
        digests = [int(digest, 16) for digest, _ in listed]
        characters = [_count(size, None) for _, size in listed]
    except (ValueError, TypeError, RecursionError):
        return [], []
    if None in characters or not all(0 <= digest < 2**64 for digest in digests):
        return [], []
    return digests, characters


def _outcome(found: wire.Attributes, span: Any) -> str:
    stated = found.get(names.OUTCOME)
    if stated in OUTCOMES:
        return str(stated)
    failed = span.status.code == STATUS_CODE_ERROR or names.ERROR_TYPE in found
    if not failed:
        return Outcome.OK.value
    told = found.get(names.ERROR_TYPE)
    return str(told) if told in OUTCOMES else Outcome.UNKNOWN.value


@lru_cache(4096)
def _kept(key: str) -> str | None:
    """Return the tag that an attribute is, "" for one that is kept as it is, None for a text of users or models."""
    if key.startswith(names.TAG_PREFIX):
        return key[len(names.TAG_PREFIX) :] or None
    return None if key.startswith(CONTENT) else ""


def _shown(value: wire.Value) -> str:
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if isinstance(value, bytes):
        return value[: TEXT_CHARS_MAX // 2].hex()
    return (_json(value) or "")[:TEXT_CHARS_MAX]


def _json(value: Any) -> str | None:
    return None if value is None else ENCODER.encode(value)


def _text(value: Any) -> str | None:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) and value else None


def _texts(value: Any) -> list[str]:
    return (
        [item[:TEXT_CHARS_MAX] for item in value if isinstance(item, str)][:TAGS_MAX] if isinstance(value, list) else []
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < COUNT_MAX else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None


def _milliseconds(value: Any) -> float | None:
    seconds = _number(value)
    return None if seconds is None else seconds * 1000


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: Any, default: int | None = None) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else default


def _instant(text: Any, default_us: int) -> int:
    """Return an ISO time as microseconds since 1970, ``default_us`` when it is none."""
    try:
        at = datetime.fromisoformat(text)
        at_us = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND
    except (TypeError, ValueError, OverflowError):
        return default_us
    return at_us if 0 < at_us < LATEST_US else default_us


# Which column of a call or an attempt an attribute goes into, and how it is read.
CALL_COLUMNS: Mapping[str, Column] = {
    names.RESPONSE_FIRST_CHUNK: ("first_chunk_ms", _milliseconds),
    names.OPERATION: ("operation", _text), names.PROVIDER: ("provider", _text), names.REQUEST_MODEL: ("model", _text),
    names.RESPONSE_MODEL: ("response_model", _text), names.ERROR_CODE: ("error_code", _text),
    names.EXCEPTION_TYPE: ("exception", _text), names.REQUEST_STREAM: ("stream", partial(operator.is_, True)),
    names.ATTEMPTS: ("attempts", partial(_count, default=1)), names.FEATURE: ("feature", _text),
    names.USER: ("user_id", _text), names.SESSION: ("session_id", _text), names.PROMPT_NAME: ("prompt", _text),
    names.KEY: ("key_id", _text), names.CALLER: ("caller", _text), names.RESERVATION: ("reservation_id", _text),
    names.RESPONSE_FINISH_REASONS: ("finish_reasons", _texts), names.REQUEST_MAX_TOKENS: ("max_tokens", _count),
    names.REQUEST_DIGEST: ("digest", _text), names.TEMPLATE: ("template", _text),
    names.REQUEST_CHARACTERS: ("request_characters", _count),
    names.REQUEST_TOOLS_CHARACTERS: ("tools_characters", _count), names.REQUEST_MESSAGES: ("messages", _count),
    names.LINK_ID: ("chain", _text), names.LINK_KIND: ("link", _text), names.LINK_INDEX: ("link_index", _count),
}  # fmt: skip
CALL_BLANK: Row = {
    **dict.fromkeys(column for column, _ in CALL_COLUMNS.values()),
    "stream": False, "attempts": 1, "finish_reasons": [], "prefixes": [], "prefix_characters": [],
}  # fmt: skip
ATTEMPT_COLUMNS: Mapping[str, Column] = {
    names.RESEND_COUNT: ("number", partial(_count, default=0)), names.STATUS_CODE: ("status", _count),
    names.ATTEMPT_OUTCOME: ("outcome", _text), names.REQUEST_ID: ("request_id", _text),
    names.RETRY_AFTER_S: ("retry_after_s", _number), names.ERROR_TYPE: ("error_type", _text),
    names.ATTEMPT_CODE: ("code", _text), names.WAITED_S: ("waited_s", _number),
    names.SHOULD_RETRY: ("should_retry", _flag), **{name: (column, _whole) for column, name in HEADROOM},
}  # fmt: skip
ATTEMPT_BLANK: Row = {**dict.fromkeys(column for column, _ in ATTEMPT_COLUMNS.values()), "number": 0}
