"""E-mail, PagerDuty, Teams, Discord and a hundred others, by way of Apprise."""

from __future__ import annotations

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLateError
from typing import TYPE_CHECKING, Any

from tallystick.errors import DeliveryDelayedError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tallystick.alerts.slack import Message

DEADLINE_S = 30.0
LINK = re.compile(r"<(https?://[^|>]+)\|([^>]+)>")


class Others:
    """Every place that ``urls`` name, in Apprise's words (``mailto://...``, ``pagerduty://...``).

    Raises MissingExtraError without Apprise, and ValueError for a URL that it does not know; neither shows the URL.
    """

    name = "apprise"

    def __init__(self, urls: Sequence[str]) -> None:
        with warnings.catch_warnings():  # it looks for what Python 3.13 has no more, and says so (1.9)
            warnings.simplefilter("ignore", DeprecationWarning)
            self._places = _places(urls)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tallystick-apprise")

    def __repr__(self) -> str:
        return f"Others({len(self._places)} places)"

    def deliver(self, message: Message, alert: str) -> None:
        """Send ``message`` to every place; raises DeliveryDelayedError when one did not take it.

        Apprise does not tell which, or why, or whether to try again: those that took it get it once more.
        """
        title, _, rest = message.text.partition(". ")
        sent = self._pool.submit(self._places.notify, title=title, body=f"{rest}\n{_links(message)}".strip() or title)
        try:
            is_taken = sent.result(DEADLINE_S)
        except TooLateError as error:
            raise DeliveryDelayedError(f"Apprise did not end within {DEADLINE_S:g} s", ambiguous=True) from error
        if not is_taken:
            raise DeliveryDelayedError("a place that Apprise sends to did not take it", ambiguous=True)


def _places(urls: Sequence[str]) -> Any:
    try:
        import apprise
    except ModuleNotFoundError as error:
        raise MissingExtraError("apprise_urls of [alerts]", "apprise", "apprise") from error
    places = apprise.Apprise()
    for number, url in enumerate(urls, start=1):
        if not places.add(url):
            raise ValueError(f"apprise_urls: the {number}. is none that Apprise knows")
    return places


def _links(message: Message) -> str:
    """Return the links in the blocks as plain text."""
    texts = [block["text"]["text"] for block in message.blocks if block["type"] == "section" and "text" in block]
    return "\n".join(f"{label}: {url}" for text in texts for url, label in LINK.findall(text))
