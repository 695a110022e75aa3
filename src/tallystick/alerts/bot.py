"""Slack by bot token: one message for each window, which later levels update and resolve; the details in its thread.

A webhook can only post; a bot can change what it has posted, and be told of a click on a button
(`tallystick.alerts.clicks`).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import Request

from tallystick.alerts.deliver import DEADLINE_S, Exchange, retry_after_s, utc_now
from tallystick.alerts.outside import is_url
from tallystick.alerts.picture import bars
from tallystick.alerts.slack import API_URL
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tallystick.alerts.slack import Block, Message

log = logging.getLogger("tallystick.alerts")

LATER = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
"""Slack's words for what may work later.  Source: errors of chat.postMessage, 2026."""
GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})
"""The window's message was deleted, or may not be changed any more; then another one is posted."""


class SlackBot:
    """A channel of Slack that ``token`` may post in.  The token is a secret: no error, log or repr shows it.

    ``root_of`` gives the time stamp by which Slack knows the message of an alert's window, once there is one, and
    ``posted`` is told of a new one.  Raises ValueError when ``api_url`` is no URL.
    """

    name = "Slack bot"

    def __init__(
        self,
        token: str,
        channel: str,
        *,
        root_of: Callable[[str], tuple[str, str] | None],
        posted: Callable[[str, str, str], None],
        has_buttons: bool = False,
        api_url: str = API_URL,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not is_url(api_url):
            raise ValueError(f"slack_api_url is no URL; Slack's own is {API_URL}")
        self._token = token
        self.channel = channel
        self._root_of = root_of
        self._posted = posted
        self._has_buttons = has_buttons
        self._api_url = api_url.rstrip("/")
        self._deadline_s = deadline_s
        self._clock = clock

    def __repr__(self) -> str:
        return f"SlackBot(token='***', channel={self.channel!r})"

    def deliver(self, message: Message, alert: str) -> None:
        """Post ``message``, or have the message of its window say it and tell the thread.

        Raises DeliveryDelayedError when trying again may help and DeliveryRefusedError when it cannot.
        """
        blocks = [*message.blocks, *([] if message.stands_alone or not self._has_buttons else [buttons(alert)])]
        told: dict[str, Any] = {"text": message.text, "blocks": blocks}
        root = None if message.stands_alone else self._root_of(alert)
        if root is not None and self.update(*root, told):
            reply = {"text": message.text, "blocks": list(message.blocks), "thread_ts": root[1]}
            # A change of a message notifies nobody, so what is urgent is shown in the channel, too.
            self.ask(
                "chat.postMessage", {"channel": root[0], **reply, "reply_broadcast": message.text.startswith("🚨")}
            )
            return
        quiet = {"unfurl_links": False, "unfurl_media": False}
        answer = self.ask("chat.postMessage", {"channel": self.channel, **told, **quiet})
        if message.chart:
            self._show(message, str(answer.get("ts") or ""))
        if not message.stands_alone:
            self._posted(alert, str(answer.get("channel") or self.channel), str(answer.get("ts") or ""))

    def update(self, channel: str, ts: str, told: dict[str, Any]) -> bool:
        """Have the message ``ts`` say something else; False when it is not there any more."""
        try:
            self.ask("chat.update", {"channel": channel, "ts": ts, **told})
        except DeliveryRefusedError as error:
            if error.word in GONE:
                return False
            raise
        return True

    def _show(self, message: Message, ts: str) -> None:
        """Put the picture of a message into its thread; the message has all the figures, so it may be missing."""
        png = bars("Spend by day", message.chart)
        try:
            if png is not None:
                self._upload(png, ts)
        except (DeliveryDelayedError, DeliveryRefusedError, KeyError) as error:
            log.warning("the picture of a digest is not shown: %s", error)

    def _upload(self, png: bytes, ts: str) -> None:
        """Ask for a place, bring the picture there, and share it."""
        place = self.ask("files.getUploadURLExternal", form={"filename": "spend.png", "length": str(len(png))})
        self._answered(
            Request(place["upload_url"], data=png, headers={"Content-Type": "image/png"}, method="POST")  # noqa: S310
        )
        files = [{"id": place["file_id"], "title": "Spend by day"}]
        self.ask("files.completeUploadExternal", {"files": files, "channel_id": self.channel, "thread_ts": ts})

    def ask(
        self, method: str, body: dict[str, Any] | None = None, form: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Return what a method of Slack's Web API answers; raises as `deliver` does."""
        data = urlencode(form).encode() if form else json.dumps(body, ensure_ascii=False).encode()
        kind = "application/x-www-form-urlencoded" if form else "application/json; charset=utf-8"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind, "User-Agent": "tallystick"}
        request = Request(f"{self._api_url}/{method}", data=data, headers=headers, method="POST")  # noqa: S310 -- checked
        told = _object(self._answered(request))
        if told is None:
            raise DeliveryRefusedError(f"what answered {method} is not Slack's API; check slack_api_url")
        if told.get("ok") is True:
            return told
        word = str(told.get("error") or "no reason given")[:40]
        if word in LATER:
            raise DeliveryDelayedError(f"Slack answered {method} with {word}", ambiguous=word != "ratelimited")
        raise DeliveryRefusedError(f"Slack refuses {method}: {word}{_remedy(word)}", word=word)

    def _answered(self, request: Request) -> str:
        exchange = Exchange(request.full_url, self._deadline_s)
        answer = exchange.answer(lambda: exchange.perform(request))
        if answer is None:
            raise DeliveryDelayedError(f"Slack did not answer: {exchange.failure}", ambiguous=exchange.was_sent)
        status = answer.status_code
        if status in (408, 429) or status >= 500:
            raise DeliveryDelayedError(
                f"Slack answered {status}", retry_after_s(answer, self._clock()),
                ambiguous=status >= 500 and status != 503,
            )  # fmt: skip
        if status != 200:
            raise DeliveryRefusedError(f"Slack answered {status}; trying again will not help")
        return answer.body


def buttons(alert: str) -> Block:
    """Return the buttons under the message of ``alert``."""
    confirm = {
        "title": _text("Raise the limit by half?"),
        "text": _text("The budget's limit becomes one and a half times what it is now."),
        "confirm": _text("Raise it"), "deny": _text("Leave it"),
    }  # fmt: skip
    return {
        "type": "actions",
        "elements": [
            {"type": "button", "action_id": "tallystick_ack", "value": alert, "text": _text("Ack")},
            {"type": "button", "action_id": "tallystick_snooze", "value": alert, "text": _text("Snooze 1 h")},
            {
                "type": "button", "action_id": "tallystick_raise", "value": alert, "text": _text("Raise limit"),
                "confirm": confirm,
            },
        ],
    }  # fmt: skip


def _text(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def _object(body: str) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _remedy(word: str) -> str:
    return {
        "not_in_channel": "; invite the bot to the channel",
        "channel_not_found": "; check slack_channel, and invite the bot",
        "missing_scope": "; the bot needs chat:write, and files:write for pictures",
        "invalid_auth": "; check slack_bot_token", "token_revoked": "; create a new token", "not_authed": "",
    }.get(word, "")  # fmt: skip
