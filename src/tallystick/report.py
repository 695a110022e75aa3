"""What a terminal says: `tallystick report` and `tallystick explain`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tallystick.client import Collector
from tallystick.errors import CollectorRefusedError, SettingsError, UnknownCallError
from tallystick.model.failures import MAY_BE_BILLED, TOLD
from tallystick.model.money import show_usd

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
SINCE = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
NOTHING = "\nNo billable response came, so nothing is charged."
DAYS_MAX = 3650
# What turns or hides the text around it: controls (so no escape sequence reaches the terminal), marks of direction.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")

Answer = Mapping[str, Any]


def report(collector: str, by: str, since: str) -> int:
    """Print the totals since then, and one line for each value of the dimension ``by``, dearest first."""
    end = datetime.now(UTC)
    window = {"start": iso(since_when(since, end)), "end": iso(end)}
    asked = Collector(collector)
    totals = asked.ask("totals", window)
    rows = asked.ask("groups", {**window, "by": by})["rows"] if totals["calls"] else []
    console = terminal()
    for line in totals_lines(totals, since):
        _say(console, line)
    if rows:
        console.print()
        console.print(groups_table(rows, by, console.width))
        _say_unpriced(console, totals)
    return 0


def explain(collector: str, call: str) -> int:
    """Print one call: how it went, each attempt, and each unit's receipt down to quantity x price x multiplier."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,16}", call):
        raise SettingsError(f"{call!r} is not the id of a call; one is 16 hex digits, or its beginning, as in 00f067aa")
    try:
        answer = Collector(collector).ask(f"calls/{call.lower()}")
    except CollectorRefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise UnknownCallError(call, error.detail) from error
        raise
    console = terminal()
    _head(console, answer["call"])
    _attempts(console, answer["attempts"])
    if not answer["units"]:
        untold = answer["call"]["outcome"] in MAY_BE_BILLED and answer["attempts"]
        _say(console, "\nNo answer came: what the provider bills is not known." if untold else NOTHING)
    for unit in answer["units"]:
        _unit(console, unit)
    if len(answer["units"]) > 1:
        _say(console, f"\nCall total {_exact(answer['call']['cost_usd'])}")
    return 0


def since_when(since: str, now: datetime) -> datetime:
    """Return where the range begins: ``30m``, ``24h``, ``7d``, ``2w`` before ``now``, or a date or time."""
    if matched := SINCE.fullmatch(since):
        length = int(matched[1]) * UNITS[matched[2]]
        if length <= timedelta(days=DAYS_MAX):
            return now - length
    if (at := _moment(since)) and now - timedelta(days=DAYS_MAX) <= at < now:
        return at
    raise SettingsError(
        f"--since {since} is not a time in the past; allowed: a number and m, h, d or w (30m, 24h, 7d, 2w; up to "
        f"{DAYS_MAX} days), or a date or time like 2026-11-21 or 2026-11-21T09:30:00Z"
    )


def _moment(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):  # the year 1 has no time in a zone west of here
        return None


def iso(at: datetime) -> str:
    """Return ``at`` as the collector's API takes times."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def terminal() -> Console:
    """Return the terminal that a command writes to."""
    # Names from outside are printed as they are: no markup, no :emoji:, no colour for what looks like a number.
    return Console(markup=False, emoji=False, highlight=False)


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=False)


def clean(text: object, length_max: int = 60) -> str:
    """Return ``text`` on one line, without what a terminal would obey, cut to ``length_max``."""
    flat = UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text))
    return flat if len(flat) <= length_max else flat[: length_max - 1] + "…"


def totals_lines(totals: Answer, since: str) -> list[str]:
    """Return what was spent and how it went, in at most three short lines."""
    window = f"the last {since}" if SINCE.fullmatch(since) else f"everything since {since}"
    if not totals["calls"]:
        return [f"No calls in {window}."]
    spent = _spend(totals)
    calls = f"{plural(totals['calls'], 'call')}, {totals['failed']:,} failed, {plural(totals['attempts'], 'attempt')}"
    lines = [f"{spent} in {window}: {calls}."]
    cached = (
        f" ({_share(totals['cache_read_tokens'], totals['input_tokens'])} from cache)" if totals["input_tokens"] else ""
    )
    lines.append(f"Tokens: {totals['input_tokens']:,} in{cached}, {totals['output_tokens']:,} out.")
    notes = []
    if Decimal(totals["wasted_usd"] or 0):
        notes.append(f"{show_usd(Decimal(totals['wasted_usd']))} of it was wasted on calls that failed")
    if totals["estimated_units"]:
        notes.append(f"{show_usd(Decimal(totals['estimated_usd']))} of it is estimated")
    return [*lines, *([f"{'; '.join(notes)}."] if notes else [])]


def _spend(row: Answer) -> str:
    if row["units"] and row["unpriced_units"] >= row["units"]:
        return show_usd(None)
    return show_usd(Decimal(row["spend_usd"] or 0))


def _share(part: int | Decimal, whole: int | Decimal) -> str:
    if not whole or not part:
        return "0 %"
    size = Decimal(part) / Decimal(whole) * 100
    if size < Decimal("0.1"):
        return "<0.1 %"
    return f"{size:.1f} %".replace(".0 %", " %") if size < 10 else f"{size:.0f} %"


def plural(number: int, one: str) -> str:
    """Return ``1 call``, ``2 calls``."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def _short(number: int) -> str:
    """Return a count that fits into a column: ``820k``, ``1.2M``; the totals line has every digit."""
    if number < 10_000:
        return f"{number:,}"
    if number < 999_500:
        return f"{number / 1000:.0f}k"
    return f"{number / 1_000_000:.1f}M" if number < 999_500_000 else f"{number / 1_000_000_000:.1f}B"


FIGURES = ("spend", "share", "calls", "failed", "tries", "in", "cached", "out", "unpriced")


def groups_table(rows: Sequence[Answer], by: str, width: int) -> Table:
    """Return the table for a terminal of ``width`` columns: only the names give way, a figure is never cut."""
    total = sum((Decimal(row["spend_usd"] or 0) for row in rows), Decimal())
    cells = [_cells(row, total) for row in rows]
    widths = [
        max(len(name), *(len(cell) for cell in column))
        for name, column in zip(FIGURES, zip(*cells, strict=True), strict=True)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    room = max(8, width - sum(widths) - len(widths) - 1)
    table.add_column(clean(by, room), overflow="ellipsis", no_wrap=True, max_width=room)
    for name, needed in zip(FIGURES, widths, strict=True):
        table.add_column(name, justify="right", no_wrap=True, min_width=needed)
    for row, figures in zip(rows, cells, strict=True):
        table.add_row(Text("(none)" if row["key"] is None else clean(row["key"])), *figures)
    return table


def _cells(row: Answer, total: Decimal) -> tuple[str, ...]:
    spent = _spend(row)
    return (
        spent,
        "" if spent == show_usd(None) else _share(Decimal(row["spend_usd"] or 0), total),
        _short(row["calls"]),
        _short(row["failed"]),
        _short(row["attempts"]),
        _short(row["input_tokens"]),
        _share(row["cache_read_tokens"], row["input_tokens"]),
        _short(row["output_tokens"]),
        _short(row["unpriced_units"]),
    )


def _say_unpriced(console: Console, totals: Answer) -> None:
    if totals["unpriced_units"]:
        console.print()
        _say(console, f"{plural(totals['unpriced_units'], 'response')} without a known price: not in the spend above.")


FACTS = ("service", "environment", "feature", "user", "session", "prompt", "caller", "key")


def _head(console: Console, call: Answer) -> None:
    started = datetime.fromisoformat(call["started_at"]).astimezone()
    what = f"{clean(call['operation'] or 'call')} {clean(call['model'] or '')}".strip()
    _say(console, f"Call {call['id']}: {what} ({clean(call['provider'])})")
    _say(
        console,
        f"{started:%Y-%m-%d %H:%M:%S %Z}, {seconds(call['latency_ms'])}, {plural(call['attempts'], 'attempt')}",
    )
    _say(console, f"Outcome: {_outcome(call)}")
    facts = [(name, call[name]) for name in FACTS]
    facts += sorted((call["tags"] or {}).items())
    told = ", ".join(f"{clean(name)}={clean(value)}" for name, value in facts if value)
    if told:
        _say(console, told)


def _outcome(call: Answer) -> str:
    told = [outcome(call["outcome"])]
    if call["error_code"]:
        told.append(f"the provider's word: {clean(call['error_code'])}")
    if call["exception"]:
        told.append(f"the app saw {clean(call['exception'])}")
    return "; ".join(told)


def outcome(name: str) -> str:
    """Return how a call or an attempt ended, in the words of the pages."""
    return TOLD.get(name) or clean(name).replace("_", " ")


def seconds(milliseconds: float | None) -> str:
    """Return a duration as a terminal says it."""
    if milliseconds is None:
        return "unknown duration"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def _attempts(console: Console, attempts: Sequence[Answer]) -> None:
    if not attempts:
        return
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("attempt", "status", "outcome", "took", "asked to wait", "request id"):
        table.add_column(name, overflow="fold")
    for row in sorted(attempts, key=lambda row: (row["started_at"], row["number"])):
        asked = row["retry_after_s"]
        table.add_row(
            str(row["number"] + 1),
            str(row["status"] or "none"),
            outcome(row["outcome"]),
            seconds(row["duration_ms"]),
            "" if asked is None else f"{asked:g} s",
            Text(clean(row["request_id"] or "")),
        )
    console.print(table)


def _unit(console: Console, unit: Answer) -> None:
    receipt = unit["receipt"] or {"status": "unknown", "lines": [], "reason": "no receipt was stored"}
    console.print()
    _say(console, f"Response {clean(unit['id'] or 'without an id')}, model {clean(unit['model'])}:")
    for line in receipt["lines"]:
        _say(console, f"  {receipt_line(line)}")
    version = f"prices of {clean(unit['price_version'])}" if unit["price_version"] else "no price version"
    _say(console, f"  Total {_exact(unit['cost_usd'])} ({clean(receipt['status']).replace('_', ' ')}, {version})")
    for source, since in sorted({(line["source"], line["valid_from"] or "") for line in receipt["lines"]}):
        _say(console, f"  Source: {clean(source, 300)}, {f'in force since {clean(since)}' if since else 'undated'}")
    if receipt["reason"]:
        _say(console, f"  Why: {clean(receipt['reason'], 300)}")
    for note in receipt.get("notes") or ():
        _say(console, f"  Note: {clean(note, 300)}")


def receipt_line(line: Answer) -> str:
    """Return ``input 1,200 tokens x $3 / 1,000,000 x 1 = $0.0036``; nothing is rounded."""
    unit = f"{clean(line['unit'])}{'' if line['quantity'] == '1' else 's'}"
    per = "" if line["per"] == 1 else f" / {line['per']:,}"
    factors = (
        f"{_digits(line['quantity'])} {unit}",
        f"${_digits(line['unit_price_usd'])}{per}",
        _digits(line["multiplier"]),
    )
    return f"{clean(line['item']).replace('_', ' ')} {' x '.join(factors)} = {_exact(line['cost_usd'])}"


def _exact(amount: str | None) -> str:
    return show_usd(None) if amount is None else f"${_digits(amount)}"


def _digits(amount: str) -> str:
    shown = f"{Decimal(amount):,f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
