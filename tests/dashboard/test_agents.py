"""A program may read the pages where the user said so, and nowhere else: Streamlit's own MCP server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import otlp_call, running_collector
from tallystick.dashboard.pages import NAMES

DEADLINE_S = 60.0
MCP, INTERACT = "/_stcore/agent/mcp", "/_stcore/agent/interact"


@pytest.fixture(params=[["--agents"], ["TALLYSTICK_DASHBOARD_AGENTS=1"], []], ids=["option", "variable", "off"])
def dashboard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the address of a dashboard, and whether agents may ask it; its collector has one call for $0.00885."""
    words: list[str] = request.param
    environ = {**os.environ, **dict(word.split("=") for word in words if "=" in word)}
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage={"input_tokens": 1200, "output_tokens": 350}, tallystick__feature="chat"))
        command = [sys.executable, "-m", "tallystick", "dashboard", "--collector", running.url, "--port", "0"]
        command += [word for word in words if word.startswith("--")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=tmp_path)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[2], bool(words)
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)


def post(address: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        connection = HTTPConnection(address.removeprefix("http://"), timeout=DEADLINE_S)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {address}"
            time.sleep(0.1)
        finally:
            connection.close()


def test_an_agent_reads_what_was_spent_only_where_it_may(dashboard: tuple[str, bool]) -> None:
    address, may = dashboard
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    status, answer = post(address, MCP, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    if not may:
        assert status >= 400
        assert "result" not in answer
        assert post(address, INTERACT, {})[0] >= 400
        return

    assert (status, answer["result"]["serverInfo"]["name"]) == (200, "streamlit")
    asked = {"name": "interact", "arguments": {"query_params": {"by": ["feature"]}}}
    _, answer = post(address, MCP, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": asked})
    told = json.dumps(answer)
    assert "$0.0088" in told.replace("\\", "")
    assert "chat" in told
    for name in NAMES:
        status, page = post(address, INTERACT, {"page": "" if name == "spend" else name})
        assert (status, page["status"], page["page"]["title"]) == (200, "ready", name.capitalize())
    assert post(address, INTERACT, {}, Origin="https://example.com")[0] == 403
    assert post(address, INTERACT, {}, Host="example.com")[0] == 403
