"""What runs around the four functions of each SDK that we patch.

``{Sync,Async}APIClient.request`` is a call; ``_process_response`` is an answer of it.  Only our own steps are guarded:
the SDK's function runs bare, so that its results and errors reach the app untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span

from tallystick.instrumentation._ask import Ask
from tallystick.instrumentation._call import Call, current_call
from tallystick.instrumentation._caller import caller
from tallystick.instrumentation._content import Capture
from tallystick.instrumentation._digests import Digests, Look
from tallystick.instrumentation._gate import Gate
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._hops import Hops, has_middleware
from tallystick.instrumentation._include_usage import (
    HIDE,
    asking,
    is_refusal,
    wants_usage,
    without_usage,
    without_usage_async,
)
from tallystick.instrumentation._keys import Fingerprints
from tallystick.instrumentation._links import follow, link_attributes
from tallystick.instrumentation._markers import notice
from tallystick.instrumentation._mend import Mender
from tallystick.instrumentation._rewrite import rewritten
from tallystick.instrumentation._routes import Route, route_of
from tallystick.instrumentation._settings import Settings
from tallystick.instrumentation._tags import current_tags
from tallystick.instrumentation._tracing import Tracing
from tallystick.instrumentation._units import Place
from tallystick.model.attributes import CALLER, KEY
from tallystick.model.providers import provider_of

Wrapped = Callable[..., Any]


class Hooks:
    """The wrappers, and what they need to know."""

    def __init__(self, settings: Settings, tracing: Tracing, gate: Gate) -> None:
        self.enabled = True
        self.gate = gate
        self._settings = settings
        self._tracing = tracing
        self._keys = Fingerprints(settings.spool)
        self._digests: Digests | None = None
        self._capture = None if settings.content == "off" else Capture(settings.content, settings.redact)
        self._places: dict[tuple[str, str | None], Place] = {}
        self.hops = Hops()
        self.menders: list[Mender] = []

    def request(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``SyncAPIClient.request``."""
        call = self._begin(client, args, kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        token = call.enter()
        try:
            if not self.gate.is_open():
                changes = self.gate.admit(call, lambda: _ask(self.gate, call, client, _options(args, kwargs)))
                args, kwargs = rewritten(call, args, kwargs, changes)
            result = self._send(call, wrapped, args, kwargs)
        except BaseException as error:
            with guard("the end of a failed call"):
                call.failed(error)
            raise
        finally:
            call.leave(token)
        with guard("the end of a call"):
            if has_middleware(client):
                call.watch(result, asynchronous=False)
            call.returned()
        return result

    async def request_async(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``AsyncAPIClient.request``."""
        call = self._begin(client, args, kwargs)
        if call is None:
            return await wrapped(*args, **kwargs)
        token = call.enter()
        try:
            if not self.gate.is_open():
                make = lambda: _ask(self.gate, call, client, _options(args, kwargs))  # noqa: E731
                args, kwargs = rewritten(call, args, kwargs, await self.gate.admit_async(call, make))
            result = await self._send_async(call, wrapped, args, kwargs)
        except BaseException as error:
            with guard("the end of a failed call"):
                call.failed(error)
            raise
        finally:
            call.leave(token)
        with guard("the end of a call"):
            if has_middleware(client):
                call.watch(result, asynchronous=True)
            call.returned()
        return result

    def _send(self, call: Call, wrapped: Wrapped, args: Any, kwargs: Any) -> Any:
        """Let the SDK send; first with the usage asked for where that is ours to do."""
        asking = self._asking(call, args, kwargs)
        if asking is None:
            return wrapped(*args, **kwargs)
        try:
            return wrapped(*asking[0], **asking[1])
        except Exception as error:
            if not is_refusal(error, call.place):
                raise
        call.asked_for_usage = False
        return wrapped(*args, **kwargs)

    async def _send_async(self, call: Call, wrapped: Wrapped, args: Any, kwargs: Any) -> Any:
        """As `_send`."""
        asking = self._asking(call, args, kwargs)
        if asking is None:
            return await wrapped(*args, **kwargs)
        try:
            return await wrapped(*asking[0], **asking[1])
        except Exception as error:
            if not is_refusal(error, call.place):
                raise
        call.asked_for_usage = False
        return await wrapped(*args, **kwargs)

    def _asking(self, call: Call, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        with guard("the request for a stream's usage"):
            # What is asked for can only be hidden again by whoever knows which call the answer is of.
            if wants_usage(_options(args, kwargs), call.route, call.place) and current_call() is call:
                arguments = asking(args, kwargs)
                call.asked_for_usage = True
                return arguments
        return None

    def stream(self, wrapped: Wrapped, stream: Any, args: Any, kwargs: Any) -> Any:
        """Around ``openai.Stream.__stream__``."""
        chunks = wrapped(*args, **kwargs)
        with guard("the hiding of a usage chunk"):
            if stream.response.extensions.get(HIDE):
                return without_usage(chunks)
        return chunks

    def stream_async(self, wrapped: Wrapped, stream: Any, args: Any, kwargs: Any) -> Any:
        """Around ``openai.AsyncStream.__stream__``."""
        chunks = wrapped(*args, **kwargs)
        with guard("the hiding of a usage chunk"):
            if stream.response.extensions.get(HIDE):
                return without_usage_async(chunks)
        return chunks

    def process_response(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``SyncAPIClient._process_response``."""
        with guard("the reading of an answer"):
            self._answered(client, _hiding(kwargs["response"]), kwargs, asynchronous=False)
        return wrapped(*args, **kwargs)

    async def process_response_async(self, wrapped: Wrapped, client: Any, args: Any, kwargs: Any) -> Any:
        """Around ``AsyncAPIClient._process_response``."""
        with guard("the reading of an answer"):
            self._answered(client, _hiding(kwargs["response"]), kwargs, asynchronous=True)
        return await wrapped(*args, **kwargs)

    def _answered(self, client: Any, call: Call | None, kwargs: Any, *, asynchronous: bool) -> None:
        if has_middleware(client):
            call = self.hops.owner(kwargs["options"], call)
            if call is None:  # middleware that goes on after its call has ended: what it asks is a call of its own
                call = self._begin(client, (None, kwargs["options"]), {})
                if call is not None:
                    call.answered(kwargs["response"], asynchronous=asynchronous)
                    call.returned()
                return
        if call is not None:
            call.answered(kwargs["response"], asynchronous=asynchronous)
        else:
            self._mend(type(client))

    def _mend(self, kind: type) -> None:
        """An answer without a call is of a request that is none, or was led past us: the next one shall not be."""
        for mender in self.menders:
            if issubclass(kind, mender.base):
                for below in kind.__mro__:
                    mender.mend(below)

    def start_native_span(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Span | None:
        """Around anthropic's own ``start_api_call_span``: none for a call that is ours, or it would be there twice."""
        with guard("the replacement of a native span"):
            if current_call() is not None:
                return None
        span: Span | None = wrapped(*args, **kwargs)
        return span

    def _begin(self, client: Any, args: Any, kwargs: Any) -> Call | None:
        """Return the call that a request of the SDK is, or None when it is none or we cannot tell."""
        if not self.enabled:
            return None
        with guard("the start of a call"):
            options = _options(args, kwargs)
            route = route_of(options.method, options.url)
            if route is None:
                return None
            request = options.json_data if isinstance(options.json_data, Mapping) else {}
            if isinstance(extra := getattr(options, "extra_json", None), Mapping):
                request = {**request, **extra}
            sender = client._client  # noqa: SLF001 -- the SDK has no public name for it
            call = self.open_call(
                route,
                str(client.base_url),
                request,
                _key(client),
                sender,
                whole=not options.files,
                region=_region(client),
            )
            if has_middleware(client):
                self.hops.begin(client, options, call)
            return call
        return None

    def open_call(
        self,
        route: Route,
        base_url: str,
        request: Mapping[str, Any],
        key: object,
        sender: Any,
        *,
        whole: bool = True,
        region: str | None = None,
    ) -> Call:
        """Return a call that begins now; what ``sender``, an HTTP client, sends inside it are its attempts.

        ``whole``: there is no more to the request than ``request``, no file beside it.
        ``region``: the cloud's, where the client knows one.
        """
        call = Call(self._tracing, route, self._place(base_url, region), request, self._told(key))
        call.sender = sender
        if self._capture is not None:
            call.capture = self._capture
            with guard("the content of a request"):
                call.note(self._capture.asked(request))
        look = self._look(request, route) if whole and request else None
        call.digest = None if look is None else look.digest
        with guard("the links of a call"):
            self._follow(call, request, look)
        return call

    def _look(self, request: Mapping[str, Any], route: Route) -> Look | None:
        """Return how a request looks, or None when something odd is in it."""
        with guard("the digests of a request"):
            if self._digests is None:
                self._digests = Digests(self._keys.salt)
            return self._digests.look(request, route.api)
        return None

    def _follow(self, call: Call, request: Mapping[str, Any], look: Look | None) -> None:
        """Tell a call how it looks and what it goes on from, and the calls after it how it ended."""
        if look is not None:
            call.note(look.attributes)
        link, call.on_end = follow(
            call.ids,
            look,
            request,
            (call.place.provider, call.route.api),
            current_tags(),
            notice,
            asynchronous=hasattr(call.sender, "aclose"),
        )
        if link is not None:
            call.note(link_attributes(link))

    def _told(self, key: object) -> dict[str, Any]:
        told: dict[str, Any] = dict(current_tags())
        if (fingerprint := self._keys.of(key)) is not None:
            told[KEY] = fingerprint
        if (made_by := caller()) is not None:
            told[CALLER] = made_by
        return told

    def _place(self, base_url: str, region: str | None = None) -> Place:
        if (base_url, region) not in self._places:
            self._places[base_url, region] = self._find_place(base_url, region)
        return self._places[base_url, region]

    def _find_place(self, base_url: str, region: str | None) -> Place:
        provider = provider_of(base_url, self._settings.providers)
        # A gateway that the user named passes on to its provider: its own address says nothing of the price.
        mapped = provider != provider_of(base_url)
        parts = urlsplit(base_url)
        params = {} if mapped else {"base_url": base_url.rstrip("/")}
        return Place(
            provider=provider,
            params=params | ({"region": region} if region else {}),
            address=parts.hostname or "",
            port=parts.port,
        )


def _ask(gate: Gate, call: Call, client: Any, options: Any) -> Ask:
    """Return what a call of an SDK asks of budgets."""
    retries = options.max_retries if isinstance(options.max_retries, int) else client.max_retries
    unbounded = None
    if options.files:
        unbounded = "a file goes with the request, and nothing in the request bounds its tokens"
    elif has_middleware(client):
        unbounded = "the client has middleware, which may ask further models"
    return Ask(call, gate.told, retries=retries, unbounded=unbounded)


def _hiding(response: Any) -> Call | None:
    """Return the call that ``response`` is of; what it says because we asked for it is marked to be hidden, first."""
    call = current_call()
    if call is not None and call.asked_for_usage:
        response.extensions[HIDE] = True
    return call


def _region(client: Any) -> str | None:
    """Return the cloud's region that a client was made for: a gateway's address does not tell it."""
    region = getattr(client, "region", None) or getattr(client, "aws_region", None)
    return region if isinstance(region, str) else None


def _key(client: Any) -> object:
    """Return a client's API key; None where a function of the app gives a new one for each request."""
    return None if getattr(client, "_api_key_provider", None) else getattr(client, "api_key", None)


def _options(args: Any, kwargs: Any) -> Any:
    return kwargs["options"] if "options" in kwargs else args[1]
