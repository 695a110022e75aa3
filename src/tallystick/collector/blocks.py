"""A compressed segment: blocks that stand for themselves, so that damage costs the block it is in and nothing else.

Each block is a member of a gzip file (RFC 1952; ``gzip -d`` reads the whole), and begins and ends with a record.  Its
header says in the extra field where its content lies in the segment, so it is found by what is wanted of it, also
behind a header that is damaged.  A file of one member without such a field is as an older version wrote it.
"""

from __future__ import annotations

import gzip
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tallystick.model.segment import HEADER, MAGIC, PAYLOAD_BYTES_MAX

log = logging.getLogger("tallystick.journal")

BLOCK_BYTES = 256 * 1024
"""A block ends with the record that fills it."""
READ_BYTES = 1024 * 1024
HEAD = struct.Struct("<4sIBBH2sHQIIQ")
"""gzip's own: magic, method and flags, time, extra flags, system, length of the extra field; then the field's name and
length, and in it: the block's offset, its length, its length compressed, the length of the whole segment."""
START = b"\x1f\x8b\x08\x06"
"""Deflate, with an extra field and a checksum of the header."""
OLD = b"\x1f\x8b\x08\x00"
"""How a segment begins that an older version compressed, as one member."""
FIELD = b"TY"
SUM = struct.Struct("<H")
TAIL = struct.Struct("<II")
SEAM = HEAD.size + SUM.size + TAIL.size
"""What a block takes besides its compressed content."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: where it begins in the file, and what of the segment it holds."""

    at: int
    offset: int
    size: int
    packed: int
    total: int

    @property
    def end(self) -> int:
        """The offset just behind its content."""
        return self.offset + self.size

    def content(self, file: IO[bytes]) -> bytes | None:
        """Return what it holds; None when it is damaged."""
        file.seek(self.at + HEAD.size + SUM.size)
        data = file.read(self.packed + TAIL.size)
        try:
            content = zlib.decompress(data[: self.packed], -zlib.MAX_WBITS, self.size)
        except zlib.error:
            return None
        return content if data[self.packed :] == TAIL.pack(zlib.crc32(content), self.size) else None


def write(file: IO[bytes], content: IO[bytes], total: int) -> None:
    """Compress ``total`` bytes of ``content`` into ``file``."""
    offset = 0
    while size := _to_cut(content, offset, total):
        content.seek(offset)
        data = content.read(size)
        deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = deflate.compress(data) + deflate.flush()
        head = HEAD.pack(START, 0, 0, 255, 28, FIELD, 24, offset, size, len(packed), total)
        file.write(head + SUM.pack(zlib.crc32(head) & 0xFFFF) + packed + TAIL.pack(zlib.crc32(data), size))
        offset += size


def _to_cut(content: IO[bytes], offset: int, total: int) -> int:
    """Return how long the block at ``offset`` is: up to the end of a record, or anywhere where there is none."""
    size = 0
    while size < BLOCK_BYTES and offset + size < total:
        content.seek(offset + size)
        head = content.read(HEADER.size)
        magic, _, length, *_ = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0)
        is_record = magic == MAGIC and length <= PAYLOAD_BYTES_MAX
        size += HEADER.size + length if is_record else BLOCK_BYTES
    return min(size, total - offset)


def size(path: Path) -> int:
    """Return how many bytes a compressed segment holds, as its blocks say, or its end when it has none."""
    with path.open("rb") as file:
        for block in _blocks(file):
            return block.total
        file.seek(max(path.stat().st_size - 4, 0))
        return int.from_bytes(file.read(4), "little")


def read(path: Path, offset: int, size: int) -> bytes:
    """Return ``size`` bytes behind ``offset`` of a compressed segment, with zeros in place of what is damaged.

    Of a segment that an older version compressed all behind the damage is missing.
    """
    end = offset + size
    data = bytearray()
    has_blocks = False
    with path.open("rb") as file:
        for block in _blocks(file):
            has_blocks = True
            if block.end <= offset:
                continue
            if block.offset >= end:
                break
            _fill(data, block.offset - offset, path, offset)  # a block whose header is damaged lies between
            content = block.content(file)
            if content is None:
                _fill(data, min(block.end, end) - offset, path, offset)
            else:
                data += content[max(offset - block.offset, 0) : end - block.offset]
    if not has_blocks:
        return _read_old(path, offset, size)
    _fill(data, size, path, offset)
    return bytes(data)


def _fill(data: bytearray, upto: int, path: Path, offset: int) -> None:
    missing = upto - len(data)
    if missing > 0:
        log.warning("%s is damaged: %d bytes behind %d are lost", path, missing, offset + len(data))
        data += bytes(missing)


def _blocks(file: IO[bytes]) -> Iterator[Block]:
    """Yield the blocks in order; what is none of them is searched for the next one."""
    at = 0
    while not (at == 0 and file.read(len(OLD)) == OLD):
        file.seek(at)
        head = file.read(HEAD.size + SUM.size)
        block = _block(head, at)
        if block is None:
            at = _next(file, at + 1) if head else -1
            if at < 0:
                return
            continue
        yield block
        at += SEAM + block.packed


def _block(head: bytes, at: int) -> Block | None:
    if len(head) < HEAD.size + SUM.size or not head.startswith(START):
        return None
    found = HEAD.unpack_from(head)
    if found[5] != FIELD or SUM.unpack_from(head, HEAD.size)[0] != zlib.crc32(head[: HEAD.size]) & 0xFFFF:
        return None
    return Block(at, *found[7:])


def _next(file: IO[bytes], at: int) -> int:
    """Return where a block may begin at or behind ``at``, -1 when nowhere."""
    kept = b""
    file.seek(at)
    while part := file.read(READ_BYTES):
        data = kept + part
        if (found := data.find(START)) >= 0:
            return at - len(kept) + found
        at += len(part)
        kept = data[1 - len(START) :]
    return -1


def _read_old(path: Path, offset: int, size: int) -> bytes:
    data = bytearray()
    with gzip.open(path, "rb") as file:
        try:
            file.seek(offset)
            while len(data) < size and (part := file.read(min(size - len(data), READ_BYTES))):
                data += part
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            log.warning("%s is damaged behind %d bytes: %s", path, offset + len(data), error)
    return bytes(data)
