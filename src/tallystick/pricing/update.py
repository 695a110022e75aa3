"""``tallystick prices update``: younger prices into the data folder, without an upgrade of the package.

What is fetched is data from outside: it is compiled, read back, compared with what is in force and only then put in its
place, whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tallystick.errors import SettingsError
from tallystick.model.places import data_dir
from tallystick.pricing._book import BOOK_FILE, SHIPPED, USER_FILE, Book, read_book
from tallystick.pricing._shelf import BOOK_NAME
from tallystick.pricing.compile import OVERRIDES, Json, compile_book, encode
from tallystick.pricing.overrides import read_overrides

FOLDER = "prices"
LOST_MAX = 0.2
"""A book that lacks more than this share of the models in force is taken for a broken one."""


def run(*, data: Path | None, url: str | None, offline: bool, today: date | None = None) -> int:
    """Fetch prices, compile them with our overrides and put the book into the data folder; 0 also without a network."""
    today = today or datetime.now(UTC).date()
    folder = (data or data_dir(os.environ)) / FOLDER
    providers, told = (None, "not asked for younger ones") if offline else fetch(url)
    in_force = _in_force(folder)
    document = _compiled(providers)
    document["version"] = _version(document, today if providers else None)
    _say(f"{document['library']}: {told}")
    _check(document, in_force)
    user_file = os.environ.get(USER_FILE, "")
    changes = _changes(in_force, Book(document))
    if document["version"] == in_force.version or document["version"][:10] < in_force.version[:10]:
        _say(f"prices of {in_force.version} are in force, {_age(in_force, today)}; nothing is younger")
        return 0
    path = write(folder, document)
    read_book(str(path), user_file)  # what was written is what will be read
    _say(f"{path}: prices of {document['version']}; {changes}")
    _say(f"a collector on this folder takes them within a minute; for an app set {BOOK_FILE}={path}")
    return 0


def fetch(url: str | None) -> tuple[Sequence[Any] | None, str]:
    """Return the providers that genai-prices' own updater fetches, and what to tell; None when it cannot."""
    from genai_prices import UpdatePrices

    updater = UpdatePrices(url=url) if url else UpdatePrices()
    try:
        snapshot = updater.fetch()
    except Exception as error:  # noqa: BLE001 -- the updater's HTTP library is its own choice, and so are its errors
        return None, f"cannot fetch {updater.url} ({str(error) or type(error).__name__}); taking what is installed"
    if snapshot is None or not snapshot.providers:
        return None, f"{updater.url} has no prices; taking what is installed"
    return snapshot.providers, f"fetched from {updater.url}"


def _compiled(providers: Sequence[Any] | None) -> Json:
    try:
        return compile_book(read_overrides(OVERRIDES), providers)
    except (SettingsError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SettingsError(f"what was fetched is no whole price data ({error}); nothing was changed") from error


def write(folder: Path, document: Json) -> Path:
    """Put the book into ``folder`` under its version, then under the name that is read; each is there whole or not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = encode(document)
        _replace(folder / f"book-{document['version']}.json", text)
        _replace(folder / BOOK_NAME, text)
    except OSError as error:
        raise SettingsError(f"cannot write the book into {folder}: {error.strerror}; name another --data") from error
    return folder / BOOK_NAME


def _replace(path: Path, text: str) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _in_force(folder: Path) -> Book:
    """Return the book that the data folder's collector has now, without the user's own prices on top."""
    shipped = read_book()
    with suppress(SettingsError):  # no update yet, or one that cannot be read: the new one takes its place
        updated = read_book(str(folder / BOOK_NAME))
        return updated if updated.version[:10] >= shipped.version[:10] else shipped
    return shipped


def _version(document: Json, fetched_on: date | None) -> str:
    """Return the day on which the prices were checked, with a mark of the content when it is not the shipped."""
    text = encode(document)
    if text == SHIPPED.read_text(encoding="utf-8"):
        return str(document["version"])
    mark = hashlib.sha256(encode({**document, "version": ""}).encode()).hexdigest()[:8]
    return f"{fetched_on.isoformat() if fetched_on else document['version']}.{mark}"


def _check(document: Json, in_force: Book) -> None:
    """Refuse a book that is not one, or that has lost so much that it can only be a mistake."""
    found, known = _rates(Book(document)), _rates(in_force)
    lost = [name for name in known if name not in found]
    if len(lost) > LOST_MAX * len(known):
        raise SettingsError(
            f"the new prices lack {len(lost)} of the {len(known)} models that are listed now, {' '.join(lost[0])} "
            "for one; nothing was changed. Try again later, or name another source with --url"
        )


def _rates(book: Book) -> dict[tuple[str, str], Any]:
    return {
        (provider, model.id): tuple(
            (row.when, row.since, row.until, row.hours, sorted((i, s.base, s.steps) for i, s in row.rates.items()))
            for row in model.rows
        )
        for provider in book.providers
        for model in book.models(provider)
    }


def _changes(old: Book, new: Book) -> str:
    before, after = _rates(old), _rates(new)
    changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
    return (
        f"{len(after.keys() - before.keys())} models are new, {changed} have other rates, "
        f"{len(before.keys() - after.keys())} are gone, of {len(after)}"
    )


def _age(book: Book, today: date) -> str:
    days = max(book.age_days(today), 0)
    return "checked today" if days == 0 else f"checked {days} days ago"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
