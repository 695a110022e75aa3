"""``tallystick run``: programs, modules and commands are instrumented, and so are the Pythons they start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.provider import Provider
from fakes.receiver import Receiver, running_receiver, wait_until
from tallystick.instrumentation.run import HOOK, _is_python, _service_of, with_hook

TALLYSTICK = Path(sys.executable).with_name("tallystick")
CALL = """
import openai
def call(url):
    client = openai.OpenAI(base_url=url, api_key="k")
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]).id
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def environ(provider: Provider, receiver: Receiver, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "calling.py").write_text(CALL)
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TALLYSTICK_COLLECTOR": receiver.url,
        "TALLYSTICK_PROVIDERS": provider.providers,
        "PROVIDER": provider.openai_url,
        "PYTHONPATH": str(tmp_path),
    }


def services(receiver: Receiver) -> list[tuple[str, str]]:
    """The service and the response of each call that came."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for body in list(receiver.bodies):
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                attributes = {item.key: item.value.string_value for item in span.attributes}
                if "tallystick.outcome" in attributes:
                    found.append((service, attributes["gen_ai.response.id"]))
    return found


def run(environ: dict[str, str], tmp_path: Path, *words: str, expect: int = 0) -> str:
    ran = subprocess.run(
        [TALLYSTICK, "run", *words], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == expect, ran.stderr
    return ran.stdout


def write(tmp_path: Path, name: str, text: str, *, executable: bool = False) -> Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755 if executable else 0o644)
    return path


NEXT = """
import os, pathlib, time, calling
print(calling.call(os.environ["PROVIDER"]))
until = time.monotonic() + 30
while len(list(pathlib.Path(os.environ["TALLYSTICK_SPOOL"]).glob("*.tly"))) > 1 and time.monotonic() < until:
    time.sleep(0.05)
"""


def adopt(environ: dict[str, str], tmp_path: Path) -> str:
    """Run a program that makes a call and stays until what dead processes left is sent; return its call."""
    return run(environ, tmp_path, str(write(tmp_path, "next.py", NEXT))).strip()


APP = """
import os, sys, subprocess, multiprocessing
from calling import call
def child(url):
    print(call(url), flush=True)
if __name__ == "__main__":
    print(call(os.environ["PROVIDER"]), flush=True)
    process = multiprocessing.get_context("spawn").Process(target=child, args=(os.environ["PROVIDER"],))
    process.start(); process.join()
    subprocess.run([sys.executable, "-c",
        "import os, calling; print(calling.call(os.environ['PROVIDER']), flush=True); os._exit(0)"], check=True)
"""


def test_what_a_program_spawns_and_executes_is_instrumented(
    environ: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    """The last one leaves by ``os._exit``; what it spooled is sent by who comes next."""
    ids = run(environ, tmp_path, str(write(tmp_path, "shop.py", APP))).split()
    last = adopt(environ, tmp_path)

    wait_until(lambda: len(services(receiver)) == 4)
    assert sorted(services(receiver)) == sorted([*(("shop", made) for made in ids), ("next", last)])


def test_a_command_that_is_no_python_starts_instrumented_pythons(
    environ: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    script = write(tmp_path, "start.sh", f"""
        #!/bin/sh
        exec {sys.executable} -c 'import os, calling; print(calling.call(os.environ["PROVIDER"]))'
        """, executable=True)  # fmt: skip
    made = run(environ, tmp_path, str(script)).strip()

    wait_until(lambda: services(receiver) == [("start", made)])


def test_an_existing_sitecustomize_runs_as_ever(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, "sitecustomize.py", "import sys; sys.customized = True")
    child = write(tmp_path, "child.py", """
        import subprocess, sys
        print(sys.customized, "openai" in sys.modules, flush=True)
        told = "import sys; print(sys.customized, sys.modules['sitecustomize'].__file__)"
        subprocess.run([sys.executable, "-c", told], check=True)
        """)  # fmt: skip
    said = run(environ, tmp_path, str(child)).split()

    assert said == ["True", "False", "True", str(tmp_path / "sitecustomize.py")]


def test_the_hook_is_not_felt_where_tallystick_is_not(environ: dict[str, str], tmp_path: Path) -> None:
    with_hook(environ, "shop")
    script = "import sys; sys.modules['tallystick'] = None; import httpx2; print('fine')"
    ran = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)

    assert (ran.stdout, ran.stderr, ran.returncode) == ("fine\n", "", 0)


def test_a_child_that_uses_no_llm_loads_nothing_of_ours(environ: dict[str, str]) -> None:
    with_hook(environ, "shop")
    script = (
        "import sys; print(sorted(name for name in sys.modules if name.startswith(('tallystick', 'opentelemetry'))))"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_the_hook_stands_first_once_and_keeps_what_was_there() -> None:
    environ = {"PYTHONPATH": os.pathsep.join(["/a", str(HOOK), "/b"])}
    with_hook(environ, "shop")

    assert environ == {"PYTHONPATH": os.pathsep.join([str(HOOK), "/a", "/b"]), "TALLYSTICK_RUN": "shop"}


@pytest.mark.parametrize(
    ("words", "service"),
    [
        ("uvicorn shop.main:app --workers 2", "shop.main"),
        ("gunicorn -w 4 shop:create()", "shop"),
        ("celery -A shop.tasks worker", "shop.tasks"),
        ("/opt/bin/worker --every 5", "worker"),
        ("uvicorn --host ::1", "uvicorn"),
    ],
)
def test_a_service_goes_by_the_app_that_is_served(words: str, service: str) -> None:
    assert _service_of(words.split()) == service


@pytest.mark.parametrize(
    ("name", "text", "own", "expected"),
    [
        ("uvicorn", f"#!{sys.executable}\nimport x", True, True),
        ("uvicorn", "#!/usr/bin/other/python3\nimport x", True, False),
        ("uvicorn", f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\nimport x", True, True),
        ("start", "#!/bin/sh\necho python", True, False),
        ("binary", "\x7fELF python", True, False),
        ("empty", "", True, False),
        ("app.py", "print()", False, True),
    ],
)
def test_a_console_script_of_this_interpreter_is_known(
    tmp_path: Path, name: str, text: str, own: bool, expected: bool
) -> None:
    assert _is_python(write(tmp_path, name, text), own=own) is expected


@pytest.mark.parametrize("words", [["nowhere-to-be-found"], []])
def test_nothing_to_run_is_told(environ: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    ran = subprocess.run([TALLYSTICK, "run", *words], env=environ, capture_output=True, text=True, timeout=60)

    assert ran.returncode == 1
    assert "tallystick run uvicorn app:app" in ran.stderr


def test_a_wrong_setting_is_told_before_a_command_begins(environ: dict[str, str], tmp_path: Path) -> None:
    environ["TALLYSTICK_COLLECTOR"] = "nowhere"
    ran = subprocess.run(
        [TALLYSTICK, "run", "sh", "-c", "echo begun"], env=environ, capture_output=True, text=True, timeout=60
    )

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "collector is 'nowhere'" in ran.stderr


SERVED = """
import os
from calling import call
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    made = f"{call(os.environ['PROVIDER'])} {os.getpid()}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": made.encode()})
"""


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def ask(port: int) -> tuple[str, str] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            made, pid = answer.read().decode().split()
            return made, pid
    except OSError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_and_its_workers_are_instrumented(
    environ: dict[str, str], receiver: Receiver, provider: Provider, tmp_path: Path, workers: int
) -> None:
    """Uvicorn spawns its workers anew; each request of each of them is on the ledger once, though they are killed."""
    write(tmp_path, "served.py", SERVED)
    port = free_port()
    words = ["uvicorn", "served:app", "--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    server = subprocess.Popen([TALLYSTICK, "run", *words], env=environ, cwd=tmp_path, start_new_session=True)
    made: list[tuple[str, str]] = []
    try:
        until = time.monotonic() + 60
        while (len(made) < 20 or len({pid for _, pid in made}) < workers) and time.monotonic() < until:
            answer = ask(port)
            made += [answer] if answer else []
            time.sleep(0.05 if answer is None else 0)
        assert len({pid for _, pid in made}) == workers
        wait_until(lambda: len(services(receiver)) > 0)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
    adopt(environ, tmp_path)

    billed = {item["id"] for item in provider.invoice()["items"]}
    assert {made for made, _ in made} <= billed
    wait_until(lambda: {made for _, made in services(receiver)} == billed)
    assert len(services(receiver)) == len(billed)
    assert {service for service, _ in services(receiver)} == {"served", "next"}
