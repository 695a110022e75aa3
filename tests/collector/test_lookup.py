"""What somebody outside needs to check us: equations, metrics, spans by attribute, traces, tables for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.collector import Running, otlp_call, otlp_request, otlp_span, running_collector, until
from tallystick.collector.export import as_csv
from tallystick.errors import CollectorRefusedError
from tallystick.model.cells import FORMULAS

USAGE = {"input_tokens": 1200, "output_tokens": 350}
TRACE = "0af7651916cd43dd8448eb211c80319c"
NOW_NS = time.time_ns() - 60 * 10**9
BUDGET = '[[budget]]\nname = "team \\"a\\""\nlimit_usd = 10\n'


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A trace with a web request around a call with two attempts; a duplicate, a reject, a loss; another call."""
    with running_collector(tmp_path_factory.mktemp("lookup"), BUDGET) as running:
        web = otlp_span("e0" * 8, TRACE, None, "GET /", NOW_NS, 1000, {"shop.basket": 7, "http.route": "/"})
        call = otlp_call(
            id="0a" * 8, trace_id=TRACE, parent_id="e0" * 8, usage=USAGE, started_ns=NOW_NS, tags={"tenant": "=1+1"},
            attempts=[{"http.response.status_code": 429}, {"http.response.status_code": 200}], shop__basket=5,
        )  # fmt: skip
        bad = otlp_span("00" * 8, TRACE, None, "x", NOW_NS, 1, {})
        lost = otlp_span("dd" * 8, "cd" * 16, None, "tallystick.dropped", NOW_NS, 0, {
            "tallystick.dropped.records": 7, "tallystick.dropped.calls": 5, "tallystick.finished.calls": 5,
        })  # fmt: skip
        running.send(
            otlp_request([web, bad], {"service.name": "web"}, "asgi"), call, call,
            otlp_request([lost], {"service.name": "web"}, "tallystick"), otlp_call(usage=USAGE, started_ns=NOW_NS + 1),
        )  # fmt: skip
        yield running


def test_the_ledger_accounts_for_every_span(collector: Running) -> None:
    ledger = collector.ask("ledger")

    assert (ledger["received_spans"], ledger["stored_spans"], ledger["duplicate_spans"]) == (10, 6, 3)
    assert ledger["rejected_spans"] == {"no ids": 1}
    assert ledger["unaccounted_spans"] == 0
    assert (ledger["dropped"], ledger["dropped_records"]) == ({"by an app": 7}, 7)
    assert ledger["apps"] == [
        {
            "service": "shop",
            "finished_calls": 2,
            "spooled_calls": 2,
            "dropped_calls": 0,
            "unaccounted_calls": 0,
            "dropped_records": 0,
        },
        {
            "service": "web",
            "finished_calls": 5,
            "spooled_calls": 0,
            "dropped_calls": 5,
            "unaccounted_calls": 0,
            "dropped_records": 7,
        },
    ]


def samples(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_say_what_the_ledger_says(collector: Running) -> None:
    status, headers, body = collector.request("GET", "/metrics")
    found = samples(body.decode())

    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert found["tallystick_healthy"] == "1"
    assert found["tallystick_spans_received_total"] == "10"
    assert found["tallystick_spans_stored_total"] == "6"
    assert found["tallystick_spans_duplicate_total"] == "3"
    assert found['tallystick_spans_rejected_total{reason="no ids"}'] == "1"
    assert found["tallystick_spans_unaccounted"] == "0"
    assert found['tallystick_records_dropped_total{reason="by an app"}'] == "7"
    assert Decimal(found['tallystick_budget_spent_usd{budget="team \\"a\\""}']) == Decimal("0.0177")
    assert all(Decimal(value) >= 0 for value in found.values())
    helped = {line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in found} == helped


def test_a_collector_that_has_caught_up_is_ready(collector: Running) -> None:
    status, _, body = collector.request("GET", "/readyz")

    assert (status, json.loads(body)) == (200, {"status": "ready"})


def test_a_collector_is_not_ready_before_what_it_had_is_applied(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(*[otlp_call(usage=USAGE) for _ in range(30)])
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    seen = []
    with running_collector(tmp_path, group_ms=1000) as running:
        until(lambda: seen.append(running.request("GET", "/readyz")) or seen[-1][0] == 200, "it never was ready")

    assert seen[0][0] == 503
    assert "still to be applied" in json.loads(seen[0][2])["reason"]


@pytest.mark.parametrize(
    ("params", "count", "total"),
    [
        ({}, 6, None), ({"kind": "call"}, 2, None), ({"kind": "attempt"}, 2, None), ({"kind": "span"}, 2, None),
        ({"attribute.http.route": "/"}, 1, None), ({"sum": "shop.basket"}, 6, "12"),
        ({"attribute.shop.basket": "5"}, 1, None), ({"attribute.tallystick.tag.tenant": "=1+1"}, 1, None),
        ({"attribute.gen_ai.request.model": "claude-sonnet-4-5", "sum": "gen_ai.usage.input_tokens"}, 2, "2400"),
        ({"attribute.http.response.status_code": "429"}, 1, None), ({"attribute.no.such'thing": "x"}, 0, None),
        ({"start": "2020-01-01", "end": "2020-01-02"}, 0, None), ({"sum": "http.route"}, 6, None),
    ],
)  # fmt: skip
def test_spans_are_counted_and_summed_by_any_attribute(
    collector: Running, params: dict[str, Any], count: int, total: str | None
) -> None:
    answer = collector.client.ask("spans", params)

    assert (answer["count"], answer["sum"]) == (count, total)
    assert len(answer["ids"]) == count
    assert all(set(found) == {"trace_id", "id"} for found in answer["ids"])


@pytest.mark.parametrize("params", [{"kind": "x"}, {"model": "y"}, {"limit": "-1"}, {"limit": "10001"}])
def test_a_question_for_spans_that_cannot_be_is_refused(collector: Running, params: dict[str, Any]) -> None:
    with pytest.raises(CollectorRefusedError):
        collector.client.ask("spans", params)


def test_a_trace_is_shown_whole(collector: Running) -> None:
    answer = collector.ask(f"traces/{TRACE}")

    assert [call["id"] for call in answer["calls"]] == ["0a" * 8]
    assert [(row["call_id"], row["number"], row["status"]) for row in answer["attempts"]] == [
        ("0a" * 8, 0, 429), ("0a" * 8, 1, 200),
    ]  # fmt: skip
    assert [(row["id"], row["name"], row["service"]) for row in answer["spans"]] == [("e0" * 8, "GET /", "web")]


@pytest.mark.parametrize(("trace_id", "status"), [("ab" * 16, 404), ("xyz", 400), ("ab" * 17, 400)])
def test_a_trace_that_is_not_there_is_said_to_be_missing(collector: Running, trace_id: str, status: int) -> None:
    assert collector.request("GET", f"/api/v1/traces/{trace_id}")[0] == status


@pytest.mark.parametrize("question", ["groups?by=tag.tenant", "calls?order=started_at", "series?bucket=day", "alerts?"])
def test_rows_come_as_csv_with_the_same_figures(collector: Running, question: str) -> None:
    name, _, rest = question.partition("?")
    status, headers, body = collector.request("GET", f"/api/v1/{question}&format=csv")
    parameters = dict(pair.split("=") for pair in rest.split("&") if pair)
    rows = collector.client.ask(name, parameters)["rows"]
    found = list(csv.DictReader(io.StringIO(body.decode())))

    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/csv")
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        assert list(cells) == list(row)
        for key in ("spend_usd", "cost_usd", "calls"):
            assert cells.get(key) == (str(row[key]) if key in row else None)


def test_a_formula_in_a_tag_is_only_text_in_a_spreadsheet(collector: Running) -> None:
    body = collector.request("GET", "/api/v1/groups?by=tag.tenant&format=csv")[2].decode()

    assert "'=1+1" in body
    assert ",=1+1" not in body
    assert "\n=1+1" not in body


def test_an_unknown_format_is_refused(collector: Running) -> None:
    status, _, body = collector.request("GET", "/api/v1/groups?format=xlsx")

    assert status == 400
    assert "json, csv" in json.loads(body)["error"]["message"]


def test_a_page_of_csv_says_where_the_next_one_is(collector: Running) -> None:
    _, headers, _ = collector.request("GET", "/api/v1/calls?format=csv&limit=1")
    following = collector.request("GET", f"/api/v1/calls?format=csv&limit=1&cursor={headers['x-next-cursor']}")

    assert following[0] == 200
    assert "x-next-cursor" not in following[1]


@given(st.lists(st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text())), min_size=1, max_size=4))
def test_no_cell_begins_as_a_formula_does(values: list[Any]) -> None:
    text = as_csv([{str(n): value for n, value in enumerate(values)}])
    _, cells = csv.reader(io.StringIO(text, newline=""))

    for cell, value in zip(cells, values, strict=True):
        assert isinstance(value, int) or not cell.startswith(FORMULAS)
