"""Prices change after the fact: figures follow when they are asked to, the old ones are kept, a rebuild agrees."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, otlp_call, otlp_unit, running_collector
from tallystick.cli import main
from tallystick.pricing import load_book
from tallystick.pricing._book import SHIPPED

USAGE = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
DAY = {"start": "2026-01-01T00:00:00Z", "end": "2200-01-01T00:00:00Z"}


def gpt(model: str = "gpt-4o", **others: Any) -> Any:
    unit = otlp_unit(provider="openai", model=model, api="chat", usage=USAGE, **others)
    return otlp_call(provider="openai", model=model, units=[unit])


def put_prices(folder: Path, version: str, **rates: str) -> None:
    """Put a younger book into the data folder, in which ``rates`` are the input rates of OpenAI's models."""
    document = json.loads(SHIPPED.read_text(encoding="utf-8"))
    document["version"] = version
    for name, rate in rates.items():
        model = name.replace("__", ".").replace("_", "-")
        models = document["providers"]["openai"]["models"]
        models[:] = [entry for entry in models if model not in entry["names"]]
        models.append({"id": model, "names": [model], "rows": [{"rates": {"input": rate, "output": "1"}}]})
    path = folder / "data" / "prices" / "book.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    stamp = time.time() + int(version[-1])
    os.utime(path, (stamp, stamp))


def order(running: Running, **asked: Any) -> dict[str, Any]:
    return running.client.order("reprice", {**DAY, **asked})


def spent(running: Running) -> tuple[str, int]:
    totals = running.ask("totals", **DAY)
    return totals["spend_usd"], totals["unpriced_units"]


@pytest.fixture
def running(tmp_path: Path) -> Any:
    with running_collector(tmp_path) as collector:
        collector.send(gpt(), gpt(), gpt("gpt-never-9"), gpt("gpt-4o-mini"))
        yield collector


def test_a_new_price_changes_the_figures_and_keeps_the_old_ones(running: Running) -> None:
    assert spent(running) == ("5.15", 1)
    put_prices(running.folder, "2031-01-01", gpt_4o="7")

    answer = order(running)

    assert answer == {
        "price_version": "2031-01-01", "dry_run": False, "examined": 4, "changed": 2, "filled": 0, "before_usd": "5",
        "after_usd": "14",
        "rows": [{"provider": "openai", "model": "gpt-4o", "changed": 2, "filled": 0, "before_usd": "5",
                  "after_usd": "14"}],
    }  # fmt: skip
    assert spent(running) == ("14.15", 1)
    call = running.ask("calls", model="gpt-4o", **DAY)["rows"][0]
    found = running.ask(f"calls/{call['id']}")
    [unit] = found["units"]
    assert (call["cost_usd"], found["call"]["cost_usd"], unit["cost_usd"]) == ("7", "7", "7")
    assert (unit["price_version"], unit["receipt"]["price_version"]) == ("2031-01-01", "2031-01-01")
    [revision] = unit["revisions"]
    assert revision.pop("revised_at")
    assert revision == {"cost_usd": "2.5", "cost_status": "exact", "price_version": load_book().version}


def test_what_had_no_price_gets_one_when_it_arrives(running: Running) -> None:
    put_prices(running.folder, "2031-01-01", gpt_never_9="3")

    answer = order(running)

    assert (answer["changed"], answer["filled"], answer["after_usd"]) == (1, 1, "3")
    assert spent(running) == ("8.15", 0)
    assert running.ask("groups", by="model", **DAY)["rows"][0]["unpriced_units"] == 0
    [call] = running.ask("calls", model="gpt-never-9", **DAY)["rows"]
    assert (call["cost_usd"], call["cost_status"]) == ("3", "exact")


def test_a_dry_run_tells_the_same_and_changes_nothing(running: Running) -> None:
    put_prices(running.folder, "2031-01-01", gpt_4o="7", gpt_never_9="3")

    dry = order(running, dry_run=True)

    assert spent(running) == ("5.15", 1)
    wet = order(running)
    assert dry == {**wet, "dry_run": True}
    assert wet["changed"] == 3


def test_only_what_was_asked_for_is_priced_again(running: Running) -> None:
    put_prices(running.folder, "2031-01-01", gpt_4o="7", gpt_4o_mini="9", gpt_never_9="3")

    assert order(running, model="gpt-4o-mini")["changed"] == 1
    assert order(running, provider="anthropic")["examined"] == 0
    assert order(running, end="2026-01-02T00:00:00Z")["examined"] == 0
    assert order(running, model="gpt-4o*")["changed"] == 2
    assert order(running)["changed"] == 1


def test_pricing_again_by_the_same_prices_changes_nothing(running: Running) -> None:
    answer = order(running)

    assert (answer["examined"], answer["changed"], answer["rows"]) == (4, 0, [])


def test_calls_that_come_later_are_priced_by_the_new_book(running: Running) -> None:
    put_prices(running.folder, "2031-01-01", gpt_4o="7")
    order(running, model="none")

    running.send(gpt())

    assert spent(running) == ("12.15", 1)
    assert running.ask("ledger")["prices"]["version"] == "2031-01-01"


def test_tables_that_are_rebuilt_have_the_same_figures(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(gpt(), gpt("gpt-never-9"))
        put_prices(tmp_path, "2031-01-01", gpt_4o="7", gpt_never_9="3")
        order(running, model="gpt-4o")
        running.send(gpt())
        put_prices(tmp_path, "2031-01-02", gpt_4o="8")
        order(running, model="none")
        running.send(gpt())
        before = spent(running)
        calls = running.ask("calls", **DAY)["rows"]
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    put_prices(tmp_path, "2031-01-03", gpt_4o="100")

    with running_collector(tmp_path) as running:
        running.settle()

        assert before == ("22", 1)
        assert spent(running) == before
        assert running.ask("calls", **DAY)["rows"] == calls


def test_a_call_of_several_units_is_the_sum_of_its_units(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        units = [otlp_unit(provider="openai", model=model, api="chat", usage=USAGE, estimated=model == "gpt-4o-mini")
                 for model in ("gpt-4o", "gpt-4o-mini", "gpt-never-9")]  # fmt: skip
        running.send(otlp_call(provider="openai", model="gpt-4o", units=units))
        put_prices(tmp_path, "2031-01-01", gpt_4o="7", gpt_4o_mini="9", gpt_never_9="3")

        order(running)

        totals = running.ask("totals", **DAY)
        assert (totals["spend_usd"], totals["estimated_usd"], totals["unpriced_units"]) == ("19", "9", 0)
        assert running.ask("calls", **DAY)["rows"][0]["cost_status"] == "estimated"


def test_a_wrong_book_leaves_the_last_good_one_in_force_and_is_told(running: Running) -> None:
    path = running.folder / "data" / "prices" / "book.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")

    assert order(running)["changed"] == 0
    prices = running.ask("ledger")["prices"]
    assert prices["version"] == load_book().version
    assert "is no price book" in prices["fault"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param({"start": "x", "end": DAY["end"]}, "start = 'x' is no ISO 8601 time", id="no-time"),
        pytest.param({"end": DAY["end"]}, "start is missing", id="no-start"),
        pytest.param({"start": DAY["end"], "end": DAY["start"]}, "is not before end", id="backwards"),
        pytest.param({**DAY, "modle": "x"}, "unknown key 'modle'; known: start", id="unknown-key"),
        pytest.param({**DAY, "model": 5}, "model = '5' is no name", id="no-name"),
        pytest.param({**DAY, "dry_run": "yes"}, "neither true nor false", id="no-truth"),
        pytest.param([], "no JSON object", id="no-object"),
    ],
)
def test_what_cannot_be_asked_is_told(running: Running, body: Any, told: str) -> None:
    status, answer = running.post(json.dumps(body).encode(), "/api/v1/reprice", content_type="application/json")

    assert status == 400
    assert told in json.loads(answer)["error"]["message"]


def test_a_page_of_another_site_cannot_ask_for_it(running: Running) -> None:
    body = json.dumps(DAY).encode()
    statuses = [
        running.post(body, "/api/v1/reprice", content_type="application/json", origin="https://evil.example")[0],
        running.post(body, "/api/v1/reprice", content_type="application/json", host="evil.example")[0],
        running.post(body, "/api/v1/reprice", content_type="text/plain")[0],
        running.post(b" " * 20_000, "/api/v1/reprice", content_type="application/json")[0],
    ]

    assert statuses == [403, 421, 415, 413]


def test_the_command_shows_the_difference_per_model(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    put_prices(running.folder, "2031-01-01", gpt_4o="7", gpt_never_9="3")

    with pytest.raises(SystemExit) as ended:
        main(["reprice", "--from", "2026-01-01", "--to", "2200-01-01", "--collector", running.url])

    assert ended.value.code == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert " ".join(told[0]) == "prices of 2031-01-01: 3 of 4 units changed, 1 of them had no known cost"
    assert told[2:] == [
        ["openai", "gpt-4o", "2", "$5.00", "$14.00", "+$9.00"],
        ["openai", "gpt-never-9", "1", "$0", "$3.00", "+$3.00"],
        ["together", "3", "$5.00", "$17.00", "+$12.00"],
    ]
    assert spent(running)[0] == format(Decimal("17.15"), "f")
