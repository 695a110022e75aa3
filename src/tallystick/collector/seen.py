"""Which keys were stored before, without an index: a filter in memory that errs only towards "perhaps"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

BITS_PER_KEY = 24
PROBES = 8
"""With 24 bits a key, 4 of 100,000 new keys look as if they had been seen; only those cost a look into the table."""
FIRST_CAPACITY = 1 << 17


@dataclass(slots=True)
class _Layer:
    bits: np.ndarray[Any, np.dtype[np.uint8]]
    capacity: int
    count: int = 0

    def places(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the bit numbers of each hash, one row per probe: Kirsch and Mitzenmacher's two hashes for all."""
        steps = np.arange(PROBES, dtype=np.uint64)[:, None]
        second = (hashes >> np.uint64(32)) | np.uint64(1)
        return (hashes + steps * second) % np.uint64(self.bits.size * 8)


class Seen:
    """A Bloom filter that grows: a full layer is kept and one of twice its capacity begun."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []

    def add(self, hashes: Hashes) -> None:
        """Remember ``hashes``."""
        while len(hashes):
            layer = self._open_layer()
            taken, hashes = hashes[: layer.capacity - layer.count], hashes[layer.capacity - layer.count :]
            places = layer.places(taken)
            np.bitwise_or.at(
                layer.bits, places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
            )
            layer.count += len(taken)

    def perhaps(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for each hash whether it may have been added; False is certain."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for layer in self._layers:
            places = layer.places(hashes)
            bits = layer.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)
            found |= (bits & np.uint8(1)).all(axis=0)
        return found

    def _open_layer(self) -> _Layer:
        if not self._layers or self._layers[-1].count >= self._layers[-1].capacity:
            capacity = self._layers[-1].capacity * 2 if self._layers else FIRST_CAPACITY
            self._layers.append(_Layer(np.zeros(capacity * BITS_PER_KEY // 8, dtype=np.uint8), capacity))
        return self._layers[-1]
