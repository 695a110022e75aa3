"""A fault in any function of ours, one after the other, and the app's calls are as without us."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest

import tallystick
import tallystick.instrumentation
import tallystick.pricing
from fakes.provider import Provider

pytestmark = [
    pytest.mark.swallows,
    pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18", "usage": USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Here."}}],
}  # fmt: skip
CHUNKS = [
    {
        **CHAT,
        "object": "chat.completion.chunk",
        "usage": None,
        "choices": [{"index": 0, "delta": {"content": "Here."}}],
    },
    {**CHAT, "object": "chat.completion.chunk", "choices": []},
]
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Here."}], "usage": {"input_tokens": 9, "output_tokens": 3},
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Here."}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]

# These are the wrappers: the SDK's own function is called inside them, so a fault instead of them is no fault in them.
# The next have nothing but a guard: the faults are put inside it. Two hide the chunk that we asked for: nothing raises
# when they fail, but it is seen. The guard itself and what it logs with are what
# faults are caught by; what `instrument()` and `flush()` raise is for the app.
AROUND = {
    "Hooks.request", "Hooks.request_async", "Hooks._send", "Hooks._send_async", "Hooks.process_response",
    "Hooks.process_response_async", "Hooks.stream", "Hooks.stream_async", "Hooks.start_native_span",
    "Sends.send", "Sends.send_async", "_attempts.send", "_attempts.send_async",
    "Sockets.receive", "Sockets.receive_async", "Sockets.send", "Sockets.close",
    "_include_usage.without_usage", "_include_usage.without_usage_async",
    "_Within.__init__", "_Within.close", "_AsyncWithin.aclose",
    "Hooks._begin", "Hooks._asking", "Call.enter", "Call.leave", "Sends._call_of", "_attempts._begun",
    "Sockets._heard", "Sockets._failed", "Gate.is_open",
    "_hooks._hiding", "_include_usage._is_usage",
    "guard.__init__", "guard.__enter__", "guard.__exit__", "_guard.guard", "_guard.guarded",
    "_install.flush", "_install.instrument", "_install.uninstrument",
}  # fmt: skip


class Pieces(httpx2.SyncByteStream):
    """A body that is not there yet."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __iter__(self) -> Iterator[bytes]:
        for line in self._text.splitlines(keepends=True):
            yield line.encode()


def streamed(text: str) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Pieces(text))


def answer(request: httpx2.Request) -> httpx2.Response:
    body = json.loads(request.content)
    if body.get("user") == "fail":
        return httpx2.Response(400, json={"error": {"message": "no", "type": "invalid_request_error"}})
    if request.url.path.endswith("/messages"):
        if body.get("stream"):
            return streamed("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS))
        return httpx2.Response(200, json=MESSAGE)
    if not body.get("stream"):
        return httpx2.Response(200, json=CHAT)
    chunks = CHUNKS if (body.get("stream_options") or {}).get("include_usage") else CHUNKS[:1]
    return streamed("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")


def modules() -> list[ModuleType]:
    found = []
    for package in (tallystick.instrumentation, tallystick.pricing):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            name = info.name.rpartition(".")[2]
            if name.startswith("_") and name != "_merge":
                found.append(importlib.import_module(info.name))
    return found


MODULES = modules()
CACHED = type(functools.lru_cache(len))


def functions() -> dict[str, tuple[Any, str, Any]]:
    """Every function and method of ours: by its name, where it stands, and what it is."""
    found: dict[str, tuple[Any, str, Any]] = {}
    for module in MODULES:
        short = module.__name__.rpartition(".")[2]
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) or isinstance(value, CACHED):
                found[f"{short}.{name}"] = (module, name, value)
            elif inspect.isclass(value):
                for method, body in vars(value).items():
                    if inspect.isfunction(body) and (not method.startswith("__") or method == "__init__"):
                        found[f"{name}.{method}"] = (value, method, body)
    return {name: place for name, place in found.items() if name not in AROUND}


FUNCTIONS = functions()


def fault(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a fault of ours")


async def fault_async(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a fault of ours")


def inject(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put a fault in place of a function, wherever it is known by name."""
    place, attribute, body = FUNCTIONS[name]
    broken = fault_async if inspect.iscoroutinefunction(body) else fault
    monkeypatch.setattr(place, attribute, broken)
    for module in MODULES:
        for known, value in list(vars(module).items()):
            if value is body:
                monkeypatch.setattr(module, known, broken)


Drive = Callable[[], list[Any]]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """What an app sees of its calls: plain, streamed, left early, failed; of both SDKs."""
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    oai = openai.OpenAI(api_key="k", http_client=http, max_retries=0)
    ant = anthropic.Anthropic(api_key="k", http_client=http, max_retries=0)

    def run() -> list[Any]:
        ask, write = oai.chat.completions.create, ant.messages.create
        seen: list[Any] = [ask(model="gpt-4o-mini", messages=HELLO), write(model="c", max_tokens=9, messages=HELLO)]
        seen += [*ask(model="gpt-4o-mini", messages=HELLO, stream=True)]
        seen += [*write(model="c", max_tokens=9, messages=HELLO, stream=True)]
        with write(model="c", max_tokens=9, messages=HELLO, stream=True) as stream:
            seen.append(next(iter(stream)))
        try:
            ask(model="gpt-4o-mini", messages=HELLO, user="fail")
        except openai.BadRequestError as error:
            seen.append((type(error), str(error), error.status_code))
        return seen

    tallystick.instrument(collector="http://127.0.0.1:9", spool=tmp_path / "spool", content="redacted")
    try:
        yield run
    finally:
        tallystick.uninstrument()
        http.close()


def reached(drive: Drive) -> list[str]:
    """Return the functions of ours that a drive runs through: a fault in another one cannot be felt."""
    codes = {getattr(body, "__wrapped__", body).__code__: name for name, (_, _, body) in FUNCTIONS.items()}
    seen: dict[str, None] = {}

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and (name := codes.get(frame.f_code)) is not None:
            seen[name] = None

    sys.setprofile(note)
    try:
        drive()
    finally:
        sys.setprofile(None)
    cached = (name for name, (_, _, body) in FUNCTIONS.items() if isinstance(body, CACHED))
    return sorted({*seen, *cached})


def test_a_fault_in_any_function_changes_nothing_for_the_app(drive: Drive) -> None:
    expected = drive()
    names = reached(drive)
    assert len(names) > 120
    assert {name.partition(".")[0] for name in names} > {"Hooks", "Call", "Recorder", "ChatStream", "_receipts"}
    changed = []
    for name in names:
        with pytest.MonkeyPatch.context() as monkeypatch:
            inject(monkeypatch, name)
            try:
                seen = drive()
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is the finding
                changed.append(f"{name}: {error!r}")
                continue
        if seen != expected:
            changed.append(f"{name}: another result")
    assert not changed, "\n".join(changed)


SOCKETS = [
    name for name in sorted(FUNCTIONS) if name.partition(".")[0] in {"Sockets", "Talk", "_Messages", "RealtimeMessages"}
]
SOCKETS += ["Call.__init__", "Call.take", "Call._over", "Recorder.__init__", "Recorder.feed", "Recorder.over"]


def test_a_fault_around_a_websocket_changes_nothing_for_the_app(provider: Provider, tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    tallystick.instrument(collector="http://127.0.0.1:9", spool=tmp_path / "spool", providers=provider.mapping)

    def talk(client: openai.OpenAI) -> list[str]:
        with client.realtime.connect(model="gpt-realtime") as connection:
            connection.response.create()
            seen = [connection.recv().type]
            while seen[-1] != "response.done":
                seen.append(connection.recv().type)
        return seen

    try:
        with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:
            expected = talk(client)
            assert len(expected) > 3
            for name in SOCKETS:
                with pytest.MonkeyPatch.context() as monkeypatch:
                    inject(monkeypatch, name)
                    assert talk(client) == expected, name
    finally:
        tallystick.uninstrument()
