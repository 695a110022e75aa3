"""One process, one framework: instrumented before its import or after it, between a loopback provider and a receiver.

These tests run in environments of their own, which ``python tests/frameworks/run.py`` makes; elsewhere they are not
collected.  ``TALLYSTICK_FRAMEWORK`` names the environment, ``TALLYSTICK_ORDER`` who comes first.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tallystick
from fakes.provider import Provider, running_provider
from fakes.receiver import Receiver, running_receiver

FRAMEWORK = os.environ.get("TALLYSTICK_FRAMEWORK", "")
WE_ARE_FIRST = os.environ.get("TALLYSTICK_ORDER") == "first"
MODULES = {
    "langchain": ["langchain_openai", "langchain_anthropic"],
    "pydantic-ai": ["pydantic_ai", "pydantic_ai.models.openai", "pydantic_ai.models.anthropic"],
    "instructor": ["instructor", "openai", "anthropic"],
    "openai-agents": ["agents"],
    "litellm": ["litellm"],
}
PATCHED = {"anthropic", "openai", "httpx", "httpx2"}

collect_ignore_glob = [] if FRAMEWORK else ["test_*.py"]

# Nothing of these reaches the network, or a home folder.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
}


@dataclass
class House:
    """The mock's books beside the ledger."""

    provider: Provider
    receiver: Receiver
    spool: Path

    def instrument(self) -> None:
        tallystick.instrument(
            service="shop", collector=self.receiver.url, spool=self.spool, providers=self.provider.mapping
        )

    def spans(self) -> list[Any]:
        assert tallystick.flush()
        return self.receiver.spans()


def attributes_of(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


class Watch:
    """What the provider billed and what the ledger has of it, since this was made."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._spans = len(house.spans())
        self._items = len(house.provider.invoice()["items"])
        self._requests = len(house.provider.requests())

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [said for said in self._new() if "tallystick.outcome" in said]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return [said for said in self._new() if said.get("tallystick.attempt")]

    @property
    def billed(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._house.provider.invoice()["items"][self._items :]
        return items

    def _new(self) -> list[dict[str, Any]]:
        return [attributes_of(span) for span in self._house.spans()[self._spans :]]

    def check(self, calls: int, *, exact: bool = True) -> None:
        """Each billed answer is one unit, at its price; each request one attempt; no call more or less."""
        units = [unit for call in self.calls for unit in json.loads(call["tallystick.units"])]
        assert len(self.calls) == calls, [call.get("gen_ai.request.model") for call in self.calls]
        assert Counter(unit["id"] for unit in units if unit["id"]) == Counter(
            item["id"] for item in self.billed if not item["id"].startswith("req_")
        )
        assert len(units) == len(self.billed)
        assert len(self.attempts) == len(self._house.provider.requests()) - self._requests
        if exact:
            assert sum(Decimal(unit["cost_usd"]) for unit in units) == sum(Decimal(item["usd"]) for item in self.billed)
            assert {unit["cost_status"] for unit in units} <= {"exact"}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    os.environ.update(QUIET)
    with running_provider() as provider, running_receiver() as receiver:
        made = House(provider, receiver, tmp_path_factory.mktemp("spool"))
        if WE_ARE_FIRST:
            assert PATCHED.isdisjoint(sys.modules), "instrument() comes before every import of what it patches"
            made.instrument()
        for name in MODULES.get(FRAMEWORK, []):
            import_module(name)
        if not WE_ARE_FIRST:
            made.instrument()
        yield made
        tallystick.uninstrument()


@pytest.fixture
def drive(house: House) -> Callable[..., Watch]:
    """Run a shape; what fails without us as well is absent, and named."""

    def run(shape: Callable[[Provider], Any]) -> Watch:
        watch = Watch(house)
        try:
            shape(house.provider)
        except Exception as error:
            tallystick.uninstrument()
            try:
                shape(house.provider)
            except type(error) as without_us:
                pytest.skip(f"absent, without us too: {without_us!r:.200}")
            finally:
                house.instrument()
                house.provider.clear_scripts()
            raise
        return watch

    return run
