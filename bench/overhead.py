"""What instrument() costs an app: CPU time of the calling thread per call, beside the bare SDK and a bare OTel span.

    python bench/overhead.py [--rounds 15]

The provider is an in-process mock transport, so that only client code is measured. Variants run interleaved, round by
round; the figure is the 10th percentile of the calls (the machine may be shared) and the median. ``floor`` is the bare
SDK inside one OpenTelemetry span with 20 attributes; ``httpx`` is the bare SDK with
opentelemetry-instrumentation-httpx alone.  ``call`` is ours with the app's ``httpx2.Client.send`` as it was, so that no
attempt is seen: the span of the call, its price and its place in the spool.  What ``tallystick`` takes beyond it is the
span of the attempt.  A stream's figure per chunk has what its call costs in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import anthropic
import httpx2
import openai
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import tallystick

CHUNKS = 200
CALL_US = 100
"""What a plain call may cost, its attempt apart; that may cost what ``httpx`` does."""
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 100}}],
    "usage": {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000,
              "prompt_tokens_details": {"cached_tokens": 512}, "completion_tokens_details": {"reasoning_tokens": 0}},
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "word " * 100}],
    "usage": {"input_tokens": 388, "output_tokens": 100, "cache_read_input_tokens": 512,
              "cache_creation_input_tokens": 0},
}  # fmt: skip


def event(name: str | None, data: object) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chat_events() -> Iterator[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    for _ in range(CHUNKS):
        yield event(None, base | {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]})
    yield event(None, base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield event(None, base | {"choices": [], "usage": CHAT["usage"]})
    yield b"data: [DONE]\n\n"


def message_events() -> Iterator[bytes]:
    yield event("message_start", {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None}})
    yield event(
        "content_block_start",
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )
    for _ in range(CHUNKS):
        yield event(
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}},
        )
    yield event("content_block_stop", {"type": "content_block_stop", "index": 0})
    yield event(
        "message_delta",
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
    )
    yield event("message_stop", {"type": "message_stop"})


class Events(httpx2.SyncByteStream):
    def __init__(self, events: list[bytes]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        yield from self._events


CHAT_EVENTS, MESSAGE_EVENTS = list(chat_events()), list(message_events())


def answer(request: httpx2.Request) -> httpx2.Response:
    streamed = b'"stream":true' in request.content
    chat = request.url.path.endswith("/chat/completions")
    if streamed:
        events = Events(CHAT_EVENTS if chat else MESSAGE_EVENTS)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=events)
    return httpx2.Response(200, json=CHAT if chat else MESSAGE)


def clients() -> tuple[openai.OpenAI, anthropic.Anthropic, httpx2.Client]:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    key = "sk-0123456789abcdef0123"
    return openai.OpenAI(api_key=key, http_client=http), anthropic.Anthropic(api_key=key, http_client=http), http


def calls(oai: openai.OpenAI, ant: anthropic.Anthropic) -> dict[str, Callable[[], Any]]:
    messages: Any = [{"role": "user", "content": "hello " * 50}]
    return {
        "openai chat": lambda: oai.chat.completions.create(model="gpt-4o", messages=messages),
        "openai stream": lambda: list(
            oai.chat.completions.create(
                model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        ),
        "anthropic message": lambda: ant.messages.create(model="claude-sonnet-5", max_tokens=200, messages=messages),
        "anthropic stream": lambda: list(
            ant.messages.create(model="claude-sonnet-5", max_tokens=200, messages=messages, stream=True)
        ),
    }


def cpu_us(call: Callable[[], Any]) -> float:
    started = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - started) / 1000


def tenth(taken: list[float]) -> float:
    """Return the 10th percentile: what a call takes when nobody else is in the caches."""
    return statistics.quantiles(taken, n=10)[0]


@contextmanager
def recording(spool: str, *, attempts: bool) -> Iterator[None]:
    """Be instrumented; without ``attempts`` the HTTP client sends as it did before."""
    tallystick.instrument(spool=spool, collector="http://127.0.0.1:9", service="bench")
    patched: Any = vars(httpx2.Client)["send"]
    try:
        if not attempts:
            httpx2.Client.send = patched.__wrapped__
        yield
    finally:
        httpx2.Client.send = patched
        tallystick.uninstrument()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("floor")
    attributes = {f"gen_ai.attribute.{n}": f"value {n}" for n in range(20)}

    def in_span(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            with tracer.start_as_current_span("floor", attributes=attributes):
                call()

        return run

    bare = clients()
    traced = clients()
    HTTPX2ClientInstrumentor.instrument_client(traced[2], tracer_provider=TracerProvider(shutdown_on_exit=False))
    ours = clients()
    variants = {
        "bare": calls(*bare[:2]),
        "floor": {name: in_span(call) for name, call in calls(*bare[:2]).items()},
        "httpx": calls(*traced[:2]),
        "call": calls(*ours[:2]),
        "tallystick": calls(*ours[:2]),
    }
    figures: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as spool:
        for _ in range(rounds):
            for variant, named in variants.items():
                recorded = variant in {"call", "tallystick"}
                with recording(spool, attempts=variant == "tallystick") if recorded else nullcontext():
                    for name, call in named.items():
                        call()
                        n = 10 if "stream" in name else 100
                        figures.setdefault((variant, name), []).extend(cpu_us(call) for _ in range(n))
    print(f"CPU us per call, 10th percentile of {rounds} rounds (median); +us over bare; ratio to floor")
    for name in variants["bare"]:
        floor, nothing = tenth(figures["floor", name]), tenth(figures["bare", name])
        for variant in variants:
            taken = figures[variant, name]
            best, median = tenth(taken), statistics.median(taken)
            per_chunk = f"  {(best - nothing) / CHUNKS:+.2f} us/chunk" if "stream" in name else ""
            added = f"{best - nothing:+8.1f} us  {best / floor:5.2f} of floor{per_chunk}"
            print(f"{name:18} {variant:11} {best:9.1f} ({median:9.1f}) {added}")
        if "stream" not in name:
            call, http, all_of_it = (tenth(figures[of, name]) - nothing for of in ("call", "httpx", "tallystick"))
            print(
                f"{name:18} the call {call:.1f} us (aim {CALL_US}), its attempt {all_of_it - call:.1f} "
                f"(aim {http:.1f}, what httpx takes); both {all_of_it:.1f} of {CALL_US + http:.1f}"
            )


if __name__ == "__main__":
    main()
