"""Reservations at a real collector: what is admitted, what a kill or a restart changes (nothing), who is told what."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, collector_process, kill, otlp_call, running_collector, until

HARD = """
[[budget]]
name = "hard"
limit_usd = 0.05
action = "block"
scope = { feature = "chat" }
window = "month"
"""
CENTS = {"input_tokens": 0, "output_tokens": 1000}  # 0.015 USD


def order(running: Running, path: str, body: Any, method: str = "POST") -> tuple[int, dict[str, Any]]:
    status, _, answer = running.request(
        method, f"/api/v1/{path}", json.dumps(body).encode(), content_type="application/json"
    )
    return status, json.loads(answer)


def name(number: int) -> str:
    return f"{number:032x}"


def reserve(running: Running, number: int, usd: str | None = "0.02", **values: Any) -> tuple[int, dict[str, Any]]:
    body = {"id": name(number), "dimensions": {"feature": "chat"}, "usd": usd, "tokens": 100, **values}
    return order(running, "reservations", body)


def settle(running: Running, number: int, usd: str | None, **values: Any) -> None:
    told = {"id": name(number), "usd": usd, "tokens": 10, **values}
    assert order(running, "reservations/settle", {"settlements": [told]})[0] == 200


def stand(running: Running, budget: str = "hard") -> tuple[str, str]:
    (row,) = [row for row in running.ask("budgets")["rows"] if row["name"] == budget]
    return row["spent"], row["reserved"]


def chat(number: int | None = None, **values: Any) -> Any:
    held = {} if number is None else {"tallystick__reservation__id": name(number)}
    return otlp_call(**{"usage": CENTS, "started_ns": time.time_ns(), "tallystick__feature": "chat", **held, **values})


def test_what_does_not_fit_is_refused_with_the_whole_sum_and_listed(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        assert [reserve(running, number)[0] for number in (1, 2)] == [200, 200]
        status, refused = reserve(running, 3)
        reserve(running, 3)
        reserve(running, 4, asks_again=True)
        running.settle()
        listed = running.ask("refusals", budget="hard")["rows"]
        (row,) = running.ask("budgets")["rows"]

    assert status == 409
    assert [refused[key] for key in ("budget", "reason", "limit", "spent", "reserved", "needed", "room")] == [
        "hard", "limit", "0.05", "0", "0.04", "0.02", "0.01",
    ]  # fmt: skip
    assert refused["resets_at"] == refused["window"]["end"]
    assert [(one["id"], one["needed"], one["dimensions"]) for one in listed] == [(name(3), "0.02", {"feature": "chat"})]
    assert (row["refused"], row["spent"], row["reserved"], row["left"]) == (1, "0", "0.04", "0.01")


def test_an_app_learns_the_budgets_that_enforce_and_when_they_change(tmp_path: Path) -> None:
    soft = '[[budget]]\nname = "soft"\nlimit_usd = 1\n'
    with running_collector(tmp_path, soft) as running:
        assert running.ask("guard")["budgets"] == []
        assert reserve(running, 1)[1]["budgets"] == []
        before = running.ask("guard")["version"]
        assert order(running, "budgets", {"name": "hard", "limit_calls": 1, "action": "block", "wait": 2.5})[0] == 200
        (told,) = running.ask("guard")["budgets"]
        status, admitted = reserve(running, 2)
        assert reserve(running, 3)[0] == 409
        assert order(running, "budgets/hard", {"limit_calls": 2, "action": "block"}, "PUT")[0] == 200
        assert reserve(running, 3)[0] == 200

    assert (told["name"], told["unit"], told["limit"], told["wait_s"]) == ("hard", "calls", "1", 2.5)
    assert (status, admitted["budgets"], admitted["room"]) == (200, ["hard"], {"calls": "0"})
    assert admitted["version"] != before


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_neither_a_stop_nor_a_kill_changes_what_is_spent_and_held(tmp_path: Path, killed: bool) -> None:
    with collector_process(tmp_path, HARD) as running:
        assert order(running, "budgets", {"name": "api", "limit_tokens": 1000, "action": "block"})[0] == 200
        for number in (1, 2):
            assert reserve(running, number)[0] == 200
        settle(running, 1, "0.001")
        running.send(chat())
        before = [stand(running), stand(running, "api")]
        if killed:
            kill(running)
        else:
            assert running.process is not None
            running.process.terminate()
            running.process.wait(10)
    with collector_process(tmp_path, HARD) as running:
        after = [stand(running), stand(running, "api")]
        settle(running, 1, "0.03")
        assert reserve(running, 2)[0] == 200, "asked again after the answer was lost"
        assert stand(running) == ("0.016", "0.02")

    assert before == after == [("0.016", "0.02"), ("1010", "100")]


def test_the_store_may_be_lost_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        reserve(running, 1)
        settle(running, 1, "0.014")
        running.send(chat(1), chat())
        assert stand(running) == ("0.03", "0")
    for path in (tmp_path / "data").glob("tallystick.duckdb*"):
        path.unlink()
    with running_collector(tmp_path, HARD) as running:
        running.settle()
        until(lambda: stand(running) == ("0.03", "0"), "it is counted otherwise")


def test_a_restart_reads_the_last_whole_state_and_not_the_segments_before(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD, segment_bytes_max=4096) as running:
        reserve(running, 1)
        for number in range(10, 60):
            reserve(running, number, "0.0001")
            settle(running, number, "0.0001")
        journal = tmp_path / "data" / "journal"
        until(lambda: len(list(journal.glob("*.tly"))) > 4, "the journal did not roll")
        time.sleep(0.5)
        before = stand(running)
    for path in sorted(journal.glob("*.tly"))[:-2]:
        path.unlink()
    with running_collector(tmp_path, HARD, segment_bytes_max=4096) as running:
        assert stand(running) == before == ("0.005", "0.02")


def test_asking_and_settling_writes_nothing_into_the_tables_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD, segment_bytes_max=8192) as running:
        running.send(chat())
        written = (tmp_path / "data" / "tallystick.duckdb.wal").stat().st_size
        for number in range(5):
            reserve(running, number, "0.001")
            settle(running, number, "0.001")
            running.settle()
        assert (tmp_path / "data" / "tallystick.duckdb.wal").stat().st_size == written
        for number in range(5, 30):  # on into other segments
            reserve(running, number, "0.0001")
            settle(running, number, "0.0001")
        running.settle()
        before = stand(running), running.ask("ledger")["stored_spans"]
        assert running.ask("ledger")["journal"]["segments"] > 1
    with running_collector(tmp_path, HARD, segment_bytes_max=8192) as running:
        running.settle()
        after = stand(running), running.ask("ledger")["stored_spans"]
        running.send(chat())
        last = stand(running)

    assert before == after == (("0.0225", "0"), 1)
    assert last == ("0.0375", "0")


def test_a_lease_that_runs_out_is_charged_until_the_span_tells_the_cost(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        reserve(running, 1, lease_s=1)
        reserve(running, 2, lease_s=1)
        until(lambda: order(running, "reservations/renew", {"ids": [name(2)], "lease_s": 60})[0] == 200, "no renewal")
        until(lambda: stand(running) == ("0.02", "0.02"), "the lease did not run out")
        running.send(chat(1))
        assert stand(running) == ("0.015", "0.02")
        status, told = order(running, "reservations/renew", {"ids": [name(1), name(2)]})

    assert (status, told["renewed"], told["unknown"]) == (200, [name(2)], [name(1)])


def test_a_call_waits_for_room_and_goes_when_another_settles(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        reserve(running, 1, "0.04")
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(reserve(running, 2, "0.03", wait_s=20)[0]))
        begun = time.monotonic()
        waiting.start()
        time.sleep(0.2)
        assert answers == []
        settle(running, 1, "0.01")
        waiting.join(10)
        waited_s = time.monotonic() - begun
        hopeless = time.monotonic()
        assert reserve(running, 3, "0.06", wait_s=20)[0] == 409
        assert time.monotonic() - hopeless < 5, "what can never fit is refused at once"

    assert answers == [200]
    assert waited_s < 10


def test_many_at_once_never_hold_more_than_the_limit(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda number=number: answers.append(reserve(running, number, "0.003")[0]))
            for number in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = stand(running)

    assert (answers.count(200), answers.count(409)) == (16, 24)
    assert held == ("0", "0.048")


def test_a_budget_made_in_the_middle_of_its_window_knows_what_was_spent_and_what_is_in_flight(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        running.send(chat())
        reserve(running, 1)
        status, _ = order(
            running, "budgets", {"name": "late", "limit_usd": "1", "action": "block", "window": "rolling 24h"}
        )
        assert status == 200
        assert stand(running, "late") == ("0.015", "0.02")
        settle(running, 1, "0.01")
        assert stand(running, "late") == ("0.025", "0")
        assert order(running, "budgets/late", {}, "DELETE")[1]["deleted"] == "late"
        running.settle()
        changes = [(row["budget"], row["definition"] is None) for row in running.ask("changes")["rows"]]

    assert changes == [("late", True), ("late", False), ("hard", False)]


def test_a_budget_of_the_file_is_read_only_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        answers = [
            order(running, "budgets", {"name": "hard", "limit_usd": 1}),
            order(running, "budgets/hard", {"limit_usd": 1}, "PUT"),
            order(running, "budgets/hard", {}, "DELETE"),
            order(running, "budgets/none", {"limit_usd": 1}, "PUT"),
            order(running, "budgets", {"name": "new", "limit_usd": 1, "window": "year"}),
            order(running, "budgets", {"name": "new", "limit": 1}),
        ]
        assert running.request("POST", "/api/v1/budgets", b"{}", content_type="text/plain")[0] == 415

    assert [status for status, _ in answers] == [409, 409, 409, 404, 400, 400]
    assert "tallystick.toml" in answers[1][1]["error"]["message"]
    assert "window 'year' cannot work; allowed: hour" in answers[4][1]["error"]["message"]
    assert "unknown key 'limit'; known: name" in answers[5][1]["error"]["message"]


def test_a_budget_taken_out_of_the_file_is_gone_and_one_of_the_api_stays(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        order(running, "budgets", {"name": "api", "limit_usd": 1})
    with running_collector(tmp_path) as running:
        rows = [(row["name"], row["source"]) for row in running.ask("budgets")["rows"]]

    assert rows == [("api", "api")]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("reservations", {"id": "x"}, "id is 'x'; 8 to 64 hex digits"),
        ("reservations", {"id": "ab" * 16, "usd": "NaN"}, "usd is 'NaN'; an amount of 0 or more"),
        ("reservations", {"id": "ab" * 16, "usd": "-1"}, "usd is '-1'"),
        ("reservations", {"id": "ab" * 16, "usd": 0.1}, "usd is '0.1'; an amount of 0 or more as a text"),
        ("reservations", {"id": "ab" * 16, "tokens": True}, "tokens is 'True'"),
        ("reservations", {"id": "ab" * 16, "lease_s": 0}, "lease_s is '0'; seconds from 1 to 3600"),
        (
            "reservations",
            {"id": "ab" * 16, "dimensions": {"colour": "red"}},
            "'colour' is no dimension; known: service",
        ),
        ("reservations", {"id": "ab" * 16, "colour": 1}, "unknown key 'colour'; known: id"),
        ("reservations", [], "the body is no JSON object"),
        ("reservations/settle", {"settlements": [{"id": "ab" * 16, "usd": "1e99"}]}, "usd is '1e99'"),
        ("reservations/settle", {"settlements": 5}, "settlements is a list"),
        ("reservations/renew", {"ids": ["?"]}, "ids is a list"),
    ],
)
def test_what_cannot_be_understood_is_told(asked: Running, path: str, body: Any, told: str) -> None:
    status, answer = order(asked, path, body)

    assert status == 400
    assert told in answer["error"]["message"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("asked"), HARD) as running:
        yield running


def test_a_full_disk_admits_nothing_and_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector(tmp_path, HARD) as running:
        running.settle()
        with no_space(monkeypatch):
            status, answer = reserve(running, 1)
        assert (status, answer["error"]["code"]) == (503, "journal")
        assert stand(running) == ("0", "0")
        assert reserve(running, 1)[0] == 200


@contextmanager
def no_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tallystick.collector.journal.write_all", full)
        yield


def test_a_connection_is_kept_for_the_next_call(tmp_path: Path) -> None:
    with running_collector(tmp_path, HARD) as running:
        connection = HTTPConnection("127.0.0.1", int(running.url.rpartition(":")[2]), timeout=30)
        for number in (1, 2):
            body = json.dumps({"id": name(number), "dimensions": {}, "usd": "0.01", "tokens": 1})
            connection.request("POST", "/api/v1/reservations", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert (response.status, response.will_close) == (200, False)
            response.read()
        connection.close()
