"""The mock's books beside the ledger, for the tests that run in an environment of their own."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import tallystick
from fakes.provider import Provider
from fakes.receiver import Receiver

FRAMEWORK = os.environ.get("TALLYSTICK_FRAMEWORK", "")
"""The environment's name; empty elsewhere."""
WE_ARE_FIRST = os.environ.get("TALLYSTICK_ORDER") == "first"
PATCHED = {"anthropic", "openai", "httpx", "httpx2"}


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
