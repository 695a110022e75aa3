"""Every answer of docs/api.md, with real spans behind it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.collector.decode import HEADROOM
from tallystick.errors import CollectorRefusedError

USAGE = {"input_tokens": 1200, "output_tokens": 350}
COST = "0.00885"  # 1200 x 3 + 350 x 15 USD per million: claude-sonnet-4-5
UNPRICED = otlp_unit(
    provider="nobody", model="no-such-model", api="chat", usage={"prompt_tokens": 5, "completion_tokens": 1}
)
CALL_ID = "00f067aa0ba902b7"
NOW_NS = time.time_ns()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector with five calls: a plain one, a retried one, a failed one, a cut one, and one without a price."""
    with running_collector(tmp_path_factory.mktemp("api")) as running:
        running.send(
            otlp_call(
                id=CALL_ID, usage=USAGE, environment="prod", tags={"tenant": "acme", "odd name'": "x"},
                tallystick__feature="chat", user__id="u1", session__id="s1", gen_ai__prompt__name="greet",
                tallystick__key="a1b2c3d4…9xyz", tallystick__caller="shop.chat:answer", gen_ai__request__stream=True,
                gen_ai__response__model="claude-sonnet-4-5-20250929", gen_ai__response__finish_reasons=["end_turn"],
                gen_ai__response__time_to_first_chunk=0.21, started_ns=NOW_NS - 5_000_000_000,
                attempts=[{"http.response.status_code": 200, "tallystick.attempt.request_id": "req_1"}],
            ),
            otlp_call(
                usage=USAGE, tags={"tenant": "acme"}, tallystick__feature="chat", started_ns=NOW_NS - 4_000_000_000,
                attempts=[
                    {"http.response.status_code": 429, "tallystick.attempt.outcome": "rate_limited",
                     "tallystick.attempt.retry_after_s": 1.5, "duration_ms": 100.0},
                    {"http.response.status_code": 200, "started_ms": 1700.0, "tallystick.attempt.waited_s": 1.6},
                ],
            ),
            otlp_call(
                id="00f067aa00000000", outcome="rate_limited", tallystick__error__code="rate_limit_error",
                exception__type="anthropic.RateLimitError", started_ns=NOW_NS - 3_000_000_000, latency_ms=100.0,
                attempts=[{"http.response.status_code": 429, "tallystick.attempt.outcome": "rate_limited"}],
            ),
            otlp_call(
                outcome="abandoned", units=[otlp_unit(usage=USAGE, estimated=True)], started_ns=NOW_NS - 2_000_000_000
            ),
            otlp_call(model="no-such-model", provider="nobody", units=[UNPRICED], started_ns=NOW_NS - 1_000_000_000),
        )  # fmt: skip
        yield running


def test_totals_are_exact_and_unknown_is_counted_not_added(collector: Running) -> None:
    totals = collector.ask("totals")

    assert totals.pop("start") < totals["first_call_at"] < totals["last_call_at"] < totals.pop("end")
    first = datetime.fromisoformat(totals.pop("first_call_at"))
    assert first == datetime.fromtimestamp((NOW_NS - 5_000_000_000) // 1000 / 1e6, UTC)
    del totals["last_call_at"]
    assert totals == {
        "calls": 5, "failed": 2, "attempts": 6, "units": 4, "spend_usd": "0.02655", "estimated_usd": COST,
        "wasted_usd": COST, "unpriced_units": 1, "estimated_units": 1, "input_tokens": 3605, "cache_read_tokens": 0,
        "cache_write_tokens": 0, "output_tokens": 1051, "reasoning_tokens": 0, "latency_ms_p50": 800.0,
        "latency_ms_p95": 800.0,
    }  # fmt: skip


def test_groups_come_dearest_first_and_sum_to_the_totals(collector: Running) -> None:
    answer = collector.ask("groups", by="model")
    totals = collector.ask("totals")

    assert answer["by"] == "model"
    assert [row["key"] for row in answer["rows"]] == ["claude-sonnet-4-5", "no-such-model"]
    assert answer["rows"][0] == {
        "key": "claude-sonnet-4-5", "calls": 4, "failed": 2, "attempts": 5, "units": 3, "spend_usd": "0.02655",
        "estimated_usd": COST, "wasted_usd": COST, "unpriced_units": 0, "input_tokens": 3600, "cache_read_tokens": 0,
        "cache_write_tokens": 0, "output_tokens": 1050, "reasoning_tokens": 0, "latency_ms_p50": 800.0,
        "latency_ms_p95": 800.0,
    }  # fmt: skip
    assert sum(Decimal(row["spend_usd"] or 0) for row in answer["rows"]) == Decimal(totals["spend_usd"])


def test_what_has_no_price_at_all_has_no_spend_rather_than_none_of_it(collector: Running) -> None:
    unpriced = {"model": "no-such-model"}

    rows_of = [collector.ask(name, by="model", **unpriced)["rows"] for name in ("groups", "series")]
    for rows in (*rows_of, [collector.ask("totals", **unpriced)]):
        assert [(row["units"], row["unpriced_units"], row["spend_usd"]) for row in rows] == [(1, 1, None)]
    assert collector.ask("totals", start="2020-01-01", end="2020-01-02")["spend_usd"] == "0"


@pytest.mark.parametrize(
    ("by", "key", "calls"),
    [
        ("provider", "anthropic", 4), ("feature", "chat", 2), ("feature", None, 3), ("user", "u1", 1),
        ("session", "s1", 1), ("service", "shop", 5), ("environment", "prod", 1), ("prompt", "greet", 1),
        ("key", "a1b2c3d4…9xyz", 1), ("caller", "shop.chat:answer", 1), ("outcome", "ok", 3),
        ("tag.tenant", "acme", 2), ("tag.tenant", None, 3), ("tag.odd name'", "x", 1), ("tag.none", None, 5),
    ],
)  # fmt: skip
def test_every_dimension_groups(collector: Running, by: str, key: str | None, calls: int) -> None:
    rows = collector.ask("groups", by=by)["rows"]

    assert {row["key"]: row["calls"] for row in rows}[key] == calls
    assert sum(row["calls"] for row in rows) == 5


@pytest.mark.parametrize(
    ("filters", "calls"),
    [
        ({}, 5), ({"model": "claude-sonnet-4-5"}, 4), ({"model": ["claude-sonnet-4-5", "no-such-model"]}, 5),
        ({"model": "claude"}, 0), ({"feature": ""}, 3), ({"feature": ["", "chat"]}, 5), ({"outcome": "failed"}, 2),
        ({"outcome": ["failed", "ok"]}, 5), ({"cost_status": "unknown"}, 1), ({"cost_status": "estimated"}, 1),
        ({"tag.tenant": "acme"}, 2), ({"tag.tenant": ""}, 3), ({"tag.odd name'": "x"}, 1),
        ({"user": "u1", "key": ""}, 0),
        ({"model": "' OR 1=1 --"}, 0), ({"start": "2020-01-01", "end": "2020-01-02T00:00:00+02:00"}, 0),
    ],
)  # fmt: skip
def test_filters_pick_calls(collector: Running, filters: dict[str, Any], calls: int) -> None:
    assert collector.client.ask("totals", filters)["calls"] == calls


def test_series_puts_calls_into_hours(collector: Running) -> None:
    answer = collector.ask("series", bucket="hour", by="model")

    assert (answer["bucket"], answer["by"]) == ("hour", "model")
    assert sum(row["calls"] for row in answer["rows"]) == 5
    row = answer["rows"][0]
    assert row["at"].endswith(":00:00Z")
    assert set(row) == {
        "at", "key", "rest", "calls", "failed", "units", "spend_usd", "estimated_usd", "wasted_usd", "unpriced_units",
        "estimated_units",
    }  # fmt: skip


@pytest.mark.parametrize("by", ["model", "feature", "user", "tag.tenant", "session"])
def test_a_series_tells_the_dearest_apart_and_sums_the_rest(collector: Running, by: str) -> None:
    whole, few = (collector.ask("series", bucket="day", by=by, limit=limit)["rows"] for limit in (1000, 1))
    spent: defaultdict[str | None, Decimal] = defaultdict(Decimal)
    for row in whole:
        assert not row["rest"]
        spent[row["key"]] += Decimal(row["spend_usd"] or 0)

    apart = {row["key"] for row in few if not row["rest"]} - {None}
    assert len(apart) <= 1, "what has no value is none of the rest either"
    assert all(spent[key] == max(spent.values()) for key in apart)
    for name in ("calls", "failed", "units", "unpriced_units"):
        assert sum(row[name] for row in few) == sum(row[name] for row in whole)
    assert sum(Decimal(row["spend_usd"] or 0) for row in few) == sum(spent.values())


def test_failures_tell_what_failed_and_what_retries_made_of_it(collector: Running) -> None:
    answer = collector.ask("failures")

    assert [(row["outcome"], row["provider"], row["calls"], row["wasted_usd"]) for row in answer["rows"]] == [
        ("abandoned", "anthropic", 1, COST), ("rate_limited", "anthropic", 1, "0"),
    ]  # fmt: skip
    assert [(row["outcome"], row["provider"], row["attempts"]) for row in answer["attempts"]] == [
        ("rate_limited", "anthropic", 2)
    ]
    assert answer["funnel"] == {"first_try": 2, "after_retry": 1, "gave_up": 2}
    assert answer["retry"] == {"attempts_extra": 1, "retry_after_asked_s": 1.5, "waited_s": pytest.approx(1.6)}


def test_a_call_is_shown_whole(collector: Running) -> None:
    answer = collector.ask(f"calls/{CALL_ID}")

    call = answer["call"]
    assert len(call.pop("trace_id")) == 32
    assert datetime.fromisoformat(call.pop("started_at")).tzinfo is not None
    assert call == {
        "id": CALL_ID, "parent_id": None, "latency_ms": 800.0, "first_chunk_ms": 210.0, "operation": "chat",
        "provider": "anthropic", "model": "claude-sonnet-4-5", "response_model": "claude-sonnet-4-5-20250929",
        "outcome": "ok", "error_code": None, "exception": None, "stream": True, "attempts": 1, "units": 1,
        "cost_usd": COST, "cost_status": "exact", "input_tokens": 1200, "cache_read_tokens": 0, "cache_write_tokens": 0,
        "output_tokens": 350, "reasoning_tokens": 0, "service": "shop", "environment": "prod", "feature": "chat",
        "user": "u1", "session": "s1", "prompt": "greet", "key": "a1b2c3d4…9xyz", "caller": "shop.chat:answer",
        "tags": {"tenant": "acme", "odd name'": "x"}, "finish_reasons": ["end_turn"],
        "max_tokens": None, "digest": None, "template": None, "request_characters": None, "tools_characters": None,
        "messages": None, "chain": CALL_ID, "link": None, "link_index": None,
    }  # fmt: skip
    (unit,) = answer["units"]
    assert unit["usage"] == USAGE
    assert (unit["cost_usd"], unit["cost_status"], unit["estimated"], unit["params"]) == (COST, "exact", False, {})
    assert unit["price_version"] == unit["receipt"]["price_version"]
    lines = unit["receipt"]["lines"]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal(COST)
    assert {line["item"] for line in lines} == {"input", "output"}
    (attempt,) = answer["attempts"]
    assert datetime.fromisoformat(attempt.pop("started_at"))
    assert attempt == {
        "number": 0, "duration_ms": 100.0, "status": 200, "outcome": "ok", "request_id": "req_1", "retry_after_s": None,
        "waited_s": None, "should_retry": None, "code": None, **dict.fromkeys(column for column, _ in HEADROOM),
    }  # fmt: skip


def test_a_call_is_found_by_the_beginning_of_its_id(collector: Running) -> None:
    assert collector.ask(f"calls/{CALL_ID[:10].upper()}")["call"]["id"] == CALL_ID


def test_an_ambiguous_beginning_names_the_matches(collector: Running) -> None:
    with pytest.raises(CollectorRefusedError, match=f"00f067aa00000000, {CALL_ID}") as refused:
        collector.ask("calls/00f067aa0")

    assert refused.value.status == 400


@pytest.mark.parametrize(("call", "status"), [("ffffffffffffffff", 404), ("nothex", 400), ("0" * 17, 400)])
def test_a_call_that_is_not_there(collector: Running, call: str, status: int) -> None:
    with pytest.raises(CollectorRefusedError) as refused:
        collector.ask(f"calls/{call}")

    assert refused.value.status == status


@pytest.mark.parametrize("order", ["-started_at", "started_at", "-cost_usd", "-latency_ms"])
def test_pages_hold_every_call_once_in_order(collector: Running, order: str) -> None:
    whole = [row["id"] for row in collector.ask("calls", order=order)["rows"]]
    paged: list[str] = []
    cursor = None
    while True:
        page = collector.ask("calls", order=order, limit=2, cursor=cursor)
        paged += [row["id"] for row in page["rows"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert len(set(whole)) == 5
    assert paged == whole


@pytest.mark.parametrize("order", ["-started_at", "started_at", "-cost_usd", "-latency_ms"])
def test_pages_lead_back_the_way_they_came(collector: Running, order: str) -> None:
    forth = [collector.ask("calls", order=order, limit=2)]
    while forth[-1]["next_cursor"]:
        forth.append(collector.ask("calls", order=order, limit=2, cursor=forth[-1]["next_cursor"]))
    assert forth[0]["previous_cursor"] is None

    page = forth[-1]
    for before in reversed(forth[:-1]):
        page = collector.ask("calls", order=order, limit=2, cursor=page["previous_cursor"])
        assert page["rows"] == before["rows"]
    assert page["previous_cursor"] is None
    assert collector.ask("calls", order=order, limit=2, cursor=page["next_cursor"])["rows"] == forth[1]["rows"]


def test_calls_without_a_price_cost_null_and_calls_without_a_unit_cost_nothing(collector: Running) -> None:
    rows = {row["outcome"] + row["model"]: row for row in collector.ask("calls")["rows"]}

    assert (rows["okno-such-model"]["cost_usd"], rows["okno-such-model"]["cost_status"]) == (None, "unknown")
    failed = rows["rate_limitedclaude-sonnet-4-5"]
    assert (failed["cost_usd"], failed["cost_status"], failed["units"]) == ("0", None, 0)
    assert (failed["error_code"], failed["exception"]) == ("rate_limit_error", "anthropic.RateLimitError")
    assert rows["abandonedclaude-sonnet-4-5"]["cost_status"] == "estimated"


def test_dimensions_list_values_most_calls_first(collector: Running) -> None:
    assert collector.ask("dimensions", name="model") == {
        "name": "model",
        "rows": [{"value": "claude-sonnet-4-5", "calls": 4}, {"value": "no-such-model", "calls": 1}],
    }


def test_the_ledger_adds_up(collector: Running) -> None:
    ledger = collector.ask("ledger")

    assert ledger["received_spans"] == ledger["stored_spans"] == 9
    assert (ledger["duplicate_spans"], ledger["rejected_spans"], ledger["dropped_records"]) == (0, {}, 0)
    journal = ledger["journal"]
    assert journal["bytes"] == journal["applied_bytes"] > 0
    assert (journal["segments"], journal["behind_bytes"], journal["damaged_bytes"]) == (1, 0, 0)
    assert date_of(ledger["prices"]["version"]) == datetime.now(UTC).date() - timedelta(
        days=ledger["prices"]["age_days"]
    )


def date_of(version: str) -> Any:
    return datetime.fromisoformat(version[:10]).date()


@pytest.mark.parametrize(
    "question",
    [
        "totals?nothing=1", "totals?start=yesterday", "totals?start=2026-01-02&end=2026-01-01", "groups?by=cost_status",
        "groups?by=calls;--", "groups?by=tag.", "series?bucket=week", "series?timezone=Mars/Olympus",
        "series?timezone=../x",
        "series?bucket=minute&start=2020-01-01", "calls?order=cost", "calls?limit=0", "calls?limit=1e3",
        "calls?limit=x",
        "calls?cursor=abc", "calls?cursor=W10", "dimensions", "dimensions?name=id", "budgets?x=1", "alerts?model=x",
    ],
)  # fmt: skip
def test_a_bad_parameter_is_told(collector: Running, question: str) -> None:
    status, _, body = collector.request("GET", f"/api/v1/{question}")

    assert status == 400, body
    error = json.loads(body)["error"]
    assert error["code"] == "bad_parameter"
    assert error["message"]


def test_an_unknown_question_lists_the_known_ones(collector: Running) -> None:
    status, _, body = collector.request("GET", "/api/v1/everything")

    assert status == 404
    assert "totals" in json.loads(body)["error"]["message"]


def test_days_begin_where_the_asker_lives(tmp_path: Path) -> None:
    """Berlin's clocks went back on 2026-10-25, so that day had 25 hours."""
    starts = {
        "2026-10-24T21:59:59Z": "2026-10-23T22:00:00Z",
        "2026-10-24T22:00:00Z": "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59Z": "2026-10-24T22:00:00Z",
        "2026-10-25T23:00:00Z": "2026-10-25T23:00:00Z",
    }
    with running_collector(tmp_path) as running:
        running.send(*(otlp_call(started_ns=int(datetime.fromisoformat(at).timestamp() * 1e9)) for at in starts))
        answer = running.ask(
            "series", bucket="day", timezone="Europe/Berlin", start="2026-10-20T00:00:00Z", end="2026-10-30T00:00:00Z"
        )

    assert [(row["at"], row["calls"]) for row in answer["rows"]] == [
        ("2026-10-23T22:00:00Z", 1), ("2026-10-24T22:00:00Z", 2), ("2026-10-25T23:00:00Z", 1),
    ]  # fmt: skip
