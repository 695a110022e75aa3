"""Which keys were stored before, without an index: a filter that errs only towards "perhaps".

It lies in files beside the database that are mapped into memory, so that a start has nothing to read: what a process
wrote into them is there after its death, too.  Keys are added before the rows of them are committed; so it is never
behind the database, and when it may be (the machine went down, somebody's hand) it is made anew from the rows.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tallystick.collector.journal import Position

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

BITS_PER_KEY = 24
PROBES = 8
"""With 24 bits a key, 4 of 100,000 new keys look as if they had been seen; only those cost a look into the table."""
FIRST_CAPACITY = 1 << 17
BOOT = Path("/proc/sys/kernel/random/boot_id")
STATE = "state.json"


@dataclass(slots=True)
class _Layer:
    capacity: int
    taken: Hashes
    """How many keys are in it, as an array of one."""
    bits: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def room(self) -> int:
        """How many keys it still takes."""
        return max(self.capacity - int(self.taken[0]), 0)

    def places(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the bit numbers of each hash, one row per probe: Kirsch and Mitzenmacher's two hashes for all."""
        steps = np.arange(PROBES, dtype=np.uint64)[:, None]
        second = (hashes >> np.uint64(32)) | np.uint64(1)
        return (hashes + steps * second) % np.uint64(self.bits.size * 8)


class Seen:
    """A Bloom filter that grows: a full layer is kept and one of twice its capacity begun; a file for each."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._layers: list[_Layer] = []
        self._files: list[np.memmap[Any, np.dtype[np.uint8]]] = []
        while self._path().exists():
            self._map()

    def add(self, hashes: Hashes) -> None:
        """Remember ``hashes``; raises OSError when the disk has no room for more."""
        while len(hashes):
            layer = self._open_layer()
            taken, hashes = hashes[: layer.room], hashes[layer.room :]
            places = layer.places(taken)
            np.bitwise_or.at(
                layer.bits, places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
            )
            layer.taken += np.uint64(len(taken))

    def perhaps(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for each hash whether it may have been added; False is certain."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for layer in self._layers:
            places = layer.places(hashes)
            bits = layer.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)
            found |= (bits & np.uint8(1)).all(axis=0)
        return found

    def flush(self) -> None:
        """Have it on the disk."""
        for file in self._files:
            file.flush()

    def _open_layer(self) -> _Layer:
        if not self._layers or not self._layers[-1].room:
            # Written, not only lengthened: a full disk is an error here, and a signal when it is met in memory.
            part = self._path().with_suffix(".part")
            part.write_bytes(bytes(8 + _capacity(len(self._layers)) * BITS_PER_KEY // 8))
            part.replace(self._path())
            self._map()
        return self._layers[-1]

    def _map(self) -> None:
        capacity = _capacity(len(self._layers))
        file = np.memmap(self._path(), np.uint8, "r+", shape=(8 + capacity * BITS_PER_KEY // 8,))
        self._layers.append(_Layer(capacity, file[:8].view(np.uint64), file[8:]))
        self._files.append(file)

    def _path(self) -> Path:
        return self.folder / f"{self.name}-{len(self._layers):02d}.bits"


def _capacity(layer: int) -> int:
    return FIRST_CAPACITY << layer


class SeenFolder:
    """What was seen of ``spans`` and of ``units``, in ``folder``; the writer's thread only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spans: Seen
        self.units: Seen
        self._token = ""

    def open(self, token: str, applied: Position) -> bool:
        """Take what is there, if it is of the database that ``token`` names, and not behind it; False when not."""
        try:
            state = json.loads((self.folder / STATE).read_text())
            is_whole = state["clean"] or (state["boot"] == _boot() != "")
            if state["token"] != token or not is_whole or Position(*state["upto"]) < applied:
                return False
            self.spans, self.units = Seen(self.folder, "spans"), Seen(self.folder, "units")
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._token = token
        self.note(applied)
        return True

    def begin(self, token: str) -> None:
        """Forget all, for the database that ``token`` names."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        self.spans, self.units = Seen(self.folder, "spans"), Seen(self.folder, "units")
        self._token = token

    def note(self, upto: Position, *, clean: bool = False) -> None:
        """Write down that all is in it that the journal holds up to ``upto``; ``clean`` when it is on the disk."""
        state = {"token": self._token, "boot": _boot(), "clean": clean, "upto": [upto.segment, upto.offset]}
        part = self.folder / f"{STATE}.part"
        part.write_text(json.dumps(state))
        part.replace(self.folder / STATE)

    def close(self, upto: Position) -> None:
        """Have it on the disk."""
        if self._token:
            self.spans.flush()
            self.units.flush()
            self.note(upto, clean=True)


def _boot() -> str:
    """Return what tells this run of the machine from others; what was written in it is not lost with a process."""
    with suppress(OSError):
        return BOOT.read_text().strip()
    return ""
