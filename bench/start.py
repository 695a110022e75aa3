"""How long a collector takes from its start to the first healthy answer and to the first acknowledged export.

    python bench/start.py [--spans 1000000] [--runs 5] [--beside /other/tree/.venv/bin/python]

First over an empty folder, then over one that holds so many spans, which a collector stored before.  The best of the
runs, each a new process; ``--beside`` takes turns with another tree.  CPU is what collector and worker have used by
the first healthy answer, with all they load, and depends less on what else the machine does than seconds do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from ingest import REQUEST_SPANS, body, cpu_s, feed, processes

from fakes.collector import PROTOBUF, collector_process, configure
from tallystick.collector.service import listen

GIVE_UP_S = 60.0


def build(folder: Path, spans: int) -> None:
    """Have a collector store ``spans`` in ``folder``."""
    with collector_process(folder) as running:
        bodies = [body(number) for number in range(min(spans // REQUEST_SPANS, 400))]
        for first in range(0, spans // REQUEST_SPANS, len(bodies) or 1):
            feed(running, bodies if not first else [body(first + n) for n in range(len(bodies))], 2, 0)
        while running.ask("ledger")["journal"]["behind_bytes"]:
            time.sleep(0.5)
        assert running.process is not None, "it has one of its own"
        running.process.terminate()
        running.process.wait()


def answered(port: int, ask: Callable[[HTTPConnection], None]) -> float:
    """Ask until the answer is 200; return when that was."""
    until = time.monotonic() + GIVE_UP_S
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=GIVE_UP_S)
        try:
            ask(connection)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return time.monotonic()
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise AssertionError(f"no answer within {GIVE_UP_S:g} s")


def start(python: str, folder: Path) -> tuple[float, float, float]:
    """Start a collector over ``folder``; return seconds to health, seconds to the first export, CPU seconds by then."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    config = configure(folder, port=port)
    payload = body(time.time_ns())
    at: dict[str, float] = {}

    def export() -> None:
        at["export"] = answered(
            port, lambda connection: connection.request("POST", "/v1/traces", payload, {"Content-Type": PROTOBUF})
        )

    exporter = threading.Thread(target=export)
    command = [python, "-m", "tallystick", "collect", "--config", str(config)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TALLYSTICK_")}
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ)
    exporter.start()
    try:
        healthy = answered(port, lambda connection: connection.request("GET", "/healthz"))
        exporter.join()
        used = sum(cpu_s(pid) for pid in processes(process.pid))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return healthy - begun, at["export"] - begun, used


def measure(pythons: list[str], filled: Path, runs: int) -> None:
    """Print the best of ``runs`` starts over copies of ``filled``, for each of ``pythons`` in turn."""
    best = dict.fromkeys(pythons, (GIVE_UP_S, GIVE_UP_S, GIVE_UP_S))
    for _ in range(runs):
        for python in pythons:
            with tempfile.TemporaryDirectory() as name:
                shutil.copytree(filled, name, dirs_exist_ok=True)
                found = start(python, Path(name))
            best[python] = tuple(map(min, best[python], found))  # type: ignore[assignment]
    for python, (healthy, export, used) in best.items():
        print(f"  healthy {healthy:.2f} s   export {export:.2f} s   cpu {used:.2f} s   {python}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spans", type=int, default=1_000_000)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--beside", default=None)
    arguments.add_argument("--filled", type=Path, help="a folder that an earlier run made, to be used again")
    args = arguments.parse_args()
    pythons = [sys.executable, *([args.beside] if args.beside else [])]
    with tempfile.TemporaryDirectory() as name:
        print("an empty folder")
        measure(pythons, Path(name), args.runs)
        filled = args.filled or Path(name)
        if not (filled / "data").exists():
            build(filled, args.spans)
        print(f"a folder of {args.spans} spans")
        measure(pythons, filled, args.runs)


if __name__ == "__main__":
    main()
