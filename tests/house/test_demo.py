"""The demo's claim, that the ledger equals the invoice, is one that can fail."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from slack_sdk.webhook import WebhookClient

import tallystick.demo
from fakes.provider import running_provider
from tallystick.client import Collector
from tallystick.demo.check import Ledger, compare
from tallystick.demo.slack import SlackReceiver, plain_text
from tallystick.demo.stage import Stage, settings
from tallystick.mock import books

DEADLINE_S = 180.0
EXAMPLES = Path(__file__).parents[2] / "examples"


# The whole of it ------------------------------------------------------------------------------------------------------


def test_one_round_ends_well_and_shows_what_happened(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tallystick", "demo", "--once", "--dashboard-port", "0"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    told = ended.stdout
    assert ended.returncode == 0, told + ended.stderr
    assert ended.stderr == ""
    assert re.search(r"✓ 35 whole answers: \$(\d\.\d+) = \$\1, each equal to the last digit", told)
    assert re.search(r"✓ 2 answers of house-model-1: no price, so unknown on both sides", told)
    assert re.search(r"≈ 2 cut streams, kept apart", told)
    assert re.search(r"✓ 44 calls, as the app counted; 49 attempts, as the provider counted", told)
    assert re.search(r"✓ budget of \$0\.28 a day: the alerts at 50 % and 80 % reached Slack, once each", told)
    assert "passed 50 % of its limit" in told
    assert "passed 80 % of its limit" in told
    assert "✗" not in told
    assert not list(tmp_path.glob("tallystick-demo-*")), "what was temporary is gone"


def test_a_second_round_in_the_same_folder_is_counted_for_itself(tmp_path: Path) -> None:
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-m", "tallystick", "demo", "--once", "--dashboard-port", "0", "--data", "kept"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "kept").is_dir()


def test_near_midnight_the_budgets_day_does_not_end() -> None:
    late, early = (
        settings("http://127.0.0.1:1/x", "demo", datetime(2026, 11, 21, hour, 59, tzinfo=UTC)) for hour in (23, 9)
    )

    assert tomllib.loads(late)["budget"][0]["reset_at"] == "12:00"
    assert tomllib.loads(early)["budget"][0]["reset_at"] == "00:00"


def test_the_example_runs_and_is_billed(tmp_path: Path) -> None:
    with running_provider() as provider:
        addresses = {
            "ANTHROPIC_BASE_URL": provider.anthropic_url,
            "ANTHROPIC_API_KEY": "any",
            "OPENAI_BASE_URL": provider.openai_url,
            "OPENAI_API_KEY": "any",
            "TALLYSTICK_PROVIDERS": provider.providers,
            "TALLYSTICK_COLLECTOR": "http://127.0.0.1:1",
        }
        ended = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / "shop.py")],
            env=os.environ | addresses,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        models = sorted(item["model"] for item in provider.invoice()["items"])

    assert (ended.returncode, ended.stderr) == (0, "")
    assert models == ["claude-sonnet-5-5", "claude-sonnet-5-5", "gpt-5-mini-2025-08-07"]


def test_a_provider_that_bills_other_prices_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dearer = books.RATES["openai", "gpt-5-mini-2025-08-07"] | {"output": Decimal("2.000001")}
    monkeypatch.setitem(books.RATES, ("openai", "gpt-5-mini-2025-08-07"), dearer)
    monkeypatch.setenv("COLUMNS", "100")

    code = tallystick.demo.run(once=True, data=None, port=None, dashboard_port=0)

    told = capsys.readouterr().out
    assert code == 1
    assert "✗ 35 whole answers" in told
    assert told.count("gpt-5-mini-2025-08-07 resp_") == 2
    assert "The ledger differs from the invoice" in told


def test_a_collector_that_is_killed_amid_the_round_loses_nothing_and_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = []
    play_act = Stage._act

    def kill_then_play(stage: Stage, shop: Any, number: int, title: str) -> None:
        if number == 1:
            collector = Collector(stage.collector.url)
            stage.until(lambda: collector.ask("totals")["calls"] > 0, DEADLINE_S, "nothing came")
            killed.append(stage.supervisor.pids["collector"])
            os.kill(killed[0], signal.SIGKILL)
        play_act(stage, shop, number, title)

    monkeypatch.setattr(Stage, "_act", kill_then_play)
    monkeypatch.setenv("COLUMNS", "100")

    tallystick.demo.run(once=True, data=None, port=None, dashboard_port=0)

    told = capsys.readouterr().out
    assert killed
    assert "the collector was ended by SIGKILL; starting it again" in told
    # Not asked here: whether an alert came twice. It may, when the kill hit between Slack's answer and its record.
    for claim in ("35 whole answers", "2 answers of house-model-1", "44 calls", "nothing on the ledger"):
        assert f"✓ {claim}" in told, told
    assert "≈ 2 cut streams" in told, told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_everything_that_the_demo_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystick", "demo", "--dashboard-port", "0"],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    assert process.stdout is not None
    with process.stdout as output:
        seen = []
        for line in output:
            seen.append(line)
            if "Ctrl-C ends everything" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        seen.extend(output)
    code = process.wait(DEADLINE_S)
    watchdog.cancel()

    assert code == 0, "".join(seen)
    assert len(children) == 3, "collector, dashboard and shop"
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert not list(tmp_path.glob("tallystick-demo-*"))


# The comparison -------------------------------------------------------------------------------------------------------


def item(key: str, usd: str | None, *, cut: str | None = None, model: str = "claude-sonnet-5-5") -> dict[str, Any]:
    return {"id": key, "model": model, "usd": usd, "cut": cut}


def unit(key: str, usd: str | None, status: str) -> dict[str, Any]:
    return {"id": key, "cost_usd": usd, "cost_status": status}


def books_of_both() -> dict[str, Any]:
    """Return an invoice and a ledger that agree: one whole answer, one without a price, one cut stream, one retry."""
    return {
        "items": [
            item("msg_1", "0.00885"),
            item("cmpl_1", None, model="house-model-1"),
            item("msg_2", "0.004", cut="connection"),
        ],
        "units": [
            unit("msg_1", "0.008850", "exact"),
            unit("cmpl_1", None, "unknown"),
            unit("msg_2", "0.005", "estimated"),
        ],
        "calls": [{"attempts": 2}, {"attempts": 1}, {"attempts": 1}],
        "totals": {"calls": 3, "spend_usd": "0.01385", "estimated_usd": "0.005"},
        "groups": [{"spend_usd": "0.01385", "estimated_usd": "0.005"}],
        "requests": [{}, {}, {}, {}],
        "calls_made": 3,
    }


def verdict_on(both: dict[str, Any]) -> Any:
    ledger = Ledger(calls=both["calls"], units=both["units"], totals=both["totals"], groups=both["groups"])
    return compare(ledger, {"items": both["items"]}, both["requests"], both["calls_made"])


def test_books_that_agree_are_equal_and_the_cut_stream_is_shown_with_both_figures() -> None:
    verdict = verdict_on(books_of_both())

    assert verdict.is_equal
    (cut,) = [finding for finding in verdict.findings if finding.mark == "estimated"]
    assert cut.details == ("claude-sonnet-5-5: ledger ≈ $0.005, invoice $0.004",)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(both: dict[str, Any]) -> None:
        *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
        place: Any = both
        for step in way:
            place = place[step]
        place[last] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(change("units.0.cost_usd", "0.008851"), "msg_1: invoice $0.00885", id="a-micro-dollar-more"),
        pytest.param(change("units.0.cost_usd", None), "ledger unknown", id="an-answer-without-a-cost"),
        pytest.param(change("units.0.cost_status", "estimated"), "(estimated)", id="exact-only-by-luck"),
        pytest.param(change("units.0.id", "msg_9"), "(missing)", id="an-answer-that-is-missing"),
        pytest.param(change("totals.spend_usd", "0.02"), "the ledger's total is $0.015", id="a-wrong-total"),
        pytest.param(change("groups.0.spend_usd", "0.02"), "sum over models is $0.015", id="a-wrong-sum-by-model"),
        pytest.param(change("units.1.cost_usd", "0"), "house-model-1 cmpl_1", id="unknown-shown-as-zero"),
        pytest.param(change("units.2.cost_status", "exact"), "is exact, not estimated", id="a-guess-called-exact"),
        pytest.param(change("units.2.id", "msg_9"), "is missing, not estimated", id="a-cut-stream-that-is-missing"),
        pytest.param(change("calls.0.attempts", 1), "in 4 requests", id="an-attempt-that-is-missing"),
        pytest.param(change("calls_made", 4), "the app made 4 calls", id="a-call-that-is-missing"),
        pytest.param(change("totals.calls", 2), "totals say 2 calls", id="a-total-of-calls-that-is-wrong"),
        pytest.param(lambda both: both["units"].append(unit("msg_7", "1", "exact")), "on no invoice", id="invented"),
        pytest.param(lambda both: both["units"].append(both["units"][0]), "there 2 times", id="counted-twice"),
    ],
)
def test_every_difference_is_found_and_told(spoil: Callable[[dict[str, Any]], None], told: str) -> None:
    both = copy.deepcopy(books_of_both())
    spoil(both)

    verdict = verdict_on(both)

    assert not verdict.is_equal
    wrong = [detail for finding in verdict.findings if finding.mark == "wrong" for detail in finding.details]
    assert [detail for detail in wrong if told in detail], wrong


# Slack ----------------------------------------------------------------------------------------------------------------


def test_slack_takes_what_a_webhook_takes_and_refuses_the_rest() -> None:
    slack = SlackReceiver()
    slack.start()
    try:
        assert WebhookClient(slack.url).send(text="hello").body == "ok"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(slack.url, b"{}", timeout=20)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(slack.url + "/elsewhere", b'{"text": "x"}', timeout=20)

        assert slack.wait_for(1, 20)
        assert not slack.wait_for(2, 0.01)
        assert [message["text"] for message in slack.messages] == ["hello"]
    finally:
        slack.stop()


def test_a_message_reads_well_without_markup() -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "chat: 80 % spent"}},
        {"type": "section", "text": {"type": "mrkdwn", "text": "*Warning:* budget `chat` &lt;3\nsecond line"}},
        {
            "type": "section",
            "fields": [{"type": "mrkdwn", "text": "*Spent*\n$8"}, {"type": "mrkdwn", "text": "*Left*\n$2"}],
        },
        {"type": "section", "text": {"type": "mrkdwn", "text": "<http://127.0.0.1:8501/?a=1|Open the dashboard>"}},
    ]

    header, lines = plain_text({"text": "short", "blocks": blocks})

    assert header == "chat: 80 % spent"
    assert lines == ["Warning: budget chat <3 · second line", "Spent $8 · Left $2", "Open the dashboard"]
