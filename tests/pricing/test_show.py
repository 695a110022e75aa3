"""``tallystick prices show``, as a user runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def show(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick", "prices", "show", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def rows(text: str, start: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip().startswith(start)]


def test_every_providers_rates_are_shown_with_source_and_day() -> None:
    done = show("gpt-5.4", "--at", "2026-11-20")

    assert done.returncode == 0
    assert done.stdout.startswith("gpt-5.4 on 2026-11-20, prices of ")
    assert "\nopenai: gpt-5.4\n" in done.stdout
    assert "\ngithub-copilot: gpt-5.4\n" in done.stdout
    assert "\nopenai: gpt-5.4, flex\n" in done.stdout
    assert rows(done.stdout, "input")[0][:3] == ["input", "2.5", "1,000,000"]
    assert rows(done.stdout, "input")[1][-1] == "272,000"
    assert "https://developers.openai.com/api/docs/pricing" in done.stdout
    assert "host = *.api.openai.com" in done.stdout


@pytest.mark.parametrize(("day", "rate"), [("2026-08-20", "5"), ("2026-08-21", "4")])
def test_the_day_decides(day: str, rate: str) -> None:
    assert rows(show("gpt-5.6-sol", "--at", day).stdout, "input")[0][1] == rate


def test_hours_that_cost_more_are_shown_beside() -> None:
    done = show("deepseek-flash", "--at", "2026-11-20")

    assert "deepseek: deepseek-flash, at 01:00 UTC" in done.stdout
    assert [row[1] for row in rows(done.stdout, "output")] == ["0.6", "1.2"]


def test_a_wrapped_name_shows_the_model_behind_it() -> None:
    assert "anthropic: claude-sonnet-4-5" in show("us.anthropic.claude-sonnet-4-5-20250929-v1:0").stdout


def test_an_unknown_model_is_told_with_near_names() -> None:
    done = show("claude-sonet-4-5")

    assert (done.returncode, done.stdout) == (1, "")
    assert "no provider lists a price for 'claude-sonet-4-5'; near names: claude-sonnet-4-5" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_day_that_is_none_is_told_with_an_example() -> None:
    done = show("gpt-4o", "--at", "tomorrow")

    assert (done.returncode, done.stdout) == (1, "")
    assert "--at 'tomorrow' is not a day; write one like 2026-11-21" in done.stderr
    assert "Traceback" not in done.stderr
