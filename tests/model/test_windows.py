from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallystick.model.budgets import WINDOWS, Budget
from tallystick.model.windows import Window, window_at

TICK = timedelta(microseconds=1)
INSTANTS = st.integers(0, 4_102_444_800_000).map(
    lambda ms: datetime(1971, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
# Zones whose clocks do something that a naive reading gets wrong.
ZONES = (
    "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "Africa/Cairo",
    "America/Havana", "Africa/Casablanca", "Antarctica/Troll", "Asia/Gaza", "America/Scoresbysund", "Asia/Beirut",
    "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Chatham", "America/St_Johns", "Europe/Dublin", "Etc/GMT-14",
)  # fmt: skip


def budget(timezone: str, window: str = "day", reset_at: time = time()) -> Budget:
    return Budget(name="team", limit_usd=Decimal(10), window=window, timezone=timezone, reset_at=reset_at)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


DAYS = {
    "utc": ("UTC", "2026-11-20T12:00", "2026-11-20T00:00", "2026-11-21T00:00", 24),
    "new-york-25h": ("America/New_York", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
    "new-york-23h": ("America/New_York", "2027-03-14T12:00", "2027-03-14T05:00", "2027-03-15T04:00", 23),
    "lord-howe-23.5h": ("Australia/Lord_Howe", "2026-10-04T00:00", "2026-10-03T13:30", "2026-10-04T13:00", 23.5),
    "lord-howe-24.5h": ("Australia/Lord_Howe", "2026-04-05T00:00", "2026-04-04T13:00", "2026-04-05T13:30", 24.5),
    "kathmandu-5:45": ("Asia/Kathmandu", "2026-11-20T12:00", "2026-11-19T18:15", "2026-11-20T18:15", 24),
    "santiago-no-midnight": ("America/Santiago", "2026-09-06T12:00", "2026-09-06T04:00", "2026-09-07T03:00", 23),
    "santiago-23-oclock-twice": ("America/Santiago", "2026-04-04T12:00", "2026-04-04T03:00", "2026-04-05T04:00", 25),
    "cairo-no-midnight": ("Africa/Cairo", "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00", 23),
    "cairo-23-oclock-twice": ("Africa/Cairo", "2026-10-29T12:00", "2026-10-28T21:00", "2026-10-29T22:00", 25),
    "havana-midnight-twice": ("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
    "apia-left-a-day-out": ("Pacific/Apia", "2011-12-30T11:00", "2011-12-30T10:00", "2011-12-31T10:00", 24),
    "leap-day": ("Europe/Berlin", "2028-02-29T12:00", "2028-02-28T23:00", "2028-02-29T23:00", 24),
}  # fmt: skip


@pytest.mark.parametrize(("zone", "at", "start", "end", "hours"), DAYS.values(), ids=DAYS)
def test_a_day_is_the_calendars_in_the_budgets_zone(zone: str, at: str, start: str, end: str, hours: float) -> None:
    window = window_at(budget(zone), utc(at))

    assert window == Window(utc(start), utc(end))
    assert (window.end - window.start) / timedelta(hours=1) == hours


@pytest.mark.parametrize(
    ("at", "reset_at", "start", "end"),
    [
        pytest.param("2026-11-20T05:59", "06:00", "2026-11-19T06:00", "2026-11-20T06:00", id="before-it"),
        pytest.param("2026-11-20T06:00", "06:00", "2026-11-20T06:00", "2026-11-21T06:00", id="at-it"),
        pytest.param("2026-11-20T23:59:59", "23:59:59", "2026-11-20T23:59:59", "2026-11-21T23:59:59", id="last-second"),
    ],
)
def test_a_day_may_start_at_another_time(at: str, reset_at: str, start: str, end: str) -> None:
    assert window_at(budget("UTC", reset_at=time.fromisoformat(reset_at)), utc(at)) == Window(utc(start), utc(end))


def test_a_reset_time_that_the_clock_jumps_over_is_when_it_jumps() -> None:
    window = window_at(budget("America/New_York", reset_at=time(2, 30)), utc("2027-03-14T12:00"))

    assert window == Window(utc("2027-03-14T07:00"), utc("2027-03-15T06:30"))


def test_a_reset_time_that_comes_twice_is_the_first() -> None:
    twice = budget("America/New_York", reset_at=time(1, 30))
    window = Window(utc("2026-11-01T05:30"), utc("2026-11-02T06:30"))

    assert window_at(twice, utc("2026-11-01T05:30")) == window
    assert window_at(twice, utc("2026-11-01T06:30")) == window, "01:30 for the second time opens nothing"


OTHERS = {
    "week-of-the-change": ("Europe/Berlin", "week", "2026-10-25T12:00", "2026-10-18T22:00", "2026-10-25T23:00"),
    "week-over-new-year": ("UTC", "week", "2027-01-01T12:00", "2026-12-28T00:00", "2027-01-04T00:00"),
    "week-from-its-monday": ("UTC", "week", "2026-11-16T00:00", "2026-11-16T00:00", "2026-11-23T00:00"),
    "month-end": ("UTC", "month", "2026-01-31T23:59", "2026-01-01T00:00", "2026-02-01T00:00"),
    "leap-february": ("UTC", "month", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    "december": ("UTC", "month", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
    "month-of-the-change": ("America/New_York", "month", "2026-11-30T00:00", "2026-11-01T04:00", "2026-12-01T05:00"),
    "hour-of-the-local-clock": ("Asia/Kathmandu", "hour", "2026-11-20T12:00", "2026-11-20T11:15", "2026-11-20T12:15"),
    "hour-the-first-time": ("America/New_York", "hour", "2026-11-01T05:30", "2026-11-01T05:00", "2026-11-01T06:00"),
    "hour-the-second-time": ("America/New_York", "hour", "2026-11-01T06:30", "2026-11-01T06:00", "2026-11-01T07:00"),
    "half-an-hour-longer": ("Australia/Lord_Howe", "hour", "2026-04-04T15:10", "2026-04-04T14:00", "2026-04-04T15:30"),
}  # fmt: skip


@pytest.mark.parametrize(("zone", "window", "at", "start", "end"), OTHERS.values(), ids=OTHERS)
def test_hours_weeks_and_months_follow_the_same_calendar(zone: str, window: str, at: str, start: str, end: str) -> None:
    assert window_at(budget(zone, window), utc(at)) == Window(utc(start), utc(end))


def test_of_an_hours_reset_time_only_the_minute_counts() -> None:
    window = window_at(budget("UTC", "hour", time(17, 20)), utc("2026-11-20T12:00"))

    assert window == Window(utc("2026-11-20T11:20"), utc("2026-11-20T12:20"))


def test_the_start_is_within_and_the_end_outside() -> None:
    window = window_at(budget("UTC"), utc("2026-11-20T12:00"))

    assert window.start in window
    assert window.end - TICK in window
    assert window.end not in window
    assert window.start - TICK not in window


def test_an_instant_is_the_same_in_any_zone_it_is_written_in() -> None:
    at = utc("2026-11-20T23:30")

    assert window_at(budget("UTC"), at.astimezone(timezone(timedelta(hours=9)))) == window_at(budget("UTC"), at)


def test_a_time_without_a_zone_is_no_instant() -> None:
    with pytest.raises(ValueError, match="has no zone"):
        window_at(budget("UTC"), datetime(2026, 11, 20))  # noqa: DTZ001 -- that is the point


@settings(deadline=None)  # a slow machine is no fault
@given(
    zone=st.sampled_from(ZONES),
    window=st.sampled_from(WINDOWS),
    reset_at=st.times().map(lambda at: at.replace(microsecond=0)),
    at=INSTANTS,
)
@example(zone="Pacific/Apia", window="day", reset_at=time(12), at=utc("2011-12-30T10:00"))
@example(zone="Pacific/Kwajalein", window="day", reset_at=time(), at=utc("1993-08-21T11:59"))
@example(zone="Australia/Lord_Howe", window="hour", reset_at=time(1, 45), at=utc("2026-04-04T15:14"))
def test_windows_tile_time_without_gap_or_overlap(zone: str, window: str, reset_at: time, at: datetime) -> None:
    rule = budget(zone, window, reset_at)

    found = window_at(rule, at)

    assert at in found
    assert found.start.tzinfo is UTC
    assert found.end.tzinfo is UTC
    assert window_at(rule, found.start) == found
    assert window_at(rule, found.end - TICK) == found
    assert window_at(rule, found.end).start == found.end
    assert window_at(rule, found.start - TICK).end == found.start


@settings(deadline=None)  # a slow machine is no fault
@given(
    zone=st.sampled_from(ZONES),
    reset_at=st.times().map(lambda at: at.replace(microsecond=0)),
    at=INSTANTS,
)
def test_a_day_starts_when_the_wall_clock_first_reaches_the_reset_time(zone: str, reset_at: time, at: datetime) -> None:
    start = window_at(budget(zone, reset_at=reset_at), at).start
    shown = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    just_before = (start - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)

    label = datetime.combine(shown.date(), reset_at)
    label = label if label <= shown else label - timedelta(days=1)
    assert just_before < label <= shown, "the clock shows the reset time at the start, or jumped over it there"
