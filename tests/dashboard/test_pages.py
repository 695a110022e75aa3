from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import tallystick.dashboard
from fakes.collector_answers import HOSTILE, Answers, call, iso, refusal, serving
from tallystick.dashboard import parts, words
from tallystick.model.money import show_usd

Open = Callable[..., AppTest]


def shown(test: AppTest) -> str:
    """Return all words on the page, without markdown's escapes."""
    told = [
        element.value
        for kind in ("markdown", "caption", "error", "warning", "info", "success")
        for element in test.get(kind)
    ]
    told += [element.value for element in test.subheader]
    told += [element.value for element in test.code]
    return plain("\n".join(map(str, told)))


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text).replace(words.WORD_JOINER, "")


def all_of(answers: Answers, question: str, **query: str) -> dict[str, Any]:
    """Return the collector's answer over everything: no call leaves the range between the page's question and this."""
    start = iso(datetime.now(UTC) - timedelta(days=7))
    return answers.answer(f"/api/v1/{question}", {"start": [start], **{name: [value] for name, value in query.items()}})


def tile(test: AppTest, label: str) -> str:
    [found] = [metric for metric in test.metric if plain(metric.label) == label]
    return plain(found.value)


def asked(answers: Answers, question: str) -> list[str]:
    return [path for path in answers.asked if path.startswith(f"/api/v1/{question}")]


def test_spend_tells_the_collectors_figures(open_page: Open, answers: Answers) -> None:
    page = open_page(range="7d")
    told = all_of(answers, "totals")

    assert tile(page, "Spend") == show_usd(Decimal(told["spend_usd"]))
    assert tile(page, "Calls") == f"{told['calls']:,}"
    assert tile(page, "Failed") == str(told["failed"])
    assert tile(page, "Wasted") == show_usd(Decimal(told["wasted_usd"]))
    assert tile(page, "Unpriced responses") == str(told["unpriced_units"])


@pytest.mark.parametrize(
    ("hours_ago", "difference"),
    [
        pytest.param([1, 2, 30], "prior 24 h incomplete", id="the-ledger-began-in-it"),
        pytest.param([1, 2, 30, 24 * 40], "+100 %", id="the-ledger-is-older"),
        pytest.param([1, 2, 24 * 40], "none in the prior 24 h", id="it-was-silent"),
    ],
)
def test_spend_is_compared_only_with_a_whole_period(
    hours_ago: list[int], difference: str, open_page: Open, answers: Answers
) -> None:
    now = datetime.now(UTC)
    answers.calls = [call(number, now - timedelta(hours=hours)) for number, hours in enumerate(hours_ago, 1)]

    page = open_page()

    assert page.metric[0].delta == difference


def test_spend_has_a_row_for_each_model_and_says_which_has_no_price(open_page: Open) -> None:
    table = open_page().dataframe[0].value

    assert len(table) == 6
    assert table.iloc[-1]["label"] == "llama-local-70b"
    assert table["spend_usd"].isna().tolist() == [False] * 5 + [True]
    assert table["share"].sum() == pytest.approx(1)


def test_dearest_calls_link_to_the_call(open_page: Open, answers: Answers) -> None:
    links = open_page(range="7d").get("page_link")
    [dearest, *_] = all_of(answers, "calls", order="-cost_usd", limit="6")["rows"]

    assert len(links) == 6
    assert f"call={dearest['id']}" in links[0].proto.query_string
    assert links[0].proto.page == "calls"
    assert plain(links[0].label).startswith(f"**{show_usd(Decimal(dearest['cost_usd']))}**")


def test_the_url_sets_range_group_and_filter(open_page: Open, answers: Answers) -> None:
    page = open_page(range="7d", by="feature", model=["gpt-4.1", "gpt-5-mini"], tz="Asia/Tokyo")

    [series] = asked(answers, "series")
    assert "by=feature" in series
    assert "model=gpt-4.1&model=gpt-5-mini" in series
    assert "timezone=Asia%2FTokyo" in series
    assert set(page.dataframe[0].value["label"]) == {"search", "report"}
    assert "Times in Asia/Tokyo" in shown(page)


def test_a_control_writes_the_url(open_page: Open) -> None:
    page = open_page(start="2026-11-20T00:00:00Z", end="2036-11-21T00:00:00Z", cursor="50")

    page.segmented_control(key="pick_range").set_value("7d").run()
    page.selectbox(key="pick_by").set_value("user").run()

    assert dict(page.query_params) == {"range": "7d", "by": "user"}


def test_a_chip_takes_its_filter_away(open_page: Open) -> None:
    page = open_page(model=["gpt-4.1", "gpt-5-mini"], feature="")
    chips = page.pills(key="chips")
    assert [plain(chip).partition(" :")[0] for chip in chips.formatted_values] == [
        "model = gpt-4.1",
        "model = gpt-5-mini",
        "feature = (none)",
    ]

    chips.set_value([1]).run()

    assert page.query_params["model"] == "gpt-5-mini"
    assert "feature" not in page.query_params


def test_filters_ask_for_values_only_when_they_are_opened(open_page: Open, answers: Answers) -> None:
    open_page()

    assert [path for path in asked(answers, "dimensions") if not path.endswith("name=tag")] == []


def test_the_bar_in_the_url_tells_its_cause_and_leads_to_the_calls(open_page: Open, answers: Answers) -> None:
    answers.cause = {
        "dimensions": [{"name": "user", "value": HOSTILE}, {"name": "tag.tenant", "value": "acme"}],
        "filters": {"user": HOSTILE, "tag.tenant": "acme"}, "spend_usd": "0.5", "usual_usd": "0.1", "calls": 60,
        "usual_calls": 2.1,
    }  # fmt: skip
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)

    page = open_page(at=iso(at))

    assert "×10.0 the usual" in shown(page)
    assert ", tag.tenant acme: 60 calls in place of 2.1, $0.0083 each in place of $0.048." in shown(page)
    assert "Close" in [button.label for button in page.button]
    assert "at=x is not a time" in shown(open_page(at="x"))


def test_spend_can_be_grouped_by_a_tag_in_use(open_page: Open) -> None:
    assert "by tag.tenant" in open_page().selectbox[0].options


def test_failures_tell_what_is_behind_them(open_page: Open, answers: Answers) -> None:
    answers.waste = {
        "causes": [{"cause": "truncated", "calls": 3, "usd": "0.5", "untold": 0, "filters": {"outcome": ["truncated"]}},
                   {"cause": "timeouts", "calls": 0, "usd": "0", "untold": 0, "filters": {}}],
        "tries": [{"tries": 6, "calls": 5, "answered": 2}],
        "waits": [{"provider": HOSTILE, "asked": 4, "followed": 3, "sooner": 1, "asked_s": 9.0, "waited_s": 8.5}],
        "fallbacks": [{"model_before": None, "model": "gpt-5-mini", "calls": 2, "answered": 1, "spend_usd": "0.1"}],
        "headroom": [{"provider": "openai", "model": "gpt-5-mini", "key": None, "of": "input_tokens", "lowest": 500,
                      "lowest_limit": 10000, "lowest_at": iso(datetime.now(UTC)), "latest": 9000,
                      "latest_limit": 10000, "latest_at": iso(datetime.now(UTC))}],
    }  # fmt: skip

    tables = {frame.proto.alt: frame.value for frame in open_page("failures", range="7d").dataframe}

    assert tables["Money paid without a result, by cause"].to_numpy().tolist() == [
        ["cut at the output limit", 3, 0.5, 0]
    ]
    assert tables["Calls by the number of attempts"].to_numpy().tolist() == [["6 or more", 2, 3]]
    assert tables["Fallbacks by model"].to_numpy().tolist() == [["(none)", "gpt-5-mini", 2, 1, 0.1]]
    assert tables["Headroom of rate limits"].iloc[0].tolist()[:4] == [
        0.05,
        "input tokens",
        "openai · gpt-5-mini",
        "500 of 10,000",
    ]


def test_a_wrong_url_is_told_and_shows_the_default(open_page: Open) -> None:
    page = open_page(range="9y")

    assert "range=9y is not known, so this is range=24h" in shown(page)
    assert tile(page, "Calls") != "0"


def test_failures_show_funnel_waits_and_classes(open_page: Open, answers: Answers) -> None:
    page = open_page("failures", range="7d")
    told = all_of(answers, "failures")

    assert tile(page, "Answered at the first try") == str(told["funnel"]["first_try"])
    assert tile(page, "Answered after a retry") == str(told["funnel"]["after_retry"])
    assert tile(page, "Gave up") == str(told["funnel"]["gave_up"])
    assert "servers asked to wait" in shown(page)
    table = page.dataframe[0].value
    assert table["calls"].sum() == told["funnel"]["gave_up"]
    assert "rate limit of the provider" in set(table["what"])


def test_failures_of_a_range_without_any_say_so(open_page: Open, answers: Answers) -> None:
    answers.calls = [call(1, datetime.now(UTC))]

    assert "Nothing failed in this range, not even an attempt." in shown(open_page("failures"))


def test_a_row_of_failures_leads_to_its_calls() -> None:
    from tallystick.dashboard.failures import calls_of
    from tallystick.dashboard.view import read_view

    view = read_view({"range": ["7d"]}, datetime.now(UTC), None)

    assert calls_of({"outcome": "quota", "provider": "openai", "calls": 2}, view) == {
        "range": "7d",
        "provider": "openai",
        "outcome": "quota",
    }
    assert calls_of({"outcome": "quota", "provider": "openai", "calls": 0}, view) == {
        "range": "7d",
        "provider": "openai",
    }


def test_calls_lists_only_failed_when_the_url_says_so(open_page: Open, answers: Answers) -> None:
    table = open_page("calls", outcome="failed", range="7d").dataframe[0].value

    assert len(table) == all_of(answers, "totals")["failed"]
    assert "answered" not in set(table["outcome"])


def test_calls_are_paged_by_the_collectors_cursor(open_page: Open) -> None:
    page = open_page("calls")
    first = page.dataframe[0].value["id"].tolist()

    [following] = [button for button in page.button if button.label == "Next page"]
    following.click().run()

    second = page.dataframe[0].value["id"].tolist()
    assert page.query_params["cursor"] == "50"
    assert len(second) == 50
    assert not set(first) & set(second)

    [back] = [button for button in page.button if button.label == "Previous page"]
    back.click().run()

    assert page.query_params["cursor"] == "0"


@pytest.mark.parametrize(("table", "by", "value"), [("sessions", "session", "s-1"), ("prompts", "prompt", "v3")])
def test_calls_are_listed_by_session_and_by_prompt(
    open_page: Open, answers: Answers, table: str, by: str, value: str
) -> None:
    answers.calls = [call(number, datetime.now(UTC), session="s-1", prompt="v3") for number in (1, 2)]

    [frame] = open_page("calls", table=table).dataframe

    assert frame.value[["label", "calls"]].to_numpy().tolist() == [[value, 2]]
    assert frame.proto.alt == f"Calls by {by}, the dearest first"


def test_a_call_shows_those_of_the_same_work_and_those_that_asked_the_same(open_page: Open, answers: Answers) -> None:
    now = datetime.now(UTC)
    answers.calls = [
        call(1, now - timedelta(minutes=3), outcome="invalid_output"),
        call(2, now - timedelta(minutes=2), chain=f"{1:016x}", link="re_ask", link_index=1, digest="d1"),
        call(3, now - timedelta(minutes=1), digest="d1"),
        call(4, now),
    ]

    page = open_page("calls", call=f"{2:016x}")

    [linked] = [frame.value for frame in page.dataframe if frame.proto.alt == "Linked calls"]
    assert linked[["how", "id"]].to_numpy().tolist() == [
        ["the first of this work", f"{1:016x}"], ["the same request", f"{3:016x}"],
    ]  # fmt: skip
    assert "This one: re-asked for a usable answer." in shown(page)
    assert "Linked calls" not in shown(open_page("calls", call=f"{4:016x}"))


def test_calls_are_ordered_as_the_url_says(open_page: Open) -> None:
    costs = open_page("calls", order="-cost_usd").dataframe[0].value["cost_usd"].dropna().tolist()

    assert costs == sorted(costs, reverse=True)


def test_a_call_opens_down_to_its_receipt(open_page: Open, answers: Answers) -> None:
    answers.calls = [
        call(
            0x1F,
            datetime.now(UTC),
            input_tokens=1200,
            cache_read_tokens=200,
            output_tokens=350,
            finish_reasons=["end_turn"],
        )
    ]

    page = open_page("calls", call="000000000000001f")

    receipt = page.dataframe[0].value
    assert receipt["item"].tolist() == ["input", "input read from cache", "output"]
    assert receipt["quantity"].tolist() == ["1,000 tokens", "200 tokens", "350 tokens"]
    assert receipt["unit price"].tolist() == ["$3 per 1M tokens", "$0.3 per 1M tokens", "$15 per 1M tokens"]
    assert receipt["cost"].tolist() == ["$0.003", "$0.00006", "$0.00525"]
    assert "Total $0.00831" in shown(page)
    assert "prices of 2026-11-21" in shown(page)
    assert tile(page, "Outcome") == "answered"


def test_a_call_without_a_price_says_why_and_never_zero(open_page: Open, answers: Answers) -> None:
    answers.calls = [call(0x1F, datetime.now(UTC), model="llama-local-70b")]

    page = open_page("calls", call="000000000000001f")

    assert tile(page, "Cost") == "unpriced"
    assert "Total unpriced" in shown(page)
    assert "Why: no price is listed for model 'llama-local-70b'" in shown(page)


def test_a_failed_call_is_told_in_words_with_each_attempt(open_page: Open, answers: Answers) -> None:
    at = datetime.now(UTC)
    tries: list[dict[str, Any]] = [
        {"number": n, "started_at": iso(at + timedelta(seconds=2 * n)), "duration_ms": 300.0, "status": 429,
         "outcome": "rate_limited", "request_id": f"req_{n}", "retry_after_s": 1.0}
        for n in range(3)
    ]  # fmt: skip
    answers.calls = [
        call(
            0x1F,
            at,
            outcome="rate_limited",
            error_code="rate_limit_error",
            exception="RateLimitError",
            units=0,
            _attempts=tries,
        )
    ]

    page = open_page("calls", call="000000000000001f")

    assert "rate limit of the provider; the provider's word: rate_limit_error; your app saw RateLimitError." in shown(
        page
    )
    assert "nothing to charge" in shown(page)
    attempts = page.dataframe[0].value
    assert attempts["request id"].tolist() == ["req_0", "req_1", "req_2"]
    assert attempts["asked to wait"].tolist() == ["1.00 s"] * 3
    assert attempts["waited before"].tolist() == ["", "1.70 s", "1.70 s"]
    waterfall = page.get("vega_lite_chart")[0].proto
    assert waterfall.alt.startswith("Attempts over time")


def test_an_unknown_call_is_told_kindly(open_page: Open) -> None:
    assert "No call has the id ffff" in shown(open_page("calls", call="ffff"))


def test_budgets_show_the_fullest_first_with_window_and_alerts(open_page: Open) -> None:
    page = open_page("budgets")
    told = shown(page)

    assert told.index("everything") < told.index("chat") < told.index("search")
    assert [plain(bar.text) for bar in page.get("progress")] == [
        "$261.40 of $250.00 spent, 105 %",
        "$8.12 of $10.00 spent, 81 %",
        "$0.0042 of $5.00 spent, <0.1 %",
    ]
    assert "3 responses without a known price" in told
    assert page.dataframe[1].value["notification"].tolist() == ["delivered", "refused by the receiver"]


def test_a_budget_says_what_is_held_and_left_when_it_is_full_and_when_it_resets(
    open_page: Open, answers: Answers
) -> None:
    now = datetime.now(UTC)
    end = iso(now + timedelta(hours=3, minutes=59, seconds=50))
    window = {"kind": "day", "timezone": "UTC", "start": iso(now), "end": end}
    figures = {"reserved": "0.31", "left": "1.57", "pace_per_hour": "0.9", "full_at": None}
    answers.budgets = [{**answers.budgets[0], "window": window, **figures}]

    page = open_page("budgets")

    assert tile(page, "Reserved") == "$0.310"
    assert tile(page, "Left") == "$1.57"
    assert tile(page, "Full") == "not in this window"
    assert tile(page, "Resets in") == "3 h 59 min"


def test_the_groups_of_a_budget_are_a_table_in_its_unit(open_page: Open, answers: Answers) -> None:
    group = {"group": {"user": "u1"}, "spent": "8000", "reserved": "500", "left": "1500", "share": "0.8",
             "pace_per_hour": "0", "full_at": None, "refused": 3}  # fmt: skip
    answers.budgets = [
        {**answers.budgets[0], "unit": "tokens", "limit": "10000", "spent": "8000", "alerts": [],
         "groups": [group, {**group, "group": {"user": ""}, "left": "0"}], "groups_count": 2}
    ]  # fmt: skip

    page = open_page("budgets")

    table = page.dataframe[0].value
    assert table["group"].tolist() == ["user = u1", "user = (none)"]
    assert table["spent"].tolist() == [8000, 8000]
    assert table["full"].tolist() == ["not in this window", "now"]
    assert "2 groups, each with the limit for itself" in shown(page)


def test_a_budget_for_each_user_says_whose_figures_stand_on_top(open_page: Open, answers: Answers) -> None:
    group = {"group": {"user": "u1"}, "spent": "12", "reserved": "0", "left": "-2", "share": "1.2",
             "pace_per_hour": "0", "full_at": None, "refused": 0}  # fmt: skip
    budget = answers.budgets[0]
    alerts = [{**alert, "group": {"user": "u1"}} for alert in budget["alerts"]]
    own = {"limit": "10", "spent": "12", "left": "-2", "share": "1.2", "scope": {"feature": "chat"}}
    answers.budgets = [{**budget, **own, "group_by": ["user"], "groups": [group], "groups_count": 1, "alerts": alerts}]

    page = open_page("budgets")

    assert "feature = chat, for each user" in shown(page)
    assert plain(page.get("progress")[0].text) == "The fullest, user = u1: $12.00 of $10.00 spent, 120 %"
    assert tile(page, "Left") == "none"
    assert page.dataframe[1].value["group"].tolist() == ["user = u1"] * len(alerts)


def test_blocked_calls_show_the_sum_that_did_not_fit(open_page: Open, answers: Answers) -> None:
    tokens = {"unit": "tokens", "spent": "9000", "reserved": "0", "needed": "1500", "limit": "10000"}
    answers.refusals = [refusal(), refusal(reason="unpriced", group=None), refusal(**tokens)]

    page = open_page("budgets", range="7d")

    table = page.dataframe[len(page.dataframe) - 1].value
    assert table["why"].tolist() == [
        "$9.2 spent + $0.5 reserved + $0.41 needed = $10.11 of $10",
        "its model has no known price, so what it costs cannot be bounded",
        "9,000 spent + 0 reserved + 1,500 needed = 10,500 of 10,000 tokens",
    ]
    assert "3 calls refused in the last 7 d" in shown(page)


def test_a_budget_of_the_file_is_read_only(open_page: Open) -> None:
    page = open_page("budgets", edit="chat")

    assert "No budget called chat can be changed here" in shown(page)
    assert "Read only here: it stands in `tallystick.toml`" in shown(page)
    assert not page.text_input
    assert [button.label for button in page.button] == ["All budgets"]


def test_without_budgets_there_is_one_to_copy(open_page: Open, answers: Answers) -> None:
    import tomllib

    answers.budgets = []

    [example] = open_page("budgets").code

    [budget] = tomllib.loads(example.value)["budget"]
    assert budget["name"] == "chat"


@pytest.mark.parametrize("page", ["", "failures", "calls", "budgets"])
def test_every_page_says_how_far_it_can_be_trusted(page: str, open_page: Open, answers: Answers) -> None:
    answers.ledger = {
        "received_spans": 1234,
        "duplicate_spans": 3,
        "rejected_spans": {"no ids": 2},
        "dropped_records": 7,
    }

    told = shown(open_page(page))

    assert "Times in Europe/Berlin · prices of 2026-11-21 (today's) · 1,234 spans received" in told
    assert "3 duplicates · 2 rejected (no ids 2) · 7 dropped" in told


@pytest.mark.parametrize("page", ["", "failures", "calls"])
def test_before_the_first_call_there_are_two_lines_to_copy(
    page: str, open_page: Open, answers: Answers, collector: str
) -> None:
    answers.calls = []

    test = open_page(page)

    assert [block.value for block in test.code] == [
        "pip install tallystick",
        "import tallystick\ntallystick.instrument()",
        f"TALLYSTICK_COLLECTOR={collector} tallystick run app.py",
    ]
    assert f"Waiting for the first call at `{collector}`" in shown(test)


def test_an_empty_range_is_not_mistaken_for_an_empty_ledger(open_page: Open) -> None:
    told = shown(open_page(model="nobody-uses-this"))

    assert "No calls in this range with these filters." in told
    assert "pip install" not in told


def test_spans_that_were_all_rejected_are_told(open_page: Open, answers: Answers) -> None:
    answers.calls = []
    answers.ledger = {"received_spans": 5, "stored_spans": 0, "rejected_spans": {"no ids": 5}}

    assert "nothing was stored: 5 spans received · 0 stored · 0 duplicates · 5 rejected (no ids 5)" in shown(
        open_page()
    )


@pytest.mark.parametrize("page", ["", "failures", "calls", "budgets"])
def test_a_collector_that_is_down_is_told_once_and_comes_back(
    page: str, answers: Answers, open_page_of_any_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answers) as url:
        pass
    monkeypatch.setenv("TALLYSTICK_COLLECTOR", url)

    test = open_page_of_any_collector(page)

    [error] = test.error
    assert f"No collector answers at** `{url}`" in plain(error.value)
    assert "tallystick up" in error.value
    assert not test.metric
    with serving(answers, int(url.rpartition(":")[2])):
        test.run()
        assert not test.error
        assert "spans received" in shown(test)


@pytest.mark.parametrize(
    ("page", "broken", "missing", "there"),
    [
        pytest.param("", "series", "Spend over time", "Dearest calls", id="spend"),
        pytest.param("", "calls", "Dearest calls", "Spend by hour and model", id="spend-dearest"),
        pytest.param("", "groups", "Spend by model", "Spend by hour and model", id="spend-by"),
        pytest.param("calls", "calls", "Calls", "failed", id="calls"),
        pytest.param(
            "failures", "waste", "Waste, attempts, waits and headroom", "By class and provider", id="failures"
        ),
        pytest.param("budgets", "alerts", "Alerts", "No budget refused a call", id="budgets"),
    ],
)
def test_what_the_collector_cannot_answer_is_left_out_and_the_rest_of_the_page_stands(
    page: str, broken: str, missing: str, there: str, open_page: Open, answers: Answers
) -> None:
    answers.broken = (broken,)

    test = open_page(page)

    assert not test.error
    [told] = [plain(each.value) for each in test.warning if "not there" in each.value]
    assert told.startswith(f"**{missing}: not there at the moment.** The collector answered 500: out of memory.")
    assert there in shown(test)
    assert "spans received" in shown(test)


def test_a_ledger_that_is_an_hour_old_is_led_to_by_the_minute(open_page: Open, answers: Answers) -> None:
    answers.calls = [call(1, datetime.now(UTC) - timedelta(minutes=5))]

    assert "see it by minute" in links(open_page())
    assert "see it by minute" not in links(open_page(range="1h"))
    answers.calls.append(call(2, datetime.now(UTC) - timedelta(hours=5)))
    assert "see it by minute" not in links(open_page())


def links(test: AppTest) -> str:
    return "\n".join(element.proto.label for element in test.get("page_link"))


@pytest.mark.parametrize("page", ["", "settings", "advisor"])
def test_a_collector_that_hangs_is_waited_for_once_a_page(
    page: str, open_page: Open, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = open_page(page)
    monkeypatch.setattr(parts, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(parts, "TIMEOUT_AGAIN_S", 0.01)
    answers.silent = ("dimensions", "ledger", "totals", "doctor", "advice")
    test.query_params["range"] = "7d"

    asked_at = time.monotonic()
    test.run()

    assert "The collector takes too long." in test.error[0].value
    assert time.monotonic() - asked_at < 4  # two waits


def test_a_question_that_hangs_does_not_take_the_others_with_it(
    open_page: Open, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "TIMEOUT_S", 0.5)
    answers.silent = ("series", "groups")

    test = open_page()

    assert [plain(each.value).partition(":")[0] for each in test.warning] == ["**Spend by model", "**Spend over time"]
    assert "Dearest calls" in shown(test)


def test_a_fault_of_the_collector_is_not_put_on_the_address(open_page: Open, answers: Answers) -> None:
    answers.broken = ("totals",)

    [error] = open_page().error

    assert "The collector answered 500" in plain(error.value)
    assert "address of this page" not in error.value


def test_a_refusal_of_the_collector_is_told_in_its_words(open_page: Open, answers: Answers) -> None:
    answers.calls = [call(number, datetime.now(UTC)) for number in range(1, 3)]

    [error] = open_page("calls", cursor="not-a-cursor").error

    assert "The collector answered 400" in plain(error.value)
    assert "cursor=not-a-cursor is not a cursor" in plain(error.value)


def harmless(text: str) -> bool:
    """Tell whether markdown shows ``text`` as it stands: no sign of its own is left that is not escaped or in code."""
    outside = re.sub(r"\\.", "", text)
    outside = re.sub(r"`[^`\n]*`", "", outside)
    outside = re.sub(r"^:(red|orange|green)-badge\[([a-z0-9 :/%_]+)\]$", r"\2", outside)
    outside = re.sub(r":material/[a-z_]+:", "", outside).replace("**", "").replace("  \n", "\n")
    return not re.search(r"[<>\[\]!$`_*]|://|javascript:", outside)


@pytest.mark.parametrize("page", ["", "failures", "calls", "call", "budgets"])
@pytest.mark.parametrize(
    "evil", [HOSTILE, "A" * 5000, "\u202eevil\u05d0", "a\n\n# b", ":material/x: $x$ `c`"], ids=range(5)
)
def test_strings_from_outside_are_letters_and_nothing_else(
    page: str, evil: str, open_page: Open, answers: Answers
) -> None:
    names = dict.fromkeys(
        ("model", "feature", "user", "service", "provider", "caller", "error_code", "exception", "key"), evil
    )
    ended: dict[str, Any] = {"outcome": "server_error", "tags": {evil: evil}, "finish_reasons": [evil]}
    priced = {**names, "model": "claude-sonnet-4-5"}
    answers.calls = [
        call(number, datetime.now(UTC), **ended, **some) for number, some in ((0x1F, names), (0x2F, priced))
    ]
    answers.budgets = [
        {**answers.budgets[0], "name": evil, "scope": {"feature": evil}, "action": evil, "source": "api"}
    ]
    answers.refusals = [refusal(budget=evil, group={evil: evil}, dimensions={"model": evil, "feature": evil})]
    answers.ledger = {"rejected_spans": {evil: 1}, "prices": {"version": evil, "age_days": 1}}
    query: dict[str, Any] = {"call": "1f"} if page == "call" else {"feature": evil}

    test = open_page("calls" if page == "call" else page, **({"call": "000000000000001f"} if page == "call" else query))

    texts = [
        str(element.value) for kind in ("markdown", "caption", "error", "warning", "info") for element in test.get(kind)
    ]
    texts += [metric.value for metric in test.metric] + [metric.label for metric in test.metric]
    assert page or test.get("page_link")
    texts += [link.label for link in test.get("page_link")] + [bar.text for bar in test.get("progress")]
    texts += [element.value for element in test.subheader]
    for pills in test.pills:
        texts += pills.formatted_values
    assert [text for text in texts if not harmless(text)] == []
    assert all(len(text) < 2500 for text in texts)
    assert not any(element.proto.allow_html for element in test.markdown)


def test_no_page_lets_data_be_html() -> None:
    own = "st.html(style(shown.title))"  # the style sheet, with nothing but a page's name in it

    for path in Path(tallystick.dashboard.__file__).parent.glob("*.py"):
        source = path.read_text().replace(own, "")
        assert "unsafe_allow" not in source, path
        assert "st.html" not in source, path
