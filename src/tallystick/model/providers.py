"""Who bills for a call: told by the host that answers, never by the SDK's class."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

# Names: OpenTelemetry's well-known values of gen_ai.provider.name where it has one, else the pricing data's.
BY_HOST = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "openrouter.ai": "openrouter",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
}

BY_SUFFIX = (
    (".api.openai.com", "openai"),
    (".openai.azure.com", "azure.ai.openai"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".amazonaws.com", "aws.bedrock"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    (".api.anthropic.com", "anthropic"),
    (".groq.com", "groq"),
    (".mistral.ai", "mistral_ai"),
    (".x.ai", "x_ai"),
)


def provider_of(base_url: str, mapped: Mapping[str, str] | None = None) -> str:
    """Return the name of who bills at ``base_url``; for a host nobody lists, the host itself (with its port).

    ``mapped`` is the user's own ``{"host", "host:port" or "host/path": provider}``, for gateways that pass on to a
    known provider; the longest match wins.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    place = f"{parts.netloc.rpartition('@')[2].lower()}{parts.path}"
    for key in sorted(mapped or (), key=len, reverse=True):
        if key == host or place == key or place.startswith(key.rstrip("/") + "/"):
            return (mapped or {})[key]
    if host in BY_HOST:
        return BY_HOST[host]
    for suffix, provider in BY_SUFFIX:
        if host.endswith(suffix):
            return provider
    return parts.netloc.rpartition("@")[2].lower() or "unknown"
