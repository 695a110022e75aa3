"""Which spans of other OpenTelemetry emitters are a call, and what they counted, in one vocabulary.

Only inference spans count: an agent's or a chain's span repeats the sums of the calls inside it.  Details of a count
are parts of it and are never added to it.  What each emitter sends was read from recordings (tests/data/emitters).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
    attributes: Attributes = field(default_factory=dict)
    """What the span says, under the names of the conventions that we use ourselves."""


OURS = Emission("tallystick", 40)

# Beginnings of scope names.
NATIVE = ("com.anthropic.sdk",)
FRAMEWORKS = (
    "langchain",
    "langgraph",
    "llama",
    "crewai",
    "haystack",
    "pydantic-ai",
    "ai",
    "gen_ai",  # Vercel's AI SDK since 7
    "litellm",
    "langfuse",
    "openinference.instrumentation.lang",
    "openinference.instrumentation.llama",
    "openinference.instrumentation.crewai",
)
EXCLUSIVE = ("openlit",)
"""Scopes whose input count leaves out Anthropic's cache reads and writes (OpenLIT 1.45)."""

# What says that a span is one inference, where gen_ai.operation.name does not: attribute, its value, the operation.
KINDS: Mapping[str, Mapping[str, str]] = {
    "openinference.span.kind": {"LLM": "chat", "EMBEDDING": "embeddings"},
    "langfuse.observation.type": {"generation": "chat", "embedding": "embeddings"},
    "ai.operationId": {
        "ai.generateText.doGenerate": "chat",
        "ai.streamText.doStream": "chat",
        "ai.generateObject.doGenerate": "chat",
        "ai.streamObject.doStream": "chat",
        "ai.embed.doEmbed": "embeddings",
        "ai.embedMany.doEmbed": "embeddings",
    },
    "llm.request.type": {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"},
}

# Ours, and the names of others for the same; the first that is there counts.
COUNTS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": (
        names.INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt",
        "ai.usage.inputTokens", "ai.usage.promptTokens", "ai.usage.tokens",
    ),
    "output_tokens": (
        names.OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens",
        "llm.token_count.completion", "ai.usage.outputTokens", "ai.usage.completionTokens",
    ),
    "cache_read_tokens": (
        names.CACHE_READ_TOKENS, "gen_ai.usage.cache_read_input_tokens", "llm.token_count.prompt_details.cache_read",
        "llm.token_count.prompt_details.cache_input", "ai.usage.inputTokenDetails.cacheReadTokens",
        "ai.usage.cachedInputTokens", "gen_ai.usage.details.cache_read_tokens",
    ),
    "cache_write_tokens": (
        names.CACHE_WRITE_TOKENS, "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write",
        "ai.usage.inputTokenDetails.cacheWriteTokens", "gen_ai.usage.details.cache_write_tokens",
    ),
    "cache_write_1h_tokens": ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens",),
    "reasoning_tokens": (
        names.REASONING_TOKENS, "gen_ai.usage.reasoning_tokens", "llm.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning", "ai.usage.outputTokenDetails.reasoningTokens",
        "ai.usage.reasoningTokens", "gen_ai.usage.details.reasoning_tokens",
    ),
}  # fmt: skip

# Attributes that hold the provider's own usage object, as JSON or (litellm) as Python writes a dict.
RAW = ("gen_ai.usage.raw", "langfuse.observation.usage_details", "metadata.usage_object")
RAW_CHARS_MAX = 8192
# The same inside such an object, nested keys joined by a dot.
RAW_COUNTS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("prompt_tokens", "input_tokens", "input"),
    "output_tokens": ("completion_tokens", "output_tokens", "output"),
    "cache_read_tokens": (
        "prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "cache_read_input_tokens",
        "input_cached_tokens", "input_cache_read",
    ),
    "cache_write_tokens": (
        "prompt_tokens_details.cache_write_tokens", "cache_creation_input_tokens", "input_cache_creation",
    ),
    "cache_write_1h_tokens": (
        "cache_creation.ephemeral_1h_input_tokens",
        "prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",
    ),
    "reasoning_tokens": (
        "completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens",
        "output_tokens_details.thinking_tokens", "output_reasoning_tokens", "reasoning_tokens",
    ),
}  # fmt: skip

# Ours, and the names of others for the same text.
TEXTS: Mapping[str, tuple[str, ...]] = {
    names.REQUEST_MODEL: ("llm.request.model_name", "ai.model.id", "langfuse.observation.model.name", "llm.model_name"),
    names.RESPONSE_MODEL: ("llm.response.model_name", "ai.response.model", "llm.model_name"),
    names.RESPONSE_ID: ("ai.response.id",),
    names.USER: ("traceloop.association.properties.user_id", "langfuse.user.id"),
    names.SESSION: ("traceloop.association.properties.session_id", "langfuse.session.id"),
}
PROVIDERS = ("gen_ai.system", "llm.provider", "llm.system", "ai.model.provider")
ALIASES = {
    "az.ai.openai": "azure.ai.openai", "azure_openai": "azure.ai.openai", "azure": "azure.ai.openai",
    "aws": "aws.bedrock", "bedrock": "aws.bedrock", "amazon-bedrock": "aws.bedrock", "amazon_bedrock": "aws.bedrock",
    "google": "gcp.gemini", "gemini": "gcp.gemini", "google_genai": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai", "vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai", "mistralai": "mistral_ai", "xai": "x_ai",
}  # fmt: skip
MAKERS = {"claude": "anthropic", "gpt": "openai", "o1": "openai", "o3": "openai", "o4": "openai", "text": "openai"}
"""Who makes a model, by the first word of its name; only where an emitter tells of no provider (Langfuse)."""
STREAMS = (names.REQUEST_STREAM, "gen_ai.is_streaming", "llm.is_streaming", "gen_ai.request.is_stream")
FIRST_CHUNKS_S = (names.RESPONSE_FIRST_CHUNK, "gen_ai.client.operation.time_to_first_chunk")
FINISHES = (names.RESPONSE_FINISH_REASONS, "gen_ai.response.finish_reason", "llm.response.finish_reason",
            "llm.finish_reason", "ai.response.finishReason")  # fmt: skip


def emission_of(scope: str, found: Attributes) -> Emission | None:
    """Return what a foreign span counted, None when it is not an inference or counted nothing."""
    operation = _operation(found)
    if operation is None:
        return None
    counted = _counted(scope, found)
    if "input_tokens" not in counted and "output_tokens" not in counted:
        return None
    said = _in_our_words(operation, found)
    provider = _provider(found, said)
    api, usage = _on_the_wire(provider, str(said.get(names.REQUEST_MODEL, "")), operation, counted)
    if _is_made_up(scope, said.get(names.RESPONSE_ID)):
        said.pop(names.RESPONSE_ID)
    return Emission(scope or "unnamed", _precedence(scope), provider, usage, api, said)


def _operation(found: Attributes) -> str | None:
    stated = found.get(names.OPERATION)
    if stated is not None:
        return str(stated) if stated in INFERENCES else None
    for key, kinds in KINDS.items():
        if (kind := found.get(key)) is not None:
            return kinds.get(kind) if isinstance(kind, str) else None
    return None


def _counted(scope: str, found: Attributes) -> dict[str, int]:
    """Return the counts by class; ``input_tokens`` with what was read from and written to a cache."""
    counted = _first_counts(COUNTS, found)
    is_exclusive = scope.startswith(EXCLUSIVE) and _named_provider(found) == "anthropic"
    for key in RAW:
        # The provider's own object says more than the emitter made of it (litellm leaves the cache out of the rest).
        if (raw := _raw(found.get(key))) and (told := _first_counts(RAW_COUNTS, raw)):
            counted = counted | told
            is_exclusive = "prompt_tokens" not in raw and not any(".cached_tokens" in name for name in raw)
            break
    cached = counted.get("cache_read_tokens", 0) + counted.get("cache_write_tokens", 0)
    if "input_tokens" in counted and (is_exclusive or counted["input_tokens"] < cached):
        counted["input_tokens"] += cached
    return counted


def _first_counts(table: Mapping[str, tuple[str, ...]], found: Mapping[str, Any]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for ours, theirs in table.items():
        count = next((count for name in theirs if (count := _count(found.get(name))) is not None), None)
        if count is not None:
            counted[ours] = count
    return counted


def _raw(text: Any) -> dict[str, Any]:
    """Return a usage object with its nested keys joined by dots; empty when it is none."""
    if not isinstance(text, str) or not 2 < len(text) <= RAW_CHARS_MAX:
        return {}
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        try:
            raw = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return {}
    return dict(_flat(raw)) if isinstance(raw, dict) else {}


def _flat(mapping: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, dict) and depth < 3:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _in_our_words(operation: str, found: Attributes) -> Attributes:
    said = {**found, names.OPERATION: operation}
    for ours, theirs in TEXTS.items():
        if not said.get(ours) and (text := next((found[name] for name in theirs if found.get(name)), None)):
            said[ours] = text
    is_streamed = str(found.get("ai.operationId", "")).endswith(".doStream")
    said[names.REQUEST_STREAM] = is_streamed or any(found.get(name) in {True, "True", "true"} for name in STREAMS)
    if first_chunk_s := next((found[name] for name in FIRST_CHUNKS_S if name in found), None):
        said[names.RESPONSE_FIRST_CHUNK] = first_chunk_s
    elif isinstance(first_ms := found.get("ai.response.msToFirstChunk"), int | float):
        said[names.RESPONSE_FIRST_CHUNK] = first_ms / 1000
    elif said[names.REQUEST_STREAM] and (first_s := found.get("gen_ai.server.time_to_first_token")):
        said[names.RESPONSE_FIRST_CHUNK] = first_s  # OpenLIT; on a whole answer it is just the latency
    if finishes := next((found[name] for name in FINISHES if found.get(name)), None):
        said[names.RESPONSE_FINISH_REASONS] = _finishes(finishes)
    return said


def _finishes(told: Any) -> Any:
    """Return finish reasons as a list: they come as one, as JSON of one, or alone."""
    if not isinstance(told, str):
        return told
    if told.startswith("["):
        try:
            return json.loads(told)
        except (ValueError, RecursionError):
            pass
    return [told]


def _named_provider(found: Attributes) -> str | None:
    named = found.get(names.PROVIDER) or next((found[name] for name in PROVIDERS if found.get(name)), None)
    if not isinstance(named, str):
        return None
    lowered = named.lower()
    # Vercel names the API behind a dot: anthropic.messages, openai.chat.
    first, dot, rest = lowered.partition(".")
    lowered = first if dot and rest in {"messages", "chat", "responses", "completion", "embedding"} else lowered
    return ALIASES.get(lowered, lowered)


def _provider(found: Attributes, said: Attributes) -> str | None:
    model = str(said.get(names.REQUEST_MODEL) or "")
    return _named_provider(found) or MAKERS.get(model.partition("-")[0].lower())


def _on_the_wire(
    provider: str | None, model: str, operation: str, counted: dict[str, int]
) -> tuple[str, dict[str, Any]]:
    """Return what the provider's API would have said, because that is what the price book reads."""
    read, written = counted.get("cache_read_tokens", 0), counted.get("cache_write_tokens", 0)
    total, output = counted.get("input_tokens", 0), counted.get("output_tokens", 0)
    if provider == "anthropic" or "claude" in model:
        usage: dict[str, Any] = {
            "input_tokens": max(total - read - written, 0),
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": output,
        }
        if long := min(counted.get("cache_write_1h_tokens", 0), written):
            usage["cache_creation"] = {"ephemeral_1h_input_tokens": long, "ephemeral_5m_input_tokens": written - long}
        return "messages", usage
    return "embeddings" if operation == "embeddings" else "chat", {
        "prompt_tokens": total,
        "completion_tokens": output,
        "prompt_tokens_details": {"cached_tokens": read} | ({"cache_write_tokens": written} if written else {}),
        "completion_tokens_details": {"reasoning_tokens": min(counted.get("reasoning_tokens", 0), output)},
    }


def _is_made_up(scope: str, response_id: Any) -> bool:
    """Tell whether an id is litellm's own, ``chatcmpl-`` and a UUID, which names nothing that the provider knows."""
    return scope.startswith("litellm") and str(response_id).startswith("chatcmpl-") and str(response_id).count("-") == 5


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _precedence(scope: str) -> int:
    if scope.startswith(NATIVE):
        return 30
    return 10 if scope.startswith(FRAMEWORKS) else 20
