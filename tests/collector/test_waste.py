"""What was paid without a result, and what retries, waits, fallbacks and rate limits had to do with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, running_collector

USAGE = {"input_tokens": 1000, "output_tokens": 0}  # $0.003
START_NS = time.time_ns() - 3600 * 10**9


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    with running_collector(tmp_path) as running:
        yield running


def causes(collector: Running) -> dict[str, tuple[int, str, int]]:
    rows = collector.ask("waste")["causes"]
    return {row["cause"]: (row["calls"], row["usd"], row["untold"]) for row in rows if row["calls"]}


def test_each_cause_has_its_money_and_leads_to_its_calls(collector: Running) -> None:
    first = "00000000000000a1"
    again = {"tallystick__link__id": first, "tallystick__link__kind": "re_ask", "tallystick__link__index": 1}
    asked_before = {"usage": USAGE, "tallystick__request_digest": "d1", "latency_ms": 1000}
    collector.send(
        otlp_call(outcome="timeout_read", units=[], attempts=[{"tallystick.attempt.outcome": "timeout_read"}]),
        otlp_call(outcome="abandoned", usage=USAGE), otlp_call(outcome="cancelled", usage=USAGE),
        otlp_call(outcome="truncated", usage=USAGE), otlp_call(outcome="refusal", usage=USAGE),
        otlp_call(id=first, outcome="invalid_output", usage=USAGE), otlp_call(usage=USAGE, **again),
        otlp_call(started_ns=START_NS, **asked_before), otlp_call(started_ns=START_NS + 60 * 10**9, **asked_before),
        otlp_call(usage=USAGE, tallystick__request_digest="d2"),
    )  # fmt: skip

    assert causes(collector) == {
        "timeouts": (1, "0", 1), "abandoned": (2, "0.006", 0), "truncated": (1, "0.003", 0),
        "invalid_output": (1, "0.003", 0), "other": (1, "0.003", 0), "re_asks": (1, "0.003", 0),
        "duplicates": (1, "0.003", 0),
    }  # fmt: skip
    for row in collector.ask("waste")["causes"]:
        led = collector.ask("totals", **row["filters"])
        # Of a request that was repeated, the first one is shown beside its repetition.
        assert led["calls"] == row["calls"] + (row["cause"] == "duplicates"), row


def test_a_repetition_after_more_than_an_hour_is_none(collector: Running) -> None:
    for at in (START_NS - 4000 * 10**9, START_NS):
        collector.send(otlp_call(started_ns=at, usage=USAGE, tallystick__request_digest="d1"))

    assert causes(collector) == {}


def tried(*waits: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    """Return attempts by what the server asked to wait, and how long was waited before."""
    return [
        {"tallystick.attempt.outcome": "rate_limited" if number < len(waits) - 1 else "ok", "started_ms": number * 100,
         "http.response.status_code": 429, "tallystick.attempt.retry_after_s": asked,
         "tallystick.attempt.waited_s": waited}
        for number, (asked, waited) in enumerate(waits)
    ]  # fmt: skip


def test_waits_are_compared_only_where_another_attempt_followed(collector: Running) -> None:
    collector.send(
        otlp_call(usage=USAGE, attempts=tried((2.0, None), (1.0, 2.1), (None, 0.2))),
        otlp_call(units=[], outcome="rate_limited", attempts=tried((30.0, None))),
        otlp_call(usage=USAGE, attempts=tried((None, None), (None, 9.0))),
    )

    answer = collector.ask("waste")

    assert answer["waits"] == [
        {
            "provider": "anthropic",
            "asked": 3,
            "followed": 2,
            "sooner": 1,
            "asked_s": 3.0,
            "waited_s": pytest.approx(2.3),
        }
    ]
    assert answer["tries"] == [
        {"tries": 1, "calls": 1, "answered": 0}, {"tries": 2, "calls": 1, "answered": 1},
        {"tries": 3, "calls": 1, "answered": 1},
    ]  # fmt: skip


def test_a_fallback_names_both_models(collector: Running) -> None:
    first = "00000000000000b1"
    collector.send(
        otlp_call(id=first, outcome="overloaded", units=[], started_ns=START_NS),
        otlp_call(model="claude-haiku-4-5", usage=USAGE, started_ns=START_NS + 10**9, tallystick__link__id=first,
                  tallystick__link__kind="fallback", tallystick__link__index=1),
    )  # fmt: skip

    assert collector.ask("waste")["fallbacks"] == [
        {"model_before": "claude-sonnet-4-5", "model": "claude-haiku-4-5", "calls": 1, "answered": 1,
         "spend_usd": "0.001"}
    ]  # fmt: skip


def test_headroom_is_the_least_and_the_last_of_each_limit(collector: Running) -> None:
    for place, left in enumerate((40, 3, 25)):
        limits = {"tallystick.ratelimit.requests.limit": 50, "tallystick.ratelimit.requests.remaining": left}
        collector.send(otlp_call(started_ns=START_NS + place * 10**9, usage=USAGE, attempts=[limits]))

    [row] = collector.ask("waste")["headroom"]

    assert (row["of"], row["lowest"], row["lowest_limit"], row["latest"]) == ("requests", 3, 50, 25)
    assert row["lowest_at"] < row["latest_at"]


def test_filters_hold_for_all_of_it(collector: Running) -> None:
    limits = {"tallystick.ratelimit.requests.limit": 50, "tallystick.ratelimit.requests.remaining": 1}
    collector.send(
        otlp_call(usage=USAGE, outcome="truncated", attempts=[limits | tried((1.0, None))[0]], tallystick__feature="a")
    )

    answer = collector.ask("waste", feature="b")

    assert sum(Decimal(row["usd"]) for row in answer["causes"]) == 0
    assert [answer[name] for name in ("tries", "waits", "fallbacks", "headroom")] == [[], [], [], []]
