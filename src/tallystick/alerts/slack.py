"""An alert as a Slack message: what was spent, why, and what happens next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from tallystick.alerts.decide import Alert
from tallystick.model.money import show_usd

# Slack refuses a whole message with invalid_blocks when one of its limits is passed.
# Source: Block Kit reference, and the validators in slack_sdk 3.47.0, models/blocks.
BLOCKS_MAX = 50
HEADER_CHARS_MAX = 150
SECTION_CHARS_MAX = 3000
FIELD_CHARS_MAX = 2000
URL_CHARS_MAX = 900
"""Ours: three links share one section."""
NAME_CHARS_MAX = 60

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
REPEATED = "(repeated: the first answer was lost)"

Block = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributor:
    """One value of a dimension and its part of the spend in the window."""

    dimension: str
    """``model``, ``feature``, ``user`` ... or ``tag.NAME``."""
    value: str
    """Empty for the calls without one."""
    spend_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class DearestCall:
    """The call in the window that cost the most."""

    id: str
    cost_usd: Decimal
    model: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known around an alert when its message is written."""

    at: datetime
    """Now; when it lies behind the alert's window, the message says that it is late."""
    dashboard_url: str | None = None
    """Where the dashboard is served, without a path; None leaves the links out."""
    pace_usd_per_hour: Decimal | None = None
    """The spend of the last hour (or of the window, when it is younger), in USD per hour; None when not known."""
    contributors: tuple[Contributor, ...] = ()
    """Dearest first; the first three are shown."""
    dearest_call: DearestCall | None = None
    unpriced_units: int = 0
    """Answers in the window without a known price; they are in no sum."""
    price_version: str | None = None
    """The day of the price book, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message for Slack: ``blocks`` are what is seen, ``text`` is for notifications and screen readers."""

    text: str
    blocks: tuple[Block, ...]
