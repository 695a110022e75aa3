"""Anthropic's wire: Messages, as JSON and as a stream.

Source: the types of anthropic 2.12 (``RawMessageStreamEvent``, ``Usage``, ``MessageDeltaUsage``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.mock.answers import Answer, Body, Frame, Frames, dump, new_id, required, text_of
from tallystick.mock.books import FULL_NAMES, US_FACTORS
from tallystick.mock.thoughts import Prompt, PromptCache, Thought, dictated, sample, think

ERRORS = {
    "400": (400, "invalid_request_error", "messages: at least one message is required"),
    "401": (401, "authentication_error", "invalid x-api-key"),
    "quota": (402, "billing_error", "Your credit balance is too low to access the Anthropic API."),
    "403": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "404": (404, "not_found_error", "model: no such model"),
    "413": (413, "request_too_large", "Request exceeds the maximum size"),
    "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "500": (500, "api_error", "Internal server error"),
    "503": (503, "api_error", "Service unavailable"),
    "504": (504, "timeout_error", "Request timed out"),
    "529": (529, "overloaded_error", "Overloaded"),
    "context_length": (400, "invalid_request_error", "prompt is too long: 204321 tokens > 200000 maximum"),
}
COMPACTION_TOKENS = 40
"""What a compaction writes."""
STOPS = {
    "end": "end_turn",
    "length": "max_tokens",
    "refusal": "refusal",
    "filter": "refusal",
    "tool": "tool_use",
}


def error(name: str, request_id: str, message: str | None = None) -> tuple[int, dict[str, Any]]:
    """Return status and body of the error that a script calls ``name``."""
    status, kind, text = ERRORS[name]
    return status, {
        "type": "error",
        "error": {"type": kind, "message": message or text},
        "request_id": request_id,
    }


def read(body: Body) -> Prompt:
    """Return what a Messages request asks; raise InvalidRequestError when it lacks something."""
    required(body, "model")
    messages = required(body, "messages")
    blocks = tuple(_blocks(body))
    thinking = body.get("thinking") or {}
    thinks = thinking.get("type") not in (None, "disabled")
    output_format = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Prompt(
        text="\n".join(text for text, _ in blocks),
        messages=len(messages),
        blocks=blocks,
        max_tokens=int(body["max_tokens"]) if body.get("max_tokens") is not None else None,
        reasoning=min(int(thinking.get("budget_tokens") or 128), 128) if thinks else 0,
        tool=_wanted_tool(body),
        web_search=any(str(tool.get("type", "")).startswith("web_search") for tool in body.get("tools") or ()),
        schema=output_format.get("schema"),
    )


def _blocks(body: Body) -> Iterator[tuple[str, str | None]]:
    """Yield (text, cache ttl) in the order in which the model reads: tools, system, messages."""
    for tool in body.get("tools") or ():
        yield dump({name: part for name, part in tool.items() if name != "cache_control"}), _ttl(tool)
    contents = [body.get("system"), *(message.get("content") for message in body["messages"])]
    for content in contents:
        for block in content if isinstance(content, list) else [content]:
            if block:
                yield text_of(block), _ttl(block)


def _ttl(block: Any) -> str | None:
    control = block.get("cache_control") if isinstance(block, Mapping) else None
    return (control.get("ttl") or "5m") if control else None


def _wanted_tool(body: Body) -> tuple[str, Any] | None:
    """Return the call of the first tool of the app's own, unless its result is already there."""
    own = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    choice = body.get("tool_choice") or {}
    answered = any(
        isinstance(block, Mapping) and block.get("type") == "tool_result"
        for message in body["messages"]
        for block in (message["content"] if isinstance(message.get("content"), list) else ())
    )
    if not own or answered or choice.get("type") == "none":
        return None
    chosen = next((tool for tool in own if tool["name"] == choice.get("name")), own[0])
    return chosen["name"], sample(chosen["input_schema"])


def answer(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return the answer to a Messages request."""
    prompt = read(body)
    required(body, "max_tokens")
    model = str(FULL_NAMES.get(body["model"], body["model"]))
    thought = _cached(think(prompt, options), cache.marked(model, prompt.blocks))
    thought = dictated(thought, options)
    speed = "fast" if body.get("speed") == "fast" else "standard"
    geo = body.get("inference_geo")
    compacted = int(options.get("compaction", 0))

    def usage_at(written: int) -> dict[str, Any]:
        usage = _usage(thought, written, speed)
        if geo:
            usage["inference_geo"] = geo
        if compacted:
            usage["iterations"] = [
                {"type": "compaction", "input_tokens": compacted, "output_tokens": COMPACTION_TOKENS},
                {"type": "message", "input_tokens": thought.input_tokens, "output_tokens": written},
            ]
        return usage

    def counts_at(written: int) -> dict[str, int]:
        counts = _counts(thought, written)
        if compacted:  # outside the totals, and charged
            counts["input"] += compacted
            counts["output"] += COMPACTION_TOKENS
        return counts

    message: dict[str, Any] = {
        "id": new_id("msg_01"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": _content(thought),
        "stop_reason": STOPS[thought.stop],
        "stop_sequence": None,
        "usage": usage_at(thought.output_tokens),
    }
    if thought.stop in {"refusal", "filter"}:
        message["stop_details"] = {
            "type": "refusal",
            "category": "general_harms",
            "explanation": "The mock was told to refuse.",
        }
        if "credit" in options:
            message["stop_details"] |= {
                "fallback_credit_token": new_id("credit_"),
                "fallback_has_prefill_claim": True,
            }
    return Answer(
        id=message["id"],
        model=model,
        api="messages",
        body=message,
        output_tokens=thought.output_tokens,
        usage_at=usage_at,
        counts_at=counts_at,
        factor=US_FACTORS.get(model, "1") if geo == "us" else "1",
        frames=_frames(message, thought, usage_at) if body.get("stream") else None,
        error_frame=Frame(
            "error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 0
        ),
        service_tier="standard",
        speed=speed,
    )


def _cached(thought: Thought, counts: Mapping[str, int]) -> Thought:
    """Return ``thought`` with the cached part of its input told apart."""
    if not counts:
        return thought
    fresh = max(0, thought.input_tokens - sum(counts.values()))
    return dictated(thought, {"input": str(fresh), **{name: str(count) for name, count in counts.items()}})


def _usage(thought: Thought, written: int, speed: str) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": thought.input_tokens,
        "cache_creation_input_tokens": thought.cache_write_5m + thought.cache_write_1h,
        "cache_read_input_tokens": thought.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": thought.cache_write_5m,
            "ephemeral_1h_input_tokens": thought.cache_write_1h,
        },
        "output_tokens": written,
        "service_tier": "standard",
    }
    if thought.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": min(thought.reasoning, written)}
    if thought.web_searches:
        usage["server_tool_use"] = {"web_search_requests": thought.web_searches, "web_fetch_requests": 0}
    if speed != "standard":
        usage["speed"] = speed
    return usage


def _counts(thought: Thought, written: int) -> dict[str, int]:
    return {
        "input": thought.input_tokens,
        "cache_read": thought.cache_read,
        "cache_write_5m": thought.cache_write_5m,
        "cache_write_1h": thought.cache_write_1h,
        "output": written,
        "web_search": thought.web_searches,
    }


def _content(thought: Thought) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thought.reasoning:
        blocks.append({"type": "thinking", "thinking": "Where is the parcel?", "signature": "bW9jaw=="})
    for _ in range(thought.web_searches):
        search = new_id("srvtoolu_")
        found = {"type": "web_search_result", "title": "Parcels", "url": "https://example.com/parcels"}
        blocks += [
            {"type": "server_tool_use", "id": search, "name": "web_search", "input": {"query": "parcel"}},
            {
                "type": "web_search_tool_result",
                "tool_use_id": search,
                "content": [found | {"encrypted_content": "bW9jaw==", "page_age": None}],
            },
        ]
    if thought.text:
        blocks.append({"type": "text", "text": thought.text})
    if thought.tool:
        name, arguments = thought.tool
        blocks.append({"type": "tool_use", "id": new_id("toolu_01"), "name": name, "input": arguments})
    return blocks


def _frames(message: dict[str, Any], thought: Thought, usage_at: Any) -> tuple[Frame, ...]:
    """Return the stream: a placeholder of one output token at its start, the cumulative usage at its end."""
    made = Frames()
    opened = {**message, "content": [], "stop_reason": None, "usage": usage_at(1) | {"output_tokens": 1}}
    opened.pop("stop_details", None)
    made.add("message_start", {"type": "message_start", "message": opened})
    for index, block in enumerate(message["content"]):
        started, deltas = _deltas(block, thought)
        made.add("content_block_start", {"type": "content_block_start", "index": index, "content_block": started})
        if index == 0:
            made.add("ping", {"type": "ping"})
        for delta, tokens in deltas:
            made.add("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}, tokens)
        made.add("content_block_stop", {"type": "content_block_stop", "index": index})
    usage = message["usage"]
    last = {name: usage[name] for name in usage if name not in {"cache_creation", "service_tier", "speed"}}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    if "stop_details" in message:
        delta["stop_details"] = message["stop_details"]
    made.add("message_delta", {"type": "message_delta", "delta": delta, "usage": last})
    made.add("message_stop", {"type": "message_stop"})
    return tuple(made.frames)


def _deltas(block: dict[str, Any], thought: Thought) -> tuple[dict[str, Any], list[tuple[dict[str, Any], int]]]:
    """Return how ``block`` is opened and the deltas, each with its tokens, that fill it."""
    if block["type"] == "thinking":
        return {**block, "thinking": "", "signature": ""}, [
            ({"type": "thinking_delta", "thinking": block["thinking"]}, thought.reasoning),
            ({"type": "signature_delta", "signature": block["signature"]}, 0),
        ]
    if block["type"] == "text":
        pieces = zip(thought.pieces, thought.piece_tokens, strict=True)
        return {**block, "text": ""}, [({"type": "text_delta", "text": text}, tokens) for text, tokens in pieces]
    if block["type"] in {"tool_use", "server_tool_use"}:
        tokens = thought.tool_tokens if block["type"] == "tool_use" else 0
        whole = dump(block["input"])
        half = len(whole) // 2
        return {**block, "input": {}}, [
            ({"type": "input_json_delta", "partial_json": whole[:half]}, 0),
            ({"type": "input_json_delta", "partial_json": whole[half:]}, tokens),
        ]
    return block, []
