"""A signed webhook: alerts as JSON for whatever can take a POST."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING
from urllib.request import Request

from tallystick.alerts.deliver import DEADLINE_S, Exchange, retry_after_s, utc_now
from tallystick.alerts.outside import is_url
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tallystick.alerts.slack import Message


class Webhook:
    """A POST of ``{"id", "text", "blocks"}`` to ``url``, signed with ``secret``.

    ``X-Tallystick-Signature`` is ``v1=`` and the HMAC-SHA256, in hex, of ``TIMESTAMP.BODY``, where the timestamp is in
    ``X-Tallystick-Timestamp``, in seconds.  ``id`` is the same when a message is sent again.  Raises ValueError when
    ``url`` is no http(s) URL.
    """

    name = "webhook"

    def __init__(
        self, url: str, secret: str, *, deadline_s: float = DEADLINE_S, clock: Callable[[], datetime] = utc_now
    ) -> None:
        if not is_url(url):
            raise ValueError("webhook_url is no URL; one looks like https://example.org/hooks/tallystick")
        self._url = url
        self._secret = secret
        self._deadline_s = deadline_s
        self._clock = clock

    def __repr__(self) -> str:
        return "Webhook(url='***', secret='***')"

    def deliver(self, message: Message, alert: str) -> None:
        """Post ``message``; return when the receiver answered 2xx, at most the deadline later.

        Raises DeliveryDelayedError when trying again may help and DeliveryRefusedError when it cannot.
        """
        body = json.dumps({"id": alert, "text": message.text, "blocks": message.blocks}, ensure_ascii=False).encode()
        at = str(int(self._clock().timestamp()))
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "tallystick",
            "X-Tallystick-Timestamp": at,
            "X-Tallystick-Signature": f"v1={signature(self._secret, at, body)}",
        }
        exchange = Exchange(self._url, self._deadline_s)
        request = Request(self._url, data=body, headers=headers, method="POST")  # noqa: S310 -- http(s), checked above
        answer = exchange.answer(lambda: exchange.perform(request))
        if answer is None:
            raise DeliveryDelayedError(f"the webhook did not answer: {exchange.failure}", ambiguous=exchange.was_sent)
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status in (408, 429) or status >= 500:
            raise DeliveryDelayedError(
                f"the webhook answered {status}", retry_after_s(answer, self._clock()),
                ambiguous=status >= 500 and status != 503,
            )  # fmt: skip
        raise DeliveryRefusedError(f"the webhook answered {status}; trying again will not help")


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what the receiver must find: compare it in constant time, and refuse a timestamp that is minutes old."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
