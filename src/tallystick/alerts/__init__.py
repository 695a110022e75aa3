"""Budgets' alerts: decided purely, then written and delivered.

What delivers them through slack_sdk is imported from its own file, where it is made: that takes a tenth of a start of
the collector, and most collectors send nothing.
"""

from tallystick.alerts.decide import Alert, Refused, due_alert, next_try_at
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

__all__ = [
    "DIGESTS",
    "KINDS",
    "Alert",
    "Context",
    "Contributor",
    "DearestCall",
    "Message",
    "Notice",
    "Others",
    "Refused",
    "Spending",
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
