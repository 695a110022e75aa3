import gc
import logging
import re
import socket
import ssl
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.slack import PATH, running_slack
from tallystick.alerts import Message, next_try_at, repeated
from tallystick.alerts.deliver import Slack
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError

SECRET = PATH.rpartition("/")[2]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MESSAGE = Message(
    text="chat: 80 % of $10.00 spent today",
    blocks=({"type": "section", "text": {"type": "mrkdwn", "text": "*Warning*"}},),
)
SLOW_MACHINE_S = 8.0


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_channel_shows_the_text_and_the_blocks() -> None:
    with running_slack() as slack:
        Slack(slack.url).deliver(MESSAGE)

    [shown] = slack.messages
    assert shown["text"] == MESSAGE.text
    assert shown["blocks"] == list(MESSAGE.blocks)


def test_links_in_a_message_are_not_unfurled() -> None:
    with running_slack() as slack:
        Slack(slack.url).deliver(MESSAGE)

    assert slack.messages[0]["unfurl_links"] is False
    assert slack.messages[0]["unfurl_media"] is False


@pytest.mark.parametrize(
    ("step", "retry_after_s", "ambiguous"),
    [
        pytest.param("429:7", 7.0, False, id="rate-limited"),
        pytest.param("429", None, False, id="rate-limited-without-retry-after"),
        pytest.param("429:soon", None, False, id="retry-after-is-neither-number-nor-date"),
        pytest.param("429:nan", None, False, id="retry-after-is-no-number"),
        pytest.param("429:-5", 0.0, False, id="retry-after-is-negative"),
        pytest.param("429:999999999", 86400.0, False, id="retry-after-is-years"),
        pytest.param("429:Fri, 20 Nov 2026 12:01:30 GMT", 90.0, False, id="retry-after-is-a-date"),
        pytest.param("429:Fri, 20 Nov 2026 11:59:00 GMT", 0.0, False, id="retry-after-is-past"),
        pytest.param("503:2", 2.0, False, id="unavailable"),
        pytest.param("408", None, False, id="request-timed-out"),
        pytest.param("post500", None, True, id="posted-then-500"),
        pytest.param("502", None, True, id="gateway-lost-it"),
        pytest.param("lost", None, True, id="posted-then-dropped"),
        pytest.param("reset", None, True, id="reset-while-sending"),
        pytest.param("cut", None, True, id="answer-cut-in-its-middle"),
    ],
)
def test_what_may_work_later_is_delayed(step: str, retry_after_s: float | None, ambiguous: bool) -> None:
    with running_slack(step) as slack, pytest.raises(DeliveryDelayedError) as told:
        Slack(slack.url, clock=lambda: NOW).deliver(MESSAGE)

    assert told.value.retry_after_s == retry_after_s
    assert told.value.ambiguous is ambiguous


@pytest.mark.parametrize("step", ["hang", "drip", "slow:60"])
def test_a_try_ends_at_its_deadline_and_may_have_arrived(step: str) -> None:
    with running_slack(step) as slack:
        began = time.monotonic()
        with pytest.raises(DeliveryDelayedError, match=r"within 0\.5 s") as told:
            Slack(slack.url, deadline_s=0.5).deliver(MESSAGE)
        took_s = time.monotonic() - began

    assert told.value.ambiguous
    assert 0.45 <= took_s < SLOW_MACHINE_S


def test_a_try_that_was_left_at_its_deadline_leaves_no_thread_behind() -> None:
    with running_slack("drip") as slack:
        with pytest.raises(DeliveryDelayedError):
            Slack(slack.url, deadline_s=0.3).deliver(MESSAGE)
        _wait_until_no_delivery_runs()


def test_a_slow_name_lookup_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def slow_lookup(*args: Any, **kwargs: Any) -> Any:
        asked.wait(SLOW_MACHINE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    try:
        with pytest.raises(DeliveryDelayedError, match="within") as told:
            Slack("https://slack.invalid/services/T/B/x", deadline_s=0.3).deliver(MESSAGE)
    finally:
        asked.set()

    assert not told.value.ambiguous, "no byte of it left"


def test_nothing_is_sent_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup, found = socket.getaddrinfo, threading.Event()

    def slow_lookup(*args: Any, **kwargs: Any) -> Any:
        found.wait(SLOW_MACHINE_S)
        return lookup(*args, **kwargs)

    with running_slack() as slack:
        monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
        with pytest.raises(DeliveryDelayedError) as told:
            Slack(slack.url, deadline_s=0.3).deliver(MESSAGE)
        found.set()
        _wait_until_no_delivery_runs()

        assert not told.value.ambiguous
        assert slack.tries == []


CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_https_is_spoken_to_a_certificate_that_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    with running_slack(tls=tls()) as slack:
        assert slack.url.startswith("https://")
        Slack(slack.url).deliver(MESSAGE)

    assert len(slack.messages) == 1


def test_a_certificate_that_is_not_trusted_gets_no_message() -> None:
    with running_slack(tls=tls()) as slack, pytest.raises(DeliveryDelayedError, match="CERTIFICATE_VERIFY") as told:
        Slack(slack.url).deliver(MESSAGE)

    assert not told.value.ambiguous
    assert slack.tries == []


@pytest.mark.parametrize("step", ["hang", "drip"])
def test_a_try_over_https_ends_at_its_deadline(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    with running_slack(step, tls=tls()) as slack:
        with pytest.raises(DeliveryDelayedError, match="within") as told:
            Slack(slack.url, deadline_s=0.5).deliver(MESSAGE)
        _wait_until_no_delivery_runs()

    assert told.value.ambiguous


def test_a_slow_answer_before_the_deadline_is_delivered() -> None:
    with running_slack("slow:0.3") as slack:
        Slack(slack.url).deliver(MESSAGE)

    assert len(slack.messages) == 1


def test_nobody_listening_is_delayed_and_cannot_have_arrived() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(DeliveryDelayedError, match="refused") as told:
        Slack(f"http://127.0.0.1:{port}{PATH}").deliver(MESSAGE)

    assert not told.value.ambiguous


@pytest.mark.parametrize(
    ("step", "says"),
    [
        pytest.param("400", "400 (some_reason): Slack does not take this message", id="bad-message"),
        pytest.param("403", "may not post there", id="forbidden"),
        pytest.param("404", "does not exist", id="gone-webhook"),
        pytest.param("410", "archived or the webhook revoked", id="archived"),
        pytest.param("418", "trying again will not help", id="any-other-4xx"),
        pytest.param("html", "200 with a web page instead of 'ok'", id="captive-portal"),
        pytest.param("big", "instead of 'ok'", id="endless-answer"),
        pytest.param("redirect", "302, a redirect; it is not followed", id="redirect"),
    ],
)
def test_what_cannot_work_is_refused(step: str, says: str) -> None:
    with running_slack(step) as slack, pytest.raises(DeliveryRefusedError, match=re.escape(says)):
        Slack(slack.url).deliver(MESSAGE)

    assert slack.messages == []


def test_a_redirect_is_not_followed() -> None:
    with running_slack("redirect") as slack:
        with pytest.raises(DeliveryRefusedError):
            Slack(slack.url).deliver(MESSAGE)

        assert slack.strays == []


def test_slacks_own_word_for_a_bad_message_is_told() -> None:
    long_header = {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}

    with running_slack() as slack, pytest.raises(DeliveryRefusedError, match="invalid_blocks"):
        Slack(slack.url).deliver(Message(text="x", blocks=(long_header,)))


def test_an_endless_answer_is_read_to_64_kb_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_slack("big") as slack, pytest.raises(DeliveryRefusedError, match="65536 characters"):
        Slack(slack.url).deliver(MESSAGE)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_no_proxy_is_used_for_loopback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")

    with running_slack() as slack:
        Slack(slack.url).deliver(MESSAGE)
        Slack(slack.url.replace("127.0.0.1", "localhost")).deliver(MESSAGE)

    assert len(slack.messages) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_proxy_is_asked_for_a_tunnel_and_never_sees_the_webhooks_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with _proxy_that_refuses() as (address, heard):
        monkeypatch.setenv("https_proxy", f"http://us%40er:pass@{address}")
        with pytest.raises(DeliveryDelayedError, match="407") as told:
            Slack(f"https://slack.invalid{PATH}").deliver(MESSAGE)

    [asked] = heard
    assert asked.startswith("CONNECT slack.invalid:443 ")
    assert "Proxy-Authorization: Basic dXNAZXI6cGFzcw==" in asked, "us@er:pass"
    assert SECRET not in asked
    assert not told.value.ambiguous
    del told
    gc.collect()  # here, for the http.client of some 3.11 leaves a refused tunnel's answer open, and is warned of it


def test_a_proxy_that_is_no_url_is_told_and_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:port")

    with pytest.raises(DeliveryDelayedError, match="https_proxy names is no URL"):
        Slack(f"https://slack.invalid{PATH}").deliver(MESSAGE)


@pytest.mark.parametrize(
    "step", ["ok", "429:1", "500", "403", "lost", "reset", "hang", "html", "redirect", "big", "cut"]
)
def test_the_webhook_url_is_in_no_error_log_or_repr(step: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = ""
    with running_slack(step) as slack:
        channel = Slack(slack.url, deadline_s=0.5 if step == "hang" else 10.0)
        try:
            channel.deliver(MESSAGE)
        except (DeliveryDelayedError, DeliveryRefusedError) as error:
            told = "".join(traceback.format_exception(error)) + repr(vars(error))

    assert (told != "") == (step != "ok")
    assert SECRET not in told + caplog.text + repr(channel)


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.slack.com/services/secret", "ftp://x/secret", "https://", "https://[secret", "https://host:secret/",
        "https://host/secret path", "https://host/secret\r\nX: y", "https://hóst/secret",
    ],
)  # fmt: skip
def test_what_is_no_webhook_url_is_said_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL") as told:
        Slack(url)

    assert "secret" not in "".join(traceback.format_exception(told.value)).partition("ValueError:")[2]


def test_retries_back_off_to_five_minutes() -> None:
    waits_s = [(next_try_at(deliveries, NOW) - NOW).total_seconds() for deliveries in (1, 2, 3, 9, 10, 11, 10**9)]

    assert waits_s == [1, 2, 4, 256, 300, 300, 300]


@settings(deadline=None)  # a slow machine is no fault
@given(deliveries=st.integers(0, 10**6), retry_after_s=st.none() | st.floats(0, 86400))
def test_no_retry_comes_before_retry_after(deliveries: int, retry_after_s: float | None) -> None:
    again = next_try_at(deliveries, NOW, retry_after_s)

    assert again >= NOW + timedelta(seconds=max(1.0, retry_after_s or 0.0))
    assert again <= NOW + timedelta(seconds=max(300.0, retry_after_s or 0.0))


def test_an_alert_whose_first_answer_was_lost_is_seen_twice_and_the_second_is_marked() -> None:
    with running_slack("lost", "ok") as slack:
        channel = Slack(slack.url)
        with pytest.raises(DeliveryDelayedError) as told:
            channel.deliver(MESSAGE)
        assert told.value.ambiguous
        channel.deliver(repeated(MESSAGE))

    first, second = slack.messages
    assert "repeated" not in str(first)
    assert second["text"].endswith("(repeated: the first answer was lost)")
    assert "(repeated: the first answer was lost)" in str(second["blocks"])


def _wait_until_no_delivery_runs() -> None:
    deadline = time.monotonic() + SLOW_MACHINE_S
    while any(thread.name == "tallystick-outside" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread still tries to deliver"
        time.sleep(0.01)


class _proxy_that_refuses:  # noqa: N801 -- used like a function
    """A proxy that answers 407 to one request and keeps what it heard."""

    def __enter__(self) -> tuple[str, list[str]]:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(SLOW_MACHINE_S)
        self._heard: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"127.0.0.1:{self._server.getsockname()[1]}", self._heard

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            heard = b""
            while b"\r\n\r\n" not in heard:
                heard += connection.recv(4096)
            self._heard.append(heard.decode())
            connection.sendall(b"HTTP/1.0 407 Proxy Authentication Required\r\n\r\n")

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._server.close()
