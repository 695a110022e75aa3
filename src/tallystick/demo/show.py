"""What the demo prints: short enough for one screen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tallystick.demo.check import Ledger, Verdict, short
from tallystick.demo.slack import plain_text
from tallystick.model.money import show_usd

MARKS = {"ok": ("✓", "green"), "estimated": ("≈", "yellow"), "wrong": ("✗", "bold red")}
WIDTH_MAX = 110
SLACK_LINES_MAX = 4


class Screen:
    """A terminal, or a file that a terminal's output went to."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if self._console.width > WIDTH_MAX:
            self._console.width = WIDTH_MAX

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self._console.print(Text(text, style=style))

    def status(self, text: str) -> Any:
        """Show ``text`` while a block lasts; nothing where there is no terminal."""
        return self._console.status(text)

    def places(self, places: Mapping[str, tuple[str, str]]) -> None:
        """Print who listens where."""
        table = Table.grid(padding=(0, 2))
        for name, (url, what) in places.items():
            table.add_row(Text(f"  {name}", style="bold"), Text(url, style="cyan"), Text(what, style="dim"))
        self._console.print(table)

    def slack(self, message: dict[str, Any]) -> None:
        """Print a message as Slack would show it."""
        header, lines = plain_text(message)
        body = Group(
            Text(header, style="bold"),
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines[:SLACK_LINES_MAX]),
        )
        panel = Panel(body, title="Slack", title_align="left", box=box.ROUNDED, border_style="magenta", expand=False)
        self._console.print(Padding(panel, (0, 2)))

    def table(self, ledger: Ledger, invoice: Mapping[str, Any]) -> None:
        """Print spend by model, ledger beside invoice."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
        totals = ledger.totals
        billed = _billed_by_model(invoice, ledger)
        columns: tuple[tuple[str, str, Literal["left", "right"]], ...] = (
            ("model", "all", "left"),
            ("calls", str(totals["calls"]), "right"),
            ("failed", str(totals["failed"]), "right"),
            ("attempts", str(totals["attempts"]), "right"),
            ("ledger", f"${short(Decimal(totals['spend_usd'] or 0))}", "right"),
            ("", "", "left"),
            ("invoice", f"${short(Decimal(invoice['total_usd']))}", "right"),
        )
        for name, foot, side in columns:
            table.add_column(name, footer=foot, justify=side)
        for row in ledger.groups:
            table.add_row(*_row(row, billed.get(row["key"])))
        self._console.print(Padding(table, (0, 2)))

    def failures(self, rows: Sequence[Mapping[str, Any]], wasted_usd: str) -> None:
        """Print what failed and what that cost."""
        by_class: dict[str, int] = defaultdict(int)
        for row in rows:
            by_class[row["outcome"]] += row["calls"]
        told = [f"{name} {number}" for name, number in sorted(by_class.items(), key=lambda one: -one[1])]
        for at in range(0, len(told), 4):
            self.line(("  failed  " if at == 0 else "          ") + " · ".join(told[at : at + 4]))
        self.line(f"  wasted  {show_usd(Decimal(wasted_usd))}, paid for answers of no use")

    def verdict(self, verdict: Verdict) -> None:
        """Print how ledger and invoice compare."""
        self.line()
        for finding in verdict.findings:
            sign, style = MARKS[finding.mark]
            self._console.print(Text.assemble((f"  {sign} ", style), finding.text))
            for detail in finding.details:
                self._console.print(Text(f"      {detail}", style="dim" if finding.mark != "wrong" else style))


def _billed_by_model(invoice: Mapping[str, Any], ledger: Ledger) -> dict[str, Decimal]:
    """Return what was billed, under the names by which the ledger groups: those that the app asked for."""
    asked = {call["response_model"]: call["model"] for call in ledger.calls if call["response_model"]}
    billed: dict[str, Decimal] = defaultdict(Decimal)
    for item in invoice["items"]:
        if item["usd"] is not None:
            billed[asked.get(item["model"], item["model"])] += Decimal(item["usd"])
    return billed


def _row(row: Mapping[str, Any], billed: Decimal | None) -> tuple[str, ...]:
    spend = Decimal(row["spend_usd"] or 0)
    is_unknown = row["spend_usd"] is None
    if is_unknown or billed is None:
        sign = "=" if is_unknown and billed is None else "≠"
    elif spend == billed:
        sign = "="
    else:
        sign = "≈" if Decimal(row["estimated_usd"]) else "≠"
    return (
        row["key"] or "(none)",
        str(row["calls"]),
        str(row["failed"] or ""),
        str(row["attempts"]),
        "unknown" if is_unknown else f"${short(spend)}",
        sign,
        "no price" if billed is None else f"${short(billed)}",
    )
