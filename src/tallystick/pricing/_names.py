"""Who is charged for, under which name: providers, clouds, model names.  Exact, never by prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from tallystick.model.providers import provider_of

# The price data's names, by what others call them: OpenTelemetry's gen_ai.provider.name, clouds, common short names.
PROVIDERS = {
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "vertex": "google",
    "vertex_ai": "google",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "aws.bedrock": "aws",
    "bedrock": "aws",
    "amazon": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "azure_openai": "azure",
    "moonshot": "moonshotai",
    "moonshot_ai": "moonshotai",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
}
CLOUDS = {"bedrock": "aws", "aws": "aws", "vertex": "google", "vertex_ai": "google", "gcp": "google", "azure": "azure"}
VERTEX_NAMES = frozenset({"gcp.vertex_ai", "vertex", "vertex_ai"})

# Hosts that `tallystick.model.providers` does not know but that only ever mean one provider.
_SUFFIXES = ((".rep.googleapis.com", "google"), (".api.aws", "aws"))

_GEO = re.compile(r"(global|us-gov|us|eu|apac|jp|au|ca|in|sa|me|af|il|uk)\.")
_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:([a-z-]+)/(.+)")
_BEDROCK_VERSION = re.compile(r"(-v\d+)?(:\d+)?(:\w+)?$")
_VERTEX_HOST = re.compile(r"(?:([a-z0-9-]+)-)?aiplatform(?:\.([a-z0-9-]+)\.rep)?\.googleapis\.com$")
_GOOGLE_PATH = re.compile(r"^(?:.*/)?(?:publishers/[a-z]+/)?models/|^google/")
_FULL_DATE = re.compile(r"(?P<stem>.+?)[-@](?P<y>20\d\d)(?P<s>-?)(?P<m>\d\d)(?P=s)(?P<d>\d\d)$")
_SHORT_DATE = re.compile(r"(?P<stem>.+?)-(?P<a>\d\d)(?P<b>\d\d)$")
_LATEST = re.compile(r"(?P<stem>.+?)[-@](latest|default)$")
_GOOGLE_VERSION = re.compile(r"(?P<stem>.+?)-00\d$")


@dataclass(frozen=True, slots=True)
class Place:
    """Who answers: the price data's provider, the cloud in between, and what is known of the endpoint."""

    provider: str | None
    host: str = ""
    cloud: str | None = None
    region: str | None = None


def place_of(provider: str, base_url: str | None, cloud: str | None, region: str | None, hosts: Hosts) -> Place:
    """Return where a call went.  The host decides; without one the provider's name is believed.

    ``provider`` of the answer is None when nobody lists the host: a self-hosted model has no hosted model's price.
    """
    provider = provider.strip().lower() if isinstance(provider, str) else ""
    if base_url and "://" not in base_url:
        base_url = f"https://{base_url}"
    cloud = CLOUDS.get(cloud.strip().lower()) if cloud else None
    host = (urlsplit(base_url).hostname or "").lower() if base_url else ""
    found = _provider_at(base_url, host, hosts) if base_url else cloud or PROVIDERS.get(provider, provider)
    vertex = _VERTEX_HOST.match(host)
    if found == "google" and (vertex or cloud == "google" or (not base_url and provider in VERTEX_NAMES)):
        cloud = "google"
    elif found in {"aws", "azure"}:
        cloud = found
    else:
        cloud = None
    if not region and vertex:
        region = vertex[1] or vertex[2] or "global"
    return Place(found, host, cloud, region.lower() if region else None)


Hosts = dict[str, list[tuple[str, str]]]
"""Host -> (beginning of the path, provider), the longest path first."""


def _provider_at(base_url: str, host: str, hosts: Hosts) -> str | None:
    named = provider_of(base_url)
    if named in PROVIDERS:
        return PROVIDERS[named]
    for suffix, provider in _SUFFIXES:
        if host.endswith(suffix):
            return provider
    path = urlsplit(base_url).path
    for start, provider in hosts.get(host, ()):
        if path == start or path.startswith(start.rstrip("/") + "/") or not start:
            return provider
    # A name with a dot or a port is a host that nobody lists; the others are names of the price data.
    return None if not named or named == "unknown" or "." in named or ":" in named or named == host else named


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name in lower case, with what a cloud wrapped around it taken off."""

    name: str
    family: str | None = None
    """``claude`` when the name is Anthropic's in a cloud's clothes: priced by Anthropic's list."""
    endpoint: str | None = None
    """``global`` or ``regional``; None where the difference does not exist or is not told."""


def bedrock_name(model: str, region: str | None) -> ModelName | None:
    """Return the model behind a Bedrock id or ARN; None for a profile id that tells nothing."""
    model = model.lower()
    if arn := _ARN.fullmatch(model):
        kind, model = arn[1], arn[2]
        if kind not in {"inference-profile", "foundation-model"}:
            return None
    elif model.startswith("arn:"):
        return None
    geo = _GEO.match(model)
    bare = model[geo.end() :] if geo else model
    if bare.startswith("anthropic.claude"):
        endpoint = "global" if geo and geo[1] == "global" else "regional"
        return ModelName(_without_version(bare.removeprefix("anthropic.")), "claude", endpoint)
    if bare.startswith("claude"):
        # The answer names the bare model, so whether the endpoint was global is only known from the request.
        return ModelName(_without_version(bare), "claude", "global" if region == "global" else None)
    return ModelName(model)


def _without_version(name: str) -> str:
    return _BEDROCK_VERSION.sub("", name, count=1)


def vertex_name(model: str, region: str | None) -> ModelName:
    """Return the model behind a Vertex or Gemini resource name."""
    name = _GOOGLE_PATH.sub("", model.lower())
    name = name.removeprefix("anthropic/")
    if name.startswith("claude"):
        return ModelName(name, "claude", None if region is None else "global" if region == "global" else "regional")
    return ModelName(name)


def fine_tuned_base(name: str) -> str:
    """Return ``ft:BASE`` of ``ft:BASE:ORGANISATION:SUFFIX:ID``: the price hangs on the base."""
    return ":".join(name.split(":", 2)[:2])


def without_date(name: str) -> str | None:
    """Return ``name`` without the date at its end (``-20250929``, ``@20250929``, ``-2025-09-29``); None without one."""
    found = _FULL_DATE.fullmatch(name)
    if found is None:
        return None
    try:
        date(int(found["y"]), int(found["m"]), int(found["d"]))
    except ValueError:
        return None
    return found["stem"]


def with_dashed_date(name: str) -> str | None:
    """Return ``x-20251211`` and ``x@20251211`` as ``x-2025-12-11``; gateways write dates without dashes."""
    found = _FULL_DATE.fullmatch(name)
    return f"{found['stem']}-{found['y']}-{found['m']}-{found['d']}" if found and not found["s"] else None


def loose_stems(name: str) -> Iterator[str]:
    """Yield what is left of ``name`` without ``-latest``, a short date (``-2509``, ``-0813``) or Google's ``-001``.

    Only for models of which the source itself says that other endings exist.
    """
    if found := _LATEST.fullmatch(name):
        yield found["stem"]
    if (found := _SHORT_DATE.fullmatch(name)) and _is_short_date(int(found["a"]), int(found["b"])):
        yield found["stem"]
    if found := _GOOGLE_VERSION.fullmatch(name):
        yield found["stem"]


def _is_short_date(first: int, second: int) -> bool:
    year_month = 23 <= first <= 35 and 1 <= second <= 12
    month_day = 1 <= first <= 12 and 1 <= second <= 31
    return year_month or month_day


def bedrock_candidates(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the ways in which the price data may list a Bedrock name, and whether its geography was taken off."""
    geo = _GEO.match(name)
    for base, stripped in ((name, False), *(((name[geo.end() :], True),) if geo else ())):
        yield base, stripped
        shorter = re.sub(r":\w+(:\w+)?$", "", base)
        if shorter != base:
            yield shorter, stripped
        shortest = re.sub(r"-v\d+$", "", shorter)
        if shortest != shorter:
            yield shortest, stripped
            if undated := without_date(shortest):
                yield undated, stripped
