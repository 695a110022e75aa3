"""Which spans of other OpenTelemetry emitters are a call, and what they counted.

Only inference spans count: an agent's or a chain's span repeats the sums of the calls inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tallystick.collector.wire import Attributes
from tallystick.model import attributes as names

# gen_ai.operation.name of a single inference; source: OpenTelemetry GenAI semantic conventions, client-inference.
INFERENCES = frozenset({"chat", "text_completion", "generate_content", "embeddings", "completion"})


@dataclass(frozen=True, slots=True)
class Emission:
    """Who sent a call, and how far it is believed when two tell of the same response."""

    source: str
    precedence: int
    """Higher wins: ours 40, an SDK's own spans 30, a provider instrumentation 20, a framework 10."""
    provider: str | None = None
    usage: dict[str, Any] | None = None
    """Counts in our one convention (`tallystick.model.usage`); None for ours, whose units say more."""


OURS = Emission("tallystick", 40)

# Beginnings of scope names.
NATIVE = ("anthropic", "openai.")
FRAMEWORKS = (
    "langchain",
    "langgraph",
    "llama",
    "crewai",
    "haystack",
    "pydantic-ai",
    "ai",
    "openinference.instrumentation.lang",
)


def emission_of(scope: str, found: Attributes) -> Emission | None:
    """Return what a foreign span counted, None when it is not an inference or counted nothing."""
    if found.get(names.OPERATION) not in INFERENCES:
        return None
    counted = {ours: _count(found.get(theirs)) for ours, theirs in _LATEST.items()}
    if counted["input_tokens"] is None and counted["output_tokens"] is None:
        return None
    usage = {name: count for name, count in counted.items() if count is not None}
    provider = found.get(names.PROVIDER) or found.get("gen_ai.system")
    return Emission(scope or "unnamed", _precedence(scope), provider if isinstance(provider, str) else None, usage)


_LATEST = {
    "input_tokens": names.INPUT_TOKENS,
    "output_tokens": names.OUTPUT_TOKENS,
    "cache_read_tokens": names.CACHE_READ_TOKENS,
    "cache_write_tokens": names.CACHE_WRITE_TOKENS,
    "reasoning_tokens": names.REASONING_TOKENS,
}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _precedence(scope: str) -> int:
    if scope.startswith(NATIVE):
        return 30
    return 10 if scope.startswith(FRAMEWORKS) else 20
