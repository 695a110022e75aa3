"""``tallystick reprice``: have a collector price what it has stored again, and print the difference per model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tallystick.client import Collector
from tallystick.errors import SettingsError
from tallystick.model.money import show_usd

TIMEOUT_S = 960.0
HEAD = ("provider", "model", "units", "before", "after", "difference")


def run(
    *, collector: str, since: str, until: str | None, model: str | None, provider: str | None, dry_run: bool
) -> int:
    """Print what changed, or with ``dry_run`` would change, of the units answered in that time."""
    asked = {
        "start": day(since, "--from"),
        "end": day(until, "--to") if until else datetime.now(UTC).isoformat(),
        "model": model,
        "provider": provider,
        "dry_run": dry_run,
    }
    answer = Collector(collector, TIMEOUT_S).order("reprice", asked)
    for line in lines(answer):
        sys.stdout.write(f"{line}\n")
    return 0


def day(text: str, option: str) -> str:
    """Return a day or time as the API takes it; UTC when it has no zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{option} {text!r} is not a day; write one like 2026-11-21") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def lines(answer: Mapping[str, Any]) -> list[str]:
    """Return what a person is told of a repricing."""
    verb = "would change" if answer["dry_run"] else "changed"
    told = f"prices of {answer['price_version']}: {answer['changed']:,} of {answer['examined']:,} units {verb}"
    found = [f"{told}, {answer['filled']:,} of them had no known cost" if answer["filled"] else told]
    if not answer["rows"]:
        return found
    rows = [HEAD, *(_row(row) for row in answer["rows"])]
    rows.append(("", "together", f"{answer['changed']:,}", *_amounts(answer)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        cells = (c.ljust(w) if n < 2 else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        found.append("  " + "  ".join(cells).rstrip())
    return found


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return _clean(row["provider"]), _clean(row["model"]), f"{row['changed']:,}", *_amounts(row)


def _amounts(row: Mapping[str, Any]) -> tuple[str, str, str]:
    before, after = Decimal(row["before_usd"]), Decimal(row["after_usd"])
    return show_usd(before), show_usd(after), ("+" if after > before else "") + show_usd(after - before)


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:80]
