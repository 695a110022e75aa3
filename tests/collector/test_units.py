"""``GET /api/v1/units``: every billable response once, page by page, with its receipt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.errors import CollectorRefusedError

USAGE = {"input_tokens": 1200, "output_tokens": 350}
NOW_NS = time.time_ns()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector with seven calls of which one has three units, one none, and several start at the same time."""
    with running_collector(tmp_path_factory.mktemp("units")) as running:
        for number in range(5):
            running.send(otlp_call(usage=USAGE, started_ns=NOW_NS - (1 + number // 2) * 10**9,
                                   tallystick__feature=f"f{number}", tallystick__key="a1b2…9xyz"))  # fmt: skip
        running.send(
            otlp_call(units=[otlp_unit(usage=USAGE) for _ in range(3)], started_ns=NOW_NS - 10**9),
            otlp_call(outcome="rate_limited", started_ns=NOW_NS - 10**9),
        )
        yield running


def pages(running: Running, **asked: Any) -> list[list[dict[str, Any]]]:
    found = []
    cursor = None
    while True:
        answer = running.ask("units", cursor=cursor, **asked)
        found.append(answer["rows"])
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 3, 8, 1000])
def test_every_unit_comes_once_whatever_the_page(collector: Running, limit: int) -> None:
    found = pages(collector, limit=limit)

    ids = [unit["id"] for page in found for unit in page]
    assert len(ids) == len(set(ids)) == 8
    assert all(len(page) == limit for page in found[:-1])


def test_a_unit_says_what_it_cost_and_whose_it_is(collector: Running) -> None:
    [[unit]] = pages(collector, feature="f0")

    assert (unit["cost_usd"], unit["cost_status"], unit["feature"], unit["key"]) == (
        "0.00885", "exact", "f0", "a1b2…9xyz"
    )  # fmt: skip
    assert unit["usage"] == USAGE
    assert [line["item"] for line in unit["receipt"]["lines"]] == ["input", "output"]
    assert collector.ask(f"calls/{unit['call_id']}")["units"][0]["id"] == unit["id"]


def test_the_units_add_up_to_the_totals(collector: Running) -> None:
    [page] = pages(collector)

    assert sum(round(float(unit["cost_usd"]) * 10**5) for unit in page) == 8 * 885
    assert collector.ask("totals")["spend_usd"] == "0.0708"


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJhIiwgImIiLCAiYyIsIDFd", "eyJhIjogMX0"])
def test_a_cursor_of_another_question_is_refused(collector: Running, cursor: str) -> None:
    with pytest.raises(CollectorRefusedError, match="cursor is not one"):
        collector.ask("units", cursor=cursor)
