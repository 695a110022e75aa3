from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.model.segment import Damage, Kind, Record, encode_record, lock, orphans, read_records, write_all

PAYLOADS = [b"one", b"", b"three" * 100]
DATA = b"".join(encode_record(Kind.TRACES, payload, n) for n, payload in enumerate(PAYLOADS))
ENDS = [record.end for record in read_records(DATA)]


def payloads(data: bytes) -> list[bytes]:
    return [record.payload for record in read_records(data) if isinstance(record, Record)]


@given(st.lists(st.binary(max_size=200)))
def test_what_was_written_is_read_back(written: list[bytes]) -> None:
    data = b"".join(encode_record(Kind.NOTE, payload, 7) for payload in written)

    assert payloads(data) == written


@given(st.integers(0, len(DATA)))
def test_every_prefix_opens_and_keeps_its_whole_records(cut: int) -> None:
    records = list(read_records(DATA[:cut]))

    assert all(isinstance(record, Record) for record in records)
    assert len(records) == sum(end <= cut for end in ENDS)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_costs_one_record_at_most_and_is_told(at: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[at] ^= flip

    found = list(read_records(bytes(damaged)))

    whole = [record for record in found if isinstance(record, Record)]
    lost = len(PAYLOADS) - len(whole)
    assert lost <= 1
    assert all(record.payload in PAYLOADS for record in whole)
    if lost and at < ENDS[1]:  # in the last record it may look like a torn tail, which is no damage yet
        assert any(isinstance(item, Damage) for item in found)


def test_garbage_between_records_is_stepped_over_and_measured() -> None:
    first, second = encode_record(Kind.TRACES, b"a", 1), encode_record(Kind.TRACES, b"b", 2)

    found = list(read_records(first + b"garbage" + second))

    assert [type(item) for item in found] == [Record, Damage, Record]
    assert found[1] == Damage(len(first), len(first) + len(b"garbage"))


def test_a_segment_whose_owner_lives_is_no_orphan(tmp_path: Path) -> None:
    path = tmp_path / "a.tly"
    owner = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    assert lock(owner)
    assert list(orphans(tmp_path)) == []

    os.close(owner)

    [(found, fd)] = orphans(tmp_path)
    os.close(fd)
    assert found == path


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "a.tly").symlink_to(tmp_path / "secret")

    assert list(orphans(tmp_path)) == []


def test_a_partial_write_raises_and_does_not_pass_for_whole() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        write_all(fd, b"x")
    os.close(fd)
