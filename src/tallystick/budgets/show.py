"""`tallystick budget list`: what is spent, held and left of each budget, the pace, and when it resets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from tallystick.client import Collector
from tallystick.model.money import show_amount
from tallystick.report import clean, terminal

GROUPS_SHOWN = 3
Row = Mapping[str, Any]


def run(collector: str) -> int:
    """Print the budgets that ``collector`` knows."""
    rows = Collector(collector).ask("budgets")["rows"]
    console = terminal()
    if not rows:
        console.print("No budgets. Put a [[budget]] into tallystick.toml, or make one with POST /api/v1/budgets.")
        return 0
    console.print(table(rows, datetime.now(UTC)))
    return 0


def table(rows: list[Row], now: datetime) -> Table:
    """Return the table of ``rows``, as GET /api/v1/budgets gives them; of groups the fullest ones."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("budget", overflow="fold", min_width=12)
    for name in ("spent", "of", "reserved", "left", "pace/h", "full", "resets in", "refused"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("at the limit", overflow="fold")
    for row in rows:
        made.add_row(_name(row), *_figures(row, row["unit"], now), _resets(row), _count(row), clean(row["action"], 40))
        for group in row["groups"][:GROUPS_SHOWN]:
            made.add_row(_group(group["group"]), *_figures(group, row["unit"], now), "", _count(group), "", style="dim")
        more = row["groups_count"] - GROUPS_SHOWN
        if more > 0:
            made.add_row(Text(f"  and {more:,} more"), style="dim")
    return made


def _name(row: Row) -> Text:
    window = row["window"]
    zone = "" if window["timezone"] == "UTC" else f" {window['timezone']}"
    scope = ", ".join(f"{key} {value or '(none)'}" for key, value in row["scope"].items())
    told = Text(clean(row["name"], 40), style="bold")
    return told.append(
        f"\n{clean(window['kind'])}{clean(zone)}{', ' if scope else ''}{clean(scope)}", style="dim not bold"
    )


def _group(group: Mapping[str, str]) -> Text:
    return Text("  " + clean(", ".join(f"{key} {value or '(none)'}" for key, value in group.items()), 40))


def _figures(row: Row, unit: str, now: datetime) -> list[Text | str]:
    def shown(name: str) -> str:
        return show_amount(Decimal(row[name]), unit).partition(" ")[0]

    share = Decimal(row["share"])
    style = "red" if Decimal(row["left"]) <= 0 else "yellow" if share >= Decimal("0.8") else "green"
    spent = Text(f"{shown('spent')} {share:.0%}", style=style)
    limit = Decimal(row.get("limit") or Decimal(row["spent"]) + Decimal(row["reserved"]) + Decimal(row["left"]))
    return [spent, show_amount(limit, unit), shown("reserved"), shown("left"), shown("pace_per_hour"), _full(row, now)]


def _full(row: Row, now: datetime) -> str:
    if Decimal(row["left"]) <= 0:
        return "now"
    if row["full_at"] is None:
        return "-"
    at = datetime.fromisoformat(row["full_at"])
    return "in " + _length(at - now)


def _resets(row: Row) -> str:
    return "rolling" if row["resets_in_s"] is None else _length(timedelta(seconds=row["resets_in_s"]))


def _count(row: Row) -> str:
    return f"{row['refused']:,}" if row["refused"] else "-"


def _length(left: timedelta) -> str:
    minutes = max(left // timedelta(minutes=1), 0)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
