from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.alerts import due_alert
from tallystick.model.budgets import Budget
from tallystick.model.windows import Window

TEAM = Budget(name="team", limit_usd=Decimal(10))
DAY = Window(datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("spent_usd", "told", "threshold"),
    [
        pytest.param("0", [], None, id="nothing-spent"),
        pytest.param("4.999999999999", [], None, id="just-below-the-first"),
        pytest.param("5", [], "0.5", id="exactly-at-the-first"),
        pytest.param("6", ["0.5"], None, id="already-told"),
        pytest.param("8", ["0.5"], "0.8", id="the-next"),
        pytest.param("9", [], "0.8", id="jumped-over-the-first"),
        pytest.param("12", [], "1.0", id="jumped-over-all-tells-the-highest"),
        pytest.param("12", ["0.5"], "1.0", id="jumped-over-the-second"),
        pytest.param("8", ["1.0"], None, id="a-higher-one-was-told-and-a-price-corrected"),
        pytest.param("8", ["0.80"], None, id="told-in-other-digits"),
        pytest.param("9", ["0.9"], None, id="told-was-a-threshold-that-is-no-longer-set"),
        pytest.param("1000", ["0.5", "0.8", "1"], None, id="all-told"),
    ],
)
def test_one_alert_per_threshold_and_window(spent_usd: str, told: list[str], threshold: str | None) -> None:
    alert = due_alert(TEAM, DAY, Decimal(spent_usd), [Decimal(share) for share in told])

    assert (alert and str(alert.threshold)) == threshold


def test_an_alert_says_what_was_spent_of_what_and_when() -> None:
    alert = due_alert(TEAM, DAY, Decimal("8.5"), [])

    assert alert is not None
    assert (alert.budget, alert.window, alert.spent, alert.limit) == (TEAM, DAY, Decimal("8.5"), Decimal(10))
    assert alert.share == Decimal("0.85")


@settings(deadline=None)  # a slow machine is no fault
@given(st.lists(st.decimals(0, 3, places=4), max_size=30))
def test_spend_that_grows_tells_each_threshold_at_most_once_and_in_order(steps: list[Decimal]) -> None:
    spent, told = Decimal(0), []
    for step in steps:
        spent += step
        if alert := due_alert(TEAM, DAY, spent, told):
            told.append(alert.threshold)

    assert told == sorted(set(told))
    reached = [share for share in TEAM.thresholds if spent >= share * TEAM.limit_usd]
    assert told[-1:] == reached[-1:], "the highest that was reached was told"
