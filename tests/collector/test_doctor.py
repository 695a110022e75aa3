"""The doctor says what is right, what is not, and what to do; the test of a channel says what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import otlp_call, otlp_request, otlp_span, running_collector
from fakes.slack import running_slack
from tallystick import __version__
from tallystick.collector.doctor import DISK_BYTES_MIN, SPOOL_BYTES_MAX, Facts, diagnose

LEDGER: dict[str, Any] = {
    "received_spans": 10, "stored_spans": 9, "duplicate_spans": 1, "rejected_spans": {}, "unaccounted_spans": 0,
    "dropped_records": 0, "dropped": {"by an app": 0}, "duplicate_units": 0,
    "apps": [{"service": "shop", "finished_calls": 4, "spooled_calls": 4, "dropped_calls": 0, "unaccounted_calls": 0}],
    "journal": {"segments": 1, "bytes": 1000, "applied_bytes": 1000, "behind_bytes": 0, "damaged_bytes": 0},
    "prices": {"version": "2026-11-20", "age_days": 1, "fault": None},
}  # fmt: skip
SAMPLED = {"service": "shop", "finished_calls": 9, "spooled_calls": 6, "dropped_calls": 1, "unaccounted_calls": 2}
WELL = Facts(
    address="127.0.0.1:4318", version="1.0", fault=None, data="/data", disk_free_bytes=DISK_BYTES_MIN, spool="/spool",
    spool_segments=2, spool_bytes=2048, ledger=LEDGER, services=[{"service": "shop", "ahead_s": -0.4}],
    channels=["Slack"],
)  # fmt: skip


def states(facts: Facts) -> dict[str, str]:
    return {check.name: check.state for check in diagnose(facts)}


def test_when_all_is_well_there_is_nothing_to_do() -> None:
    checks = diagnose(WELL)

    assert [check.name for check in checks] == ["collector", "spool", "clock", "ledger", "prices", "disk", "alerts"]
    assert {check.state for check in checks} == {"ok"}
    assert {check.todo for check in checks} == {""}


@pytest.mark.parametrize(
    ("change", "name", "state", "told"),
    [
        ({"fault": "the disk is full"}, "collector", "fail", "the disk is full"),
        ({"spool_segments": None}, "spool", "ok", "not there"),
        ({"spool_bytes": SPOOL_BYTES_MAX + 1}, "spool", "warn", "wait to be sent"),
        ({"services": [{"service": "shop", "ahead_s": 61.2}]}, "clock", "warn", "the clock of shop is 61 s ahead"),
        ({"services": [{"service": None, "ahead_s": 61}]}, "clock", "warn", "a service without a name"),
        ({"services": [{"service": "shop", "ahead_s": None}]}, "clock", "ok", "no app's clock"),
        ({"services": []}, "clock", "ok", "no app's clock"),
        ({"disk_free_bytes": DISK_BYTES_MIN - 1}, "disk", "warn", "1,024.0 MB free"),
        ({"channels": []}, "alerts", "warn", "nowhere"),
        ({"ledger.rejected_spans": {"no ids": 3}}, "ledger", "warn", "no ids 3"),
        ({"ledger.rejected_spans": {"in the future": 3}}, "clock", "fail", "begin in the future"),
        ({"ledger.unaccounted_spans": 1}, "ledger", "fail", "1 unaccounted"),
        ({"ledger.dropped_records": 7, "ledger.dropped": {"by an app": 7}}, "dropped", "fail", "by an app 7"),
        (
            {"ledger.apps": [SAMPLED]},
            "apps",
            "warn",
            "shop says that 9 of its calls have finished; 6 are here and 1 were dropped",
        ),
        ({"ledger.journal.behind_bytes": 10**9}, "applied", "warn", "not counted yet"),
        ({"ledger.journal.damaged_bytes": 12}, "journal", "warn", "12 bytes"),
        ({"ledger.prices.age_days": 15}, "prices", "warn", "15 days old"),
        ({"ledger.prices.fault": "book.json is no JSON"}, "prices", "fail", "book.json is no JSON"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else None,
)
def test_what_is_not_well_is_told_with_what_to_do(change: dict[str, Any], name: str, state: str, told: str) -> None:
    facts = WELL
    for path, value in change.items():
        facts = replace(facts, **_changed(facts, path.split("."), value))

    check = next(check for check in diagnose(facts) if check.name == name)

    assert (check.state, told in check.told) == (state, True), check
    assert (check.todo != "") == (state != "ok")
    assert [other for other in diagnose(facts) if other.state != "ok" and other.name not in {name, "ledger"}] == []


def _changed(facts: Facts, path: list[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {path[0]: value}
    inner: Mapping[str, Any] = getattr(facts, path[0])
    if len(path) == 2:
        return {path[0]: {**inner, path[1]: value}}
    return {path[0]: {**inner, path[1]: {**inner[path[1]], path[2]: value}}}


def test_the_doctor_of_a_running_collector(tmp_path: Path) -> None:
    ahead_ns = time.time_ns() + 90 * 10**9
    with running_collector(tmp_path) as running:
        running.spool.mkdir()
        running.send(
            otlp_call(service="shop", usage={"input_tokens": 1, "output_tokens": 1}, started_ns=ahead_ns),
            otlp_call(service="web", scope="openinference.instrumentation.openai",
                      gen_ai__usage__input_tokens=1, gen_ai__usage__output_tokens=1),
            otlp_request([otlp_span("00" * 8, "ab" * 16, None, "x", 1, 1, {})], {}, "asgi"),
        )  # fmt: skip
        answer = running.ask("doctor")
        [alerts] = [check for check in answer["checks"] if check["name"] == "alerts"]
        tested = running.post(b"{}", "/api/v1/alerts/test", content_type="application/json")

    assert (answer["version"], answer["address"]) == (__version__, running.url.removeprefix("http://"))
    assert (answer["data"], answer["spool"]) == (str(running.data), str(running.spool))
    found = {check["name"]: check for check in answer["checks"]}
    assert found["clock"]["state"] == "warn"
    assert found["clock"]["told"].startswith("the clock of shop is ")
    assert (found["ledger"]["state"], "no ids 1" in found["ledger"]["told"]) == ("warn", True)
    assert {row["service"]: row["calls"] for row in answer["services"]} == {"shop": 1, "web": 1}
    assert {row["emitter"] for row in answer["emitters"]} == {"tallystick", "openinference.instrumentation.openai"}
    assert alerts["state"] == "warn"
    assert (tested[0], json.loads(tested[1])) == (200, {"rows": []})


@pytest.mark.parametrize(
    ("step", "delivered", "error"),
    [("ok", True, None), ("404", False, "Slack answered 404"), ("reset", False, "Slack did not")],
)
def test_a_test_message_goes_to_slack_once(tmp_path: Path, step: str, delivered: bool, error: str | None) -> None:
    with (
        running_slack(step) as slack,
        running_collector(tmp_path, f'[alerts]\nslack_webhook_url = "{slack.url}"\n') as found,
    ):
        status, answer = found.post(b"{}", "/api/v1/alerts/test", content_type="application/json")
        told = json.loads(answer)["rows"]

        assert (status, len(told), len(slack.tries)) == (200, 1, 1)
    assert (told[0]["channel"], told[0]["delivered"]) == ("Slack", delivered)
    assert (told[0]["error"] or "").startswith(error or "")
    assert slack.url not in answer.decode()


def test_a_web_page_cannot_have_a_test_message_sent(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        assert running.post(b"{}", "/api/v1/alerts/test", content_type="text/plain")[0] == 415
        assert running.post(b"{}", "/api/v1/alerts/test", content_type="application/json", origin="https://a")[0] == 403
