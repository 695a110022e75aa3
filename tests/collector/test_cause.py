"""What a stretch of time cost beside the usual, and which calls explain it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, merged, otlp_call, running_collector

HOUR = datetime(2026, 11, 21, 9, tzinfo=UTC)
"""The hour that is asked for."""
USAGE = {"input_tokens": 1000, "output_tokens": 0}  # $0.003


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        yield running


def calls(hours_before: int, number: int, user: str = "u1", feature: str = "chat", **more: Any) -> Any:
    at = HOUR - timedelta(hours=hours_before)
    return merged(*(
        otlp_call(
            started_ns=int(at.timestamp() * 10**9) + turn * 10**9, usage=USAGE, user__id=user,
            tallystick__feature=feature, **more,
        )
        for turn in range(number)
    ))  # fmt: skip


def usual(hours: int = 6) -> list[Any]:
    return [
        calls(before, 1, user, feature)
        for before in range(1, hours + 1) for user in ("u1", "u2") for feature in ("chat", "report")
    ]  # fmt: skip


def cause(collector: Running, **filters: str) -> dict[str, Any]:
    return collector.ask("cause", start=HOUR.isoformat(), end=(HOUR + timedelta(hours=1)).isoformat(), **filters)


def named(answer: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row["value"] for row in answer["cause"]["dimensions"]}


def test_the_combination_is_named_and_leads_to_its_calls(collector: Running) -> None:
    collector.send(*usual(), calls(0, 1), calls(0, 20, "u2", "report", tags={"tenant": "acme"}))

    answer = cause(collector)

    assert named(answer) == {"feature": "report", "user": "u2", "tag.tenant": "acme"}
    assert (answer["spend_usd"], Decimal(answer["usual_usd"]), answer["windows"]) == ("0.063", Decimal("0.012"), 6)
    assert (answer["cause"]["calls"], answer["cause"]["spend_usd"], answer["cause"]["usual_calls"]) == (20, "0.06", 0.0)
    led = collector.ask(
        "totals", start=answer["start"], end=answer["end"],
        **{name.replace(".", "_"): value for name, value in answer["cause"]["filters"].items()},
    )  # fmt: skip
    assert led["calls"] == 20


def test_what_is_always_most_is_no_cause(collector: Running) -> None:
    collector.send(*usual(), *(calls(0, 5, user, feature) for user in ("u1", "u2") for feature in ("chat", "report")))

    assert cause(collector)["cause"] is None


def test_calls_without_a_value_can_be_the_cause(collector: Running) -> None:
    collector.send(*usual(), merged(*(
        otlp_call(started_ns=int(HOUR.timestamp() * 10**9) + turn, usage=USAGE) for turn in range(30)
    )))  # fmt: skip

    answer = cause(collector)

    assert named(answer) == {"feature": None, "user": None}
    assert answer["cause"]["filters"] == {"feature": "", "user": ""}


def test_a_small_rise_has_no_cause(collector: Running) -> None:
    collector.send(*(calls(before, 10) for before in range(1, 6)), calls(0, 10), calls(0, 1, "u2"))

    assert cause(collector)["cause"] is None


def test_a_ledger_that_began_an_hour_ago_knows_no_usual(collector: Running) -> None:
    collector.send(calls(1, 1), calls(0, 9))

    answer = cause(collector)

    assert (answer["windows"], answer["usual_usd"], answer["usual_calls"], answer["cause"]) == (0, None, None, None)


def test_filters_narrow_the_usual_too(collector: Running) -> None:
    collector.send(*usual(), calls(0, 20, "u2", "report"))

    answer = cause(collector, feature="chat")

    assert (answer["calls"], Decimal(answer["usual_usd"])) == (0, Decimal("0.006"))
