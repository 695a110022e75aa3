"""What asking a budget costs: CPU of the collector a call, and the round trip, at a steady rate.

    python bench/reservations.py [--rate 200] [--seconds 10] [--budgets 3]

A collector in a process of its own; an app's own line to it asks and settles, as its guard does.  Latency is measured
at the given rate on whatever else the machine does; CPU (of the collector, ask and settle together; of the app, the
ask) and the pure decision are the figures to compare on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.collector import collector_process
from tallystick.instrumentation._line import Line
from tallystick.model.budgets import Budget
from tallystick.model.ledger import Demand, Ledger, as_json

TICKS = os.sysconf("SC_CLK_TCK")
GROUP_MS = 50
"""As it is set when nobody sets it; tests store sooner."""
WINDOWS = ("day", "month", "rolling 1h", "hour", "week")


def config(budgets: int) -> str:
    return "".join(
        f"[[budget]]\nname = 'b{number}'\nlimit_usd = 1000000\naction = 'block'\n"
        f"window = '{WINDOWS[number % 5]}'\ngroup_by = {['user'] if number % 2 else []}\n"
        for number in range(budgets)
    )


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def over_http(rate: int, seconds: float, budgets: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        collector_process(Path(folder), config(budgets), group_ms=GROUP_MS) as running,
    ):
        line = Line(running.url)

        def post(path: str, body: dict[str, object]) -> None:
            status, _ = line.ask("POST", f"/api/v1/{path}", body, 30.0)
            assert status == 200, status

        def one(number: int) -> tuple[float, float]:
            name = f"{number:032x}"
            begun, cpu = time.perf_counter(), time.thread_time()
            dimensions = {"service": "shop", "model": "gpt-4o", "user": f"u{number % 50}"}
            post("reservations", {"id": name, "dimensions": dimensions, "usd": "0.0123", "tokens": 900})
            asked, cpu = time.perf_counter(), time.thread_time() - cpu
            post("reservations/settle", {"settlements": [{"id": name, "usd": "0.004", "tokens": 500}]})
            return asked - begun, cpu

        for number in range(100):
            one(number)
        before, begun, found = cpu_s(running.pid), time.perf_counter(), []
        for number in range(100, 100 + int(rate * seconds)):
            found.append(one(number))
            time.sleep(max(begun + (number - 99) / rate - time.perf_counter(), 0))
        used = (cpu_s(running.pid) - before) / len(found)
        took = time.perf_counter() - begun
        line.close()
    asked = sorted(ask * 1000 for ask, _ in found)
    p50, p99 = statistics.median(asked), asked[int(len(asked) * 0.99)]
    print(f"over HTTP, {budgets} budgets, {len(found) / took:.0f} calls/s of {rate} asked for:")
    app_us = statistics.median(cpu for _, cpu in found) * 1e6
    print(f"  ask p50 {p50:.2f} ms, p99 {p99:.2f} ms; CPU: collector {used * 1000:.2f} ms for ask + settle, ", end="")
    print(f"app {app_us:.0f} us for the ask")


def decided(budgets: int, calls: int = 5000) -> None:
    ledger = Ledger()
    at = time.time_ns() // 1000
    for number in range(budgets):
        grouped = ("user",) if number % 2 else ()
        budget = Budget(
            name=f"b{number}", limit_usd=Decimal(10**6), action="block", window=WINDOWS[number % 5], group_by=grouped
        )
        ledger.apply({"event": "define", "at": at, "budget": as_json(budget), "source": "file"})
    best = float("inf")
    for turn in range(5):
        begun = time.process_time()
        for number in range(calls):
            name = f"{turn}-{number}"
            demand = Demand(id=name, dimensions={"user": f"u{number % 50}"}, usd=Decimal("0.0123"), tokens=900)
            ledger.apply(ledger.admit(demand, at + number))  # type: ignore[arg-type]
            ledger.apply({"event": "settled", "settlements": [{"id": name, "usd": "0.004", "tokens": 5, "calls": 1}]})
        best = min(best, (time.process_time() - begun) / calls)
        ledger.forget(at + calls + 1, 0)
    print(f"the decision and both changes, {budgets} budgets: {best * 1e6:.0f} us of CPU, the best of 5 x {calls:,}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--budgets", type=int, default=3)
    args = parser.parse_args()
    decided(args.budgets)
    over_http(args.rate, args.seconds, args.budgets)


if __name__ == "__main__":
    main()
