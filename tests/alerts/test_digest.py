"""The digest: which day or week is told of when, and what it looks like."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest

from fakes.slack import complaint
from tallystick.alerts import Context, Contributor, Spending, digest_message, digest_window
from tallystick.alerts.picture import HEIGHT, WIDTH, bars
from tallystick.model.windows import Window


@pytest.mark.parametrize(
    ("kind", "now", "days"),
    [
        pytest.param("off", "2026-11-23T12:00", None, id="off"),
        pytest.param("daily", "2026-11-23T07:59", None, id="before-nine-in-berlin"),
        pytest.param("daily", "2026-11-23T08:00", ("2026-11-22", "2026-11-23"), id="at-nine-in-berlin"),
        pytest.param("daily", "2026-10-26T12:00", ("2026-10-25", "2026-10-26"), id="a-day-of-25-hours"),
        pytest.param("weekly", "2026-11-23T12:00", ("2026-11-16", "2026-11-23"), id="on-monday"),
        pytest.param("weekly", "2026-11-24T12:00", None, id="not-on-tuesday"),
    ],
)
def test_a_digest_is_of_what_is_over(kind: str, now: str, days: tuple[str, str] | None) -> None:
    window = digest_window(kind, time(9), "Europe/Berlin", datetime.fromisoformat(now).replace(tzinfo=UTC))

    assert (window and (str(window.start.date()), str(window.end.date()))) == days


def spending(**values: Decimal) -> Spending:
    window = Window(datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))
    found = {"spent": Decimal("31.4"), "before": Decimal("24.2"), **values}
    days = [(date(2026, 11, day), Decimal(day)) for day in range(7, 21)]
    return Spending(window=window, calls=9120, failed=41, days=days, **found)


def test_a_digest_says_what_was_spent_beside_the_day_before_and_where_it_went() -> None:
    who = Contributor(dimension="user", value="<!channel>", spend_usd=Decimal(9))
    message = digest_message(spending(), Context(at=datetime(2026, 11, 21, 9, tzinfo=UTC), contributors=(who,)))

    assert message.text == (
        "📊 $31.40 on Fri 20 Nov. The day before: $24.20 (+30 %); Calls: 9,120, of which 41 failed"
    )  # fmt: skip
    assert complaint({"text": message.text, "blocks": list(message.blocks)}) is None
    assert "<!channel>" not in str(message.blocks)
    assert message.chart[0] == ("07 Nov", "7")
    assert "%" not in digest_message(spending(before=Decimal(0)), Context(at=datetime.now(UTC))).text


def test_a_picture_has_a_bar_for_each_day_and_there_is_none_of_nothing() -> None:
    from io import BytesIO

    from PIL import Image

    png = bars("Spend by day", [("19 Nov", "1"), ("20 Nov", "3")])
    assert png is not None
    picture = Image.open(BytesIO(png))
    assert picture.size == (WIDTH, HEIGHT)
    assert len({picture.getpixel((x, HEIGHT - 60)) for x in (WIDTH // 4, WIDTH // 2, WIDTH * 3 // 4)}) == 3
    assert bars("Spend by day", [("20 Nov", "0")]) is None
