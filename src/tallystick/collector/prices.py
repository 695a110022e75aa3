"""The price book in force: into the journal before anything is priced by it, and again when it changes."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tallystick.collector import query, reprice
from tallystick.collector.apply import Applier
from tallystick.collector.journal import Journal, JournalFullError
from tallystick.collector.repricer import is_pending
from tallystick.errors import StoreError
from tallystick.model.segment import Kind
from tallystick.pricing import Shelf

log = logging.getLogger("tallystick.prices")

EVERY_S = 15.0
LOOK_S = 0.05
WAIT_S = 900.0
"""How long a repricing may take; a million units take about a minute."""
KEYS = ("start", "end", "provider", "model", "dry_run")


class RepriceSlowError(StoreError):
    """A repricing goes on although nobody waits for it any more."""

    def __init__(self) -> None:
        super().__init__(f"the repricing is not done after {WAIT_S:.0f} s; it goes on, ask for the figures later")


class Prices:
    """Keeps the journal's price book the same as the shelf's; prices stored units again when asked to."""

    def __init__(self, shelf: Shelf, journal: Journal, applier: Applier) -> None:
        self.shelf = shelf
        self.journal = journal
        self.applier = applier
        self._announced = applier.price_digest()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tallystick-prices", daemon=True)

    def start(self) -> None:
        """Put the book that is in force into the journal, now or when it can be written, and look for younger ones."""
        try:
            self.announce()
        except JournalFullError as error:
            log.warning("the prices in force are not in the journal yet: %s; trying again", error)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def announce(self) -> None:
        """Put the book that is in force into the journal, if it is not the last one there; durable when it returns."""
        with self._lock:
            book = self.shelf.book
            digest = reprice.digest(book)
            if digest != self._announced:
                self.journal.append(Kind.PRICES, reprice.encode_book(book)).result()
                self._announced = digest

    def version(self) -> tuple[str, int | None]:
        """Return the version of the book that is in force, and how many days ago it was checked."""
        book = self.shelf.book
        return book.version, max(book.age_days(datetime.now(UTC).date()), 0)

    def price_again(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``POST /api/v1/reprice``: price stored units again, or with ``dry_run`` say what that would change."""
        scope = _scope(asked)
        dry_run = asked.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise query.BadParameterError(f"dry_run = {str(dry_run)[:40]!r} is neither true nor false")
        self.shelf.refresh()
        if dry_run:
            examined, figures = reprice.preview(self.applier.ask, self.applier.ask_table, scope, self.shelf.book)
        else:
            examined, figures = self._reprice(scope)
        return _answer(self.shelf.book.version, examined, figures, dry_run=dry_run)

    def _reprice(self, scope: reprice.Scope) -> tuple[int, dict[tuple[str, str], reprice.Figures]]:
        self.announce()
        reprice_id = uuid.uuid4().hex
        payload = json.dumps({"id": reprice_id, "scope": scope.as_dict()}).encode()
        upto = self.journal.append(Kind.REPRICE, payload).result()
        until = time.monotonic() + WAIT_S
        if not self.applier.wait_applied(upto, WAIT_S):
            raise RepriceSlowError
        while True:
            was_pending = is_pending(self.applier.ask)  # asked first: it may be done between the two questions
            if (done := reprice.done(self.applier.ask, reprice_id)) is not None:
                return done
            if not was_pending:
                raise StoreError("the repricing could not be applied; the collector's log says why")
            if time.monotonic() > until or self._stopping.wait(LOOK_S):
                raise RepriceSlowError

    def _watch(self) -> None:
        while not self._stopping.wait(EVERY_S):
            try:
                if self.shelf.refresh():
                    log.warning("prices of %s are in force", self.shelf.book.version)
                self.announce()
            except (StoreError, OSError) as error:
                log.warning("%s; the new prices are not in force yet", error)


def _scope(asked: Mapping[str, Any]) -> reprice.Scope:
    for key in asked:
        if key not in KEYS:
            raise query.BadParameterError(f"unknown key {str(key)[:64]!r}; known: {', '.join(KEYS)}")
    start, end = (_time(asked, key) for key in ("start", "end"))
    if start >= end:
        raise query.BadParameterError(f"start {start.isoformat()} is not before end {end.isoformat()}")
    names = {key: asked.get(key) for key in ("provider", "model")}
    for key, value in names.items():
        if value is not None and not (isinstance(value, str) and value):
            raise query.BadParameterError(f"{key} = {str(value)[:40]!r} is no name")
    return reprice.Scope(start=start, end=end, **names)


def _time(asked: Mapping[str, Any], key: str) -> datetime:
    try:
        at = datetime.fromisoformat(asked[key])
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except KeyError:
        raise query.BadParameterError(f"{key} is missing; give an ISO 8601 time, as 2026-11-01T00:00:00Z") from None
    except (TypeError, ValueError, OverflowError):
        raise query.BadParameterError(f"{key} = {str(asked[key])[:40]!r} is no ISO 8601 time") from None
    if not query.EARLIEST <= at <= query.LATEST:
        raise query.BadParameterError(f"{key} = {at.isoformat()} is not between 1970 and 2262")
    return at


def _answer(
    version: str, examined: int, figures: Mapping[tuple[str, str], reprice.Figures], *, dry_run: bool
) -> dict[str, Any]:
    rows = [
        {
            "provider": provider, "model": model, "changed": each.changed, "filled": each.filled,
            "before_usd": _plain(each.before_usd), "after_usd": _plain(each.after_usd),
        }
        for (provider, model), each in sorted(figures.items()) if each.changed
    ]  # fmt: skip
    return {
        "price_version": version, "dry_run": dry_run, "examined": examined,
        "changed": sum(each.changed for each in figures.values()),
        "filled": sum(each.filled for each in figures.values()),
        "before_usd": _plain(sum((each.before_usd for each in figures.values()), reprice.ZERO)),
        "after_usd": _plain(sum((each.after_usd for each in figures.values()), reprice.ZERO)),
        "rows": rows,
    }  # fmt: skip


def _plain(amount: Any) -> str:
    return format(amount.normalize() if amount else reprice.ZERO, "f")
