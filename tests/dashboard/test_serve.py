from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tallystick.dashboard import run
from tallystick.dashboard.preload import DRAWN_FIRST
from tallystick.dashboard.serve import flags, free_port, is_loopback
from tallystick.errors import PortTakenError, SettingsError

DEADLINE_S = 60.0


@contextmanager
def dashboard(collector: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command in a folder of its own; yield the process and the address that it said."""
    command = [sys.executable, "-m", "tallystick", "dashboard", "--collector", collector, "--port", "0"]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Dashboard at http://127.0.0.1:"), line
        address = line.split()[2]
        _until_it_answers(address)
        yield process, address
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def _until_it_answers(address: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if _get(address, "/_stcore/health")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"nothing answers at {address}"
        time.sleep(0.05)


def _get(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=DEADLINE_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_what_draws_the_tiles_is_fetched_with_the_page(tmp_path: Path) -> None:
    with dashboard("http://127.0.0.1:9", tmp_path) as (_, address), urllib.request.urlopen(address) as page:
        html = page.read()
        named = re.findall(r"<(/static/js/[^>]+)>; rel=modulepreload", page.headers["Link"])
        assert {path.split("/")[-1].split(".")[0] for path in named} > set(DRAWN_FIRST)
        assert not any(path.encode() in html for path in named)
        assert {_get(address, path)[0] for path in named} == {200}
        with urllib.request.urlopen(address + named[0]) as script:
            assert script.headers["Link"] is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.com", ""])
def test_only_this_machine_may_see_the_pages(host: str) -> None:
    with pytest.raises(SettingsError, match="no login yet"):
        run(collector="http://127.0.0.1:4318", host=host, port=8501)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.53"])
def test_loopback_has_many_names(host: str) -> None:
    assert is_loopback(host)


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(PortTakenError) as told:
            run(collector="http://127.0.0.1:4318", host="127.0.0.1", port=port)

    assert (told.value.host, told.value.port) == ("127.0.0.1", port)


def test_port_zero_takes_a_free_one() -> None:
    assert free_port("127.0.0.1", 0) > 0


def test_nothing_is_told_to_anybody_and_nobody_is_asked() -> None:
    from streamlit import config

    told = flags("127.0.0.1", 8501)

    assert told["browser.gatherUsageStats"] is False
    assert told["server.headless"] is True
    assert told["server.allowedHosts"] == ["127.0.0.1", "::1", "localhost"]
    assert told["client.showErrorDetails"] == "none"
    assert set(told) <= set(config._config_options_template)


def test_the_command_says_one_line_serves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()

    with dashboard("http://127.0.0.1:9", folder) as (process, address):
        status, page = _get(address, "/")

    assert (status, b"<title>" in page.lower()) == (200, True)
    assert process.returncode in (0, -15)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "evil.example"}, 403, id="a-name-that-was-rebound-to-this-machine"),
        pytest.param({"Origin": "https://evil.example"}, 403, id="a-page-of-another-site"),
        pytest.param({}, 101, id="our-own-page"),
    ],
)
def test_other_sites_do_not_get_at_the_figures(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "streamlit",
    }
    with dashboard("http://127.0.0.1:9", tmp_path) as (_, address):
        connection = HTTPConnection(address.removeprefix("http://"), timeout=DEADLINE_S)
        connection.request("GET", "/_stcore/stream", headers={**handshake, **headers})

        assert connection.getresponse().status == status
        connection.close()
