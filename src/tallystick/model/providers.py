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
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.us.rep.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.eu.rep.googleapis.com", "gcp.vertex_ai"),
    (".api.anthropic.com", "anthropic"),
    (".groq.com", "groq"),
    (".mistral.ai", "mistral_ai"),
    (".x.ai", "x_ai"),
)

# Every load balancer and function of an AWS customer is below these too, so the service's own label must be there.
# Source: openai 3.54, providers/bedrock.py; anthropic 2.12, lib/bedrock.
AWS_SUFFIXES = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
BEDROCK_LABELS = frozenset({"bedrock-runtime", "bedrock-runtime-fips", "bedrock-mantle"})


def provider_of(base_url: str, mapped: Mapping[str, str] | None = None) -> str:
    """Return the name of who bills at ``base_url``; for a host nobody lists, the host itself (with its port).

    ``mapped`` is the user's own ``{"host", "host:port" or "host/path": provider}``, for gateways that pass on to a
    known provider; the longest match wins.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    place = parts.netloc.rpartition("@")[2].lower()
    for key in sorted(mapped or (), key=len, reverse=True):
        if _is_below(f"{place}{parts.path}", key) or _is_below(f"{host}{parts.path}", key):
            return (mapped or {})[key]
    if host in BY_HOST:
        return BY_HOST[host]
    for suffix, provider in BY_SUFFIX:
        if host.endswith(suffix):
            return provider
    if host.endswith(AWS_SUFFIXES) and not BEDROCK_LABELS.isdisjoint(host.split(".")):
        return "aws.bedrock"
    return place or "unknown"


def _is_below(place: str, key: str) -> bool:
    """Tell whether ``place`` is the host, and the path or a part of it, that the user wrote as ``key``."""
    host, slash, path = key.partition("/")
    return f"{place}/".startswith(f"{host.lower()}{slash}{path}".rstrip("/") + "/")
