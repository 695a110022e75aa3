"""An answer is the same to the last digit whether its hours have been summed or not."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from fakes.ledger import DAYS, NOON, Ledger, ledger
from tallystick.collector import query

ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns")
FAR = "session="
"""A filter that every call of these tests passes, and by which the sums of hours are not kept."""


def both(made: Ledger, question: Any, *params: tuple[str, str]) -> tuple[Any, Any]:
    """Return the answer from the sums, and from the rows alone."""
    name, _, value = FAR.partition("=")
    return (
        question(made.store.ask, params, NOON),
        question(made.store.ask, [*params, (name, value)], NOON),
    )


def same(summed: Any, raw: Any) -> bool:
    """Tell whether two answers are equal, money to the last digit; sums of seconds may differ in a float's last."""
    if isinstance(summed, dict):
        return summed.keys() == raw.keys() and all(same(summed[key], raw[key]) for key in summed)
    if isinstance(summed, list):
        return len(summed) == len(raw) and all(map(same, summed, raw))
    return bool(summed == (pytest.approx(raw) if isinstance(raw, float) else raw))


QUESTIONS: list[tuple[Any, list[tuple[str, str]]]] = [
    (query.totals, []),
    (query.totals, [("outcome", "failed"), ("feature", "chat")]),
    (query.groups, [("by", "model")]),
    (query.groups, [("by", "environment"), ("cost_status", "exact"), ("cost_status", "")]),
    (query.series, [("bucket", "day"), ("by", "feature")]),
    (query.series, [("bucket", "hour")]),
    (query.failures, []),
    (query.failures, [("feature", "search"), ("environment", "")]),
    (query.dimensions, [("name", "outcome")]),
]
STEPS = ("calls", "resend", "foreign", "reprice", "roll", "roll")


@pytest.mark.parametrize("seed", range(len(ZONES)))
def test_sums_of_hours_answer_as_the_rows_do(seed: int) -> None:
    zone, begun = ZONES[seed], random.Random(seed)
    start = NOON - timedelta(hours=30) + timedelta(seconds=begun.randrange(86400))
    whole = [("start", start.isoformat()), ("end", (start + timedelta(days=DAYS + 1)).isoformat())]
    steps = begun.choices(STEPS, k=6)
    with ledger(seed) as made:
        made.calls(12)
        for number, step in enumerate([*steps, "roll", "roll"]):
            getattr(made, step)(made.random.choice([2, 6, 12]))
            is_last = number == len(steps) + 1
            for question, more in QUESTIONS if is_last else made.random.sample(QUESTIONS, 2):
                in_zone = [("timezone", zone)] if question is query.series else []
                found, raw = both(made, question, *whole, *more, *in_zone)
                assert same(found, raw), (question.__name__, more, found, raw)


def test_a_sum_is_used_when_its_hour_is_clean_and_not_when_it_is_dirty() -> None:
    with ledger(1) as made:
        made.calls(20)
        made.roll(1000)
        clean = made.dirty()
        made.store._writer.execute("UPDATE rollup_hour SET calls = calls + 1000").fetchall()
        wrong, _ = both(made, query.totals, ("start", "2026-10-01"), ("end", "2026-12-01"))
        made.resend(100)
        unchanged = made.dirty()
        made.reprice(0)
        made.foreign(3)
        dirty = made.dirty()
        made.roll(1000)
        right, raw = both(made, query.totals, ("start", "2026-10-01"), ("end", "2026-12-01"))

    assert (clean, unchanged) == (0, 0)
    assert wrong["calls"] > 1000
    assert dirty > 0
    assert right["calls"] % 1000 >= raw["calls"] % 1000


def test_quantiles_from_sizes_are_within_two_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "EXACT_CALLS_MAX", 0)
    with ledger(3) as made:
        made.calls(60)
        made.roll(1000)
        asked = [("start", "2026-10-01"), ("end", "2026-12-01"), ("by", "model")]
        counted = query.groups(made.store.ask, asked, NOON)["rows"]
        monkeypatch.setattr(query, "EXACT_CALLS_MAX", 1000)
        exact = query.groups(made.store.ask, asked, NOON)["rows"]

    for name in query.QUANTILES:
        assert [row[name] for row in counted] == [pytest.approx(row[name], rel=0.021) for row in exact]
    assert Decimal(exact[0]["spend_usd"]) > 0
