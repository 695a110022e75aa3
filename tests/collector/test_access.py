"""Who is let in: a token, TLS, the names by which others may ask; and what the askers of ours do about it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.collector import Running, otlp_call, running_collector
from tallystick.client import Collector
from tallystick.collector.openapi import document
from tallystick.collector.serve import RANGED
from tallystick.collector.settings import load
from tallystick.errors import CollectorRefusedError, CollectorUnreachableError, SettingsError
from tallystick.instrumentation._ship import Undelivered, post
from tallystick.supervise import house

TOKEN = "a-token-of-some-length"
CERTIFICATE = Path(__file__).parents[1] / "alerts" / "tls" / "localhost.pem"
ROUTES = sorted(
    (method.upper(), path.replace("{id}", "0" * 16))
    for path, methods in document([*RANGED, "advice"])["paths"].items()
    for method in methods
    if path != "/healthz"
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("guarded"), token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("bearer", [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN} ", f"Basic {TOKEN}", TOKEN])
@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/nowhere"), ("GET", "/metrics"), ("GET", "/readyz")])
def test_every_route_needs_the_token(guarded: Running, method: str, path: str, bearer: str | None) -> None:
    headers = {} if bearer is None else {"authorization": bearer}
    status, answered, body = guarded.request(method, path, b"{}" if method != "GET" else None, **headers)

    if bearer == f"Bearer {TOKEN} ":  # HTTP does not count the space at a value's end
        assert status != 401
        return
    assert (status, answered["www-authenticate"]) == (401, "Bearer")
    assert TOKEN.encode() not in body


def test_health_alone_is_open(guarded: Running) -> None:
    assert guarded.request("GET", "/healthz")[0] == 200
    assert guarded.request("GET", "/healthz", host="evil.example")[0] == 421


def test_two_tokens_are_none(guarded: Running) -> None:
    port = int(guarded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain:
        bearer = f"Authorization: Bearer {TOKEN}\r\n"
        plain.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{bearer}{bearer}\r\n".encode())
        assert plain.recv(64).startswith(b"HTTP/1.1 401 ")


def test_our_own_askers_bear_the_token(guarded: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CollectorRefusedError, match="set TALLYSTICK_TOKEN"):
        guarded.ask("ledger")
    with pytest.raises(Undelivered, match="answered 401"):
        post(guarded.url, otlp_call().SerializeToString(), 5.0)

    monkeypatch.setenv("TALLYSTICK_TOKEN", TOKEN)
    post(guarded.url, otlp_call().SerializeToString(), 5.0)
    guarded.settle()
    assert guarded.ask("ledger")["stored_spans"] >= 1

    monkeypatch.delenv("TALLYSTICK_TOKEN")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("TALLYSTICK_TOKEN_FILE", str(tmp_path / "token"))
    assert guarded.ask("ledger")


def test_an_app_without_the_token_keeps_its_records(guarded: Running) -> None:
    # 401 may be mended by setting the token: the segment stays and is sent again.
    with pytest.raises(Undelivered) as refused:
        post(guarded.url, otlp_call().SerializeToString(), 5.0)
    assert not refused.value.final


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector that others can reach, as far as its settings go."""
    doors = {"host": "0.0.0.0", "hosts": ["collector.example"], "token": TOKEN, "tls_certificate": str(CERTIFICATE)}
    with running_collector(tmp_path_factory.mktemp("secure"), **doors) as running:
        port = running.url.rpartition(":")[2]
        yield Running(running.folder, f"https://localhost:{port}", running.pid)


def test_beyond_loopback_all_goes_over_tls(secure: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_TOKEN", TOKEN)
    with pytest.raises(CollectorUnreachableError, match="certificate"):
        secure.ask("ledger")
    with pytest.raises(Undelivered, match="certificate"):
        post(secure.url, otlp_call().SerializeToString(), 5.0)

    monkeypatch.setenv("TALLYSTICK_CA", str(CERTIFICATE))
    post(secure.url, otlp_call().SerializeToString(), 5.0)
    secure.settle()
    assert secure.ask("ledger")["stored_spans"] == 1
    plain = Collector(secure.url.replace("https:", "http:"))
    assert not plain.is_healthy()


def test_the_names_in_the_settings_are_ours(secure: Running) -> None:
    context = ssl.create_default_context(cafile=CERTIFICATE)
    port = int(secure.url.rpartition(":")[2])
    answers = {}
    for host in ("collector.example", "COLLECTOR.example:4318", "evil.example", "0.0.0.0"):
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as plain,
        ):
            plain.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answers[host] = plain.recv(12)[-3:]
    assert answers == {
        "collector.example": b"200", "COLLECTOR.example:4318": b"200", "evil.example": b"421", "0.0.0.0": b"421"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("host = '10.0.0.1'", "that needs token or token_file and tls_certificate too"),
        ("host = '10.0.0.1'\ntoken = 'sixteen-characters'", "that needs tls_certificate too"),
        ("host = '10.0.0.1'\ntls_certificate = 'CERT'", "that needs token or token_file too"),
        ("host = '0.0.0.0'\ntoken = 'sixteen-characters'\ntls_certificate = 'CERT'", "but hosts is empty"),
        ("token = 'short'", "token has 5 characters; 16 or more are needed"),
        ("token = 'sixteen characters \u00e4'", "of printable ASCII"),
        ("tls_certificate = 'nowhere.pem'", "tls_certificate is nowhere.pem, which is no file"),
        ("tls_key = 'CERT'", "tls_key is set without tls_certificate"),
        ("token_file = 'nowhere'", "token_file nowhere cannot be read"),
    ],
)
def test_doors_that_cannot_work_are_refused(tmp_path: Path, lines: str, told: str) -> None:
    path = tmp_path / "tallystick.toml"
    path.write_text("[collector]\n" + lines.replace("CERT", str(CERTIFICATE)), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load(config=path)
    assert told in str(error.value)
    assert "sixteen" not in str(error.value)


def test_a_token_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o640)
    config = tmp_path / "tallystick.toml"
    config.write_text(f"[collector]\ntoken_file = '{file}'")
    with pytest.raises(SettingsError, match=r"readable by others \(mode 640\); chmod 600"):
        load(config=config)
    file.chmod(0o600)
    assert load(config=config).collector.bearer() == TOKEN


def test_the_dashboard_of_up_is_given_the_token_and_the_name(tmp_path: Path) -> None:
    config = tmp_path / "tallystick.toml"
    config.write_text(
        f"[collector]\nhost = '0.0.0.0'\nhosts = ['collector.example']\ntoken = '{TOKEN}'\nport = 0\n"
        f"data = '{tmp_path}'\ntls_certificate = '{CERTIFICATE}'"
    )
    collector, dashboard = house(None, None, 0, config)

    assert collector.is_tls
    assert f"https://collector.example:{collector.port}" in dashboard.arguments
    assert dashboard.variables == {"TALLYSTICK_TOKEN": TOKEN}
    assert TOKEN not in " ".join([*collector.arguments, *dashboard.arguments])


def test_the_token_does_not_leave_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_TOKEN", TOKEN)
    with pytest.raises(SettingsError, match="in the clear; write https://") as error:
        Collector("http://collector.example:4318").ask("ledger")
    assert TOKEN not in str(error.value)
