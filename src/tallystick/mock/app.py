"""The mock's HTTP side: reads a request, gets the answer, sends it as the script wants it, keeps the books."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallystick.mock import anthropic_wire, clouds, jobs_wire, media_wire, openai_wire
from tallystick.mock.agents_wire import agent_routes
from tallystick.mock.answers import Answer, Frame, InvalidRequestError, dump, new_id
from tallystick.mock.batches import Batches, batch_routes
from tallystick.mock.books import FULL_NAMES, RATES, UNPRICED_MODEL, Books, Item
from tallystick.mock.scripts import ERRORS, STEPS, STOPS, BadScriptError, Scripts, Step
from tallystick.mock.sockets import socket_routes
from tallystick.mock.thoughts import PromptCache

KEY_HEADERS = ("x-api-key", "api-key", "authorization")
CODINGS = ("gzip", "br", "zstd")
SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie"})
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
RESPONSES_MAX = 256
HANG_S_MAX = 3600.0

Wire = Callable[[Mapping[str, Any], Mapping[str, str], PromptCache], Answer]
WIRES: dict[tuple[str, str], Wire] = {
    ("anthropic", "/v1/messages"): anthropic_wire.answer,
    ("openai", "/v1/chat/completions"): openai_wire.chat,
    ("openai", "/v1/responses"): openai_wire.responses,
    ("openai", "/v1/completions"): openai_wire.completions,
    ("openai", "/v1/embeddings"): openai_wire.embeddings,
    ("openai", "/v1/responses/compact"): openai_wire.compact,
    ("openai", "/v1/images/generations"): media_wire.images,
    ("openai", "/v1/images/edits"): media_wire.images,
    ("openai", "/v1/audio/transcriptions"): media_wire.transcription,
    ("openai", "/v1/audio/translations"): media_wire.transcription,
    ("openai", "/v1/audio/speech"): media_wire.speech,
    ("openai", "/v1/videos"): media_wire.videos,
    ("openai", "/v1/videos/edits"): media_wire.videos,
    ("openai", "/v1/videos/extensions"): media_wire.longer_video,
    ("openai", "/v1/videos/{id}/remix"): media_wire.videos,
    ("openai", "/v1/decisions"): jobs_wire.decisions,
}
ERROR_OF = {"anthropic": anthropic_wire.error, "openai": openai_wire.error}


@dataclass
class State:
    """What the mock remembers between requests."""

    books: Books = field(default_factory=Books)
    scripts: Scripts = field(default_factory=Scripts)
    cache: PromptCache = field(default_factory=PromptCache)
    responses: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Stored answers of the Responses API, by id."""
    polls: dict[str, int] = field(default_factory=dict)
    """How often a background response is still to be found under way."""
    batches: Batches = field(default_factory=Batches)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Work that is done apart from its request, as it is when it has ended, by id."""
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Agents, their sessions, and the events of those, by id."""


@dataclass(kw_only=True)
class Exchange:
    """One HTTP request and what becomes of it; an ASGI app that sends the answer."""

    state: State
    provider: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    step: Step
    record: dict[str, Any]
    request_id: str
    biller: str
    """Who is on the invoice: the provider, or the cloud that passes on its wire."""
    factor: str = "1"
    """What the place of the endpoint multiplies the rates with."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the script's step wants it."""
        client = Client(scope, receive, send, self.record)
        async with client.watched():
            await self._play(client)

    async def _play(self, client: Client) -> None:
        if self.step.name == "slow":
            await client.wait(self.step.number("headers", 0.0))
        answer = None if self.step.name in ERRORS or self._is_locked_out() else self._answer()
        if not isinstance(answer, Answer):
            await self._refuse(client, self._error_name(answer), answer)
        elif self.step.name in {"failed", "sse-error"} and answer.frames is None and answer.failed is None:
            await self._refuse(client, "500", None)
        elif self.step.name in {"hang", "reset"}:
            await self._say_nothing(client, answer)
        elif self.step.name == "html":
            await client.send_whole(200, self._headers("text/html"), HTML)
        elif answer.frames is not None:
            await self._stream(client, answer)
        else:
            await self._send_json(client, answer)

    def _is_locked_out(self) -> bool:
        key = next((self.headers[name] for name in KEY_HEADERS if self.headers.get(name)), "")
        key = key.removeprefix("Bearer ")
        return not key or "wrong" in key

    def _answer(self) -> Answer | str:
        """Return the answer, or why the request is refused as invalid."""
        options = dict(self.step.options)
        if self.step.name in STOPS:
            options["stop"] = STOPS[self.step.name]
        try:
            return WIRES[self.provider, self.path](self.body, options, self.state.cache)
        except InvalidRequestError as error:
            return str(error)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            return f"the request has not the shape of the API: {error!r}"

    def _error_name(self, why: str | None) -> str:
        if why is not None:
            return "400"
        return self.step.name if self.step.name in ERRORS else "401"

    async def _refuse(self, client: Client, name: str, why: str | None) -> None:
        status, body = ERROR_OF[self.provider](name, self.request_id, why)
        headers = self._headers("application/json") | _retry_headers(self.step)
        await client.send_whole(status, headers, dump(body).encode())

    async def _say_nothing(self, client: Client, answer: Answer) -> None:
        if self.step.has("billed"):
            self._bill(answer, answer.output_tokens, "undelivered")
        if self.step.name == "reset":
            await client.reset()
        else:
            await client.wait(HANG_S_MAX)

    async def _send_json(self, client: Client, answer: Answer) -> None:
        kind, raw = answer.raw or ("application/json", dump(self._json_of(answer)).encode())
        headers = self._headers(kind)
        cut = {"bad-json": "garbled", "cut": "connection"}.get(self.step.name)
        await client.wait(self.step.number("body", 0.0) if self.step.name == "slow" else 0)
        if client.is_gone and cut is None:
            cut = "client"
        self._bill(answer, answer.output_tokens, cut)
        if self.step.name == "bad-json":
            raw = raw[: len(raw) // 2]
        if coding := _coding(self.step):
            squeeze = Squeeze(coding)
            raw, headers["content-encoding"] = squeeze.take(raw) + squeeze.end(), coding
        if self.step.name == "cut":
            await client.start(200, headers | {"content-length": str(len(raw))})
            await client.send(raw[: len(raw) // 2])
            await client.drop()
            return
        await client.send_whole(200, headers, raw)

    def _json_of(self, answer: Answer) -> Mapping[str, Any]:
        body = answer.body
        if self.step.name in {"failed", "sse-error"} and answer.failed is not None:
            frame = answer.failed(answer.output_tokens)
            assert isinstance(frame.data, dict), "a frame of the Responses API is an object"
            body = frame.data["response"]
        if answer.api != "responses":
            return body
        self.state.responses[answer.id] = body
        while len(self.state.responses) > RESPONSES_MAX:
            del self.state.responses[next(iter(self.state.responses))]
        if not body.get("background"):
            return body
        self.state.polls[answer.id] = int(self.step.number("polls", 0))
        return {**body, "status": "queued", "output": [], "usage": None}

    async def _stream(self, client: Client, answer: Answer) -> None:
        """Send the frames, as far as the step lets them; bill what had been written by then."""
        frames, written, cut = self._planned(answer)
        pack = _Packer(self.step, is_bedrock=self.biller == "aws.bedrock")
        await client.start(200, self._headers("") | pack.headers)
        reached = 0
        for left, frame in zip(reversed(range(len(frames))), frames, strict=True):
            await client.wait(self.step.number("body", 0.0))
            if client.is_gone:
                self._bill(answer, reached, "client")
                return
            if not left:  # before it is sent: who has the whole answer may look at the invoice
                self._bill(answer, written, cut)
            await client.send(pack.frame(frame))
            reached = max(reached, frame.written)
        if not frames:
            self._bill(answer, 0, cut)
        if self.step.name == "cut":
            await client.drop()
        else:
            await client.send(pack.end(), last=True)

    def _planned(self, answer: Answer) -> tuple[list[Frame], int, str | None]:
        """Return the frames that the step lets through, the output tokens to bill, and why the stream is not whole."""
        frames = list(answer.frames or ())
        name = self.step.name
        if name == "unterminated":
            return frames[: _terminal(answer)], answer.output_tokens, "unterminated"
        if name not in {"cut", "sse-error", "failed"}:
            return frames, answer.output_tokens, None
        frames = frames[: min(int(self.step.number("after", 3)), len(frames) - 1)]
        written = frames[-1].written if frames else 0
        if name == "cut":
            return frames, written, "connection"
        if name == "failed" and answer.failed is not None:
            return [*frames, answer.failed(written)], written, None
        assert answer.error_frame is not None, "every wire that streams has one"
        return [*frames, answer.error_frame], written, "error"

    def _bill(self, answer: Answer, written: int, cut: str | None) -> None:
        if answer.beside is not None:
            self._bill(answer.beside, answer.beside.output_tokens, cut)
        self.state.books.enter(
            Item(
                id=answer.id or self.request_id,
                request_id=self.request_id,
                request=self.record["number"],
                attempt=_number(self.headers.get("x-stainless-retry-count")),
                at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                provider=self.biller,
                model=answer.model,
                api=answer.api,
                stream=answer.frames is not None,
                usage=answer.usage_at(written),
                counts=answer.counts_at(written),
                service_tier=answer.service_tier,
                speed=answer.speed,
                factor=self.factor if answer.factor == "1" else answer.factor,
                cut=cut,
            )
        )

    def _headers(self, content_type: str) -> dict[str, str]:
        """Return the headers of a real answer: request id and rate limits in the provider's own words."""
        now = datetime.now(UTC)
        if self.provider == "anthropic":
            reset = (now + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            limits = {
                f"anthropic-ratelimit-{what}-{name}": value
                for what, limit in (("requests", "4000"), ("tokens", "400000"))
                for name, value in (("limit", limit), ("remaining", limit), ("reset", reset))
            }
            return {
                "content-type": content_type,
                "request-id": self.request_id,
                "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
                **limits,
            }
        limits = {
            f"x-ratelimit-{name}-{what}": value
            for what, limit in (("requests", "10000"), ("tokens", "2000000"))
            for name, value in (("limit", limit), ("remaining", limit), ("reset", "6ms"))
        }
        return {
            "content-type": content_type,
            "x-request-id": self.request_id,
            "openai-organization": "mock",
            "openai-version": "2020-10-01",
            "openai-processing-ms": "5",
            **limits,
        }


def _terminal(answer: Answer) -> int:
    """Return how many frames come before the terminal marker (and the final usage, which rides with it)."""
    frames = answer.frames or ()
    kept = len(frames) - 1
    while kept and frames[kept - 1].event == "message_delta":
        kept -= 1
    return kept


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _retry_headers(step: Step) -> dict[str, str]:
    headers = {}
    if wanted := step.options.get("retry-after"):
        if wanted.startswith("date"):
            at = datetime.now(UTC) + timedelta(seconds=float(wanted.removeprefix("date").lstrip("+") or 1))
            wanted = format_datetime(at, usegmt=True)
        headers["retry-after"] = wanted
    if wanted := step.options.get("retry-after-ms"):
        headers["retry-after-ms"] = wanted
    if wanted := step.options.get("should-retry"):
        headers["x-should-retry"] = wanted
    return headers


def _coding(step: Step) -> str | None:
    return next((coding for coding in CODINGS if step.has(coding)), None)


class Squeeze:
    """Compresses a body in pieces that can each be read at once."""

    def __init__(self, coding: str) -> None:
        self._packer: Any
        if coding == "gzip":
            self._packer = zlib.compressobj(wbits=31)
            self._add, self._flush = self._packer.compress, partial(self._packer.flush, zlib.Z_SYNC_FLUSH)
            self.end: Callable[[], bytes] = self._packer.flush
        elif coding == "br":
            self._packer = importlib.import_module("brotli").Compressor()
            self._add, self._flush, self.end = self._packer.process, self._packer.flush, self._packer.finish
        else:
            zstandard = importlib.import_module("zstandard")
            self._packer = zstandard.ZstdCompressor().compressobj()
            self._add = self._packer.compress
            self._flush = partial(self._packer.flush, zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            self.end = self._packer.flush

    def take(self, raw: bytes) -> bytes:
        """Return what may be sent when ``raw`` was written."""
        packed: bytes = self._add(raw) + self._flush()
        return packed


class _Packer:
    """Gives a stream its framing, its line ends and its content encoding."""

    def __init__(self, step: Step, *, is_bedrock: bool = False) -> None:
        self._newline = "\r\n" if step.has("crlf") else "\n"
        self._is_bedrock = is_bedrock
        coding = _coding(step)
        self._squeeze = Squeeze(coding) if coding else None
        self.headers = {
            "content-type": "application/vnd.amazon.eventstream" if is_bedrock else "text/event-stream; charset=utf-8"
        } | ({"content-encoding": coding} if coding else {})

    def frame(self, frame: Frame) -> bytes:
        """Return what is sent for ``frame``."""
        raw = frame.packed() if self._is_bedrock else frame.encode(self._newline)
        return raw if self._squeeze is None else self._squeeze.take(raw)

    def end(self) -> bytes:
        """Return what is sent after the last frame."""
        return b"" if self._squeeze is None else self._squeeze.end()


class Client:
    """The other end of one exchange: may be sent to, waited for, and dropped as no ASGI message can."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: dict[str, Any]) -> None:
        self._record = record
        self._scope = scope
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()

    @property
    def is_gone(self) -> bool:
        """Tell whether the client has closed the connection."""
        return self._gone.is_set()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Notice it when the client goes."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                return

    async def wait(self, seconds: float) -> None:
        """Wait, but no longer than the client is there; give way even for zero seconds."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers."""
        self._record["status"] = status  # before it is sent: who has the answer may look
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, body: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def send_whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.send(body, last=True)

    async def drop(self) -> None:
        """Close the connection without a proper end, once what was sent is out."""
        await self._scope["extensions"]["tallystick.connection"].drop()

    async def reset(self) -> None:
        """Reset the connection (RST)."""
        await self._scope["extensions"]["tallystick.connection"].reset()


# Routes ---------------------------------------------------------------------------------------------------------------


async def _exchange(
    request: Request, provider: str, path: str, biller: str | None = None, given: Mapping[str, Any] | None = None
) -> ASGIApp:
    """Note the request, find out what it is to meet, and return who answers it.

    ``given`` is what the URL says and the body does not: a cloud's model, and whether to stream.
    """
    state: State = request.app.state.mock
    request_id = new_id("req_")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raw = b""
    body = {**_parsed(raw, request.headers.get("content-type", "")), **(given or {})}
    model = str(body.get("model", ""))
    record = {
        "at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "monotonic_s": time.monotonic(),
        "method": request.method,
        "path": request.url.path,
        "query": request.url.query,
        "provider": provider,
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in SECRET_HEADERS
        ],
        "body_sha256": hashlib.sha256(raw).hexdigest(),
        "body_bytes": len(raw),
        "body": body,
        "model": model,
        "request_id": request_id,
        "status": None,
        "step": None,
    }
    state.books.note(record)
    facts = {"provider": provider, "model": model, "path": request.url.path}
    try:
        step = state.scripts.next_step(request.headers, facts)
    except BadScriptError as error:
        return _told(400, str(error))
    record["step"] = str(step)
    return Exchange(
        state=state,
        provider=provider,
        path=path,
        headers=request.headers,
        body=body,
        step=step,
        record=record,
        request_id=request_id,
        biller=biller or provider,
        factor=clouds.factor_of(biller, request.path_params),
    )


def _parsed(raw: bytes, kind: str = "application/json") -> Mapping[str, Any]:
    if kind.startswith("multipart/"):
        return media_wire.fields_of(raw, kind)
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _told(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"type": "mock_error", "message": message}}, status_code=status)


def _wire_route(provider: str, path: str) -> Route:
    async def endpoint(request: Request) -> ASGIApp:
        return await _exchange(request, provider, path)

    return Route(f"/{provider}{path}", endpoint, methods=["POST"])


def _cloud_route(cloud: clouds.Cloud) -> Route:
    async def endpoint(request: Request) -> ASGIApp:
        given = cloud.given(request.path_params)
        path = cloud.wire or f"/v1/{request.path_params['path']}"
        return await _exchange(request, cloud.provider, path, cloud.biller, given)

    return Route(cloud.path, endpoint, methods=["POST"])


async def _count_tokens(request: Request) -> JSONResponse:
    """Anthropic's count: bills nobody."""
    state: State = request.app.state.mock
    body = _parsed(await request.body())
    request_id = new_id("req_")
    state.books.note(
        {"method": "POST", "path": request.url.path, "provider": "anthropic", "status": 200, "request_id": request_id}
    )
    try:
        counted = anthropic_wire.read(body).tokens
    except InvalidRequestError as error:
        status, told = anthropic_wire.error("400", request_id, str(error))
        return JSONResponse(told, status_code=status, headers={"request-id": request_id})
    return JSONResponse({"input_tokens": counted}, headers={"request-id": request_id})


async def _moderations(request: Request) -> JSONResponse:
    """OpenAI's moderation: bills nobody."""
    body = _parsed(await request.body())
    result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
    return JSONResponse({"id": new_id("modr-"), "model": body.get("model"), "results": [result]})


async def _count_input(request: Request) -> JSONResponse:
    """OpenAI's count: bills nobody."""
    body = _parsed(await request.body())
    return JSONResponse({"object": "response.input_tokens", "input_tokens": openai_wire.count_input(body)})


async def _stored_response(request: Request) -> JSONResponse:
    state: State = request.app.state.mock
    request_id = new_id("req_")
    found = state.responses.get(request.path_params["id"])
    if found is None:
        status, told = openai_wire.error("404", request_id, "Response not found.")
        return JSONResponse(told, status_code=status, headers={"x-request-id": request_id})
    state.books.note({"method": "GET", "path": request.url.path, "provider": "openai", "request_id": request_id})
    told = dict(found)
    if state.polls.get(found["id"], 0) > 0:
        state.polls[found["id"]] -= 1
        told |= {"status": "in_progress", "output": [], "usage": None}
    return JSONResponse(told, headers={"x-request-id": request_id})


def _models(provider: str) -> list[str]:
    full = [model for who, model in RATES if who == provider]
    short = [name for name, model in FULL_NAMES.items() if (provider, model) in RATES]
    return [*short, *full, *([UNPRICED_MODEL] if provider == "openai" else [])]


async def _anthropic_models(_: Request) -> JSONResponse:
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
        for name in _models("anthropic")
    ]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
    return JSONResponse({"data": data, "has_more": False, **ends})


async def _openai_models(_: Request) -> JSONResponse:
    data = [{"id": name, "object": "model", "created": 1767225600, "owned_by": "mock"} for name in _models("openai")]
    return JSONResponse({"object": "list", "data": data})


async def _invoice(request: Request) -> JSONResponse:
    return JSONResponse(request.app.state.mock.books.invoice())


async def _requests(request: Request) -> JSONResponse:
    """Every request that was seen; with ``?bodies=true`` what they carried."""
    with_body = request.query_params.get("bodies") == "true"
    seen = [
        {name: value for name, value in record.items() if with_body or name != "body"}
        for record in list(request.app.state.mock.books.requests)
    ]
    return JSONResponse({"requests": seen})


async def _script(request: Request) -> JSONResponse:
    """POST {"script": "429,200", "match": {"provider": "openai"}} lays one down; DELETE forgets them all."""
    scripts: Scripts = request.app.state.mock.scripts
    if request.method == "DELETE":
        scripts.clear()
        return JSONResponse({"cleared": True})
    body = _parsed(await request.body())
    try:
        scripts.lay_down(str(body.get("script", "")), body.get("match") or {})
    except BadScriptError as error:
        return _told(400, str(error))
    return JSONResponse({"laid_down": body["script"]})


async def _index(_: Request) -> JSONResponse:
    served = [
        "/anthropic (base_url of anthropic)",
        "/openai/v1 (base_url of openai)",
        "/azure (azure_endpoint of AzureOpenAI)",
        "/bedrock, /vertex/v1, /foundry (base_url of AnthropicBedrock, AnthropicVertex, AnthropicFoundry)",
    ]
    books = ["GET /_mock/invoice", "GET /_mock/requests", "POST /_mock/script", "DELETE /_mock/script"]
    return JSONResponse({"serves": served, "books": books, "steps": STEPS})


async def _nowhere(request: Request, _: Exception) -> JSONResponse:
    return _told(404, f"the mock does not know {request.method} {request.url.path}; GET / says what it serves")


def make_app(state: State | None = None) -> Starlette:
    """Return the mock as an ASGI app; `tallystick.mock.serve` runs it on a server that can drop connections."""
    app = Starlette(
        routes=[
            *(_wire_route(provider, path) for provider, path in WIRES),
            *(_cloud_route(cloud) for cloud in clouds.CLOUDS),
            *batch_routes(),
            *jobs_wire.job_routes(),
            *agent_routes(),
            *socket_routes(),
            Route("/openai/v1/moderations", _moderations, methods=["POST"]),
            Route("/openai/v1/responses/input_tokens", _count_input, methods=["POST"]),
            Route("/anthropic/v1/messages/count_tokens", _count_tokens, methods=["POST"]),
            Route("/anthropic/v1/models", _anthropic_models),
            Route("/openai/v1/models", _openai_models),
            Route("/openai/v1/responses/{id}", _stored_response),
            Route("/_mock/invoice", _invoice),
            Route("/_mock/requests", _requests),
            Route("/_mock/script", _script, methods=["POST", "DELETE"]),
            Route("/", _index),
        ],
        exception_handlers={404: _nowhere},
    )
    app.state.mock = state or State()
    return app
