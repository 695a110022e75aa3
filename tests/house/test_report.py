from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fakes.collector_answers import Answers, call, iso, realistic, serving
from tallystick.errors import SettingsError
from tallystick.report import clean, receipt_line, report, since_when, totals_lines

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EVIL = "\x1b[31mred\x1b]0;title\x07\u202e[bold]x[/bold] :smile:"


@pytest.fixture
def answers() -> Answers:
    return Answers(calls=realistic(datetime.now(UTC)))


@pytest.fixture
def collector(answers: Answers) -> Iterator[str]:
    with serving(answers) as url:
        yield url


def tallystick(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick", *arguments]
    environ = {"COLUMNS": str(columns), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)


@pytest.mark.parametrize("by", ["model", "feature", "user", "tag.tenant"])
def test_report_fits_80_columns_without_colour_and_cuts_no_figure(by: str, collector: str, answers: Answers) -> None:
    ran = tallystick("report", "--collector", collector, "--by", by)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    header = next(line for line in ran.stdout.splitlines() if line.endswith("unpriced"))
    assert header.split()[1:] == ["spend", "share", "calls", "failed", "tries", "in", "cached", "out", "unpriced"]


def test_report_tells_the_collectors_figures(collector: str, answers: Answers) -> None:
    told = answers.answer("/api/v1/totals", {"start": [iso(datetime.now(UTC) - timedelta(days=7))]})

    ran = tallystick("report", "--collector", collector, "--since", "7d", columns=120)

    assert f"{told['calls']:,} calls, {told['failed']} failed, {told['attempts']:,} attempts." in ran.stdout
    assert f"{told['input_tokens']:,} in" in ran.stdout
    assert f"{told['unpriced_units']} responses without a known price: not in the spend above." in ran.stdout
    [row] = [line for line in ran.stdout.splitlines() if line.startswith("llama-local-70b")]
    assert row.split()[1] == "unpriced"
    assert "$0 " not in row


def test_report_of_nothing_is_one_line(answers: Answers, collector: str) -> None:
    answers.calls = []

    assert tallystick("report", "--collector", collector).stdout == "No calls in the last 24h.\n"


def test_a_collector_that_is_not_there_is_told() -> None:
    ran = tallystick("report", "--collector", "http://127.0.0.1:9", "--by", "model")

    assert ran.returncode == 1
    assert ran.stderr.startswith("tallystick: no collector answers at http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(days=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-11-21T09:30:00Z", datetime(2026, 11, 21, 9, 30, tzinfo=UTC)),
        ("2026-11-21T09:30:00+01:00", datetime(2026, 11, 21, 8, 30, tzinfo=UTC)),
    ],
)
def test_since_takes_a_length_or_a_time(since: str, start: datetime) -> None:
    assert since_when(since, NOW) == start


def test_since_a_day_begins_at_this_machines_midnight() -> None:
    assert since_when("2026-11-20", NOW) == datetime(2026, 11, 20).astimezone()


@pytest.mark.parametrize(
    "since", ["", "yesterday", "7", "0h", "-1h", "99999d", "2027-01-01", "24 h", "1y", "0001-01-01"]
)
def test_a_wrong_since_lists_what_is_allowed(since: str) -> None:
    with pytest.raises(SettingsError, match=r"--since .* allowed: a number and m, h, d or w \(30m, 24h, 7d, 2w"):
        since_when(since, NOW)


def test_explain_opens_a_call_down_to_its_receipt(collector: str, answers: Answers) -> None:
    answers.calls = [call(0xABC, NOW, input_tokens=1200, cache_read_tokens=200)]

    ran = tallystick("explain", "0000000000000abc", "--collector", collector)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "input 1,000 tokens x $3 / 1,000,000 x 1 = $0.003\n" in ran.stdout
    assert "cache read 200 tokens x $0.3 / 1,000,000 x 1 = $0.00006\n" in ran.stdout
    assert "output 350 tokens x $15 / 1,000,000 x 1 = $0.00525\n" in ran.stdout
    assert "Total $0.00831 (exact, prices of 2026-11-21)" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_explain_says_why_a_cost_is_unknown(collector: str, answers: Answers) -> None:
    answers.calls = [call(0xABC, NOW, model="llama-local-70b")]

    ran = tallystick("explain", "0000000000000abc", "--collector", collector, columns=200)
    assert "Total unpriced (unknown, prices of 2026-11-21)" in ran.stdout
    assert "Why: no price is listed for model 'llama-local-70b' of 127.0.0.1:8000" in ran.stdout
    assert "$0" not in ran.stdout


def test_explain_tells_each_attempt_of_a_failed_call(collector: str, answers: Answers) -> None:
    tries: list[dict[str, Any]] = [
        {
            "number": number,
            "started_at": iso(NOW + timedelta(seconds=number)),
            "duration_ms": 300.0,
            "status": 429,
            "outcome": "rate_limited",
            "request_id": f"req_{number}",
            "retry_after_s": 1.0,
        }
        for number in range(2)
    ]
    failed = {"outcome": "rate_limited", "error_code": "rate_limit_error", "exception": "RateLimitError", "units": 0}
    answers.calls = [call(0xABC, NOW, _attempts=tries, **failed)]

    told = tallystick("explain", "0000000000000abc", "--collector", collector, columns=200).stdout

    assert (
        "Outcome: rate limit of the provider; the provider's word: rate_limit_error; the app saw RateLimitError" in told
    )
    assert told.count("429") == 2
    assert "req_1" in told
    assert "No billable response came, so nothing is charged." in told


@pytest.mark.parametrize("wrong", ["xyz", "", "../totals", "0" * 17, "1?limit=5"])
def test_what_cannot_be_an_id_is_told_without_asking(wrong: str, collector: str, answers: Answers) -> None:
    ran = tallystick("explain", wrong, "--collector", collector)

    assert ran.returncode == 1
    assert "is not the id of a call; one is 16 hex digits" in ran.stderr
    assert answers.asked == []


def test_a_call_that_is_not_there_is_told(collector: str) -> None:
    ran = tallystick("explain", "ffffffffffffffff", "--collector", collector)

    assert ran.returncode == 1
    assert ran.stderr.startswith("tallystick: no call has the id ffffffffffffffff")


def test_names_from_outside_cannot_steer_the_terminal(
    answers: Answers, collector: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answers.calls = [call(1, datetime.now(UTC), model=EVIL)]

    report(collector, "model", "1h")

    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "[bold]" in clean(EVIL)
    assert ":smile:" in clean(EVIL)


def test_a_line_of_a_receipt_rounds_nothing() -> None:
    line = {
        "item": "cache_write_5m",
        "quantity": "1234567",
        "unit": "token",
        "unit_price_usd": "0.125",
        "per": 1_000_000,
        "multiplier": "1.1",
        "cost_usd": str(Decimal(1234567) * Decimal("0.125") / 1_000_000 * Decimal("1.1")),
    }

    assert receipt_line(line) == "cache write 5m 1,234,567 tokens x $0.125 / 1,000,000 x 1.1 = $0.1697529625"


def test_spend_without_any_price_is_a_word() -> None:
    totals = {
        "calls": 1,
        "failed": 0,
        "attempts": 1,
        "units": 1,
        "unpriced_units": 1,
        "spend_usd": "0",
        "wasted_usd": "0",
        "estimated_units": 0,
        "estimated_usd": "0",
        "input_tokens": 0,
        "cache_read_tokens": 0,
        "output_tokens": 0,
    }

    assert totals_lines(totals, "1h")[0] == "unpriced in the last 1h: 1 call, 0 failed, 1 attempt."
