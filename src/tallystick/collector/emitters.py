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
    """Counts as the provider's own API would have said them; None for ours, whose units say more."""
    api: str | None = None


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
    counted = {ours: count for ours, theirs in _LATEST.items() if (count := _count(found.get(theirs))) is not None}
    if "input_tokens" not in counted and "output_tokens" not in counted:
        return None
    named = found.get(names.PROVIDER) or found.get("gen_ai.system")
    provider = named if isinstance(named, str) else None
    api, usage = _on_the_wire(provider, str(found[names.OPERATION]), counted)
    return Emission(scope or "unnamed", _precedence(scope), provider, usage, api)


def _on_the_wire(provider: str | None, operation: str, counted: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """Return what the provider's API would have said, because that is what the price book reads."""
    read, written = counted.get("cache_read_tokens", 0), counted.get("cache_write_tokens", 0)
    total = counted.get("input_tokens", 0)
    if total < read + written:  # an emitter that leaves the cache out of the total
        total += read + written
    output = counted.get("output_tokens", 0)
    if provider == "anthropic":
        return "messages", {
            "input_tokens": total - read - written,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": output,
        }
    return "embeddings" if operation == "embeddings" else "chat", {
        "prompt_tokens": total,
        "completion_tokens": output,
        "prompt_tokens_details": {"cached_tokens": read} | ({"cache_write_tokens": written} if written else {}),
        "completion_tokens_details": {"reasoning_tokens": min(counted.get("reasoning_tokens", 0), output)},
    }


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
