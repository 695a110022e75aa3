from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.dashboard.view import DIMENSIONS, FILTERS, RANGES, View, kept, read_view

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def view_of(url: str, viewer: str | None = None) -> View:
    return read_view(parse_qs(url, keep_blank_values=True), NOW, viewer)


def test_an_empty_url_is_the_last_24_hours_by_model() -> None:
    view = view_of("")

    assert (view.start, view.end, view.by) == (NOW - timedelta(days=1), NOW, "model")
    assert view.filters == {}
    assert view.complaints == ()


@pytest.mark.parametrize("name", RANGES)
def test_a_moving_range_ends_now(name: str) -> None:
    view = view_of(f"range={name}")

    assert (view.end, view.length) == (NOW, RANGES[name])


@pytest.mark.parametrize(
    ("start", "is_utc"),
    [
        pytest.param("2026-11-21T08:00:00Z", "2026-11-21T08:00:00+00:00", id="utc"),
        pytest.param("2026-11-21T09:00:00%2B01:00", "2026-11-21T08:00:00+00:00", id="offset"),
        pytest.param("2026-11-21T09:00:00+01:00", "2026-11-21T08:00:00+00:00", id="offset-whose-plus-became-a-space"),
        pytest.param("2026-11-21T09:00", "2026-11-21T08:00:00+00:00", id="without-a-zone-it-is-the-readers"),
        pytest.param("2026-11-21", "2026-11-20T23:00:00+00:00", id="a-day-begins-in-the-readers-zone"),
    ],
)
def test_a_fixed_start_is_understood(start: str, is_utc: str) -> None:
    view = view_of(f"start={start}", viewer="Europe/Berlin")

    assert view.start == datetime.fromisoformat(is_utc)
    assert view.range is None
    assert view.end == NOW


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("range=9y", "range=9y is not known, so this is range=24h; known: 1h, 6h, 24h, 7d, 30d, 90d"),
        ("by=colour", "by=colour is not known"),
        ("order=cheap", "order=cheap is not known"),
        ("tz=Mars/Olympus", "tz=Mars/Olympus is not a time zone"),
        ("tz=/etc/passwd", "tz=/etc/passwd is not a time zone"),
        ("start=yesterday", "start=yesterday is not a time"),
        ("start=0001-01-01", "outside the years 2000 to 2100"),
        ("start=2026-11-21T10:00Z&end=2026-11-21T09:00Z", "is not before"),
    ],
)
def test_what_the_url_says_wrongly_is_told_and_the_default_is_shown(url: str, says: str) -> None:
    view = view_of(url)

    [complaint] = view.complaints
    assert says in complaint
    assert view.length == timedelta(days=1)


def test_a_filter_may_be_repeated_and_may_be_empty() -> None:
    view = view_of("model=a&model=b&feature=&tag.tenant=acme&nonsense=1&tag.=x")

    assert view.filters == {"model": ("a", "b"), "feature": ("",), "tag.tenant": ("acme",)}
    assert view.question()["model"] == ["a", "b"]
    assert "nonsense" not in view.question()


def test_the_period_before_is_equally_long_and_ends_where_this_one_starts() -> None:
    view = view_of("range=7d&model=a")

    before = view.question_before()

    assert before["end"] == view.question()["start"]
    assert before["start"] == "2026-11-07T12:00:00Z"
    assert before["model"] == ["a"]


@pytest.mark.parametrize(
    ("span", "bucket"), [("1h", "minute"), ("6h", "hour"), ("24h", "hour"), ("7d", "hour"), ("30d", "day")]
)
def test_bars_are_as_fine_as_can_still_be_hit(span: str, bucket: str) -> None:
    assert view_of(f"range={span}").bucket == bucket


def test_a_named_zone_beats_the_browsers() -> None:
    assert view_of("tz=Asia/Tokyo", viewer="Europe/Berlin").zone == ZoneInfo("Asia/Tokyo")
    assert view_of("", viewer="Europe/Berlin").zone == ZoneInfo("Europe/Berlin")
    assert view_of("", viewer="Nowhere/Else").zone == ZoneInfo("UTC")


@settings(deadline=None)  # a busy machine is no fault
@given(
    span=st.sampled_from([*RANGES, None]),
    zone=st.sampled_from([None, "Asia/Tokyo"]),
    values=st.dictionaries(
        st.sampled_from([*FILTERS, "tag.team"]), st.lists(st.text(max_size=20), min_size=1), max_size=3
    ),
)
def test_a_link_leads_to_the_very_same_view(span: str | None, zone: str | None, values: dict[str, list[str]]) -> None:
    edges = {"start": "2026-11-20T01:02:03Z", "end": "2026-11-21T04:05:06Z"} if span is None else {"range": span}
    params = {**{name: [value] for name, value in edges.items()}, **values}
    if zone:
        params["tz"] = [zone]
    view = read_view(params, NOW, "Europe/Berlin")

    link = urlencode(view.link(), doseq=True)

    again = read_view(parse_qs(link, keep_blank_values=True), NOW, "Europe/Berlin")
    assert (again.start, again.end, again.zone, again.filters) == (view.start, view.end, view.zone, view.filters)


def test_what_goes_along_to_another_page_is_the_view_and_not_the_place_in_a_list() -> None:
    params = parse_qs("range=7d&by=user&model=a&tag.x=1&cursor=50&call=ff&order=started_at&tz=UTC")

    assert kept(params) == {"range": ["7d"], "by": ["user"], "model": ["a"], "tag.x": ["1"], "tz": ["UTC"]}


def test_every_dimension_that_is_offered_is_a_filter() -> None:
    assert set(DIMENSIONS) <= set(FILTERS)
