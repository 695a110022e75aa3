"""A bot in Slack: one message for each window, its thread, its buttons, and an outage of Slack, which loses nothing."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, collector_process, kill, merged, otlp_call, running_collector, until
from fakes.slack_api import CHANNEL, USER, FakeSlackApi, running_slack_api
from tallystick.collector import alerting
from tallystick.collector.alerting import Alerting

CENTS = {"input_tokens": 0, "output_tokens": 100_000}  # 1.5 USD


def config(slack: FakeSlackApi, *, buttons: bool = False, budget: bool = True) -> str:
    lines = [
        "[alerts]",
        "every_ms = 20",
        "watch = []",
        "slack_bot_token = 'xoxb-secret'",
        f"slack_channel = '{CHANNEL}'",
    ]
    lines += [f"slack_api_url = '{slack.url}'", *(["slack_app_token = 'xapp-secret'"] if buttons else [])]
    if budget:
        lines += ["[[budget]]", "name = 'chat'", "limit_usd = 6", "window = 'month'"]
    return "\n".join(lines)


def spend(running: Running, times: int = 1) -> None:
    running.send(merged(*(otlp_call(usage=CENTS) for _ in range(times))))


def header(message: dict[str, Any]) -> str:
    return str(message["blocks"][0]["text"]["text"])


def test_a_window_has_one_message_that_later_levels_change_and_a_thread_that_tells_each(tmp_path: Path) -> None:
    with running_slack_api() as slack, running_collector(tmp_path, config(slack)) as running:
        seen = []
        for times, alerts in ((2, 1), (2, 2)):
            spend(running, times)
            delivered(running, alerts)
            [root] = slack.roots()
            seen.append(header(root))
        replies = slack.replies(root["ts"])

    assert seen == ["🔔 chat: 50 % of $6.00 spent this month", "🚨 chat: 100 % of $6.00 spent this month"]
    assert [(header(reply), reply["reply_broadcast"]) for reply in replies] == [(seen[1], True)]
    assert slack.tokens == {"Bearer xoxb-secret"}


def test_the_message_of_a_window_whose_limit_was_reached_says_at_its_end_that_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta()
    later = partial(Alerting, clock=lambda: datetime.now(UTC) + ahead)
    monkeypatch.setattr("tallystick.collector.service.Alerting", later)
    day = config(slack := FakeSlackApi(()), budget=False) + "\n[[budget]]\nname = 'chat'\nlimit_usd = 3"
    slack.start()
    try:
        with running_collector(tmp_path, day) as running:
            spend(running, 2)
            delivered(running, 1)
            ahead = timedelta(days=1)
            spend(running)
            until(lambda: header(slack.roots()[0]).startswith("✅"), "it does not say so")
            spend(running)
            [root] = slack.roots()
    finally:
        slack.stop()

    assert header(root) == "✅ chat: a new day has begun"
    assert re.search(r"\$\d\.\d0 of \$3\.00 \(1\d0 %\) were spent", root["text"])
    assert len(slack.replies(root["ts"])) == 1


def test_a_restart_knows_the_message_of_a_window_and_a_deleted_one_is_posted_anew(tmp_path: Path) -> None:
    with running_slack_api() as slack:
        with collector_process(tmp_path, config(slack)) as running:
            spend(running, 2)
            delivered(running, 1)
            kill(running)
        with running_collector(tmp_path, config(slack)) as running:
            [root] = slack.roots()
            spend(running)
            delivered(running, 1)
            slack.messages.pop(root["ts"])
            spend(running)
            delivered(running, 2)

        assert [header(message) for message in slack.roots()] == ["🚨 chat: 100 % of $6.00 spent this month"]
        assert [method for method, _ in slack.asked] == ["chat.postMessage", "chat.update", "chat.postMessage"]


@pytest.mark.parametrize("step", ["ratelimited", "429", "503", "lost"])
def test_an_outage_delays_and_a_lost_answer_is_repeated_once_and_marked(tmp_path: Path, step: str) -> None:
    with running_slack_api(step) as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 2)
        delivered(running, 1)
        texts = [message["text"] for message in slack.roots()]

    assert ["repeated" in text for text in texts] == ([False, True] if step == "lost" else [False])


def test_a_digest_tells_the_day_before_once_with_a_picture_in_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = (datetime.now(UTC) + timedelta(days=1)).replace(hour=12)
    monkeypatch.setattr("tallystick.collector.service.Alerting", partial(Alerting, clock=lambda: noon))
    monkeypatch.setattr(alerting, "WATCH_EVERY", timedelta(0))
    with running_slack_api() as slack:
        for times in (2, 1):
            with running_collector(tmp_path, config(slack, budget=False) + "\ndigest = 'daily'") as running:
                spend(running, times)
                until(lambda: len(slack.pictures) == 1, "there is no picture")
        [root] = slack.roots()
        shared = [told for method, told in slack.asked if method == "files.completeUploadExternal"]

    assert header(root).startswith("📊 $3.00 on ")
    assert slack.pictures[0].startswith(b"\x89PNG")
    assert [(told["channel_id"], told["thread_ts"]) for told in shared] == [(CHANNEL, root["ts"])]


def test_what_slack_refuses_is_shown_with_its_word_and_what_to_do(tmp_path: Path) -> None:
    with running_slack_api("not_in_channel") as slack, running_collector(tmp_path, config(slack)) as running:
        spend(running, 2)
        until(lambda: not _waiting(running), "it was not refused")
        [alert] = running.ask("alerts")["rows"]

    assert alert["state"] == "refused"
    assert alert["error"] == "Slack refuses chat.postMessage: not_in_channel; invite the bot to the channel"


def test_buttons_acknowledge_snooze_and_raise_the_limit(tmp_path: Path) -> None:
    budget = {"name": "chat", "limit_usd": "6", "window": "month"}
    with (
        running_slack_api() as slack,
        running_collector(tmp_path, config(slack, buttons=True, budget=False)) as running,
    ):
        assert running.client.order("budgets", budget)["name"] == "chat"
        spend(running, 2)
        delivered(running, 1)
        [root] = slack.roots()
        said = {}
        for action in ("raise", "snooze", "ack"):
            slack.messages[root["ts"]] = dict(root)
            slack.click(f"tallystick_{action}", root["ts"])
            until(lambda: slack.messages[root["ts"]]["blocks"] != root["blocks"], "the message does not say so")
            said[action] = slack.messages[root["ts"]]["blocks"]
        running.settle()
        [alert] = running.ask("alerts")["rows"]
        [row] = running.ask("budgets")["rows"]

    assert row["limit"] == "9"
    assert alert["acked_at"]
    assert alert["snoozed_until"]
    assert said["raise"][-1]["elements"][0]["text"] == f"Limit raised from $6.00 to $9.00 (<@{USER}>)"
    assert said["ack"][-1]["elements"][0]["text"] == f"Acknowledged (<@{USER}>)"
    assert [block["type"] for block in said["ack"]].count("actions") == 0
    assert len(slack.acknowledged) == 3


def test_a_budget_of_the_file_is_not_raised_and_a_new_connection_listens_on(tmp_path: Path) -> None:
    with running_slack_api() as slack, running_collector(tmp_path, config(slack, buttons=True)) as running:
        spend(running, 2)
        delivered(running, 1)
        [root] = [dict(message) for message in slack.roots()]
        slack.hang_up()
        slack.click("tallystick_raise", root["ts"])
        until(lambda: slack.messages[root["ts"]]["blocks"] != root["blocks"], "the message does not say so")
        told = slack.messages[root["ts"]]["blocks"][-1]["elements"][0]["text"]
        [row] = running.ask("budgets")["rows"]

    assert "Not done: budget 'chat' is read only here, and stands in tallystick.toml" in told
    assert row["limit"] == "6"


def test_the_tokens_are_in_no_answer(tmp_path: Path) -> None:
    with running_slack_api("invalid_auth") as slack, running_collector(tmp_path, config(slack)) as running:
        tried = running.client.order("alerts/test", {})
        told = json.dumps([tried, running.ask("doctor"), running.ask("alerts")])

    assert "check slack_bot_token" in tried["rows"][0]["error"]
    assert "xoxb-secret" not in told


def delivered(running: Running, alerts: int) -> None:
    def are_there() -> bool:
        rows = running.ask("alerts")["rows"]
        return len(rows) == alerts and all(row["state"] == "delivered" for row in rows)

    until(are_there, f"{alerts} alerts were not delivered")


def _waiting(running: Running) -> bool:
    rows = running.ask("alerts")["rows"]
    return not rows or any(row["state"] == "pending" for row in rows)
