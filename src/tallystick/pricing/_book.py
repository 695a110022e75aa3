"""The price book: exact names to dated rates.  Read by the app and the collector alike; the standard library only."""

from __future__ import annotations

import fnmatch
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from tallystick.errors import SettingsError
from tallystick.pricing import _names
from tallystick.pricing._folded import Folded, fold, read_folded

STANDARD = ""
"""The ``when`` of rows that hold unless a tier, batch or speed says otherwise."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The price of one item: ``base``, and what it is when the prompt is longer than a step."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...]
    source: str
    valid_from: str | None
    estimated: bool = False
    """True when nobody who could know has published the rate."""

    def at(self, prompt_tokens: int) -> Decimal:
        """Return the price for a prompt of that many tokens; a step holds for more than its count, not at it."""
        price = self.base
        for above, dearer in self.steps:
            if prompt_tokens > above:
                price = dearer
        return price


class Row:
    """Rates that hold from a day to a day, at some hours, in some case (tier, batch, speed)."""

    __slots__ = ("days", "estimated", "full", "hours", "rates", "since", "source", "until", "when")

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.when: str = raw.get("when", STANDARD)
        self.since = date.fromisoformat(raw["from"]) if raw.get("from") else None
        self.until = date.fromisoformat(raw["until"]) if raw.get("until") else None
        self.hours = tuple((time.fromisoformat(a), time.fromisoformat(b)) for a, b in raw.get("hours", ()))
        self.days = frozenset(raw.get("days", ()))
        self.full: bool = bool(raw.get("full"))
        self.estimated: bool = bool(raw.get("estimated"))
        self.source: str = raw.get("source", source)
        if back := raw.get("back"):
            self.source += f" (dated back from {back}: the same ratio to the standard rate)"
        self.rates = {item: self._spec(value) for item, value in raw["rates"].items()}

    def _spec(self, value: str | list[Any]) -> Spec:
        base, *steps = [value] if isinstance(value, str) else value
        pairs = tuple((int(above), Decimal(price)) for above, price in zip(steps[::2], steps[1::2], strict=True))
        since = self.since.isoformat() if self.since else None
        return Spec(Decimal(base), pairs, self.source, since, self.estimated)

    def is_active(self, at: datetime) -> bool:
        """Tell whether the row holds at ``at``, which is in UTC."""
        day = at.date()
        if (self.since and day < self.since) or (self.until and day >= self.until):
            return False
        if self.days and at.isoweekday() not in self.days:
            return False
        return not self.hours or any(_within(at.time(), start, end) for start, end in self.hours)


def _within(moment: time, start: time, end: time) -> bool:
    if end < start:
        return moment >= start or moment < end
    return start <= moment < end


class Model:
    """One model of one provider: its names and its rows, the later of which win."""

    def __init__(self, provider: str, text: bytes, source: str) -> None:
        raw = json.loads(text)
        self.provider = provider
        self.id: str = raw["id"]
        self.names: tuple[str, ...] = tuple(raw.get("names", ()))
        self.stems: tuple[str, ...] = tuple(raw.get("stems", ()))
        self.is_free: bool = bool(raw.get("free"))
        self.unpublished = frozenset(raw.get("unpublished", ()))
        self.minimum: int = raw.get("minimum", 0)
        self.since: str | None = raw.get("since")
        self._text = text
        self._source = source

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows; made when first asked for, because a book has thousands."""
        return tuple(Row(raw, self._source) for raw in json.loads(self._text).get("rows", ()))

    @cached_property
    def is_timed(self) -> bool:
        """True when the price hangs on the hour."""
        return any(row.hours for row in self.rows)

    def rates(self, at: datetime, when: str) -> dict[str, Spec] | None:
        """Return the rates in force at ``at`` for the case ``when``, by item; None when the case has no rates."""
        standard = self._overlay(at, STANDARD)
        if when == STANDARD:
            return standard
        special = self._overlay(at, when)
        return None if special is None or standard is None else {**standard, **special}

    def _overlay(self, at: datetime, when: str) -> dict[str, Spec] | None:
        found: dict[str, Spec] | None = None
        for row in self.rows:
            if row.when == when and row.is_active(at):
                found = dict(row.rates) if found is None or row.full else {**found, **row.rates}
        return found


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A factor on token prices that a circumstance brings."""

    provider: str
    models: tuple[str, ...]
    when: Mapping[str, Any]
    factor: Decimal
    source: str
    since: str | None
    until: str | None
    estimated: bool

    def concerns(self, model: Model) -> bool:
        """Tell whether it is about ``model`` at all."""
        return model.provider == self.provider and any(matches(pattern, model.id) for pattern in self.models)

    def applies(self, model: Model, circumstances: Mapping[str, Any], day: str) -> bool:
        """Tell whether it applies to ``model`` on ``day`` (ISO) under ``circumstances``."""
        if (self.since and day < self.since) or (self.until and day >= self.until) or not self.concerns(model):
            return False
        return all(matches(value, circumstances.get(key)) for key, value in self.when.items())


@dataclass(frozen=True, slots=True)
class Discount:
    """A factor that the user's contract puts on what a provider lists, in a period."""

    provider: str
    models: tuple[str, ...]
    factor: Decimal
    since: str | None
    until: str | None
    source: str

    def applies(self, provider: str | None, model: str, day: str) -> bool:
        """Tell whether ``provider``, who bills, gives it on ``model`` on ``day`` (ISO)."""
        if provider != self.provider or (self.since and day < self.since) or (self.until and day >= self.until):
            return False
        return any(matches(pattern, model) for pattern in self.models)


def matches(pattern: Any, value: Any) -> bool:
    """Tell whether ``value`` is what ``pattern`` names; in a text pattern, ``*`` stands for anything."""
    if isinstance(pattern, str) and isinstance(value, str):
        return fnmatch.fnmatchcase(value, pattern)
    return bool(pattern == value)


@dataclass(frozen=True, slots=True)
class Found:
    """A model that a name resolved to, with what its wrapping told."""

    model: Model
    endpoint: str | None = None
    is_clouded: bool = False


class Book:
    """All prices of one version.  Immutable but for its caches; safe to share between threads."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._head = {key: value for key, value in document.items() if key != "providers"}
        self.version: str = document["version"]
        self.library: str = document.get("library", "")
        self.hosts: _names.Hosts = {
            host: [(path, provider) for path, provider in places] for host, places in document["hosts"].items()
        }
        self.multipliers = tuple(_multiplier(raw) for raw in document["multipliers"])
        self.discounts = tuple(_discount(raw) for raw in document.get("discounts", ()))
        self.fees = {
            (raw["provider"], raw["item"]): Spec(Decimal(raw["price"]), (), raw.get("source", "overrides"), None)
            for raw in document["fees"]
        }
        self.limits: list[Mapping[str, Any]] = document.get("limits", [])
        """What models write at most in one answer."""
        self._fallbacks: Mapping[str, list[str]] = document["fallbacks"]
        self._aliases = {(raw["provider"], raw["name"].lower()): raw for raw in document["aliases"]}
        self._disputes = {(raw["provider"], raw["name"].lower()): raw["source"] for raw in document["disputes"]}
        raw = document["providers"]
        self._raw = raw if isinstance(raw, Folded) else fold(raw)
        self._indexes: dict[str, _Index] = {}
        self.plans: dict[Any, Any] = {}
        """What pricing remembers between calls; it may forget it at any time."""

    @property
    def document(self) -> dict[str, Any]:
        """The whole of it as plain values, for who wants to keep it; its providers are decoded for that."""
        return {**self._head, "providers": dict(self._raw)}

    def age_days(self, today: date) -> int:
        """Return how many days ago the book's prices were checked."""
        return (today - date.fromisoformat(self.version[:10])).days

    @property
    def providers(self) -> Collection[str]:
        """The names of all providers."""
        return self._raw.keys()

    def models(self, provider: str) -> Iterator[Model]:
        """Yield the models of ``provider``."""
        if index := self._index(provider):
            yield from index.models

    def find(self, place: _names.Place, model: str) -> Found | None:
        """Return the model that ``model`` names at ``place``; None when the book does not list exactly that name."""
        if place.provider is None:
            return None
        provider, name = place.provider, model.strip().lower()
        if alias := self._aliases.get((provider, name)):
            name = alias["model"].lower()
        return self._find(place, name)

    def dispute(self, provider: str | None, model: str) -> str | None:
        """Return how sources disagree on what ``model`` costs; None when they do not."""
        return self._disputes.get((provider or "", model.strip().lower()))

    def discount(self, provider: str | None, model: str, day: str) -> Discount | None:
        """Return what the user has negotiated with ``provider`` on ``model``; of several, the last one written."""
        return next((d for d in reversed(self.discounts) if d.applies(provider, model, day)), None)

    def _find(self, place: _names.Place, name: str) -> Found | None:
        if place.provider == "aws":
            return self._find_bedrock(name, place.region)
        if place.provider == "google":
            return self._find_google(name, place)
        if place.provider == "anthropic":
            return self._find_claude(name)
        for provider in (place.provider or "", *self._fallbacks.get(place.provider or "", ())):
            index = self._index(provider)
            if index and (found := index.find(name)):
                return Found(found)
        return None

    def _find_claude(self, name: str) -> Found | None:
        """Anthropic's own name; or, when only the shape of the name tells, a cloud's."""
        if "anthropic." in name:
            return self._find_bedrock(name, None)
        index = self._index("anthropic")
        found = index.find(name) if index else None
        return Found(found) if found else None

    def _find_bedrock(self, name: str, region: str | None) -> Found | None:
        read = _names.bedrock_name(name, region)
        if read is None:
            return None
        if read.family == "claude":
            index = self._index("anthropic")
            found = index.find(read.name) if index else None
            return Found(found, read.endpoint, is_clouded=True) if found else None
        index = self._index("aws")
        for candidate, stripped in _names.bedrock_candidates(read.name):
            found = index.listed(candidate, loose=stripped) if index else None
            if found:
                return Found(found)
        return None

    def _find_google(self, name: str, place: _names.Place) -> Found | None:
        read = _names.vertex_name(name, place.region)
        index = self._index("anthropic" if read.family == "claude" else "google")
        found = index.find(read.name) if index else None
        if found is None:
            return None
        return Found(found, read.endpoint, is_clouded=True) if read.family == "claude" else Found(found)

    def _index(self, provider: str) -> _Index | None:
        index = self._indexes.get(provider)
        if index is None and provider in self._raw:
            # Two threads may build it at once; both build the same, and one of the two stays.
            index = self._indexes[provider] = _Index(provider, self._raw)
        return index

    def near(self, name: str, limit: int = 8) -> list[str]:
        """Return listed names that look like ``name``, to help a person who mistyped; never used for pricing."""
        import difflib  # for a person at a terminal; an app need not carry it

        listed = {known for provider in self._raw for model in self.models(provider) for known in model.names}
        return difflib.get_close_matches(name.lower(), sorted(listed), n=limit, cutoff=0.6)


class _Index:
    """The names of one provider's models."""

    def __init__(self, provider: str, providers: Folded) -> None:
        source = providers.source(provider)
        self.models = [Model(provider, text, source) for text in providers.models(provider)]
        self._names = {name: model for model in reversed(self.models) for name in model.names}
        self._stems = {stem: model for model in reversed(self.models) for stem in model.stems}

    def find(self, name: str) -> Model | None:
        """Return the model by its id, an alias, or either of them with a date at its end."""
        if found := self._names.get(name):
            return found
        if name.startswith("ft:"):
            return self._fine_tuned(_names.fine_tuned_base(name))
        if (dashed := _names.with_dashed_date(name)) and (found := self._names.get(dashed)):
            return found
        if (stem := _names.without_date(name)) and (found := self._names.get(stem) or self._stems.get(stem)):
            return found
        return next((self._stems[stem] for stem in _names.loose_stems(name) if stem in self._stems), None)

    def _fine_tuned(self, base: str) -> Model | None:
        found = self._names.get(base) or self._stems.get(base)
        if found is None:
            stem = _names.without_date(base)
            stems = [stem] if stem else list(_names.loose_stems(base))
            found = next((self._stems[stem] for stem in stems if stem in self._stems), None)
        return found

    def listed(self, name: str, *, loose: bool) -> Model | None:
        """Return the model that lists ``name``; ``loose``: only if its source says that the name may be part of one."""
        found = self._stems.get(name)
        return found if loose or found else self._names.get(name)


def _multiplier(raw: Mapping[str, Any]) -> Multiplier:
    return Multiplier(
        raw["provider"],
        tuple(raw["models"]),
        raw["when"],
        Decimal(raw["factor"]),
        raw.get("source", ""),
        raw.get("from"),
        raw.get("until"),
        bool(raw.get("estimated")),
    )


def _discount(raw: Mapping[str, Any]) -> Discount:
    return Discount(
        _names.PROVIDERS.get(raw["provider"], raw["provider"]),
        tuple(raw.get("models", ("*",))),
        Decimal(raw["factor"]),
        raw.get("from"),
        raw.get("until"),
        raw.get("source", "the contract"),
    )


USER_FILE = "TALLYSTICK_PRICES"
"""The variable that names the user's own override file."""
BOOK_FILE = "TALLYSTICK_BOOK"
"""The variable that names a book that ``tallystick prices update`` has written; without it the shipped one is read."""
SHIPPED = Path(__file__).with_name("book.json")

_lock = threading.RLock()  # the garbage collector may end a stream, and so price it, while we hold it
_books: dict[tuple[str, str], Book] = {}


def load_book() -> Book:
    """Return the book: the shipped one or that of ``TALLYSTICK_BOOK``, with the user's ``TALLYSTICK_PRICES`` on top.

    Read once per process, whatever number of threads asks.  A wrong file raises `SettingsError`.
    """
    files = (os.environ.get(BOOK_FILE, ""), os.environ.get(USER_FILE, ""))
    book = _books.get(files)
    if book is None:
        with _lock:
            book = _books.get(files)
            if book is None:
                book = _books.setdefault(files, read_book(*files))
    return book


def read_book(book_file: str = "", user_file: str = "") -> Book:
    """Return the book of these files, the shipped one when ``book_file`` is empty; raises `SettingsError`."""
    path = Path(book_file) if book_file else SHIPPED
    try:
        if not book_file and not user_file:
            with path.open("rb") as lines:
                return Book(read_folded(lines))  # ours needs no look inside; somebody else's does
        document = json.loads(path.read_bytes())
        date.fromisoformat(document["version"][:10])
        if user_file:
            _put_on_top(document, Path(user_file))
        return Book(document)
    except OSError as error:
        raise SettingsError(f"cannot read the price book {path}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _not_a_book(path, error) from error


def _put_on_top(document: dict[str, Any], user_file: Path) -> None:
    # Only with a user's file are these two needed at all.
    from tallystick.pricing._merge import merge
    from tallystick.pricing.overrides import read_overrides

    own = read_overrides(user_file)
    merge(document, own)
    document["version"] += f"+{own.version}" if own.version else "+own"


def _not_a_book(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"{path} is no price book ({type(error).__name__}: {error}); write one with `tallystick prices update`, "
        f"or unset {BOOK_FILE}"
    )
