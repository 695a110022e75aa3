"""One call of the app, from the SDK method's start to the end of its answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Token
from datetime import UTC, datetime
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import set_span_in_context

from tallystick.errors import BudgetExceededError, RequestTooLargeError
from tallystick.instrumentation._attempts import outcome_of_transport
from tallystick.instrumentation._content import Capture
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._holds import Hold, claim, park, spent_of
from tallystick.instrumentation._otlp import Ids
from tallystick.instrumentation._routes import Route
from tallystick.instrumentation._tap import Recorder, is_tapped, tap
from tallystick.instrumentation._tracing import CALL_KEY, CallSpan, Tracing
from tallystick.instrumentation._units import Place, Unit, lacks_output, load_prices, price_unit, unit_attributes
from tallystick.instrumentation._wire import (
    Answer,
    BatchResults,
    OpaqueBody,
    StreamReader,
    WholeBody,
    read_content,
    read_error,
    stream_reader,
)
from tallystick.model import attributes as names
from tallystick.model.failures import Outcome

# Outcomes of calls that raised nothing and that a backend should not show as errors.
_QUIET = frozenset({Outcome.OK, Outcome.TRUNCATED, Outcome.REFUSAL, Outcome.ABANDONED})

# Exceptions that say more by their class than by status or body; names, because the SDKs are not imported here.
_BY_CLASS = {
    "ValidationError": Outcome.INVALID_OUTPUT,
    "JSONDecodeError": Outcome.INVALID_OUTPUT,
    "APIResponseValidationError": Outcome.INVALID_OUTPUT,
    "LengthFinishReasonError": Outcome.TRUNCATED,
    "ContentFilterFinishReasonError": Outcome.REFUSAL,
}

STREAM_S_MIN = 0.001
"""What streamed faster was not streamed: it came at once."""

_REQUEST_ATTRIBUTES = {
    "max_tokens": names.REQUEST_MAX_TOKENS,
    "max_completion_tokens": names.REQUEST_MAX_TOKENS,
    "max_output_tokens": names.REQUEST_MAX_TOKENS,
    "temperature": names.REQUEST_TEMPERATURE,
    "top_p": names.REQUEST_TOP_P,
}


class Call:
    """A call in flight; ends once, when it failed or when it returned and every stream of it is over."""

    def __init__(
        self, tracing: Tracing, route: Route, place: Place, request: Mapping[str, Any], told: dict[str, Any]
    ) -> None:
        self.attempts = 0
        self.attempt_ended_ns: int | None = None
        """When the last attempt was over, by `now_ns`."""
        self.lost = 0
        """Attempts that the provider may have billed although no answer of theirs came."""
        self.hold: Hold | None = None
        """What a budget has set aside for it."""
        self.digest: str | None = None
        """Equal for equal requests."""
        self.sender: Any = None
        """The HTTP client whose sends are this call's attempts."""
        self.is_foreign = False
        """True when no SDK made it."""
        self.capture: Capture | None = None
        """Set where the app opted in to have prompts and answers on the span."""
        self.on_end: Callable[[Outcome], None] | None = None
        """Told the outcome when the call ends."""
        self.route = route
        self.place = place
        self.asked_for_usage = False
        """True while what is sent has ``include_usage`` by our doing."""
        self._request = request
        self._tracing = tracing
        self._told = told
        self._units: list[Unit] = []
        self._answered = 0
        self._pending_id: str | None = None
        self._outcome = Outcome.OK
        self._more: dict[str, Any] = {}
        self._reading = 0
        self._returned = False
        self._ended = False
        self._held: list[bytes] = []
        self._doubted: list[tuple[str, int, int, Mapping[str, Any]]] = []
        """Attempts that were refused as too many, of a stream: why, nobody has read."""
        self._lock = threading.RLock()
        # One reading of the wall clock; the monotonic one tells the rest, so that a clock that jumps changes nothing.
        self._start_ns = time.time_ns()
        self._clock_ns = self._start_ns - time.perf_counter_ns()
        model = request.get("model")
        name = f"{route.operation} {model}" if isinstance(model, str) else route.operation
        self._span = CallSpan(tracing, name, self._asked(model) | told, self._start_ns)
        with guard("the watching of a call"):
            tracing.flights.begin(self)

    def _asked(self, model: object) -> dict[str, Any]:
        asked: dict[str, Any] = {
            names.OPERATION: self.route.operation,
            names.PROVIDER: self.place.provider,
            names.SERVER_ADDRESS: self.place.address,
        }
        if self.place.port is not None:
            asked[names.SERVER_PORT] = self.place.port
        if isinstance(model, str):
            asked[names.REQUEST_MODEL] = model
        if self._request.get("stream") is True:
            asked[names.REQUEST_STREAM] = True
        for name, value in self._request.items():
            if name in _REQUEST_ATTRIBUTES and isinstance(value, (int, float)):
                asked[_REQUEST_ATTRIBUTES[name]] = value
        return asked

    @property
    def request(self) -> Mapping[str, Any]:
        """The request's JSON, as it is sent."""
        return self._request

    @property
    def told(self) -> Mapping[str, Any]:
        """What the span says of who makes the call: tags, key, caller."""
        return self._told

    def changed(self, changes: Mapping[str, Any]) -> None:
        """Other values are sent for some keys of the request, because a budget wants it."""
        self._request = {**self._request, **changes}

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Put more on the span of the call."""
        self._more |= attributes

    def enter(self) -> Token[Context] | None:
        """Make this the call that attempts and answers belong to; give the token to `leave`."""
        with guard("the entering of a call"):
            return otel_context.attach(self._inside(otel_context.get_current()))
        return None

    def _inside(self, context: Context) -> Context:
        """Return ``context`` as it is inside this call."""
        context = otel_context.set_value(CALL_KEY, self, context)
        # A span that the app's provider does not know must be nobody's parent.
        return context if self._span.twin is None else set_span_in_context(self._span.twin, context)

    def leave(self, token: Token[Context] | None) -> None:
        """Restore the context that was in force before `enter`."""
        if token is not None:
            with guard("the leaving of a call"):
                otel_context.detach(token)

    @property
    def ids(self) -> Ids:
        """Which span it is: what the spans inside this call have as their parent."""
        return self._span.ids

    def now_ns(self) -> int:
        """Return the time of the wall clock as it has gone on since the call began."""
        return self._clock_ns + time.perf_counter_ns()

    def in_flight(self) -> list[bytes]:
        """Return the spans of a call that is under way, as they are to be found should the process be killed now."""
        outcome = Outcome.INTERRUPTED.value
        attributes = self._more | {
            names.OUTCOME: outcome, names.ERROR_TYPE: outcome, names.ATTEMPTS: self.attempts,
        }  # fmt: skip
        doubted = [self._span.child(*attempt, failed=True) for attempt in self._doubted]
        return [*self._held, *doubted, self._span.so_far(attributes, self.now_ns())]

    @property
    def age_s(self) -> float:
        """How long ago the call began."""
        return (self.now_ns() - self._start_ns) / 1e9

    def attempted(self, name: str, start_ns: int, end_ns: int, facts: Mapping[str, Any], *, may_be_last: bool) -> None:
        """Record an attempt.

        ``may_be_last``: the call is about to end, and is written together with it; else it is written now, because the
        process may be killed before the call ends.
        """
        if facts.get(names.ATTEMPT_OUTCOME) == Outcome.RATE_LIMITED and names.ATTEMPT_CODE not in facts:
            with self._lock:
                if not self._ended:
                    self._doubted.append((name, start_ns, end_ns, facts))
                    return
        span = self._span.child(name, start_ns, end_ns, facts, failed=names.ERROR_TYPE in facts)
        with self._lock:
            if may_be_last and not self._ended:
                self._held.append(span)
                return
        self._tracing.write(span)

    def write_held(self) -> None:
        """Write what was held back for the end of the call, for the call goes on."""
        with self._lock:
            held, self._held = self._held, []
        if held:
            self._tracing.write(*held)

    def answered(self, response: Any, *, asynchronous: bool) -> None:
        """Read a 2xx response, before the SDK parses it: now if its body is here, else as the app reads it."""
        if not self.route.billed or not 200 <= response.status_code < 300:
            return
        self._answered += 1
        kind = response.headers.get("content-type", "")
        content = _content(response)
        if content is None:
            self._listen(response, kind, asynchronous=asynchronous)
            return
        answers = read_content(content, kind, self.route)
        for answer in answers:
            self.take(answer, streamed=False)
        if self.capture is not None and answers and "json" in kind:
            self._show(self.capture, [content], answers[-1], streamed=False)

    def _show(self, capture: Capture, content: list[bytes], answer: Answer, *, streamed: bool) -> None:
        with guard("the content of an answer"):
            if streamed:
                self.note(capture.streamed(content, answer.stop_reasons))
            elif self.route.reads == "answer":
                self.note(capture.answered(json.loads(content[0]), answer.stop_reasons))

    def _listen(self, response: Any, kind: str, *, asynchronous: bool) -> None:
        load_prices()
        reader = stream_reader(self.route, kind, self._request, self._take_part)
        encoding = response.headers.get("content-encoding", "").strip().lower()
        with self._lock:
            self._reading += 1
        recorder = Recorder(reader, encoding, self._on_content, self._over)
        recorder.ends_settled = self.is_foreign
        tap(response, recorder, asynchronous=asynchronous)

    def follow(self, reader: StreamReader) -> Recorder:
        """Return who hears an answer that comes by other ways than a response's body; the call lasts as long."""
        load_prices()
        with self._lock:
            self._reading += 1
        return Recorder(reader, "", self._on_content, self._over)

    def watch(self, result: Any, *, asynchronous: bool) -> None:
        """Stay open until the stream that a client's middleware made of its own is over.

        Middleware may ask further models while the app reads: what it asks is of this call, whose outcome is that of
        the stream which the app sees.
        """
        response = getattr(result, "response", None) or getattr(result, "http_response", None)
        if response is None or _content(response) is not None or is_tapped(response):
            return
        with self._lock:
            self._reading += 1
        kind = response.headers.get("content-type", "")
        reader = stream_reader(self.route, kind, self._request, self._take_part)
        recorder = Recorder(reader, "", self._on_content, self._watched)
        tap(response, recorder, asynchronous=asynchronous, inside=(self.enter, self.leave))

    def _on_content(self) -> None:
        self._more.setdefault(names.RESPONSE_FIRST_CHUNK, self.age_s)

    def _over(self, recorder: Recorder) -> None:
        reader = recorder.reader
        streamed = not isinstance(reader, WholeBody | OpaqueBody | BatchResults)
        if streamed and not reader.answer.is_unreadable and lacks_output(reader.answer, self.route):
            reader.estimate()
        reader.answer.outcome = recorder.outcome
        for answer in reader.answers:
            self.take(answer, streamed=streamed)
        if streamed and self._units and (rate := self._tokens_per_second(self._units[-1])) is not None:
            self._more[names.STREAM_RATE] = rate
        if self.capture is not None and not isinstance(reader, OpaqueBody | BatchResults):
            self._show(self.capture, reader.kept, reader.answer, streamed=streamed)
        self._watched(recorder)

    def _tokens_per_second(self, unit: Unit) -> float | None:
        """Return how fast the answer came after its first content, hidden reasoning apart; None for a guess."""
        usage, first_s = unit.receipt.usage, self._more.get(names.RESPONSE_FIRST_CHUNK)
        if usage is None or first_s is None or unit.facts["estimated"]:
            return None
        took_s = self.age_s - first_s
        tokens = usage.output_tokens - usage.reasoning_tokens
        return round(tokens / took_s, 3) if tokens > 0 and took_s >= STREAM_S_MIN else None

    def _watched(self, recorder: Recorder) -> None:
        self._outcome = recorder.outcome
        if not isinstance(recorder.reader, WholeBody | OpaqueBody):
            self._more[names.CHUNKS] = recorder.reader.events
            self._more[names.STREAM_GAP_S] = round(recorder.longest_gap_s, 6)
        if recorder.exception:
            self._more[names.EXCEPTION_TYPE] = recorder.exception
        with self._lock:
            self._reading -= 1
        self._end_if_over()

    def take(self, answer: Answer, *, streamed: bool) -> None:
        """Put an answer on the ledger; the last one's outcome is the call's."""
        if answer.is_batch and self.route.reads == "results":
            answer.outcome = Outcome.OK  # one line that was cut short is not the failure of all
        self._outcome = answer.outcome
        if answer.error_code:
            self._more[names.ERROR_CODE] = answer.error_code
        if answer.is_pending:
            self._pending_id = answer.id
        if answer.is_pending or (self.route.is_fetch and answer.usage is None):
            return
        at = datetime.fromtimestamp(self._start_ns / 1e9, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        self._units.append(price_unit(answer, self.route, self._request, self.place, at, streamed=streamed))

    def _take_part(self, answers: list[Answer]) -> None:
        """Put many answers of a batch on a span of their own below this one: one attribute cannot hold them all."""
        token = otel_context.attach(self._inside(Context()))
        try:
            part = Call(self._tracing, self.route, self.place, self._request, self._told)
        finally:
            otel_context.detach(token)
        for answer in answers:
            part.take(answer, streamed=False)
        part.returned()

    def failed(self, error: BaseException) -> None:
        """The SDK raised: the call is over."""
        self._more[names.EXCEPTION_TYPE] = type(error).__qualname__
        self.refused(*_outcome_of_error(error))

    def refused(self, outcome: Outcome, code: str | None) -> None:
        """The call is over with ``outcome``; ``code`` is the provider's own word for it."""
        self._outcome = outcome
        if code:
            self._more[names.ERROR_CODE] = code
        self._end()

    @property
    def is_over(self) -> bool:
        """Whether its span was written: nothing can be added to it."""
        return self._ended

    def returned(self) -> None:
        """The SDK returned; the call is over unless a stream of it is still to be read."""
        self._returned = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._returned and self._reading == 0:
            self._end()
        else:
            with self._lock:
                self._held = self._told_apart() + self._held
            self.write_held()

    def _told_apart(self) -> list[bytes]:
        """Return the spans of attempts about which only the end of the call says whether a quota was spent.

        A quota that is spent does not come back between two attempts; and where it is, the SDK retries in vain.
        """
        doubted, self._doubted = self._doubted, []
        known: dict[str, Any] = {}
        if self._outcome is Outcome.QUOTA:
            known = {
                names.ATTEMPT_OUTCOME: Outcome.QUOTA.value,
                names.ATTEMPT_CODE: self._more.get(names.ERROR_CODE, ""),
            }
        return [
            self._span.child(name, start_ns, end_ns, {**facts, **known}, failed=True)
            for name, start_ns, end_ns, facts in doubted
        ]

    def _end(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._tracing.finished()
        attributes = {names.OUTCOME: self._outcome.value, names.ATTEMPTS: self.attempts}
        attributes |= self._more
        with guard("the pricing of a call"):  # whatever is wrong with its units, the call itself is recorded
            attributes |= unit_attributes(self._units, is_fetch=self.route.is_fetch)
        with guard("the settlement of a call"):
            attributes |= self._settled()
        if self._outcome is not Outcome.OK:
            attributes[names.ERROR_TYPE] = self._outcome.value
        if self.on_end is not None:
            with guard("the links of a call"):
                self.on_end(self._outcome)
        children = self._told_apart() + self._held
        self._span.end(attributes, self.now_ns(), children, failed=self._outcome not in _QUIET)
        with guard("the watching of a call"):
            self._tracing.flights.end(self)

    def _settled(self) -> dict[str, Any]:
        """Replace what budgets set aside by what the call took; return what its span tells of that."""
        if self.route.is_fetch:
            return self._fetched()
        hold, self.hold = self.hold, None
        if hold is None:
            return {}
        if self._pending_id is not None:
            park(self._pending_id, hold)
            return hold.told()
        unheard = self._answered - len(self._units)
        sent = self.attempts > 0 or self._answered > 0 or bool(self._units)
        return hold.settle(
            spent_of(hold.need, map(_taken, self._units), doubtful=self.lost + max(unheard, 0), sent=sent)
        )

    def _fetched(self) -> dict[str, Any]:
        """Settle what was set aside for an answer that was made in the background."""
        found: dict[str, Any] = {}
        for unit in self._units:
            if (hold := claim(unit.facts["id"])) is not None:
                found |= hold.settle(spent_of(hold.need, [_taken(unit)], doubtful=0, sent=True))
        return found


def _taken(unit: Unit) -> dict[str, Any]:
    usage = unit.receipt.usage
    return {**unit.facts, "tokens": None if usage is None else usage.input_tokens + usage.output_tokens}


def current_call() -> Call | None:
    """Return the call in whose SDK method we are, or None."""
    call = otel_context.get_value(CALL_KEY)
    return call if isinstance(call, Call) else None


def _content(response: Any) -> bytes | None:
    """Return the body if it was read; httpx and httpx2 raise a RuntimeError of their own when it was not."""
    try:
        content: bytes = response.content
    except RuntimeError:
        return None
    return content


def _outcome_of_error(error: BaseException) -> tuple[Outcome, str | None]:
    """Return the failure class of what an SDK raised, and the provider's own word.

    The wire's body decides first: exception classes differ between SDK versions.
    """
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit | SystemExit):
        return Outcome.CANCELLED, None
    if isinstance(error, BudgetExceededError | RequestTooLargeError):  # anthropic 0.62 to 2.0 has the second name, too
        return Outcome.BUDGET_BLOCKED, None
    name = type(error).__name__
    if name in _BY_CLASS:
        return _BY_CLASS[name], None
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return read_error(status, getattr(error, "body", None), str(error))
    if name in {"APITimeoutError", "APIConnectionError"}:
        transport = outcome_of_transport(type(error.__cause__).__name__)
        timed_out = name == "APITimeoutError" and transport is Outcome.CONNECTION
        return (Outcome.TIMEOUT_READ if timed_out else transport), None
    if type(error).__module__.partition(".")[0] in {"httpx", "httpx2"}:
        return outcome_of_transport(name), None
    return Outcome.UNKNOWN, None
