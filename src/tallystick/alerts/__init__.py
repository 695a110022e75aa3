"""Budgets' alerts: decided purely, then written and delivered."""

from tallystick.alerts.decide import Alert, due_alert
from tallystick.alerts.deliver import Slack, next_try_at
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
    slack_message,
)
from tallystick.alerts.watch import KINDS, Notice
from tallystick.alerts.webhook import Webhook

__all__ = [
    "KINDS",
    "Alert",
    "Context",
    "Contributor",
    "DearestCall",
    "Message",
    "Notice",
    "Others",
    "Slack",
    "Webhook",
    "combined",
    "due_alert",
    "late",
    "next_try_at",
    "notice_message",
    "repeated",
    "slack_message",
]
