"""The mock's own books: what it would bill, with rates and arithmetic of its own.

Nothing here may come from `tallystick.pricing`: an invoice that is made by the code it is to check proves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

PER = Decimal(1_000_000)
FEES_USD = {"web_search": Decimal("0.01"), "session_quarters": Decimal("0.02")}
"""What one costs, whatever the model: a search, a quarter of an hour that an agent was at work."""


def _claude(read: str, cached: str, write_5m: str, write_1h: str, written: str) -> dict[str, Decimal]:
    names = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    return {name: Decimal(rate) for name, rate in zip(names, (read, cached, write_5m, write_1h, written), strict=True)}


def _gpt(read: str, cached: str, written: str) -> dict[str, Decimal]:
    return {"input": Decimal(read), "cache_read": Decimal(cached), "output": Decimal(written)}


# USD for a million tokens, standard tier.  Sources: platform.claude.com/docs/en/about-claude/pricing and
# developers.openai.com/api/docs/pricing, as of November 2026.
RATES: dict[tuple[str, str], dict[str, Decimal]] = {
    ("anthropic", "claude-opus-5-5"): _claude("4", "0.20", "5", "8", "20"),
    ("anthropic", "claude-opus-4-5-20251101"): _claude("5", "0.50", "6.25", "10", "25"),
    ("anthropic", "claude-sonnet-5-5"): _claude("2", "0.10", "2.5", "4", "10"),
    ("anthropic", "claude-sonnet-4-5-20250929"): _claude("3", "0.30", "3.75", "6", "15"),
    ("anthropic", "claude-haiku-4-5-20251001"): _claude("1", "0.10", "1.25", "2", "5"),
    ("openai", "gpt-4o-2024-08-06"): _gpt("2.5", "1.25", "10") | {"training": Decimal(25)},
    ("openai", "gpt-4o-mini-2024-07-18"): _gpt("0.15", "0.075", "0.60"),
    ("openai", "gpt-4.1-mini-2025-04-14"): _gpt("0.40", "0.10", "1.60"),
    ("openai", "gpt-5-2025-08-07"): _gpt("1.25", "0.125", "10"),
    ("openai", "gpt-5-mini-2025-08-07"): _gpt("0.25", "0.025", "2"),
    ("openai", "gpt-5.4-mini-2026-03-17"): _gpt("0.75", "0.075", "4.5"),
    ("openai", "gpt-3.5-turbo-instruct"): {"input": Decimal("1.5"), "output": Decimal(2)},
    ("openai", "text-embedding-3-small"): {"input": Decimal("0.02")},
    ("openai", "text-embedding-3-large"): {"input": Decimal("0.13")},
    ("openai", "gpt-image-1"): {"input": Decimal(5), "input_image": Decimal(10), "output_image": Decimal(40)},
    ("openai", "gpt-4o-mini-transcribe"): {"input": Decimal("1.25"), "input_audio": Decimal(3), "output": Decimal(5)},
    ("openai", "gpt-4o-transcribe"): {"input": Decimal("2.5"), "input_audio": Decimal(6), "output": Decimal(10)},
    ("openai", "whisper-1"): {"audio_seconds": Decimal(100)},  # 0.006 a minute
    ("openai", "gpt-live-1"): {"live_minutes": Decimal(50_000)},  # 3 an hour
    ("openai", "gpt-realtime-translate"): {"live_minutes": Decimal(34_000)},
    ("openai", "sora-2"): {"video_seconds": Decimal(100_000)},
    ("openai", "sora-2-pro"): {"video_seconds": Decimal(300_000), "video_seconds_1024p": Decimal(500_000)},
    ("openai", "tts-1"): {"characters": Decimal(15)},
    ("openai", "gpt-4o-mini-tts"): {"input": Decimal("0.60"), "output": Decimal(12)},
    ("openai", "gpt-realtime"): {
        "input": Decimal(4),
        "input_audio": Decimal(32),
        "output": Decimal(16),
        "output_audio": Decimal(64),
    },
}
FAMILIES = {
    "azure.ai.openai": "openai",
    "azure.ai.inference": "anthropic",
    "aws.bedrock": "anthropic",
    "gcp.vertex_ai": "anthropic",
}
"""Clouds charge what the model's maker does, but for the factor of a regional endpoint."""
REGIONAL_FACTOR = "1.1"
"""What Bedrock and Vertex take for an endpoint that is not global, for Claude 4.5 and later."""
US_FACTORS = {"claude-opus-5-5": "1.1", "claude-sonnet-5-5": "1.1"}
"""What Anthropic takes for ``inference_geo: us``, where it offers it."""
BATCH_FACTOR = "0.5"
TIER_FACTORS = {
    ("gpt-5-mini-2025-08-07", "flex"): Decimal("0.5"),
    ("gpt-5-mini-2025-08-07", "priority"): Decimal("1.8"),
}
FAST_FACTOR = {("anthropic", "claude-opus-5-5"): Decimal(2)}
"""What ``speed: fast`` multiplies the rates with."""
FULL_NAMES = {
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5.4-mini": "gpt-5.4-mini-2026-03-17",
}
"""As real answers do, those of the mock name the dated model."""
UNPRICED_MODEL = "house-model-1"
"""A model that nobody lists a price for; any name that is not in the table is answered, too."""


def charge_usd(
    provider: str, model: str, counts: Mapping[str, int], tier: str, speed: str, place: str = "1"
) -> Decimal | None:
    """Return the charge for ``counts`` (class: number), in USD, unrounded; None when the table has no rate for it."""
    provider = FAMILIES.get(provider, provider)
    rates = RATES.get((provider, model))
    factor = FAST_FACTOR.get((provider, model)) if speed == "fast" else Decimal(1)
    tiered = Decimal(1) if tier in {"standard", "default", "batch"} else TIER_FACTORS.get((model, tier))
    if rates is None or factor is None or tiered is None:
        return None
    factor *= tiered * Decimal(place)
    total = Decimal(0)
    for name, count in counts.items():
        if name in FEES_USD:
            total += count * FEES_USD[name]
        elif count and name not in rates:
            return None
        elif count:
            total += count * rates[name] * factor / PER
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line of the invoice: one response that was generated, whether or not it arrived."""

    id: str
    """The response's; the request's where the API gives its answers no id (embeddings)."""
    request_id: str
    request: int
    """Number of the HTTP request, as in ``/_mock/requests``."""
    attempt: int
    """What the SDK said in ``x-stainless-retry-count``; 0 when it said nothing."""
    at: str
    provider: str
    model: str
    api: str
    stream: bool
    usage: Mapping[str, Any]
    """As on the wire; of a cut stream what had been generated when it was cut."""
    counts: Mapping[str, int]
    """What was charged, by class."""
    service_tier: str
    speed: str = "standard"
    factor: str = "1"
    """What multiplied the rates beside tier and speed: a regional endpoint, a batch."""
    cut: str | None = None
    """Why the answer did not arrive whole: ``connection``, ``error``, ``unterminated``, ``client``, ``garbled`` or
    ``undelivered``; None when it did."""

    @property
    def usd(self) -> Decimal | None:
        """The charge; None when the table has no rate for it."""
        return charge_usd(self.provider, self.model, self.counts, self.service_tier, self.speed, self.factor)

    def as_dict(self) -> dict[str, Any]:
        """Return the item for JSON; the charge is a string or null."""
        usd = self.usd
        named = {name: getattr(self, name) for name in self.__slots__}
        return named | {"usd": None if usd is None else format(usd, "f")}


@dataclass
class Books:
    """What was billed and what was asked, in order."""

    items: list[Item] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, item: Item) -> None:
        """Bill ``item``."""
        with self._lock:
            self.items.append(item)

    def bill(
        self,
        unit_id: str,
        *,
        provider: str,
        model: str,
        api: str,
        usage: Mapping[str, Any],
        counts: Mapping[str, int],
        path: str,
        stream: bool = False,
        tier: str = "default",
        factor: str = "1",
        grows: bool = False,
    ) -> None:
        """Bill what no exchange of its own stands for; what ``grows`` replaces what was billed of it before."""
        request = self.note({"method": "POST", "path": path, "provider": provider, "request_id": unit_id})
        item = Item(
            id=unit_id,
            request_id=unit_id,
            request=request,
            attempt=0,
            at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            provider=provider,
            model=model,
            api=api,
            stream=stream,
            usage=usage,
            counts=counts,
            service_tier=tier,
            factor=factor,
        )
        with self._lock:
            if grows:
                self.items = [before for before in self.items if before.id != unit_id]
            self.items.append(item)

    def note(self, request: dict[str, Any]) -> int:
        """Keep ``request`` in the list of all requests; return its number."""
        with self._lock:
            request["number"] = len(self.requests)
            self.requests.append(request)
            return int(request["number"])

    def invoice(self) -> dict[str, Any]:
        """Return every item, and the totals in USD: of all, and of those that did not arrive whole."""
        with self._lock:
            items = list(self.items)
        known = [(item, usd) for item in items if (usd := item.usd) is not None]
        return {
            "items": [item.as_dict() for item in items],
            "total_usd": format(sum((usd for _, usd in known), Decimal(0)), "f"),
            "cut_usd": format(sum((usd for item, usd in known if item.cut), Decimal(0)), "f"),
            "priced_items": len(known),
            "unpriced_items": len(items) - len(known),
            "cut_items": sum(1 for item in items if item.cut),
        }
