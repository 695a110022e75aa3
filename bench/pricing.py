"""What pricing costs: loading the book, one receipt, one bound, and the same calls in other libraries beside it.

    python bench/pricing.py [--rounds 7]
    uv pip install --group bench    # litellm too: 130 MB

Prints microseconds of CPU time, the best of the rounds, which alternate between the libraries: on a machine that does
other things, too, that is the figure that comes back.  Loading is the median of fresh processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tallystick.pricing import price, upper_bound

CALLS = 2000

MESSAGES: dict[str, Any] = {
    "input_tokens": 53,
    "cache_creation_input_tokens": 11111,
    "cache_read_input_tokens": 40211,
    "output_tokens": 702,
    "service_tier": "standard",
    "cache_creation": {"ephemeral_5m_input_tokens": 2110, "ephemeral_1h_input_tokens": 9001},
}
CHAT: dict[str, Any] = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
AT = "2026-11-20T12:00:00Z"
LOADING = """
import time, json
start = time.perf_counter(); import tallystick.pricing; imported = time.perf_counter()
tallystick.pricing.load_book(); loaded = time.perf_counter()
tallystick.pricing.price("openai", "gpt-4o", {"prompt_tokens": 1, "completion_tokens": 1}); first = time.perf_counter()
print(json.dumps([(imported - start) * 1e3, (loaded - imported) * 1e3, (first - loaded) * 1e3]))
"""


def us_per_call(work: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - start) / CALLS * 1e6


def loading_ms(rounds: int) -> list[float]:
    samples = [
        json.loads(subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


Works = dict[str, Callable[[], object]]


def receipts() -> dict[str, Works]:
    """Return each case with the libraries that price it."""
    claude: Works = {
        "ours": lambda: price(
            "anthropic", "claude-sonnet-4-6", MESSAGES, api="messages", base_url="https://api.anthropic.com",
            timestamp=AT,
        ),
        "genai-prices": theirs("anthropic", "claude-sonnet-4-6", MESSAGES, "default"),
    }  # fmt: skip
    gpt: Works = {
        "ours": lambda: price(
            "openai", "gpt-4o-2024-08-06", CHAT, api="chat", base_url="https://api.openai.com/v1",
            service_tier="default", timestamp=AT,
        ),
        "genai-prices": theirs("openai", "gpt-4o-2024-08-06", CHAT, "chat"),
    }  # fmt: skip
    if importlib.util.find_spec("litellm") is not None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network for prices
        in_all = (
            MESSAGES["input_tokens"] + MESSAGES["cache_creation_input_tokens"] + MESSAGES["cache_read_input_tokens"]
        )
        claude["litellm"] = litellms(
            "claude-sonnet-4-6",
            prompt_tokens=in_all,
            completion_tokens=MESSAGES["output_tokens"],
            cache_creation_input_tokens=MESSAGES["cache_creation_input_tokens"],
            cache_read_input_tokens=MESSAGES["cache_read_input_tokens"],
        )
        gpt["litellm"] = litellms("gpt-4o-2024-08-06", **CHAT)
    return {"messages, 4 classes": claude, "chat, 2 classes": gpt}


def theirs(provider: str, model: str, usage: dict[str, Any], flavor: str) -> Callable[[], object]:
    from genai_prices import extract_usage

    answer = {"model": model, "usage": usage}
    at = datetime.fromisoformat(AT)
    return lambda: extract_usage(answer, provider_id=provider, api_flavor=flavor).calc_price(genai_request_timestamp=at)


def litellms(model: str, **usage: Any) -> Callable[[], object]:
    from litellm import ModelResponse, completion_cost

    answer = ModelResponse(model=model, usage=usage)
    return lambda: completion_cost(completion_response=answer, model=model)


def bounds() -> Works:
    turns = [{"role": role, "content": "What did it cost us, and why? " * 16} for role in ("user", "assistant") * 4]
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"name": f"tool_{n}", "description": "Say the weather. " * 8, "input_schema": schema} for n in range(3)]
    system = [{"type": "text", "text": "Be brief. " * 40, "cache_control": {"type": "ephemeral"}}]
    small = {"model": "gpt-4o", "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]}
    large = {"model": "claude-sonnet-4-6", "max_tokens": 1024, "system": system, "tools": tools, "messages": turns}
    return {
        "bound of one short message": lambda: upper_bound(
            "openai", "gpt-4o", small, api="chat", base_url="https://api.openai.com/v1"
        ),
        f"bound of {len(json.dumps(large)) / 1000:.0f} kB with tools and caching": lambda: upper_bound(
            "anthropic", "claude-sonnet-4-6", large, api="messages", base_url="https://api.anthropic.com"
        ),
    }


def best(works: Works, rounds: int) -> dict[str, float]:
    for work in works.values():
        work()
    samples = [{name: us_per_call(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(sample[name] for sample in samples) for name in works}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    imported, loaded, first = loading_ms(rounds)
    print(f"python {sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d}, best of {rounds}, CPU time")
    print(f"import {imported:.1f} ms, load the book {loaded:.1f} ms, first price {first:.1f} ms")
    for name, works in receipts().items():
        took = best(works, rounds)
        others = [
            f"{other} {us:.1f} us ({us / took['ours']:.1f} times)" for other, us in took.items() if other != "ours"
        ]
        print(f"{name}: {took['ours']:.1f} us warm; {', '.join(others)}")
    for name, us in best(bounds(), rounds).items():
        print(f"{name}: {us:.1f} us warm")


if __name__ == "__main__":
    main()
