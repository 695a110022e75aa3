"""A receiver of Slack's incoming webhooks on loopback, which can fail in the ways that Slack and networks do.

    with running_slack("429:1", "lost", "ok") as slack:
        Slack(slack.url).deliver(message)

Each request takes the next step of the script; when it is used up, every further one is "ok".  Steps:

    ok          the message is in the channel, answer "ok"
    429:N 503:N refused with Retry-After N (seconds, or a date as Slack never but HTTP does write it); N may be left out
    500 410 ... refused with that status
    hang        reads the request, never answers
    reset       resets the connection before it has read the message
    slow:N      the message is in the channel, "ok" comes N seconds later (0.5)
    drip        the message is in the channel, the answer comes a byte at a time, without end
    lost        the message is in the channel, then the connection is dropped
    post500     the message is in the channel, answer 500
    html        200 and a web page
    redirect    302 to another path of this server
    big         200 and an endless body
    cut         the message is in the channel, the answer says 2 bytes and brings 1

A message that Slack would refuse (``invalid_blocks``, ``no_text``) is refused whatever the script says.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/services/T000/B000/secretsecretsecret"
TAKING = ("ok", "slow", "drip", "lost", "post500", "cut")


@dataclass(frozen=True)
class Try:
    """One request that came in."""

    at: datetime
    step: str
    payload: Any
    taken: bool
    """Whether the message is in the channel."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that stopping waits for them, and leaves no socket open

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that goes away is what some tests are about
            super().handle_error(request, client_address)


class FakeSlack:
    def __init__(self, script: tuple[str, ...], tls: ssl.SSLContext | None = None) -> None:
        self.tries: list[Try] = []
        self.strays: list[str] = []
        """Requests to anything but the webhook, as a client that follows redirects makes them."""
        self.closing = threading.Event()
        self._steps = deque(script)
        self._lock = threading.Lock()
        self._scheme = "https" if tls else "http"
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def url(self) -> str:
        """The webhook's address; its path is the secret."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}{PATH}"

    @property
    def messages(self) -> list[Any]:
        """What the channel shows, in order."""
        return [one.payload for one in list(self.tries) if one.taken]

    def play(self, *steps: str) -> None:
        """Put ``steps`` in the place of what is left of the script."""
        with self._lock:
            self._steps = deque(steps)

    def wait_for(self, messages: int, timeout_s: float = 20.0) -> list[Any]:
        """Return the channel's messages once there are so many; fail when they do not come."""
        deadline = time.monotonic() + timeout_s
        while len(self.messages) < messages:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {messages} messages after {timeout_s} s"
            time.sleep(0.01)
        return self.messages

    def next_step(self) -> str:
        with self._lock:
            return self._steps.popleft() if self._steps else "ok"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_slack(*script: str, tls: ssl.SSLContext | None = None) -> Iterator[FakeSlack]:
    slack = FakeSlack(script, tls)
    slack.start()
    try:
        yield slack
    finally:
        slack.stop()


def complaint(payload: Any) -> str | None:
    """Return Slack's word for what is wrong with ``payload``, or None.  Source: Block Kit reference, 2026."""
    if not isinstance(payload, dict):
        return "invalid_payload"
    if not payload.get("text"):
        return "no_text"
    blocks = payload.get("blocks", [])
    if len(blocks) > 50 or not all(_is_block(block) for block in blocks):
        return "invalid_blocks"
    return None


def _is_block(block: dict[str, Any]) -> Any:
    if block["type"] == "header":
        return block["text"]["type"] == "plain_text" and _is_text(block["text"], 150)
    if block["type"] == "section":
        fields = block.get("fields", [])
        has_text = "text" not in block or _is_text(block["text"], 3000)
        return (
            bool(fields or "text" in block)
            and has_text
            and len(fields) <= 10
            and all(_is_text(f, 2000) for f in fields)
        )
    if block["type"] == "context":
        return 1 <= len(block["elements"]) <= 10 and all(_is_text(element, 3000) for element in block["elements"])
    if block["type"] == "actions":
        return 1 <= len(block["elements"]) <= 25 and all(
            _is_text(button["text"], 75) and len(button.get("url", "")) <= 3000 for button in block["elements"]
        )
    return block["type"] == "divider"


def _is_text(text: dict[str, Any], chars_max: int) -> bool:
    # "verbatim" is for mrkdwn only and "emoji" for plain_text only.
    other = "emoji" if text["type"] == "mrkdwn" else "verbatim"
    return text["type"] in ("plain_text", "mrkdwn") and other not in text and 1 <= len(text["text"]) <= chars_max


def _handler(slack: FakeSlack) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
            """Say nothing: the test looks at ``tries``."""

        def do_GET(self) -> None:
            slack.strays.append(self.path)
            self._answer(200, b"ok")

        def do_POST(self) -> None:
            self.close_connection = True
            if self.path != PATH:
                slack.strays.append(self.path)
                self._answer(404, b"no_service")
                return
            step, _, value = slack.next_step().partition(":")
            if step == "reset":
                slack.tries.append(Try(datetime.now(UTC), step, None, taken=False))
                _reset(self.connection)
                return
            payload = _parsed(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            if word := complaint(payload):
                slack.tries.append(Try(datetime.now(UTC), step, payload, taken=False))
                self._answer(400, word.encode())
                return
            slack.tries.append(Try(datetime.now(UTC), step, payload, taken=step in TAKING))
            self._play(step, value)

        def _play(self, step: str, value: str) -> None:
            plays: dict[str, Callable[[], object]] = {
                "ok": lambda: self._answer(200, b"ok"),
                "hang": slack.closing.wait,
                "slow": lambda: (slack.closing.wait(float(value or "0.5")), self._answer(200, b"ok")),
                "drip": lambda: self._pour(b"o", pause_s=0.05),
                "lost": lambda: self.connection.shutdown(socket.SHUT_RDWR),
                "post500": lambda: self._answer(500, b"rollup_error"),
                "html": lambda: self._answer(200, b"<!doctype html><title>Sign in to the hotel</title>"),
                "redirect": lambda: self._answer(302, b"", Location="/elsewhere"),
                "big": lambda: self._pour(b"x" * 65536, pause_s=0),
                "cut": lambda: self._answer(200, b"o", length=2),
            }
            if step in plays:
                plays[step]()
            else:
                self._answer(int(step), b"some_reason", **({"Retry-After": value} if value else {}))

        def _answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.send_header("Connection", "close")
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def _pour(self, piece: bytes, pause_s: float) -> None:
            """Answer without end, until the client goes."""
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while not slack.closing.wait(pause_s):
                    self.wfile.write(piece)
            except OSError:  # the client had enough, which is what the test is about
                return

    return Handler


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()  # in effect once the handler closes its two files on it
