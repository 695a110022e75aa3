"""Slack's Web API and Socket Mode on loopback, as far as a bot uses them.

    with running_slack_api("ratelimited") as slack:
        bot = SlackBot("xoxb-x", "C1", api_url=slack.url, ...)
        slack.click("tallystick_ack", ts)

Each call of a method takes the next step of the script, "ok" when it is used up: a word is Slack's error
(``ok: false``), a number an HTTP status, ``lost`` does it and drops the connection, ``hang`` never answers.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from fakes.slack import complaint

CHANNEL = "C0123456789"
USER = "U0000001"


class FakeSlackApi:
    """What the channel shows and what was asked for."""

    def __init__(self, script: tuple[str, ...]) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.messages: dict[str, dict[str, Any]] = {}
        """The channel, by time stamp: as it is now, replies in threads too."""
        self.pictures: list[bytes] = []
        self.acknowledged: list[str] = []
        """The envelopes that were told to have arrived."""
        self.tokens: set[str | None] = set()
        self.closing = threading.Event()
        self._steps = deque(script)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._sockets: Server = serve(self._talk, "127.0.0.1", 0)
        self._listening: list[ServerConnection] = []
        self._connected = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def play(self, *steps: str) -> None:
        self._steps = deque(steps)

    def next_step(self) -> str:
        return self._steps.popleft() if self._steps else "ok"

    def roots(self) -> list[dict[str, Any]]:
        """Return the messages of the channel that are in no thread."""
        return [message for message in self.messages.values() if "thread_ts" not in message]

    def replies(self, ts: str) -> list[dict[str, Any]]:
        return [message for message in self.messages.values() if message.get("thread_ts") == ts]

    def click(self, action_id: str, ts: str) -> None:
        """Have a person click the button of a message, as Slack tells it."""
        assert self._connected.wait(20), "nobody listens for clicks"
        message = self.messages[ts]
        [button] = [
            element for block in message["blocks"] if block["type"] == "actions"
            for element in block["elements"] if element["action_id"] == action_id
        ]  # fmt: skip
        payload = {
            "type": "block_actions", "user": {"id": USER}, "message": message,
            "container": {"type": "message", "message_ts": ts, "channel_id": CHANNEL},
            "actions": [{"type": "button", "action_id": action_id, "value": button["value"]}],
        }  # fmt: skip
        envelope = {"envelope_id": secrets.token_hex(8), "type": "interactive", "payload": payload}
        self._listening[-1].send(json.dumps(envelope))

    def hang_up(self) -> None:
        """Close the web socket, as Slack does every few hours."""
        self._connected.clear()
        self._listening[-1].close()

    def _talk(self, connection: ServerConnection) -> None:
        self._listening.append(connection)
        connection.send(json.dumps({"type": "hello", "num_connections": 1, "connection_info": {"app_id": "A1"}}))
        self._connected.set()
        with suppress(ConnectionClosed):
            for told in connection:
                if envelope := json.loads(told).get("envelope_id"):
                    self.acknowledged.append(envelope)

    def do(self, method: str, told: dict[str, Any]) -> dict[str, Any]:
        """Return what ``method`` answers."""
        if method == "apps.connections.open":
            return {"ok": True, "url": f"ws://127.0.0.1:{self._sockets.socket.getsockname()[1]}/"}
        if method == "files.getUploadURLExternal":
            return {"ok": True, "upload_url": f"{self.url}/upload", "file_id": "F1"}
        if method == "files.completeUploadExternal":
            return {"ok": True, "files": told["files"]}
        if word := complaint(told):
            return {"ok": False, "error": word}
        if method == "chat.update":
            if told["ts"] not in self.messages:
                return {"ok": False, "error": "message_not_found"}
            self.messages[told["ts"]] |= told
            return {"ok": True, "ts": told["ts"], "channel": CHANNEL}
        if method == "chat.postMessage":
            ts = f"1700000000.{len(self.messages):06}"
            self.messages[ts] = {**told, "ts": ts}
            return {"ok": True, "ts": ts, "channel": CHANNEL}
        return {"ok": False, "error": "unknown_method"}

    def start(self) -> None:
        for serves in (lambda: self._server.serve_forever(0.02), self._sockets.serve_forever):
            threading.Thread(target=serves, daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._listening:
            connection.close()
        self._sockets.shutdown()


@contextmanager
def running_slack_api(*script: str) -> Iterator[FakeSlackApi]:
    slack = FakeSlackApi(script)
    slack.start()
    try:
        yield slack
    finally:
        slack.stop()


def _handler(slack: FakeSlackApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
            """Say nothing."""

        def do_POST(self) -> None:
            method = self.path.removeprefix("/api/")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if method == "upload":
                slack.pictures.append(body)
                self._answer(200, b"OK")
                return
            slack.tokens.add(self.headers.get("Authorization"))
            is_json = "json" in (self.headers.get("Content-Type") or "")
            told = json.loads(body or b"{}") if is_json else dict(parse_qsl(body.decode()))
            step = "ok" if method == "apps.connections.open" else slack.next_step()
            slack.asked.append((method, told))
            if step == "hang":
                slack.closing.wait()
            elif step.isdigit():
                self._answer(int(step), b"later", **{"Retry-After": "1"})
            elif step not in {"ok", "lost"}:
                self._answer(200, json.dumps({"ok": False, "error": step}).encode())
            else:
                answer = json.dumps(slack.do(method, told)).encode()
                if step == "lost":
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self._answer(200, answer)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

    return Handler
