"""Which keys were stored before, without an index: a filter that errs only towards "perhaps".

It lies in files beside the database that are mapped into memory, so that a start has nothing to read: what a process
wrote into them is there after its death, too.  Keys are added before the rows of them are committed; so it is never
behind the database, and when it may be (the machine went down, somebody's hand) it is made anew from the rows.  A file
holds what came in a week or less, so what is so old that it may be forgotten goes with its file.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tallystick.collector.journal import Position

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

BITS_PER_KEY = 24
PROBES = 8
"""With 24 bits a key, 4 of 100,000 new keys look as if they had been seen; only those cost a look into the table."""
FIRST_CAPACITY, CAPACITY_MAX = 1 << 17, 1 << 23
LAYER_AGE = timedelta(days=7)
"""After so long a new layer is begun, full or not."""
COUNT_BYTES = 8
BOOT = Path("/proc/sys/kernel/random/boot_id")
STATE = "state.json"


@dataclass(slots=True)
class _Layer:
    path: Path
    file: np.memmap[Any, np.dtype[np.uint8]]
    taken: Hashes
    """How many keys are in it, as an array of one."""
    bits: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def number(self) -> int:
        """Its place among all that there ever were."""
        return int(self.path.stem.split("-")[1])

    @property
    def begun(self) -> date:
        """When the first key came into it; of a file that an older version made, long ago."""
        return date.fromisoformat(self.path.stem.split("-", 2)[2]) if self.path.stem.count("-") > 1 else date.min

    @property
    def capacity(self) -> int:
        """How many keys it may hold."""
        return self.bits.size * 8 // BITS_PER_KEY

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
    """A Bloom filter that grows: a full layer, or one of a week, is kept and another begun; a file for each."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._layers = sorted(map(_mapped, folder.glob(f"{name}-*.bits")), key=lambda layer: layer.number)

    def add(self, hashes: Hashes, today: date) -> None:
        """Remember ``hashes``; raises OSError when the disk has no room for more."""
        while len(hashes):
            layer = self._open_layer(today)
            taken, hashes = hashes[: layer.room], hashes[layer.room :]
            places = layer.places(taken)
            np.bitwise_or.at(
                layer.bits, places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
            )
            layer.taken += np.uint64(len(taken))

    def perhaps(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for each hash whether it may have been added; False is certain, unless it was forgotten."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for layer in self._layers:
            places = layer.places(hashes)
            bits = layer.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)
            found |= (bits & np.uint8(1)).all(axis=0)
        return found

    def forget(self, before: date) -> None:
        """Remove the layers of which all keys were added ``before`` a day."""
        while len(self._layers) > 1 and self._layers[1].begun < before:
            self._layers.pop(0).path.unlink()

    def flush(self) -> None:
        """Have it on the disk."""
        for layer in self._layers:
            layer.file.flush()

    def _open_layer(self, today: date) -> _Layer:
        last = self._layers[-1] if self._layers else None
        if last is None or not last.room or last.begun <= today - LAYER_AGE:
            number = last.number + 1 if last else 0
            path = self.folder / f"{self.name}-{number:04d}-{today}.bits"
            # Written, not only lengthened: a full disk is an error here, and a signal when it is met in memory.
            part = path.with_suffix(".part")
            part.write_bytes(bytes(COUNT_BYTES + _capacity_after(last) * BITS_PER_KEY // 8))
            part.replace(path)
            self._layers.append(_mapped(path))
        return self._layers[-1]


def _mapped(path: Path) -> _Layer:
    file = np.memmap(path, np.uint8, "r+")
    return _Layer(path, file, file[:COUNT_BYTES].view(np.uint64), file[COUNT_BYTES:])


def _capacity_after(last: _Layer | None) -> int:
    """Return for how many keys the next layer is made: twice as many as came into the last one."""
    capacity = FIRST_CAPACITY
    while last is not None and capacity < min(2 * int(last.taken[0]), CAPACITY_MAX):
        capacity *= 2
    return capacity


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

    def forget(self, before: date) -> None:
        """Remove what came ``before`` a day."""
        if self._token:
            self.spans.forget(before)
            self.units.forget(before)

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
