"""Whether instrumentation leaks: resident memory over many calls of one process, and what the garbage collector keeps.

    python bench/soak.py [--calls 200000]

Plain calls, streams, streams that are left early, failures, retries and tags in turn, against an in-process transport;
no collector, so that segments are sealed and dropped as the spool fills.  Growth is measured from the point where a
tenth of the calls was made: by then caches, pools and the allocator's arenas have their size.  The same calls without
`instrument()` are measured beside, in a process of their own, for what the SDK itself keeps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
from overhead import CHAT, CHAT_EVENTS, MESSAGE, MESSAGE_EVENTS, Events

import tallystick

EVENTS_MAX = 12
SPOOL_BYTES_MAX = 8 * 1024 * 1024


def answer(request: httpx2.Request) -> httpx2.Response:
    chat = request.url.path.endswith("/chat/completions")
    if b"fail" in request.content:
        error = {"error": {"type": "rate_limit_error", "message": "too many"}}
        return httpx2.Response(429, headers={"retry-after-ms": "0", "x-ratelimit-reset-tokens": "1s"}, json=error)
    if b'"stream":true' in request.content:
        events = CHAT_EVENTS if chat else MESSAGE_EVENTS
        stream = Events([*events[:EVENTS_MAX], *events[-3:]])
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    return httpx2.Response(200, json=CHAT if chat else MESSAGE)


def kinds(http: httpx2.Client) -> list[Callable[[int], None]]:
    """The kinds of call that are made in turn; each prompt is another."""
    oai = openai.OpenAI(api_key="sk-0123456789abcdef0123", http_client=http, max_retries=1)
    ant = anthropic.Anthropic(api_key="sk-ant-0123456789abcdef", http_client=http, max_retries=0)

    def turns(n: int) -> Any:
        return [{"role": "system", "content": f"Today is day {n}."}, {"role": "user", "content": f"question {n} " * 20}]

    def chat(n: int) -> None:
        oai.chat.completions.create(model="gpt-4o", messages=turns(n))

    def message(n: int) -> None:
        with tallystick.tags(feature="soak", user=f"user {n}"):
            ant.messages.create(model="claude-sonnet-5", max_tokens=200, messages=turns(n)[1:], system=f"day {n}")

    def stream(n: int) -> None:
        for _ in oai.chat.completions.create(model="gpt-4o", messages=turns(n), stream=True):
            pass

    def left(n: int) -> None:
        with ant.messages.create(model="claude-sonnet-5", max_tokens=9, messages=turns(n)[1:], stream=True) as events:
            next(iter(events))

    def failed(n: int) -> None:
        for _ in range(2):
            try:
                ant.messages.create(
                    model="claude-sonnet-5", max_tokens=9, messages=[{"role": "user", "content": f"fail {n}"}]
                )
            except anthropic.RateLimitError:
                tallystick.degraded("nothing")

    return [chat, message, chat, stream, message, left, failed]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(calls: int) -> dict[str, Any]:
    """Make ``calls`` calls; return the growth of memory and what the collector could not free."""
    made, counted = 0, 0
    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        ways = kinds(http)
        before = 0
        started = time.perf_counter()
        while made < calls:
            for way in ways:
                way(made)
                made += 2 if way is ways[-1] else 1
            if made >= calls // 10 and not before:
                gc.collect()
                before, counted = resident_bytes(), len(gc.get_objects())
        took_s = time.perf_counter() - started
        gc.collect()
        return {
            "calls": made,
            "growth_mb": (resident_bytes() - before) / 1e6,
            "objects": len(gc.get_objects()) - counted,
            "uncollectable": len(gc.garbage),
            "calls_per_s": round(made / took_s),
        }


def instrumented(calls: int) -> dict[str, Any]:
    from tallystick.instrumentation import _install

    with tempfile.TemporaryDirectory() as spool:
        tallystick.instrument(spool=spool, collector="http://127.0.0.1:9", service="soak")
        assert _install._installed is not None
        _install._installed.spool.bytes_max = SPOOL_BYTES_MAX
        found = soak(calls)
        tallystick.uninstrument()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--bare", action="store_true", help="without instrument()")
    arguments = parser.parse_args()
    if arguments.bare:
        print(json.dumps(soak(arguments.calls)))
        return
    found = {"instrumented": instrumented(arguments.calls)}
    bare = [sys.executable, __file__, "--bare", "--calls", str(arguments.calls)]
    found["bare"] = json.loads(subprocess.run(bare, capture_output=True, text=True, check=True).stdout)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
