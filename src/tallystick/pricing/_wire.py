"""The wire readers: a provider's own usage object in, counts by class out.  One pure function per API flavour.

Classes are disjoint here (``input`` is what was neither read from nor written to a cache), because that is how they are
charged; `tallystick.model.usage.Usage` has them inclusive.  A count that is absent, negative, no number or larger than
the whole that it is part of is refused: a wrong figure is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, cast

from tallystick.model.usage import Usage
from tallystick.pricing._items import EXACT

Wire = Mapping[str, Any]
Counts = dict[str, int | Decimal]


class Refused(Exception):  # noqa: N818 -- it is an answer inside this room, never an error that surfaces
    """The usage cannot be priced; the text says why."""


class Part(NamedTuple):
    """What one model is charged for: the answering model, or an advisor's."""

    counts: Counts
    prompt_tokens: int = 0
    """Everything that was read, cache included: what the long-context steps go by."""
    model: str | None = None
    """None: the model that answered."""
    label: str = ""
    where_listed: frozenset[str] = frozenset()
    """Items that only a model with a rate of its own for them is charged for."""


class Reading(NamedTuple):
    """What one usage object says."""

    usage: Usage
    parts: tuple[Part, ...]
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    stated_usd: Decimal | None = None
    """What the provider says that it charged."""
    doubt: str | None = None
    """Why the counts may not be the whole truth; the cost is an estimate then."""
    notes: tuple[str, ...] = ()


def whole(wire: Wire, *names: str) -> int:
    """Return the first of ``names`` that ``wire`` has, as a whole number; 0 when it has none."""
    for name in names:
        value = wire.get(name)
        if value is not None:
            return value if type(value) is int and value >= 0 else _whole(value, name)
    return 0


def needed(wire: Wire, *names: str) -> int:
    """Return the first of ``names`` that ``wire`` has; refuse when it has none."""
    for name in names:
        value = wire.get(name)
        if value is not None:
            return value if type(value) is int and value >= 0 else _whole(value, name)
    raise Refused(f"the usage has no {names[0]}")


def _whole(value: Any, name: str) -> int:
    if type(value) is int:
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    else:
        raise Refused(f"{name} = {short(value)} is not a count")
    if number < 0:
        raise Refused(f"{name} = {number} is negative")
    return number


def short(value: Any) -> str:
    """Return ``value`` for a message: its beginning, because a reason is no place for somebody's text."""
    return repr(value)[:40]


def inner(wire: Wire, *names: str) -> Wire:
    """Return the first object of ``names`` that ``wire`` has; an empty one when it has none."""
    for name in names:
        value = wire.get(name)
        if value is not None:
            if type(value) is not dict and not isinstance(value, Mapping):
                raise Refused(f"{name} = {short(value)} is not an object")
            return value
    return {}


def amount(value: Any, name: str) -> Decimal:
    """Return a quantity or charge that may have decimals; a float is taken as it is written."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Refused(f"{name} = {short(value)} is not a number")
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    if not number.is_finite() or number < 0:
        raise Refused(f"{name} = {short(value)} is not a number of 0 or more")
    return number


def _within(part: int, whole_count: int, what: str, of: str) -> None:
    if part > whole_count:
        raise Refused(f"{what} ({part}) is more than {of} ({whole_count})")


def _counts(pairs: Iterable[tuple[str, int | Decimal]]) -> Counts:
    return {item: count for item, count in pairs if count}


# --- Anthropic: the cache is outside input_tokens ------------------------------------------------------------


def read_messages(wire: Wire, _: Wire) -> Reading:
    """Anthropic Messages: ``input_tokens`` excludes cache reads and writes; iterations may lie outside the totals."""
    main = _exclusive(wire)
    searches = whole(inner(wire, "server_tool_use"), "web_search_requests")
    parts, doubt = _iterations(wire, main)
    if searches:
        parts = (parts[0]._replace(counts={**parts[0].counts, "web_search": searches}), *parts[1:])
    reasoning = whole(inner(wire, "output_tokens_details"), "thinking_tokens")
    _within(reasoning, int(main.counts.get("output", 0)), "thinking_tokens", "output_tokens")
    if inner(inner(wire, "fallback_credit"), "status").get("type") == "redeemed":
        doubt = "a fallback credit was redeemed, which changes the charge by an amount that the usage does not tell"
    return Reading(
        usage=_sum_of(parts, reasoning_tokens=reasoning, web_search_requests=searches),
        parts=parts,
        tier=_word(wire, "service_tier"),
        speed=_word(wire, "speed"),
        geo=_word(wire, "inference_geo"),
        doubt=doubt,
    )


def _word(wire: Wire, name: str) -> str | None:
    value = wire.get(name)
    return value.strip().lower() if isinstance(value, str) else None


def _exclusive(wire: Wire, model: str | None = None, label: str = "") -> Part:
    fresh = needed(wire, "input_tokens")
    output = needed(wire, "output_tokens")
    read = whole(wire, "cache_read_input_tokens")
    split = inner(wire, "cache_creation")
    written_5m = whole(split, "ephemeral_5m_input_tokens")
    written_1h = whole(split, "ephemeral_1h_input_tokens")
    # Without the split (older API versions) a write lives five minutes: that is the default.
    written = whole(wire, "cache_creation_input_tokens") if _has(wire, "cache_creation_input_tokens") else None
    if written is None:
        written = written_5m + written_1h
    _within(written_5m + written_1h, written, "cache_creation", "cache_creation_input_tokens")
    counts = _counts((
        ("input", fresh),
        ("cache_read", read),
        ("cache_write_5m", written - written_1h),
        ("cache_write_1h", written_1h),
        ("output", output),
    ))  # fmt: skip
    return Part(counts, fresh + read + written, model, label)


def _has(wire: Wire, name: str) -> bool:
    return wire.get(name) is not None


def _iterations(wire: Wire, main: Part) -> tuple[tuple[Part, ...], str | None]:
    """Return the parts that ``wire`` is charged by, the totals first, and why they may be incomplete.

    A compaction and an advisor's message are outside the totals, the advisor on its own model; messages are inside.
    Source: docstrings of ``BetaUsage`` in anthropic 2.12; platform.claude.com, advisor tool.
    """
    entries = wire.get("iterations")
    if not entries:
        return (main,), None
    if not isinstance(entries, list | tuple):
        raise Refused(f"iterations = {short(entries)} is not a list")
    outside: list[Part] = []
    inside: list[Part] = []
    doubt = None
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise Refused(f"an iteration is {short(entry)}, not an object")
        kind, model = entry.get("type"), _model_of(entry)
        if kind in {"compaction", "advisor_message"}:
            if kind == "advisor_message" and model is None:
                raise Refused("an advisor's iteration does not name its model")
            outside.append(_exclusive(entry, model, "compaction_" if kind == "compaction" else "advisor_"))
        elif kind in {"message", "fallback_message"}:
            inside.append(_exclusive(entry, model, "fallback_" if kind == "fallback_message" else ""))
        else:
            doubt = f"iterations of type {short(kind)} are not known here; they are taken to be inside the totals"
    if any(part.label for part in inside):
        return _fallback(main, inside, outside)
    return (main, *outside), doubt


def _model_of(entry: Wire) -> str | None:
    model = entry.get("model")
    return model if isinstance(model, str) and model else None


def _fallback(main: Part, inside: list[Part], outside: list[Part]) -> tuple[tuple[Part, ...], str | None]:
    """Several models answered in turn: each is charged for its own tokens, when they add up to the totals."""
    adds_up = _total(inside) == main.counts
    if adds_up and all(part.model for part in inside):
        return (*inside, *outside), None
    return (main, *outside), "a fallback model answered, and the usage does not tell whose tokens are whose"


def _total(parts: Sequence[Part]) -> Counts:
    if len(parts) == 1:
        return parts[0].counts
    total: Counts = {}
    for part in parts:
        for item, count in part.counts.items():
            total[item] = total.get(item, 0) + count
    return total


# What a charged class is part of, in the inclusive convention.
_PART_OF: dict[str, tuple[str, ...]] = {
    "input": ("input_tokens",),
    "input_audio": ("input_tokens", "input_audio_tokens"),
    "input_image": ("input_tokens", "input_image_tokens"),
    "input_video": ("input_tokens",),
    "cache_read": ("input_tokens", "cache_read_tokens"),
    "cache_read_audio": ("input_tokens", "cache_read_tokens", "input_audio_tokens"),
    "cache_read_image": ("input_tokens", "cache_read_tokens", "input_image_tokens"),
    "cache_read_video": ("input_tokens", "cache_read_tokens"),
    "cache_write_5m": ("input_tokens", "cache_write_tokens", "cache_write_5m_tokens"),
    "cache_write_30m": ("input_tokens", "cache_write_tokens", "cache_write_30m_tokens"),
    "cache_write_1h": ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    "cache_write_12h": ("input_tokens", "cache_write_tokens", "cache_write_12h_tokens"),
    "output": ("output_tokens",),
    "output_audio": ("output_tokens", "output_audio_tokens"),
    "output_image": ("output_tokens", "output_image_tokens"),
    "output_video": ("output_tokens",),
    "output_reasoning": ("output_tokens", "reasoning_tokens"),
    "output_citation": ("output_tokens",),
}


def _sum_of(parts: Sequence[Part], *, reasoning_tokens: int = 0, web_search_requests: int = 0) -> Usage:
    """Return the inclusive counts of all ``parts``."""
    sums = {"reasoning_tokens": reasoning_tokens, "web_search_requests": web_search_requests}
    for part in parts:
        for item, count in part.counts.items():
            for name in _PART_OF.get(item, ()):
                # What a provider counts in tokens is whole; the cast only says so.
                sums[name] = sums.get(name, 0) + cast(int, count)
    return Usage(**sums)


# --- OpenAI and who speaks like it: the cache is inside ------------------------------------------------------------

_PROMPT = ("prompt_tokens", "input_tokens")
_ANSWER = ("completion_tokens", "output_tokens")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_ANSWER_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")


def read_chat(wire: Wire, params: Wire) -> Reading:
    """OpenAI chat, responses, embeddings, images, realtime, transcription in tokens: everything inclusive."""
    prompt = needed(wire, *_PROMPT)
    total = whole(wire, "total_tokens")
    answer = _answer(wire, params, prompt, total)
    _check_total(total, prompt, answer)
    details = inner(wire, *_ANSWER_DETAILS)
    return _inclusive(wire, params, prompt, answer, details, whole(details, "reasoning_tokens"))


def _check_total(total: int, prompt: int, answer: int) -> None:
    if total and total < prompt + answer:
        raise Refused(f"total_tokens ({total}) is less than what was read and written ({prompt} + {answer})")


def _answer(wire: Wire, params: Wire, prompt: int, total: int) -> int:
    if answer := whole(wire, *_ANSWER):
        return answer
    if any(wire.get(name) is not None for name in _ANSWER):
        return 0
    # Embeddings and moderation write nothing; others that leave the count out still say the total.
    if params.get("api") in {"embeddings", "moderations", "rerank"}:
        return 0
    if wire.get("total_tokens") is None:
        raise Refused("the usage has no completion_tokens")
    return max(total - prompt, 0)


def _inclusive(wire: Wire, params: Wire, prompt: int, answer: int, written_out: Wire, reasoning: int) -> Reading:
    _within(reasoning, answer, "reasoning_tokens", "the output tokens")
    pairs = _input_pairs(wire, inner(wire, *_PROMPT_DETAILS), prompt) + _output_pairs(written_out, answer, params)
    part = Part({item: count for item, count in pairs if count}, prompt)
    searches = _searches(wire, params)
    usage = _sum_of([part], reasoning_tokens=reasoning, web_search_requests=searches)
    if searches:
        part.counts["web_search"] = searches
    return Reading(usage=usage, parts=(part,), tier=_word(wire, "service_tier"))


def _input_pairs(wire: Wire, details: Wire, prompt: int) -> list[tuple[str, int]]:
    cached = whole(details, "cached_tokens")
    if not cached:  # DeepSeek, Moonshot and Mistral say it beside the totals
        cached = whole(wire, "prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
    written, written_12h = _written(details)
    _within(cached + written, prompt, "cached and cache-written tokens", "the prompt's tokens")
    audio, image = whole(details, "audio_tokens"), whole(details, "image_tokens")
    _within(audio + image, prompt, "audio and image tokens", "the prompt's tokens")
    text_cached, audio_cached, image_cached = _cached_split(
        inner(details, "cached_tokens_details"), cached, prompt, audio, image
    )
    text = prompt - audio - image - text_cached - written
    # A write that reaches into audio or images: those tokens are charged as writes.
    audio_left, image_left = audio - audio_cached, image - image_cached
    if text < 0:
        taken = min(-text, audio_left)
        audio_left, text = audio_left - taken, text + taken
        image_left, text = image_left + text, 0
    return [
        ("input", text),
        ("input_audio", audio_left),
        ("input_image", image_left),
        ("cache_read", text_cached),
        ("cache_read_audio", audio_cached),
        ("cache_read_image", image_cached),
        ("cache_write_30m", written - written_12h),
        ("cache_write_12h", written_12h),
    ]


def _written(details: Wire) -> tuple[int, int]:
    """Return the tokens written to the cache, and those of them that are kept for 12 hours."""
    split = inner(details, "cache_write_tokens_details")
    if not split:
        return whole(details, "cache_write_tokens"), 0
    short, long = whole(split, "ttl_30m_tokens"), whole(split, "ttl_12h_tokens")
    written = whole(details, "cache_write_tokens") if _has(details, "cache_write_tokens") else short + long
    _within(short + long, written, "cache_write_tokens_details", "cache_write_tokens")
    return written, long


def _cached_split(split: Wire, cached: int, prompt: int, audio: int, image: int) -> tuple[int, int, int]:
    """Return the cached tokens by text, audio and image; text first when the provider does not say."""
    if not cached:
        return 0, 0, 0
    if split:
        audio_cached, image_cached = whole(split, "audio_tokens"), whole(split, "image_tokens")
        _within(audio_cached + image_cached, cached, "cached_tokens_details", "cached_tokens")
        _within(audio_cached, audio, "cached audio tokens", "audio_tokens")
        _within(image_cached, image, "cached image tokens", "image_tokens")
        _within(cached - audio_cached - image_cached, prompt - audio - image, "cached text tokens", "the text tokens")
        return cached - audio_cached - image_cached, audio_cached, image_cached
    text_cached = min(cached, prompt - audio - image)
    audio_cached = min(cached - text_cached, audio)
    return text_cached, audio_cached, cached - text_cached - audio_cached


def _output_pairs(details: Wire, answer: int, params: Wire) -> list[tuple[str, int]]:
    if not details and params.get("api") == "images":
        return [("output_image", answer)]  # the images API writes images; the split came with later models
    audio, image = whole(details, "audio_tokens"), whole(details, "image_tokens")
    _within(audio + image, answer, "audio and image tokens", "the output tokens")
    return [("output", answer - audio - image), ("output_audio", audio), ("output_image", image)]


def _searches(wire: Wire, params: Wire) -> int:
    """Return the billed web searches: OpenAI tells them in ``response.tool_usage``, beside the usage."""
    told = inner(params, "tool_usage") or inner(wire, "tool_usage")
    if not told:
        return 0
    image = inner(told, "image_gen")
    if whole(image, "input_tokens") or whole(image, "output_tokens"):
        raise Refused("the image generation tool was used, and the usage does not tell with which model")
    return whole(inner(told, "web_search"), "num_requests")


def read_xai(wire: Wire, params: Wire) -> Reading:
    """Chat at xAI: reasoning is outside ``completion_tokens`` and billed as output; the total tells when it is not."""
    prompt = needed(wire, *_PROMPT)
    answer = needed(wire, *_ANSWER)
    details = inner(wire, *_ANSWER_DETAILS)
    reasoning = whole(details, "reasoning_tokens")
    total = whole(wire, "total_tokens")
    _check_total(total, prompt, answer)
    is_inside = "completion_tokens" not in wire or (total == prompt + answer and reasoning <= answer)
    reading = _inclusive(wire, params, prompt, answer if is_inside else answer + reasoning, details, reasoning)
    used = whole(wire, "num_server_side_tools_used", "num_sources_used")
    return reading._replace(doubt=f"the fees of {used} searches and other tools are not in the usage" if used else None)


def read_google_chat(wire: Wire, params: Wire) -> Reading:
    """Gemini in OpenAI's clothes: thoughts are in the total but not in ``completion_tokens``."""
    prompt = needed(wire, *_PROMPT)
    answer = whole(wire, *_ANSWER)
    total = whole(wire, "total_tokens")
    _check_total(total, prompt, answer)
    thoughts = max(total - prompt - answer, 0)
    details = inner(wire, *_ANSWER_DETAILS)
    reasoning = max(thoughts, whole(details, "reasoning_tokens"))
    return _inclusive(wire, params, prompt, answer + thoughts, details, reasoning)


def read_perplexity(wire: Wire, params: Wire) -> Reading:
    """Perplexity that does not state its charge: Deep Research reasons, cites and searches beside its answer."""
    reading = read_chat(wire, params)
    searches = whole(wire, "num_search_queries")
    beside = _counts((
        ("output_reasoning", whole(wire, "reasoning_tokens")),
        ("output_citation", whole(wire, "citation_tokens")),
        ("web_search", searches),
    ))  # fmt: skip
    part = reading.parts[0]
    part = part._replace(counts={**part.counts, **beside}, where_listed=frozenset(beside))
    return reading._replace(parts=(part,), usage=_sum_of([part], web_search_requests=searches))


def read_mistral(wire: Wire, params: Wire) -> Reading:
    """Mistral: what was heard is charged by the second, beside the tokens."""
    reading = read_chat(wire, params)
    heard = wire.get("prompt_audio_seconds")
    if not heard:
        return reading
    part = reading.parts[0]
    counts = {**part.counts, "audio_seconds": amount(heard, "prompt_audio_seconds")}
    doubt = "sound is charged by the second, and nobody says whether the prompt's tokens count it, too"
    part = part._replace(counts=counts, where_listed=frozenset({"audio_seconds"}))
    return reading._replace(parts=(part,), doubt=doubt)


def read_reporting(wire: Wire, params: Wire) -> Reading:
    """OpenRouter, Perplexity, xAI: the charge itself is in the usage, and it wins over any list."""
    ticks = wire.get("cost_in_usd_ticks")
    stated = _stated(wire.get("cost")) if ticks is None else EXACT.scaleb(amount(ticks, "cost_in_usd_ticks"), -10)
    read: Callable[[Wire, Wire], Reading] = read_chat if ticks is None else read_xai
    if _is_messages(None, wire, str(params.get("api"))):
        read = read_messages
    try:
        reading = read(wire, params)
    except Refused:
        if stated is None:
            raise
        reading = Reading(usage=Usage(), parts=())
    if stated is None:
        return reading
    notes: tuple[str, ...] = ()
    upstream = inner(wire, "cost_details").get("upstream_inference_cost")
    if wire.get("is_byok") is True and upstream is not None:
        stated = EXACT.add(stated, amount(upstream, "upstream_inference_cost"))
        notes = ("with the upstream provider's charge to your own key",)
    return Reading(usage=reading.usage, parts=(), stated_usd=stated, notes=notes)


def _stated(cost: Any) -> Decimal | None:
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    return None if cost is None else amount(cost, "cost")


# --- Google ------------------------------------------------------------

_MODALITIES = {"AUDIO": "_audio", "IMAGE": "_image", "VIDEO": "_video"}


def read_gemini(wire: Wire, params: Wire) -> Reading:
    """generateContent: the prompt includes the cache, the candidates exclude the thoughts, tools' prompts are extra."""
    prompt = needed(wire, "promptTokenCount", "prompt_token_count")
    tools = whole(wire, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    cached = whole(wire, "cachedContentTokenCount", "cached_content_token_count")
    thoughts = whole(wire, "thoughtsTokenCount", "thoughts_token_count")
    answer = whole(wire, "candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count")
    total = whole(wire, "totalTokenCount", "total_token_count")
    if total and total < prompt + answer:
        raise Refused(f"totalTokenCount ({total}) is less than what was read and written ({prompt} + {answer})")
    _within(cached, prompt, "cachedContentTokenCount", "promptTokenCount")
    read_in = _modalities(wire, prompt, "promptTokensDetails", "prompt_tokens_details")
    from_cache = _modalities(wire, cached, "cacheTokensDetails", "cache_tokens_details")
    written = _modalities(wire, answer, "candidatesTokensDetails", "candidates_tokens_details", "responseTokensDetails")
    fresh = _fresh(read_in, from_cache, prompt - cached)
    searches = whole(inner(inner(params, "tool_usage"), "web_search"), "num_requests")
    counts = _counts((
        *((f"input{kind}", count + (tools if not kind else 0)) for kind, count in fresh.items()),
        *((f"cache_read{kind}", count) for kind, count in from_cache.items()),
        *((f"output{kind}", count + (thoughts if not kind else 0)) for kind, count in written.items()),
    ))  # fmt: skip
    usage = _sum_of([Part(counts)], reasoning_tokens=thoughts, web_search_requests=searches)
    if searches:
        counts["web_search"] = searches
    return Reading(
        usage=usage,
        parts=(Part(counts, prompt + tools),),
        tier=_word(wire, "serviceTier") or _word(wire, "service_tier"),
    )


def _modalities(wire: Wire, total: int, *names: str) -> dict[str, int]:
    """Return ``total`` by modality ('' is text); what the details leave out is text."""
    found = dict.fromkeys(("", *_MODALITIES.values()), 0)
    entries = next((wire[name] for name in names if wire.get(name)), ())
    if not isinstance(entries, list | tuple):
        raise Refused(f"{names[0]} = {short(entries)} is not a list")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise Refused(f"{names[0]} holds {short(entry)}, not an object")
        kind = _MODALITIES.get(str(entry.get("modality")).upper(), "")
        if kind:
            found[kind] += whole(entry, "tokenCount", "token_count")
    _within(sum(found.values()), total, names[0], "its total")
    found[""] = total - sum(found.values())
    return found


def _fresh(read_in: dict[str, int], from_cache: dict[str, int], fresh: int) -> dict[str, int]:
    """Return what was read and did not come from the cache, by modality."""
    left = {kind: max(count - from_cache[kind], 0) for kind, count in read_in.items()}
    # The two lists are counted apart and need not agree per modality; the sum of what is fresh is certain.
    surplus = sum(left.values()) - fresh
    for kind in reversed(left):
        taken = min(left[kind], max(surplus, 0))
        left[kind] -= taken
        surplus -= taken
    return left


# --- others ------------------------------------------------------------


def read_converse(wire: Wire, params: Wire) -> Reading:
    """Bedrock Converse: ``inputTokens`` excludes the cache, as Anthropic's does."""
    as_messages = {
        "input_tokens": wire.get("inputTokens"),
        "output_tokens": wire.get("outputTokens"),
        "cache_read_input_tokens": _first(wire, "cacheReadInputTokens", "cacheReadInputTokenCount"),
        "cache_creation_input_tokens": _first(wire, "cacheWriteInputTokens", "cacheWriteInputTokenCount"),
    }
    details = wire.get("cacheDetails")
    if isinstance(details, list | tuple):
        split = {"5m": 0, "1h": 0}
        for entry in details:
            if isinstance(entry, Mapping) and entry.get("ttl") in split:
                split[entry["ttl"]] += whole(entry, "inputTokens")
        as_messages["cache_creation"] = {f"ephemeral_{ttl}_input_tokens": count for ttl, count in split.items()}
    return read_messages(as_messages, params)


def _first(wire: Wire, *names: str) -> Any:
    return next((wire[name] for name in names if wire.get(name) is not None), None)


def read_duration(wire: Wire, _: Wire) -> Reading:
    """Transcription by the second: ``{"type": "duration", "seconds": 600}``."""
    if wire.get("seconds") is None:
        raise Refused("the usage has no seconds")
    return Reading(usage=Usage(), parts=(Part({"audio_seconds": amount(wire["seconds"], "seconds")}),))


_FILMS = {
    "720x1280": "video_seconds",
    "1280x720": "video_seconds",
    "1024x1792": "video_seconds_1024p",
    "1792x1024": "video_seconds_1024p",
}


def read_film(wire: Wire, _: Wire) -> Reading:
    """Videos: what was asked for, ``{"video_seconds": "8", "size": "720x1280"}``; the length is written as text."""
    size, told = wire.get("size"), wire["video_seconds"]
    if not isinstance(size, str) or size not in _FILMS:
        raise Refused(f"no rate is listed for films of size {short(size)}")
    try:
        seconds = amount(Decimal(told) if isinstance(told, str) else told, "seconds")
    except InvalidOperation:
        raise Refused(f"seconds = {short(told)} is not a number") from None
    return Reading(usage=Usage(), parts=(Part({_FILMS[size]: seconds}),))


def read_training(wire: Wire, _: Wire) -> Reading:
    """Fine-tuning: ``{"trained_tokens": 90000, "method": "supervised"}``; reinforcement is charged by the hour."""
    if wire.get("method") not in {None, "supervised", "dpo"}:
        raise Refused(f"fine-tuning by {short(wire['method'])} is charged by its hours, which the job does not tell")
    trained = needed(wire, "trained_tokens")
    return Reading(usage=Usage(), parts=(Part({"training": trained}),))


def read_session(wire: Wire, _: Wire) -> Reading:
    """Managed agents: the time that a session was at work, beside its tokens."""
    return Reading(usage=Usage(), parts=(Part({"session_seconds": amount(wire["active_seconds"], "active_seconds")}),))


def read_cohere(wire: Wire, _: Wire) -> Reading:
    """Cohere: ``billed_units`` is what is charged, whatever ``tokens`` says."""
    billed = inner(wire, "billed_units")
    prompt, answer = whole(billed, "input_tokens"), whole(billed, "output_tokens")
    counts = _counts((("input", prompt), ("output", answer), ("rerank_search", whole(billed, "search_units"))))
    usage = Usage(input_tokens=prompt, output_tokens=answer)
    return Reading(usage=usage, parts=(Part(counts, prompt),))


def read_pages(wire: Wire, _: Wire) -> Reading:
    """Mistral OCR: pages."""
    return Reading(usage=Usage(), parts=(Part(_counts((("document_pages", needed(wire, "pages_processed")),))),))


def read_total(wire: Wire, _: Wire) -> Reading:
    """Embeddings of Voyage and others: a total and nothing else."""
    total = needed(wire, "total_tokens")
    return Reading(usage=Usage(input_tokens=total), parts=(Part(_counts((("input", total),)), total),))


def read_without_usage(params: Wire) -> Reading:
    """Speech has no usage at all: it is charged by the characters that were sent, or the seconds that were heard."""
    if params.get("input_characters") is not None:
        characters = _whole(params["input_characters"], "input_characters")
        return Reading(usage=Usage(), parts=(Part(_counts((("characters", characters),))),))
    if params.get("audio_seconds") is not None:
        return read_duration({"seconds": params["audio_seconds"]}, params)
    raise Refused("the response carried no usage")


def reader_of(provider: str | None, wire: Wire, api: str) -> Callable[[Wire, Wire], Reading]:
    """Return the reader for ``wire``: by its own keys first, because they cannot lie about themselves."""
    if provider in _REPORTING and wire.get(_REPORTING[provider]) is not None:
        return read_reporting
    if "promptTokenCount" in wire or "prompt_token_count" in wire:
        return read_gemini
    if "inputTokens" in wire or "outputTokens" in wire:
        return read_converse
    if "billed_units" in wire:
        return read_cohere
    if "pages_processed" in wire:
        return read_pages
    for key, read in _BY_KEY.items():
        if wire.get(key) is not None:
            return read
    if wire.get("type") == "duration" or ("seconds" in wire and "input_tokens" not in wire):
        return read_duration
    if _is_messages(provider, wire, api):
        return read_messages
    if wire.get("total_tokens") is not None and not any(name in wire for name in _PROMPT) and api == "embeddings":
        return read_total
    return _BY_PROVIDER.get(provider or "", read_chat)


# Who states the charge, and where.  Sources: openrouter.ai/docs/use-cases/usage-accounting; docs.x.ai/developers/
# cost-tracking: what was billed, tools and discounts included, 10^10 ticks to the dollar.
_REPORTING = {"openrouter": "cost", "perplexity": "cost", "x-ai": "cost_in_usd_ticks"}
_BY_KEY = {"video_seconds": read_film, "trained_tokens": read_training, "active_seconds": read_session}
_BY_PROVIDER = {
    "x-ai": read_xai,
    "google": read_google_chat,
    "perplexity": read_perplexity,
    "mistral": read_mistral,
}


def _is_messages(provider: str | None, wire: Wire, api: str) -> bool:
    if "prompt_tokens" in wire or any(name in wire for name in (*_PROMPT_DETAILS, "output_token_details")):
        return False
    if "cache_read_input_tokens" in wire or "cache_creation_input_tokens" in wire or "cache_creation" in wire:
        return True
    return api.startswith("messages") or (not api and provider == "anthropic")
