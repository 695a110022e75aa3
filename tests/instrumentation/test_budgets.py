"""Hard budgets over real SDK clients, a real collector and the loopback provider, whose own bill is the judge."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import tallystick
from fakes.collector import Running, running_collector, until
from fakes.provider import Provider
from tallystick.errors import BudgetExceededError

MODEL = "gpt-4o-mini"
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "messages": [{"role": "user", "content": "hi " * 20}]}


class Guarded:
    """An instrumented process with a collector that keeps its budgets."""

    def __init__(self, collector: Running, provider: Provider) -> None:
        self.collector = collector
        self.provider = provider

    def standing(self, **dimensions: str) -> dict[str, Decimal]:
        """Return what the ledger says is spent and held, as it tells somebody whom it refuses."""
        told = {
            "id": secrets.token_hex(16),
            "dimensions": {"service": "shop", "environment": "test", **dimensions},
            "usd": "999999999", "tokens": 10**11, "calls": 10**11, "lease_s": 1,
        }  # fmt: skip
        status, body = self.collector.post(
            json.dumps(told).encode(), "/api/v1/reservations", content_type="application/json"
        )
        assert status == 409, body
        answer = json.loads(body)
        return {key: Decimal(answer[key]) for key in ("spent", "reserved", "limit", "room")}

    def rests(self, **dimensions: str) -> dict[str, Decimal]:
        """Wait until nothing is held, and return how the budget stands then."""
        until(lambda: self.standing(**dimensions)["reserved"] == 0, "something is still held", 8)
        return self.standing(**dimensions)

    @property
    def billed(self) -> Decimal:
        return Decimal(str(self.provider.invoice()["total_usd"]))


def toml(limit: str = "limit_usd = 0.01", **keys: Any) -> str:
    keys = {"wait": 5, **keys}  # the machine may be busy
    lines = [f"{key} = {value if key == 'scope' else json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[budget]]", 'name = "team"', limit, 'action = "block"' if "action" not in keys else "", *lines])


@contextmanager
def guarded(tmp_path: Path, provider: Provider, budgets: str, **settings: Any) -> Iterator[Guarded]:
    with running_collector(tmp_path, budgets) as collector:
        tallystick.instrument(
            service="shop", environment="test", collector=collector.url, spool=tmp_path / "spool",
            providers=provider.mapping, **settings,
        )  # fmt: skip
        try:
            yield Guarded(collector, provider)
        finally:
            tallystick.uninstrument()


def test_a_call_that_does_not_fit_is_not_sent_and_the_error_shows_the_sum(
    tmp_path: Path, provider: Provider, oai: openai.OpenAI
) -> None:
    with guarded(tmp_path, provider, toml("limit_usd = 0.0000001")) as app:
        with pytest.raises(BudgetExceededError) as caught:
            oai.chat.completions.create(**ASKED)

        error = caught.value
        assert provider.requests() == []
        assert (error.budget, error.unit, error.limit, error.spent) == ("team", "usd", Decimal("0.0000001"), 0)
        assert error.needed is not None
        assert error.needed > Decimal("0.0005")
        assert error.window is not None
        assert error.resets_at is None  # it never fits
        for figure in (error.spent, error.reserved, error.needed, error.limit):
            assert f"{figure:f}" in str(error)
        assert tallystick.flush()
        app.collector.settle()
        [call] = app.collector.ask("calls")["rows"]
        assert call["outcome"] == "budget_blocked"


def test_what_is_held_becomes_what_was_billed(tmp_path: Path, provider: Provider, oai: openai.OpenAI) -> None:
    with guarded(tmp_path, provider, toml()) as app:
        for _ in range(3):
            oai.chat.completions.create(**ASKED)

        assert app.rests()["spent"] == app.billed > 0


async def test_async_calls_are_held_to_it_and_the_loop_is_not_held_up(
    tmp_path: Path, provider: Provider, async_oai: openai.AsyncOpenAI
) -> None:
    with guarded(tmp_path, provider, toml("limit_usd = 0.0008")) as app:
        answers = await asyncio.gather(
            *(async_oai.chat.completions.create(**ASKED) for _ in range(20)), return_exceptions=True
        )

        refused = [answer for answer in answers if isinstance(answer, BudgetExceededError)]
        assert 0 < len(refused) < 20
        assert len(refused) + len(provider.requests()) == 20
        assert app.billed <= Decimal("0.0008")
        assert app.rests()["spent"] == app.billed


def test_threads_never_pass_the_limit_and_use_nearly_all_of_it(
    tmp_path: Path, provider: Provider, ant: anthropic.Anthropic
) -> None:
    limit = Decimal("0.12")
    with guarded(tmp_path, provider, toml(f"limit_usd = {limit}", wait=0.4)) as app:

        def work() -> None:
            asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 400, "messages": ASKED["messages"]}
            misses = 0
            while misses < 3:
                try:
                    ant.with_options(max_retries=0).messages.create(**asked)
                except BudgetExceededError:
                    misses += 1
                    time.sleep(0.05)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert limit * Decimal("0.9") <= app.billed <= limit
        assert app.rests()["spent"] == app.billed
