"""What it costs a call to be admitted: inside a slice, with a round trip to the collector, and without a budget.

    python bench/admission.py [--seconds 5] [--rate 200] [--threads 8]

Real SDK calls over an in-process transport, at ``--rate`` calls a second; the collector is a process of its own. Wall
time of the admission alone (p50, p99) and CPU time of the calling thread. Wall time means something on a quiet machine
only; CPU time and the ratio of the two ways are the figures to compare. Targets: 0.1 ms p50 inside a slice, 1 ms p50
and 5 ms p99 with a round trip, 2 us without a budget that enforces.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from overhead import clients

import tallystick
from fakes.collector import collector_process
from tallystick.errors import BudgetExceededError
from tallystick.instrumentation import _bank, _install
from tallystick.instrumentation._gate import Gate

HARD = '[[budget]]\nname = "team"\nlimit_usd = 1000\naction = "block"\n'
NONE = '[[budget]]\nname = "team"\nlimit_usd = 1000\n'


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


class Clock:
    """Measures every admission."""

    def __init__(self) -> None:
        self.wall_ms: list[float] = []
        self.cpu_us: list[float] = []
        self._admit = Gate.admit

    def __enter__(self) -> Self:
        def admit(gate: Gate, *args: Any) -> dict[str, Any]:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return self._admit(gate, *args)
            finally:
                self.wall_ms.append((time.perf_counter() - wall) * 1e3)
                self.cpu_us.append((time.thread_time() - cpu) * 1e6)

        Gate.admit = admit  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Gate.admit = self._admit  # type: ignore[method-assign]


def paced(call: Callable[[], Any], *, rate: float, seconds: float, threads: int) -> int:
    """Make calls at a steady rate over several threads; return how many were refused for want of an answer."""
    refused = 0
    begin = time.perf_counter() + 0.05

    def run(number: int) -> None:
        nonlocal refused
        for turn in range(int(seconds * rate / threads)):
            at = begin + (turn * threads + number) / rate
            time.sleep(max(at - time.perf_counter(), 0))
            try:
                call()
            except BudgetExceededError:
                refused += 1

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return refused


def measure(title: str, budget: str, given: argparse.Namespace, *, slices: bool) -> None:
    _bank.SLICE_CALLS_MAX = 64 if slices else 1
    with tempfile.TemporaryDirectory() as folder, collector_process(Path(folder), budget, group_ms=50) as collector:
        tallystick.instrument(collector=collector.url, spool=Path(folder) / "app", service="bench")
        oai, _, _ = clients()
        messages: Any = [{"role": "user", "content": "hello " * 50}]

        def call() -> None:
            oai.chat.completions.create(model="gpt-4o", max_tokens=200, messages=messages)

        try:
            paced(call, rate=50, seconds=0.5, threads=2)  # warm: rules, connections, a slice
            with Clock() as clock:
                refused = paced(call, rate=given.rate, seconds=given.seconds, threads=given.threads)
            if not clock.wall_ms:
                assert _install._installed is not None
                gate, n = _install._installed.hooks.gate, 200_000
                since = time.thread_time()
                for _ in range(n):
                    gate.is_open()
                print(f"{title:24} {(time.thread_time() - since) / n * 1e6:8.2f} us of CPU time a call")
                return
            wall, cpu = clock.wall_ms, clock.cpu_us
            print(
                f"{title:24} wall p50 {percentile(wall, 0.5):7.3f} ms  p99 {percentile(wall, 0.99):7.3f} ms   "
                f"CPU p50 {percentile(cpu, 0.5):7.1f} us   {len(wall)} calls, {refused} refused"
            )
        finally:
            tallystick.uninstrument()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--threads", type=int, default=8)
    given = parser.parse_args()
    measure("no budget enforces", NONE, given, slices=True)
    measure("inside a slice", HARD, given, slices=True)
    measure("with a round trip", HARD, given, slices=False)


if __name__ == "__main__":
    main()
