"""``tallystick prices audit``: our prices beside another list's, and what the ledger has no price for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from tallystick.errors import SettingsError
from tallystick.pricing._book import STANDARD, Book, load_book
from tallystick.pricing._items import EXACT, UNITS
from tallystick.pricing._names import Place
from tallystick.pricing._receipts import Case, plan_of, term_of
from tallystick.pricing._wire import Refused

# litellm's names (model_prices_and_context_window.json, 1.109) in ours.
ITEMS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_image_token": "output_image",
}
PROVIDERS = {
    "anthropic": "anthropic",
    "openai": "openai",
    "text-completion-openai": "openai",
    "gemini": "google",
    "vertex_ai-language-models": "google",
    "xai": "x-ai",
    "mistral": "mistral",
    "groq": "groq",
    "deepseek": "deepseek",
    "perplexity": "perplexity",
    "cohere_chat": "cohere",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "moonshot": "moonshotai",
    "azure": "azure",
    "cerebras": "cerebras",
}
_KEY = re.compile(r"(?P<item>.+?)(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<case>batches|flex|priority))?")
_CASES = {None: STANDARD, "batches": "batch", "flex": "flex", "priority": "priority"}
NAMED_MAX = 20
SEEN_DAYS = 30


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One price on which the two lists disagree; USD per million tokens."""

    provider: str
    model: str
    item: str
    case: str
    above: int
    ours: Decimal | None
    theirs: Decimal


@dataclass(slots=True)
class Audit:
    """What a comparison found."""

    compared: int
    """Prices that both have."""
    differences: list[Difference]
    unlisted: list[tuple[str, str]]
    """(provider, model) that only the other list has."""


def run(*, against: Path | None, collector: str | None) -> int:
    """Print the differences to the list ``against``, and what ``collector`` has seen without a price."""
    if against is None and collector is None:
        raise SettingsError("name a list with --against FILE (litellm's model_prices_and_context_window.json), "
                            "a collector with --collector URL, or both")  # fmt: skip
    book, now = load_book(), datetime.now(UTC)
    _say(f"prices of {book.version} ({book.library}), {max(book.age_days(now.date()), 0)} days old")
    if against is not None:
        _show(audit(book, read_list(against), now), against)
    if collector is not None:
        _show_unpriced(collector, now)
    return 0


def read_list(path: Path) -> Mapping[str, Any]:
    """Return litellm's list; its floats become decimals as they are written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not any(isinstance(e, dict) and "litellm_provider" in e for e in found.values()):
        raise SettingsError(f"{path} is not litellm's list: no entry has a litellm_provider")
    return found


def audit(book: Book, theirs: Mapping[str, Any], at: datetime) -> Audit:
    """Compare each token price of ``theirs`` with what ``book`` charges at ``at``."""
    found = Audit(0, [], [])
    for name, entry in theirs.items():
        provider = PROVIDERS.get(str(entry.get("litellm_provider"))) if isinstance(entry, Mapping) else None
        if provider is None:
            continue
        model = name.partition("/")[2] if name.startswith(f"{entry['litellm_provider']}/") else name
        listed = book.find(Place(provider), model)
        if listed is None or listed.model.is_free:
            found.unlisted.append((provider, model))
            continue
        for item, case, above, price in _prices(entry):
            found.compared += 1
            ours = _ours(book, Place(provider), model, item, case, above, at)
            if ours != price and not (ours is None and price == 0):
                found.differences.append(Difference(provider, model, item, case, above, ours, price))
    found.differences.sort(key=lambda d: (d.provider, d.model, d.case, d.item, d.above))
    return found


def _prices(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, int, Decimal]]:
    """Yield (item, case, above, USD per million tokens) of litellm's keys that are about tokens."""
    for key, value in entry.items():
        read = _KEY.fullmatch(key)
        if read is None or read["item"] not in ITEMS or isinstance(value, bool) or not isinstance(value, int | Decimal):
            continue
        price = (Decimal(value) * 1_000_000).normalize()
        yield ITEMS[read["item"]], _CASES[read["case"]], int(read["above"] or 0) * 1000, price


def _ours(book: Book, place: Place, model: str, item: str, case: str, above: int, at: datetime) -> Decimal | None:
    """Return what a token of ``item`` is charged at, multipliers included; None when it would be refused."""
    try:
        term = term_of(book, plan_of(book, place, model, None, Case(case, "", ""), at), item)
    except Refused:
        return None
    return EXACT.multiply(term.spec.at(above + 1 if above else 0), term.multiplier).normalize()


def _show(found: Audit, path: Path) -> None:
    _say(f"\n{path.name}: {found.compared} prices compared, {len(found.differences)} differ; "
         f"{len(found.unlisted)} of its models are not listed here")  # fmt: skip
    if found.unlisted:
        more = ", ..." if len(found.unlisted) > NAMED_MAX else ""
        _say(f"  not listed here: {', '.join(_clean('/'.join(name)) for name in found.unlisted[:NAMED_MAX])}{more}")
    if not found.differences:
        return
    head = ("provider", "model", "class", "case", "above", "ours", "theirs")
    rows = [head, *(_row(difference) for difference in found.differences)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        _say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(found: Difference) -> tuple[str, ...]:
    ours = "none" if found.ours is None else format(found.ours, "f")
    above = f"{found.above:,}" if found.above else ""
    return found.provider, found.model, found.item, found.case, above, ours, format(found.theirs, "f")


def _show_unpriced(collector: str, now: datetime) -> None:
    from tallystick.client import Collector  # only this question needs it

    window = {"start": _iso(now - timedelta(days=SEEN_DAYS)), "end": _iso(now), "cost_status": "unknown"}
    rows = Collector(collector).ask("groups", {**window, "by": "model"})["rows"]
    have = "model of the last {} days has" if len(rows) == 1 else "models of the last {} days have"
    _say(f"\n{collector}: {len(rows)} {have.format(SEEN_DAYS)} calls without a price")
    book = load_book()
    for row in rows:
        near = book.near(row["key"] or "", limit=3)
        hint = f"; near names: {', '.join(near)}" if near else ""
        _say(f"  {_clean(row['key'] or '(no model)')}: {row['unpriced_units']} units{hint}")


def _clean(text: str) -> str:
    """Return a model's name without what a terminal would act on: an app may call its model anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


assert set(ITEMS.values()) <= set(UNITS), "every class that is compared can be charged"
