"""`tallystick up`: both parts or a reason, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tallystick.errors import PortTakenError, SettingsError
from tallystick.supervise import Part, PartFailedError, Supervisor, free_port, house, up

DEADLINE_S = 90.0


def test_up_says_both_addresses_serves_both_and_leaves_nothing_when_told_to_end(tmp_path: Path) -> None:
    with _running(
        ["up", "--data", str(tmp_path / "data"), "--port", "0", "--dashboard-port", "0"], tmp_path
    ) as process:
        dashboard = _line(process, r"Dashboard +http://127\.0\.0\.1:(\d+)")
        collector = _line(process, r"Collector +http://127\.0\.0\.1:(\d+)")
        assert _status(int(dashboard[1]), "/_stcore/health") == 200
        assert _status(int(collector[1]), "/healthz") == 200
        children = _children(process.pid)
        assert len(children) == 2

        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == 0
        assert not [pid for pid in children if _exists(pid)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_part_survives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with _running(
        ["up", "--data", str(tmp_path / "data"), "--port", "0", "--dashboard-port", "0"], tmp_path
    ) as process:
        _line(process, r"Collector +http")
        children = _children(process.pid)
        assert len(children) == 2

        process.kill()
        process.wait(DEADLINE_S)

        _until(lambda: not [pid for pid in children if _exists(pid)])


def test_a_part_that_crashes_is_started_again_and_said_so(tmp_path: Path) -> None:
    said: list[str] = []
    collector, _ = house(tmp_path / "data", 0, 0, None)
    with _supervised([collector], said) as supervisor:
        _until(supervisor.is_healthy)
        first = supervisor.pids["collector"]

        os.kill(first, signal.SIGKILL)

        _until(lambda: _ticked(supervisor) and supervisor.pids["collector"] != first and supervisor.is_healthy())
        _until(lambda: _ticked(supervisor) and said[-1] == "tallystick: the collector serves again")
    assert said[0] == "tallystick: the collector was ended by SIGKILL; starting it again in 0.5 s"


def test_what_a_part_says_is_passed_on_with_its_name(tmp_path: Path) -> None:
    said: list[str] = []
    part = _script_part(tmp_path, "print('tallystick: the disk is full', flush=True)\nserve()\ntime.sleep(60)")
    with _supervised([part], said) as supervisor:
        _until(supervisor.is_healthy)
        _until(lambda: any("the disk is full" in line for line in said))

    assert said[0].split() == ["odd", "|", "the", "disk", "is", "full"]


def test_a_part_that_says_why_it_cannot_run_is_not_started_again(tmp_path: Path) -> None:
    part = _script_part(tmp_path, "print('tallystick: the folder is locked', file=sys.stderr)\nsys.exit(1)")
    with _supervised([part], []) as supervisor, pytest.raises(PartFailedError, match=r"^the folder is locked$"):
        _until(lambda: _ticked(supervisor) and False)
    assert (tmp_path / "starts").read_text() == "x"


def test_a_part_that_never_serves_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallystick.supervise.BACKOFF_S", (0.01,))
    part = _script_part(tmp_path, "raise SystemExit('no library')")
    with _supervised([part], []) as supervisor, pytest.raises(PartFailedError, match=r"5 times.*no library"):
        _until(lambda: _ticked(supervisor) and False)
    assert (tmp_path / "starts").read_text() == "xxxxx"


def test_a_part_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.supervise.TERM_DEADLINE_S", 0.3)
    part = _script_part(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()\ntime.sleep(60)")
    with _supervised([part], []) as supervisor:
        _until(supervisor.is_healthy)
        pid = supervisor.pids["odd"]
    assert not _exists(pid)


def test_a_second_collector_on_a_folder_ends_up_with_the_reason(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _running(["collect", "--data", str(data), "--port", "0"], tmp_path) as holder:
        _line(holder, "collector at")

        with _running(["up", "--data", str(data), "--port", "0", "--dashboard-port", "0"], tmp_path) as process:
            assert process.wait(DEADLINE_S) == 1
            assert process.stdout is not None
            told = process.stdout.read()

    assert re.search(r"^tallystick: cannot open .* holds it", told, re.MULTILINE)
    assert "starting it again" not in told


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        ports = {"port": 0, "dashboard_port": 0} | {option.removeprefix("--").replace("-", "_"): port}

        with pytest.raises(PortTakenError, match=f"{port}.*{option}"):
            up(tmp_path / "data", ports["port"], ports["dashboard_port"], None)

    assert not (tmp_path / "data").exists()


def test_wrong_settings_are_told_before_anything_starts(tmp_path: Path) -> None:
    config = tmp_path / "tallystick.toml"
    config.write_text("[collector]\nprot = 4318\n", encoding="utf-8")

    with pytest.raises(SettingsError, match="unknown key 'prot'"):
        up(tmp_path / "data", 0, 0, config)

    assert not (tmp_path / "data").exists()


def test_links_in_messages_lead_to_this_dashboard_unless_the_settings_name_another(tmp_path: Path) -> None:
    collector, dashboard = house(tmp_path, 0, 0, None)
    assert collector.variables == {"TALLYSTICK_DASHBOARD_URL": dashboard.url}

    config = tmp_path / "tallystick.toml"
    config.write_text('[alerts]\ndashboard_url = "https://costs.example"\n', encoding="utf-8")
    assert house(tmp_path, 0, 0, config)[0].variables == {}


# What the tests need --------------------------------------------------------------------------------------------------

SERVE = """
import signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

with Path({starts!r}).open("a") as starts:
    starts.write("x")

class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass

def serve():
    server = HTTPServer(("127.0.0.1", {port}), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
"""


def _script_part(tmp_path: Path, does: str) -> Part:
    """Return a part that runs a script of the test's, by way of ``tallystick run``."""
    port = free_port("127.0.0.1", 0, "--port")
    script = tmp_path / "odd.py"
    script.write_text(SERVE.format(starts=str(tmp_path / "starts"), port=port) + does, encoding="utf-8")
    return Part(name="odd", arguments=["run", str(script)], host="127.0.0.1", port=port, health_path="/")


@contextmanager
def _supervised(parts: list[Part], said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(parts, said.append)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _ticked(supervisor: Supervisor) -> bool:
    supervisor.tick()
    return True


@contextmanager
def _running(arguments: list[str], folder: Path) -> Iterator[Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystick", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()


def _line(process: Any, pattern: str) -> re.Match[str]:
    """Return the match of the first line that has ``pattern``; a watchdog ends the wait at the deadline."""
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    seen = []
    try:
        for line in process.stdout:
            seen.append(line)
            if found := re.search(pattern, line):
                return found
    finally:
        watchdog.cancel()
    raise AssertionError(f"no line has {pattern!r}: {''.join(seen)}")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _exists(pid: int) -> bool:
    """Tell whether a process is there and not only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
