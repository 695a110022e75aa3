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
WIDTH_MAX = 1000
Row = Mapping[str, Any]


def run(collector: str) -> int:
    """Print the budgets that ``collector`` knows."""
    rows = Collector(collector).ask("budgets")["rows"]
    console = terminal()
    if not rows:
        console.print("No budgets. Put a [[budget]] into tallystick.toml, or make one with POST /api/v1/budgets.")
        return 0
    now = datetime.now(UTC)
    made = table(rows, now)
    if console.measure(made, options=console.options.update(width=WIDTH_MAX)).maximum <= console.width:
        console.print(made)
    else:  # a table that is squeezed loses the names first
        console.print(*lines(rows, now), sep="\n")
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


def lines(rows: list[Row], now: datetime) -> list[Text]:
    """Return the same for a terminal that is too narrow for the table: each budget, and its figures below."""
    made: list[Text] = []
    for row in rows:
        made += [_name(row), _line(row, row["unit"], now).append(f", at the limit: {clean(row['action'], 40)}")]
        made += [
            _group(group["group"]).append(":").append_text(_line(group, row["unit"], now))
            for group in row["groups"][:GROUPS_SHOWN]
        ]
        more = row["groups_count"] - GROUPS_SHOWN
        if more > 0:
            made.append(Text(f"  and {more:,} more"))
    return made


def _line(row: Row, unit: str, now: datetime) -> Text:
    spent, limit, reserved, left, pace, full = _figures(row, unit, now)
    told = [f" of {limit}", f"{reserved} reserved", f"{left} left", f"{pace} an hour"]
    if full not in {"-", "now"}:
        told.append(f"full {full}")
    if row.get("resets_in_s") is not None:
        told.append(f"resets in {_resets(row)}")
    if row["refused"]:
        told.append(f"{_count(row)} refused")
    return Text("  ").append_text(Text.assemble(spent)).append(", ".join(told))


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
