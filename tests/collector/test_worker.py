"""Rows are made in a process of its own: it may die at any moment, and it ends with the collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fakes.collector import collector_process, kill, merged, otlp_call, until
from tallystick.collector.decode import Decoder
from tallystick.collector.journal import Journal, Stretch
from tallystick.collector.making import Group, Here
from tallystick.collector.packed import Packed, Schemas
from tallystick.collector.store import Store
from tallystick.collector.worker import Worker, WorkerError
from tallystick.model.segment import Kind
from tallystick.pricing import load_book, price

USAGE = {"input_tokens": 1200, "output_tokens": 350}


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def is_there(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture
def stretch(tmp_path: Path) -> Iterator[Stretch]:
    """A journal with a record that takes a while to read."""
    (tmp_path / "journal").mkdir()
    journal = Journal(tmp_path / "journal", 1 << 26)
    begin = journal.end
    body = merged(*(otlp_call(usage=USAGE) for _ in range(20))).SerializeToString()
    for _ in range(50):
        journal.append(Kind.TRACES, body).result(10)
    found = journal.stretch(begin, 1 << 26)
    assert isinstance(found, Stretch)
    yield found
    journal.close()


@pytest.fixture
def schemas(tmp_path: Path) -> Schemas:
    store = Store(tmp_path / "schemas.duckdb", 64)
    store.close()
    return store.schemas


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker(Decoder(price, 1000, 1000), load_book())
    yield found
    found.close()


def rows(group: Group) -> dict[str, int]:
    packed: Packed = group.rows()
    return {name: len(table) for name, table in packed.tables.items()}


def test_a_worker_makes_what_the_process_itself_would_make(worker: Worker, stretch: Stretch, schemas: Schemas) -> None:
    here = Here(Decoder(partial(price, book=load_book()), 1000, 1000))
    here.begin(stretch, schemas)
    worker.begin(stretch, schemas)
    made, expected = worker.result(), here.result()

    assert made.rows().tables == expected.rows().tables
    assert (made.upto, made.ends, made.rows().counts) == (expected.upto, expected.ends, expected.rows().counts)
    assert rows(made)["units"] == 1000


def test_a_worker_that_is_killed_is_started_again_and_nothing_is_lost(
    worker: Worker, stretch: Stretch, schemas: Schemas
) -> None:
    worker.begin(stretch, schemas)
    assert rows(worker.result())["units"] == 1000
    worker.begin(stretch, schemas)
    os.kill(worker._child.process.pid, signal.SIGKILL)

    assert rows(worker.result())["units"] == 1000


def test_a_worker_that_cannot_start_says_so_and_gives_nothing_up(
    worker: Worker, stretch: Stretch, schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.begin(stretch, schemas)
    worker.result()
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        worker.begin(stretch, schemas)
        os.kill(worker._child.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="does not start"):
            worker.result()
    with pytest.raises(WorkerError, match="does not start"):  # the last one that was started with what is broken
        worker.begin(stretch, schemas)
        worker.result()
    worker.begin(stretch, schemas)

    assert rows(worker.result())["units"] == 1000


def test_a_stretch_over_which_the_worker_dies_twice_is_given_up(
    worker: Worker, stretch: Stretch, schemas: Schemas
) -> None:
    killed: set[int] = set()

    def kill_each() -> None:
        while len(killed) < 2:
            pid = worker._child.process.pid
            if worker._is_ready and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.001)

    worker.begin(stretch, schemas)
    killer = threading.Thread(target=kill_each)
    killer.start()
    group = worker.result()
    killer.join()

    assert (group.packed, group.fault) == (None, "reading it ended the process that makes rows")
    assert len(group.ends) == 50
    assert group.ends[-1] == group.upto.offset


def test_a_collector_goes_on_without_a_word_lost_when_its_worker_is_killed(tmp_path: Path) -> None:
    with collector_process(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        for sent in range(2, 6):
            (pid,) = children_of(running.pid)
            os.kill(pid, signal.SIGKILL)
            running.send(otlp_call(usage=USAGE))
            assert running.ask("totals")["calls"] == sent
        ledger = running.ask("ledger")

    assert (ledger["dropped_records"], ledger["unaccounted_spans"]) == (0, 0)


def test_a_killed_collector_takes_its_worker_with_it_and_leaves_the_folder_free(tmp_path: Path) -> None:
    with collector_process(tmp_path) as running:
        running.send(otlp_call(usage=USAGE))
        (pid,) = children_of(running.pid)
        kill(running)
        begun = time.monotonic()
        until(lambda: not is_there(pid), "the worker lives on")
        assert time.monotonic() - begun < 5
    with collector_process(tmp_path) as running:
        assert running.ask("totals")["calls"] == 1
