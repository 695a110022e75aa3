"""Servers that fork, spawn, recycle and kill their workers, under `tallystick run` and with `instrument()` in the app.

No collector listens, and every server is killed in the end: what its workers did must be in the spool, once, and all.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.provider import Provider
from frameworks.house import WE_ARE_FIRST
from tallystick.model.segment import Record, read_records

BIN = Path(sys.executable).parent
READY_S = 90.0
CALLS = 24

CALLING = """
import os, openai
def call():
    with openai.OpenAI(base_url=os.environ["PROVIDER"], api_key="k", max_retries=0) as client:
        asked = [{"role": "user", "content": "Where is my parcel?"}]
        return client.chat.completions.create(model="gpt-4o-mini", messages=asked).id
"""
INSTRUMENTED = "" if WE_ARE_FIRST else "import tallystick\ntallystick.instrument()\n"
WSGI = """
from calling import call
call()  # a master that loads the app before it forks has called, and its workers inherit whatever that left
def app(environ, start_response):
    made = call()
    start_response("200 OK", [("content-type", "text/plain")])
    return [made.encode()]
"""
ASGI = """
from calling import call
async def app(scope, receive, send):
    if scope["type"] == "http":
        made = call()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": made.encode()})
"""
TASKS = """
import os, pathlib
from celery import Celery
from calling import call
folder = pathlib.Path(os.environ["BROKER"])
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(folder / "queue"), "data_folder_out": str(folder / "queue"),
    "control_folder": str(folder / "control"), "processed_folder": str(folder / "done"),
}
app.conf.worker_hijack_root_logger = False
@app.task
def ask():
    made = call()
    (folder / "made" / made).touch()
    if os.environ.get("HOW") == "os._exit":
        os._exit(0)
"""
GREEN = """
import os, signal
from gevent.pool import Pool
client = openai.OpenAI(base_url=os.environ["PROVIDER"], api_key="k", max_retries=0)
asked = [{"role": "user", "content": "Where is my parcel?"}]
made = Pool(50).map(lambda _: client.chat.completions.create(model="gpt-4o-mini", messages=asked).id, range(1000))
print(len(set(made)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def environ(loopback: Provider, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "calling.py").write_text(CALLING)
    return {
        **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TALLYSTICK_SPOOL"}},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "TALLYSTICK_SPOOL": str(tmp_path / "spool"),
        "TALLYSTICK_COLLECTOR": "http://127.0.0.1:9",
        "TALLYSTICK_PROVIDERS": loopback.providers,
        "PROVIDER": loopback.openai_url,
        "PYTHONPATH": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture
def billed(loopback: Provider) -> Callable[[], list[str]]:
    """What the provider has billed since the test began."""
    before = len(loopback.invoice()["items"])
    return lambda: sorted(item["id"] for item in loopback.invoice()["items"][before:])


def spooled(tmp_path: Path) -> list[str]:
    """The response of each call in the spool, sorted; no record of it may be damaged."""
    found = []
    for path in (tmp_path / "spool").glob("*.tly"):
        for record in read_records(path.read_bytes()):
            assert isinstance(record, Record), record
            for resource in ExportTraceServiceRequest.FromString(record.payload).resource_spans:
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    said = {item.key: item.value.string_value for item in span.attributes}
                    if "tallystick.outcome" in said:
                        found.append(said["gen_ai.response.id"])
    return sorted(found)


@contextmanager
def running(words: list[str], environ: dict[str, str], tmp_path: Path, how: signal.Signals) -> Iterator[None]:
    """Run a command, as it is or under `tallystick run`, and end all of its processes by ``how``."""
    command = ["tallystick", "run", *words] if WE_ARE_FIRST else words
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    except BaseException:
        print((tmp_path / "log").read_text()[-3000:])
        raise
    finally:
        os.killpg(process.pid, how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def asked(port: int) -> str:
    """Ask the server until it answers: a worker that is recycled drops what was waiting for it."""
    until = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


GUNICORN = {
    "sync": "-w 2",
    "preload": "-w 2 --preload",
    "max-requests-1": "-w 2 --preload --max-requests 1",
    "threads": "-w 2 -k gthread --threads 4",
    "gevent": "-w 2 -k gevent",
    "gevent-preload": "-w 2 -k gevent --preload",
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("kind", GUNICORN)
def test_gunicorn(
    kind: str, how: signal.Signals, environ: dict[str, str], tmp_path: Path, billed: Callable[[], list[str]]
) -> None:
    (tmp_path / "served.py").write_text(INSTRUMENTED + WSGI)
    port = free_port()
    words = ["gunicorn", "served:app", "--bind", f"127.0.0.1:{port}", "--log-level", "warning", *GUNICORN[kind].split()]
    with running(words, environ, tmp_path, how):
        first = asked(port)
        with ThreadPoolExecutor(4) as pool:
            made = [first, *pool.map(lambda _: asked(port), range(CALLS))]

    assert set(made) <= set(billed())
    assert spooled(tmp_path) == billed()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_uvicorn_workers(
    how: signal.Signals, environ: dict[str, str], tmp_path: Path, billed: Callable[[], list[str]]
) -> None:
    (tmp_path / "served.py").write_text(INSTRUMENTED + ASGI)
    port = free_port()
    with running(["uvicorn", "served:app", "--port", str(port), "--workers", "2"], environ, tmp_path, how):
        made = [asked(port) for _ in range(CALLS)]

    assert set(made) <= set(billed())
    assert spooled(tmp_path) == billed()


@pytest.mark.parametrize(
    ("options", "end"),
    [
        pytest.param("", "return", id="prefork"),
        pytest.param("--max-tasks-per-child 1", "return", id="prefork-max-tasks-1"),
        pytest.param("", "os._exit", id="prefork-os._exit"),
        pytest.param("-P threads", "return", id="threads"),
    ],
)
def test_celery(
    options: str, end: str, environ: dict[str, str], tmp_path: Path, billed: Callable[[], list[str]]
) -> None:
    (tmp_path / "tasks.py").write_text(INSTRUMENTED + TASKS)
    for name in ("queue", "control", "done", "made"):
        (tmp_path / name).mkdir()
    environ |= {"BROKER": str(tmp_path), "HOW": end}
    tasks = 6 if end == "os._exit" else CALLS
    words = ["celery", "-A", "tasks", "worker", "-c", "2", "--loglevel", "ERROR", *options.split()]
    laid_down = f"import tasks\nfor _ in range({tasks}): tasks.ask.delay()"
    with running(words, environ, tmp_path, signal.SIGKILL):
        subprocess.run([sys.executable, "-c", laid_down], env=environ, cwd=tmp_path, check=True, timeout=READY_S)
        until = time.monotonic() + READY_S
        while len(made := list((tmp_path / "made").iterdir())) < tasks:
            assert time.monotonic() < until, f"{len(made)} of {tasks} tasks were done"
            time.sleep(0.05)

    assert {path.name for path in made} <= set(billed())
    assert spooled(tmp_path) == billed()


@pytest.mark.parametrize("order", ["before", "after"])
def test_gevent_a_thousand_greenlets(
    order: str, environ: dict[str, str], tmp_path: Path, billed: Callable[[], list[str]]
) -> None:
    patch, load = "from gevent import monkey\nmonkey.patch_all()\n", INSTRUMENTED + "import openai\n"
    (tmp_path / "green.py").write_text((patch + load if order == "before" else load + patch) + GREEN)
    begin = ["tallystick", "run"] if WE_ARE_FIRST else [sys.executable]
    ran = subprocess.run(
        [*begin, "green.py"], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )

    assert ran.stdout == "1000\n", ran.stderr[-3000:]
    assert spooled(tmp_path) == billed()
    assert "Traceback" not in ran.stderr
