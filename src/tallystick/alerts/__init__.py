"""Budgets' alerts: decided purely, then written and delivered."""

from tallystick.alerts.bot import SlackBot
from tallystick.alerts.clicks import Clicks
from tallystick.alerts.decide import Alert, Refused, due_alert
from tallystick.alerts.deliver import Slack, next_try_at
from tallystick.alerts.digest import DIGESTS, Spending, digest_message, digest_window
from tallystick.alerts.others import Others
from tallystick.alerts.slack import (
    Context,
    Contributor,
    DearestCall,
    Message,
    combined,
    late,
    notice_message,
    repeated,
    resolved_message,
    slack_message,
)
from tallystick.alerts.watch import KINDS, Notice
from tallystick.alerts.webhook import Webhook

__all__ = [
    "DIGESTS",
    "KINDS",
    "Alert",
    "Clicks",
    "Context",
    "Contributor",
    "DearestCall",
    "Message",
    "Notice",
    "Others",
    "Refused",
    "Slack",
    "SlackBot",
    "Spending",
    "Webhook",
    "combined",
    "digest_message",
    "digest_window",
    "due_alert",
    "late",
    "next_try_at",
    "notice_message",
    "repeated",
    "resolved_message",
    "slack_message",
]
