"""What a terminal shows while it lasts: `tallystick tail`, `tallystick top`; and once: `tallystick doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tallystick.client import Collector
from tallystick.errors import CollectorUnreachableError
from tallystick.model.failures import MAY_BE_BILLED
from tallystick.model.money import show_usd
from tallystick.report import (
    Answer,
    clean,
    groups_table,
    iso,
    outcome,
    plural,
    seconds,
    since_when,
    terminal,
    totals_lines,
)

TAIL_S = 1.0
TOP_S = 2.0
LOOK_BACK = timedelta(hours=1)
"""A call comes when it ends; one that took longer than this is not in the tail."""
PAGE, PAGES_MAX = 200, 5
FIRST = 10
MODEL, WHO, OUTCOME = 28, 30, 26
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def tail(collector: str, service: list[str], model: list[str], *, failed: bool) -> int:
    """Print each call as it comes, the last ten first, until ctrl-C."""
    asked = Collector(collector)
    filters: dict[str, Any] = {"service": service, "model": model, "outcome": ["failed"] if failed else []}
    screen = terminal()
    seen: set[str] = set()
    with suppress(KeyboardInterrupt):
        show(screen, list(arrived(asked, filters, seen))[-FIRST:])
        while True:
            time.sleep(TAIL_S)
            try:
                show(screen, arrived(asked, filters, seen))
            except CollectorUnreachableError as error:
                screen.print(Text(f"... no collector answers at {clean(error.url)}; still looking", "dim"))
                time.sleep(TAIL_S * 4)
    return 0


def arrived(asked: Collector, filters: dict[str, Any], seen: set[str]) -> Iterator[Answer]:
    """Yield the calls that are not in ``seen``, the oldest first, and put them there."""
    end = datetime.now(UTC) + timedelta(minutes=5)  # an app's clock may be ahead
    window = {"start": iso(end - LOOK_BACK), "end": iso(end), "limit": PAGE, **filters}
    found: list[Answer] = []
    cursor = None
    for _ in range(PAGES_MAX):
        page = asked.ask("calls", {**window, "cursor": cursor})
        new = [row for row in page["rows"] if row["id"] not in seen]
        found += new
        cursor = page["next_cursor"]
        if cursor is None or not new:
            break
    seen.update(row["id"] for row in found)
    yield from reversed(found)


def show(screen: Console, rows: Any) -> None:
    """Print each of ``rows`` on its line."""
    for row in rows:
        screen.print(call_line(row), soft_wrap=True)


def call_line(row: Answer) -> Text:
    """Return a call in one line: when, how it ended, what it cost, which model, tokens, how long, whose, which."""
    at = datetime.fromisoformat(row["started_at"]).astimezone()
    colour = "red" if row["outcome"] != "ok" else "yellow" if row["attempts"] > 1 else "green"
    who = " ".join(clean(row[name], 20) for name in ("service", "feature", "user") if row[name])
    line = Text(f"{at:%H:%M:%S} ")
    line.append(f"{told(row):{OUTCOME}.{OUTCOME}} ", colour)
    line.append(f"{cost(row):>13} ", "bold")
    line.append(f"{clean(row['model'] or '(none)', MODEL):{MODEL}} ")
    line.append(f"{row['input_tokens']:>8,} in {row['output_tokens']:>6,} out {seconds(row['latency_ms']):>9}  ")
    line.append(f"{clean(who, WHO):{WHO}} ", "dim")
    line.append(row["id"], "dim")
    return line


def told(row: Answer) -> str:
    """Return how a call ended, in the words of the pages; a retry that helped is told."""
    if row["outcome"] == "ok" and row["attempts"] > 1:
        return f"answered at try {row['attempts']}"
    return outcome(row["outcome"])


def cost(row: Answer) -> str:
    """Return what a call cost; a word when that is not known."""
    if not row["units"] and row["attempts"] and row["outcome"] in MAY_BE_BILLED:
        return "may be billed"
    return show_usd(None if row["cost_usd"] is None else Decimal(row["cost_usd"]))


def top(collector: str, by: str, since: str) -> int:
    """Show what is spent, by a dimension, again and again until ctrl-C."""
    asked = Collector(collector)
    screen = terminal()
    with suppress(KeyboardInterrupt), drawing(screen, frame(asked, by, since, screen)) as draw:
        while True:
            time.sleep(TOP_S)
            try:
                draw(frame(asked, by, since, screen))
            except CollectorUnreachableError as error:
                draw(Text(f"no collector answers at {clean(error.url)}; still looking", "red"))
    return 0


@contextmanager
def drawing(screen: Console, first: RenderableType) -> Iterator[Callable[[RenderableType], None]]:
    """Draw ``first``, and yield what draws the next in its place; below it where nothing can be drawn over."""
    if not screen.is_terminal:  # Live would hold back all but the last
        screen.print(first)
        yield lambda following: screen.print(Text(), following)
        return
    with Live(first, console=screen, auto_refresh=False) as live:
        yield partial(live.update, refresh=True)


def frame(asked: Collector, by: str, since: str, screen: Console) -> Group:
    """Return what one glance of `top` shows."""
    end = datetime.now(UTC)
    window = {"start": iso(since_when(since, end)), "end": iso(end)}
    totals = asked.ask("totals", window)
    rows = asked.ask("groups", {**window, "by": by, "limit": max(screen.height - 6, 5)})["rows"]
    head = Text(f"{end.astimezone():%H:%M:%S}, by {clean(by)}; ctrl-C ends it", "dim")
    shown: list[RenderableType] = [head, *(Text(line) for line in totals_lines(totals, since))]
    return Group(*shown, *((Text(), groups_table(rows, by, screen.width)) if rows else ()))


def doctor(collector: str) -> int:
    """Print what is right, what is not, and what to do; 1 when something is wrong."""
    answer = Collector(collector).ask("doctor")
    screen = terminal()
    for check in answer["checks"]:
        line = Text(f"{check['state']:5}", COLOURS.get(check["state"], ""))
        line.append(f"{clean(check['name']):10}", "bold").append(clean(check["told"], 500))
        screen.print(line, soft_wrap=True)
        if check["todo"]:
            screen.print(Text(f"{'':15}-> {clean(check['todo'], 300)}"), soft_wrap=True)
    for kind in ("service", "emitter"):
        for row in answer[f"{kind}s"]:
            at = datetime.fromisoformat(row["last_call_at"]).astimezone()
            line = Text(f"{'':5}{kind:10}{clean(row[kind] or '(none)')}: {plural(row['calls'], 'call')} in 7 days, ")
            screen.print(line.append(f"the last at {at:%Y-%m-%d %H:%M:%S %Z}"), soft_wrap=True)
    return 1 if any(check["state"] == "fail" for check in answer["checks"]) else 0
