"""Budgets' alerts: decided purely, then written and delivered."""

from tallystick.alerts.decide import Alert, due_alert
from tallystick.alerts.deliver import Slack, next_try_at
from tallystick.alerts.slack import Context, Contributor, DearestCall, Message, late, repeated, slack_message

__all__ = [
    "Alert",
    "Context",
    "Contributor",
    "DearestCall",
    "Message",
    "Slack",
    "due_alert",
    "late",
    "next_try_at",
    "repeated",
    "slack_message",
]
