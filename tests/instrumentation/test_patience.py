"""Calls that may wait ask a busy collector once, and tell a collector nothing that cannot have heard a question."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

import tallystick
from fakes.collector import until
from fakes.provider import Provider
from tallystick.errors import BudgetExceededError
from tallystick.instrumentation import _bank

RULE = {"name": "team", "unit": "calls", "limit": "9", "action": "block", "fail": "closed", "wait_s": 5}
ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 300, "messages": [{"role": "user", "content": "hi"}]}


class Ledger(ThreadingHTTPServer):
    """Plays the collector's part about budgets: it lets everybody through, and thinks for ``takes_s`` first."""

    def __init__(self, port: int = 0, takes_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.takes_s = takes_s
        self.asked: list[str] = []
        self.settled: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Ledger

    def do_GET(self) -> None:
        self.answer({"version": "1", "budgets": [RULE]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = json.loads(body) if self.path.startswith("/api") else {}
        if self.path.endswith("/settle"):
            self.server.settled += [one["id"] for one in told["settlements"]]
        elif self.path.endswith("/reservations"):
            self.server.asked.append(told["id"])
            time.sleep(self.server.takes_s)
        self.answer({"version": "1", "admitted": True, "budgets": ["team"]})

    def answer(self, told: dict[str, Any]) -> None:
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(ledger: Ledger) -> Iterator[Ledger]:
    threading.Thread(target=ledger.serve_forever, args=(0.02,)).start()
    try:
        yield ledger
    finally:
        ledger.shutdown()
        ledger.server_close()


@contextmanager
def instrumented(ledger: Ledger, provider: Provider, spool: Path) -> Iterator[None]:
    tallystick.instrument(collector=ledger.url, spool=spool, providers=provider.mapping)
    try:
        yield
    finally:
        tallystick.uninstrument()


def test_a_call_that_may_wait_asks_a_busy_collector_once(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI
) -> None:
    takes_s = 2 * _bank.ANSWER_S
    with running(Ledger(takes_s=takes_s)) as ledger, instrumented(ledger, provider, tmp_path):
        oai.chat.completions.create(**ASKED)

        assert len(ledger.asked) == 1
        until(lambda: ledger.settled == ledger.asked, "it was not settled")


def test_a_collector_that_was_gone_is_told_of_no_call_that_it_cannot_have_heard_of(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bank, "RELEASE_AGAIN_S", 0.1)
    monkeypatch.setitem(RULE, "wait_s", 0.3)
    with running(Ledger()) as before:
        with instrumented(before, provider, tmp_path):
            oai.chat.completions.create(**ASKED)
        port = before.server_address[1]
    with instrumented(before, provider, tmp_path):
        with pytest.raises(BudgetExceededError, match="refused"):
            oai.chat.completions.create(**ASKED)
        with running(Ledger(port)) as after:
            until(lambda: _passes(oai), "no call was let through")
            until(lambda: bool(after.settled), "it was not settled")

            assert set(after.settled) <= set(after.asked)


def _passes(oai: openai.OpenAI) -> bool:
    try:
        oai.chat.completions.create(**ASKED)
    except BudgetExceededError:
        return False
    return True
