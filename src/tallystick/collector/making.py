"""A stretch of the journal is made ready to be stored: read, decoded, priced and packed.

Nothing here outlives a stretch but what may be forgotten, so it may happen in another process (`worker`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from google.protobuf.message import DecodeError

from tallystick.collector.decode import Batch, Decoder
from tallystick.collector.events import Statement, statements
from tallystick.collector.journal import Position, Stretch
from tallystick.collector.packed import BadRowsError, Packed, Schemas, pack
from tallystick.model.segment import Damage, Kind, Record
from tallystick.pricing import Book, price

log = logging.getLogger("tallystick.apply")

ALONE = frozenset({Kind.PRICES, Kind.REPRICE})
"""Records that change how everything behind them is priced, or what was priced before."""


@dataclass(slots=True)
class Group:
    """What one transaction is to store."""

    upto: Position
    ends: list[int]
    """Where each of its records ends, and each stretch of damage."""
    packed: Packed | None = None
    statements: list[Statement] = field(default_factory=list)
    unread: list[tuple[int, int, str]] = field(default_factory=list)
    """Records that cannot be decoded: start, end, and why."""
    alone: Record | None = None
    """A record that is to be applied by itself; there is nothing else then."""
    fault: str | None = None
    """Why these rows cannot be stored, now or ever; there are none then."""

    @property
    def is_empty(self) -> bool:
        """Tell whether its records leave nothing in the tables, as most of what budgets hold and settle."""
        return self.packed is None and self.fault is None and self.alone is None

    def rows(self) -> Packed:
        """Return the rows; raises BadRowsError when there is a fault."""
        if self.packed is None:
            raise BadRowsError(self.fault or "there are no rows")
        return self.packed


class Maker(Protocol):
    """Makes one group at a time; `begin` does not wait for it, `result` does."""

    decoder: Decoder

    def use(self, text: str) -> None:
        """Price by the book that ``text`` is from now on."""

    def begin(self, stretch: Stretch, schemas: Schemas) -> None:
        """Have a group made of ``stretch``."""

    def result(self) -> Group:
        """Return what was begun last."""

    def close(self) -> None:
        """Let go of everything."""


class Here:
    """Makes groups in this process, when the result is asked for."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._begun: tuple[Stretch, Schemas] | None = None

    def use(self, text: str) -> None:
        """Price by another book."""
        self.decoder.price = partial(price, book=Book(json.loads(text)))

    def begin(self, stretch: Stretch, schemas: Schemas) -> None:
        """Keep in mind what is to be made."""
        self._begun = stretch, schemas

    def result(self) -> Group:
        """Make it."""
        assert self._begun is not None, "nothing was begun"
        return make(self.decoder, *self._begun)

    def close(self) -> None:
        """Do nothing."""


def make(decoder: Decoder, stretch: Stretch, schemas: Schemas) -> Group:
    """Return the group that ``stretch`` begins with: up to its end, or up to a record that is applied alone."""
    found, upto = stretch.read()
    alone = _first_alone(found)
    if alone == 0:
        record = found[0]
        assert isinstance(record, Record), "damage is no record of prices"
        return Group(stretch.position(record.end), [record.end], alone=record)
    if alone:
        found = found[:alone]
        upto = stretch.position(found[-1].end)
    group = Group(upto, [stretch.start.offset + one.end for one in found])
    batch = _decoded(decoder, found, group, stretch.start.offset)
    if not (batch or group.statements or group.unread):
        return group
    try:
        group.packed = pack(batch, schemas)
    except BadRowsError as error:
        group.fault = str(error)
    return group


def uncounted() -> Batch:
    """Return what is stored in place of a record that cannot be: that there was one."""
    batch = Batch()
    batch.counts["dropped_records"] += 1
    batch.counts["dropped:cannot be stored"] += 1
    return batch


def _first_alone(found: Sequence[Record | Damage]) -> int | None:
    """Return the index of the first record that must be applied by itself, None when there is none."""
    alone = (index for index, record in enumerate(found) if isinstance(record, Record) and record.kind in ALONE)
    return next(alone, None)


def _decoded(decoder: Decoder, found: Sequence[Record | Damage], group: Group, offset: int) -> Batch:
    batch = Batch()
    for record in found:
        if isinstance(record, Damage):
            batch.counts["damaged_bytes"] += record.end - record.start
            continue
        try:
            _take(decoder, record, batch, group)
        except Exception as error:  # one record that breaks us must not stop the ones behind it
            if not isinstance(error, DecodeError):
                log.exception("a record of the journal cannot be decoded")
            group.unread.append((offset + record.start, offset + record.end, f"{type(error).__name__}: {error}"))
            batch.extend(uncounted())
    return batch


def _take(decoder: Decoder, record: Record, batch: Batch, group: Group) -> None:
    if record.kind == Kind.TRACES:
        batch.extend(decoder.decode(record.payload, record.time_ns))
    elif record.kind == Kind.ALERT or (record.kind == Kind.BUDGET and record.payload[:1] == b"{"):
        group.statements += statements(json.loads(record.payload))
    elif record.kind == Kind.NOTE:
        for name, count in json.loads(record.payload)["counts"].items():
            batch.counts[str(name)] += int(count)
