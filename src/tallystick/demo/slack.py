"""A webhook receiver on loopback that shows what Slack would show."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/services/T00000000/B00000000/loopback"
BODY_BYTES_MAX = 1024 * 1024
LINK = re.compile(r"<(https?://[^|>]+)\|([^>]+)>")
MARK = re.compile(r"(?<![\w*])[*]([^*\n]+)[*](?!\w)")
EMOJI = {
    ":warning:": "⚠",
    ":rotating_light:": "🚨",
    ":large_yellow_circle:": "🟡",
    ":large_orange_circle:": "🟠",
    ":red_circle:": "🔴",
}
ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


class SlackReceiver:
    """Takes messages as Slack's incoming webhook does, and keeps them."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._messages: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("content-length") or 0), BODY_BYTES_MAX)
                ok = self.path == PATH and receiver.take(self.rfile.read(length))
                answer = b"ok" if ok else b"invalid_payload"
                self.send_response(200 if ok else 400)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- http.server names it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="tallystick-slack", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def take(self, raw: bytes) -> bool:
        """Keep a message; False when it is none that Slack would take."""
        try:
            message = json.loads(raw)
        except ValueError:
            return False
        if not isinstance(message, dict) or not (message.get("text") or message.get("blocks")):
            return False
        with self._arrived:
            self._messages.append(message)
            self._arrived.notify_all()
        return True

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Every message so far."""
        with self._arrived:
            return list(self._messages)

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Wait until there are ``number`` messages; False when there are not within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while len(self._messages) < number:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._arrived.wait(left_s)
        return True


def plain_text(message: dict[str, Any]) -> tuple[str, list[str]]:
    """Return (header, lines) of a Block Kit message, as a terminal can show it."""
    header = ""
    lines: list[str] = []
    for block in message.get("blocks") or []:
        if block["type"] == "header":
            header = _plain(block["text"]["text"])
        elif block["type"] == "section" and block.get("fields"):
            fields = [_plain(field["text"]).replace("\n", " ") for field in block["fields"]]
            lines.extend(" · ".join(fields[at : at + 2]) for at in range(0, len(fields), 2))
        elif block["type"] == "section":
            lines.append(_plain(block["text"]["text"]).replace("\n", " · "))
        elif block["type"] == "context":
            lines.extend(_plain(element["text"]) for element in block["elements"] if "text" in element)
    return header or _plain(message.get("text", "")), [line for line in lines if line.strip()]


def _plain(text: str) -> str:
    text = MARK.sub(r"\1", LINK.sub(r"\2", text)).replace("`", "")
    for short, sign in EMOJI.items():
        text = text.replace(short, sign)
    for entity, sign in ENTITIES:
        text = text.replace(entity, sign)
    return text
