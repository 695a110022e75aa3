"""The journal is the truth: the view is made from it again, and a copy of it is a copy of everything."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from fakes.collector import Running, collector_process, configure, kill, otlp_call, running_collector, until
from tallystick.collector.upkeep import backup, restore
from tallystick.errors import StoreError

USAGE = {"input_tokens": 1200, "output_tokens": 350}


def tallystick(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def figures(running: Running) -> dict[str, Any]:
    running.settle()
    span = {"start": "2020-01-01"}
    ledger = running.ask("ledger")
    totals = running.client.ask("totals", span)
    totals.pop("end")
    return {
        "totals": totals,
        "calls": running.client.ask("calls", span)["rows"],
        **{name: ledger[name] for name in ("received_spans", "stored_spans", "duplicate_spans", "rejected_spans")},
    }


def test_a_rebuild_gives_the_same_figures_and_refuses_beside_a_collector(tmp_path: Path) -> None:
    same = otlp_call(usage=USAGE)
    config = configure(tmp_path, segment_bytes_max=4096)
    with running_collector(tmp_path, segment_bytes_max=4096) as running:
        for n in range(12):
            running.send(otlp_call(usage=USAGE, tags={"n": str(n)}, attempts=[{}]), same)
        before = figures(running)
        beside = tallystick("rebuild", "--config", config)
    (tmp_path / "data" / "tallystick.duckdb").write_bytes(b"not a database")
    alone = tallystick("rebuild", "--config", config)
    with running_collector(tmp_path) as running:
        after = figures(running)

    assert beside.returncode == 1
    assert running.url.rpartition(":")[0].removeprefix("http://") in beside.stderr
    assert "25 spans stored, 11 duplicates" in alone.stdout, alone.stderr
    assert after == before


def test_a_copy_made_while_spans_arrive_holds_all_that_was_acknowledged(tmp_path: Path) -> None:
    """What the copy holds more than that arrived while it was made."""
    acknowledged: list[str] = []
    stopping = threading.Event()

    def send(running: Running) -> None:
        while not stopping.is_set():
            number = f"{len(acknowledged) + 1:016x}"
            assert running.post(otlp_call(id=number, usage=USAGE).SerializeToString())[0] == 200
            acknowledged.append(number)

    with running_collector(tmp_path / "old", segment_bytes_max=4096) as running:
        sender = threading.Thread(target=send, args=[running])
        sender.start()
        try:
            until(lambda: len(acknowledged) > 30, "nothing was acknowledged")
            known = list(acknowledged)
            backup(running.data, tmp_path / "copy.tar.gz")
        finally:
            stopping.set()
            sender.join()
    restore(tmp_path / "copy.tar.gz", tmp_path / "new" / "data")
    with running_collector(tmp_path / "new") as running:
        running.settle()
        found = {row["id"] for row in running.ask("calls", limit=1000)["rows"]}

    assert set(known) <= found <= set(acknowledged)
    assert oct((tmp_path / "copy.tar.gz").stat().st_mode & 0o777) == "0o600"


def test_a_rebuild_that_is_killed_is_gone_on_with_by_the_collector(tmp_path: Path) -> None:
    config = configure(tmp_path)
    with collector_process(tmp_path) as running:
        for _ in range(20):
            running.send(otlp_call(usage=USAGE))
        before = figures(running)
        kill(running)
    command = [sys.executable, "-m", "tallystick", "rebuild", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    database = tmp_path / "data" / "tallystick.duckdb"
    aside = tmp_path / "data" / "aside"
    until(lambda: any(aside.glob("*.duckdb")) or process.poll() is not None, "the rebuild did not begin")
    process.kill()
    process.wait()
    with running_collector(tmp_path) as running:
        assert figures(running) == before
    assert database.exists()


def test_a_copy_is_not_written_over_another_file(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        (tmp_path / "mine").write_text("precious")
        with pytest.raises(StoreError, match="is there already"):
            backup(running.data, tmp_path / "mine")

    assert (tmp_path / "mine").read_text() == "precious"


def test_only_an_empty_folder_is_restored_to(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        backup(running.data, tmp_path / "copy")
    ran = tallystick("restore", tmp_path / "copy", "--data", tmp_path / "data")

    assert ran.returncode == 1
    assert "holds a journal or a database already" in ran.stderr


def test_a_folder_without_a_journal_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no journal"):
        backup(tmp_path, tmp_path / "copy")


def tar_of(*members: tuple[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b"PK\x03\x04", "cannot be read", id="a-zip"),
        pytest.param(gzip.compress(b"x" * 1000), "cannot be read", id="no-tar"),
        pytest.param(tar_of(("../../evil.tly", b"x")), "no backup", id="a-way-out"),
        pytest.param(tar_of(("/journal/00000001.tly", b"x")), "no backup", id="an-absolute-path"),
        pytest.param(tar_of(("journal/00000001.tly", b"x")), "damaged", id="no-manifest"),
        pytest.param(tar_of(("manifest.json", b"[]")), "cannot be read", id="a-manifest-of-another-shape"),
        pytest.param(
            tar_of(("journal/00000001.tly", b"x"), ("manifest.json", b'{"segments": {"journal/00000001.tly": {}}}')),
            "damaged", id="another-sum",
        ),
    ],
)  # fmt: skip
def test_what_is_no_whole_backup_changes_nothing(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "copy").write_bytes(content)
    with pytest.raises(StoreError, match=told):
        restore(tmp_path / "copy", tmp_path / "data")

    assert not any((tmp_path / "data" / "journal").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]


def test_a_copy_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    with running_collector(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        backup(running.data, tmp_path / "copy")
    shutil.copy(tmp_path / "copy", tmp_path / "cut")
    data = (tmp_path / "copy").read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=r"cannot be read|damaged"):
        restore(tmp_path / "cut", tmp_path / "new")
