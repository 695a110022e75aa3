"""Nothing piles up in a process that makes many calls, and nothing is lost by processes that fork and die."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.provider import Provider
from tallystick.model.segment import Record, read_records

BENCH = Path(__file__).parents[2] / "bench" / "soak.py"
CALLS = 5000
# 5 MB over 200,000 calls is 26 bytes a call; the allocator's own noise over a short run is more than that.
NOISE_MB = 4.0
OBJECTS_MAX = 500


def test_five_thousand_calls_leave_nothing_behind() -> None:
    """The full run is ``python bench/soak.py``: less than 5 MB over 200,000 calls."""
    script = f"import json, soak; print(json.dumps(soak.instrumented({CALLS})))"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCH.parent, capture_output=True, text=True, timeout=900, check=True
    )
    found = json.loads(ran.stdout)

    assert found["calls"] >= CALLS
    assert found["uncollectable"] == 0
    assert found["objects"] < OBJECTS_MAX, "one object kept of each call would be 4500"
    assert found["growth_mb"] < NOISE_MB + 5 * CALLS / 200_000


FORKING = """
import os, signal, sys, time
import tallystick
tallystick.instrument(providers={sys.argv[2]: "openai"}, collector="http://127.0.0.1:9")
import openai

def call():
    client = openai.OpenAI(base_url=sys.argv[1], api_key="k")
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])

def work():
    call()
    HOW

call()
children = []
for _ in range(20):
    for _ in range(5):
        if (pid := os.fork()) == 0:
            try:
                work()
            finally:
                os._exit(1)
        children.append(pid)
    for pid in children[-5:]:
        os.waitpid(pid, 0)
call()
os._exit(0)
"""
HOW = {
    "os._exit": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "exception": "raise SystemExit(3)",
}


def spooled(folder: Path) -> list[str]:
    """Return the id of the response of each call in the spool, sorted; no record of it may be damaged."""
    found = []
    for path in folder.glob("*.tly"):
        for record in read_records(path.read_bytes()):
            assert isinstance(record, Record), record
            for resource in ExportTraceServiceRequest.FromString(record.payload).resource_spans:
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    attributes = {item.key: item.value.string_value for item in span.attributes}
                    if "tallystick.outcome" in attributes:
                        found.append(attributes["gen_ai.response.id"])
    return sorted(found)


def billed(provider: Provider) -> list[str]:
    return sorted(item["id"] for item in provider.invoice()["items"])


@pytest.mark.parametrize("how", HOW)
def test_a_hundred_forked_workers_that_end_at_once_keep_their_calls(
    how: str, provider: Provider, tmp_path: Path
) -> None:
    """As prefork servers with one task per child do; the parent has called before, and calls after."""
    place = provider.openai_url.partition("://")[2]
    script = FORKING.replace("HOW", HOW[how])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, provider.openai_url, place],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert len(billed(provider)) == 102
    assert spooled(tmp_path / "spool") == billed(provider)


POOL = """
import multiprocessing, sys
import tallystick
def call(n):
    import openai
    tallystick.instrument(providers={sys.argv[2]: "openai"}, collector="http://127.0.0.1:9")
    client = openai.OpenAI(base_url=sys.argv[1], api_key="k")
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": str(n)}]).id
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[3]).Pool(4, maxtasksperchild=5) as pool:
        print(len(set(pool.map(call, range(40), chunksize=1))))  # leaving the block terminates the workers
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes_keeps_every_call(method: str, provider: Provider, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    place = provider.openai_url.partition("://")[2]
    ran: Any = subprocess.run(
        [sys.executable, script, provider.openai_url, place, method],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert ran.stdout == "40\n", ran.stderr
    assert spooled(tmp_path / "spool") == billed(provider)
