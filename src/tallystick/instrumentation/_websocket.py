"""What runs around openai's websocket connections: no request goes over HTTP there, so each response is a call.

``recv_bytes`` is where every message passes, whoever asks for it.  ``response.created`` begins a call; the event that
carries the usage ends it; and so does whatever ends the connection.  A session that is billed by its time (live,
translations) is a call as a whole.  Which provider bills, with which key and model, is told by the connection's own
handshake, or by the session.
"""

from __future__ import annotations

import inspect
import json
import re
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._routes import Route
from tallystick.instrumentation._tap import Recorder
from tallystick.instrumentation._wire import (
    Answer,
    RealtimeStream,
    ResponsesStream,
    StreamReader,
    message_type,
    read_error,
)
from tallystick.model.failures import Outcome

if TYPE_CHECKING:
    from tallystick.instrumentation._hooks import Hooks

Wrapped = Callable[..., Any]

MODULES = (
    "openai._websocket_connection",  # 3.x: what closes them all
    "openai.resources.beta.realtime.realtime",
    "openai.resources.beta.responses.responses",
    "openai.resources.live.forks",
    "openai.resources.live.live",
    "openai.resources.live.sideband",
    "openai.resources.realtime.realtime",
    "openai.resources.realtime.translations.translations",
    "openai.resources.responses.responses",
)
REALTIME = Route("realtime", "realtime")
RESPONSES = Route("chat", "responses")
TRANSCRIPTION = Route("transcription", "transcription")
LIVE = Route("live", "live")
TRANSLATION = Route("translation", "live")
DECISION = Route("decision", "decisions")
HEARD = "conversation.item.input_audio_transcription.completed"
ENDS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
DEFAULT_PORTS = frozenset({80, 443})

APIS = {"realtime": REALTIME, "responses": RESPONSES, "live/sessions": LIVE, "realtime/translations": TRANSLATION}
_PATH = re.compile(
    r"(?P<base>.*?)/(?P<api>realtime/translations|realtime|responses|live/sessions(?=$|/[^/]+/(?:fork|attach)$))"
    r"(?:/[^/]+/(?:fork|attach))?"
)
APPEND = "session.input_audio_buffer.append"
TRANSLATED_BYTES_PER_S = 48_000
"""24 kHz, 16 bits, one channel: the only sound that translations take."""

# Sound is most of the messages; what says more than that something was streamed is picked out before any JSON is read.
_FACTS = re.compile(
    rb'"type"\s*:\s*"(response\.(?:[a-z_.]+\.delta|created|done|completed|incomplete|failed|event)'
    rb'|session\.(?:created|started|updated|closed|usage\.updated)|decision\.event|conversation\.item\.input_audio_transcription\.completed|error)"'
)


class Sockets:
    """The wrappers, and the connections under way."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._talks: weakref.WeakKeyDictionary[Any, Talk] = weakref.WeakKeyDictionary()

    def targets(self, module: ModuleType) -> list[tuple[str, Wrapped]]:
        """Return what is to be patched in a module: the methods that its connection classes have of their own."""
        found: list[tuple[str, Wrapped]] = []
        for name, kind in vars(module).items():
            if not isinstance(kind, type) or "Connection" not in name or "Manager" in name:
                continue
            if kind.__module__ != module.__name__ or not {"recv_bytes", "close"} & set(vars(kind)):
                continue
            for method, plain, asynchronous in (
                ("recv_bytes", self.receive, self.receive_async),
                ("send", self.send, self.send),
                ("close", self.close, self.close),
            ):
                if method in vars(kind):
                    is_async = inspect.iscoroutinefunction(vars(kind)[method])
                    found.append((f"{name}.{method}", asynchronous if is_async else plain))
        return found

    def receive(self, wrapped: Wrapped, connection: Any, args: Any, kwargs: Any) -> Any:
        """Around ``recv_bytes``."""
        try:
            message = wrapped(*args, **kwargs)
        except BaseException as error:
            self._failed(connection, error)
            raise
        self._heard(connection, message)
        return message

    async def receive_async(self, wrapped: Wrapped, connection: Any, args: Any, kwargs: Any) -> Any:
        """As `receive`."""
        try:
            message = await wrapped(*args, **kwargs)
        except BaseException as error:
            self._failed(connection, error)
            raise
        self._heard(connection, message)
        return message

    def send(self, wrapped: Wrapped, connection: Any, args: Any, kwargs: Any) -> Any:
        """Around ``send``, sync or async: what was asked is needed to estimate what the answers do not tell."""
        with guard("the reading of a message"):
            event = args[0] if args else kwargs.get("event")
            kind = event.get("type") if isinstance(event, Mapping) else None
            if kind in {"response.create", APPEND} and (talk := self._talk(connection)) is not None:
                talk.told(event)
        return wrapped(*args, **kwargs)

    def close(self, wrapped: Wrapped, connection: Any, args: Any, kwargs: Any) -> Any:
        """Around ``close``, sync or async."""
        with guard("the end of a connection"):
            if (talk := self._talks.get(connection)) is not None:
                talk.over()
        return wrapped(*args, **kwargs)

    def _heard(self, connection: Any, message: Any) -> None:
        with guard("the reading of a message"):
            data = message.encode() if isinstance(message, str) else message
            if (found := _FACTS.search(data)) is not None and (talk := self._talk(connection)) is not None:
                talk.hear(found[1].decode(), data)

    def _failed(self, connection: Any, error: BaseException) -> None:
        """Only a connection that is closed has ended: a wait that was cancelled may be taken up again."""
        with guard("the end of a connection"):
            closed = any(kind.__name__ == "ConnectionClosed" for kind in type(error).__mro__)
            if closed and (talk := self._talks.get(connection)) is not None:
                talk.over(error)

    def _talk(self, connection: Any) -> Talk | None:
        """Return what is known of a connection; None for one of an API that is not read here."""
        if not self._hooks.enabled:
            return None
        if connection not in self._talks:
            self._talks[connection] = Talk(self._hooks, connection._connection)  # noqa: SLF001 -- it has no public name
        talk = self._talks.get(connection)
        return talk if talk is not None and talk.route is not None else None


class Talk:
    """One connection: where it goes, and the responses that are under way in it."""

    def __init__(self, hooks: Hooks, socket: Any) -> None:
        self._asked: dict[str, Any] = {}
        """The last ``response.create`` of the app."""
        self._hooks = hooks
        self._open: dict[str, Recorder] = {}
        self._session: Recorder | None = None
        """Of a session that is a call as a whole."""
        self._sent_s = 0.0
        self._hearing_model: str | None = None
        uri = getattr(socket.protocol, "uri", None) or socket.protocol.wsuri  # the latter until websockets 14
        found = _PATH.fullmatch(uri.path.rstrip("/"))
        place = uri.host if uri.port in DEFAULT_PORTS else f"{uri.host}:{uri.port}"
        self._base_url = f"{'https' if uri.secure else 'http'}://{place}{found['base'] if found else ''}"
        self.route = APIS[found["api"]] if found else None
        query = parse_qs(uri.query or "")
        self._model = next(iter(query.get("model") or query.get("deployment") or []), None)
        headers = socket.request.headers
        self._key = headers.get("api-key") or headers.get("Authorization", "").removeprefix("Bearer ")

    def __del__(self) -> None:
        with guard("the end of a connection"):
            self.over()

    def told(self, event: Mapping[str, Any]) -> None:
        """Take what the app sent: a question, or sound that is to be translated."""
        if event["type"] != APPEND:
            self._asked = dict(event)
        elif self.route is TRANSLATION and isinstance(audio := event.get("audio"), str):
            self._sent_s += len(audio) * 3 // 4 / TRANSLATED_BYTES_PER_S  # three bytes in four letters

    def hear(self, kind: str, data: bytes) -> None:
        """Take a message that says something."""
        if kind.endswith(".delta"):
            self._pass_on(data)
            return
        event = json.loads(data)  # what was found first may stand deeper
        if event.get("type") == "response.event":  # what a live session has asked of another model
            event = event.get("event") or {}
            data = json.dumps(event).encode()
        self._take(str(event.get("type")), event, data)

    def _take(self, kind: str, event: dict[str, Any], data: bytes) -> None:
        if kind.endswith(".delta"):
            self._pass_on(data)
        elif kind == "decision.event":
            self._decided(event)
        elif self.route in {LIVE, TRANSLATION} and kind.startswith("session."):
            self._elapsed(kind, event)
        elif kind == "response.created" or kind in ENDS:
            self._follow(kind, str((event.get("response") or {}).get("id")), data)
        elif kind.startswith("session."):
            self._meet(event.get("session") or {})
        elif kind == HEARD:
            self._transcribed(event)
        elif kind == "error" and self.route is RESPONSES:
            self._refused(event, data)

    def _pass_on(self, data: bytes) -> None:
        for recorder in list(self._open.values())[-1:]:
            recorder.feed(data)

    def over(self, error: BaseException | None = None) -> None:
        """The connection has ended, and with it what was under way."""
        if self._session is not None:
            self._end_session(self._session, error)
        while self._open:
            self._open.popitem()[1].over(error)

    def _follow(self, kind: str, response_id: str, data: bytes) -> None:
        recorder = self._open.get(response_id) or self._begin(response_id)
        recorder.feed(data)
        if kind in ENDS:
            self._open.pop(response_id, None)

    def _begin(self, response_id: str) -> Recorder:
        asked, self._asked = self._asked, {}
        route = REALTIME if self.route is REALTIME else RESPONSES
        model = None if self.route is LIVE else self._model
        call = self._call(route, {"model": model, **asked, "stream": True})
        reader: StreamReader = RealtimeMessages() if route is REALTIME else ResponsesMessages()
        recorder: Recorder = call.follow(reader)
        self._open[response_id] = recorder
        call.returned()
        return recorder

    def _call(self, route: Route, request: Mapping[str, Any]) -> Any:
        return self._hooks.open_call(route, self._base_url, request, self._key, None, whole=False)

    def _meet(self, session: Mapping[str, Any]) -> None:
        """Learn the session's models; the beta names the transcription's at another place."""
        if isinstance(session.get("model"), str):
            self._model = session["model"]
        heard = ((session.get("audio") or {}).get("input") or {}).get("transcription")
        heard = heard or session.get("input_audio_transcription") or {}
        self._hearing_model = heard.get("model", self._hearing_model)

    def _transcribed(self, event: Mapping[str, Any]) -> None:
        """Speech that was heard is billed beside the session, by another model."""
        call = self._call(TRANSCRIPTION, {"model": self._hearing_model})
        usage = event.get("usage")
        call.take(
            Answer(id=event.get("item_id"), usage=dict(usage) if isinstance(usage, Mapping) else None), streamed=False
        )
        call.returned()

    def _elapsed(self, kind: str, event: Mapping[str, Any]) -> None:
        """Follow a session that is billed by its time: each telling of it is the sum so far."""
        session, usage = event.get("session") or {}, event.get("usage")
        if self._session is None:
            call = self._call(self.route or LIVE, {"model": session.get("model") or self._model, "stream": True})
            self._session = call.follow(SessionMessages())
            call.returned()
        answer = self._session.reader.answer
        answer.id, answer.model = session.get("id") or answer.id, session.get("model") or answer.model
        if isinstance(usage, Mapping):
            answer.usage = dict(usage)
        answer.is_estimated = kind != "session.closed" or not isinstance(usage, Mapping)
        if kind == "session.closed":
            self._session.reader.finish()
            self._end_session(self._session)

    def _end_session(self, session: Recorder, error: BaseException | None = None) -> None:
        """A translation does not tell how long it was: what the app sent to be translated is what is billed."""
        self._session = None
        if self.route is TRANSLATION and self._sent_s:
            session.reader.answer.usage = {"seconds": round(self._sent_s, 3)}
            self._sent_s = 0.0
        session.over(error)

    def _decided(self, event: Mapping[str, Any]) -> None:
        """A live session may have another model decide; it tells that model's usage with each decision."""
        decision = (event.get("event") or {}).get("decision") or {}
        call = self._call(DECISION, {"model": decision.get("model")})
        usage = decision.get("usage")
        call.take(
            Answer(
                id=event.get("event_id"),
                model=decision.get("model"),
                usage=dict(usage) if isinstance(usage, Mapping) else None,
            ),
            streamed=False,
        )
        call.returned()

    def _refused(self, event: Mapping[str, Any], data: bytes) -> None:
        """An error ends the response under way; without one, it refuses what was asked last."""
        if self._open:
            _, recorder = self._open.popitem()
            recorder.feed(data)
            return
        asked, self._asked = self._asked, {}
        status = event.get("status")
        outcome, code = read_error(status if isinstance(status, int) else 400, event)
        self._call(RESPONSES, asked).refused(Outcome.UNKNOWN if outcome is Outcome.OK else outcome, code)


class _Messages(StreamReader):
    """An event stream whose chunks are whole messages."""

    def feed(self, chunk: bytes) -> None:
        self.events += 1
        self.on_data(message_type(chunk), chunk)


class ResponsesMessages(_Messages, ResponsesStream):
    """The Responses API: the very events that it streams."""


class RealtimeMessages(_Messages, RealtimeStream):
    """A response of a realtime session."""


class SessionMessages(StreamReader):
    """A session that is a call as a whole; what it tells is taken by who follows it."""

    def on_data(self, event: bytes, data: bytes) -> None:
        """It is not fed."""
