"""What `instrument()` costs the app's own HTTP traffic, which is none of ours: CPU time of a send to an unknown host.

    python bench/foreign.py [rounds]

The client answers itself (MockTransport), so what is timed is the client's own code and ours.  Interleaved rounds; the
median of the differences, and the medians themselves.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import httpx2

import tallystick

SENDS = 300


def cpu_us(client: Any, method: str) -> float:
    """Return the CPU time of one send, in microseconds."""
    started = time.process_time_ns()
    for _ in range(SENDS):
        client.send(client.build_request(method, "https://shop.example/orders", content=b"{}"))
    return (time.process_time_ns() - started) / SENDS / 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    answer = httpx2.Response(204)
    with httpx2.Client(transport=httpx2.MockTransport(lambda _: answer)) as client:
        for method in ("GET", "POST"):
            bare, ours = [], []
            for _ in range(rounds):
                bare.append(cpu_us(client, method))
                tallystick.instrument(spool=tempfile.mkdtemp())
                ours.append(cpu_us(client, method))
                tallystick.uninstrument()
            more = statistics.median(after - before for before, after in zip(bare, ours, strict=True))
            medians = f"bare {statistics.median(bare):.1f} us, instrumented {statistics.median(ours):.1f} us"
            print(f"{method}: {medians}, +{more:.1f} us")


if __name__ == "__main__":
    main()
