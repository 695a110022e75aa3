"""The book that is in force in a process that runs for long: read anew when a file changes, kept when it is wrong."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tallystick.errors import SettingsError
from tallystick.model.receipt import Receipt
from tallystick.pricing._book import BOOK_FILE, SHIPPED, USER_FILE, Book, read_book
from tallystick.pricing._receipts import price

log = logging.getLogger("tallystick.prices")

BOOK_NAME = "book.json"
LOOK_S = 30.0
"""How long a change of a file may go unseen."""


class Shelf:
    """Prices from ``folder/book.json`` when it is newer than what is shipped, with the user's file on top.

    ``TALLYSTICK_BOOK`` names another file than the folder's.  Raises SettingsError when the files are wrong at first;
    later a wrong file leaves the last good book in force, and `fault` says what is wrong with it.
    """

    def __init__(self, folder: Path | None, environ: Mapping[str, str] = os.environ) -> None:
        self.fault: str | None = None
        self._folder = folder
        self._environ = environ
        self._lock = threading.Lock()
        self._look_at = time.monotonic() + LOOK_S
        self._signature = self._signed()
        self.book = self._read()

    def price(self, provider: str, model: str, usage: Mapping[str, Any] | None, **params: Any) -> Receipt:
        """Return what a unit costs by the book that is in force."""
        if time.monotonic() >= self._look_at:
            self.refresh()
        return price(provider, model, usage, book=self.book, **params)

    def refresh(self) -> bool:
        """Read the files again if they have changed; tell whether another book is in force now.  Never raises."""
        with self._lock:
            self._look_at = time.monotonic() + LOOK_S
            signature = self._signed()
            if signature == self._signature:
                return False
            self._signature = signature
            try:
                book = self._read()
            except SettingsError as error:
                self.fault = str(error)
                log.warning("%s; the prices of %s stay in force", error, self.book.version)
                return False
            self.fault = None
            self.book = book
            return True

    def _read(self) -> Book:
        user_file = self._environ.get(USER_FILE, "")
        named = self._environ.get(BOOK_FILE, "")
        if named or self._folder is None or not (self._folder / BOOK_NAME).is_file():
            return read_book(named, user_file)
        book, shipped = read_book(str(self._folder / BOOK_NAME), user_file), read_book("", user_file)
        # An upgrade of tallystick may bring a younger book than the last update did.
        return book if book.version[:10] >= shipped.version[:10] else shipped

    def _signed(self) -> tuple[tuple[int, int] | None, ...]:
        named = self._environ.get(BOOK_FILE, "")
        book_file = Path(named) if named else self._folder / BOOK_NAME if self._folder else SHIPPED
        return tuple(_stamp(path) for path in (book_file, Path(self._environ.get(USER_FILE, "") or os.devnull)))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
