"""Brings a message to Slack, or says whether to try again; every try ends by its deadline."""

from __future__ import annotations

import logging
import math
import socket
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request

from slack_sdk.webhook import WebhookClient, WebhookResponse

from tallystick.alerts.outside import connection_to, is_url
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tallystick.alerts.slack import Message

DEADLINE_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024
RETRY_AFTER_S_MAX = 86_400
"""A day: an alert that waits longer speaks of a window that is over."""

REMEDIES = {
    400: "Slack does not take this message",
    401: "the webhook URL is not accepted",
    403: "the webhook may not post there; check the app's access to the channel",
    404: "the webhook does not exist; create one anew and set it",
    410: "the channel is archived or the webhook revoked; create one anew and set it",
}

# slack_sdk writes the whole URL into its debug log, and that URL is a secret (3.47.0).
MUTE = logging.Logger("tallystick.mute")  # noqa: LOG001 -- no handler and no parent, on purpose
MUTE.disabled = True


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Slack:
    """An incoming webhook of Slack.  ``webhook_url`` is a secret: no error, log or repr shows it.

    Raises ValueError when it is no http(s) URL.
    """

    def __init__(
        self, webhook_url: str, *, deadline_s: float = DEADLINE_S, clock: Callable[[], datetime] = utc_now
    ) -> None:
        if not is_url(webhook_url):
            raise ValueError("the Slack webhook URL is not a URL; one looks like https://hooks.slack.com/services/...")
        self._webhook_url = webhook_url
        self._deadline_s = deadline_s
        self._clock = clock

    def __repr__(self) -> str:
        return "Slack(webhook_url='***')"

    name = "Slack"

    def deliver(self, message: Message, alert: str = "") -> None:
        """Post ``message``; return when Slack said ok.  Takes at most the deadline, 10 s, name lookup included.

        Raises DeliveryDelayedError when trying again may help (``ambiguous`` when this try may have arrived) and
        DeliveryRefusedError when it cannot.
        """
        exchange = Exchange(self._webhook_url, self._deadline_s)
        answer = exchange.answer(
            lambda: exchange.send(text=message.text, blocks=message.blocks, unfurl_links=False, unfurl_media=False)
        )
        if answer is None:
            raise DeliveryDelayedError(f"Slack did not answer: {exchange.failure}", ambiguous=exchange.was_sent)
        _judge(answer, self._clock())


def _judge(answer: WebhookResponse, now: datetime) -> None:
    status, body = answer.status_code, answer.body.strip()
    if status == 200 and body == "ok":
        return
    if 300 <= status < 400:
        raise DeliveryRefusedError(f"Slack answered {status}, a redirect; it is not followed. Check the webhook URL")
    if status < 300:
        kind = "a web page" if body[:1] == "<" else f"{len(body)} characters"
        raise DeliveryRefusedError(f"the answer is {status} with {kind} instead of 'ok'; is that URL a Slack webhook?")
    if status in (408, 429):
        raise DeliveryDelayedError(f"Slack answered {status}", retry_after_s(answer, now))
    if status >= 500:
        # Only 503 says that nothing was done; behind the others the message may have been posted.
        raise DeliveryDelayedError(f"Slack answered {status}", retry_after_s(answer, now), ambiguous=status != 503)
    remedy = REMEDIES.get(status, "trying again will not help")
    raise DeliveryRefusedError(f"Slack answered {status} ({_word(body)}): {remedy}")


def _word(body: str) -> str:
    """Return Slack's own word for the error (``invalid_blocks``), or nothing of a body that is no word.

    Free text is not repeated: it could hold the URL that was asked for.
    """
    return body if len(body) <= 40 and body.isascii() and body.replace("_", "").isalpha() else "no reason given"


def retry_after_s(answer: WebhookResponse, now: datetime) -> float | None:
    """Return what the answer asks to wait, in seconds, or None.  A number or a date: RFC 9110, section 10.2.3."""
    value = answer.headers.get("retry-after", "")
    try:
        asked_s = float(value)
    except ValueError:
        try:
            asked_s = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError):  # no date; a date without a zone
            return None
    return min(max(asked_s, 0.0), RETRY_AFTER_S_MAX) if math.isfinite(asked_s) else None


class Exchange(WebhookClient):
    """One POST on our own transport, to Slack or elsewhere.

    slack_sdk's own follows redirects, takes the proxy for loopback too, reads an answer of any size, and its timeout
    starts anew with each byte that drips in (3.47.0).  So the one method below that touches the network is replaced,
    and it runs in a thread that the caller leaves at the deadline: nothing else ends a slow name lookup.
    """

    def __init__(self, url: str, deadline_s: float) -> None:
        super().__init__(url, logger=MUTE, retry_handlers=[])
        self.deadline_s = deadline_s
        self.failure = "a fault of tallystick's own; its traceback is in the log"
        self.was_sent = False
        """Whether bytes of the request left; if so it may have arrived."""
        self._socket: socket.socket | None = None
        self._lock = Lock()
        self._is_left = False
        self._done = Event()
        self._answer: WebhookResponse | None = None

    def answer(self, ask: Callable[[], WebhookResponse]) -> WebhookResponse | None:
        """Return the answer to what ``ask`` sends; None when there was none in time, and ``failure`` says why."""
        Thread(target=self._run, args=(ask,), name="tallystick-outside", daemon=True).start()
        if not self._done.wait(self.deadline_s):
            self._hang_up()
            self.failure = f"nothing whole within {self.deadline_s:g} s"
            return None
        return self._answer

    def _run(self, ask: Callable[[], WebhookResponse]) -> None:
        try:
            self._answer = ask()
        except (OSError, HTTPException) as error:
            self.failure = _reason(error)
        finally:
            self._done.set()

    def _hang_up(self) -> None:
        """Leave the thread, and end its wait for a byte; it may just have ended by itself."""
        with self._lock:
            self._is_left = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _start_sending(self, sock: socket.socket | None) -> None:
        """Note that bytes leave from now on; a thread that was left must not send, nobody would know of it."""
        with self._lock:
            if self._is_left:
                raise TimeoutError
            self._socket = sock  # http.client forgets it once the answer has begun
            self.was_sent = True

    def _perform_http_request_internal(self, url: str, req: Request) -> WebhookResponse:
        return self.perform(req)

    def perform(self, req: Request) -> WebhookResponse:
        """Send ``req`` and return the answer, of which 64 kB are read; a redirect is not followed."""
        url = req.full_url
        parts = urlsplit(url)
        # Longer than the deadline, so that only one of the two ever ends a try; this one ends a thread that was left.
        connection = connection_to(parts, self.deadline_s + 1)
        with closing(connection):
            connection.connect()
            self._start_sending(connection.sock)
            target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
            connection.request("POST", target, body=req.data, headers=dict(req.header_items()))
            with closing(connection.getresponse()) as response:
                body = response.read(ANSWER_BYTES_MAX)
                if response.length and len(body) < ANSWER_BYTES_MAX:  # http.client tells only of a cut chunked answer
                    raise IncompleteRead(body, response.length)
        headers: dict[str, Any] = {name.lower(): value for name, value in response.getheaders()}
        return WebhookResponse(
            url=url, status_code=response.status, body=body.decode(errors="replace"), headers=headers
        )


def _reason(error: OSError | HTTPException) -> str:
    """Return why an exchange failed, in words that cannot hold the webhook's path.

    The text of an HTTPException may quote what was sent or received, so only its class is told.
    """
    if isinstance(error, (RemoteDisconnected, IncompleteRead)):
        return "the connection ended before a whole answer came"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__
