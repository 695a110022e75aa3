"""`tallystick tail`, `top` and `doctor` in a real terminal, against a real collector."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, running_collector
from tallystick.client import Collector
from tallystick.watch import arrived, call_line, cost, told

USAGE = {"input_tokens": 1200, "output_tokens": 350}
EVIL = "a\x1b[2J\x1b]0;owned\x07\u202eb"
DEADLINE_S = 60.0


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        running.send(
            otlp_call(id="00000000000000a1", usage=USAGE, tallystick__feature="chat"),
            otlp_call(id="00000000000000a2", usage=USAGE, service=EVIL, model=EVIL, user__id=EVIL, outcome=EVIL),
            otlp_call(id="00000000000000a3", outcome="server_error", service="jobs"),
        )
        yield running


@contextmanager
def terminal(running: Running, *arguments: str) -> Iterator[Any]:
    """Run a command in a terminal of 160 columns; what is yielded waits for a text and returns all that was shown."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "30", "TALLYSTICK_COLLECTOR": running.url}
    command = [sys.executable, "-m", "tallystick", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    os.close(theirs)
    said = b""

    def wait_for(text: str, times: int = 1) -> str:
        nonlocal said
        deadline = time.monotonic() + DEADLINE_S
        while said.decode(errors="replace").count(text) < times:
            assert time.monotonic() < deadline, said
            if select.select([ours], [], [], 0.2)[0]:
                said += os.read(ours, 65536)
        return said.decode(errors="replace")

    try:
        yield process, wait_for
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_tail_shows_what_was_there_and_what_comes_and_ends_quietly(collector: Running) -> None:
    with terminal(collector, "tail") as (process, wait_for):
        wait_for("00000000000000a3")
        collector.send(otlp_call(id="00000000000000b1", usage=USAGE, tallystick__feature="late"))
        said = wait_for("00000000000000b1")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    assert "Traceback" not in said
    assert "\x1b[32m" in said  # green
    assert "\x1b[31m" in said  # red
    lines = plain(said)
    assert re.search(r"answered +\$0\.0088 +claude-sonnet-4-5 +1,200 in +350 out +800 ms +shop chat", lines)
    assert re.search(r"error in the provider +\$0 +claude", lines)
    # Nothing of what came from outside is obeyed: of escapes only colours are left.
    assert set(re.findall(r"\x1b(?!\[[0-9;]*m)..", said)) == set()
    assert "\u202e" not in said
    assert "\x07" not in said


def test_tail_shows_only_what_was_asked_for(collector: Running) -> None:
    seen: set[str] = set()
    asked = Collector(collector.url)

    def ids(**filters: list[str]) -> list[str]:
        return [row["id"][-2:] for row in arrived(asked, filters, set())]

    assert ids(service=["jobs"]) == ["a3"]
    assert ids(service=["jobs", "shop"]) == ["a1", "a3"]
    assert ids(outcome=["failed"]) == ["a2", "a3"]
    assert len(list(arrived(asked, {}, seen))) == 3
    assert list(arrived(asked, {}, seen)) == []


def test_top_draws_itself_anew(collector: Running) -> None:
    with terminal(collector, "top", "--by", "service", "--since", "24h") as (process, wait_for):
        wait_for("jobs")
        collector.send(otlp_call(usage=USAGE, service="newcomer"))
        said = wait_for("newcomer")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    assert "by service; ctrl-C ends it" in said
    assert "Traceback" not in said


def test_top_through_a_pipe_prints_each_look_below_the_one_before(collector: Running) -> None:
    command = [sys.executable, "-m", "tallystick", "top", "--by", "service", "--since", "24h",
               "--collector", collector.url]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    while sum("by service; ctrl-C ends it" in line for line in said) < 2:
        said.append(process.stdout.readline())
        assert said[-1], said  # it ended
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0
    assert any(line.startswith("jobs") for line in said)
    assert "\x1b" not in "".join(said) + rest


def test_the_doctor_says_what_settings_show(collector: Running) -> None:
    command = [sys.executable, "-m", "tallystick", "doctor", "--collector", collector.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)

    assert (ran.returncode, ran.stderr) == (0, "")
    for check in collector.ask("doctor")["checks"]:
        assert f"{check['state']:5}{check['name']:10}" in ran.stdout
        assert check["todo"] in ran.stdout
    assert "alerts go nowhere" in ran.stdout
    assert "service   jobs: 1 call in 7 days" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_the_doctor_of_a_collector_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tallystick", "doctor", "--collector", "http://127.0.0.1:9"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)

    assert ran.returncode == 1
    assert "tallystick up" in ran.stderr


ROW: dict[str, Any] = {
    "id": "00000000000000a1", "started_at": "2026-11-21T12:00:00Z", "outcome": "ok", "attempts": 1, "units": 1,
    "cost_usd": "0.00885", "model": "m", "input_tokens": 1, "output_tokens": 2, "latency_ms": 3.0, "service": None,
    "feature": None, "user": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words", "money", "colour"),
    [
        ({}, "answered", "$0.0088", "green"),
        ({"attempts": 3}, "answered at try 3", "$0.0088", "yellow"),
        ({"outcome": "rate_limited", "units": 0, "cost_usd": "0"}, "rate limit of the provider", "$0", "red"),
        ({"outcome": "timeout_read", "units": 0, "cost_usd": "0"}, "no answer in time", "may be billed", "red"),
        ({"cost_usd": None}, "answered", "unpriced", "green"),
        ({"outcome": "of_a_later_version"}, "of a later version", "$0.0088", "red"),
    ],
)
def test_a_call_is_told_as_the_pages_tell_it(change: dict[str, Any], words: str, money: str, colour: str) -> None:
    row = {**ROW, **change}

    assert (told(row), cost(row)) == (words, money)
    assert any(str(span.style) == colour for span in call_line(row).spans)
