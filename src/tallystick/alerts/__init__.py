"""Budgets' alerts: decided purely, then written and delivered."""

from tallystick.alerts.decide import Alert, due_alert
from tallystick.alerts.slack import Context, Contributor, DearestCall, Message

__all__ = ["Alert", "Context", "Contributor", "DearestCall", "Message", "due_alert"]
