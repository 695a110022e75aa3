"""Pages of units in, what becomes of them by a price book out; in processes of their own when there are many."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from tallystick.collector.child import Child, serving
from tallystick.collector.decode import EPOCH, MICROSECOND, TOKENS, Decoder
from tallystick.errors import StoreError
from tallystick.pricing import Book, price

WORKERS = 2
NICE = 5
HERE_MAX = 2000
"""So few units are priced here: a process takes longer to start."""
KEYS = ("trace_id", "call_id", "position", "provider", "model")
TAKEN = (*KEYS, "api", "answered_at", "usage", "params", "estimated", "cost_usd", "cost_status", "price_version")
"""The columns of a page."""
COST = pa.decimal128(18, 12)
CHANGES = pa.schema([
    ("trace_id", pa.string()), ("call_id", pa.string()), ("position", pa.int32()), ("provider", pa.string()),
    ("model", pa.string()), ("old_cost_usd", COST), ("old_cost_status", pa.string()),
    ("old_price_version", pa.string()), ("cost_usd", COST), ("cost_status", pa.string()),
    ("price_version", pa.string()), ("receipt", pa.string()), *((name, pa.int64()) for name in TOKENS),
])  # fmt: skip
NAIVE_EPOCH = EPOCH.replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Priced:
    """What becomes of a page."""

    examined: int
    changes: pa.Table
    """The units that cost something else now, with both figures: `CHANGES`."""
    forms: Mapping[str, str]
    """What the receipts of ``changes`` refer to."""


def price_pages(book: str, pages: Iterable[pa.Table]) -> Generator[Priced]:
    """Yield what becomes of each of ``pages``, in their order, by the book of this text.  Raises StoreError."""
    own: Decoder | None = None
    idle: list[Child] = []
    busy: deque[Child] = deque()
    try:
        for page in pages:
            if len(page) <= HERE_MAX and not busy:
                own = own or _decoder(book)
                yield price_page(own, page)
                continue
            if len(busy) == WORKERS:
                idle.append(busy.popleft())
                yield _answer(idle[-1])
            if not idle:
                idle.append(Child(__name__))
                _ask(idle[-1], book)
            busy.append(idle.pop())
            _ask(busy[-1], page)
        while busy:
            idle.append(busy.popleft())
            yield _answer(idle[-1])
    finally:
        for child in (*idle, *busy):
            child.close()


def price_page(decoder: Decoder, page: pa.Table) -> Priced:
    """Return what becomes of the units of ``page``."""
    found: list[tuple[Any, ...]] = []
    for row in zip(*(page.column(name).to_pylist() for name in TAKEN), strict=True):
        *key, api, at, usage, params, estimated, old_cost, old_status, old_version = row
        record = {"usage": _load(usage), "params": _load_params(params), "api": api, "estimated": estimated}
        receipt = decoder.receipt(key[3], key[4] or "", record, (at - NAIVE_EPOCH) // MICROSECOND)
        status, cost = decoder.verdict(receipt, estimated=estimated)
        if (cost, status) != (old_cost, old_status):
            new = decoder.columns(receipt, status, cost)
            found.append((*key, old_cost, old_status, old_version, *new.values()))
    columns = zip(*found, strict=True) if found else ([] for _ in CHANGES)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, CHANGES, strict=True)]
    return Priced(len(page), pa.Table.from_arrays(arrays, schema=CHANGES), decoder.take_forms())


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


_load_params = lru_cache(4096)(_load)
"""They recur from unit to unit; whoever takes them does not change them."""


def _decoder(book: str) -> Decoder:
    return Decoder(partial(price, book=Book(json.loads(book))), 1, 1)


def _ask(child: Child, question: str | pa.Table) -> None:
    try:
        child.pipe.send(question)
    except OSError as error:
        raise StoreError(f"a process that prices units again has ended: {error}") from error


def _answer(child: Child) -> Priced:
    try:
        priced: Priced = child.pipe.recv()
    except (EOFError, OSError) as error:
        raise StoreError("a process that prices units again has ended; the collector's log says why") from error
    return priced


def run(fd: int) -> None:
    """Take a book and then pages, and answer each page, at the other end of ``fd``."""
    with serving(fd) as pipe:
        os.nice(NICE)
        decoder = _decoder(pipe.recv())
        while True:
            pipe.send(price_page(decoder, pipe.recv()))
