"""What pricing costs: loading the book, one priced call, and the same call in genai-prices beside it.

    python bench/pricing.py [--rounds 7]

Prints medians over rounds; the ratio is to genai-prices in the same process, run and round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

CALLS = 5000

MESSAGES = {
    "input_tokens": 53,
    "cache_creation_input_tokens": 11111,
    "cache_read_input_tokens": 40211,
    "output_tokens": 702,
    "service_tier": "standard",
    "cache_creation": {"ephemeral_5m_input_tokens": 2110, "ephemeral_1h_input_tokens": 9001},
}
CHAT = {
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
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    return (time.perf_counter() - start) / CALLS * 1e6


def loading_ms(rounds: int) -> list[float]:
    samples = [
        json.loads(subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def works() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    from genai_prices import extract_usage

    from tallystick.pricing import price

    at = datetime.fromisoformat(AT)

    def theirs(provider: str, model: str, usage: dict[str, object], flavor: str) -> Callable[[], object]:
        answer = {"model": model, "usage": usage}
        return lambda: extract_usage(answer, provider_id=provider, api_flavor=flavor).calc_price(
            genai_request_timestamp=at
        )

    return {
        "messages, 4 classes": (
            lambda: price(
                "anthropic", "claude-sonnet-4-6", MESSAGES, api="messages", base_url="https://api.anthropic.com",
                timestamp=AT,
            ),
            theirs("anthropic", "claude-sonnet-4-6", MESSAGES, "default"),
        ),
        "chat, 3 classes": (
            lambda: price(
                "openai", "gpt-4o-2024-08-06", CHAT, api="chat", base_url="https://api.openai.com/v1",
                service_tier="default", timestamp=AT,
            ),
            theirs("openai", "gpt-4o-2024-08-06", CHAT, "chat"),
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    imported, loaded, first = loading_ms(rounds)
    print(f"python {sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d}, median of {rounds}")
    print(f"import {imported:.1f} ms, load the book {loaded:.1f} ms, first price {first:.1f} ms")
    for name, (ours, theirs) in works().items():
        ours(), theirs()
        pairs = [(us_per_call(ours), us_per_call(theirs)) for _ in range(rounds)]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: {mine:.1f} us warm; genai-prices {other:.1f} us; ratio {other / mine:.1f}")


if __name__ == "__main__":
    main()
