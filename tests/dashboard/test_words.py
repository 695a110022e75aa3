from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.collector_answers import HOSTILE
from tallystick.dashboard import words
from tallystick.model.failures import TOLD, Outcome

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        pytest.param(112, 100, "+12 %", id="more"),
        pytest.param(96.6, 100, "-3.4 %", id="less-has-a-decimal-below-ten"),
        pytest.param(100, 100, "same", id="equal"),
        pytest.param("99.96", "100", "same", id="would-read-minus-zero"),
        pytest.param("100.04", "100", "same", id="would-read-plus-zero"),
        pytest.param(520, 100, "×5.2", id="many-times"),
        pytest.param(43_100, 100, "×431", id="hundreds-of-times"),
        pytest.param(0, 100, "-100 %", id="gone"),
        pytest.param(5, 0, None, id="no-base-no-difference"),
        pytest.param(Decimal("0.0000002"), Decimal("0.0000001"), "+100 %", id="tiny-money"),
    ],
)
def test_a_difference_is_said_as_a_person_would(now: str, before: str, said: str | None) -> None:
    assert words.change(Decimal(now), Decimal(before)) == said


@settings(deadline=None)  # a busy machine is no fault
@given(st.decimals(0, 10**9, places=9), st.decimals("0.000000001", 10**9, places=9))
def test_no_difference_ever_reads_as_minus_zero(now: Decimal, before: Decimal) -> None:
    said = words.change(now, before)

    assert said is not None
    assert said not in ("-0 %", "+0 %", "-0.0 %", "+0.0 %")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ("0", "0 %"),
        ("0.0004", "<0.1 %"),
        ("0.05", "5 %"),
        ("0.0525", "5.2 %"),
        ("0.812", "81 %"),
        ("1.0456", "105 %"),
        ("12.5", "1,250 %"),
    ],
)
def test_a_share_is_whole_percents_and_never_none_when_it_is_some(share: str, said: str) -> None:
    assert words.percent(Decimal(share)) == said


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (None, "unknown"),
        (0, "0 ms"),
        (85.4, "85 ms"),
        (999.6, "1.00 s"),
        (1240, "1.24 s"),
        (59_960, "1 min"),
        (200_000, "3 min 20 s"),
    ],
)
def test_a_duration_has_two_or_three_digits(milliseconds: float | None, said: str) -> None:
    assert words.duration(milliseconds) == said


@pytest.mark.parametrize(
    ("time", "left", "span"),
    [
        (timedelta(), "0 s", "0 min"),
        (timedelta(seconds=-5), "0 s", "0 min"),
        (timedelta(minutes=2, seconds=5), "2 min 5 s", "2 min"),
        (timedelta(hours=24), "1 d", "24 h"),
        (timedelta(days=7), "7 d", "7 d"),
        (timedelta(minutes=90), "1 h 30 min", "90 min"),
        (timedelta(days=9, hours=10, minutes=3), "9 d 10 h", "9 d 10 h"),
    ],
)
def test_a_time_span_is_said_in_its_largest_units(time: timedelta, left: str, span: str) -> None:
    assert words.left(time) == left
    assert words.span(time) == span


@pytest.mark.parametrize(
    ("at", "said"),
    [
        pytest.param("2026-11-21T11:02:07.512Z", "12:02:07", id="today"),
        pytest.param("2026-11-20T23:30:00Z", "00:30:00", id="today-in-the-readers-zone"),
        pytest.param("2026-11-20T22:30:00Z", "20 Nov 23:30", id="yesterday-in-the-readers-zone"),
        pytest.param("2025-11-20T22:30:00Z", "20 Nov 2025 23:30", id="last-year"),
        pytest.param(None, "never", id="never"),
    ],
)
def test_a_time_is_the_readers_wall_clock_and_names_the_day_when_it_is_not_today(at: str | None, said: str) -> None:
    assert words.clock(at, BERLIN, NOW) == said


def test_a_full_time_names_its_zone() -> None:
    assert words.stamp("2026-11-21T11:02:07.512Z", BERLIN) == "21 Nov 2026 12:02:07 CET"


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_words(outcome: Outcome) -> None:
    assert "_" not in words.outcome(outcome)
    assert outcome.value in TOLD


def test_an_outcome_of_a_newer_version_is_shown_as_it_came() -> None:
    assert words.outcome("solar_flare") == "solar flare"


@settings(deadline=None)  # a busy machine is no fault
@given(st.text())
def test_escaped_text_has_no_bare_sign_that_markdown_reads(text: str) -> None:
    escaped = words.escape(text, 10_000)

    assert "\n" not in escaped
    at = 0
    while at < len(escaped):
        if escaped[at] == "\\":
            at += 2
            continue
        assert escaped[at] not in "`*_{}[]<>()#|~$:&\"'@=^!", escaped
        at += 1


def test_escaped_text_reads_as_it_was() -> None:
    shown = words.escape(HOSTILE).replace("\\", "").replace(words.WORD_JOINER, "")

    assert shown == HOSTILE


@pytest.mark.parametrize("text", ["https://x.example/p", "HTTP://x", "www.x.example", "WWW.x", "me@x.example"])
def test_an_address_cannot_become_a_link(text: str) -> None:
    # The patterns of mdast-util-gfm-autolink-literal, which sees the text after escapes are undone.
    import re

    seen = words.escape(text).replace("\\", "")

    assert not re.search(r"(https?://|www(?=\.))([-.\w]+)", seen, re.IGNORECASE)
    assert not re.search(r"[-.\w+]+@[-\w]+(\.[-\w]+)+", seen)


def test_signs_that_turn_or_hide_the_text_around_them_are_replaced() -> None:
    assert words.clean("a\u202eb\u200bc\x1b[31m\nd") == "a�b�c�[31m�d"


def test_text_of_any_length_is_cut_to_what_fits() -> None:
    assert len(words.clean("A" * 5000)) == words.TEXT_LENGTH_MAX
    assert words.clean("A" * 5000).endswith("…")


def test_inline_code_cannot_be_left() -> None:
    assert words.code("http://x`**b**`") == "`http://x'**b**'`"


@pytest.mark.parametrize(
    ("amount", "units", "unpriced", "said"),
    [
        pytest.param("1.5", 3, 1, "$1.50", id="some-priced"),
        pytest.param("0", 3, 3, "unpriced", id="none-priced-is-not-zero"),
        pytest.param("0", 0, 0, "$0", id="nothing-billed-is-zero"),
        pytest.param(None, 2, 2, "unpriced", id="null-is-unpriced"),
    ],
)
def test_spend_without_any_price_is_a_word(amount: str | None, units: int, unpriced: int, said: str) -> None:
    assert words.spend(amount, units, unpriced) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [("1200", "1,200"), ("0.30", "0.3"), ("3.000", "3"), ("0.000000000001", "0.000000000001"), ("1E+3", "1,000")],
)
def test_a_receipts_figure_keeps_every_digit(amount: str, said: str) -> None:
    assert words.plain(amount) == said


def test_a_rate_names_what_it_is_for() -> None:
    assert words.unit_price("0.25", 1_000_000, "token") == "$0.25 per 1M tokens"
    assert words.unit_price("10", 1000, "request") == "$10 per 1k requests"
    assert words.unit_price("0.04", 1, "image") == "$0.04 per image"


@pytest.mark.parametrize(
    ("outcome", "attempts", "units", "told"),
    [
        pytest.param("auth", 1, 0, "nothing billed", id="an-error-answer-is-not-billed"),
        pytest.param("timeout_read", 1, 0, "may be billed", id="a-timeout-may-be-billed-and-is-no-zero"),
        pytest.param("cancelled", 1, 0, "may be billed", id="so-may-a-cancelled-call"),
        pytest.param("cancelled", 0, 0, "nothing billed", id="but-not-before-anything-was-sent"),
        pytest.param("timeout_read", 2, 1, "estimated", id="a-stream-that-timed-out-has-its-unit"),
    ],
)
def test_a_call_without_an_answer_says_whether_it_may_be_billed(
    outcome: str, attempts: int, units: int, told: str
) -> None:
    row = {"outcome": outcome, "attempts": attempts, "units": units, "cost_status": "estimated"}

    assert words.trust(row) == told
    assert words.is_untold(row) == (told == "may be billed")
