"""What runs around openai's websocket connections: no request goes over HTTP there, so each response is a call.

``recv_bytes`` is where every message passes, whoever asks for it.  ``response.created`` begins a call; the event that
carries the usage ends it; and so does whatever ends the connection.  Which provider bills, with which key and model, is
told by the connection's own handshake.
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
    "openai.resources.realtime.realtime",
    "openai.resources.responses.responses",
)
REALTIME = Route("realtime", "realtime")
RESPONSES = Route("chat", "responses")
TRANSCRIPTION = Route("transcription", "transcription")
HEARD = "conversation.item.input_audio_transcription.completed"
ENDS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
DEFAULT_PORTS = frozenset({80, 443})

# Sound is most of the messages; what says more than that something was streamed is picked out before any JSON is read.
_FACTS = re.compile(
    rb'"type"\s*:\s*"(response\.(?:[a-z_.]+\.delta|created|done|completed|incomplete|failed)|session\.(?:created|updated)'
    rb'|conversation\.item\.input_audio_transcription\.completed|error)"'
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
        """Around ``send``, sync or async: what was asked is needed to estimate an answer that is cut."""
        with guard("the reading of a message"):
            event = args[0] if args else kwargs.get("event")
            if isinstance(event, Mapping) and event.get("type") == "response.create":
                talk = self._talk(connection)
                if talk is not None:
                    talk.asked = dict(event)
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
        self.asked: dict[str, Any] = {}
        """The last ``response.create`` of the app."""
        self._hooks = hooks
        self._open: dict[str, Recorder] = {}
        self._hearing_model: str | None = None
        uri = getattr(socket.protocol, "uri", None) or socket.protocol.wsuri  # the latter until websockets 14
        path, _, api = uri.path.rstrip("/").rpartition("/")
        place = uri.host if uri.port in DEFAULT_PORTS else f"{uri.host}:{uri.port}"
        self._base_url = f"{'https' if uri.secure else 'http'}://{place}{path}"
        self.route = {"realtime": REALTIME, "responses": RESPONSES}.get(api)
        query = parse_qs(uri.query or "")
        self._model = next(iter(query.get("model") or query.get("deployment") or []), None)
        headers = socket.request.headers
        self._key = headers.get("api-key") or headers.get("Authorization", "").removeprefix("Bearer ")

    def __del__(self) -> None:
        with guard("the end of a connection"):
            self.over()

    def hear(self, kind: str, data: bytes) -> None:
        """Take a message that says something."""
        if kind.endswith(".delta"):
            for recorder in list(self._open.values())[-1:]:
                recorder.feed(data)
            return
        event = json.loads(data)
        kind = str(event.get("type"))  # what was found first may stand deeper
        if kind == "response.created" or kind in ENDS:
            self._follow(kind, str((event.get("response") or {}).get("id")), data)
        elif kind.startswith("session."):
            self._meet(event.get("session") or {})
        elif kind == HEARD:
            self._transcribed(event)
        elif kind == "error" and self.route is RESPONSES:
            self._refused(event, data)

    def over(self, error: BaseException | None = None) -> None:
        """The connection has ended, and with it what was under way."""
        while self._open:
            self._open.popitem()[1].over(error)

    def _follow(self, kind: str, response_id: str, data: bytes) -> None:
        recorder = self._open.get(response_id) or self._begin(response_id)
        recorder.feed(data)
        if kind in ENDS:
            self._open.pop(response_id, None)

    def _begin(self, response_id: str) -> Recorder:
        asked, self.asked = self.asked, {}
        call = self._call(self.route or RESPONSES, {"model": self._model, **asked, "stream": True})
        reader: StreamReader = RealtimeMessages() if self.route is REALTIME else ResponsesMessages()
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

    def _refused(self, event: Mapping[str, Any], data: bytes) -> None:
        """An error ends the response under way; without one, it refuses what was asked last."""
        if self._open:
            _, recorder = self._open.popitem()
            recorder.feed(data)
            return
        asked, self.asked = self.asked, {}
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
