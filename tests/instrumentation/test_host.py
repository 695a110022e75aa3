"""The host is as it was: what its calls return, what it may do with it, its tasks, its signals, its output, its end."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import json
import logging
import pickle
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import anthropic
import openai
import pydantic
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import tallystick
from fakes.provider import Provider
from fakes.receiver import Receiver, running_receiver

httpx = getattr(openai._base_client, "httpx2", None) or vars(openai._base_client)["httpx"]  # before 3.0
GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
CHAT: dict[str, Any] = {"model": GPT, "messages": HELLO}
INPUT: dict[str, Any] = {"model": GPT, "input": "Where is my parcel?"}
MESSAGE: dict[str, Any] = {"model": CLAUDE, "max_tokens": 100, "messages": HELLO}
KEY = "sk-0123456789abcdef0123"


class Parcel(pydantic.BaseModel):
    place: str
    days: int


@contextmanager
def instrumented(provider: Provider, spool: Path) -> Iterator[None]:
    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=spool, providers=provider.mapping)
        try:
            yield
        finally:
            tallystick.uninstrument()


# Types ----------------------------------------------------------------------------------------------------------------

OPENAI: dict[str, Callable[[Any], Any]] = {
    "chat": lambda c: c.chat.completions.create(**CHAT),
    "chat-stream": lambda c: c.chat.completions.create(**CHAT, stream=True),
    "chat-raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT),
    "chat-raw-stream": lambda c: c.chat.completions.with_raw_response.create(**CHAT, stream=True),
    "chat-streaming-response": lambda c: c.chat.completions.with_streaming_response.create(**CHAT),
    "chat-streaming-response-stream": lambda c: c.chat.completions.with_streaming_response.create(**CHAT, stream=True),
    "chat-parse": lambda c: c.chat.completions.parse(**CHAT, response_format=Parcel),
    "chat-parse-raw": lambda c: c.chat.completions.with_raw_response.parse(**CHAT, response_format=Parcel),
    "chat-stream-helper": lambda c: c.chat.completions.stream(**CHAT),
    "responses": lambda c: c.responses.create(**INPUT),
    "responses-stream": lambda c: c.responses.create(**INPUT, stream=True),
    "responses-raw": lambda c: c.responses.with_raw_response.create(**INPUT),
    "responses-raw-stream": lambda c: c.responses.with_raw_response.create(**INPUT, stream=True),
    "responses-streaming-response": lambda c: c.responses.with_streaming_response.create(**INPUT),
    "responses-parse": lambda c: c.responses.parse(**INPUT, text_format=Parcel),
    "responses-stream-helper": lambda c: c.responses.stream(**INPUT),
    "embeddings": lambda c: c.embeddings.create(model="text-embedding-3-small", input="a parcel"),
    "embeddings-raw": lambda c: c.embeddings.with_raw_response.create(model="text-embedding-3-small", input="a parcel"),
    "embeddings-streaming-response": lambda c: c.embeddings.with_streaming_response.create(
        model="text-embedding-3-small", input="a parcel"
    ),
    "completions": lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Where?"),
    "completions-stream": lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Where?", stream=True),
    "models": lambda c: c.models.with_raw_response.list(),
}
ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "messages": lambda c: c.messages.create(**MESSAGE),
    "messages-stream": lambda c: c.messages.create(**MESSAGE, stream=True),
    "messages-raw": lambda c: c.messages.with_raw_response.create(**MESSAGE),
    "messages-raw-stream": lambda c: c.messages.with_raw_response.create(**MESSAGE, stream=True),
    "messages-streaming-response": lambda c: c.messages.with_streaming_response.create(**MESSAGE),
    "messages-streaming-response-stream": lambda c: c.messages.with_streaming_response.create(**MESSAGE, stream=True),
    "messages-stream-helper": lambda c: c.messages.stream(**MESSAGE),
    "count-tokens": lambda c: c.messages.count_tokens(model=CLAUDE, messages=HELLO),
    "beta-messages": lambda c: c.beta.messages.create(**MESSAGE),
    "beta-messages-raw": lambda c: c.beta.messages.with_raw_response.create(**MESSAGE),
    "beta-messages-stream-helper": lambda c: c.beta.messages.stream(**MESSAGE),
}
CLIENTS: dict[str, Callable[[Provider], Any]] = {
    "openai": lambda p: openai.OpenAI(base_url=p.openai_url, api_key=KEY),
    "openai-async": lambda p: openai.AsyncOpenAI(base_url=p.openai_url, api_key=KEY),
    "anthropic": lambda p: anthropic.Anthropic(base_url=p.anthropic_url, api_key=KEY),
    "anthropic-async": lambda p: anthropic.AsyncAnthropic(base_url=p.anthropic_url, api_key=KEY),
}


def faces(thing: Any) -> Any:
    """Return the type of a thing, and that of each of its attributes: what ``type``, ``isinstance`` and dots show."""

    def kind(name: str) -> Any:
        try:
            return type(getattr(thing, name))
        except Exception as error:  # noqa: BLE001 -- such as the time of a response that is not closed yet
            return type(error), str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dir() finds what the SDK would rather have nobody use
        attributes = {name: kind(name) for name in dir(thing) if not name.startswith("__")}
    fields = type(thing).model_fields if isinstance(thing, pydantic.BaseModel) else {}
    return (
        type(thing),
        isinstance(thing, type(thing)),
        attributes,
        {name: parts(getattr(thing, name)) for name in fields},
    )


def parts(value: Any) -> Any:
    if isinstance(value, list):
        return [parts(item) for item in value]
    return faces(value) if isinstance(value, pydantic.BaseModel) else type(value)


async def looked_at(thing: Any) -> list[Any]:
    """Return the faces of a thing and of all that an app gets out of it: awaited, entered, parsed, read to its end."""
    seen = [faces(thing)]
    if inspect.isawaitable(thing):
        return seen + await looked_at(await thing)
    if isinstance(thing, pydantic.BaseModel):
        return seen
    if hasattr(thing, "__aiter__"):
        return seen + [faces(chunk) async for chunk in thing]
    if hasattr(thing, "parse"):
        return seen + await looked_at(thing.parse())
    if hasattr(thing, "__iter__"):
        return seen + [faces(chunk) for chunk in thing]
    if hasattr(thing, "__aenter__"):
        async with thing as inside:
            return seen + await looked_at(inside)
    with thing as inside:
        return seen + await looked_at(inside)


async def told_of(make: Callable[[Any], Any], client: Any) -> list[Any]:
    try:
        return await looked_at(make(client))
    finally:
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("sdk", "shape"), [("openai", shape) for shape in OPENAI] + [("anthropic", shape) for shape in ANTHROPIC]
)
async def test_what_a_call_returns_is_of_the_very_types_of_the_bare_sdk(
    sdk: str, shape: str, kind: str, provider: Provider, tmp_path: Path
) -> None:
    make = (OPENAI if sdk == "openai" else ANTHROPIC)[shape]
    client = CLIENTS[sdk if kind == "sync" else f"{sdk}-async"]

    bare = await told_of(make, client(provider))
    with instrumented(provider, tmp_path / "spool"):
        seen = await told_of(make, client(provider))

    assert seen == bare
    assert len(bare) > (2 if "stream" in shape else 0)


# What an app does with clients, methods and results -------------------------------------------------------------------


def results(provider: Provider) -> list[Any]:
    with CLIENTS["openai"](provider) as oai, CLIENTS["anthropic"](provider) as ant:
        return [
            oai.chat.completions.create(**CHAT),
            oai.responses.create(**INPUT),
            next(iter(oai.chat.completions.create(**CHAT, stream=True))),
            ant.messages.create(**MESSAGE),
        ]


def test_results_are_pickled_and_copied(provider: Provider, tmp_path: Path) -> None:
    with instrumented(provider, tmp_path / "spool"):
        for result in results(provider):
            assert pickle.loads(pickle.dumps(result)) == result
            assert copy.copy(result) == result
            assert copy.deepcopy(result) == result
            assert type(copy.deepcopy(result)) is type(result)
            assert pickle.dumps(result).find(b"tallystick") == -1


def test_a_pickled_result_is_read_where_we_are_not(provider: Provider, tmp_path: Path) -> None:
    with instrumented(provider, tmp_path / "spool"):
        pickled = pickle.dumps(results(provider))
    read = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer)), 'tallystick' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", read], input=pickled, capture_output=True, check=True, timeout=60)

    assert ran.stdout.decode().split() == ["4", "False"]


def test_a_failure_is_pickled_as_without_us(provider: Provider, tmp_path: Path) -> None:
    def copied() -> Any:
        provider.script("401", provider="openai")
        with CLIENTS["openai"](provider) as client, pytest.raises(openai.AuthenticationError) as failed:
            client.chat.completions.create(**CHAT)
        error = failed.value
        return type(error), sorted(vars(error)), error.args, copy.copy(error.body), error.__context__ is None

    bare = copied()
    with instrumented(provider, tmp_path / "spool"):
        assert copied() == bare


@pytest.mark.parametrize("sdk", CLIENTS)
def test_a_client_is_copied_and_goes_when_nobody_holds_it(sdk: str, provider: Provider, ledger: Any) -> None:
    client = CLIENTS[sdk](provider)
    if "async" not in sdk:
        shallow = copy.copy(client)
        if sdk == "openai":
            shallow.chat.completions.create(**CHAT)
        else:
            shallow.messages.create(**MESSAGE)
        assert len(ledger.calls()) == 1
        client.close()
        del shallow
    watched, held = weakref.ref(client), weakref.WeakSet([client])
    assert client in held

    del client
    gc.collect()

    assert watched() is None, "we keep no client alive"


class House(openai.OpenAI):
    """A client as apps write them: a base URL of its own, each request counted on its way."""

    def __init__(self, url: str, **options: Any) -> None:
        self.requests = 0
        super().__init__(base_url=url, api_key=KEY, **options)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self.requests += 1
        return super().request(*args, **kwargs)


def test_a_subclass_of_a_client_works_and_its_calls_are_there_once(provider: Provider, ledger: Any) -> None:
    class Within(House):  # made while we are there
        def _prepare_options(self, options: Any) -> Any:
            self.prepared = options.url
            return super()._prepare_options(options)

    for kind in (House, Within):
        with kind(provider.openai_url) as client:
            assert type(client.chat.completions.create(**CHAT)).__name__ == "ChatCompletion"
            assert client.requests == 1
    assert client.prepared == "/chat/completions"
    assert len(ledger.calls()) == len(ledger.attempts()) == 2


def methods() -> dict[str, Any]:
    """Return the SDKs' functions that an app may look at: those that we patch, and all that stand upon them."""
    found: dict[str, Any] = {}
    for sdk in (openai, anthropic):
        kinds = [sdk._base_client.SyncAPIClient, sdk._base_client.AsyncAPIClient, sdk.Stream, sdk.AsyncStream]
        kinds += [
            getattr(sdk, name)
            for name in ("OpenAI", "AsyncOpenAI", "Anthropic", "AsyncAnthropic")
            if hasattr(sdk, name)
        ]
        kinds += [openai.resources.chat.completions.Completions, openai.resources.chat.completions.AsyncCompletions]
        kinds += [anthropic.resources.Messages, anthropic.resources.AsyncMessages]
        for kind in kinds:
            found |= {
                f"{kind.__module__}.{kind.__name__}.{name}": (kind, name)
                for name, _ in inspect.getmembers(kind, callable)
            }
    return found


def seen_from_outside(kind: type, name: str) -> tuple[Any, ...]:
    method = getattr(kind, name)
    try:
        signature: Any = inspect.signature(method)
    except (TypeError, ValueError) as error:
        signature = str(error)
    return (
        signature,
        inspect.iscoroutinefunction(method),
        inspect.isfunction(method),
        callable(method),
        *(
            getattr(method, name, None)
            for name in ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__")
        ),
        getattr(method, "__annotations__", None),
        inspect.getsourcefile(method) if inspect.isfunction(method) else None,
    )


def test_every_method_looks_the_same_from_outside(provider: Provider, tmp_path: Path) -> None:
    bare = {name: seen_from_outside(*where) for name, where in methods().items()}
    with instrumented(provider, tmp_path / "spool"):
        seen = {name: seen_from_outside(*where) for name, where in methods().items()}

    assert len(bare) > 300
    assert {name: (bare[name], seen[name]) for name in bare if seen[name] != bare[name]} == {}


PATCHED = [openai._base_client.SyncAPIClient, openai._base_client.AsyncAPIClient, anthropic._base_client.SyncAPIClient]


@pytest.mark.parametrize("kind", PATCHED, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_method_is_copied_and_pickled_by_its_name(kind: Any, provider: Provider, tmp_path: Path) -> None:
    with instrumented(provider, tmp_path / "spool"):
        assert copy.copy(kind.request) is not None
        assert copy.deepcopy({"send": kind.request})["send"] is not None
        pickled = pickle.dumps(kind.request)
    assert pickle.loads(pickled) == kind.request


def test_mock_patch_holds_inside_and_we_are_back_after_it(provider: Provider, ledger: Any, oai: Any) -> None:
    completions = type(oai.chat.completions)
    with mock.patch.object(completions, "create", autospec=True, return_value="played") as played:
        assert oai.chat.completions.create(**CHAT) == "played"
        played.assert_called_once_with(oai.chat.completions, **CHAT)
    with mock.patch.object(openai._base_client.SyncAPIClient, "request", autospec=True, return_value="sent"):
        assert oai.chat.completions.create(**CHAT) == "sent"
    assert ledger.calls() == [], "nothing was asked of anybody"

    assert oai.chat.completions.create(**CHAT).id

    assert len(ledger.calls()) == 1


def test_mock_patch_around_instrument_is_undone_as_it_was(provider: Provider, tmp_path: Path) -> None:
    client = openai._base_client.SyncAPIClient
    bare = vars(client)["request"]
    with mock.patch.object(client, "request", return_value="played"):
        played = vars(client)["request"]
        with instrumented(provider, tmp_path / "spool"), CLIENTS["openai"](provider) as oai:
            assert oai.chat.completions.create(**CHAT) == "played"
        assert vars(client)["request"] is played

    assert vars(client)["request"] is bare


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_a_key_that_is_a_function_is_asked_as_often_and_its_keys_are_nowhere(
    provider: Provider, ledger: Any
) -> None:
    asked, sent = [], []

    def key() -> str:
        asked.append(f"sk-secret-of-call-{len(asked)}-abcdef")
        return asked[-1]

    async def key_async() -> str:
        return key()

    def look(request: Any) -> None:
        sent.append(request.headers["authorization"])

    async def look_async(request: Any) -> None:
        look(request)

    inner = httpx.Client(event_hooks={"request": [look]})
    with openai.OpenAI(base_url=provider.openai_url, api_key=key, http_client=inner) as client:
        assert [client.chat.completions.create(**CHAT).id, client.chat.completions.create(**CHAT).id]
    inner_async = httpx.AsyncClient(event_hooks={"request": [look_async]})
    async with openai.AsyncOpenAI(
        base_url=provider.openai_url, api_key=key_async, http_client=inner_async
    ) as client_async:
        assert (await client_async.chat.completions.create(**CHAT)).id

    assert sent == [f"Bearer {key}" for key in asked]
    assert [call.outcome for call in ledger.calls()] == ["ok"] * 3
    assert {call.attributes.get("tallystick.key") for call in ledger.calls()} == {None}, "one would be new every time"
    assert "cdef" not in repr([call.attributes for call in ledger.spans()])


# Many tasks --------------------------------------------------------------------------------------------------------


class Slowly(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
    """The body of an answer, which lets others run between its parts."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            await asyncio.sleep(0)
            yield part


async def answered_slowly(request: Any) -> Any:
    """Answer a chat whose id is the one that the app's task asked with."""
    asked = json.loads(request.content)
    base = {"id": f"chatcmpl-{asked['user']}", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    for _ in range(int(asked["user"]) % 5):
        await asyncio.sleep(0)
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "here"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = base | {"object": "chat.completion", "choices": [choice], "usage": usage}
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Slowly(json.dumps(body).encode())
        )
    delta = {"index": 0, "delta": {"content": "here"}, "finish_reason": None}
    chunks = [base | {"object": "chat.completion.chunk", "choices": [delta]}] * 3
    chunks += [base | {"object": "chat.completion.chunk", "choices": [], "usage": usage}]
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, stream=Slowly(*events, b"data: [DONE]\n\n"))


TASKS = 1000
STEPS = 13
"""How often a task may wait before it is cancelled; the longest stream waits a little longer."""


@pytest.fixture
def troubles(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged as a warning or worse by anybody."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_many_tasks_some_cancelled_at_each_await_keep_their_calls_apart(
    tmp_path: Path, troubles: Callable[[], list[str]]
) -> None:
    transport = httpx.MockTransport(answered_slowly)
    client = openai.AsyncOpenAI(api_key=KEY, http_client=httpx.AsyncClient(transport=transport), max_retries=0)
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    begun: set[int] = set()

    async def task(n: int) -> None:
        with trace.use_span(NonRecordingSpan(SpanContext(n, n, is_remote=False, trace_flags=TraceFlags(1)))):
            begun.add(n)
            if n % 2:
                await client.chat.completions.create(**CHAT, user=str(n))
            else:
                async for _ in await client.chat.completions.create(**CHAT, user=str(n), stream=True):
                    await asyncio.sleep(0)
            assert trace.get_current_span().get_span_context().span_id == n

    async def cancel(running: asyncio.Task[None], steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()

    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=tmp_path / "spool")
        try:
            tasks = [asyncio.create_task(task(n), name=str(n)) for n in range(1, TASKS + 1)]
            ends = [asyncio.create_task(cancel(running, n % STEPS)) for n, running in enumerate(tasks) if n % 3 == 0]
            found = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*ends)
            assert await asyncio.to_thread(tallystick.flush, 20)
        finally:
            tallystick.uninstrument()
        await client.close()
        calls = [span for span in receiver.spans() if told(span, "tallystick.outcome")]

    assert troubles() == []
    assert unhandled == []
    assert [repr(error) for error in found if error and not isinstance(error, asyncio.CancelledError)] == []
    cut = {n for n, error in enumerate(found, 1) if error is not None}
    parents = Counter(int.from_bytes(span.parent_span_id) for span in calls)
    assert parents == Counter(dict.fromkeys(begun, 1)), "each call that began is there once, below its own span"
    assert all(span.trace_id[8:] == span.parent_span_id for span in calls)
    for span in calls:
        n = int.from_bytes(span.parent_span_id)
        outcome, units = told(span, "tallystick.outcome"), json.loads(told(span, "tallystick.units") or "[]")
        if n not in cut:
            assert (outcome, units[0]["id"]) == ("ok", f"chatcmpl-{n}")
        assert {unit["id"] for unit in units} <= {
            f"chatcmpl-{n}",
            None,
            *(u["id"] for u in units if outcome == "cancelled"),
        }
    outcomes = Counter(told(span, "tallystick.outcome") for span in calls)
    assert outcomes["cancelled"] >= 150, outcomes
    unfinished = {int.from_bytes(span.parent_span_id) for span in calls if told(span, "tallystick.outcome") != "ok"}
    assert {(n - 1) % STEPS for n in unfinished} == set(range(STEPS)), "cut at each of its awaits"
    assert set(outcomes) <= {"ok", "cancelled", "abandoned"}


def told(span: Any, name: str) -> Any:
    return next((item.value.string_value for item in span.attributes if item.key == name), None)


# The process ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import atexit, logging, os, signal, sys, time
BEFORE
import openai, tallystick
tallystick.instrument()
AFTER
client = openai.OpenAI(base_url=os.environ["URL"], api_key="k", max_retries=0)
def chat():
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
BODY
"""


class App:
    """Runs small programs that are instrumented."""

    def __init__(self, provider: Provider, environ: dict[str, str]) -> None:
        self.environ = environ
        self.environ |= {"URL": provider.openai_url, "TALLYSTICK_PROVIDERS": provider.providers}

    def run(self, body: str, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
        program = PROGRAM.replace("BEFORE", before).replace("AFTER", after).replace("BODY", body)
        return subprocess.run(
            [sys.executable, "-c", program], env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def app(provider: Provider, receiver: Receiver, tmp_path: Path) -> App:
    paths = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TALLYSTICK_SPOOL": str(tmp_path / "spool")}
    return App(provider, paths | {"TALLYSTICK_COLLECTOR": receiver.url})


LAST = "atexit.register(lambda: print(time.monotonic() - left[0]))"  # registered before ours, so run after it
FIRST = "left = []; atexit.register(lambda: left.append(time.monotonic()))"
BUDGET = """
[[budget]]
name = "all"
limit_usd = 5
action = "block"
fail = "open"
"""


@pytest.mark.parametrize("budget", ["", BUDGET], ids=["plain", "budget"])
@pytest.mark.parametrize("behaviour", ["refuse", "hang", "drip", "503"])
def test_the_end_of_the_process_is_half_a_second_later_at_most(
    behaviour: str, budget: str, app: App, receiver: Receiver, tmp_path: Path
) -> None:
    if behaviour == "refuse":
        app.environ["TALLYSTICK_COLLECTOR"] = "http://127.0.0.1:9"
    else:
        receiver.behaviour = behaviour
    (tmp_path / "tallystick.toml").write_text(budget)
    app.environ["TALLYSTICK_CONFIG"] = str(tmp_path / "tallystick.toml")
    delays = []
    for _ in range(3):  # a busy machine may take a while over anything
        ended = app.run("assert chat().id", before=LAST, after=FIRST)
        assert (ended.returncode, ended.stderr) == (0, "")
        delays.append(float(ended.stdout))
        if delays[-1] <= 0.5:
            break

    assert min(delays) <= 0.5, delays


def hosts_own() -> list[Any]:
    """Return what belongs to the whole process, and so to the app."""
    waking = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(waking)
    root = logging.getLogger()
    return [
        {number: signal.getsignal(number) for number in signal.valid_signals()},
        waking,
        (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
        (sys.stdout, sys.stderr, sys.getrecursionlimit(), sys.getswitchinterval()),
        (list(root.handlers), root.level, logging.lastResort, logging.getLoggerClass(), logging.getLogRecordFactory()),
        (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()),
        (gc.get_threshold(), gc.isenabled(), list(warnings.filters)),
        trace.get_tracer_provider(),
    ]


def test_handlers_hooks_and_settings_of_the_process_stay_the_apps(provider: Provider, tmp_path: Path) -> None:
    def handle(*_: object) -> None:
        raise AssertionError("nobody sent it")

    was = signal.signal(signal.SIGUSR1, handle)
    try:
        before = hosts_own()
        with instrumented(provider, tmp_path / "spool"):
            assert results(provider)
            assert hosts_own() == before
        assert hosts_own() == before
    finally:
        signal.signal(signal.SIGUSR1, was)


def test_the_apps_handler_of_a_signal_runs_in_a_call_and_decides(
    app: App, provider: Provider, receiver: Receiver
) -> None:
    provider.script("hang")
    body = """
def handle(number, frame):
    print("handled", number, flush=True)
    raise SystemExit(7)
signal.signal(signal.SIGALRM, handle)
signal.alarm(1)
chat()
"""
    ended = app.run(body)

    assert (ended.returncode, ended.stdout, ended.stderr) == (7, f"handled {int(signal.SIGALRM)}\n", "")
    assert [told(span, "tallystick.outcome") for span in receiver.spans()].count(None) <= 1, "the attempt"
    assert any(told(span, "tallystick.outcome") for span in receiver.spans()), "the call is on the ledger"


@pytest.mark.parametrize("behaviour", ["ok", "503", "refuse"])
def test_the_process_prints_what_it_would_print_without_us(app: App, receiver: Receiver, behaviour: str) -> None:
    if behaviour == "refuse":
        app.environ["TALLYSTICK_COLLECTOR"] = "http://127.0.0.1:9"
    else:
        receiver.behaviour = behaviour

    ended = app.run('chat()\nprint("done", logging.getLogger().handlers)\ntallystick.flush(0.3)')

    assert (ended.stdout, ended.stderr) == ("done []\n", "")


# Places that cannot be written to -------------------------------------------------------------------------------------


def test_without_a_home_the_spool_has_a_folder_all_the_same(app: App, receiver: Receiver, tmp_path: Path) -> None:
    del app.environ["HOME"], app.environ["TALLYSTICK_SPOOL"]
    app.environ["TMPDIR"] = str(tmp_path)

    ended = app.run("assert chat().id")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [span.name for span in receiver.spans()] == ["POST", f"chat {GPT}"]


COUNTED = """
from tallystick.instrumentation import _install
for _ in range(30):
    assert chat().id
print(_install._installed.spool.dropped.records)
"""


def test_a_spool_that_cannot_be_written_to_is_one_warning_and_what_is_lost_is_counted(app: App) -> None:
    app.environ["TALLYSTICK_SPOOL"] = "/proc/tallystick"  # root may not write there either

    ended = app.run(COUNTED)

    assert (ended.returncode, ended.stdout) == (0, "30\n"), "a call and its attempts are one record"
    [warning] = ended.stderr.splitlines()
    assert warning.startswith("the spool in /proc/tallystick drops records (")
    assert warning.endswith("; the app goes on")


FULL = """
import resource
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
from tallystick.instrumentation import _install
room = int(os.environ["ROOM"])
chat() if room else None
tallystick.flush()
open_before = len(os.listdir("/dev/fd"))
resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
for _ in range(30):
    assert chat().id
print(_install._installed.spool.dropped.records, len(os.listdir("/dev/fd")) - open_before)
tallystick.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
chat()
print(tallystick.flush())
"""


@pytest.mark.parametrize("room", [0, 500])
def test_on_a_full_disk_the_app_goes_on_and_the_ledger_is_told_how_much_it_lacks(
    app: App, receiver: Receiver, room: int
) -> None:
    app.environ["ROOM"] = str(room)

    ended = app.run(FULL)

    assert ended.returncode == 0, ended.stderr
    dropped, descriptors = (int(word) for word in ended.stdout.split()[:2])
    assert 0 < dropped <= 30, "not reported yet: a small report may fit where a call does not"
    assert descriptors <= 1, "what is not written to is not kept open"
    assert ended.stdout.split()[2] == "True"
    [warning] = ended.stderr.splitlines()
    assert "File too large" in warning
    told = Counter({"finished.calls": 0})
    for span in receiver.spans():
        said = {item.key.removeprefix("tallystick."): item.value.int_value for item in span.attributes}
        told.update({name: said.get(name, 0) for name in ("dropped.records", "dropped.calls")})
        told["finished.calls"] += said.get("finished.calls", "outcome" in said)
    arrived = [span.name for span in receiver.spans()].count(f"chat {GPT}")
    assert arrived == 1 + bool(room)
    assert told == {"dropped.records": 30, "dropped.calls": 30, "finished.calls": 30 + arrived}


# An SDK that is not as we know it -------------------------------------------------------------------------------------


MOVED = [
    (sdk, kind, name)
    for sdk in (openai, anthropic)
    for kind in ("SyncAPIClient", "AsyncAPIClient")
    for name in ("request", "_process_response")
]


@pytest.mark.swallows
@pytest.mark.parametrize(("sdk", "kind", "name"), MOVED, ids=[f"{m[0].__name__}-{m[1]}-{m[2]}" for m in MOVED])
async def test_a_target_that_is_missing_disables_that_target_only(
    sdk: Any, kind: str, name: str, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """As after a rewrite of the SDK in which the method has moved to a base class, where we do not look for it."""
    owner = getattr(sdk._base_client, kind)
    monkeypatch.setattr(sdk._base_client.BaseClient, name, vars(owner)[name], raising=False)
    monkeypatch.delattr(owner, name)
    monkeypatch.setattr("tallystick.instrumentation._guard._told", set())
    with running_receiver() as receiver:
        tallystick.instrument(collector=receiver.url, spool=tmp_path / "spool", providers=provider.mapping)
        try:
            for which, make in CLIENTS.items():
                shape = OPENAI["chat"] if "openai" in which else ANTHROPIC["messages"]
                assert len(await told_of(shape, make(provider))) == 1 + which.endswith("async")
            assert tallystick.flush()
        finally:
            tallystick.uninstrument()
        names = Counter(span.name for span in receiver.spans() if told(span, "tallystick.outcome"))

    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage() == (
        f"skipped the patching of {sdk.__name__}._base_client.{kind}.{name}; your call was not affected"
    )
    other, same = (f"chat {CLAUDE}", f"chat {GPT}") if sdk is openai else (f"chat {GPT}", f"chat {CLAUDE}")
    assert names[other] == 2, "the other SDK's"
    assert names[same] >= 1, "this SDK's other kind of client"


# The garbage collector ------------------------------------------------------------------------------------------------

LEFT = """
def left():
    asked = [{"role": "user", "content": "hello"}]
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=asked, stream=True)
    next(iter(stream))
    stream.itself = stream  # only the garbage collector finds it
"""
COLLECTED = """
import contextlib, gc
LEFT
chat()
gc.set_threshold(3, 1, 1)  # wherever it may run, it does
with LIMIT:
    for _ in range(15):
        left()
        assert chat().id
    gc.collect()
"""


@pytest.mark.parametrize("limit", ["contextlib.nullcontext()", "tallystick.budget(usd='5')"], ids=["plain", "budget"])
def test_streams_that_the_garbage_collector_ends_wherever_it_runs_stop_nothing(
    limit: str, app: App, receiver: Receiver
) -> None:
    ended = app.run(COLLECTED.replace("LEFT", LEFT).replace("LIMIT", limit))

    assert (ended.returncode, ended.stderr) == (0, "")
    outcomes = Counter(told(span, "tallystick.outcome") for span in receiver.spans())
    assert (outcomes["ok"], outcomes["abandoned"]) == (16, 15)


IMPORTED = """
import gc
LEFT
class Collecting:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("tallystick.pricing."):
            print("collected", gc.collect() > 0)
gc.disable()  # but where we say
sys.meta_path.insert(0, Collecting)
left()
chat()
"""


def test_a_stream_that_ends_while_the_first_answer_loads_the_prices_is_priced(app: App, receiver: Receiver) -> None:
    """The garbage collector runs inside imports, too, and a module that is half there has no prices."""
    ended = app.run(IMPORTED.replace("LEFT", LEFT))

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "collected" in ended.stdout
    calls = [span for span in receiver.spans() if told(span, "tallystick.outcome")]
    assert sorted(told(call, "tallystick.outcome") for call in calls) == ["abandoned", "ok"]
    assert all(json.loads(told(call, "tallystick.units"))[0]["cost_usd"] for call in calls)


# Greenlets ------------------------------------------------------------------------------------------------------------

GREENLETS = """
from gevent.pool import Pool
print(len(set(Pool(25).map(lambda _: chat().id, range(50)))))
"""
PATCH = "from gevent import monkey\nmonkey.patch_all()"


@pytest.mark.parametrize("order", ["before", "after"])
def test_greenlets_call_at_the_same_time_and_none_waits_for_ever(order: str, app: App, receiver: Receiver) -> None:
    ended = app.run(GREENLETS, **{order: PATCH})

    assert (ended.returncode, ended.stdout) == (0, "50\n"), ended.stderr
    assert [told(span, "tallystick.outcome") for span in receiver.spans()].count("ok") == 50


# Calls in flight when the process ends --------------------------------------------------------------------------------

IN_FLIGHT = """
import threading
threading.Thread(target=chat, daemon=True).start()
time.sleep(2.5)
"""
LONG = """
assert chat().id
time.sleep(1.5)
folder = os.environ["TALLYSTICK_SPOOL"]
print([os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder) if name.startswith("in-flight")])
"""
KILLED = IN_FLIGHT + "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("end", [KILLED, IN_FLIGHT], ids=["SIGKILL", "exit"])
def test_a_call_in_flight_when_the_process_ends_is_on_the_ledger_as_interrupted(
    end: str, app: App, provider: Provider, receiver: Receiver
) -> None:
    provider.script("hang")
    app.run(end)
    assert [span for span in receiver.spans() if told(span, "tallystick.outcome") == "interrupted"] == []
    provider.clear_scripts()

    app.run("chat(); tallystick.flush(); time.sleep(1)")  # its shipper finds what the dead process left

    calls = [span for span in receiver.spans() if told(span, "tallystick.outcome")]
    assert sorted(told(span, "tallystick.outcome") for span in calls) == ["interrupted", "ok"]
    [cut] = [span for span in calls if told(span, "tallystick.outcome") == "interrupted"]
    assert cut.name == f"chat {GPT}"
    assert cut.end_time_unix_nano - cut.start_time_unix_nano > 10**9


def test_a_long_call_that_ends_is_on_the_ledger_once_and_leaves_no_note(
    app: App, provider: Provider, receiver: Receiver, tmp_path: Path
) -> None:
    provider.script("slow:headers=2.5")

    ended = app.run(LONG)
    assert ended.stdout == "[0]\n", "its note was made, and is empty now"
    app.run("chat(); tallystick.flush(); time.sleep(1)")

    outcomes = [told(span, "tallystick.outcome") for span in receiver.spans()]
    assert [outcome for outcome in outcomes if outcome] == ["ok", "ok"]
    assert list((tmp_path / "spool").glob("in-flight*")) == []
