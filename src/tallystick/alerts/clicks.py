"""Clicks on the buttons under a bot's messages, by Slack's Socket Mode: no address of ours need be reachable.

slack_sdk keeps the connection: it asks for an address with the app's token, opens a web socket, and opens another one
when Slack closes it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from slack_sdk.errors import SlackClientError
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient

from tallystick.alerts.deliver import MUTE
from tallystick.errors import DeliveryDelayedError, DeliveryRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slack_sdk.socket_mode.client import BaseSocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

    from tallystick.alerts.bot import SlackBot

log = logging.getLogger("tallystick.alerts")

AGAIN_S = 30.0
PREFIX = "tallystick_"


class Clicks:
    """Listens while the collector runs.  ``does`` gets what was clicked (``ack``, ``snooze`` or ``raise``) and the
    alert's id, does it, and returns it in words.
    """

    def __init__(self, app_token: str, api_url: str, bot: SlackBot, does: Callable[[str, str], str]) -> None:
        self._bot = bot
        self._does = does
        # slack_sdk joins the method to it as a path, and its log may hold the socket's address, which is a secret.
        self._client = SocketModeClient(
            app_token, logger=MUTE, web_client=WebClient(base_url=f"{api_url.rstrip('/')}/", logger=MUTE, timeout=10)
        )
        self._client.socket_mode_request_listeners.append(self._clicked)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._connect, name="tallystick-clicks", daemon=True)

    def start(self) -> None:
        """Begin to listen; a Slack that is away is tried again."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)
        self._client.close()

    def _connect(self) -> None:
        while not self._stopping.is_set():
            try:
                self._client.connect()
            except (SlackClientError, OSError) as error:
                log.warning("Slack's buttons do not work: no Socket Mode connection (%s)", type(error).__name__)
            else:
                return  # from here on slack_sdk connects again by itself
            self._stopping.wait(AGAIN_S)

    def _clicked(self, client: BaseSocketModeClient, request: SocketModeRequest) -> None:
        # Slack shows a warning sign unless it is told within 3 seconds that the click has arrived.
        client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
        payload = request.payload
        if request.type != "interactive" or payload.get("type") != "block_actions":
            return
        for action in payload.get("actions", []):
            if str(action.get("action_id", "")).startswith(PREFIX):
                self._do(payload, action["action_id"].removeprefix(PREFIX), str(action.get("value")))

    def _do(self, payload: dict[str, Any], what: str, alert: str) -> None:
        done = self._does(what, alert)
        who = str(payload.get("user", {}).get("id", ""))
        told = f"{done} (<@{who}>)" if who.isalnum() else done
        message = payload.get("message", {})
        note = {"type": "context", "elements": [{"type": "mrkdwn", "text": told, "verbatim": True}]}
        blocks = [block for block in message.get("blocks", []) if what == "raise" or block.get("type") != "actions"]
        try:
            channel, ts = payload["container"]["channel_id"], payload["container"]["message_ts"]
            self._bot.update(channel, ts, {"text": message.get("text", done), "blocks": [*blocks, note]})
        except (DeliveryDelayedError, DeliveryRefusedError, KeyError) as error:
            log.warning("the message cannot say that a button was clicked: %s", error)
