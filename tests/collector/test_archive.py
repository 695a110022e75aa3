"""What is old leaves the database for the archive, in the end that too; no figure changes but the ledger's."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import (
    Running,
    collector_process,
    configure,
    kill,
    otlp_call,
    running_collector,
    until,
)
from tallystick.collector.journal import Journal, segments_in
from tallystick.collector.settings import load
from tallystick.collector.upkeep import backup, rebuild, restore
from tallystick.model.segment import Kind, encode_record

USAGE = {"input_tokens": 1200, "output_tokens": 350}
DAY_NS = 86_400 * 10**9
FIRST = {"tallystick.attempt.outcome": "rate_limited", "tallystick.attempt.retry_after_s": 2.0}
SECOND = {"started_ms": 900.0, "tallystick.attempt.waited_s": 2.5}
ALL = {"start": "2020-01-01"}
AGES = 44, 43, 3, 0


def request(n: int, at_ns: int, **more: Any) -> bytes:
    feature = ("chat", "search")[n % 2]
    return otlp_call(
        id=f"{n + 1:016x}", trace_id=f"{n + 1:032x}", usage=USAGE, started_ns=at_ns, latency_ms=100.0 + n,
        attempts=[FIRST, SECOND], tallystick__feature=feature, user__id=f"u{n}", **more,
    ).SerializeToString()  # fmt: skip


def write_journal(folder: Path, *ages: int) -> list[bytes]:
    """Fill a journal with two calls for each of ``ages``, in days, the very first one twice; a segment for each."""
    now = time.time_ns()
    bodies = []
    journal = Journal(folder / "data" / "journal", 4096)
    ends = []
    for age in ages:
        for n in (2 * age, 2 * age + 1):
            at_ns = now - age * DAY_NS - 60 * 10**9
            bodies.append(request(n, at_ns))
            sent = bodies[-1:] * (1 + (len(bodies) == 1))
            record = b"".join(encode_record(Kind.TRACES, body, at_ns) for body in sent)
            ends.append((journal.append_encoded(record + padding()).result(), at_ns))
    journal.close()
    for end, at_ns in ends:
        os.utime(folder / "data" / "journal" / f"{end.segment:08d}.tly", ns=(at_ns, at_ns))
    return bodies


def padding() -> bytes:
    """Something that fills a segment, and that a strip leaves where it is."""
    return encode_record(Kind.NOTE, b'{"counts": {"padding": 1}}' + b" " * 4096, time.time_ns())


def figures(running: Running) -> dict[str, Any]:
    running.settle()
    ask = running.client.ask
    ledger = ask("ledger")
    totals = ask("totals", ALL)
    totals.pop("end")
    return {
        "totals": totals,
        "groups": [ask("groups", {**ALL, "by": by}) for by in ("feature", "user")],
        "failures": ask("failures", ALL),
        "calls": ask("calls", ALL)["rows"],
        "one": ask(f"calls/{2 * AGES[-2] + 1:016x}"),
        "units": ask("units", ALL)["rows"],
        "trace": ask(f"traces/{2 * AGES[-2] + 1:032x}"),
        **{name: ledger[name] for name in ("received_spans", "stored_spans", "duplicate_spans", "unaccounted_spans")},
    }


def archived(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data" / "archive").iterdir() if path.name.isdecimal())


def spans_in_journal(folder: Path) -> int:
    found = 0
    for path in segments_in(folder / "data" / "journal"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # it is just being replaced
            return -1
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        found += data.count(b"gen_ai.request.model")
    return found


@pytest.fixture
def before(tmp_path: Path) -> dict[str, Any]:
    """What a collector says of a journal of ``AGES`` before anything is moved; ``recent`` is a body of 3 days ago."""
    (tmp_path / "data" / "journal").mkdir(parents=True)
    (tmp_path / "recent").write_bytes(write_journal(tmp_path, *AGES)[-3])
    with running_collector(tmp_path, archive_days=36_000, retention_days=36_000) as running:
        found = figures(running)
        until(lambda: len(unpacked(tmp_path)) <= 2, "the journal was not compressed")
    return found


def unpacked(folder: Path) -> list[Path]:
    return [path for path in segments_in(folder / "data" / "journal") if path.suffix == ".tly"]


def move(folder: Path) -> None:
    """Have a collector move what is older than a day, and free the journal of it."""
    with running_collector(folder, archive_days=1, retention_days=36_000):
        until(lambda: len(archived(folder)) == 3, "the old days were not archived")
        until(lambda: spans_in_journal(folder) == 2, "the journal was not freed")


def rebuilt(folder: Path) -> dict[str, Any]:
    rebuild(load(config=configure(folder, archive_days=1, retention_days=36_000)).collector)
    with running_collector(folder, archive_days=1, retention_days=36_000) as running:
        return figures(running)


def test_archived_calls_are_answered_as_before_also_after_a_resend_and_a_rebuild(
    tmp_path: Path, before: dict[str, Any]
) -> None:
    move(tmp_path)
    with running_collector(tmp_path, archive_days=1, retention_days=36_000) as running:
        moved = figures(running)
        running.post((tmp_path / "recent").read_bytes())
        resent = figures(running)

    assert moved == before
    assert resent == {**before, "duplicate_spans": before["duplicate_spans"] + 3,
                      "received_spans": before["received_spans"] + 3}  # fmt: skip
    assert rebuilt(tmp_path) == resent


def test_what_is_in_the_archive_and_still_in_the_journal_counts_once_in_a_rebuild(
    tmp_path: Path, before: dict[str, Any]
) -> None:
    """As after a kill between the two."""
    shutil.copytree(tmp_path / "data" / "journal", tmp_path / "kept")
    move(tmp_path)
    shutil.rmtree(tmp_path / "data" / "journal")
    shutil.copytree(tmp_path / "kept", tmp_path / "data" / "journal")
    (tmp_path / "data" / "tallystick.duckdb").unlink()
    with running_collector(tmp_path, archive_days=1, retention_days=36_000) as running:  # it archives meanwhile, too
        again = figures(running)

    assert again == before
    assert rebuilt(tmp_path) == before


def test_killed_while_it_archives_it_goes_on_and_no_figure_changes(tmp_path: Path, before: dict[str, Any]) -> None:
    archive = tmp_path / "data" / "archive"
    for kills in range(2):
        with collector_process(tmp_path, archive_days=1, retention_days=36_000) as running:
            until(lambda kills=kills: len(list(archive.iterdir())) > kills, "nothing was archived")
            kill(running)
    move(tmp_path)
    with running_collector(tmp_path, archive_days=1, retention_days=36_000) as running:
        assert figures(running) == before


def test_a_copy_holds_the_archive_too(tmp_path: Path, before: dict[str, Any]) -> None:
    move(tmp_path)
    backup(tmp_path / "data", tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new" / "data")
    with running_collector(tmp_path / "new", archive_days=1, retention_days=36_000) as running:
        restored = figures(running)

    assert restored == before


def test_a_damaged_part_of_the_archive_is_left_out_and_counted(
    tmp_path: Path, before: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    move(tmp_path)
    with (tmp_path / "data" / "archive" / "00000001" / "calls.parquet").open("ab") as file:
        file.write(b"x")
    with running_collector(tmp_path, archive_days=1, retention_days=36_000) as running:
        after = figures(running)
        dropped = running.ask("ledger")["dropped"]

    assert "part 1 of" in caplog.text
    assert dropped == {"by damage of the archive": 6}
    assert after["unaccounted_spans"] == 0
    assert after["totals"]["calls"] == before["totals"]["calls"]  # by the sums of their hours
    assert len(after["calls"]) == len(before["calls"]) - 2


def test_what_is_dropped_is_counted_its_sums_stay_and_35_days_are_kept(tmp_path: Path, before: dict[str, Any]) -> None:
    move(tmp_path)
    with running_collector(tmp_path, archive_days=1, retention_gb=1e-9) as running:
        until(lambda: running.ask("ledger")["dropped"].get("retention") == 12, "the archive was not dropped")
        ledger, totals = running.ask("ledger"), running.client.ask("totals", ALL)
        rows = running.client.ask("calls", ALL)["rows"]
    rebuild(load(config=tmp_path / "tallystick.toml").collector)
    with running_collector(tmp_path, archive_days=1, retention_gb=1e-9) as running:
        running.settle()
        after = running.ask("ledger"), running.client.ask("totals", ALL), running.client.ask("failures", ALL)

    assert len(rows) == 4
    assert archived(tmp_path) == ["00000003"]
    for told, summed in ((ledger, totals), after[:2]):
        assert (told["received_spans"], told["unaccounted_spans"]) == (before["received_spans"], 0)
        assert told["stored_spans"] == before["stored_spans"] - 12
        assert told["dropped"]["retention"] == 12
        assert {name: summed[name] for name in ("calls", "spend_usd", "attempts", "input_tokens", "first_call_at")} == {
            name: before["totals"][name] for name in ("calls", "spend_usd", "attempts", "input_tokens", "first_call_at")
        }
    assert after[2] == before["failures"]
