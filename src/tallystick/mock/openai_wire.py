"""OpenAI's wire: Chat Completions, Responses, Completions, Embeddings.

Source: the types of openai 3.54 (``ChatCompletionChunk``, ``ResponseStreamEvent``, ``CompletionUsage``).
"""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tallystick.mock.answers import Answer, Body, Frame, Frames, dump, new_id, required, text_of
from tallystick.mock.books import FULL_NAMES
from tallystick.mock.thoughts import Prompt, PromptCache, Thought, count_tokens, dictated, sample, think

ERRORS: dict[str, tuple[int, str, str | None, str]] = {
    "400": (400, "invalid_request_error", None, "We could not parse the JSON body of your request."),
    "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "quota": (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "403": (403, "invalid_request_error", "unsupported_country_region_territory", "Not available here."),
    "404": (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or you do not have access to it.",
    ),
    "413": (413, "invalid_request_error", "request_too_large", "Request is too large."),
    "429": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "500": (500, "server_error", None, "The server had an error while processing your request."),
    "503": (503, "server_error", None, "The engine is currently overloaded, please try again later."),
    "504": (504, "server_error", "request_timeout", "Request timed out."),
    "529": (503, "server_error", "server_overloaded", "That model is currently overloaded with other requests."),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens.",
    ),
}
EFFORTS = {"none": 0, "minimal": 0, "low": 64, "medium": 128, "high": 256, "xhigh": 512}
CHAT_STOPS = {
    "end": "stop",
    "length": "length",
    "refusal": "stop",
    "filter": "content_filter",
    "tool": "tool_calls",
}
REFUSAL = "I cannot help with that."
EMPTY: dict[str, dict[str, Any]] = {"message": {"content": []}, "function_call": {"arguments": ""}}
"""How an item of the Responses API begins, by its type."""


def error(name: str, request_id: str, message: str | None = None) -> tuple[int, dict[str, Any]]:  # noqa: ARG001 -- same shape as Anthropic's
    """Return status and body of the error that a script calls ``name``."""
    status, kind, code, text = ERRORS[name]
    return status, {"error": {"message": message or text, "type": kind, "param": None, "code": code}}


def _effort(model: str, asked: str | None) -> int:
    """Return how many tokens the model reasons; the first gpt-5 and the o models do so unasked."""
    if not model.startswith(("gpt-5", "gpt-6", "o1", "o3", "o4")):
        return 0
    unasked = "none" if model.startswith(("gpt-5.", "gpt-6")) else "medium"
    return EFFORTS.get(asked or unasked, EFFORTS["medium"])


def _wanted_tool(tools: list[Mapping[str, Any]], choice: Any, answered: bool) -> tuple[str, Any] | None:
    if not tools or answered or choice == "none":
        return None
    return str(tools[0]["name"]), sample(tools[0].get("parameters") or {"type": "object"})


def _full(body: Body) -> str:
    model = str(required(body, "model"))
    return FULL_NAMES.get(model, model)


def _tier(body: Body) -> str:
    asked = body.get("service_tier")
    return "default" if asked in (None, "auto") else str(asked)


def _thought(prompt: Prompt, model: str, options: Mapping[str, str], cache: PromptCache) -> Thought:
    thought = think(prompt, options)
    if cached := cache.automatic(model, prompt.text):
        thought = dictated(thought, {"input": str(max(0, thought.input_tokens - cached)), "cache_read": str(cached)})
    return dictated(thought, options)


def _counts(thought: Thought, written: int) -> dict[str, int]:
    return {
        "input": thought.input_tokens,
        "cache_read": thought.cache_read,
        "output": written,
        "web_search": thought.web_searches,
    }


# Chat Completions -----------------------------------------------------------------------------------------------------


def chat(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return the answer to a Chat Completions request."""
    model = _full(body)
    thought = _thought(_read_chat(body), model, options, cache)
    choices = int(body.get("n") or 1)
    total = thought.output_tokens * choices

    def usage_at(written: int) -> dict[str, Any]:
        return {
            "prompt_tokens": thought.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": thought.prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": thought.cache_read, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": min(thought.reasoning * choices, written),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    head: dict[str, Any] = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
    }
    tail = {"service_tier": _tier(body), "system_fingerprint": "fp_mock"}
    message = _message(thought)
    answered = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": CHAT_STOPS[thought.stop]}
        for index in range(choices)
    ]
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return Answer(
        id=head["id"],
        model=model,
        api="chat",
        body={**head, "choices": answered, "usage": usage_at(total), **tail},
        output_tokens=total,
        usage_at=usage_at,
        counts_at=lambda written: _counts(thought, written),
        frames=_chat_frames({**head, **tail}, thought, choices, usage_at(total) if with_usage else None)
        if body.get("stream")
        else None,
        error_frame=Frame(None, error("500", "")[1], 0),
        service_tier=_tier(body),
    )


def _read_chat(body: Body) -> Prompt:
    messages = required(body, "messages")
    model = str(body["model"])
    tools = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    answered = any(message.get("role") == "tool" for message in messages)
    response_format = body.get("response_format") or {}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    texts = [text_of(message.get("content")) + text_of(message.get("tool_calls")) for message in messages]
    return Prompt(
        text="\n".join([*(dump(tool) for tool in tools), *texts]),
        messages=len(messages),
        max_tokens=int(limit) if limit else None,
        reasoning=_effort(model, body.get("reasoning_effort")),
        tool=_wanted_tool(tools, body.get("tool_choice"), answered),
        schema=(response_format.get("json_schema") or {}).get("schema"),
    )


def _message(thought: Thought) -> dict[str, Any]:
    if thought.stop == "refusal":
        return {"role": "assistant", "content": None, "refusal": REFUSAL, "annotations": []}
    if thought.tool:
        calls = [{"id": new_id("call_"), "type": "function", "function": _function(thought)}]
        return {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": calls}
    return {"role": "assistant", "content": thought.text, "refusal": None, "annotations": []}


def _function(thought: Thought) -> dict[str, str]:
    assert thought.tool is not None, "asked for only where there is one"
    return {"name": thought.tool[0], "arguments": dump(thought.tool[1])}


def _chat_frames(
    head: dict[str, Any], thought: Thought, choices: int, usage: dict[str, Any] | None
) -> tuple[Frame, ...]:
    """Return the stream; with ``usage`` every chunk has the key, and one more chunk has the figures."""
    made = Frames()
    base = {**head, "object": "chat.completion.chunk"} | ({"usage": None} if usage else {})

    def chunk(index: int, delta: dict[str, Any], tokens: int = 0, finish: str | None = None) -> None:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        made.add(None, {**base, "choices": [choice]}, tokens)

    for index in range(choices):
        chunk(index, {"role": "assistant", "content": "", "refusal": None}, thought.reasoning)
        for delta, tokens in _chat_deltas(thought):
            chunk(index, delta, tokens)
        chunk(index, {}, finish=CHAT_STOPS[thought.stop])
    if usage:
        made.add(None, {**base, "choices": [], "usage": usage})
    made.add(None, "[DONE]")
    return tuple(made.frames)


def _chat_deltas(thought: Thought) -> list[tuple[dict[str, Any], int]]:
    if thought.tool:
        called = _function(thought)
        first = {"index": 0, "id": new_id("call_"), "type": "function", "function": {**called, "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": called["arguments"]}}
        return [({"tool_calls": [first]}, 0), ({"tool_calls": [rest]}, thought.tool_tokens)]
    if thought.stop == "refusal":
        return [({"refusal": REFUSAL}, sum(thought.piece_tokens))]
    pieces = zip(thought.pieces, thought.piece_tokens, strict=True)
    return [({"content": text}, tokens) for text, tokens in pieces]


# Responses ------------------------------------------------------------------------------------------------------------


def responses(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return the answer to a Responses request."""
    model = _full(body)
    thought = _thought(_read_responses(body), model, options, cache)

    def usage_at(written: int) -> dict[str, Any]:
        return {
            "input_tokens": thought.prompt_tokens,
            "input_tokens_details": {"cached_tokens": thought.cache_read, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": min(thought.reasoning, written)},
            "total_tokens": thought.prompt_tokens + written,
        }

    response = _response(body, model, thought, usage_at(thought.output_tokens))
    frames = _response_frames(response, thought) if body.get("stream") else None

    def failed(written: int) -> Frame:
        ended = _failed(response, usage_at(written))
        return Frame("response.failed", {"type": "response.failed", "response": ended, "sequence_number": 99}, written)

    broken = {"type": "error", "code": "server_error", "message": "The server had an error.", "param": None}
    return Answer(
        id=response["id"],
        model=model,
        api="responses",
        body=response,
        output_tokens=thought.output_tokens,
        usage_at=usage_at,
        counts_at=lambda written: _counts(thought, written),
        frames=frames,
        error_frame=Frame("error", {**broken, "sequence_number": 99}, 0),
        failed=failed,
        service_tier=_tier(body),
    )


def _failed(response: Body, usage: dict[str, Any]) -> dict[str, Any]:
    told = {"code": "server_error", "message": "The model failed."}
    return {**response, "status": "failed", "error": told, "output": [], "usage": usage}


def _read_responses(body: Body) -> Prompt:
    given = required(body, "input")
    items = given if isinstance(given, list) else [given]
    tools = body.get("tools") or []
    own = [tool for tool in tools if tool.get("type") == "function"]
    answered = any(isinstance(item, Mapping) and item.get("type") == "function_call_output" for item in items)
    texts = [text_of(item.get("content", item)) if isinstance(item, Mapping) else str(item) for item in items]
    effort = (body.get("reasoning") or {}).get("effort")
    output_format = (body.get("text") or {}).get("format") or {}
    return Prompt(
        text="\n".join([*(dump(tool) for tool in tools), str(body.get("instructions") or ""), *texts]),
        messages=len(items),
        max_tokens=int(body["max_output_tokens"]) if body.get("max_output_tokens") else None,
        reasoning=_effort(str(body["model"]), effort),
        tool=_wanted_tool(own, body.get("tool_choice"), answered),
        web_search=any(str(tool.get("type")).startswith("web_search") for tool in tools),
        schema=output_format.get("schema"),
    )


def _response(body: Body, model: str, thought: Thought, usage: dict[str, Any]) -> dict[str, Any]:
    short = {"length": "max_output_tokens", "filter": "content_filter"}.get(thought.stop)
    response: dict[str, Any] = {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if short else "completed",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": {"reason": short} if short else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": model,
        "output": _output(thought, "incomplete" if short else "completed"),
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
        "service_tier": _tier(body),
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
    }
    if thought.web_searches:
        response["tool_usage"] = {"web_search": {"num_requests": thought.web_searches}}
    return response


def _output(thought: Thought, status: str) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = []
    if thought.reasoning:
        output.append({"id": new_id("rs_"), "type": "reasoning", "summary": []})
    for _ in range(thought.web_searches):
        action = {"type": "search", "query": "parcel"}
        output.append({"id": new_id("ws_"), "type": "web_search_call", "status": "completed", "action": action})
    if thought.tool:
        call = {"id": new_id("fc_"), "type": "function_call", "status": status, "call_id": new_id("call_")}
        return [*output, call | _function(thought)]
    part: dict[str, Any] = {"type": "output_text", "text": thought.text, "annotations": [], "logprobs": []}
    if thought.stop == "refusal":
        part = {"type": "refusal", "refusal": REFUSAL}
    message = {"id": new_id("msg_"), "type": "message", "status": status, "role": "assistant", "content": [part]}
    return [*output, message]


class _Sequence(Frames):
    """Frames that are numbered, as those of the Responses API are."""

    def say(self, kind: str, tokens: int = 0, **data: Any) -> None:
        self.add(kind, {"type": kind, **data, "sequence_number": len(self.frames)}, tokens)


def _response_frames(response: dict[str, Any], thought: Thought) -> tuple[Frame, ...]:
    made = _Sequence()
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    begun.pop("tool_usage", None)
    made.say("response.created", response=begun)
    made.say("response.in_progress", response=begun)
    for index, item in enumerate(response["output"]):
        empty = EMPTY.get(item["type"], {})
        opened = {**item, **empty} | ({"status": "in_progress"} if "status" in item else {})
        tokens = thought.reasoning if item["type"] == "reasoning" else 0
        made.say("response.output_item.added", tokens, output_index=index, item=opened)
        _item_frames(made, item, index, thought)
        made.say("response.output_item.done", output_index=index, item=item)
    made.say(f"response.{response['status']}", response=response)
    return tuple(made.frames)


def _item_frames(made: _Sequence, item: dict[str, Any], index: int, thought: Thought) -> None:
    at = {"item_id": item["id"], "output_index": index}
    if item["type"] == "function_call":
        made.say("response.function_call_arguments.delta", thought.tool_tokens, **at, delta=item["arguments"])
        made.say("response.function_call_arguments.done", **at, arguments=item["arguments"], name=item["name"])
    if item["type"] == "web_search_call":
        for stage in ("in_progress", "searching", "completed"):
            made.say(f"response.web_search_call.{stage}", **at)
    if item["type"] != "message":
        return
    part = item["content"][0]
    at["content_index"] = 0
    if part["type"] == "refusal":
        made.say("response.content_part.added", **at, part={**part, "refusal": ""})
        made.say("response.refusal.delta", sum(thought.piece_tokens), **at, delta=part["refusal"])
        made.say("response.refusal.done", **at, refusal=part["refusal"])
    else:
        made.say("response.content_part.added", **at, part={**part, "text": ""})
        for text, tokens in zip(thought.pieces, thought.piece_tokens, strict=True):
            made.say("response.output_text.delta", tokens, **at, delta=text, logprobs=[])
        made.say("response.output_text.done", **at, text=part["text"], logprobs=[])
    made.say("response.content_part.done", **at, part=part)


# Completions and embeddings -------------------------------------------------------------------------------------------


def completions(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return the answer to a request of the old Completions API."""
    model = _full(body)
    prompt = Prompt(text=text_of(required(body, "prompt")), messages=0, max_tokens=int(body.get("max_tokens") or 16))
    thought = _thought(prompt, model, options, cache)

    def usage_at(written: int) -> dict[str, Any]:
        return {
            "prompt_tokens": thought.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": thought.prompt_tokens + written,
        }

    head: dict[str, Any] = {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }

    def choice(text: str, finish: str | None) -> list[dict[str, Any]]:
        return [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish}]

    made = Frames()
    for text, tokens in zip(thought.pieces, thought.piece_tokens, strict=True):
        made.add(None, {**head, "choices": choice(text, None)}, tokens)
    made.add(None, {**head, "choices": choice("", CHAT_STOPS[thought.stop])})
    if (body.get("stream_options") or {}).get("include_usage"):
        made.add(None, {**head, "choices": [], "usage": usage_at(thought.output_tokens)})
    made.add(None, "[DONE]")
    whole = {**head, "choices": choice(thought.text, CHAT_STOPS[thought.stop])}
    return Answer(
        id=head["id"],
        model=model,
        api="completions",
        body={**whole, "usage": usage_at(thought.output_tokens)},
        output_tokens=thought.output_tokens,
        usage_at=usage_at,
        counts_at=lambda written: _counts(thought, written),
        frames=tuple(made.frames) if body.get("stream") else None,
        error_frame=Frame(None, error("500", "")[1], 0),
    )


def embeddings(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- nothing is cached
    """Return the answer to an Embeddings request; the vectors are made of the text's hash."""
    model = _full(body)
    given = required(body, "input")
    # A list of numbers is one text that was tokenized before.
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    tokens = sum(len(text) if isinstance(text, list) else count_tokens(str(text)) for text in inputs)
    tokens = int(options.get("input", tokens))
    encode: Callable[[list[float]], Any] = _base64 if body.get("encoding_format") == "base64" else list
    size = int(body.get("dimensions") or (3072 if model.endswith("-large") else 1536))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data = [
        {"object": "embedding", "index": index, "embedding": encode(_vector(str(text), size))}
        for index, text in enumerate(inputs)
    ]
    return Answer(
        id="",
        model=model,
        api="embeddings",
        body={"object": "list", "data": data, "model": model, "usage": usage},
        output_tokens=0,
        usage_at=lambda _: usage,
        counts_at=lambda _: {"input": tokens},
    )


def _vector(text: str, size: int) -> list[float]:
    seed = hashlib.shake_256(text.encode()).digest(size)
    return [(byte - 127.5) / 127.5 for byte in seed]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# Compaction and counting ----------------------------------------------------------------------------------------------


def compact(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return a compacted conversation: a pass that is charged as a response."""
    answer = responses(body, options, cache)
    item = {"id": new_id("cmp_"), "type": "compaction", "encrypted_content": "bW9jaw=="}
    told = {"id": answer.id, "object": "response.compaction", "created_at": int(time.time()), "output": [item]}
    return replace(answer, body={**told, "usage": answer.usage_at(answer.output_tokens)}, api="responses", frames=None)


def count_input(body: Body) -> int:
    """Return how many tokens a request to the Responses API has."""
    return _read_responses({"model": "", **body}).tokens
