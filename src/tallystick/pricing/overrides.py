"""The override file: TOML in, checked entries out.  Its format is a page of the docs: docs/prices.md."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from tallystick.errors import SettingsError
from tallystick.pricing._items import UNITS

Entry = dict[str, Any]

_ALWAYS = ("source", "checked")
_TIMES = ("from", "until")
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # table: (needed, allowed besides)
    "price": (
        ("provider", "model"),
        (
            *_TIMES,
            *_ALWAYS,
            *UNITS,
            "when",
            "above",
            "hours",
            "weekdays",
            "replace",
            "unpublished",
            "free",
            "minimum",
            "estimated",
        ),
    ),
    "alias": (("provider", "name", "model"), _ALWAYS),
    "multiplier": (("provider", "models", "when", "factor"), (*_TIMES, *_ALWAYS, "estimated")),
    "discount": (("provider", "factor"), ("models", *_TIMES, *_ALWAYS)),
    "fee": (("provider", "item", "price"), _ALWAYS),
    "ratio": (("provider", "item", "of", "factor"), (*_ALWAYS, "needs")),
    "dispute": (("provider", "name"), _ALWAYS),
    "limit": (("provider", "models", "output_tokens"), _ALWAYS),
    "host": (("host", "provider"), ("path", *_ALWAYS)),
}
_WHEN = {
    "price": frozenset({"service_tier", "batch", "speed"}),
    "multiplier": frozenset({"service_tier", "batch", "speed", "geo", "host", "endpoint"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """The entries of one override file, by table, in their order; money is still text."""

    path: Path
    version: str
    tables: Mapping[str, list[Entry]] = field(default_factory=dict)

    def __getitem__(self, table: str) -> list[Entry]:
        return self.tables.get(table, [])


def read_overrides(path: Path) -> Overrides:
    """Return what ``path`` says; raise `SettingsError`, naming file, table and key, when a line of it is wrong."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    version = str(document.pop("version", ""))
    for table, entries in document.items():
        if table not in _KEYS or not isinstance(entries, list):
            raise SettingsError(f"{path}: unknown table '{table}'; known: [[{']], [['.join(_KEYS)}]]")
        for number, entry in enumerate(entries, 1):
            _check(entry, table, f"{path}: {title(table, number, entry)}")
    return Overrides(path=path, version=version, tables=document)


def title(table: str, number: int, entry: object) -> str:
    """Return what a person finds an entry by: its table, its number there, and what it is about."""
    about = (entry.get(key) for key in ("provider", "name", "model", "host", "item")) if isinstance(entry, dict) else ()
    words = " ".join(str(word) for word in about if word)
    return f"[[{table}]] number {number}" + (f" ({words})" if words else "")


def _check(entry: object, table: str, where: str) -> None:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where}: is not a table")
    needed, besides = _KEYS[table]
    for key in needed:
        if key not in entry:
            raise SettingsError(f"{where}: '{key}' is missing; needed: {', '.join(needed)}")
    if str(entry.get("from", "")) >= str(entry.get("until", "~")):
        raise SettingsError(
            f"{where}: from = {entry['from']!r} is not before until = {entry['until']!r}; "
            "from is the first day, until the first day after"
        )
    for key, value in entry.items():
        if key not in needed and key not in besides:
            raise SettingsError(f"{where}: unknown key '{key}'; known: {', '.join((*needed, *besides))}")
        _check_value(key, value, table, where)


def _check_value(key: str, value: object, table: str, where: str) -> None:
    if key in UNITS or key in {"factor", "price"}:
        _check_decimal(key, value, where)
        if table == "discount" and not 0 < Decimal(str(value)) <= 1:
            raise SettingsError(f'{where}: factor = {value!r} is no discount; 15 % off is "0.85"')
    elif key in {"provider", "model", "name", "host", "source", "path"} and not (isinstance(value, str) and value):
        raise SettingsError(f"{where}: {key} = {value!r} is not a text")
    elif key in {"from", "until", "checked"}:
        _check_date(key, value, where)
    elif key == "when":
        _check_when(value, table, where)
    elif key == "hours":
        _check_hours(value, where)
    elif key in {"models", "weekdays", "unpublished"}:
        _check_list(key, value, where)
    elif key in {"replace", "free", "estimated"} and not isinstance(value, bool):
        raise SettingsError(f"{where}: {key} = {value!r}; allowed: true, false")
    elif key in {"above", "minimum", "output_tokens"} and not (type(value) is int and value > 0):
        raise SettingsError(f"{where}: {key} = {value!r} is not a whole number above 0")
    elif key in {"item", "of", "needs"} and value not in UNITS:
        raise SettingsError(f"{where}: {key} = {value!r} is nothing that can be charged; known: {', '.join(UNITS)}")


_LISTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "models": (lambda value: isinstance(value, str) and bool(value), 'names, ["gpt-4o", "gpt-5*"] say'),
    "weekdays": (lambda value: type(value) is int and 1 <= value <= 7, "days from 1 (Monday) to 7"),
    "unpublished": (lambda value: value in UNITS, f"items: {', '.join(UNITS)}"),
}


def _check_list(key: str, value: object, where: str) -> None:
    is_allowed, allowed = _LISTS[key]
    if not isinstance(value, list) or not value or not all(is_allowed(entry) for entry in value):
        raise SettingsError(f"{where}: {key} = {value!r}; allowed: a list of {allowed}")


def _check_decimal(key: str, value: object, where: str) -> None:
    """A price is text, so that no digit is lost on the way: 0.1 as a TOML float is not 0.1."""
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise SettingsError(f'{where}: {key} = {value!r} is not a price; write a decimal in quotes, {key} = "2.50"')


def _check_date(key: str, value: object, where: str) -> None:
    try:
        date.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise SettingsError(f'{where}: {key} = {value!r} is not a day; write {key} = "2026-11-21"') from None


def _check_when(value: object, table: str, where: str) -> None:
    known = _WHEN[table]
    if not isinstance(value, dict) or not value or set(value) - known:
        raise SettingsError(f"{where}: when = {value!r}; it takes {', '.join(sorted(known))}")
    if table == "price" and len(value) > 1:
        raise SettingsError(f"{where}: when = {value!r} names several cases; write an entry for each")


def _check_hours(value: object, where: str) -> None:
    try:
        for span in value:  # type: ignore[attr-defined]
            start, _, end = span.partition("-")
            time.fromisoformat(start), time.fromisoformat(end)
    except (TypeError, ValueError, AttributeError):
        raise SettingsError(f'{where}: hours = {value!r}; write UTC hours like ["01:00-04:00"]') from None
