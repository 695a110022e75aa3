"""Every billing rule, its cases reckoned here by themselves from the published lists, and how many of them are right.

python tests/pricing/rules.py
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from test_price_list import CLAUDE, OPENAI, OPENAI_WRITES

from tallystick.pricing import price

NOON = "2026-11-20T12:00:00Z"
ANTHROPIC, OPENAI_URL = "https://api.anthropic.com", "https://api.openai.com/v1"
FAST = {"claude-fable-5-2", "claude-mythos-5-2", "claude-opus-5-5", "claude-opus-5", "claude-opus-4-8"}
BEFORE_GEO = ("4-5", "4-1")
SINCE_MARCH = ("gpt-5.4", "gpt-5.5", "gpt-5.6", "gpt-6")
"""Released from 2026-03-05 on: dearer at regional hosts, and past 272,000 tokens."""
SHORT = ("gpt-5.4-mini", "gpt-5.4-nano")
HALF, TENTH_MORE = Decimal("0.5"), Decimal("1.1")


class Case(NamedTuple):
    """A call, and what it costs; None when it has no price."""

    usd: Decimal | None
    provider: str
    model: str
    usage: Any
    params: dict[str, Any]

    def is_right(self) -> bool:
        receipt = price(self.provider, self.model, self.usage, **{"timestamp": NOON, **self.params})
        return receipt.cost_usd == self.usd and (self.usd is not None or bool(receipt.reason))


def usd(*pairs: tuple[int, str | Decimal], factor: Decimal | int = 1) -> Decimal:
    """Return what tokens cost: (count, USD per million) each."""
    return sum((count * Decimal(rate) for count, rate in pairs), Decimal(0)) * factor / 1_000_000


def claude(model: str, cost: Decimal | None, usage: Any, **params: Any) -> Case:
    return Case(cost, "anthropic", model, usage, {"api": "messages", "base_url": ANTHROPIC, **params})


def gpt(model: str, cost: Decimal | None, usage: Any, **params: Any) -> Case:
    return Case(cost, "openai", model, usage, {"api": "responses", "base_url": OPENAI_URL, **params})


def read_and_written(read: int, written: int, **details: Any) -> dict[str, Any]:
    return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written,
            "input_tokens_details": details}  # fmt: skip


def claude_multipliers() -> Iterator[Case]:
    """Batch, speed and geography multiply on tokens of every class; searches cost a cent each, fetches nothing."""
    for model, (fresh, read, write_5m, write_1h, answer) in CLAUDE.items():
        for is_batch, is_fast, geo, searches in itertools.product((0, 1), (0, 1), ("us", "global"), (0, 3)):
            if is_fast and (is_batch or model not in FAST):
                continue
            factor = (HALF if is_batch else 1) * Decimal(2 if is_fast else 1)
            if geo == "us" and not any(part in model for part in BEFORE_GEO):
                factor *= TENTH_MORE
            usage = {
                "input_tokens": 123, "cache_read_input_tokens": 4567, "cache_creation_input_tokens": 890,
                "cache_creation": {"ephemeral_5m_input_tokens": 800, "ephemeral_1h_input_tokens": 90},
                "output_tokens": 77, "service_tier": "batch" if is_batch else "standard", "inference_geo": geo,
                "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": 9},
                **({"speed": "fast"} if is_fast else {}),
            }  # fmt: skip
            tokens = ((123, fresh), (4567, read), (800, write_5m), (90, write_1h), (77, answer))
            yield claude(model, usd(*tokens, factor=factor) + Decimal(searches) / 100, usage, batch=bool(is_batch))


def claude_long_context() -> Iterator[Case]:
    """Past 100,000 tokens, the cached ones counted, all of a request to Haiku 5.5 costs five times as much."""
    for prompt, cached in itertools.product((99_999, 100_000, 100_001), (0, 50_000)):
        usage = {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": 10}
        tokens = ((prompt - cached, "0.1"), (cached, "0.01"), (10, "0.5"))
        yield claude("claude-haiku-5-5", usd(*tokens, factor=5 if prompt > 100_000 else 1), usage)


def claude_iterations() -> Iterator[Case]:
    """A compaction is outside the totals, an advisor too, and at its own model's price."""
    usage = {"input_tokens": 100, "output_tokens": 50}
    outside = {"input_tokens": 5000, "output_tokens": 300}
    inside = {"type": "message", **usage}
    cost = usd((100, "5"), (50, "25"))
    compacted = {**usage, "iterations": [{"type": "compaction", **outside}, inside]}
    yield claude("claude-opus-5", cost + usd((5000, "5"), (300, "25")), compacted)
    advised = {**usage, "iterations": [{"type": "advisor_message", "model": "claude-haiku-4-5", **outside}, inside]}
    yield claude("claude-opus-5", cost + usd((5000, "1"), (300, "5")), advised)


def openai_totals() -> Iterator[Case]:
    """Totals contain what was cached and what was reasoned; regional hosts cost a tenth more on newer models."""
    for (model, (fresh, cached_rate, answer)), host, cached in itertools.product(
        OPENAI.items(), ("", "eu.", "us."), (0, 1920)
    ):
        factor = TENTH_MORE if host and model.startswith(SINCE_MARCH) else 1
        cost = usd((2006 - cached, fresh), (cached, cached_rate), (300, answer), factor=factor)
        where = {"base_url": f"https://{host}api.openai.com/v1", "service_tier": "default"}
        reasoned = {"reasoning_tokens": 128}
        responses = {**read_and_written(2006, 300, cached_tokens=cached), "output_tokens_details": reasoned}
        yield gpt(model, cost, responses, **where)
        chat = {"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": cached}, "completion_tokens_details": reasoned}  # fmt: skip
        yield gpt(model, cost, chat, **where, api="chat")


def openai_long_context() -> Iterator[Case]:
    """Past 272,000 tokens, the cached ones counted, reading costs twice and writing half as much again."""
    for model, (fresh, cached_rate, answer) in OPENAI.items():
        if not model.startswith(SINCE_MARCH) or model in SHORT or model == "gpt-5.4-2026-03-05":
            continue
        for prompt, is_cached in itertools.product((271_999, 272_000, 272_001, 400_000), (False, True)):
            cached = prompt - 5 if is_cached else 0
            is_long = prompt > 272_000
            read = usd((prompt - cached, fresh), (cached, cached_rate), factor=2 if is_long else 1)
            written = usd((100, answer), factor=Decimal("1.5") if is_long else 1)
            yield gpt(model, read + written, read_and_written(prompt, 100, cached_tokens=cached))


def openai_writes() -> Iterator[Case]:
    """A cache write is inside the total, and costs by how long it lives; half an hour when nobody says."""
    for model, (short, long) in OPENAI_WRITES.items():
        fresh, cached, answer = OPENAI[model]
        for lives in ({"ttl_30m_tokens": 500}, {"ttl_12h_tokens": 500}, {"ttl_30m_tokens": 300, "ttl_12h_tokens": 200},
                      None):  # fmt: skip
            kept = (lives or {}).get("ttl_12h_tokens", 0)
            cost = usd((1100, fresh), (400, cached), (500 - kept, short), (kept, long), (10, answer))
            told = {} if lives is None else {"cache_write_tokens_details": lives}
            yield gpt(model, cost, read_and_written(2000, 10, cached_tokens=400, cache_write_tokens=500, **told))


def openai_searches() -> Iterator[Case]:
    """Searches are in the response's tool_usage, a cent each."""
    for model, (fresh, _, answer) in OPENAI.items():
        if not model.startswith("ft:"):
            told = {"web_search": {"num_requests": 3}, "image_gen": {"input_tokens": 0, "output_tokens": 0}}
            cost = usd((2006, fresh), (300, answer)) + Decimal("0.03")
            yield gpt(model, cost, read_and_written(2006, 300), tool_usage=told)


def served_tier() -> Iterator[Case]:
    """The response's tier decides, whatever was asked for."""
    for requested in ("flex", "priority", "auto", "fast"):
        tiers = {"service_tier": "default", "requested_service_tier": requested}
        yield gpt("gpt-5-mini", usd((1000, "0.25"), (100, "2")), read_and_written(1000, 100), **tiers)


def others_totals() -> Iterator[Case]:
    """xAI reasons outside the answer and steps at 200,000; Gemini thinks outside it, caches inside, steps after."""
    for prompt in (199_999, 200_000, 200_001):
        usage = {"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 60,
                 "completion_tokens_details": {"reasoning_tokens": 50}}  # fmt: skip
        cost = usd((prompt, "2"), (60, "6"), factor=2 if prompt >= 200_000 else 1)
        yield Case(cost, "xai", "grok-4.7", usage, {"api": "chat", "base_url": "https://api.x.ai/v1"})
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": 10, "thoughtsTokenCount": 5,
                 "totalTokenCount": prompt + 15, "cachedContentTokenCount": 1000}  # fmt: skip
        rates = ("2.5", "0.25", "15") if prompt > 200_000 else ("1.25", "0.125", "10")
        cost = usd(*zip((prompt - 1000, 1000, 15), rates, strict=True))
        where = {"api": "generateContent", "base_url": "https://generativelanguage.googleapis.com"}
        yield Case(cost, "google", "gemini-2.5-pro", usage, where)


def hours_and_days() -> Iterator[Case]:
    """The price of the day and the hour of the call: DeepSeek's peak on working days, what changed, what will."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    for at, is_peak in (("18T02:30", True), ("18T12:00", False), ("21T02:30", False), ("22T02:30", False),
                        ("23T02:30", True)):  # fmt: skip
        cost = usd((1000, "0.15"), (100, "0.60"), factor=2 if is_peak else 1)
        where = {"api": "chat", "base_url": "https://api.deepseek.com", "timestamp": f"2026-11-{at}:00Z"}
        yield Case(cost, "deepseek", "deepseek-flash", usage, where)
    for day, rates in (("2026-08-01", ("5", "30")), ("2026-11-20", ("4", "20"))):
        yield gpt("gpt-5.6-sol", usd((1000, rates[0]), (1000, rates[1])), read_and_written(1000, 1000), timestamp=day)


def stated_charges() -> Iterator[Case]:
    """What the provider says that it charged wins, also 0, also for a model that nobody lists."""
    for model, cost in (("nobody/knows-this", "0.0123"), ("x/y:free", "0"), ("anthropic/claude-sonnet-4.5", "0.0105")):
        usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500, "cost": float(cost)}
        where = {"api": "chat", "base_url": "https://openrouter.ai/api/v1"}
        yield Case(Decimal(cost), "openrouter", model, usage, where)


def unlisted_names() -> Iterator[Case]:
    """A name is listed, an alias, or a name with a date; whatever only begins like one has no price."""
    for name in ("claude-opus-6", "claude-sonnet-4-5-lite", "claude-haiku-5-5-mini", "claude-opus-5-5-20261332",
                 "claude", "claude-3", "claude-opus", "claude-sonnet-4-7"):  # fmt: skip
        yield claude(name, None, {"input_tokens": 10, "output_tokens": 5})
    for name in ("gpt-5.4-turbo", "gpt-5-nano-acme", "o3-ultra", "gpt-7", "gpt-6-solar", "gpt-4o-mini-2024-13-45",
                 "gpt-4.1-micro", "gpt-4o-", "ft:gpt-9:a::b", "gpt-5.4-2026", "gpt", "o5"):  # fmt: skip
        yield gpt(name, None, read_and_written(10, 5))
    for host in ("http://localhost:1234/v1", "http://10.0.0.5:8000/v1", "https://vllm.internal/v1"):
        yield gpt("gpt-4o", None, read_and_written(10, 5), base_url=host)


def contradictions() -> Iterator[Case]:
    """Counts that are negative, missing, no numbers, or larger than what they are part of, are refused."""
    for usage in (
        {"input_tokens": -1, "output_tokens": 5}, {"input_tokens": 10}, {}, None, [1], "x",
        {"input_tokens": "12", "output_tokens": 5}, {"input_tokens": 1.5, "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5}, {"input_tokens": 10, "output_tokens": float("nan")},
        {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 5,
         "cache_creation": {"ephemeral_5m_input_tokens": 9}},
    ):  # fmt: skip
        yield claude("claude-opus-5", None, usage)
    for usage in (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3},
        {"prompt_tokens": 10, "completion_tokens": -5},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"audio_tokens": 11}},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, {"completion_tokens": 5}, None, {},
    ):  # fmt: skip
        yield gpt("gpt-4o", None, usage, api="chat")


RULES: tuple[Callable[[], Iterator[Case]], ...] = (
    claude_multipliers, claude_long_context, claude_iterations, openai_totals, openai_long_context, openai_writes,
    openai_searches, served_tier, others_totals, hours_and_days, stated_charges, unlisted_names, contradictions,
)  # fmt: skip


def main() -> None:
    print(f"{'rule':20} cases  wrong")
    for rule in RULES:
        verdicts = [case.is_right() for case in rule()]
        print(f"{rule.__name__:20} {len(verdicts):5} {verdicts.count(False):6}  {rule.__doc__}")


if __name__ == "__main__":
    main()
