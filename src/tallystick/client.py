"""Asks a collector: the one way in for the dashboard, the report and the demo."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from tallystick.errors import CollectorRefusedError, CollectorUnreachableError
from tallystick.model.places import authorities, bearer

ANSWER_BYTES_MAX = 64 * 1024 * 1024

Params = Mapping[str, str | int | Sequence[str] | None]


class Collector:
    """A collector at ``url``; each question is one request, ``timeout_s`` long at most.

    Plain ``http.client``, because nothing may go through ``HTTP_PROXY`` to loopback.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s

    def ask(self, question: str, params: Params | None = None) -> dict[str, Any]:
        """Return the answer to ``GET /api/v1/{question}`` (docs/api.md).

        Raises CollectorUnreachableError when nothing answers and CollectorRefusedError when the answer is an error.
        """
        status, body, _ = self._get(f"/api/v1/{question}", params or {})
        if status != 200:
            raise CollectorRefusedError(f"{self.url}/api/v1/{question}", status, _detail(body))
        answer: dict[str, Any] = json.loads(body)
        return answer

    def pages(
        self, question: str, start: datetime, end: datetime, params: Params | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of a question that gives pages, day by day: what the collector sorts at a time stays small."""
        while start < end:
            until = min(start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1), end)
            asked: dict[str, Any] = {**(params or {}), "start": start.isoformat(), "end": until.isoformat()}
            while True:
                page = self.ask(question, asked)
                if page["rows"]:
                    yield page["rows"]
                if not page["next_cursor"]:
                    break
                asked["cursor"] = page["next_cursor"]
            start = until

    def table(self, question: str, params: Params, pages_max: int = 1) -> bytes:
        """Return the rows of a question as CSV, of up to ``pages_max`` pages; raises as `ask` does."""
        found, cursor = b"", ""
        for _ in range(pages_max):
            status, body, following = self._get(
                f"/api/v1/{question}", {**params, "format": "csv", "cursor": cursor or None}
            )
            if status != 200:
                raise CollectorRefusedError(f"{self.url}/api/v1/{question}", status, _detail(body))
            found += body.partition(b"\r\n")[2] if found else body
            if following is None:
                break
            cursor = following
        return found

    def order(self, action: str, body: Mapping[str, Any], method: str = "POST") -> dict[str, Any]:
        """Return the answer to ``POST /api/v1/{action}`` (or another), ``body`` as JSON; raises as `ask` does."""
        status, answered, _ = self._request(method, f"/api/v1/{action}", json.dumps(body).encode())
        if status != 200:
            raise CollectorRefusedError(f"{self.url}/api/v1/{action}", status, _detail(answered))
        answer: dict[str, Any] = json.loads(answered)
        return answer

    def is_healthy(self) -> bool:
        """Tell whether the collector is there and stores what it gets."""
        try:
            return self._get("/healthz", {})[0] == 200
        except CollectorUnreachableError:
            return False

    def _get(self, path: str, params: Params) -> tuple[int, bytes, str | None]:
        query = urlencode({name: value for name, value in params.items() if value is not None}, doseq=True)
        return self._request("GET", path + (f"?{query}" if query else ""))

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, str | None]:
        """Return status, body, and where the next page of a table begins."""
        headers = bearer(os.environ, self.url) | ({} if body is None else {"Content-Type": "application/json"})
        try:
            with closing(self._connection()) as connection:
                connection.request(method, f"{urlsplit(self.url).path}{path}", body, headers)
                with closing(connection.getresponse()) as response:
                    return response.status, response.read(ANSWER_BYTES_MAX), response.getheader("X-Next-Cursor")
        except (OSError, HTTPException) as error:
            raise CollectorUnreachableError(self.url, str(error) or type(error).__name__) from error

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "127.0.0.1", parts.port
        if parts.scheme != "https":
            return HTTPConnection(host, port, timeout=self.timeout_s)
        context = ssl.create_default_context(cafile=authorities(os.environ))
        return HTTPSConnection(host, port, timeout=self.timeout_s, context=context)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
