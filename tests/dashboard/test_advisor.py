"""The Advisor and Settings pages against the real collector."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from fakes.collector import Running, merged, otlp_call, otlp_request, otlp_span, running_collector
from fakes.collector_answers import HOSTILE
from fakes.slack import running_slack
from tallystick.dashboard import words
from tallystick.dashboard.advisor import figure, headline
from tallystick.dashboard.settings import check_line, equations, exported
from tallystick.dashboard.view import read_view

Open = Callable[..., AppTest]
NOW = datetime.now(UTC)
RANGE = {"start": (NOW - timedelta(days=30)).isoformat(), "end": NOW.isoformat()}
USAGE = {"input_tokens": 2000, "output_tokens": 100}
LOST = {"dropped.records": 7, "dropped.calls": 5, "finished.calls": 5}


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """120 calls of a job and 120 of a hostile one, two days ago; one response without a price; a reject, a loss."""
    at = int((NOW - timedelta(days=2)).timestamp() * 1e9)
    with running_slack("ok", "404") as slack:
        toml = f'[alerts]\nslack_webhook_url = "{slack.url}"\n'
        with running_collector(tmp_path_factory.mktemp("advisor"), toml) as running:
            jobs = [
                otlp_call(service=service, usage=USAGE, started_ns=at + number * 10**9, tallystick__feature=service)
                for service in ("nightly", HOSTILE)
                for number in range(120)
            ]
            lost = {f"tallystick.{name}": count for name, count in LOST.items()}
            running.send(
                merged(*jobs),
                otlp_call(provider="127.0.0.1:8000", model=HOSTILE, usage=USAGE),
                otlp_request([otlp_span("00" * 8, "ab" * 16, None, "x", 1, 1, {})], {}, "asgi"),
                otlp_request(
                    [otlp_span("dd" * 8, "cd" * 16, None, "tallystick.dropped", at, 0, lost)], {}, "tallystick"
                ),
            )
            yield running


@pytest.fixture
def asked(collector: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("TALLYSTICK_COLLECTOR", collector.url)
    return collector


def shown(test: AppTest) -> str:
    kinds = ("markdown", "caption", "error", "warning", "info", "success", "subheader", "code")
    text = "\n".join(str(element.value) for kind in kinds for element in test.get(kind))
    return plain(text)


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text).replace(words.WORD_JOINER, "")


def links(test: AppTest) -> list[tuple[str, str]]:
    return [(plain(link.label), link.proto.query_string) for link in test.get("page_link")]


def test_the_advisor_shows_what_the_collector_answers(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("advisor", **RANGE)
    told = asked.ask("advice", **RANGE, about="batch")

    # 240 calls of $0.0075 at half the price, over two days.
    assert told["rows"][0]["usd"] == "0.9"
    figures = [plain(str(found.value)) for found in page.subheader]
    assert "$13.50 a month" in figures
    assert "Send in batches what nobody waits for." in shown(page)
    [nightly] = [query for label, query in links(page) if label == "$6.75 · 120 calls · nightly, claude-sonnet-4-5"]
    assert "service=nightly" in nightly
    assert f"start={RANGE['start'][:10]}" in nightly


def test_what_was_looked_at_in_vain_is_told(asked: Running, open_page_of_any_collector: Open) -> None:
    text = shown(open_page_of_any_collector("advisor", range="30d"))

    assert "Long conversations: 0 calls with 10 messages and more; 100 are needed." in text


def test_the_advisor_prices_the_traffic_on_the_model_in_the_url(
    asked: Running, open_page_of_any_collector: Open
) -> None:
    page = open_page_of_any_collector("advisor", **RANGE, to="anthropic/claude-haiku-4-5")

    # 240 calls at a third, over two days: $1.20 of $1.80.
    assert "$18.00 a month" in [plain(str(found.value)) for found in page.subheader]
    assert page.selectbox(key="pick_to").value == "anthropic/claude-haiku-4-5"
    page.selectbox(key="pick_to").set_value("anthropic/claude-opus-4-1").run()
    assert dict(page.query_params)["to"] == "anthropic/claude-opus-4-1"
    assert "would have cost more by" in shown(page)


def test_names_from_outside_are_letters_in_advice(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("advisor", range="30d")

    labels = [link.label for link in page.get("page_link")]
    assert any("\\<img" in label for label in labels)
    assert not any("<img" in label.replace("\\<", "") for label in labels)


def test_a_target_that_is_none_is_said(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("advisor", range="30d", to="gpt")

    assert "write PROVIDER/MODEL" in shown(page)


def test_of_a_day_without_calls_the_advisor_says_so(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("advisor", start="2026-01-01T00:00:00Z", end="2026-01-02T00:00:00Z")

    assert "No calls in this range" in shown(page)


def test_settings_tell_what_the_doctor_found(asked: Running, open_page_of_any_collector: Open) -> None:
    text = shown(open_page_of_any_collector("settings"))
    assert (
        "Calls are kept for 400 days; the sums of their hours stay. After 40 days they move into the archive." in text
    )

    for check in asked.ask("doctor")["checks"]:
        assert check["name"] in text
        if check["todo"]:
            assert check["todo"].replace("`", "") in text.replace("`", "")
    assert "243 = 242 + 0 + 1: it adds up" in text
    assert "5 = 0 + 5: it adds up" in text
    assert "Prices of" in text


def test_settings_list_who_sends_and_what_has_no_price(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("settings")

    services = next(table.value for table in page.dataframe if "service" in table.value)
    assert dict(zip(services["service"], services["calls"], strict=True)) == {
        "shop": 1, "nightly": 120, words.clean(HOSTILE, 40): 120,
    }  # fmt: skip
    [(label, query)] = links(page)
    assert label.startswith("1 response without a price: <img")
    assert "cost_status=unknown" in query


def test_a_test_message_is_sent_and_its_fate_told(asked: Running, open_page_of_any_collector: Open) -> None:
    page = open_page_of_any_collector("settings")
    [button] = page.button
    button.click().run()
    assert "Slack took the message." in shown(page)

    page.button[0].click().run()
    assert "Slack answered 404" in shown(page)


def test_the_range_leaves_as_a_table(asked: Running) -> None:
    view = read_view({"range": ["30d"], "service": ["nightly"]}, datetime.now(UTC), "UTC")

    lines = exported(asked.url, "calls", view).decode().splitlines()
    groups = exported(asked.url, "groups", view).decode().splitlines()

    assert lines[0].startswith("id,trace_id,")
    assert len(lines) == 121
    assert groups[1].startswith("claude-sonnet-4-5,120,")
    assert exported(asked.url, "alerts", view) == b""
    assert b"no collector answers" in exported("http://127.0.0.1:9", "calls", view)


def test_a_table_of_more_than_a_page_is_whole(asked: Running) -> None:
    table = asked.client.table("calls", {"start": (NOW - timedelta(days=30)).isoformat(), "limit": 50}, pages_max=100)

    assert len(table.decode().splitlines()) == 1 + 241


def test_before_the_first_call_settings_say_how_it_gets_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page_of_any_collector: Open
) -> None:
    with running_collector(tmp_path) as running:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", running.url)
        settings = open_page_of_any_collector("settings")
        advisor = open_page_of_any_collector("advisor")
        settings.button[0].click().run()

    assert next(block.value for block in settings.code) == "pip install tallystick"
    assert "Waiting for the first call at" in shown(settings)
    assert "No channel is set" in shown(settings)
    assert "Waiting for the first call at" in shown(advisor)


@pytest.mark.parametrize("page", ["advisor", "settings"])
def test_without_a_collector_the_page_says_what_to_do(
    page: str, monkeypatch: pytest.MonkeyPatch, open_page_of_any_collector: Open
) -> None:
    monkeypatch.setenv("TALLYSTICK_COLLECTOR", "http://127.0.0.1:9")

    test = open_page_of_any_collector(page)

    [error] = test.error
    assert "No collector answers at" in plain(error.value)


@pytest.mark.parametrize(
    ("usd", "monthly", "means", "told"),
    [
        ("0.9", "13.5", "saved", "$13.50 a month"),
        ("0.9", None, "saved", "$0.900 in this range"),
        ("0.9", "13.5", "held", "$13.50 a month, held back"),
        (None, None, "unknown", "unpriced"),
    ],
)
def test_a_figure_says_what_it_is_of(usd: str | None, monthly: str | None, means: str, told: str) -> None:
    assert figure(usd, monthly, means) == told


@pytest.mark.parametrize(
    ("days", "monthly", "told"),
    [("2", "27", "$27.00 a month: figures of a month are those days times 15"), ("0.5", None, "less than a day")],
)
def test_it_is_said_how_a_month_is_made(days: str, monthly: str | None, told: str) -> None:
    answer = {"days": days, "calls": 240, "spend_usd": "1.8", "monthly_spend_usd": monthly}

    assert told in headline(answer)


def test_a_check_is_told_by_words_not_by_colour_alone() -> None:
    line = check_line({"name": "disk", "state": "warn", "told": "<b>3 MB</b> free", "todo": "make room"})

    assert "look here" in line
    assert "\\<b\\>3 MB" in line
    assert line.endswith("make room")


def test_an_equation_that_does_not_add_up_says_so() -> None:
    ledger: dict[str, Any] = {
        "received_spans": 10, "stored_spans": 7, "duplicate_spans": 1, "rejected_spans": {"no ids": 1},
        "unaccounted_spans": 1, "dropped": {},
        "apps": [
            {"service": "app", "finished_calls": 980, "spooled_calls": 977, "dropped_calls": 3, "unaccounted_calls": 0},
            {"service": "web", "finished_calls": 5, "spooled_calls": 3, "dropped_calls": 0, "unaccounted_calls": 2},
        ],
    }  # fmt: skip

    assert equations(ledger)[0][1] == "10 = 7 + 1 + 1: 1 are unaccounted for, which is a fault"
    assert equations(ledger)[1] == ("app: calls finished = stored here + dropped", "980 = 977 + 3: it adds up")
    assert equations(ledger)[2][1] == "5 = 3 + 0: 2 are under way or missing"
