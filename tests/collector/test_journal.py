"""The journal by itself: what was appended is read back, at any chunk size, from any prefix, past any damage."""

from __future__ import annotations

import gzip
import os
import threading
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.collector import blocks
from tallystick.collector.journal import Journal, JournalFullError, Position, segments_in
from tallystick.collector.seen import Seen
from tallystick.model.segment import Damage, Kind, Record, encode_record

KEPT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(journal: Journal, bytes_max: int = 1 << 20) -> tuple[list[bytes], int]:
    """Return all payloads, and how many bytes were stepped over."""
    at, payloads, damaged = journal.start, [], 0
    while at < journal.end:
        found, following = journal.read(at, bytes_max)
        assert following > at, "a read that does not move reads for ever"
        payloads += [record.payload for record in found if isinstance(record, Record)]
        damaged += sum(one.end - one.start for one in found if isinstance(one, Damage))
        at = following
    return payloads, damaged


@KEPT
@given(
    payloads=st.lists(st.binary(max_size=300) | st.just(b"TLY1" * 20), max_size=25),
    segment_bytes=st.sampled_from([1, 100, 1000, 1 << 20]),
    chunk=st.sampled_from([1, 50, 333, 1 << 20]),
)
def test_what_was_appended_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], segment_bytes: int, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, segment_bytes)
    for payload in payloads:
        journal.append(Kind.TRACES, payload).result(10)
    found = read_all(journal, chunk)
    journal.close()
    reopened = Journal(folder, segment_bytes)
    again = read_all(reopened, chunk)
    reopened.close()

    assert found == again == (payloads, 0)


@KEPT
@given(cut=st.integers(0, 1500), chunk=st.sampled_from([1, 200, 1 << 20]))
def test_every_prefix_opens_and_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int, chunk: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, 1 << 20)
    payloads = [bytes([n]) * 100 for n in range(10)]
    ends = [journal.append(Kind.TRACES, payload).result(10).offset for payload in payloads]
    journal.close()
    path = folder / "00000001.tly"
    os.truncate(path, min(cut, path.stat().st_size))
    whole = [payload for payload, end in zip(payloads, ends, strict=True) if end <= cut]
    journal = Journal(folder, 1 << 20)
    journal.append(Kind.TRACES, b"new").result(10)
    found = read_all(journal, chunk)
    journal.close()

    assert found == ([*whole, b"new"], 0)


@KEPT
@given(at=st.integers(0, 1239).filter(lambda at: at % 124 not in {5, 6, 7}), chunk=st.sampled_from([1, 130, 1 << 20]))
def test_one_flipped_bit_costs_one_record(tmp_path_factory: pytest.TempPathFactory, at: int, chunk: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, 1240)
    for n in range(12):
        journal.append(Kind.TRACES, bytes([n]) * 100).result(10)  # 124 bytes each, ten in the first segment
    journal.close()
    path = folder / "00000001.tly"
    data = bytearray(path.read_bytes())
    assert len(data) == 1240
    data[at] ^= 0x10  # anywhere but in the header's padding, which says nothing
    path.write_bytes(data)
    journal = Journal(folder, 1240)
    payloads, damaged = read_all(journal, chunk)
    journal.close()

    assert payloads == [bytes([n]) * 100 for n in range(12) if n != at // 124]
    assert damaged == 124


def test_a_segment_that_is_gone_is_stepped_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    for n in range(4):
        journal.append(Kind.TRACES, bytes([n])).result(10)
    journal.close()
    (tmp_path / "00000002.tly").unlink()
    journal = Journal(tmp_path, 1)
    found, _ = read_all(journal)
    journal.close()

    assert found == [b"\0", b"\2", b"\3"]


def test_appends_at_the_same_time_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    gate = threading.Event()

    def fdatasync(fd: int) -> None:
        syncs.append(fd)
        gate.wait(10)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal = Journal(tmp_path, 1 << 20)
    first = journal.append(Kind.TRACES, b"0")
    while not syncs:  # the writer is in the first sync; what comes now has to wait for the second
        pass
    others = [journal.append(Kind.TRACES, b"x") for _ in range(50)]
    assert not first.done()
    gate.set()
    ends = {future.result(10) for future in [first, *others]}
    journal.close()

    assert len(syncs) == 2
    assert len(ends) == 2


def test_what_could_not_be_synced_is_refused_and_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = os.fdatasync, threading.Event()

    def fdatasync(fd: int) -> None:
        if broken.is_set():
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal = Journal(tmp_path, 1 << 20)
    kept = journal.append(Kind.TRACES, b"kept").result(10)
    broken.set()
    with pytest.raises(JournalFullError, match="Input/output error"):
        journal.append(Kind.TRACES, b"refused").result(10)
    assert journal.fault is not None
    assert (journal.end, (tmp_path / "00000001.tly").stat().st_size) == (kept, kept.offset)
    broken.clear()
    journal.append(Kind.TRACES, b"new").result(10)
    assert journal.fault is None
    found = read_all(journal)
    journal.close()

    assert found == ([b"kept", b"new"], 0)


def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    journal.close()

    with pytest.raises(JournalFullError):
        journal.append(Kind.TRACES, b"late").result(10)


def test_positions_compare_and_subtract_over_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    ends = [journal.append(Kind.TRACES, b"x" * n).result(10) for n in (10, 20, 30)]

    assert ends == sorted(ends) == [Position(1, 34), Position(2, 44), Position(3, 54)]
    assert journal.bytes_between(Position(1, 0), ends[2]) == journal.size_bytes() == 132
    assert journal.bytes_between(ends[0], ends[1]) == 44
    journal.close()


def test_what_was_seen_is_never_forgotten_and_news_is_rarely_mistaken(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    known, news = (random.integers(0, 2**63, 300_000).astype(np.uint64) for _ in range(2))
    seen = Seen(tmp_path, "spans")
    for part in np.array_split(known, 7):
        seen.add(part, date(2026, 11, 21))

    assert seen.perhaps(known).all()
    assert seen.perhaps(news).mean() < 0.001
    assert Seen(tmp_path, "spans").perhaps(known).all(), "of a process that was killed"
    assert not Seen(tmp_path, "units").perhaps(news).any()


def test_what_was_seen_long_ago_is_forgotten_with_its_file(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    days = [date(2026, 1, 1) + timedelta(days=day) for day in range(200)]
    added = {day: random.integers(0, 2**63, 2_000).astype(np.uint64) for day in days}
    sizes = []
    seen = Seen(tmp_path, "spans")
    for day, hashes in added.items():
        seen.add(hashes, day)
        seen.forget(day - timedelta(days=36))
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    reopened = Seen(tmp_path, "spans")

    for each in (seen, reopened):
        assert all(each.perhaps(added[day]).all() for day in days[-37:])
        assert not any(each.perhaps(added[day]).all() for day in days[:-50])
    assert max(sizes[100:]) == max(sizes[50:100]), "the disk that it takes is bounded"


def test_a_file_of_seen_ids_that_an_older_version_made_is_read_and_goes_in_time(tmp_path: Path) -> None:
    hashes, later = np.arange(10**15, 10**15 + 1000, dtype=np.uint64) * 7919, np.arange(50, dtype=np.uint64) << 40
    Seen(tmp_path, "spans").add(hashes, date(2026, 1, 1))
    next(tmp_path.iterdir()).rename(tmp_path / "spans-00.bits")
    seen = Seen(tmp_path, "spans")
    known = seen.perhaps(hashes).all()
    seen.add(later, date(2026, 1, 8))
    seen.forget(date(2026, 1, 8))
    kept = seen.perhaps(hashes).all()
    seen.forget(date(2026, 1, 9))

    assert known
    assert kept
    assert not seen.perhaps(hashes).any()
    assert Seen(tmp_path, "spans").perhaps(later).all()


def packed_journal(folder: Path) -> tuple[Journal, list[bytes], list[Position]]:
    """Return a journal of three segments, the first two of them compressed."""
    journal = Journal(folder, 1240)
    payloads = [os.urandom(50) + bytes([n]) * 50 for n in range(25)]
    ends = [journal.append(Kind.TRACES, payload).result(10) for payload in payloads]
    for number in journal.unpacked()[:-1]:
        journal.pack(number)
    return journal, payloads, ends


@pytest.mark.parametrize("chunk", [1, 333, 1 << 20])
def test_compressed_segments_are_read_back_from_any_position(tmp_path: Path, chunk: int) -> None:
    journal, payloads, ends = packed_journal(tmp_path)
    found = read_all(journal, chunk)
    behind_third, _ = journal.read(ends[2], 1)
    size = journal.size_bytes()
    journal.close()
    reopened = Journal(tmp_path, 1240)
    again, size_again = read_all(reopened, chunk), reopened.size_bytes()
    reopened.close()

    assert [path.name for path in segments_in(tmp_path)] == ["00000001.tly.gz", "00000002.tly.gz", "00000003.tly"]
    assert found == again == (payloads, 0)
    assert isinstance(behind_third[0], Record)
    assert behind_third[0].payload == payloads[3]
    assert size == size_again == 25 * 124


def test_killed_while_it_compresses_it_reads_what_it_had(tmp_path: Path) -> None:
    journal, payloads, _ = packed_journal(tmp_path)
    journal.close()
    (tmp_path / "00000001.tly").write_bytes(gzip.decompress((tmp_path / "00000001.tly.gz").read_bytes()))
    (tmp_path / "00000001.tly.gz").write_bytes(b"half of")
    journal = Journal(tmp_path, 1240)
    found = read_all(journal)
    journal.close()

    assert found == (payloads, 0)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_flipped_bit_in_a_compressed_segment_costs_the_block_it_is_in(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)  # two records
    journal, payloads, _ = packed_journal(tmp_path)
    journal.close()
    path = tmp_path / "00000001.tly.gz"
    whole = path.read_bytes()
    assert len(gzip.decompress(whole)) == 10 * 124, "it is a gzip file like any other"
    lost = set()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        caplog.clear()
        journal = Journal(tmp_path, 1240)
        found, damaged = read_all(journal, chunk)
        journal.close()
        missing = [number for number, payload in enumerate(payloads) if payload not in found]
        if not missing:  # of the last byte of a deflated block, some bits say nothing
            assert (len(found), damaged) == (25, 0)
            continue
        lost.add(tuple(missing))
        assert (len(found), damaged) == (23, 2 * 124), f"a bit of byte {at}"
        assert f"00000001.tly.gz is damaged: 248 bytes behind {missing[0] * 124} are lost" in caplog.text

    assert lost == {(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)}


def test_a_segment_that_an_older_version_compressed_is_read_up_to_its_damage(tmp_path: Path) -> None:
    journal, payloads, _ = packed_journal(tmp_path)
    journal.close()
    path = tmp_path / "00000001.tly.gz"
    old = gzip.compress(gzip.decompress(path.read_bytes()), mtime=0)
    path.write_bytes(old)
    journal = Journal(tmp_path, 1240)
    found = read_all(journal, 333)
    journal.close()
    path.write_bytes(old[: len(old) // 2] + bytes([old[len(old) // 2] ^ 0x10]) + old[len(old) // 2 + 1 :])
    journal = Journal(tmp_path, 1240)
    after_damage, damaged = read_all(journal)
    journal.close()

    assert found == (payloads, 0)
    assert after_damage[-15:] == payloads[10:]
    assert 0 < damaged <= 1240


def test_a_segment_keeps_what_a_rebuild_needs_when_the_rest_is_taken_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    for kind in (Kind.TRACES, Kind.ALERT, Kind.NOTE):
        journal.append_encoded(b"".join(encode_record(kind, bytes([n]), n) for n in (1, 2))).result(10)
    journal.append(Kind.TRACES, b"last").result(10)
    for number in (1, 2, 3):
        journal.strip(number, lambda record: record.kind == Kind.ALERT and record.time_ns == 2)
    found = read_all(journal)
    journal.close()

    assert found == ([b"\2", b"last"], 0)
    assert [path.name for path in segments_in(tmp_path)] == ["00000002.tly.gz", "00000004.tly"]
