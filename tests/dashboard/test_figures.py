from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tallystick.dashboard import charts, figures
from tallystick.dashboard.theme import NONE_COLOUR, REST_COLOUR, SERIES_COLOURS, Palette
from tallystick.dashboard.view import read_view

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")
TOTALS = {
    "calls": 100, "failed": 5, "units": 98, "spend_usd": "2", "wasted_usd": "0.1", "unpriced_units": 0,
    "estimated_units": 0, "estimated_usd": "0",
}  # fmt: skip
NONE = {**TOTALS, "calls": 0, "failed": 0, "units": 0, "spend_usd": "0", "wasted_usd": "0"}


def tile(label: str, now: dict[str, Any], before: dict[str, Any]) -> figures.Tile:
    [found] = [tile for tile in figures.tiles(now, before, DAY) if tile.label == label]
    return found


def test_five_tiles_in_the_order_of_the_questions() -> None:
    assert [tile.label for tile in figures.tiles(TOTALS, TOTALS, DAY)] == [
        "Spend", "Calls", "Failed", "Wasted", "Unpriced responses",
    ]  # fmt: skip


def test_a_tile_says_what_it_is_compared_with() -> None:
    spend = tile("Spend", {**TOTALS, "spend_usd": "2.5"}, TOTALS)

    assert (spend.value, spend.difference, spend.versus) == ("$2.50", "+25 %", "vs prior 24 h")


@pytest.mark.parametrize("label", ["Spend", "Calls", "Failed", "Wasted"])
def test_without_calls_before_there_is_no_difference(label: str) -> None:
    assert tile(label, TOTALS, NONE).difference is None


def test_a_period_in_which_the_ledger_began_is_no_base_for_sums_but_for_rates() -> None:
    tiles = figures.tiles(TOTALS, {**TOTALS, "calls": 10, "failed": 1}, DAY, whole=False)

    assert [tile.difference for tile in tiles] == [None, None, "-5.0 pt", None, None]
    assert tiles[0].versus == "prior 24 h incomplete"


@pytest.mark.parametrize(
    ("first", "within"),
    [
        pytest.param(None, False, id="no-call-at-all"),
        pytest.param("2026-11-01T00:00:00Z", False, id="long-before"),
        pytest.param("2026-11-20T00:30:00Z", False, id="at-its-edge"),
        pytest.param("2026-11-20T09:00:00Z", True, id="well-within"),
    ],
)
def test_a_period_is_whole_unless_the_ledger_began_well_within_it(first: str | None, within: bool) -> None:
    before = {"start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z"}

    assert figures.begins_within(first, before) is within


def test_failed_is_compared_by_rate_in_points_not_by_count() -> None:
    failed = tile("Failed", {**TOTALS, "calls": 200, "failed": 10}, {**TOTALS, "calls": 100, "failed": 7})

    assert (failed.value, failed.difference, failed.versus) == ("10", "-2.0 pt", "5 % of calls")


def test_spend_of_unpriced_responses_alone_is_a_word() -> None:
    now = {**TOTALS, "units": 3, "unpriced_units": 3, "spend_usd": "0"}

    assert tile("Spend", now, TOTALS).value == "unpriced"


@pytest.mark.parametrize(
    ("changes", "value", "note"),
    [
        ({}, "0", "all have a price"),
        ({"unpriced_units": 2}, "2", "not in the spend"),
        ({"estimated_units": 5, "estimated_usd": "0.03"}, "0", "$0.030 estimated"),
    ],
)
def test_unpriced_and_estimated_are_told_apart_from_the_spend(changes: dict[str, Any], value: str, note: str) -> None:
    unsure = tile("Unpriced responses", {**TOTALS, **changes}, TOTALS)

    assert (unsure.value, unsure.versus) == (value, note)


def row(key: str | None, spend: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "key": key, "calls": 10, "failed": 1, "attempts": 12, "units": 10, "spend_usd": spend, "estimated_usd": "0",
        "wasted_usd": "0", "unpriced_units": 0, "input_tokens": 100, "cache_read_tokens": 25, "cache_write_tokens": 0,
        "output_tokens": 10, "reasoning_tokens": 0, "latency_ms_p50": 1.0, "latency_ms_p95": 2.0, **changes,
    }  # fmt: skip


def test_groups_have_share_and_cost_per_call_and_the_unpriced_come_last() -> None:
    rows = [row("free", "0", unpriced_units=10), row("a", "1"), row("b", "3"), row(None, "0", units=0)]

    groups = figures.groups(rows)

    assert [group.label for group in groups] == ["b", "a", "(none)", "free"]
    assert groups[0].share == Decimal("0.75")
    assert groups[0].per_call_usd == Decimal("0.3")
    assert groups[0].cached_share == Decimal("0.25")
    assert (groups[3].spend_usd, groups[3].share, groups[3].per_call_usd) == (None, None, None)
    assert groups[2].spend_usd == 0


def test_two_keys_never_share_a_label() -> None:
    keys = ["A" * 5000, "A" * 4999 + "B", None, "(none)", "", "a\nb", "a\x00b"]

    labels = figures.labels(keys)

    assert len(set(labels.values())) == len(keys)
    assert all(len(label) <= figures.LABEL_LENGTH_MAX + 4 for label in labels.values())


def series(at: str, key: str | None, spend: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "at": at,
        "key": key,
        "rest": False,
        "calls": 1,
        "failed": 0,
        "spend_usd": spend,
        "wasted_usd": "0",
        "unpriced_units": 0,
        **changes,
    }


def test_the_small_ones_are_one_series_and_nothing_is_lost() -> None:
    rows = [series("2026-11-21T10:00:00Z", f"m{number}", str(number)) for number in range(1, 12)]

    stack = figures.stack(rows, "hour", BERLIN, series_max=3)

    assert stack.series == ("m11", "m10", "m9", "8 others")
    assert sum(bar.spend_usd for bar in stack.bars) == 66
    assert "8 others" not in stack.keys


def test_what_the_collector_does_not_tell_apart_is_the_rest() -> None:
    at = "2026-11-21T10:00:00Z"
    rows = [series(at, f"m{number}", str(number)) for number in range(1, 5)] + [series(at, None, "90", rest=True)]

    stack = figures.stack(rows, "hour", BERLIN, series_max=3)

    assert stack.series == ("m4", "m3", "m2", "all others")
    assert [bar.spend_usd for bar in stack.bars if bar.series == "all others"] == [91]
    assert figures.stack(rows, "hour", BERLIN, series_max=5).series == ("m4", "m3", "m2", "m1", "all others")


def test_one_left_over_keeps_its_name() -> None:
    rows = [series("2026-11-21T10:00:00Z", f"m{number}", str(number)) for number in range(1, 5)]

    assert figures.stack(rows, "hour", BERLIN, series_max=3).series == ("m4", "m3", "m2", "m1")


def test_a_bar_stands_where_the_readers_clock_stood() -> None:
    [bar] = figures.stack([series("2026-11-21T10:00:00Z", "m", "1")], "hour", BERLIN).bars

    assert (bar.start.hour, bar.end.hour) == (11, 12)
    assert bar.at == "2026-11-21T10:00:00Z"


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        pytest.param("2026-03-29T00:00:00+01:00", 23, id="clocks-go-forward"),
        pytest.param("2026-10-25T00:00:00+02:00", 25, id="clocks-go-back"),
        pytest.param("2026-11-21T00:00:00+01:00", 24, id="plain"),
    ],
)
def test_a_day_ends_at_the_readers_midnight(day: str, hours: int) -> None:
    start = datetime.fromisoformat(day)

    assert figures.bucket_end(start, "day", BERLIN) - start == timedelta(hours=hours)


def data_of(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    data = part.get("data") or spec["data"]
    values: list[dict[str, Any]] = data["values"] if "values" in data else spec["datasets"][data["name"]]
    return values


def test_a_series_without_any_price_is_marked_and_does_not_blank_the_chart() -> None:
    rows = [
        series("2026-11-21T10:00:00Z", "priced", "1"),
        series("2026-11-21T10:00:00Z", "free", None, unpriced_units=1),
    ]
    view = read_view({}, NOW, "Europe/Berlin")

    spec = charts.stacked(figures.stack(rows, "hour", BERLIN), view, Palette(), "model").to_dict()

    bars, marks = spec["layer"]
    assert bars["encoding"]["color"]["scale"]["domain"] == ["priced"]
    assert [value["series"] for value in data_of(spec, bars)] == ["priced"]
    assert [value["unpriced"] for value in data_of(spec, marks)] == [1]


def test_a_name_keeps_its_colour_whatever_is_filtered_or_ranked() -> None:
    palette = Palette()
    together = dict(zip("abc", palette.colours("model", "abc"), strict=True))

    assert palette.colours("model", "cb") == [together["c"], together["b"]]
    assert len(set(together.values())) == 3
    assert set(together.values()) <= set(SERIES_COLOURS)


def test_two_series_of_one_chart_never_share_a_colour() -> None:
    palette = Palette()
    names = [f"m{number}" for number in range(30)]
    alone = {name: palette.colours("model", [name])[0] for name in names}
    assert len(set(alone.values())) < len(names)

    for shown in combinations(names[:9], len(SERIES_COLOURS)):
        given = palette.colours("model", shown)
        assert len(set(given)) == len(shown)
        assert given[0] == alone[shown[0]]
    assert {name: palette.colours("model", [name])[0] for name in names} == alone


def test_calls_without_a_value_and_the_rest_have_two_greys() -> None:
    rows = [series("2026-11-21T10:00:00Z", f"m{number}", str(number)) for number in range(1, 12)]
    rows.append(series("2026-11-21T10:00:00Z", None, "20"))
    view = read_view({}, NOW, "UTC")

    spec = charts.stacked(figures.stack(rows, "hour", BERLIN), view, Palette(), "feature").to_dict()

    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))["(none)"] == NONE_COLOUR
    assert len(set(scale["range"])) == len(scale["domain"]) == 7


def test_the_rest_is_grey() -> None:
    rows = [series("2026-11-21T10:00:00Z", f"m{number}", str(number)) for number in range(1, 12)]
    view = read_view({}, NOW, "UTC")

    spec = charts.stacked(figures.stack(rows, "hour", BERLIN), view, Palette(), "model").to_dict()

    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"][-1] == "5 others"
    assert scale["range"][-1] == REST_COLOUR
    assert REST_COLOUR not in scale["range"][:-1]


@pytest.mark.parametrize(
    ("now", "before", "says"),
    [
        pytest.param(
            {"a": "3", "b": "1"},
            {"a": "1", "b": "1"},
            "up $2.00; most of it from model a: $2.00 more (was $1.00, now $3.00)",
            id="up",
        ),
        pytest.param(
            {"a": "1"},
            {"a": "1", "b": "2"},
            "down $2.00; most of it from model b: $2.00 less (was $2.00, now $0)",
            id="down",
        ),
        pytest.param(
            {"a": "1", "c": "1"},
            {"a": "1"},
            "model c: $1.00 more (new, now $1.00)",
            id="new",
        ),
        pytest.param(
            {"a": "5", "b": "1"},
            {"a": "1", "b": "2"},
            "up $3.00; most of it from model a: $4.00 more",
            id="against-the-stream",
        ),
    ],
)
def test_what_changed_names_the_one_that_moved_most(now: dict[str, str], before: dict[str, str], says: str) -> None:
    rows = [[row(key, spend) for key, spend in side.items()] for side in (now, before)]

    assert says in (figures.what_changed(*rows, "model") or "")


@pytest.mark.parametrize(("now", "before"), [("1.05", "1"), ("1", "0"), ("0", "0")])
def test_what_changed_is_silent_below_a_tenth_and_without_a_base(now: str, before: str) -> None:
    assert figures.what_changed([row("a", now)], [row("a", before)], "model") is None


def attempt(number: int, at: str, duration_ms: float | None, outcome: str = "rate_limited") -> dict[str, Any]:
    return {
        "number": number, "started_at": at, "duration_ms": duration_ms, "status": 429, "outcome": outcome,
        "request_id": None, "retry_after_s": 1.0,
    }  # fmt: skip


def test_attempts_tell_how_long_was_waited_between_them() -> None:
    rows = [
        attempt(1, "2026-11-21T12:00:01.400Z", 100.0, "ok"),
        attempt(0, "2026-11-21T12:00:00Z", 200.0),
    ]

    first, second = figures.steps(rows)

    assert (first.start_ms, first.waited_s, first.ok) == (0, None, False)
    assert second.start_ms == 1400
    assert second.waited_s == pytest.approx(1.2)


def test_an_attempt_without_an_end_has_no_wait_behind_it() -> None:
    rows = [attempt(0, "2026-11-21T12:00:00Z", None), attempt(1, "2026-11-21T12:00:02Z", 1.0)]

    assert figures.steps(rows)[1].waited_s is None
    spec = charts.waterfall(figures.steps(rows)).to_dict()
    assert data_of(spec, spec["layer"][0])[0]["end"] > 0


def test_token_classes_add_up_to_the_totals() -> None:
    call = {
        "input_tokens": 100,
        "cache_read_tokens": 30,
        "cache_write_tokens": 20,
        "output_tokens": 50,
        "reasoning_tokens": 10,
    }

    classes = dict(figures.token_classes(call))

    assert classes == {"input": 50, "input from cache": 30, "input to cache": 20, "output": 40, "reasoning": 10}


def test_a_class_that_only_cost_retries_has_attempts_and_no_calls() -> None:
    told = figures.failures(
        [
            {
                "outcome": "truncated",
                "provider": "openai",
                "calls": 2,
                "wasted_usd": "0.5",
                "last_at": "2026-11-21T10:00:00Z",
            }
        ],
        [{"outcome": "overloaded", "provider": "anthropic", "attempts": 9, "last_at": "2026-11-21T11:00:00Z"}],
    )

    assert [(line["outcome"], line["calls"], line["attempts"]) for line in told] == [
        ("truncated", 2, 0),
        ("overloaded", 0, 9),
    ]
    assert told[0]["wasted_usd"] == Decimal("0.5")


@pytest.mark.parametrize(
    ("asked", "waited", "says"),
    [(12.5, 14.1, "asked to wait 12.5 s (Retry-After), 14.1 s were spent"), (0, 3.0, "no server asked to wait")],
)
def test_the_wait_that_was_asked_is_compared_with_the_one_that_was_kept(asked: float, waited: float, says: str) -> None:
    retry = {"attempts_extra": 3, "retry_after_asked_s": asked, "waited_s": waited}

    assert says in figures.waiting(retry)


LEDGER = {
    "received_spans": 1000,
    "stored_spans": 985,
    "duplicate_spans": 10,
    "rejected_spans": {"no ids": 5},
    "dropped_records": 0,
    "journal": {"behind_bytes": 0, "damaged_bytes": 0},
    "prices": {"version": "2026-11-21", "age_days": 0},
}


def test_the_ledger_line_names_reasons() -> None:
    assert figures.ledger_line(LEDGER) == (
        "1,000 spans received · 985 stored · 10 duplicates · 5 rejected (no ids 5) · 0 dropped"
    )


def test_the_ledger_line_says_when_it_lags_or_is_damaged() -> None:
    line = figures.ledger_line({**LEDGER, "journal": {"behind_bytes": 7, "damaged_bytes": 1200}})

    assert line.endswith("7 B not counted yet · 1.2 kB damaged")


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ({"version": "2026-11-21", "age_days": 0}, "prices of 2026-11-21 (today's)"),
        ({"version": "2026-11-01", "age_days": 20}, "prices of 2026-11-01 (20 days old)"),
        ({"version": "x", "age_days": None}, "prices of x"),
        ({}, "no price book is loaded"),
    ],
)
def test_the_price_line_says_how_old_the_prices_are(prices: dict[str, Any], says: str) -> None:
    assert figures.price_line({"prices": prices}) == says


@pytest.mark.parametrize(
    ("spent", "high"),
    [
        pytest.param([1, 1, 1, 9, 1], [3], id="one"),
        pytest.param([1, 8, 1, 9, 7, 1, 1, 1], [3, 1], id="the-two-highest"),
        pytest.param([1, 2, 1, 2, 1], [], id="twice-is-no-spike"),
        pytest.param([1, 9], [], id="too-few-bars"),
        pytest.param([100] * 30 + [260], [], id="a-small-part-of-the-range"),
    ],
)
def test_a_spike_rises_far_above_the_median_bar(spent: list[int], high: list[int]) -> None:
    hours = [f"2026-11-{1 + place // 24:02}T{place % 24:02}:00:00Z" for place in range(len(spent))]
    rows = [
        {"at": at, "key": "m", "rest": False, "calls": 1, "failed": 0, "spend_usd": str(usd), "unpriced_units": 0}
        for at, usd in zip(hours, spent, strict=True)
    ]

    assert figures.spikes(figures.stack(rows, "hour", BERLIN)) == [hours[place] for place in high]


FOUND = {
    "dimensions": [{"name": "feature", "value": "report"}, {"name": "user", "value": None}],
    "filters": {}, "spend_usd": "6", "usual_usd": "0", "calls": 60, "usual_calls": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "at nine: $6.50, ×13.0 the usual $0.500. $6.00 more, all of it, from feature report, user (none): "
             "60 calls where there usually is none, $0.100 each."),
        ({"cause": FOUND | {"spend_usd": "5", "usual_usd": "1", "usual_calls": 20.0}},
         "at nine: $6.50, ×13.0 the usual $0.500. $4.00 more, 67 % of the rise, from feature report, user (none): "
         "60 calls in place of 20, $0.083 each in place of $0.050."),
        ({"cause": None}, "at nine: $6.50, ×13.0 the usual $0.500. The rise is spread over everything: no model, "
                          "feature, user or tag stands out."),
        ({"usual_usd": None}, "at nine: $6.50; what is usual is not known, the ledger began too short before."),
        ({"usual_usd": "7"}, "at nine: $6.50; the usual is $7.00, so nothing rose."),
        ({"usual_usd": "0"}, "at nine: $6.50; the usual is $0. $6.00 more, 92 % of the rise, from feature report, "
                             "user (none): 60 calls where there usually is none, $0.100 each."),
    ],
)  # fmt: skip
def test_a_cause_is_told_with_its_money(change: dict[str, Any], told: str) -> None:
    answer = {"spend_usd": "6.5", "usual_usd": "0.5", "calls": 70, "usual_calls": 8.0, "cause": FOUND} | change

    assert figures.cause(answer, "at nine") == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "forecast $10.00, at $0.500 an hour"),
        ({"unit": "tokens", "spent": "900", "pace_per_hour": "10"}, "forecast 940 tokens, at 10 tokens an hour"),
        ({"resets_in_s": None}, None),
    ],
)
def test_a_budget_tells_where_its_window_ends_at_this_pace(change: dict[str, Any], told: str | None) -> None:
    row = {"unit": "usd", "spent": "8", "pace_per_hour": "0.5", "resets_in_s": 4 * 3600.0} | change

    assert figures.forecast(row) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "chat passed 80 %: $8.00 spent"),
        ({"group": {"user": "u1"}}, "chat (user = u1) passed 80 %: $8.00 spent"),
        ({"threshold": None, "title": "A key was refused", "kind": "auth"}, "A key was refused"),
    ],
)
def test_an_alert_is_told_in_a_line(change: dict[str, Any], told: str) -> None:
    row = {"budget": "chat", "threshold": "0.8", "spent": "8", "unit": "usd", "group": None} | change

    assert figures.alert(row) == told
