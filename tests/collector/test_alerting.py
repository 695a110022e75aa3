"""Budgets: an alert is raised once, told once, and neither a kill nor an outage of Slack changes that."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, collector_process, kill, merged, otlp_call, running_collector, until
from fakes.slack import FakeSlack, running_slack
from tallystick.collector.alerting import Alerting

USAGE = {"input_tokens": 1200, "output_tokens": 350}  # 0.00885 USD
CENTS = {"input_tokens": 0, "output_tokens": 100_000}  # 1.5 USD


def config(slack: FakeSlack | None, **budget: Any) -> str:
    keys = {"name": "'chat'", "limit_usd": 10, "scope": "{ feature = 'chat' }", "window": "'month'", **budget}
    url = f"slack_webhook_url = '{slack.url}'" if slack else ""
    lines = [
        "[alerts]",
        "every_ms = 20",
        "watch = []",
        url,
        "[[budget]]",
        *(f"{key} = {value}" for key, value in keys.items()),
    ]
    return "\n".join(lines)


def spend(running: Running, times: int = 1, **attributes: Any) -> None:
    running.send(merged(*(otlp_call(usage=CENTS, tallystick__feature="chat", **attributes) for _ in range(times))))


def states(running: Running) -> list[tuple[str, str]]:
    (budget,) = running.ask("budgets")["rows"]
    return [(alert["threshold"], alert["state"]) for alert in budget["alerts"]]


def test_thresholds_are_told_once_each_in_order(tmp_path: Path) -> None:
    with running_slack() as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 3)
        running.send(otlp_call(usage=CENTS))  # of no feature: not in scope
        assert states(running) == []
        spend(running, 1)
        until(lambda: states(running) == [("0.5", "delivered")], "no first alert")
        spend(running, 2, user__id="u1")
        until(lambda: states(running) == [("0.5", "delivered"), ("0.8", "delivered")], "no second alert")
        spend(running, 10)
        until(lambda: len(states(running)) == 3 and states(running)[2] == ("1.0", "delivered"), "no third alert")
        messages = slack.wait_for(3)
        (budget,) = running.ask("budgets")["rows"]
        alerts = running.ask("alerts")["rows"]
        time.sleep(0.3)
        assert len(slack.messages) == 3

    texts = [message["text"] for message in messages]
    assert ["60 %" in texts[0], "90 %" in texts[1], "240 %" in texts[2]] == [True, True, True]
    assert "u1" in str(messages[1]["blocks"])
    assert (budget["limit_usd"], budget["spent_usd"], budget["share"]) == ("10", "24", "2.4")
    assert budget["thresholds"] == ["0.5", "0.8", "1.0"]
    assert (budget["scope"], budget["action"]) == ({"feature": "chat"}, "alert")
    assert (budget["window"]["kind"], budget["window"]["timezone"]) == ("month", "UTC")
    assert [alert["threshold"] for alert in alerts] == ["1.0", "0.8", "0.5"]
    assert {alert["budget"] for alert in alerts} == {"chat"}
    assert all(alert["deliveries"] == 1 and alert["delivered_at"] and alert["error"] is None for alert in alerts)


def test_a_restart_and_a_rebuild_tell_nothing_again(tmp_path: Path) -> None:
    with running_slack() as slack:
        with running_collector(tmp_path, config(slack)) as running:
            spend(running, 4)
            until(lambda: states(running) == [("0.5", "delivered")], "no alert")
        with running_collector(tmp_path, config(slack)) as running:
            spend(running)
            assert states(running) == [("0.5", "delivered")]
        for part in (tmp_path / "data").glob("tallystick.duckdb*"):
            part.unlink()
        with running_collector(tmp_path, config(slack)) as running:
            running.settle()
            assert states(running) == [("0.5", "delivered")]
            spend(running, 2)
            until(lambda: len(states(running)) == 2, "no second alert")
            slack.wait_for(2)
        time.sleep(0.2)
        assert len(slack.messages) == 2


def test_alerts_outlive_an_outage_of_slack_and_a_kill(tmp_path: Path) -> None:
    with running_slack(*["503:1"] * 3, *["reset"] * 3) as slack:
        with collector_process(tmp_path, config(slack)) as running:
            for raised, times in enumerate((4, 2), start=1):
                spend(running, times)
                until(lambda raised=raised: len(states(running)) == raised, "a threshold was passed")
            until(lambda: len(slack.tries) >= 1, "nothing was tried")
            assert {state for _, state in states(running)} == {"pending"}
            kill(running)
        slack.play()
        with collector_process(tmp_path, config(slack)) as running:
            spend(running, 1)
            until(lambda: [state for _, state in states(running)] == ["delivered"] * 3, "not all were delivered")
        messages = slack.wait_for(3)

    for share, message in zip(("60 %", "90 %", "105 %"), messages, strict=True):
        assert share in message["text"]


def test_a_message_that_had_to_wait_says_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.alerts.slack.LATE", timedelta(seconds=0.5))
    with running_slack("503:1") as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 4)
        (message,) = slack.wait_for(1)

    assert message["text"].startswith("(late: written ")
    assert "60 %" in message["text"]


def test_an_answer_that_was_lost_is_repeated_once_and_marked(tmp_path: Path) -> None:
    with running_slack("lost", "ok") as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 4)
        until(lambda: states(running) == [("0.5", "delivered")], "no alert")
        first, second = slack.wait_for(2)
        (budget,) = running.ask("budgets")["rows"]

    assert "repeated" not in first["text"]
    assert second["text"] == f"{first['text']} (repeated: the first answer was lost)"
    assert budget["alerts"][0]["deliveries"] == 2


def test_a_kill_between_sending_and_the_answer_marks_the_repeat(tmp_path: Path) -> None:
    with running_slack("hang") as slack:
        with collector_process(tmp_path, config(slack)) as running:
            spend(running, 4)
            until(lambda: len(slack.tries) == 1, "nothing was sent")
            kill(running)
        with collector_process(tmp_path, config(slack)) as running:
            until(lambda: states(running) == [("0.5", "delivered")], "no alert")
        (message,) = slack.wait_for(1)

    assert "repeated" in message["text"]


def test_a_hanging_slack_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running_slack("hang") as slack, collector_process(tmp_path, config(slack)) as running:
        spend(running, 4)
        until(lambda: len(slack.tries) == 1, "nothing was sent")
        begun = time.monotonic()
        assert running.process is not None
        running.process.terminate()
        assert running.process.wait(20) == 0

        assert time.monotonic() - begun < 8, "a try takes 10 s"


def test_a_refusal_is_shown_and_not_tried_again(tmp_path: Path) -> None:
    with running_slack("410") as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 4)
        until(lambda: states(running) == [("0.5", "refused")], "no refusal")
        (alert,) = running.ask("alerts")["rows"]
        time.sleep(0.2)

        assert len(slack.tries) == 1
        assert "410" in alert["error"]
        assert slack.url not in str(alert)


def test_without_a_channel_an_alert_is_shown(tmp_path: Path) -> None:
    with running_collector(tmp_path, config(None)) as running:
        spend(running, 4)
        until(lambda: states(running) == [("0.5", "unsent")], "no alert")


def test_a_hanging_slack_does_not_hold_up_ingest(tmp_path: Path) -> None:
    with running_slack("hang") as slack, collector_process(tmp_path, config(slack)) as running:
        spend(running, 4)
        until(lambda: len(slack.tries) == 1, "nothing was sent")
        begun = time.monotonic()
        spend(running, 1)

        assert time.monotonic() - begun < 5
        assert running.request("GET", "/healthz")[0] == 200


def test_a_budget_of_tokens_by_user_tells_of_the_user_who_passed_it_in_tokens(tmp_path: Path) -> None:
    budget = """
    [[budget]]
    name = "each user"
    limit_tokens = 100_000
    group_by = ["user"]
    window = "rolling 2h"
    thresholds = [0.5, 1.0]
    """
    with running_slack() as slack:
        head = f"[alerts]\nevery_ms = 20\nslack_webhook_url = '{slack.url}'\n"
        with running_collector(tmp_path, head + budget) as running:
            running.send(otlp_call(usage={"input_tokens": 40_000, "output_tokens": 20_000}, user__id="u1"))
            running.send(otlp_call(usage={"input_tokens": 40_000, "output_tokens": 0}, user__id="u2"))
            running.send(otlp_call(usage={"input_tokens": 1, "output_tokens": 0}, user__id="u1"))
            (first,) = slack.wait_for(1)
            running.send(otlp_call(usage={"input_tokens": 40_000, "output_tokens": 0}, user__id="u2"))
            _, second = slack.wait_for(2)
        with running_collector(tmp_path, head + budget) as running:
            running.send(otlp_call(usage={"input_tokens": 1, "output_tokens": 0}, user__id="u1"))
            time.sleep(0.3)
            (row,) = running.ask("budgets")["rows"]
            assert len(slack.messages) == 2, "a restart tells nothing again"

    assert "60,000 of 100,000 tokens (60 %)" in first["text"]
    assert "the last 2 h, rolling" in first["text"]
    assert "`u1`" in str(first["blocks"])
    assert "80,000 of 100,000 tokens (80 %)" in second["text"]
    assert [(alert["group"], alert["spent"], alert["unit"]) for alert in row["alerts"]] == [
        ({"user": "u1"}, "60000", "tokens"), ({"user": "u2"}, "80000", "tokens"),
    ]  # fmt: skip


def test_the_message_of_a_budget_that_blocks_says_so(tmp_path: Path) -> None:
    with running_slack() as slack, running_collector(tmp_path, config(slack, action="'block'")) as running:
        spend(running, 4)
        (message,) = slack.wait_for(1)

    assert "Calls that do not fit are refused before they are sent." in message["text"]


def test_the_first_refusal_tells_that_the_limit_is_reached_though_less_was_spent(tmp_path: Path) -> None:
    budget = {"limit_usd": 2, "action": "'block'", "thresholds": [0.5, 1.0]}
    with running_slack() as slack, running_collector(tmp_path, config(slack, **budget)) as running:
        spend(running)
        slack.wait_for(1)
        assert reserve(running, "a", "9")["admitted"] is False, "what can never fit says nothing of the limit"
        assert reserve(running, "b", "0.75")["admitted"] is False
        _, told = slack.wait_for(2)
        assert reserve(running, "c", "0.75")["admitted"] is False
        until(lambda: [state for _, state in states(running)] == ["delivered"] * 2, "it is not there")

    assert "75 % of $2.00 spent this month (Limit reached)" in told["text"]
    assert "refused 1 call that had no room" in str(told["blocks"])
    assert "$1.50 spent + $0.00 reserved + $0.75 at most = $2.25 of $2.00" in str(told["blocks"])


def reserve(running: Running, name: str, usd: str) -> dict[str, Any]:
    body = {"id": name.encode().hex().zfill(8), "dimensions": {"feature": "chat"}, "usd": usd}
    _, _, answer = running.request(
        "POST", "/api/v1/reservations", json.dumps(body).encode(), content_type="application/json"
    )
    found: dict[str, Any] = json.loads(answer)
    return found


def test_a_slack_that_was_down_for_a_day_gets_each_alert_once_and_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_slack(*["503"] * 50) as slack:
        with running_collector(tmp_path, config(slack)) as running:
            for times in (4, 2, 1):
                spend(running, times)
            until(lambda: len(states(running)) == 3, "not all are raised")
        assert slack.messages == []
        slack.play()
        a_day_later = partial(Alerting, clock=lambda: datetime.now(UTC) + timedelta(days=1))
        monkeypatch.setattr("tallystick.collector.service.Alerting", a_day_later)
        with running_collector(tmp_path, config(slack)) as running:
            slack.wait_for(3)
            until(lambda: {state for _, state in states(running)} == {"delivered"}, "not all are delivered")

    assert [message["text"].partition(", 1 d ago)")[1] != "" for message in slack.messages] == [True] * 3
    assert ["60 %" in slack.messages[0]["text"], "90 %" in slack.messages[1]["text"]] == [True, True]
    assert "105 %" in slack.messages[2]["text"]


def test_all_alerts_that_one_message_tells_are_known_to_be_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"u{number}" for number in range(7)]
    each = {"limit_usd": 2, "scope": "{}", "group_by": "['user']", "thresholds": "[0.5]"}
    with running_slack(*["503"] * 50) as slack:
        with running_collector(tmp_path, config(slack, **each)) as running:
            running.send(merged(*(otlp_call(usage=CENTS, user__id=user) for user in users)))
            until(lambda: len(states(running)) == 7, "not all are raised")
            running.settle()
            before = {row["id"]: row["deliveries"] for row in running.ask("alerts")["rows"]}
        slack.play("slow:1.5")
        a_day_later = partial(Alerting, clock=lambda: datetime.now(UTC) + timedelta(days=1))
        monkeypatch.setattr("tallystick.collector.service.Alerting", a_day_later)
        with running_collector(tmp_path, config(slack, **each)) as running:
            until(
                lambda: all(
                    row["state"] == "pending" and row["deliveries"] > before[row["id"]]
                    for row in running.ask("alerts")["rows"]
                ),
                "a kill now would have some sent again without a mark",
            )
            until(lambda: {state for _, state in states(running)} == {"delivered"}, "not all are delivered")
        (message,) = slack.messages

    assert "7 alerts at once" in message["text"]
    assert all(f"chat ({user}): 75 %" in message["text"] for user in users), "each line says whose it is"
