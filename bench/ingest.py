"""What a span costs on its way from the wire to a committed row, and how long an acknowledgement takes.

    python bench/ingest.py [--spans 204800] [--connections 4] [--alone]

A real collector in processes of its own, fed from this one over loopback: 512 spans a request; of four spans one is a
call with a unit that is priced, one its attempt, two are others.  First flat out, then at half that rate, then at 5,000
spans a second, where the lag is how long after its acknowledgement a request can be asked for.  CPU per span is the
collector's own, by process, and depends less on what else the machine does than rates do.  What the steps take of it is
measured in this process, over the same bodies.  ``--alone`` makes no rows meanwhile: what receiving by itself can do.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.collector import (
    Running,
    collector_process,
    configure,
    otlp_request,
    otlp_span,
    otlp_unit,
    wait_for_address,
)
from tallystick.collector.apply import Applier
from tallystick.collector.decode import Batch, Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import pack
from tallystick.collector.service import run_forever
from tallystick.collector.settings import load
from tallystick.collector.spans import rejections
from tallystick.collector.store import Store
from tallystick.model.receipt import Receipt
from tallystick.pricing import load_book, price

REQUEST_SPANS = 512
GROUP = 40
"""Requests that are stored together when many wait."""
LAG_RATE, LAGS = 5_000, 30
MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-5")
TICKS = os.sysconf("SC_CLK_TCK")


def body(number: int) -> bytes:
    """Return one request: 128 calls, each with an attempt, a parent and an HTTP span."""
    random_ = random.Random(number)
    spans = []
    now = time.time_ns()
    for n in range(REQUEST_SPANS // 4):
        trace = f"{random_.getrandbits(128):032x}"
        parent, call, attempt, other = (f"{random_.getrandbits(64):016x}" for _ in range(4))
        model = random_.choice(MODELS)
        usage = {"input_tokens": random_.randrange(50, 5000), "output_tokens": random_.randrange(5, 900)}
        user = f"user-{min(int(random_.paretovariate(1.1)), 100_000)}"
        spans.append(otlp_span(parent, trace, None, "GET /chat", now, 900, {
            "http.route": "/chat", "http.request.method": "GET"}))  # fmt: skip
        spans.append(otlp_span(attempt, trace, call, "POST", now, 700, {
            "tallystick.attempt": True, "http.request.resend_count": 0, "http.response.status_code": 200,
            "tallystick.attempt.outcome": "ok", "tallystick.attempt.request_id": f"req_{attempt}",
            "server.address": "api.anthropic.com", "http.request.method": "POST",
        }))  # fmt: skip
        spans.append(otlp_span(other, trace, parent, "SELECT", now, 3, {
            "db.system.name": "postgresql", "db.query.summary": "SELECT users", "server.address": "db"}))  # fmt: skip
        spans.append(otlp_span(call, trace, parent, f"chat {model}", now, 800 + n, {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": 1024, "gen_ai.response.id": f"msg_{call}", "gen_ai.response.model": model,
            "gen_ai.response.finish_reasons": ["end_turn"], "server.address": "api.anthropic.com", "server.port": 443,
            "tallystick.outcome": "ok", "tallystick.attempts": 1,
            "tallystick.feature": random_.choice(["chat", "search"]),
            "user.id": user, "tallystick.caller": "shop.chat:answer", "tallystick.key": "a1b2c3d4…9xyz",
            "tallystick.tag.tenant": f"t{random_.randrange(20)}",
            "gen_ai.usage.input_tokens": usage["input_tokens"], "gen_ai.usage.output_tokens": usage["output_tokens"],
            "tallystick.units": json.dumps([otlp_unit(id=f"msg_{call}", model=model, usage=usage)]),
        }))  # fmt: skip
    return otlp_request(spans, {"service.name": "shop", "deployment.environment.name": "prod"}).SerializeToString()


def processes(pid: int) -> list[int]:
    """Return the collector's process, and its worker's."""
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(int(child) for each in children for child in each)]


def cpu_s(pid: int) -> float:
    """Return what the process has used of the CPU so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int, what: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) // 1024
    return 0


def disk_bytes(running: Running) -> int:
    return sum(path.stat().st_size for path in running.data.rglob("tallystick.duckdb*"))


def feed(running: Running, bodies: list[bytes], connections: int, rate: float) -> list[float]:
    """Send all; return how long each acknowledgement took, in ms."""
    waits: list[float] = []
    port = int(running.url.rpartition(":")[2])
    turn = iter(enumerate(bodies))
    lock = threading.Lock()
    begun = time.monotonic()

    def send() -> None:
        connection = HTTPConnection("127.0.0.1", port)
        while True:
            with lock:
                number, payload = next(turn, (0, b""))
            if not payload:
                return
            if rate:
                time.sleep(max(begun + number * REQUEST_SPANS / rate - time.monotonic(), 0))
            at = time.perf_counter()
            connection.request("POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            waits.append((time.perf_counter() - at) * 1000)

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def lags_ms(running: Running, bodies: list[bytes]) -> list[float]:
    """Send a request ten times a second; return how long after its acknowledgement each could be asked for, in ms."""
    lags: list[float] = []
    begun = time.monotonic()
    for number, payload in enumerate(bodies):
        time.sleep(max(begun + number * REQUEST_SPANS / LAG_RATE - time.monotonic(), 0))
        feed(running, [payload], 1, 0)
        at = time.perf_counter()
        running.settle()
        lags.append((time.perf_counter() - at) * 1000)
    return sorted(lags)


def steps_us(bodies: list[bytes]) -> dict[str, float]:
    """Return the CPU of each step, in us a span."""
    pa.array([0])  # loads pandas where it is installed
    book, now = load_book(), time.time_ns()
    taken = dict.fromkeys(("check", "normalise", "price", "pack", "store"), 0.0)

    def timed_price(*args: Any, **params: Any) -> Receipt:
        at = time.thread_time_ns()
        receipt = price(*args, book=book, **params)
        taken["price"] += time.thread_time_ns() - at
        return receipt

    decoder = Decoder(timed_price, 100_000, 256)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "steps.duckdb", memory_limit_mb=400)
        for first in range(0, len(bodies), GROUP):
            group = bodies[first : first + GROUP]
            times = [time.process_time_ns()]
            for payload in group:
                rejections(payload, now, 100_000, 256)
            times.append(time.process_time_ns())
            batch = Batch()
            for payload in group:
                batch.extend(decoder.decode(payload, now))
            times.append(time.process_time_ns())
            packed = pack(batch, store.schemas)
            times.append(time.process_time_ns())
            store.apply(packed, Position(1, first + 1))
            times.append(time.process_time_ns())
            for name, (start, end) in zip(("check", "normalise", "pack", "store"), pairwise(times), strict=True):
                taken[name] += end - start
        store.close()
    taken["normalise"] -= taken["price"]
    return {name: ns / 1000 / (len(bodies) * REQUEST_SPANS) for name, ns in taken.items()}


def tell_acknowledged(what: str, waits: list[float], seconds: float) -> None:
    waits = sorted(waits)
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    rate = len(waits) * REQUEST_SPANS / seconds
    print(f"{what:14}{rate:10,.0f} spans/s acknowledged   p50 {p50:.1f} ms  p99 {p99:.1f} ms")


def loaded(running: Running, bodies: list[bytes], connections: int) -> None:
    """Print what becomes of ``bodies``, flat out, at half of that, and at `LAG_RATE`."""
    spans = len(bodies) * REQUEST_SPANS
    half = len(bodies) // 2
    pids = processes(running.pid)
    before, at = [cpu_s(pid) for pid in pids], time.monotonic()
    waits = feed(running, bodies[:half], connections, 0)
    acked_s = time.monotonic() - at
    tell_acknowledged("flat out", waits, acked_s)
    # Asking costs the collector some ms too, and is no part of what a span costs: not as often as `settle` asks.
    while running.ask("ledger")["journal"]["behind_bytes"]:
        time.sleep(0.25)
    stored_s = time.monotonic() - at
    print(f"{'':14}{spans / 2 / stored_s:10,.0f} spans/s stored   {stored_s - acked_s:.2f} s after the last of them")
    used = [(cpu_s(pid) - was) / spans * 2e6 for pid, was in zip(pids, before, strict=True)]
    told = " + ".join(f"{us:.1f}" for us in used)
    print(f"cpu           {sum(used):10.1f} us/span, wire to committed row: collector + worker {told}")
    rate, at = spans / 2 / acked_s / 2, time.monotonic()
    waits = feed(running, bodies[half:], connections, rate)
    tell_acknowledged("half of that", waits, time.monotonic() - at)
    running.settle()
    lags = lags_ms(running, [body(2_000_000 + number) for number in range(LAGS)])
    print(f"lag           {lags[len(lags) // 2]:10.0f} ms at {LAG_RATE} spans/s, {lags[-1]:.0f} at most")
    totals = running.ask("totals")
    assert totals["calls"] == (spans + (LAGS + 1) * REQUEST_SPANS) // 4, totals
    now = [memory_mb(pid, "VmRSS") for pid in pids]
    most = [memory_mb(pid, "VmHWM") for pid in pids]
    print(f"memory        {sum(now):10} MB, {sum(most)} MB at most: collector {most[0]}, worker {sum(most[1:])}")


def receiving(config: Path) -> None:
    """Be a collector that makes no rows."""
    Applier.start = lambda _: None  # type: ignore[method-assign, assignment]
    run_forever(load(config=config))


def alone(bodies: list[bytes], connections: int) -> None:
    """Print how fast a collector acknowledges that makes no rows."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--receiving", str(configure(Path(folder)))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            running = Running(Path(folder), wait_for_address(process)[0], process.pid)
            feed(running, bodies[:10], connections, 0)
            before, at = cpu_s(running.pid), time.monotonic()
            waits = feed(running, bodies, connections, 0)
            tell_acknowledged("alone", waits, time.monotonic() - at)
            used = (cpu_s(running.pid) - before) / len(bodies) / REQUEST_SPANS * 1e6
            print(f"cpu           {used:10.1f} us/span, wire to disk")
        finally:
            process.kill()
            process.communicate()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spans", type=int, default=204_800)
    arguments.add_argument("--connections", type=int, default=4)
    arguments.add_argument("--alone", action="store_true")
    arguments.add_argument("--receiving", type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.receiving:
        receiving(args.receiving)
        return
    bodies = [body(number) for number in range(args.spans // REQUEST_SPANS)]
    spans = len(bodies) * REQUEST_SPANS
    print(f"{spans} spans, {REQUEST_SPANS} a request, {sum(map(len, bodies)) / spans:.0f} bytes each on the wire")
    if args.alone:
        alone(bodies, args.connections)
        return
    with tempfile.TemporaryDirectory() as folder, collector_process(Path(folder), group_ms=50) as running:
        feed(running, [body(1_000_000)], 1, 0)
        running.settle()
        loaded(running, bodies, args.connections)
        hot = disk_bytes(running)
        assert running.process is not None, "it has one of its own"
        running.process.terminate()
        running.process.wait()
        cold = disk_bytes(running)
        print(f"disk          {cold / spans:10.0f} bytes/span in DuckDB, {hot / spans:.0f} before a checkpoint")
    gc.set_threshold(50_000, 20, 50)  # as the collector has it
    print("steps        ", ", ".join(f"{name} {us:.1f}" for name, us in steps_us(bodies[:100]).items()), "us/span")


if __name__ == "__main__":
    main()
