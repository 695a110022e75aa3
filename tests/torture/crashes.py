"""Kills a collector again and again under load, and counts what it had acknowledged.

    python tests/torture/crashes.py [--kills 200] [--seed 1]

Senders post batches of calls and send each again until it is acknowledged, over kills and restarts, as apps do; some
send a batch once more although it was.  At the end the ledger must hold every call once, and the money of each once.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.collector import PROTOBUF, Running, configure, merged, otlp_call, start_process, until, wait_for_address

USAGE = {"input_tokens": 1200, "output_tokens": 350}
COST_USD = Decimal("0.00885")
SENDERS = 3
CALLS_A_BATCH = 20
AGAIN = 0.1
"""Of so many batches the answer is taken for lost."""


@dataclass
class Outcome:
    kills: int = 0
    sent: int = 0
    acknowledged: int = 0
    resent: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    unaccounted: int = 0
    difference_usd: Decimal = Decimal(0)
    restarts_s: list[float] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.duplicated or self.unaccounted or self.difference_usd)

    def table(self) -> str:
        restarts = sorted(self.restarts_s)
        rows = {
            "kills": self.kills, "calls acknowledged": self.acknowledged, "batches sent again": self.resent,
            "calls stored": self.stored, "lost": self.lost, "stored twice": self.duplicated,
            "spans unaccounted for": self.unaccounted, "difference in USD": self.difference_usd,
            "restart p50, s": f"{statistics.median(restarts):.2f}", "restart, worst, s": f"{restarts[-1]:.2f}",
        }  # fmt: skip
        return "\n".join(f"{name:>22}  {value}" for name, value in rows.items())


class Load:
    """Senders that go on until they are stopped; `port` is where the collector listens at the moment."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.acknowledged: set[str] = set()
        self.resent = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send_forever) for _ in range(SENDERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have each sender end once its batch is acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send_forever(self) -> None:
        while not self._stopping.is_set():
            ids = [secrets.token_hex(8) for _ in range(CALLS_A_BATCH)]
            body = merged(*(otlp_call(id=id_, usage=USAGE) for id_ in ids)).SerializeToString()
            while not self._is_taken(body):
                time.sleep(0.02)
            with self._lock:
                self.acknowledged.update(ids)
                again = self._random.random() < AGAIN
                self.resent += again
            if again:
                self._is_taken(body)
            time.sleep(0.01)

    def _is_taken(self, body: bytes) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/v1/traces", body, {"Content-Type": PROTOBUF})
            status = connection.getresponse().status
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
        assert status in {200, 503}, status
        return status == 200


def crash_loop(folder: Path, *, kills: int, seed: int) -> Outcome:
    """Kill a collector in ``folder`` so many times, and return what became of what it had acknowledged."""
    outcome = Outcome()
    dice = random.Random(seed)
    process = start_process(configure(folder, segment_bytes_max=1024 * 1024))
    url, _ = wait_for_address(process)
    port = int(url.rpartition(":")[2])
    config = configure(folder, segment_bytes_max=1024 * 1024, port=port)
    load = Load(port, seed)
    load.start()
    try:
        for _ in range(kills):
            time.sleep(dice.uniform(0.0, 1.0))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            outcome.kills += 1
            begun = time.monotonic()
            process = start_process(config)
            wait_for_address(process)
            running = Running(folder, url, process.pid)
            until(lambda running=running: running.request("GET", "/healthz")[0] == 200, "it is not healthy")
            outcome.restarts_s.append(time.monotonic() - begun)
            if not outcome.kills % 20:
                told = f"{outcome.kills} kills, restart p50 {statistics.median(outcome.restarts_s):.2f} s so far"
                print(told, file=sys.stderr, flush=True)
        load.stop()
        running = Running(folder, url, process.pid)
        until(lambda: running.ask("ledger")["journal"]["behind_bytes"] == 0, "it does not catch up", 300.0)
        spend_usd, outcome.unaccounted = _figures(running)
        process.terminate()
        process.communicate()
        _compare(_stored(running), spend_usd, load, outcome)
    finally:
        load.stop()
        if process.poll() is None:
            process.kill()
            process.communicate()
    return outcome


def _figures(running: Running) -> tuple[Decimal, int]:
    return Decimal(running.ask("totals")["spend_usd"]), running.ask("ledger")["unaccounted_spans"]


def _stored(running: Running) -> list[str]:
    """Return the ids in the database of a collector that has ended, more than the API lists."""
    with duckdb.connect(str(running.data / "tallystick.duckdb"), read_only=True) as store:
        return [row[0] for row in store.execute("SELECT id FROM calls").fetchall()]


def _compare(stored: Sequence[str], spend_usd: Decimal, load: Load, outcome: Outcome) -> None:
    outcome.acknowledged, outcome.resent, outcome.stored = len(load.acknowledged), load.resent, len(stored)
    outcome.lost = len(load.acknowledged - set(stored))
    outcome.duplicated = len(stored) - len(set(stored))
    outcome.difference_usd = spend_usd - COST_USD * len(set(stored))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = crash_loop(Path(folder), kills=asked.kills, seed=asked.seed)
    print(outcome.table())
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
