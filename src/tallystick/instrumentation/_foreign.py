"""What runs around ``Client.send`` of httpx and httpx2: the attempts of SDK calls, and calls made without an SDK.

A foreign call is a POST to a host that bills (one of `tallystick.model.providers`, or one that the user named) on a
path that costs something, sent while no call of an SDK is current: litellm's own Anthropic client, say, or an app that
writes its requests itself.  Everything else of the app's HTTP passes after one look at its method and host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from tallystick.instrumentation import _attempts
from tallystick.instrumentation._ask import Ask
from tallystick.instrumentation._call import Call, current_call
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._hooks import Hooks
from tallystick.instrumentation._routes import Route, route_of
from tallystick.instrumentation._wire import BODY_BYTES_MAX, read_error
from tallystick.model.failures import Outcome
from tallystick.model.providers import provider_of

Wrapped = Callable[..., Any]
HOSTS_MAX = 1024
"""How many hosts are remembered as billing or not; a crawler meets more."""
METHODS = frozenset({"POST", "GET"})
"""GET: an SDK's call may fetch what was answered before, a background response or the results of a batch."""
TELLING = frozenset({"answer", "job", "stored"})
"""What paths tell by themselves; those of agents and their sessions are too short for that."""
KEY_HEADERS = ("x-api-key", "api-key", "authorization")


class Sends:
    """The wrappers, and what they need to know."""

    def __init__(self, hooks: Hooks, providers: Mapping[str, str]) -> None:
        self._hooks = hooks
        self._providers = providers
        self._bills = lru_cache(maxsize=HOSTS_MAX)(partial(may_bill, providers=providers))

    def send(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``Client.send``."""
        request = args[0] if args else kwargs.get("request")
        call = self._call_of(client, request)
        if call is None:
            return wrapped(*args, **kwargs)
        send = partial(wrapped, *args, **kwargs)
        return self._send(call, request, send) if call.is_foreign else _attempts.send(call, request, send)

    def send_async(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``AsyncClient.send``: returns what is to be awaited, the client's own for what is none of ours."""
        request = args[0] if args else kwargs.get("request")
        call = self._call_of(client, request)
        if call is None:
            return wrapped(*args, **kwargs)
        send = partial(wrapped, *args, **kwargs)
        if call.is_foreign:
            return self._send_async(call, request, send)
        return _attempts.send_async(call, request, send)

    def _send(self, call: Call, request: Any, send: Callable[[], Any]) -> Any:
        token = call.enter()
        gate = self._hooks.gate
        try:
            if not gate.is_open():
                gate.admit(call, lambda: _ask(call, gate.told))
            response = _attempts.send(call, request, send)
        except BaseException as error:
            with guard("the end of a failed call"):
                call.failed(error)
            raise
        finally:
            call.leave(token)
        with guard("the end of a call"):
            _read(call, response, asynchronous=False)
        return response

    async def _send_async(self, call: Call, request: Any, send: Callable[[], Any]) -> Any:
        token = call.enter()
        gate = self._hooks.gate
        try:
            if not gate.is_open():
                await gate.admit_async(call, lambda: _ask(call, gate.told))
            response = await _attempts.send_async(call, request, send)
        except BaseException as error:
            with guard("the end of a failed call"):
                call.failed(error)
            raise
        finally:
            call.leave(token)
        with guard("the end of a call"):
            _read(call, response, asynchronous=True)
        return response

    def _call_of(self, client: Any, request: Any) -> Call | None:
        """Return the call that a request is sent for, a new one if it is foreign; None for what is none of ours."""
        method = getattr(request, "method", None)
        if method not in METHODS or not self._hooks.enabled:
            return None
        with guard("the look at a request"):
            current = current_call()
            if current is None:
                return self._begin(client, request) if method == "POST" else None
            # What a foreign client sends to answer a challenge or a redirect is inside its one send.
            return current if current.sender is client and not current.is_foreign else None
        return None

    def _begin(self, client: Any, request: Any) -> Call | None:
        url = request.url
        # Middleware sends from threads that know of no call; the SDK's answer to it is heard all the same.
        if not self._bills(url.netloc) or self._hooks.hops.is_noted(client):
            return None
        found = route_at(url.path)
        if found is None:
            return None
        base, route = found
        base_url = f"{url.scheme}://{url.netloc.decode()}{base}"
        if not _is_named(base_url, self._providers):
            return None
        call = self._hooks.open_call(route, base_url, _body(request), _key(request.headers), client)
        call.is_foreign = True
        return call


def _ask(call: Call, told: Mapping[str, str]) -> Ask:
    """Return what a call asks of budgets that is sent as it is, once: who asks again makes another call."""
    unbounded = None if call.request else "the body of the request was not read, as that of an upload"
    return Ask(call, told, retries=0, unbounded=unbounded, is_fixed=True)


def may_bill(netloc: bytes, providers: Mapping[str, str]) -> bool:
    """Tell whether a host (with its port) is a provider's, or has a place on it that the user named."""
    place = netloc.decode().lower()
    named = {key.partition("/")[0].lower() for key in providers}
    return place in named or place.partition(":")[0] in named or _is_named(f"http://{place}", providers)


def _is_named(base_url: str, providers: Mapping[str, str]) -> bool:
    """Tell whether somebody named who bills at ``base_url``; a host that nobody named goes by its own name."""
    return provider_of(base_url, providers) != urlsplit(base_url).netloc.lower()


@lru_cache(maxsize=1024)
def route_at(path: str) -> tuple[str, Route] | None:
    """Return what a path has before the API's own part, its version included, and the route; None if it has none."""
    for at, character in enumerate(path):
        if character == "/" and (route := route_of("POST", path[at:])) is not None and route.reads in TELLING:
            base = path[:at]
            return (f"{base}/v1" if path.startswith("/v1/", at) else base), route
    return None


def _body(request: Any) -> Mapping[str, Any]:
    """Return the request's JSON; empty for an upload, which is not read before the client sends it."""
    try:
        content: bytes = request.content
    except RuntimeError:  # RequestNotRead of either library
        return {}
    if content[:1] != b"{" or len(content) > BODY_BYTES_MAX:
        return {}
    return _json(content)


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _key(headers: Mapping[str, str]) -> str | None:
    """Return the API key that a request carries."""
    for name in KEY_HEADERS:
        if value := headers.get(name):
            return value.removeprefix("Bearer ")
    return None


def _read(call: Call, response: Any, *, asynchronous: bool) -> None:
    """Read the answer of a foreign call: its status is all that tells a failure, for the client raises nothing."""
    if response.is_success:
        with guard("the reading of an answer"):
            call.answered(response, asynchronous=asynchronous)
        call.returned()
        return
    body = _json(response.content) if response.is_stream_consumed else {}
    outcome, code = read_error(response.status_code, body)
    call.refused(Outcome.UNKNOWN if outcome is Outcome.OK else outcome, code)
