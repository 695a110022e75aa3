"""Who may ask: checked before anything of a request is read."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
OPEN_PATHS = frozenset({"/healthz"})
"""Answered without a token: a load balancer has none, and there is nothing to learn but that we are there."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """Refuses who asks under another name, from another site, or without the token.

    A name that resolves to loopback is still another site's (DNS rebinding), so the Host must be one of ours.  A page
    may POST across sites without asking first, but its browser says so in Origin.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), token: str | None = None) -> None:
        self.app = app
        self.hosts = HOSTS | {_bracketed(host.lower()) for host in hosts}
        self.bearer = None if token is None else b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 421, 403 or 401."""
        if scope["type"] == "http" and (refusal := self.refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        if scope["type"] == "websocket":
            return
        await self.app(scope, receive, send)

    def refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is refused by its headers alone, None when it is not."""
        hosts, origins, bearers = [], 0, []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"origin":
                origins += 1
            elif name == b"authorization":
                bearers.append(value)
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return error_answer(
                421,
                "misdirected",
                f"Host {', '.join(hosts)[:100]!r} is not this collector; ask 127.0.0.1 or localhost, "
                "or name it in hosts of [collector]",
            )
        if scope["method"] not in {"GET", "HEAD"} and origins:
            return error_answer(403, "cross_site", "a web page may not send to the collector")
        if self.bearer is None or scope["path"] in OPEN_PATHS:
            return None
        # All of it is compared however much agrees, so that the time taken tells nothing about the token.
        if len(bearers) == 1 and hmac.compare_digest(bearers[0], self.bearer):
            return None
        refused = error_answer(401, "unauthorized", "the collector's token is needed: set TALLYSTICK_TOKEN")
        refused.headers["WWW-Authenticate"] = "Bearer"
        return refused

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or name.endswith(":") or (host.startswith("[") and host.endswith("]")):
            name, port = host, "0"
        return name.lower() in self.hosts and port.isascii() and port.isdecimal()


def error_answer(status: int, code: str, message: str) -> Response:
    """Return the answer that says what is wrong, in the form of every error of the collector."""
    body = {"error": {"code": code, "message": message}}
    return Response(json.dumps(body, ensure_ascii=False), status, HEADERS, media_type="application/json")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
