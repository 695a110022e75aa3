"""What a span costs on its way from the wire to a committed row, and how long an acknowledgement takes.

    python bench/ingest.py [--spans 51200] [--connections 2] [--rate 0]

A real collector in a process of its own, fed from this one over loopback: 512 spans a request; of four spans one is a
call with a unit that is priced, one its attempt, two are others. CPU per span is the collector's own and
depends less on what else the machine does than rates do.  What the steps take of it is measured in this process, over
the same bodies.  ``--rate`` holds the feed at so many spans a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
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

from fakes.collector import Running, collector_process, otlp_request, otlp_span, otlp_unit
from tallystick.collector.decode import Batch, Decoder
from tallystick.collector.journal import Position
from tallystick.collector.packed import pack
from tallystick.collector.spans import rejections
from tallystick.collector.store import Store
from tallystick.model.receipt import Receipt
from tallystick.pricing import load_book, price

REQUEST_SPANS = 512
GROUP = 40
"""Requests that are stored together when many wait."""
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


def steps_us(bodies: list[bytes]) -> dict[str, float]:
    """Return the CPU of each step, in us a span."""
    pa.array([0])  # loads pandas where it is installed, as the collector does before it listens
    book, now = load_book(), time.time_ns()
    taken = dict.fromkeys(("check", "normalise", "price", "store"), 0.0)

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
            store.apply(pack(batch, store.schemas), Position(1, first + 1))
            times.append(time.process_time_ns())
            for name, (start, end) in zip(("check", "normalise", "store"), pairwise(times), strict=True):
                taken[name] += end - start
        store.close()
    taken["normalise"] -= taken["price"]
    return {name: ns / 1000 / (len(bodies) * REQUEST_SPANS) for name, ns in taken.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spans", type=int, default=51_200)
    arguments.add_argument("--connections", type=int, default=2)
    arguments.add_argument("--rate", type=float, default=0)
    args = arguments.parse_args()
    bodies = [body(number) for number in range(args.spans // REQUEST_SPANS)]
    spans = len(bodies) * REQUEST_SPANS
    with tempfile.TemporaryDirectory() as folder, collector_process(Path(folder), group_ms=50) as running:
        feed(running, [body(1_000_000)], 1, 0)
        running.settle()
        cpu, at = cpu_s(running.pid), time.monotonic()
        waits = sorted(feed(running, bodies, args.connections, args.rate))
        acked_s = time.monotonic() - at
        running.settle()
        stored_s, stored_cpu = time.monotonic() - at, cpu_s(running.pid) - cpu
        totals = running.ask("totals")
        assert totals["calls"] == (spans + REQUEST_SPANS) // 4, totals
        hot = disk_bytes(running)
        print(f"{spans} spans, {REQUEST_SPANS} a request, {sum(map(len, bodies)) / spans:.0f} bytes each on the wire")
        p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        print(f"acknowledged  {spans / acked_s:10,.0f} spans/s   p50 {p50:.1f} ms  p99 {p99:.1f} ms")
        print(f"stored        {spans / stored_s:10,.0f} spans/s   {stored_s - acked_s:.2f} s after the last of them")
        print(f"cpu           {stored_cpu / spans * 1e6:10.1f} us/span, wire to committed row")
        print(f"memory        {memory_mb(running.pid, 'VmRSS'):10} MB, {memory_mb(running.pid, 'VmHWM')} MB at most")
        assert running.process is not None, "it has one of its own"
        running.process.terminate()
        running.process.wait()
        cold = disk_bytes(running)
        print(f"disk          {cold / spans:10.0f} bytes/span in DuckDB, {hot / spans:.0f} before a checkpoint")
    gc.set_threshold(50_000, 20, 50)  # as the collector has it
    print("steps        ", ", ".join(f"{name} {us:.1f}" for name, us in steps_us(bodies).items()), "us/span")


if __name__ == "__main__":
    main()
