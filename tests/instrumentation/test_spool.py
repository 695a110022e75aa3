from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tallystick.instrumentation import _spool
from tallystick.instrumentation._spool import Segment, Spool, Tally
from tallystick.model.segment import Record, orphans, read_records

APPEND = """
import os, signal, sys
from pathlib import Path
from tallystick.instrumentation._spool import Segment, Spool
spool = Spool(Path(sys.argv[1]), 1 << 28)
for n in range(100):
    spool.append(b"record %d" % n)
{end}
"""


def spooled(folder: Path) -> list[bytes]:
    return [
        record.payload
        for path in sorted(folder.glob("*.tly"))
        for record in read_records(path.read_bytes())
        if isinstance(record, Record)
    ]


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="SIGKILL"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", id="SIGTERM"),
        pytest.param("os._exit(0)", id="os._exit"),
        pytest.param("pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0); os._exit(0)", id="fork"),
    ],
)
def test_a_process_that_dies_has_lost_nothing(tmp_path: Path, end: str) -> None:
    subprocess.run([sys.executable, "-c", APPEND.format(end=end), str(tmp_path)], check=False, timeout=60)

    assert spooled(tmp_path) == [b"record %d" % n for n in range(100)]
    found = list(orphans(tmp_path))
    assert len(found) == 1, "its segment can be adopted"
    os.close(found[0][1])


def test_a_forked_child_writes_a_segment_of_its_own(tmp_path: Path) -> None:
    code = APPEND.format(end='os.fork()\nspool.append(b"from %d" % os.getpid())\nos._exit(0)')
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    deadline = threading.Event()
    for _ in range(100):  # the child may end a little after its parent
        if len(spooled(tmp_path)) == 102:
            break
        deadline.wait(0.05)

    assert len(list(tmp_path.glob("*.tly"))) == 2
    assert len(spooled(tmp_path)) == 102


def test_many_threads_tear_no_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 28)
    written = [b"%d" % n * 200 for n in range(8)]
    threads = [threading.Thread(target=lambda p=p: [spool.append(p) for _ in range(200)]) for p in written]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(spooled(tmp_path)) == sorted(written * 200)


def test_over_its_bound_the_oldest_goes_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spool, "SEGMENT_BYTES_MAX", 1000)
    spool = Spool(tmp_path, bytes_max=3000)
    for n in range(20):
        spool.append(b"%02d" % n * 250)

    kept = spooled(tmp_path)

    assert kept[-1] == b"19" * 250
    assert spool.take_dropped().records == 20 - len(kept)
    assert spool.take_dropped().records == 0, "each drop is reported once"


def test_a_folder_that_cannot_be_written_drops_and_counts_but_never_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = Spool(tmp_path / "file" / "spool", 1 << 28)

    spool.append(b"x")
    spool.append(b"y")

    assert spool.take_dropped().records == 2


def test_who_told_of_finished_calls_and_is_dropped_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spool, "SEGMENT_BYTES_MAX", 1000)
    spool = Spool(tmp_path, bytes_max=3000)
    told = 0
    for n in range(20):
        spool.finished()
        finished = spool.take_finished()
        told += finished
        spool.append(b"%02d" % n * 250, Tally(1, 1, finished))

    dropped = spool.take_dropped()

    assert (dropped.records, dropped.calls) == (20 - len(spooled(tmp_path)),) * 2
    assert told - dropped.finished + spool.take_finished() == 20


FULL = """
import os, resource, sys
from pathlib import Path
from tallystick.instrumentation._keys import Fingerprints
from tallystick.instrumentation._spool import Segment, Spool
folder = Path(sys.argv[1])
spool = Spool(folder, 1 << 28)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
before = len(os.listdir("/dev/fd"))
assert Fingerprints(folder).of("sk-0123456789abcdef")
for _ in range(50):
    spool.append(b"x")
spool.append(b"so many are lost", spool.take_dropped())
print(spool.dropped.records, len(os.listdir("/dev/fd")) - before, len(list(folder.iterdir())))
"""


def test_a_full_disk_takes_no_descriptors_and_no_count_is_lost(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )

    assert ran.stdout.split() == ["50", "0", "0"], "a lost report counts as what it told; nothing stays open"
    assert len(ran.stderr.splitlines()) == 1, ran.stderr


def test_files_are_the_users_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 28)
    spool.append(b"x")

    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "spool").iterdir()} == {0o600}


def test_a_segment_that_was_shipped_is_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 28)
    spool.append(b"x")
    [segment] = spool.seal()
    spool.remove(segment)

    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the app's handlers are untouched"


def test_what_a_finalizer_writes_while_the_spool_is_locked_is_kept_and_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may end a stream inside any allocation, as in the making of a file."""
    spool = Spool(tmp_path, 1 << 28)
    create = spool._create

    def create_and_collect(prefix: str = "") -> Segment:
        monkeypatch.setattr(spool, "_create", create)
        spool.append(b"of the finalizer")
        return create(prefix)

    monkeypatch.setattr(spool, "_create", create_and_collect)
    writer = threading.Thread(target=spool.append, args=(b"of the call",), daemon=True)
    writer.start()
    writer.join(10)

    assert not writer.is_alive(), "it waits for itself"
    assert spooled(tmp_path) == [b"of the finalizer", b"of the call"]
    assert len(spool.seal()) == 1, "the segment that was made beside is not left behind"
