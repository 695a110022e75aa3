"""What was acknowledged is there after every kind of end, once; and the folder has one owner."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import (
    Running,
    collector_process,
    configure,
    kill,
    merged,
    otlp_call,
    otlp_request,
    otlp_span,
    otlp_unit,
    running_collector,
    start_process,
    until,
    wait_for_address,
)
from tallystick.model.segment import Kind, Record, encode_record, lock, read_records

USAGE = {"input_tokens": 1200, "output_tokens": 350}
STARTED_NS = 1_790_000_000 * 10**9


def figures(running: Running) -> dict[str, Any]:
    """Return what must not change: totals over everything, and what came of the spans."""
    running.settle()
    totals = running.ask("totals", start="2020-01-01", end="2100-01-01")
    ledger = running.ask("ledger")
    return {
        **totals,
        **{key: ledger[key] for key in ("received_spans", "stored_spans", "duplicate_spans", "rejected_spans")},
    }


def test_a_killed_collector_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """Four senders, six kills at random moments; what was not acknowledged is sent again, as SDKs do."""
    acknowledged: set[str] = set()
    random_ids = random.Random(7)
    for round_number in range(6):
        with collector_process(tmp_path) as running, ThreadPoolExecutor(4) as pool:
            bodies = [(f"{random_ids.getrandbits(64):016x}", n) for n in range(400)]

            def send(one: tuple[str, int], running: Running = running) -> str | None:
                body = otlp_call(id=one[0], usage=USAGE).SerializeToString()
                try:
                    return one[0] if running.post(body)[0] == 200 else None
                except (OSError, HTTPException):
                    return None

            killer = threading.Timer(0.15 + 0.1 * round_number, kill, [running])
            killer.start()
            acknowledged |= {call_id for call_id in pool.map(send, bodies) if call_id}
            killer.join()
    assert len(acknowledged) > 50, "the collector was killed before it did anything"

    with collector_process(tmp_path) as running:
        running.settle()
        stored: list[str] = []
        cursor = None
        while True:
            page = running.ask("calls", limit=1000, cursor=cursor)
            stored += [row["id"] for row in page["rows"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert acknowledged <= set(stored)
        assert len(stored) == len(set(stored))
        ledger = running.ask("ledger")
        assert ledger["received_spans"] == ledger["stored_spans"] + ledger["duplicate_spans"]
        assert Decimal(running.ask("totals")["spend_usd"]) == len(stored) * Decimal("0.00885")


def test_a_batch_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    one, two = otlp_call(usage=USAGE, attempts=[{}, {}]), otlp_call(usage=USAGE)
    with running_collector(tmp_path) as running:
        running.send(merged(one, two), merged(two, one))  # another body, the same spans
        running.send(one, merged(one, one), two)
        found = figures(running)

    assert (found["calls"], found["units"], found["spend_usd"]) == (2, 2, "0.0177")
    assert (found["received_spans"], found["stored_spans"], found["duplicate_spans"]) == (18, 4, 14)


def test_a_response_that_two_calls_tell_of_is_billed_once(tmp_path: Path) -> None:
    """A background response is retrieved again and again; the provider bills it once."""
    unit = otlp_unit(id="resp_0001_background", provider="openai", model="gpt-4o", api="responses", usage=USAGE)
    unknown = {**unit, "id": "resp_0002_background", "usage": None}
    known = {**unit, "id": "resp_0002_background"}
    with running_collector(tmp_path) as running:
        running.send(merged(otlp_call(units=[unit]), otlp_call(units=[unit])), otlp_call(units=[unit]))
        once = running.ask("totals")
        running.send(otlp_call(id="aa" * 8, units=[unknown]), otlp_call(id="bb" * 8, units=[known]))
        twice = running.ask("totals")
        replaced = running.ask("calls/aaaa")["call"]
        duplicates = running.ask("ledger")["duplicate_units"]

    assert (once["calls"], once["units"], once["unpriced_units"]) == (3, 1, 0)
    assert twice["spend_usd"] == str(float(once["spend_usd"]) * 2)
    assert (twice["units"], twice["unpriced_units"]) == (2, 0), "what is known replaces what was not"
    assert (replaced["units"], replaced["cost_usd"]) == (0, "0")
    assert duplicates == 3


@pytest.mark.parametrize(
    ("told", "largest"),
    [
        pytest.param([{"input_tokens": n, "output_tokens": 1} for n in (10, 30, 20)], "0.000105", id="tokens"),
        pytest.param([{"active_seconds": n} for n in (900, 2700.0, 1800)], "0.06", id="seconds"),
    ],
)
def test_a_sum_that_grows_is_counted_once_at_its_largest(told: list[Any], largest: str, tmp_path: Path) -> None:
    """A dream tells its tokens so far, a session its time so far; a telling may come late."""
    units = [otlp_unit(id="drm_0001_of_parcels", usage=usage) for usage in told]
    with running_collector(tmp_path) as running:
        for unit in units:
            running.send(otlp_call(units=[unit]))
        apart = running.ask("totals")
        running.send(*[otlp_call(units=[{**unit, "id": "drm_0002_of_parcels"}]) for unit in units])
        together = running.ask("totals")

    assert (apart["units"], apart["spend_usd"]) == (1, largest)
    assert (together["units"], Decimal(together["spend_usd"])) == (2, 2 * Decimal(largest))


def test_figures_are_the_same_after_a_restart_and_after_a_rebuild(tmp_path: Path) -> None:
    same = otlp_call(usage=USAGE)
    with running_collector(tmp_path, segment_bytes_max=4096) as running:
        for n in range(12):
            running.send(otlp_call(usage=USAGE, tags={"n": str(n)}, attempts=[{}]), same)
        before = figures(running)
        assert running.ask("ledger")["journal"]["segments"] > 2
    with running_collector(tmp_path) as running:
        running.send(same)
        assert running.ask("ledger")["duplicate_spans"] == 12
        after_restart = figures(running)
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    with running_collector(tmp_path) as running:
        after_rebuild = figures(running)

    assert before["calls"] == 13
    assert after_restart == {**before, "received_spans": before["received_spans"] + 1, "duplicate_spans": 12}
    assert after_rebuild == after_restart


@pytest.mark.parametrize("damage", ["garbage", "empty", "wal", "missing", "orphaned-wal"])
def test_a_database_that_does_not_open_is_set_aside_and_rebuilt(tmp_path: Path, damage: str) -> None:
    with collector_process(tmp_path) as running:
        running.send(*(otlp_call(usage=USAGE) for _ in range(5)))
        before = figures(running)
        kill(running)
    database = tmp_path / "data" / "tallystick.duckdb"
    wal = database.with_name(database.name + ".wal")
    if damage in {"missing", "orphaned-wal"}:
        database.unlink()
        if damage == "missing":
            wal.unlink()
    elif damage == "wal":
        data = bytearray(wal.read_bytes())
        data[len(data) // 2] ^= 0xFF
        wal.write_bytes(data)
    else:
        database.write_bytes(b"" if damage == "empty" else b"\x5a" * 20_000)
    with collector_process(tmp_path) as running:
        after, said = figures(running), running.said

    assert after == before
    assert said.count("\n") == 1
    if damage == "garbage":
        assert [path.name for path in (tmp_path / "data" / "aside").glob("*tallystick.duckdb")]


def test_a_damaged_stretch_of_the_journal_is_stepped_over_and_counted(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        for _ in range(3):
            running.send(otlp_call(usage=USAGE))
    (segment,) = (tmp_path / "data" / "journal").glob("*.tly")
    data = bytearray(segment.read_bytes())
    second = [record for record in read_records(bytes(data)) if isinstance(record, Record) and record.kind == 1][1]
    data[(second.start + second.end) // 2] ^= 0xFF
    segment.write_bytes(data)
    for part in (tmp_path / "data").glob("tallystick.duckdb*"):
        part.unlink()
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        found, ledger = figures(running), running.ask("ledger")

    assert found["calls"] == 3
    assert 0 < ledger["journal"]["damaged_bytes"] < len(data) / 2


def test_a_half_written_record_is_cut_off_and_kept(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
    (segment,) = (tmp_path / "data" / "journal").glob("*.tly")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[:40])  # of the first record more than its header, and not all
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        found, ledger = figures(running), running.ask("ledger")

    assert (found["calls"], ledger["journal"]["damaged_bytes"]) == (2, 0)
    (torn,) = (tmp_path / "data" / "journal").glob("*.torn")
    assert torn.read_bytes() == whole[:40]


def test_a_second_collector_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with collector_process(tmp_path) as running:
        second = start_process(tmp_path / "tallystick.toml")
        output = second.communicate(timeout=30)[0]
        assert running.ask("totals")["calls"] == 0

    assert second.returncode == 1
    assert output.count("\n") == 1
    address = running.url.removeprefix("http://")
    assert f"process {running.pid} at {address} holds it" in output


def test_a_taken_port_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_process(configure(tmp_path, port=port))
        output = process.communicate(timeout=30)[0]

    assert process.returncode == 1
    assert output == (
        f"tallystick: cannot listen at 127.0.0.1:{port}: the port is taken. Is another tallystick running? "
        "Stop it, or choose another port with --port\n"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, ending: signal.Signals) -> None:
    process = start_process(configure(tmp_path))
    address = wait_for_address(process)[0].removeprefix("http://")
    with socket.create_connection((address.split(":")[0], int(address.split(":")[1]))):  # idle; must not hold it up
        process.send_signal(ending)
        output = process.communicate(timeout=20)[0]

    assert (process.returncode, output) == (0, "")
    assert (tmp_path / "data" / "collector.lock").read_text() == ""


def test_everything_in_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with collector_process(tmp_path) as running:
            running.send(otlp_call(usage=USAGE))
            paths = [running.data, *running.data.rglob("*")]
            modes = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in paths}
    finally:
        os.umask(old)

    assert len(modes) >= 6
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def orphan(spool: Path, *records: bytes) -> Path:
    spool.mkdir(mode=0o700, exist_ok=True)
    path = spool / f"{time.time_ns():020d}-1-abcd.tly"
    path.with_suffix(".new").write_bytes(b"".join(records))
    return path.with_suffix(".new").rename(path)


def record_of(**call: Any) -> bytes:
    return encode_record(Kind.TRACES, otlp_call(usage=USAGE, **call).SerializeToString(), time.time_ns())


def test_segments_of_dead_apps_are_adopted_once(tmp_path: Path) -> None:
    twice = record_of()
    with running_collector(tmp_path) as running:
        first = orphan(running.spool, record_of(), record_of(), twice)
        torn = orphan(running.spool, record_of(), record_of()[:200])
        flipped = orphan(running.spool, record_of(), b"garbage" * 10, twice)
        until(lambda: not list(running.spool.glob("*.tly")), "the segments were not adopted")
        found, ledger = figures(running), running.ask("ledger")

    assert found["calls"] == 5
    assert found["duplicate_spans"] == 1
    assert ledger["journal"]["damaged_bytes"] == 270
    assert not first.exists()
    assert torn.with_suffix(".damaged").exists()
    assert flipped.with_suffix(".damaged").exists()


def test_segments_of_living_apps_are_left_alone(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        path = orphan(running.spool, record_of())
        with path.open("rb") as held:
            assert lock(held.fileno())
            other = orphan(running.spool, record_of())
            until(lambda: not other.exists(), "the other segment was not adopted")
            assert path.exists()
            running.settle()
            assert running.ask("totals")["calls"] == 1
        until(lambda: not path.exists(), "it was not adopted when its owner was gone")


def test_records_that_an_app_dropped_are_on_the_ledger(tmp_path: Path) -> None:
    span = otlp_span("ab" * 8, "cd" * 16, None, "tallystick.dropped", 10**18, 0, {"tallystick.dropped.records": 7})
    told = otlp_request([span])
    with running_collector(tmp_path) as running:
        running.send(told, told)
        assert running.ask("ledger")["dropped_records"] == 7


def test_calls_that_have_finished_and_are_not_here_are_told(tmp_path: Path) -> None:
    def apps() -> list[tuple[int, int, int]]:
        names = ("finished_calls", "spooled_calls", "unaccounted_calls")
        return [tuple(app[name] for name in names) for app in running.ask("ledger")["apps"]]

    three = otlp_call(usage=USAGE, tallystick__finished__calls=3)
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE), three, three)
        assert apps() == [(4, 2, 2)], "what comes again says nothing new"
        assert "4 of its calls have finished; 2 are here" in str(running.ask("doctor")["checks"])
        running.send(*(otlp_call(usage=USAGE, tallystick__finished__calls=0) for _ in range(2)))
        assert apps() == [(4, 4, 0)], "they ended at the same time and came later"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device to write to")
def test_a_full_disk_is_answered_503_and_mends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    is_full = threading.Event()

    def write(fd: int, data: bytes) -> int:
        # What a full disk does: it takes a part of the record, then nothing.
        if is_full.is_set() and "journal" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            if len(data) > 100:
                return real_write(fd, data[:100])
            with Path("/dev/full").open("wb", buffering=0) as full:
                return real_write(full.fileno(), data)
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        size = sum(path.stat().st_size for path in (running.data / "journal").iterdir())
        is_full.set()
        status, headers, _ = running.request(
            "POST", "/v1/traces", otlp_call(usage=USAGE).SerializeToString(), content_type="application/x-protobuf"
        )
        health, _, reason = running.request("GET", "/healthz")
        assert sum(path.stat().st_size for path in (running.data / "journal").iterdir()) == size
        is_full.clear()
        running.send(otlp_call(usage=USAGE))
        healthy = running.request("GET", "/healthz")[0]
        calls = running.ask("totals")["calls"]

    assert (status, headers["retry-after"]) == (503, "2")
    assert (health, b"No space left on device" in reason) == (503, True)
    assert (healthy, calls) == (200, 2)


def test_a_real_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A file size limit of the kernel's fails writes of journal and database alike, as a full disk does."""
    config = configure(tmp_path)
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' XFSZ; ulimit -f 300; exec {start_command(config)}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    running = Running(tmp_path, wait_for_address(process)[0], process.pid)
    acknowledged, refused = 0, 0
    try:
        for _ in range(600):
            status, _ = running.post(otlp_call(usage=USAGE).SerializeToString())
            acknowledged += status == 200
            refused += status == 503
    finally:
        process.kill()
        process.communicate()
    assert refused > 0
    assert acknowledged + refused == 600

    with collector_process(tmp_path) as running:
        assert figures(running)["calls"] == acknowledged


def test_started_on_a_full_disk_it_answers_what_is_stored_and_takes_more_when_there_is_room(tmp_path: Path) -> None:
    """No file can grow at all, until the limit of the process is lifted from outside."""
    with collector_process(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        kill(running)
    segment = tmp_path / "data" / "journal" / "00000001.tly"
    whole = segment.stat().st_size
    with segment.open("ab") as file:  # what a write on a full disk may leave
        file.write(encode_record(Kind.TRACES, b"half of it", 1)[:-5])
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' XFSZ; ulimit -S -f 0; exec {start_command(tmp_path / 'tallystick.toml')}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        url, said = wait_for_address(process)
        running = Running(tmp_path, url, process.pid, said, process)
        first = running.ask("totals")["calls"]
        status, headers, _ = running.request(
            "POST", "/v1/traces", otlp_call(usage=USAGE).SerializeToString(), content_type="application/x-protobuf"
        )
        health, _, reason = running.request("GET", "/healthz")
        kept = segment.stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        running.send(otlp_call(usage=USAGE))
        until(lambda: running.request("GET", "/healthz")[0] == 200, "it did not recover")
        calls = running.ask("totals")["calls"]
    finally:
        process.kill()
        process.communicate()

    assert (first, kept) == (1, whole)
    assert (status, headers["retry-after"]) == (503, "2")
    assert (health, b"cannot be written" in reason) == (503, True)
    assert calls == 2
    assert "rebuilt" not in said


def start_command(config: Path) -> str:
    return f"{sys.executable} -m tallystick collect --config {config} --data {config.parent / 'data'}"


def test_copies_that_say_other_things_are_counted_and_the_first_one_stays(tmp_path: Path) -> None:
    first = otlp_call(
        id="ab" * 8, trace_id="cd" * 16, usage=USAGE, attempts=[{}], started_ns=STARTED_NS, tags={"n": "1"}
    )
    dearer, renamed = merged(first), merged(first)
    units = otlp_unit(id="msg_other_0123456789", usage={**USAGE, "output_tokens": 9000})
    spans = dearer.resource_spans[0].scope_spans[0].spans
    next(a for a in spans[1].attributes if a.key == "tallystick.units").value.string_value = json.dumps([units])
    spans = renamed.resource_spans[0].scope_spans[0].spans
    spans[0].end_time_unix_nano += 10**9
    plain = otlp_span("12" * 8, "34" * 16, None, "GET /", STARTED_NS, 5, {"http.route": "/"})
    other = otlp_span("12" * 8, "34" * 16, None, "GET /", STARTED_NS, 5, {"http.route": "/other"})
    with running_collector(tmp_path) as running:
        running.send(first)
        running.send(first, dearer, renamed)
        running.send(merged(otlp_request([plain, plain]), otlp_request([other])))
        found, ledger = figures(running), running.ask("ledger")
        exposed = running.request("GET", "/metrics")[2].decode()

    assert (found["calls"], found["spend_usd"]) == (1, "0.00885")
    assert (found["duplicate_spans"], ledger["conflicting_spans"], ledger["unaccounted_spans"]) == (8, 3, 0)
    assert "tallystick_spans_conflicting_total 3\n" in exposed


@pytest.mark.parametrize("harm", ["none", "another boot", "one from before"])
def test_what_was_stored_is_known_after_a_kill_without_reading_it_again_unless_it_must(
    tmp_path: Path, harm: str
) -> None:
    call = otlp_call(usage=USAGE, attempts=[{}])
    state = tmp_path / "data" / "seen" / "state.json"
    with collector_process(tmp_path, worker=False) as running:
        running.send(call)
        kill(running)
    told = json.loads(state.read_text())
    if harm == "another boot":
        state.write_text(json.dumps({**told, "boot": "another"}))
    elif harm == "one from before":
        state.write_text(json.dumps({**told, "upto": [1, 0]}))
    with running_collector(tmp_path) as running:
        running.send(call)
        ledger = running.ask("ledger")

    assert (ledger["stored_spans"], ledger["duplicate_spans"], ledger["unaccounted_spans"]) == (2, 2, 0)
    assert (json.loads(state.read_text())["token"] == told["token"]) == (harm == "none")
    assert json.loads(state.read_text())["clean"]
