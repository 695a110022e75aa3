"""What a request can cause: how much is read and written at most, which tools run at the provider's, which tier.

Works on the JSON body that is about to be sent.  What the body does not bound is said, not guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

BASE_TOKENS = 256
"""What a provider may put around any prompt: turn markers, a line of its own."""
TOOLS_TOKENS = 1024
"""The system prompt that makes tools work, per tool that the provider defines and once for all of them.

Source: platform.claude.com, tool use, "pricing": 159 to 804 tokens per request, up to 735 per defined tool.
"""
JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

# In serialised JSON a quote of somebody's text is escaped, so these only match keys and values of the body itself.
_MEDIA = re.compile(
    r'"type":"(?:image|image_url|input_image|document|file|input_file|input_audio|audio|video|video_url'
    r'|container_upload|search_result)"|"(?:inlineData|inline_data|fileData|file_data)":'
)
_HELD = re.compile(r'"type":"item_reference"|"(?:file_id|fileUri|file_uri|cachedContent|cached_content)":"')
_CACHED = ('"cache_control":{', '"caching":{')
_LONG_CACHED = ('"ttl":"1h"', '"ttl":"12h"')
_BREAKPOINT = '"prompt_cache_breakpoint":'
_MARKED = re.compile(
    r'"(?:type":"(?:image|input_image|document|file|input_file|input_audio|audio|video|container_upload|search_result'
    r"|item_reference)|(?:inlineData|inline_data|fileData|file_data|file_id|fileUri|file_uri|cachedContent"
    r'|cached_content|cache_control|caching|ttl|prompt_cache_breakpoint)":)'
)
"""Finds whatever any of the above finds, in one pass; nearly every text has none of it."""

HELD = ("previous_response_id", "conversation", "prompt_id", "thread_id", "container")
"""Keys that bring in what the provider holds: its size is not in the body."""

# Tools that run at the provider's, by the beginning of their type, and the fee of each use.
SERVER_TOOLS = {"web_search": "web_search", "web_fetch": None, "tool_search": None, "file_search": "file_search",
                "mcp": None, "advisor": None}  # fmt: skip
CLIENT_TOOLS = ("function", "custom", "bash_", "text_editor_", "computer_2", "computer_use_preview", "memory_",
                "local_shell", "apply_patch")  # fmt: skip
CLIENT_KEYS = ("function", "input_schema", "functionDeclarations", "function_declarations", "toolSpec")
OUTPUT_CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
WRITES_NOTHING = frozenset({"embeddings", "moderations", "rerank", "count_tokens"})
SHAPING = frozenset({
    *HELD, "web_search_options", "mcp_servers", "max_tool_calls", "n", "best_of", "candidateCount",
    "context_management", "compaction", "fallbacks", "service_tier", "speed", "inference_geo", "generationConfig",
    "generation_config", "inferenceConfig", "modalities", "audio", "prompt_cache_options",
})  # fmt: skip
"""The keys of which more is read than the length of their text; beside those that `shape_of` names itself."""
SCALARS = frozenset({str, int, float, bool, type(None)})


class Unbounded(Exception):  # noqa: N818 -- an answer inside this room, never an error that surfaces
    """The request has no bound; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisor:
    """A second model that may be asked during the call."""

    model: str
    uses: int
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request, as far as its price hangs on it.  Token counts are upper bounds."""

    prompt_tokens: int
    output_tokens: int | None
    """Of one answer; None when the request sets no cap."""
    answers: int = 1
    loops: int = 0
    """How often a tool at the provider's may run, each time followed by another pass over all that was said."""
    loop_tokens: int = 0
    """What each run may add to what is read."""
    fees: Mapping[str, int] = field(default_factory=dict)
    advisors: tuple[Advisor, ...] = ()
    compacts: bool = False
    fallbacks: tuple[tuple[str, int | None], ...] = ()
    """Models that answer when the first declines, each with its own cap on the output."""
    items_in: tuple[str, ...] = ("input", "cache_read")
    items_out: tuple[str, ...] = ("output",)
    tiers: tuple[str, ...] = ("",)
    speeds: tuple[str, ...] = ("",)
    geo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What the caller knows, or wants to allow, where the request itself sets no limit."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    media_tokens: int | None = None
    tool_uses: int | None = None
    tool_tokens: int | None = None


NO_CAPS = Caps()


def read_request(provider: str, request: Mapping[str, Any], caps: Caps, params: Mapping[str, Any]) -> Ask:
    """Return what ``request`` can cause; raises Unbounded when nothing bounds it."""
    text = _serialised(request)
    api = str(params.get("api") or "")
    tools = _tools(request)
    loops, fees, advisors = _server_tools(request, tools, caps)
    if loops and caps.tool_tokens is None and any(_server_tool(tool) != "advisor" for tool in tools):
        raise Unbounded(
            "a tool at the provider's adds what it finds to what is read; give tool_tokens=, the most that each use "
            "adds"
        )
    media = len(_MEDIA.findall(text))
    items_in, items_out = _items(provider, text, request, api, has_media=media > 0)
    return Ask(
        prompt_tokens=_prompt_tokens(text, request, len(tools), media, caps),
        output_tokens=_output_tokens(text, request, api, caps),
        answers=max(_count(request, "n", "best_of", "candidateCount") or 1, 1),
        loops=loops,
        loop_tokens=caps.tool_tokens or 0,
        fees=fees,
        advisors=advisors,
        compacts=_compacts(request),
        fallbacks=tuple(_fallbacks(request)),
        items_in=items_in,
        items_out=items_out,
        tiers=_words(request.get("service_tier"), params.get("service_tier"), params.get("requested_service_tier")),
        speeds=_words(request.get("speed"), params.get("speed")),
        geo=_word(request.get("inference_geo") or params.get("geo") or params.get("inference_geo")) or None,
    )


class Shape(NamedTuple):
    """A request that only reads a prompt and writes answers, by all that its price hangs on."""

    key: tuple[Any, ...]
    """Equal for requests that differ in nothing but the length of the text and the cap on the answer."""
    text_tokens: int
    output_tokens: int | None


def shape_of(request: Mapping[str, Any], api: str) -> Shape | None:
    """Return the shape of ``request``; None of one that must be read whole.  Raises Unbounded when it is no JSON."""
    text = _serialised(request)
    marks = _marks(text)
    if marks is None:
        return None
    key: list[Any] = [marks]
    cap: int | None = 0 if api in WRITES_NOTHING else None
    for name, value in request.items():
        if name == "tools":
            if not isinstance(value, list) or not all(type(tool) is dict and _is_the_apps(tool) for tool in value):
                return None
            key.append((name, len(value)))
        elif name in OUTPUT_CAPS:
            if type(value) is int and value >= 0:
                cap = value if cap is None else max(cap, value)
            elif value is not None:
                return None
        elif name == "prompt":
            if isinstance(value, Mapping):  # a template that the provider holds
                return None
        elif name == "prediction":
            if value:  # what is written hangs on the length of the text then
                return None
        elif name in SHAPING:
            kind = type(value)
            if kind not in SCALARS:
                return None
            key.append((name, kind, value))  # True equals 1, and is none
    return Shape(tuple(key), _size(text), 0 if api in WRITES_NOTHING else cap)


def _marks(text: str) -> tuple[str, ...] | None:
    """Return what of caching is in a request's text; None when there is media in it, or what the provider holds."""
    if _MARKED.search(text) is None:
        return ()
    if _MEDIA.search(text) or _HELD.search(text):
        return None
    return tuple(mark for mark in (*_CACHED, *_LONG_CACHED, _BREAKPOINT) if mark in text)


def _serialised(request: Mapping[str, Any]) -> str:
    try:
        return JSON.encode(request)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unbounded(f"the request is not JSON ({error}); give the body that is sent") from None


def _prompt_tokens(text: str, request: Mapping[str, Any], tools: int, media: int, caps: Caps) -> int:
    """Return the most tokens that the prompt can have: one for each byte of text, because no token is smaller."""
    if caps.input_tokens is not None:
        return caps.input_tokens
    held = next((key for key in HELD if request.get(key)), None)
    if held or isinstance(request.get("prompt"), Mapping) or _HELD.search(text):
        raise Unbounded(
            f"the request refers to what the provider holds ({held or 'a file, item or template'}); give input_tokens="
        )
    if media and caps.media_tokens is None:
        raise Unbounded(
            f"{media} images, files or sounds are in the request, whose tokens no count of bytes bounds; give "
            "media_tokens=, the most that each may have, or input_tokens="
        )
    return _size(text) + BASE_TOKENS + (tools + 1 if tools else 0) * TOOLS_TOKENS + media * (caps.media_tokens or 0)


def _output_tokens(text: str, request: Mapping[str, Any], api: str, caps: Caps) -> int | None:
    if api in WRITES_NOTHING:
        return 0
    config = request.get("generationConfig") or request.get("generation_config") or request.get("inferenceConfig")
    cap = _count(request, *OUTPUT_CAPS)
    if cap is None and isinstance(config, Mapping):
        cap = _count(config, "maxOutputTokens", "max_output_tokens", "maxTokens")
    if cap is None:
        cap = caps.output_tokens
    # A predicted answer that turns out otherwise is billed as output, beside what is written instead.
    predicted = _size(text) if request.get("prediction") else 0
    return None if cap is None else cap + predicted


def _size(text: str) -> int:
    # A lone surrogate is no text, but it is no reason to fail either: it is three bytes on the wire.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _count(body: Mapping[str, Any], *names: str) -> int | None:
    """Return the largest of ``names`` that ``body`` sets."""
    counts = [value for name in names if (value := body.get(name)) is not None]
    for value in counts:
        if type(value) is not int or value < 0:
            raise Unbounded(f"{repr(value)[:40]} is no count of tokens")
    return max(counts, default=None)


def _word(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _words(*values: Any) -> tuple[str, ...]:
    """Return the standard, and beside it what was asked for: either may be what is served."""
    return tuple(dict.fromkeys(("", *(_word(value) for value in values))))


# --- tools ------------------------------------------------------------


def _tools(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = request.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise Unbounded("the tools are no list of objects")
    found = list(tools)
    if request.get("web_search_options") is not None:
        found.append({"type": "web_search"})
    if request.get("mcp_servers"):
        found.append({"type": "mcp"})
    return found


def _server_tool(tool: Mapping[str, Any]) -> str | None:
    """Return which of `SERVER_TOOLS` it is, None for one that the app runs; raises Unbounded for any other."""
    if _is_the_apps(tool):
        return None
    kind = tool.get("type")
    if isinstance(kind, str):
        for name in SERVER_TOOLS:
            if kind.startswith(name):
                return name
    raise Unbounded(f"what the tool {repr(kind or list(tool))[:60]} costs is not bounded by anything in the request")


def _is_the_apps(tool: Mapping[str, Any]) -> bool:
    """Tell whether the app runs a tool by itself."""
    kind = tool.get("type")
    if kind is None:
        return any(key in tool for key in CLIENT_KEYS)
    return isinstance(kind, str) and kind.startswith(CLIENT_TOOLS)


def _server_tools(
    request: Mapping[str, Any], tools: list[Mapping[str, Any]], caps: Caps
) -> tuple[int, dict[str, int], tuple[Advisor, ...]]:
    """Return how often tools run at the provider's, how often each fee is due, and the advisors."""
    loops, fees, advisors = 0, dict[str, int](), list[Advisor]()
    together = _count(request, "max_tool_calls")
    for tool in tools:
        name = _server_tool(tool)
        if name is None:
            continue
        uses = _count(tool, "max_uses")
        uses = uses if uses is not None else together if together is not None else caps.tool_uses
        if uses is None:
            raise Unbounded(f"nothing limits how often {tool.get('type')} is used; set max_uses, or give tool_uses=")
        loops += uses
        if fee := SERVER_TOOLS[name]:
            fees[fee] = fees.get(fee, 0) + uses
        if name == "advisor":
            advisors.append(Advisor(model=str(tool.get("model")), uses=uses, output_tokens=_count(tool, "max_tokens")))
    return loops, fees, tuple(advisors)


def _compacts(request: Mapping[str, Any]) -> bool:
    management = request.get("context_management")
    if not management:
        return bool(request.get("compaction"))
    text = _serialised({"edits": management})
    return "compact" in text


def _fallbacks(request: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Yield the models of Anthropic's ``fallbacks``; OpenRouter's ``models`` are its own business."""
    fallbacks = request.get("fallbacks") or ()
    if not isinstance(fallbacks, list | tuple):
        raise Unbounded("which models fall in for this one is the provider's choice; list them in fallbacks")
    for entry in fallbacks:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
            raise Unbounded(f"a fallback is {repr(entry)[:40]}, which names no model")
        yield entry["model"], _count(entry, "max_tokens")


# --- classes ------------------------------------------------------------


def _items(
    provider: str, text: str, request: Mapping[str, Any], api: str, *, has_media: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes that what is read, and what is written, may be charged as."""
    read = ["input", "cache_read"]
    if has_media or api in {"images", "transcription", "realtime"}:
        read += ["input_audio", "input_image", "input_video"]
    if _writes_cache(provider, text, request, api):
        read += ["cache_write", "cache_write_5m", "cache_write_30m"]
        if any(mark in text for mark in _LONG_CACHED):
            read += ["cache_write_1h", "cache_write_12h"]
    written = ["output"]
    asked = [request.get("modalities"), "audio" if request.get("audio") else "", api]
    if any(asked):
        modalities = _serialised({"asked": asked}).lower()
        written += [f"output_{kind}" for kind in ("audio", "image", "video") if kind in modalities]
    if api in {"speech", "realtime"}:
        written.append("output_audio")
    return tuple(read), tuple(written)


def _writes_cache(provider: str, text: str, request: Mapping[str, Any], api: str) -> bool:
    """Tell whether the request may write to a cache: Anthropic's when asked to, others' when they see fit."""
    if provider == "anthropic" or api.startswith("messages"):
        return any(mark in text for mark in _CACHED)
    options = request.get("prompt_cache_options")
    is_explicit = isinstance(options, Mapping) and options.get("mode") == "explicit"
    return not is_explicit or _BREAKPOINT in text
