"""What became of an alert, and what budgets refused, as records of the journal and as statements for the tables.

The journal is the truth: a claim is in it before the message is sent, and the outcome right after, so neither a restart
nor a rebuild of the tables tells an alert twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tallystick.model.ledger import instant

Event = Mapping[str, Any]
Statement = tuple[str, list[Any]]


def statements(event: Event) -> list[Statement]:
    """Return the statements that apply ``event``; one that a newer tallystick wrote is passed over."""
    apply = _APPLY.get(event["event"])
    return apply(event) if apply else []


def _raised(event: Event) -> list[Statement]:
    wanted = event["message"] is not None
    alert: list[Any] = [event["id"], event["budget"], _utc(event["window_start"]), _utc(event["window_end"])]
    alert += [event["threshold"], event["limit_usd"], event["spent_usd"], _utc(event["at"])]
    alert += ["pending" if wanted else "unsent", event.get("group"), event.get("unit", "usd")]
    alert += [event.get("kind", "threshold"), event.get("title"), event["id"]]
    found = [(
        """
        INSERT INTO alerts (
            id, budget, window_start, window_end, threshold, limit_usd, spent_usd, raised_at, state, deliveries,
            budget_group, unit, kind, title
        ) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ? WHERE NOT EXISTS (FROM alerts WHERE id = ?)
        """,
        alert,
    )]  # fmt: skip
    if wanted:
        found.append((
            "INSERT INTO outbox (alert_id, message, attempts, not_before, is_ambiguous) SELECT ?, ?, 0, ?, false"
            " WHERE EXISTS (FROM alerts WHERE id = ? AND state = 'pending')"
            " AND NOT EXISTS (FROM outbox WHERE alert_id = ?)",
            [event["id"], event["message"], _utc(event["at"]), event["id"], event["id"]],
        ))  # fmt: skip
    return found


def _sending(event: Event) -> list[Statement]:
    # Until the outcome is known, the message may have arrived.
    return [
        ("UPDATE outbox SET attempts = attempts + 1, is_ambiguous = true WHERE alert_id = ?", [event["id"]]),
        ("UPDATE alerts SET deliveries = deliveries + 1 WHERE id = ?", [event["id"]]),
    ]


def _reached(event: Event) -> list[Statement]:
    """Of one of several channels: the others are still to be reached."""
    return [(
        "UPDATE outbox SET reached = list_append(reached, ?), is_ambiguous = false WHERE alert_id = ?",
        [event["channel"], event["id"]],
    )]  # fmt: skip


def _posted(event: Event) -> list[Statement]:
    return [(
        "UPDATE alerts SET slack_channel = ?, slack_ts = ? WHERE id = ?",
        [event["channel"], event["ts"], event["id"]],
    )]  # fmt: skip


def _acked(event: Event) -> list[Statement]:
    return [("UPDATE alerts SET acked_at = ? WHERE id = ?", [_utc(event["at"]), event["id"]])]


def _snoozed(event: Event) -> list[Statement]:
    return [("UPDATE alerts SET snoozed_until = ? WHERE id = ?", [_utc(event["until"]), event["id"]])]


def _delivered(event: Event) -> list[Statement]:
    return [
        ("DELETE FROM outbox WHERE alert_id = ?", [event["id"]]),
        (
            "UPDATE alerts SET state = 'delivered', delivered_at = ?, error = NULL WHERE id = ?",
            [_utc(event["at"]), event["id"]],
        ),
    ]


def _refused(event: Event) -> list[Statement]:
    return [
        ("DELETE FROM outbox WHERE alert_id = ?", [event["id"]]),
        ("UPDATE alerts SET state = 'refused', error = ? WHERE id = ?", [event["error"], event["id"]]),
    ]


def _delayed(event: Event) -> list[Statement]:
    return [
        (
            "UPDATE outbox SET not_before = ?, is_ambiguous = ? WHERE alert_id = ?",
            [_utc(event["not_before"]), event["is_ambiguous"], event["id"]],
        ),
        ("UPDATE alerts SET error = ? WHERE id = ?", [event["error"], event["id"]]),
    ]


def _turned_away(event: Event) -> list[Statement]:
    """Of a call that a budget refused."""
    group = dict(zip(event["group_by"], event["group"], strict=True))
    values: list[Any] = [event["id"], _naive(event["at"]), event["budget"], group, event["action"], event["reason"]]
    values += [event["unit"], event["limit"], event["spent"], event["reserved"], event["needed"]]
    values += [*map(_naive, event["window"]), _naive(event["resets_at"]), event["dimensions"]]
    return [(f"INSERT INTO refusals VALUES ({', '.join('?' * len(values))})", values)]  # noqa: S608


def _defined(event: Event) -> list[Statement]:
    definition = event["budget"]
    values = [_naive(event["at"]), definition["name"], event["source"], json.dumps(definition)]
    return [("INSERT INTO budget_changes VALUES (?, ?, ?, ?)", values)]


def _dropped(event: Event) -> list[Statement]:
    return [
        ("INSERT INTO budget_changes VALUES (?, ?, ?, NULL)", [_naive(event["at"]), event["name"], event["source"]])
    ]


_APPLY = {
    "raised": _raised, "sending": _sending, "delivered": _delivered, "refused": _refused, "delayed": _delayed,
    "reached": _reached, "posted": _posted, "acked": _acked, "snoozed": _snoozed,
    "turned_away": _turned_away, "define": _defined, "drop": _dropped,
}  # fmt: skip


def _naive(at_us: int | None) -> datetime | None:
    return None if at_us is None else instant(at_us).replace(tzinfo=None)


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
