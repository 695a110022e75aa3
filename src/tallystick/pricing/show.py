"""``tallystick prices show MODEL``: every provider's rates of a model on a day, as a table of plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from tallystick.errors import SettingsError
from tallystick.pricing._book import STANDARD, Book, Found, Model, Row, Spec, load_book
from tallystick.pricing._items import UNITS
from tallystick.pricing._names import PROVIDERS, Place

MAKERS = ("anthropic", "openai", "google")
"""Shown before those who resell their models."""
HEAD = ("item", "USD", "per", "above", "in force", "source")


@dataclass(frozen=True, slots=True)
class Section:
    """The rates of one model in one case."""

    title: str
    rows: tuple[tuple[str, ...], ...]


def run(model: str, at: str | None) -> int:
    """Print the rates of ``model`` on the day ``at`` (ISO 8601; None: now); 1 when nobody lists it."""
    book = load_book()
    moment = _moment(at)
    sections = list(sections_of(book, model, moment))
    if not sections:
        sys.stderr.write(f"tallystick: {_unknown(book, model)}\n")
        return 1
    sys.stdout.write(f"{model} on {moment:%Y-%m-%d}, prices of {book.version} ({book.library})\n")
    for section in sections:
        sys.stdout.write(f"\n{section.title}\n{_table(section.rows)}\n")
    return 0


def _moment(at: str | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise SettingsError(
            f"--at {at!r} is not a day; write one like 2026-11-21, or a time like 2026-11-21T02:30Z"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _unknown(book: Book, model: str) -> str:
    near = book.near(model)
    hint = f"near names: {', '.join(near)}" if near else "no listed name is near to it"
    return f"no provider lists a price for {model!r}; {hint}"


def sections_of(book: Book, name: str, at: datetime) -> Iterator[Section]:
    """Yield the rates of whatever ``name`` resolves to, provider by provider, standard first."""
    seen: set[tuple[str, str]] = set()
    for provider in dict.fromkeys((*MAKERS, *book.providers)):
        place = Place(PROVIDERS.get(provider, provider))
        found = book.find(place, name)
        if found and (found.model.provider, found.model.id) not in seen:
            seen.add((found.model.provider, found.model.id))
            yield from _model_sections(book, found, at)


def _model_sections(book: Book, found: Found, at: datetime) -> Iterator[Section]:
    model = found.model
    title = f"{model.provider}: {model.id}"
    if model.is_free:
        yield Section(f"{title} (free of charge)", ())
        return
    cases = dict.fromkeys(row.when for row in model.rows)
    for case in (STANDARD, *(case for case in cases if case)):
        rates = _rates(model, case, at)
        if rates:
            yield Section(f"{title}, {case}" if case else title, tuple(_lines(model, rates)))
    yield from _hourly(model, at, title)
    factors = tuple(_factors(book, model))
    if factors:
        yield Section(f"{title}, on tokens times", factors)


def _hourly(model: Model, at: datetime, title: str) -> Iterator[Section]:
    """Yield the rates of the day's other hours, where the price hangs on them."""
    now = model.rates(at, STANDARD)
    hours = {
        at.replace(hour=start.hour, minute=start.minute) for row in model.rows for span in row.hours for start in span
    }
    shown = [now]
    for moment in sorted(hours):
        rates = model.rates(moment, STANDARD)
        if rates and rates not in shown:
            shown.append(rates)
            yield Section(f"{title}, at {moment:%H:%M} UTC", tuple(_lines(model, rates)))


def _rates(model: Model, case: str, at: datetime) -> dict[str, Spec]:
    """Return the rates of ``case``; for a tier only those that differ from the standard's."""
    standard = model.rates(at, STANDARD) or {}
    if case == STANDARD:
        return standard
    special = model.rates(at, case) or {}
    return {item: spec for item, spec in special.items() if standard.get(item) is not spec}


def _lines(model: Model, rates: dict[str, Spec]) -> Iterator[tuple[str, ...]]:
    for item in (item for item in UNITS if item in rates):
        spec, (unit, per) = rates[item], UNITS[item]
        yield (item, _money(spec.base), f"{per:,} {unit}s", "", _validity(model, spec), spec.source)
        for above, dearer in spec.steps:
            yield (item, _money(dearer), f"{per:,} {unit}s", f"{above:,}", "", "")


def _validity(model: Model, spec: Spec) -> str:
    """Return from when to when the rate holds, with its hours when the price hangs on them."""
    row = next((row for row in model.rows if spec in row.rates.values()), None)
    since = spec.valid_from or "undated"
    until = _end(model, row) if row else None
    hours = ", ".join(f"{a:%H:%M}-{b:%H:%M} UTC" for a, b in row.hours) if row else ""
    return " ".join(filter(None, (since, f"until {until}" if until else "", hours)))


def _end(model: Model, row: Row) -> str | None:
    """Return the day on which another row of the same case takes over."""
    starts = [
        other.since
        for other in model.rows
        if other.when == row.when and other.since and (row.since is None or other.since > row.since) and not other.hours
    ]
    end = min([*starts, *([row.until] if row.until else [])], default=None)
    return end.isoformat() if end else None


def _factors(book: Book, model: Model) -> Iterator[tuple[str, ...]]:
    for multiplier in book.multipliers:
        if multiplier.concerns(model):
            when = ", ".join(f"{key} = {value}" for key, value in multiplier.when.items())
            yield (when, f"x{multiplier.factor}", "", "", "", multiplier.source)


def _money(amount: Decimal) -> str:
    return format(amount.normalize(), "f")


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    if not rows:
        return ""
    table = [HEAD, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    used = [column for column, width in enumerate(widths) if any(row[column] for row in rows) or column == 0]
    lines = []
    for row in table:
        cells = (row[c].rjust(widths[c]) if HEAD[c] in {"USD", "above"} else row[c].ljust(widths[c]) for c in used)
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
