"""`tallystick alert test` and `tallystick alert list`."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from tallystick.client import Collector
from tallystick.report import clean, iso, since_when, terminal


def test(collector: str) -> int:
    """Send a message that says that it is a test; return 0 when every channel took it."""
    rows = Collector(collector).order("alerts/test", {})["rows"]
    screen = terminal()
    if not rows:
        screen.print("No channel is set: put slack_webhook_url, webhook_url or apprise_urls into [alerts].")
        return 1
    for row in rows:
        told = "took it" if row["delivered"] else f"did not take it: {clean(row['error'] or '')}"
        screen.print(Text(f"{row['channel']} {told}", "green" if row["delivered"] else "red"))
    return 0 if all(row["delivered"] for row in rows) else 1


def listed(collector: str, since: str) -> int:
    """Print the alerts since then, newest first."""
    now = datetime.now(UTC)
    window = {"start": iso(since_when(since, now)), "end": iso(now)}
    rows = Collector(collector).ask("alerts", window)["rows"]
    screen = terminal()
    if not rows:
        screen.print(f"No alert in the last {since}.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("raised", "kind", "about", "what", "state"):
        table.add_column(name, overflow="fold")
    for row in rows:
        what = row["title"] or f"{float(row['threshold']):.0%} of the limit, {row['spent']} {row['unit']}"
        state = "acknowledged" if row["acked_at"] else row["state"]
        raised = row["raised_at"][:16].replace("T", " ")
        table.add_row(
            *(Text(clean(cell)) for cell in (raised, row["kind"].replace("_", " "), row["budget"], what, state))
        )
    screen.print(table)
    return 0
