"""Repricing beside the ingest: one thread reads and prices, the applier writes a page between what else it writes."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tallystick.collector import reprice
from tallystick.collector.priced import price_pages
from tallystick.collector.reprice import Ask, AskTable, Revision
from tallystick.collector.store import Store
from tallystick.errors import StoreError
from tallystick.pricing import load_book

log = logging.getLogger("tallystick.reprice")

WAITING_MAX = 2
"""Priced pages that wait to be written."""
RETRY_S = 1.0
LOOK_S = 0.2
MALFORMED = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
Write = Callable[[Store], None]


class Repricer:
    """Works off `repricing`, the oldest first; what is to be written waits in `writes` for the applier.

    How far a repricing is, is written with each page, so that after a kill it is gone on with where it was.
    """

    def __init__(self, ask: Ask, ask_table: AskTable) -> None:
        self.writes: queue.Queue[Write] = queue.Queue(WAITING_MAX)
        self.is_busy = False
        """True while there may be something to write soon."""
        self.ended: Callable[[], None] = lambda: None
        """Called, on any thread, when a repricing is done."""
        self._ask = ask
        self._ask_table = ask_table
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tallystick-reprice", daemon=True)

    def start(self) -> None:
        """Go on with what is not done yet."""
        self._thread.start()
        self.wake()

    def stop(self) -> None:
        """Stop in the middle; the rest is done after the next start."""
        self._stopping.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look for work."""
        self.is_busy = True
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait()
            self._wanted.clear()
            try:
                while not self._stopping.is_set() and (job := _next(self._ask)):
                    self._work(*job)
                self.is_busy = self._wanted.is_set()
            except (StoreError, OSError) as error:
                log.warning("a repricing was interrupted (%s); it is gone on with", error)
                self._stopping.wait(RETRY_S)
                self._wanted.set()

    def _work(self, reprice_id: str, at: datetime, scope: reprice.Scope, done_to: datetime) -> None:
        rest = replace(scope, start=max(scope.start, done_to.replace(tzinfo=UTC)))
        try:
            for revision in self._revisions(reprice_id, at, rest):
                self._hand_over(partial(Store.revise, revision=revision))
        except MALFORMED:
            # What follows in the journal must not wait for ever for what can never be done.
            log.exception("a repricing is given up; the units from %s on keep their figures", rest.start)
        done = threading.Event()

        def end_it(store: Store) -> None:
            store.end_repricing(reprice_id, *reprice.ended(reprice_id, at, scope))
            done.set()
            self.ended()

        self._hand_over(end_it)
        while not done.wait(LOOK_S) and not self._stopping.is_set():
            continue

    def _revisions(self, reprice_id: str, at: datetime, scope: reprice.Scope) -> Iterator[Revision]:
        times = reprice.slices(self._ask, scope)
        pages = (reprice.page(self._ask_table, scope, *between) for between in times)
        with closing(price_pages(_book(self._ask), pages)) as found:
            for (start, end), priced in zip(times, found, strict=True):
                if self._stopping.is_set():
                    return
                yield Revision(reprice_id=reprice_id, revised_at=at, start=start, end=end, priced=priced)

    def _hand_over(self, write: Write) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                self.writes.put(write, timeout=LOOK_S)
                return


def is_pending(ask: Ask) -> bool:
    """Tell whether a repricing is not done yet."""
    return bool(ask("SELECT 1 FROM repricing LIMIT 1"))


def _next(ask: Ask) -> tuple[str, datetime, reprice.Scope, datetime] | None:
    rows = ask("SELECT id, asked_at, scope, done_to FROM repricing ORDER BY rowid LIMIT 1")
    if not rows:
        return None
    reprice_id, at, scope, done_to = rows[0]
    return reprice_id, at, reprice.scope_of(json.loads(scope)), done_to


def _book(ask: Ask) -> str:
    """Return the book that is in force where the store is: it does not change while a repricing is not done."""
    rows: list[Any] = ask("SELECT document FROM price_version ORDER BY rowid DESC LIMIT 1")
    return str(rows[0][0]) if rows else reprice.text_of(load_book())
