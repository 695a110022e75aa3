"""What is told besides thresholds: a table of cases for each kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tallystick.alerts import Context, Contributor, combined, notice_message, watch
from tallystick.model.budgets import Budget
from tallystick.model.windows import window_at

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY_BUDGET = Budget(name="chat", limit_usd=Decimal(24), scope={"feature": "chat"})
TODAY = window_at(DAY_BUDGET, NOW)


def test_a_refused_key_is_told_at_the_first_call() -> None:
    assert watch.failing_key("openai", 0, "shop", NOW) is None
    told = watch.failing_key("openai", 1, "shop", NOW)
    assert told is not None
    assert (told.kind, told.subject, told.period, told.is_urgent) == ("auth", "openai", "2026-11-21T12", True)
    assert told.filters == {"provider": "openai", "outcome": "auth"}


@pytest.mark.parametrize(
    ("calls", "failed", "is_told"),
    [(19, 19, False), (20, 9, False), (20, 10, True), (1000, 499, False), (40, 40, True)],
)
def test_a_provider_fails_when_half_of_enough_calls_do(calls: int, failed: int, is_told: bool) -> None:
    assert (watch.failing_provider("openai", calls, failed, "overloaded", NOW) is not None) == is_told


@pytest.mark.parametrize(("age_days", "is_told"), [(None, False), (30, False), (31, True)])
def test_prices_are_old_after_thirty_days_and_told_of_once_a_week(age_days: int | None, is_told: bool) -> None:
    told = watch.old_prices("2026-10-01", age_days, NOW)
    assert (told is not None) == is_told
    if told:
        assert told.period == "2026-W47"


@pytest.mark.parametrize(
    ("calls", "pause_min", "silent_min", "is_told"),
    [
        pytest.param(49, 1, 600, False, id="too-few-calls"),
        pytest.param(500, 1, 59, False, id="within-the-hour"),
        pytest.param(500, 1, 60, True, id="an-hour"),
        pytest.param(500, 60, 239, False, id="it-often-pauses"),
        pytest.param(500, 60, 240, True, id="four-times-its-longest-pause"),
    ],
)
def test_a_service_is_silent_by_its_own_measure(calls: int, pause_min: int, silent_min: int, is_told: bool) -> None:
    last = NOW - timedelta(minutes=silent_min)
    told = watch.silent_service("shop", calls, timedelta(minutes=pause_min), last, NOW)
    assert (told is not None) == is_told


@pytest.mark.parametrize(("before", "count", "is_told"), [(0, 0, False), (5, 5, False), (5, 6, True)])
def test_a_loss_is_told_when_it_grows(before: int, count: int, is_told: bool) -> None:
    assert (watch.dropped_records("by an app", before, count, NOW) is not None) == is_told


@pytest.mark.parametrize(
    ("spent", "earlier", "is_told"),
    [
        pytest.param("100", ["1"] * 6, False, id="too-few-days"),
        pytest.param("1.9", ["0.1"] * 7 + ["1"], True, id="far-above"),
        pytest.param("0.9", ["0.01"] * 7, False, id="less-than-a-dollar-more"),
        pytest.param("15", ["10", "8", "12", "9", "11", "10", "10"], False, id="not-twice-the-usual"),
        pytest.param("25", ["10", "8", "12", "9", "11", "10", "10"], True, id="six-deviations"),
        pytest.param("25", ["10", "1", "22", "3", "20", "2", "18"], False, id="it-always-varies"),
        pytest.param("2", ["0"] * 7, True, id="nothing-before"),
        pytest.param("21", ["10"] * 7, True, id="equal-days"),
    ],
)
def test_an_hour_is_odd_beside_the_same_hour_of_other_days(spent: str, earlier: list[str], is_told: bool) -> None:
    hour = NOW.replace(minute=0) - HOUR
    told = watch.odd_hour(hour, Decimal(spent), [Decimal(one) for one in earlier])
    assert (told is not None) == is_told


@pytest.mark.parametrize(
    ("spent", "pace", "is_told"),
    [
        pytest.param("12", "1", False, id="lasts"),
        pytest.param("12", "1.05", True, id="just-not"),
        pytest.param("5.9", "9", False, id="too-little-spent-to-tell"),
        pytest.param("24", "9", False, id="already-there"),
        pytest.param("12", None, False, id="no-pace"),
    ],
)
def test_a_forecast_needs_a_pace_that_passes_the_limit(spent: str, pace: str | None, is_told: bool) -> None:
    told = watch.forecast(DAY_BUDGET, TODAY, Decimal(spent), pace and Decimal(pace), NOW)
    assert (told is not None) == is_told


def test_a_forecast_names_the_time() -> None:
    told = watch.forecast(DAY_BUDGET, TODAY, Decimal(14), Decimal(2), NOW)
    assert told is not None
    assert told.title == "chat passes 100 % at 17:30 UTC, at this pace"


@pytest.mark.parametrize(
    ("fast", "slow", "is_told"),
    [("3.99", "9", False), ("4", "5.99", False), ("4", "6", True)],
    ids=["not-fast", "a-blip", "both"],
)
def test_money_burns_when_both_stretches_say_so(fast: str, slow: str, is_told: bool) -> None:
    assert (watch.burn_rate(DAY_BUDGET, TODAY, Decimal(fast), Decimal(slow)) is not None) == is_told


HOSTILE = "<!channel> *x* `y` <https://evil.example|click> " + "m" * 5000


def test_a_notice_is_a_message_that_slack_takes_whatever_the_names_are() -> None:
    notice = watch.unpriced_model(HOSTILE, HOSTILE, 3)
    contributors = (Contributor(dimension="user", value=HOSTILE, spend_usd=Decimal(1)),)
    message = notice_message(notice, Context(at=NOW, dashboard_url="http://127.0.0.1:8501", contributors=contributors))

    shown = str(message.blocks) + message.text
    assert "<!channel>" not in shown
    assert "<https://evil.example" not in shown
    assert len(message.blocks[0]["text"]["text"]) <= 150
    for block in message.blocks:
        texts: list[Any] = [block.get("text", {}), *block.get("fields", [])]
        assert all(len(text.get("text", "")) <= 3000 for text in texts)


def test_many_at_once_are_one_message() -> None:
    notices = [watch.unpriced_model("openai", f"model-{number}", 1) for number in range(30)]
    message = combined([notice_message(one, Context(at=NOW)) for one in notices], "http://127.0.0.1:8501")

    assert message.blocks[0]["text"]["text"] == "⚠️ 30 alerts at once"
    assert "model-0" in message.blocks[1]["text"]["text"]
    assert "model-29" in message.blocks[2]["text"]["text"], "each is named: nobody is told of the others elsewhere"
