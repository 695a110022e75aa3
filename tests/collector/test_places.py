"""Every row that is stored has told where it lies, so an id is found by that and by nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.ledger import LATE, Ledger, ledger
from tallystick.collector import lookup, places, query
from tallystick.collector.store import Store

HEAD = "('0x' || left({}, 8))::UINTEGER"
UNTOLD = " UNION ALL ".join(
    f"SELECT {column} FROM {table} WHERE ({HEAD.format(column)}, epoch_us(started_at) // {places.HOUR_US})"
    " NOT IN (SELECT (head, hour) FROM places)"
    for table, column in places.TOLD
)
DAY = timedelta(days=1)
NOW = LATE.replace(tzinfo=None)


def filled(made: Ledger) -> list[tuple[Any, ...]]:
    """Fill a ledger; return the ids of its calls and of their traces."""
    made.calls(60)
    made.foreign(20)
    made.resend(40)
    return made.store.ask("SELECT id, trace_id, started_at FROM calls")


def found(store: Store, ids: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return those of ``ids`` that are found, each by its own id and by its trace's."""
    return [
        row
        for row in ids
        if query.call(store.ask, row[0])["call"]["trace_id"] == row[1]
        and row[0] in {call["id"] for call in lookup.trace(store.ask, row[1])["calls"]}
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_stored_has_told_its_place(seed: int) -> None:
    with ledger(seed) as made:
        ids = filled(made)

        assert len(ids) > 60
        assert made.store.ask(UNTOLD) == []
        assert found(made.store, ids) == ids


def test_a_call_is_found_by_the_beginning_of_its_id_however_short() -> None:
    with ledger(3) as made:
        wanted = filled(made)[0][0]
        for length in (16, 12, 8, 7):
            assert query.call(made.store.ask, wanted[:length])["call"]["id"] == wanted
        with pytest.raises(query.BadParameterError, match="calls begin with"):
            query.call(made.store.ask, _shared(made.store))
        with pytest.raises(query.NotFoundError):
            query.call(made.store.ask, f"{int(wanted, 16) ^ 1:016x}")


def _shared(store: Store) -> str:
    """Return a digit with which several calls begin."""
    digit: str = store.ask("SELECT left(id, 1) FROM calls GROUP BY 1 HAVING count(*) > 1 LIMIT 1")[0][0]
    return digit


def test_a_database_of_before_there_were_places_tells_them_as_it_opens(tmp_path: Path) -> None:
    made = Ledger(tmp_path, 4)
    ids = filled(made)
    assert made.store.move(NOW + 2 * DAY), "some of it is in the archive"
    made.calls(10)
    for sql in ("DELETE FROM places", "DELETE FROM meta WHERE key = 'places'"):
        made.store._run(sql)
    made.store.close()
    store = Store(tmp_path / "test.duckdb", 128)
    try:
        assert store.ask(UNTOLD) == []
        assert found(store, ids) == ids
    finally:
        store.close()


def test_what_is_dropped_has_no_place_any_more(tmp_path: Path) -> None:
    made = Ledger(tmp_path, 5)
    ids = filled(made)
    try:
        while made.store.move(NOW + 2 * DAY):
            pass
        while made.store.drop(NOW + 3 * DAY, NOW + 3 * DAY, None):
            pass

        last = max(row[2] for row in ids)
        assert made.store.ask("SELECT count(*) FROM calls") == [(0,)]
        assert made.store.ask("SELECT count(*) FROM places") == [(0,)], f"the last began at {last}"
    finally:
        made.store.close()
