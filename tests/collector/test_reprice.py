"""Prices change after the fact: figures follow when they are asked to, the old ones are kept, a rebuild agrees."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fakes.collector import Running, collector_process, kill, merged, otlp_call, otlp_unit, running_collector, until
from tallystick.cli import main
from tallystick.collector import priced, reprice, repricer
from tallystick.collector.child import Child
from tallystick.collector.priced import HERE_MAX, price_pages
from tallystick.errors import StoreError, TallystickError
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


# --- beside what arrives ----------------------------------------------------------------------------------------------


class Gate:
    """Lets a repricing have its pages one at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = threading.Semaphore(0)
        monkeypatch.setattr(reprice, "PAGE", 1)
        monkeypatch.setattr(repricer, "price_pages", self.pages)

    def pages(self, book: str, pages: Any) -> Any:
        for each in price_pages(book, pages):
            self.passed.acquire()
            yield each

    def open(self) -> None:
        self.passed.release(1000)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    held = Gate(monkeypatch)
    yield held
    held.open()


def at_minutes(*minutes: int) -> list[Any]:
    return [
        otlp_call(provider="openai", model="gpt-4o", units=[
            otlp_unit(provider="openai", model="gpt-4o", api="chat", usage=USAGE,
                      at=f"2026-11-21T12:{minute:02d}:00.000000Z")])
        for minute in minutes
    ]  # fmt: skip


def ordered(running: Running) -> Future[dict[str, Any]]:
    """Ask for a repricing and return what will be the answer."""
    answer: Future[dict[str, Any]] = Future()
    threading.Thread(target=lambda: answer.set_result(order(running)), daemon=True).start()
    return answer


def ask_in_vain(running: Running) -> None:
    """Ask for a repricing of a collector that will not live to answer."""

    def ask() -> None:
        with suppress(TallystickError):
            order(running)

    threading.Thread(target=ask, daemon=True).start()


def test_what_arrives_is_stored_while_older_calls_are_priced_again(tmp_path: Path, gate: Gate) -> None:
    with running_collector(tmp_path) as running:
        running.send(*at_minutes(1, 2, 3))
        put_prices(tmp_path, "2031-01-01", gpt_4o="7")

        answer = ordered(running)
        gate.passed.release()
        until(lambda: spent(running) == ("12", 0), "the first page was not written")  # 7 + 2.5 + 2.5
        running.send(*at_minutes(9))

        assert spent(running) == ("19", 0)
        assert not answer.done()
        gate.open()
        assert answer.result(30)["changed"] == 3
        assert spent(running) == ("28", 0)


def test_other_prices_wait_until_a_repricing_is_done(tmp_path: Path, gate: Gate) -> None:
    with running_collector(tmp_path) as running:
        running.send(*at_minutes(1, 2))
        put_prices(tmp_path, "2031-01-01", gpt_4o="7")
        first = ordered(running)
        gate.passed.release()
        until(lambda: spent(running) == ("9.5", 0), "the first page was not written")
        put_prices(tmp_path, "2031-01-02", gpt_4o="100")
        second = ordered(running)
        time.sleep(0.3)

        assert not first.done()
        gate.open()

        assert (first.result(30)["after_usd"], second.result(30)["after_usd"]) == ("14", "200")
        assert spent(running) == ("200", 0)


def test_a_repricing_that_was_stopped_in_the_middle_is_gone_on_with(tmp_path: Path, gate: Gate) -> None:
    with running_collector(tmp_path) as running:
        running.send(*at_minutes(1, 2, 3))
        put_prices(tmp_path, "2031-01-01", gpt_4o="7")
        ask_in_vain(running)
        gate.passed.release()
        until(lambda: spent(running) == ("12", 0), "the first page was not written")
        threading.Timer(0.3, gate.open).start()

    with running_collector(tmp_path) as running:
        until(lambda: spent(running) == ("21", 0), "the rest was not priced again")

        revisions = [unit["revisions"] for call in running.ask("calls", **DAY)["rows"]
                     for unit in running.ask(f"calls/{call['id']}")["units"]]  # fmt: skip
        assert [len(each) for each in revisions] == [1, 1, 1]


def units_table(count: int) -> pa.Table:
    """Return a page of units that cost nothing yet."""
    columns = {
        "trace_id": "t", "call_id": [str(n) for n in range(count)], "position": 0, "provider": "openai",
        "model": "gpt-4o", "api": "chat", "answered_at": datetime(2026, 11, 21),  # noqa: DTZ001 -- as the store's
        "usage": [json.dumps({"prompt_tokens": n, "completion_tokens": 1}) for n in range(count)], "params": "{}",
        "estimated": False, "cost_usd": None, "cost_status": "unknown", "price_version": None,
    }  # fmt: skip
    return pa.table({name: value if isinstance(value, list) else [value] * count for name, value in columns.items()})


def test_many_units_are_priced_by_processes_of_their_own_with_the_same_result() -> None:
    book = reprice.text_of(load_book())
    page = units_table(HERE_MAX + 1)

    here = list(price_pages(book, [page.slice(0, HERE_MAX), page.slice(HERE_MAX)]))
    there = list(price_pages(book, [page, page]))

    assert [each.examined for each in there] == [HERE_MAX + 1] * 2
    assert there[0].changes == pa.concat_tables([each.changes for each in here])
    assert there[0].changes.equals(there[1].changes)
    assert there[0].forms == here[0].forms
    assert there[0].changes["cost_usd"][1000].as_py() == Decimal("0.00251")  # 1000 x 2.5 + 1 x 10 USD per million


def test_a_process_that_is_killed_is_a_fault_that_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    page = units_table(HERE_MAX + 1)
    started: list[Child] = []
    monkeypatch.setattr(priced, "Child", lambda module: started.append(Child(module)) or started[-1])
    pages = iter([page])

    def killed() -> Iterator[pa.Table]:
        yield next(pages)
        started[0].process.kill()

    with pytest.raises(StoreError, match="a process that prices units again has ended"):
        list(price_pages(reprice.text_of(load_book()), killed()))
    assert started[0].process.poll() is not None


HARD = """
[[budget]]
name = "hard"
limit_usd = 100
action = "block"
window = "month"
"""


def test_what_is_spent_of_a_hard_budget_follows_the_prices_once(tmp_path: Path) -> None:
    """One call held its part and settled it, one never asked; a restart and a rebuild count neither again."""

    def stands_at(running: Running, usd: str) -> None:
        until(lambda: running.ask("budgets")["rows"][0]["spent"] == usd, f"{usd} was never spent", 15)

    def post(running: Running, path: str, body: Any) -> None:
        assert running.post(json.dumps(body).encode(), f"/api/v1/{path}", content_type="application/json")[0] == 200

    held = "a" * 32
    unit = otlp_unit(provider="openai", model="gpt-4o", api="chat", usage=USAGE)
    with running_collector(tmp_path, HARD) as running:
        at = {"started_ns": time.time_ns()}
        post(running, "reservations", {"id": held, "dimensions": {}, "usd": "9", "tokens": 9})
        post(running, "reservations/settle", {"settlements": [{"id": held, "usd": "2.5", "tokens": 9}]})
        running.send(
            otlp_call(provider="openai", model="gpt-4o", units=[unit], tallystick__reservation__id=held, **at),
            otlp_call(provider="openai", model="gpt-4o", units=[{**unit, "id": "other"}], **at),
        )
        stands_at(running, "5")
        put_prices(tmp_path, "2031-01-01", gpt_4o="7")

        order(running)

        stands_at(running, "14")
    with running_collector(tmp_path, HARD) as running:
        stands_at(running, "14")
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    with running_collector(tmp_path, HARD) as running:
        running.settle()
        stands_at(running, "14")
        assert spent(running)[0] == "14"


SMALL_PAGES = """
from tallystick.cli import main
from tallystick.collector import reprice

reprice.PAGE = 1
main()
"""


def test_a_collector_that_is_killed_in_the_middle_ends_with_the_same_figures(tmp_path: Path) -> None:
    """Killed after the first of 40 pages; calls arrive meanwhile; then the tables are rebuilt."""
    started_ns = time.time_ns() - 48 * 3600 * 10**9
    minutes = [
        otlp_call(provider="openai", model="gpt-4o", started_ns=started_ns, units=[
            otlp_unit(provider="openai", model="gpt-4o", api="chat", usage=USAGE,
                      at=f"2026-11-21T{number // 60:02d}:{number % 60:02d}:00.000000Z")])
        for number in range(40)
    ]  # fmt: skip
    with collector_process(tmp_path, program=("-c", SMALL_PAGES)) as running:
        running.send(merged(*minutes))
        assert spent(running)[0] == "100"
        put_prices(tmp_path, "2031-01-01", gpt_4o="7")
        ask_in_vain(running)
        until(lambda: Decimal(spent(running)[0]) > 100, "the first page was not written")
        kill(running)

    with collector_process(tmp_path, program=("-c", SMALL_PAGES)) as running:
        assert Decimal(spent(running)[0]) < 280, "it was done before it was killed"
        running.send(gpt(), gpt())
        until(lambda: spent(running)[0] == "294", "the rest was not priced again")
        found = figures(running)
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    with collector_process(tmp_path) as running:
        running.settle()
        until(lambda: spent(running)[0] == "294", "the rebuilt tables have other figures")
        assert figures(running) == found


def figures(running: Running) -> Any:
    """Return what calls cost by model; from rows alone it is the same as from the sums of hours."""
    summed, rows = running.ask("groups", by="model", **DAY), running.ask("groups", by="model", session="", **DAY)
    assert summed == rows
    return rows
