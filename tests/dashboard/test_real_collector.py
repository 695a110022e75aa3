"""The pages and the report against the real collector, with rows that came over OTLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from streamlit.testing.v1 import AppTest

from fakes.collector import Running, otlp_call, running_collector, until
from tallystick.dashboard import frames
from tallystick.report import explain, report
from tallystick.watch import call_line, frame

Open = Callable[..., AppTest]
BUDGET = '[[budget]]\nname = "chat"\nscope = { feature = "chat" }\nlimit_usd = 1\nwindow = "day"\nthresholds = [0.5]\n'
SONNET = {"input_tokens": 1200, "output_tokens": 350}
RETRIED: list[dict[str, Any]] = [
    {
        "http.response.status_code": 429,
        "tallystick.attempt.outcome": "rate_limited",
        "tallystick.attempt.retry_after_s": 1.0,
    },
    {"http.response.status_code": 200, "started_ms": 1400},
]


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_collector(tmp_path, BUDGET) as running:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", running.url)
        yield running


def send(collector: Running) -> None:
    collector.send(
        otlp_call(id="00000000000000a1", usage=SONNET, tallystick__feature="chat", user__id="u1", attempts=RETRIED),
        otlp_call(id="00000000000000a2", usage=SONNET, tallystick__feature="chat", tags={"tenant": "acme"}),
        otlp_call(id="00000000000000a3", outcome="server_error", units=[], exception__type="InternalServerError"),
        otlp_call(id="00000000000000a4", provider="127.0.0.1:8000", model="acme-7b", usage=SONNET),
    )


def tiles(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value.replace("\\", "") for metric in page.metric}


@pytest.mark.parametrize("page", ["", "failures", "calls"])
def test_before_the_first_call_every_page_waits(
    page: str, collector: Running, open_page_of_any_collector: Open
) -> None:
    test = open_page_of_any_collector(page)

    assert next(block.value for block in test.code) == "pip install tallystick"


def test_spend_shows_what_was_sent(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    page = open_page_of_any_collector(by="feature")

    assert tiles(page) == {
        "Spend": "$0.018",
        "Calls": "4",
        "Failed": "1",
        "Wasted": "$0",
        "Unpriced responses": "1",
    }
    assert page.dataframe[0].value["label"].tolist()[0] == "chat"
    assert len(page.get("page_link")) == 4  # the dearest three, and a closer look


def test_spend_by_a_tag_of_the_users_own(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    page = open_page_of_any_collector(by="tag.tenant")

    assert dict(page.dataframe[0].value[["label", "calls"]].to_numpy()) == {"acme": 1, "(none)": 3}


@pytest.mark.parametrize("span", ["1h", "6h", "7d", "30d"])
def test_every_range_is_understood(span: str, collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    assert tiles(open_page_of_any_collector(range=span, tz="Asia/Kolkata"))["Calls"] == "4"


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"outcome": "failed"}, {"a3"}),
        ({"feature": "chat"}, {"a1", "a2"}),
        ({"feature": ""}, {"a3", "a4"}),
        ({"tag__tenant": "acme"}, {"a2"}),
        ({"cost_status": "unknown"}, {"a4"}),
        ({"model": ["acme-7b", "claude-sonnet-4-5"], "order": "-cost_usd"}, {"a1", "a2", "a3", "a4"}),
    ],
)
def test_calls_are_filtered(
    query: dict[str, Any], ids: set[str], collector: Running, open_page_of_any_collector: Open
) -> None:
    send(collector)

    page = open_page_of_any_collector("calls", **query)

    assert {name[-2:] for name in page.dataframe[0].value["id"]} == ids


def test_a_call_opens_down_to_its_receipt(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    page = open_page_of_any_collector("calls", call="00000000000000a1")

    receipt, attempts = page.dataframe[0].value, page.dataframe[1].value
    assert receipt["item"].tolist() == ["input", "output"]
    assert receipt["cost"].tolist() == ["$0.0036", "$0.00525"]
    assert attempts["status"].tolist() == ["429", "200"]
    assert attempts["asked to wait"].tolist() == ["1.00 s", ""]


def test_a_call_without_a_price_says_why(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    page = open_page_of_any_collector("calls", call="00000000000000a4")

    assert tiles(page)["Cost"] == "unpriced"
    assert any(warning.value.startswith("Why\\:") for warning in page.warning)


def test_failures_and_budgets_show_real_rows(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)

    failures = open_page_of_any_collector("failures")
    budgets = open_page_of_any_collector("budgets")

    assert tiles(failures)["Answered after a retry"] == "1"
    assert set(failures.dataframe[0].value["outcome"]) == {"server_error", "rate_limited"}
    [bar] = budgets.get("progress")
    assert "of $1.00 spent" in bar.text.replace("\\", "")


def test_the_report_and_a_receipt_in_a_terminal(collector: Running, capsys: pytest.CaptureFixture[str]) -> None:
    send(collector)

    report(collector.url, "model", "1h")
    totals = capsys.readouterr().out
    explain(collector.url, "00000000000000a1")
    receipt = capsys.readouterr().out

    assert "$0.018 in the last 1h: 4 calls, 1 failed, 5 attempts." in totals
    assert "1 response without a known price" in totals
    assert "input 1,200 tokens x $3 / 1,000,000 x 1 = $0.0036" in receipt
    assert "Total $0.00885 (exact, prices of " in receipt


def threshold(collector: Running) -> dict[str, Any]:
    """Return the alert that the budget's spend raised; the watch may raise a forecast of it at any moment beside."""
    [alert] = (row for row in collector.ask("alerts")["rows"] if row["kind"] == "threshold")
    found: dict[str, Any] = alert
    return found


def test_an_alert_is_snoozed_on_the_page(collector: Running, open_page_of_any_collector: Open) -> None:
    collector.send(otlp_call(usage={"input_tokens": 150_000, "output_tokens": 10_000}, tallystick__feature="chat"))
    until(lambda: collector.ask("alerts")["rows"], "no alert was raised")

    page = open_page_of_any_collector("budgets")
    assert any("chat passed 50" in block.value.replace("\\", "") for block in page.markdown)
    alert = threshold(collector)
    page.button(f"snooze 480 {alert['id']}").click().run()

    assert threshold(collector)["snoozed_until"] > alert["raised_at"]
    assert f"seen {alert['id']}" not in [button.key for button in page.button]


def test_an_alert_that_somebody_has_seen_is_marked(collector: Running, open_page_of_any_collector: Open) -> None:
    collector.send(otlp_call(usage={"input_tokens": 150_000, "output_tokens": 10_000}, tallystick__feature="chat"))
    until(lambda: collector.ask("alerts")["rows"], "no alert was raised")

    page = open_page_of_any_collector("budgets")
    alert = threshold(collector)
    page.button(f"seen {alert['id']}").click().run()

    assert threshold(collector)["acked_at"]
    assert alert["id"] not in " ".join(button.key or "" for button in page.button)


def test_a_calls_trace_is_shown_when_it_is_asked_for(collector: Running, open_page_of_any_collector: Open) -> None:
    send(collector)
    page = open_page_of_any_collector("calls", call="00000000000000a1")
    assert "The trace, in the order of time" not in [frame.proto.alt for frame in page.dataframe]

    page.toggle[0].set_value(True).run()

    [trace] = [frame.value for frame in page.dataframe if frame.proto.alt == "The trace, in the order of time"]
    assert trace["what"].tolist() == ["call", "attempt", "attempt"]
    assert trace["ended"].tolist() == ["answered", "rate limit of the provider", "answered"]


def test_the_terminal_says_the_figures_of_the_pages(
    collector: Running, open_page_of_any_collector: Open, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    send(collector)
    spend = open_page_of_any_collector()
    tile = tiles(spend)
    groups = {row["label"]: row for row in spend.dataframe[0].value.to_dict("records")}
    calls = {row["id"]: row for row in open_page_of_any_collector("calls").dataframe[0].value.to_dict("records")}
    receipt = open_page_of_any_collector("calls", call="00000000000000a1")
    failures = open_page_of_any_collector("failures").dataframe[0].value
    capsys.readouterr()

    report(collector.url, "model", "24h")
    reported = capsys.readouterr().out
    screen = Console(width=200, record=True)
    screen.print(frame(collector.client, "model", "24h", screen))
    for text in (reported, screen.export_text()):
        assert f"{tile['Spend']} in the last 24h: {tile['Calls']} calls, {tile['Failed']} failed" in text
        for name, row in groups.items():
            told = next(line for line in text.splitlines() if line.startswith(name)).split()
            spent = "unpriced" if row["spend_usd"] != row["spend_usd"] else f"${row['spend_usd']:.3f}"
            assert (told[1], told[-1]) == (spent, str(row["unpriced_units"]))

    for row in collector.ask("calls")["rows"]:
        line = call_line(row).plain
        assert row["outcome"] == "ok" or calls[row["id"]]["outcome"] in line
        assert f"{calls[row['id']]['input_tokens']:,} in" in line
        cost = calls[row["id"]]["cost_usd"]
        assert f" {frames.usd(None if cost != cost else cost)} " in line

    capsys.readouterr()
    explain(collector.url, "00000000000000a1")
    explained = capsys.readouterr().out
    total = next(block.value for block in receipt.markdown if block.value.startswith("**Total"))
    assert total.replace("\\", "").removeprefix("**Total ").partition("**")[0] in explained
    explain(collector.url, "00000000000000a3")
    assert failures["what"].tolist()[0] in capsys.readouterr().out
