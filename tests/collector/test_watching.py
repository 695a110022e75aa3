"""Notices end to end: what the ledger holds becomes one message at each channel, once."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fakes.collector import Running, merged, otlp_call, otlp_unit, running_collector, until
from fakes.slack import FakeSlack, running_slack
from tallystick.alerts.webhook import signature
from tallystick.cli import main
from tallystick.collector import alerting
from tallystick.collector.settings import load

USAGE = {"input_tokens": 0, "output_tokens": 100_000}  # 1.5 USD
CENTS = {"input_tokens": 0, "output_tokens": 1000}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "WATCH_EVERY", timedelta(0))


def config(slack: FakeSlack | None = None, more: str = "") -> str:
    url = f"slack_webhook_url = '{slack.url}'\n" if slack else ""
    return f"[alerts]\nevery_ms = 20\n{url}{more}"


def unpriced() -> Any:
    unit = otlp_unit(provider="nobody", model="no-such-model", api="chat", usage={"prompt_tokens": 5})
    return otlp_call(provider="nobody", model="no-such-model", units=[unit])


def kinds(running: Running) -> list[tuple[str, str]]:
    return [(alert["kind"], alert["budget"]) for alert in running.ask("alerts")["rows"]]


def test_an_unknown_price_and_a_refused_key_are_told_once_over_a_restart(tmp_path: Path) -> None:
    with running_slack() as slack:
        with running_collector(tmp_path, config(slack)) as running:
            running.send(unpriced(), otlp_call(provider="openai", outcome="auth"))
            until(lambda: len(kinds(running)) == 2, "not both are told")
            slack.wait_for(2)
            assert sorted(kinds(running)) == [("auth", "openai"), ("unpriced", "nobody/no-such-model")]
            alerts = running.ask("alerts")["rows"]
            assert {alert["title"] for alert in alerts} == {
                "openai refuses the key of shop", "no-such-model of nobody has no known price",
            }  # fmt: skip
        with running_collector(tmp_path, config(slack)) as running:
            running.send(unpriced(), otlp_call(provider="openai", outcome="auth"))
            time.sleep(0.3)
            assert len(kinds(running)) == 2
        assert len(slack.messages) == 2


def test_of_a_call_on_two_models_the_one_without_a_price_is_named(tmp_path: Path) -> None:
    units = [
        otlp_unit(provider="openai", model=model, api="chat", usage={"prompt_tokens": 5, "completion_tokens": 1})
        for model in ("gpt-4o", "no-such-model")
    ]
    with running_collector(tmp_path, config()) as running:
        running.send(otlp_call(provider="openai", model="gpt-4o", units=units))
        until(lambda: kinds(running) == [("unpriced", "openai/no-such-model")], "it is not told")


def test_what_is_not_watched_is_not_told(tmp_path: Path) -> None:
    with running_collector(tmp_path, config(more="watch = ['failures']")) as running:
        running.send(unpriced(), *(otlp_call(provider="openai", outcome="overloaded") for _ in range(20)))
        until(lambda: kinds(running) == [("failures", "openai")], "the failures are not told")


def test_an_alert_is_acknowledged_and_snoozed(tmp_path: Path) -> None:
    with running_slack("503:1") as slack, running_collector(tmp_path, config(slack)) as running:
        running.send(unpriced())
        until(lambda: len(kinds(running)) == 1, "nothing is told")
        (alert,) = running.ask("alerts")["rows"]
        running.client.order(f"alerts/{alert['id']}/snooze", {"minutes": 5})
        running.client.order(f"alerts/{alert['id']}/ack", {})
        running.settle()
        (alert,) = running.ask("alerts")["rows"]
        assert alert["acked_at"]
        snoozed_until = datetime.fromisoformat(alert["snoozed_until"])
        assert timedelta(minutes=4) < snoozed_until - datetime.now(UTC) < timedelta(minutes=6)
        status, _, body = running.request(
            "POST", f"/api/v1/alerts/{alert['id']}/snooze", b'{"minutes": 0}', content_type="application/json"
        )
        assert (status, json.loads(body)["error"]["message"]) == (400, "minutes is 0; a number from 1 to 10080")
        path = "/api/v1/alerts/nobody/ack"
        assert running.request("POST", path, b"{}", content_type="application/json")[0] == 404
        assert running.request("POST", path, b"{}")[0] == 415


def test_quiet_hours_hold_back_what_is_not_urgent(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    start, end = now - timedelta(hours=2), now + timedelta(hours=2)
    quiet = f"quiet_hours = '{start:%H:%M}-{end:%H:%M}'"
    with running_slack() as slack, running_collector(tmp_path, config(slack, quiet)) as running:
        running.send(unpriced(), otlp_call(provider="openai", outcome="auth"))
        slack.wait_for(1)
        until(
            lambda: sorted(alert["state"] for alert in running.ask("alerts")["rows"]) == ["delivered", "pending"],
            "the urgent one alone is to be delivered",
        )
        assert [message["text"] for message in slack.messages] == [slack.messages[0]["text"]]
        assert "refuses the key" in slack.messages[0]["text"]


@pytest.mark.parametrize(
    ("hours", "at", "is_quiet"),
    [
        ("22:00-07:00", "21:59", False), ("22:00-07:00", "22:00", True), ("22:00-07:00", "06:59", True),
        ("22:00-07:00", "07:00", False), ("12:00-13:00", "12:30", True), ("12:00-13:00", "13:00", False),
    ],
)  # fmt: skip
def test_quiet_hours_follow_the_clock_on_the_wall(tmp_path: Path, hours: str, at: str, is_quiet: bool) -> None:
    path = tmp_path / "tallystick.toml"
    path.write_text(f"[alerts]\nquiet_hours = '{hours}'\ntimezone = 'Asia/Kathmandu'")
    local = datetime.fromisoformat(f"2026-11-21T{at}:00+05:45")
    assert load(config=path).alerts.is_quiet(local.astimezone(UTC)) == is_quiet


def test_many_at_once_are_told_together(tmp_path: Path) -> None:
    with running_slack("503:3") as slack:
        with running_collector(tmp_path, config()) as running:
            pass
        with running_collector(tmp_path, config(slack)) as running:
            calls = [
                otlp_call(provider="nobody", model=f"m{number}", units=[
                    otlp_unit(provider="nobody", model=f"m{number}", api="chat", usage={"prompt_tokens": 5})
                ]) for number in range(9)
            ]  # fmt: skip
            running.send(*calls)
            until(lambda: len(kinds(running)) == 9, "not all are told")
            until(
                lambda: all(alert["state"] == "delivered" for alert in running.ask("alerts")["rows"]), "not delivered"
            )
        assert len(slack.messages) < 9


class Hook:
    """A receiver of the signed webhook."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_every_channel_gets_it_and_a_webhook_is_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    hook = Hook()
    more = f"webhook_url = '{hook.url}'\nwebhook_secret = 'shared'\nwatch = ['unpriced']\n"
    more += f"apprise_urls = ['json://127.0.0.1:{hook.server.server_port}/other']"
    try:
        with running_slack() as slack, running_collector(tmp_path, config(slack, more)) as running:
            running.send(unpriced())
            slack.wait_for(1)
            until(lambda: len(hook.got) == 2, "not every channel was reached")
            until(lambda: running.ask("alerts")["rows"][0]["state"] == "delivered", "it is not delivered")
            (alert,) = running.ask("alerts")["rows"]
            headers, body = next(one for one in hook.got if "x-tallystick-signature" in one[0])
            at = headers["x-tallystick-timestamp"]
            assert headers["x-tallystick-signature"] == f"v1={signature('shared', at, body)}"
            assert json.loads(body)["id"] == alert["id"]
            assert "no known price" in json.loads(body)["text"]

            with pytest.raises(SystemExit) as ended:
                main(["alert", "test", "--collector", running.url])
            assert ended.value.code == 0
            said = capsys.readouterr().out
            assert [line.split()[0] for line in said.splitlines()] == ["Slack", "webhook", "apprise"]
            with pytest.raises(SystemExit):
                main(["alert", "list", "--collector", running.url])
            assert "no-such-model of nobody has no" in capsys.readouterr().out
    finally:
        hook.close()


def test_an_outage_of_one_channel_does_not_double_the_other(tmp_path: Path) -> None:
    hook = Hook()
    more = f"webhook_url = '{hook.url}'\nwebhook_secret = 's'\nwatch = ['unpriced']"
    try:
        with running_slack() as slack:
            hook.close()
            with running_collector(tmp_path, config(slack, more)) as running:
                running.send(unpriced())
                slack.wait_for(1)
                until(lambda: running.ask("alerts")["rows"][0]["error"], "the outage is not told")
            assert len(slack.messages) == 1
    finally:
        hook.server.server_close()


def test_each_notice_tells_the_amount_the_pace_whose_calls_they_are_and_the_dearest(tmp_path: Path) -> None:
    failed = [otlp_call(outcome="overloaded", tallystick__feature=f"f{n % 4}") for n in range(30)]
    dear = otlp_call(usage=USAGE, tallystick__feature="f9")
    with running_slack() as slack, running_collector(tmp_path, config(slack)) as running:
        running.send(merged(*failed, dear))
        [message] = slack.wait_for(1)
        told = json.dumps(message, ensure_ascii=False)

    assert "% of the calls to anthropic fail" in told
    assert re.search(r"It is about\*\\n\d\d calls, \$1.50", told)
    assert re.search(r"Pace\*\\n\d+ calls and \$9.00 per hour", told)
    assert "1. feature `f9`: $1.50 (1 call)" in told
    assert len(re.findall(r"\\n\d\. feature", told)) == 3
    assert "Dearest call: $1.50" in told


def test_a_forecast_is_told_of_a_group_and_a_burn_rate_of_a_rolling_window(tmp_path: Path) -> None:
    budgets = """
watch = ["forecast", "burn_rate"]
[[budget]]
name = "each user"
limit_usd = 5
window = "month"
thresholds = [1.0]
group_by = ["user"]
[[budget]]
name = "lately"
limit_usd = 5
window = "rolling 24h"
thresholds = [1.0]
scope = { user = "u1" }
"""
    with running_collector(tmp_path, config(None, budgets)) as running:
        running.send(otlp_call(usage=USAGE, user__id="u1"), otlp_call(usage=CENTS, user__id="u2"))
        until(lambda: len(kinds(running)) >= 3, "not all are told")
        time.sleep(0.2)
        assert sorted(kinds(running)) == [
            ("burn_rate", "each user (u1)"), ("burn_rate", "lately"), ("forecast", "each user (u1)"),
        ]  # fmt: skip
