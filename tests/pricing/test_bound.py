"""What a call can cost at most, before it is sent: never below the bill."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.pricing import Bound, price, upper_bound
from tallystick.pricing._bound import SDK_RETRIES
from tallystick.pricing._request import OUTPUT_CAPS, SHAPING

from .test_cases import PRICED, REFUSED, receipt_of

NOON = "2026-11-20T12:00:00Z"
CLAUDE = "claude-sonnet-4-5"
HELLO = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}


def claude(request: dict[str, Any] | None = None, model: str = CLAUDE, **others: Any) -> Bound:
    return upper_bound(
        "anthropic", model, {**HELLO, **(request or {})}, **{"timestamp": NOON, "max_retries": 0, **others}
    )


def gpt(request: dict[str, Any] | None = None, model: str = "gpt-4o", **others: Any) -> Bound:
    defaults = {"api": "chat", "timestamp": NOON, "max_retries": 0, **others}
    return upper_bound("openai", model, {**HELLO, **(request or {})}, **defaults)


# --- the truth table ------------------------------------------------------------


def request_of(case: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request of which the case's usage is a possible outcome, and what the app would know beside it."""
    params, wire = case["params"], case["usage"] or {}
    usage = receipt_of(case).usage
    assert usage is not None
    known = {key: params[key] for key in ("timestamp", "api", "base_url", "cloud", "region", "audio_seconds", "batch",
             "geo") if key in params}  # fmt: skip
    if wire.get("seconds"):
        known["audio_seconds"] = wire["seconds"]
    if "input_characters" in params:
        return {"input": "x" * params["input_characters"]}, known
    if usage.input_tokens > 10**7:
        return {"max_tokens": usage.output_tokens}, {**known, "input_tokens": usage.input_tokens}
    # As many bytes as tokens, and not one more, is the worst that text can be.
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * usage.input_tokens}]}
    request["max_tokens"] = usage.output_tokens
    if "cache_creation" in wire and usage.cache_write_tokens:
        ttl = "1h" if usage.cache_write_1h_tokens else "5m"
        request["system"] = [{"type": "text", "text": "", "cache_control": {"type": "ephemeral", "ttl": ttl}}]
    if usage.cache_write_12h_tokens:
        request["prompt_cache_options"] = {"ttl": "12h"}
    if case["model"].startswith("gpt-6.2"):
        request["prompt_cache_options"] = {"mode": "explicit"}  # its price of a cache write is not published
    if usage.input_audio_tokens or usage.input_image_tokens:
        request["messages"].append({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]})
        known["media_tokens"] = usage.input_audio_tokens + usage.input_image_tokens
    if searches := usage.web_search_requests:
        request["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": searches}]
        known["tool_tokens"] = 0
    for entry in wire.get("iterations", ()):
        if entry["type"] == "advisor_message":
            advisor = {"type": "advisor_20260301", "name": "advisor", "model": entry["model"], "max_uses": 1}
            request["tools"] = [{**advisor, "max_tokens": entry["output_tokens"]}]
        elif entry["type"] == "compaction":
            request["context_management"] = {"edits": [{"type": "compact_20260112"}]}
    for key, value in (("speed", wire.get("speed")), ("inference_geo", wire.get("inference_geo"))):
        if value:
            request[key] = value
    request["service_tier"] = params.get("requested_service_tier") or params.get("service_tier")
    return request, known


@pytest.mark.parametrize("case", PRICED, ids=lambda case: case["id"])
def test_the_bill_never_passes_the_bound(case: dict[str, Any]) -> None:
    request, known = request_of(case)

    bound = upper_bound(case["provider"], case["model"], request, max_retries=0, **known)

    if case["provider"] == "openrouter":
        assert bound.usd is None
        assert "states its own charge" in (bound.reason or "")
        return
    assert bound.usd is not None, bound.reason
    assert bound.usd >= Decimal(case["expected_cost_usd"])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["id"])
def test_what_has_no_price_has_no_bound_and_says_why(case: dict[str, Any]) -> None:
    bound = upper_bound(case["provider"], case["model"], HELLO, **case["params"])

    if case["expect"] == "invalid" or case["usage"] is None:  # the usage was wrong or missing, not the model
        assert bound.usd is not None
        return
    assert bound.usd is None
    assert bound.reason


# --- what is kept between calls ----------------------------------------------------


def both(provider: str, model: str, request: Any, **known: Any) -> tuple[Bound, Bound]:
    """Return the bound by what is kept of requests of this shape, and the bound of the request read whole."""
    kept = [upper_bound(provider, model, request, max_retries=0, **known) for _ in range(2)][1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallystick.pricing._bound.shape_of", lambda *_: None)
        return kept, upper_bound(provider, model, request, max_retries=0, **known)


@pytest.mark.parametrize("case", PRICED, ids=lambda case: case["id"])
def test_what_is_kept_of_a_shape_bounds_as_the_whole_request_does(case: dict[str, Any]) -> None:
    request, known = request_of(case)

    kept, whole = both(case["provider"], case["model"], request, **known)

    assert kept == whole


_KEYS = [*sorted(SHAPING), *OUTPUT_CAPS, "prompt", "prediction", "user"]
_ODD = st.sampled_from([None, True, False, 1, 0, 3, 1.0, "", "flex", "priority", "fast", "us", [], ["audio"], {}, "x"])
_TOOLS = st.lists(
    st.sampled_from([
        {"type": "function", "function": {"name": "f"}}, {"name": "f", "input_schema": {}}, {"type": "bash_20250124"},
        {"type": "web_search_20250305", "max_uses": 2}, {"type": "mcp"}, {"type": None}, {}, 7,
    ]), max_size=3,
)  # fmt: skip
_PARTS = st.sampled_from([
    "plain", '"type":"image"', [{"type": "text", "text": "hi"}], [{"type": "image_url", "image_url": {"url": "x"}}],
    [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}], [{"type": "input_file", "file_id": "f"}],
    [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}], [{"type": "item_reference"}],
    [{"type": "text", "text": "hi", "prompt_cache_breakpoint": {}}], [{"inlineData": {"data": ""}}], [{"ttl": "12h"}],
])  # fmt: skip


@given(
    st.sampled_from([("anthropic", CLAUDE, "messages"), ("openai", "gpt-4o", "chat"), ("openai", "gpt-5", "responses"),
                     ("openai", "text-embedding-3-small", "embeddings"), ("openai", "gpt-4o-audio-preview", "chat"),
                     ("openrouter", "gpt-4o", "chat"), ("openai", "nobody-knows", "chat")]),
    st.dictionaries(st.sampled_from(_KEYS), _ODD, max_size=4),
    st.lists(_PARTS, max_size=3), st.none() | _TOOLS,
)  # fmt: skip
def test_no_request_is_taken_for_one_of_another_shape(
    of: tuple[str, str, str], odd: dict[str, Any], parts: list[Any], tools: list[Any] | None
) -> None:
    provider, model, api = of
    messages = [{"role": "user", "content": part} for part in parts]
    request = {"max_tokens": 50, "messages": messages, **odd} | ({} if tools is None else {"tools": tools})

    kept, whole = both(provider, model, request, api=api, timestamp=NOON)

    assert kept == whole


@pytest.mark.parametrize(
    "mark",
    ["image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "audio", "video",
     "video_url", "container_upload", "search_result", "item_reference"],
)  # fmt: skip
def test_media_are_seen_however_small_the_request(mark: str) -> None:
    bound = gpt({"messages": [{"role": "user", "content": [{"type": mark}]}]})

    assert bound.usd is None


# --- what it is made of ------------------------------------------------------------


def test_a_bound_is_bytes_and_the_cap_at_the_dearest_rate_times_the_attempts() -> None:
    bound = claude({"inference_geo": "global"}, input_tokens=1000, max_retries=2)

    assert bound.attempt_usd == Decimal("0.003") + Decimal("0.0015")
    assert (bound.usd, bound.attempts) == (3 * bound.attempt_usd, 3)
    assert (bound.input_tokens, bound.output_tokens) == (1000, 100)


def test_the_sdks_own_retries_are_counted_when_nothing_is_said() -> None:
    bound = upper_bound("anthropic", CLAUDE, HELLO, timestamp=NOON)

    assert bound.attempts == 1 + SDK_RETRIES == 3


@pytest.mark.parametrize(
    ("plain", "dearer", "times"),
    [
        pytest.param({}, {"system": [{"cache_control": {"type": "ephemeral"}}]}, "1.25", id="cache-write-5m"),
        pytest.param({}, {"system": [{"cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "2", id="cache-write-1h"),
        pytest.param({}, {"speed": "fast"}, "2", id="fast"),
        pytest.param({"inference_geo": "global"}, {}, "1.1", id="the-workspace-may-have-a-geography"),
        pytest.param({"inference_geo": "global"}, {"inference_geo": "us"}, "1.1", id="geography"),
    ],
)
def test_what_a_request_may_cause_is_in_its_bound(plain: dict[str, Any], dearer: dict[str, Any], times: str) -> None:
    model = "claude-opus-5-5"
    cheap = claude({**plain, "max_tokens": 0}, model, input_tokens=1000).usd
    dear = claude({**dearer, "max_tokens": 0}, model, input_tokens=1000).usd

    assert cheap is not None
    assert dear == cheap * Decimal(times)


def test_either_the_requested_tier_or_the_standard_one_may_serve() -> None:
    standard, flex, priority, gold = (
        gpt({"service_tier": tier}, "gpt-5.4", input_tokens=1000).usd for tier in (None, "flex", "priority", "gold")
    )

    assert standard is not None
    assert (flex, priority, gold) == (standard, 2 * standard, None)


def test_every_answer_is_paid_and_the_prompt_once() -> None:
    one = gpt(input_tokens=1000)
    five = gpt({"n": 5}, input_tokens=1000)

    assert (five.input_tokens, five.output_tokens) == (1000, 500)
    assert one.usd is not None
    assert five.usd == one.usd + 4 * 100 * Decimal(10) / 10**6


def test_a_long_prompt_is_bound_at_the_long_prompts_rate() -> None:
    short, long = (claude(model="claude-haiku-5-5", input_tokens=tokens).usd for tokens in (100_000, 100_001))

    assert short is not None
    assert long is not None
    assert long > 4 * short


def test_a_regional_host_is_dearer_from_the_model_on_that_it_is_dearer_for() -> None:
    eu, us = (
        gpt(model="gpt-5.5", base_url=f"https://{host}/v1").usd for host in ("eu.api.openai.com", "api.openai.com")
    )

    assert us is not None
    assert eu == us * Decimal("1.1")


def test_peak_hours_hold_for_a_call_that_starts_before_them() -> None:
    calm, busy = (
        upper_bound("deepseek", "deepseek-flash", HELLO, max_retries=0, timestamp=f"2026-11-18T{hour}Z").usd
        for hour in ("00:59", "02:00")
    )

    assert calm == busy


def test_a_model_says_how_much_it_writes_when_the_request_does_not() -> None:
    assert gpt({"max_tokens": None}).output_tokens == 16384
    assert gpt({"max_tokens": None}, "gpt-5.5").usd is None
    assert gpt({"max_tokens": None}, "gpt-5.5", output_tokens=50).output_tokens == 50


def test_searches_are_charged_as_often_as_they_may_run() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 4}]
    bound = claude({"tools": tools, "max_tokens": 0, "inference_geo": "global"}, input_tokens=0, tool_tokens=0)

    assert bound.usd == Decimal("0.04")


def test_an_advisor_is_paid_at_its_own_models_price() -> None:
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-1", "max_uses": 2,
               "max_tokens": 1000}  # fmt: skip
    alone = claude({"max_tokens": 0}, input_tokens=0).usd
    both = claude({"max_tokens": 0, "tools": [advisor]}, input_tokens=0)

    assert alone == 0
    assert both.usd is not None
    assert both.usd >= 2 * 1000 * Decimal(75) / 10**6
    assert claude({"tools": [{**advisor, "max_tokens": None}]}).usd is None


def test_models_that_fall_in_are_paid_too() -> None:
    alone = claude().usd
    both = claude({"fallbacks": [{"model": "claude-haiku-4-5"}]}).usd

    assert alone is not None
    assert both is not None
    assert both > alone
    assert claude({"fallbacks": "default"}).usd is None


def test_a_compaction_is_a_pass_of_its_own() -> None:
    plain = claude(input_tokens=10_000)
    compacting = claude({"context_management": {"edits": [{"type": "compact_20260112"}]}}, input_tokens=10_000)

    assert compacting.output_tokens == 2 * plain.output_tokens
    assert compacting.input_tokens > 2 * plain.input_tokens


def test_nothing_is_written_by_an_embedding() -> None:
    bound = upper_bound("openai", "text-embedding-3-small", {"input": ["some text"]}, api="embeddings", timestamp=NOON)

    assert bound.usd is not None
    assert bound.output_tokens == 0


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        pytest.param({"tools": [{"type": "web_search_20250305"}]}, "max_uses", id="searches-without-end"),
        pytest.param({"tools": [{"type": "web_search_20250305", "max_uses": 2}]}, "tool_tokens", id="what-it-finds"),
        pytest.param({"tools": [{"type": "code_execution_20250825"}]}, "code_execution", id="billed-by-the-hour"),
        pytest.param({"tools": [{"type": "never_heard_of"}]}, "never_heard_of", id="unknown-tool"),
        pytest.param({"mcp_servers": [{"url": "https://mcp.example"}]}, "mcp", id="tools-of-somebody-else"),
        pytest.param({"previous_response_id": "resp_1"}, "previous_response_id", id="held-by-the-provider"),
        pytest.param({"messages": [{"content": [{"type": "image", "source": {}}]}]}, "media_tokens", id="image"),
        pytest.param({"messages": [{"content": [{"type": "text", "file_id": "f_1"}]}]}, "holds", id="uploaded-file"),
        pytest.param({"messages": object()}, "not JSON", id="not-the-body"),
        pytest.param({"max_tokens": "many"}, "no count", id="no-count"),
    ],
)
def test_what_nothing_bounds_is_said_with_what_would(request_: dict[str, Any], word: str) -> None:
    bound = claude(request_)

    assert bound.usd is None
    assert word in (bound.reason or "")


def test_words_of_a_text_are_no_structure() -> None:
    text = 'see "type":"image" and "cache_control":{ and "file_id":"x"'
    plain = claude({"messages": [{"role": "user", "content": text}], "inference_geo": "global"})

    assert plain.usd is not None
    assert plain.usd == (plain.input_tokens * Decimal(3) + 100 * Decimal(15)) / 10**6


def test_a_prompt_of_any_script_has_at_most_as_many_tokens_as_bytes() -> None:
    text = "漢字😀" * 100 + "\ud800"
    bound = claude({"messages": [{"role": "user", "content": text}]})

    assert bound.input_tokens >= len(text.encode("utf-8", "surrogatepass"))


# --- any usage that is possible ------------------------------------------------------------

COUNTS = st.integers(0, 400_000)
MODELS = st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5", "claude-opus-4-1"])
GPTS = st.sampled_from(["gpt-6.1-terra", "gpt-5.4", "gpt-4o", "gpt-5.6-sol"])


@given(
    MODELS,
    st.lists(COUNTS, min_size=5, max_size=5),
    st.integers(0, 3),
    st.sampled_from(["standard", "fast"]),
    st.sampled_from([None, "us", "global"]),
    st.booleans(),
)
def test_no_usage_of_claude_costs_more_than_its_bound(
    model: str, counts: list[int], searches: int, speed: str, geo: str | None, batch: bool
) -> None:
    fresh, read, w5m, w1h, output = counts
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": w5m + w1h,
        "cache_creation": {"ephemeral_5m_input_tokens": w5m, "ephemeral_1h_input_tokens": w1h},
        "output_tokens": output,
        "server_tool_use": {"web_search_requests": searches},
        "speed": speed,
        "inference_geo": geo,
    }
    request = {
        "max_tokens": output,
        "cache_control": {"type": "ephemeral", "ttl": "1h" if w1h else "5m"},
        "speed": speed,
        "tools": [{"type": "web_search_20250305", "max_uses": searches}],
    }

    cost = price("anthropic", model, usage, api="messages", batch=batch, timestamp=NOON).cost_usd
    bound = upper_bound("anthropic", model, request, input_tokens=fresh + read + w5m + w1h, tool_tokens=0,
                        max_retries=0, batch=batch, timestamp=NOON)  # fmt: skip

    if cost is not None:  # Opus 4.1 has no fast mode
        assert bound.usd is not None, bound.reason
        assert bound.usd >= cost


@given(
    GPTS,
    st.lists(COUNTS, min_size=5, max_size=5),
    st.integers(1, 5),
    st.sampled_from(["default", "flex", "priority"]),
    st.sampled_from(["default", "asked"]),
    st.sampled_from(["api.openai.com", "eu.api.openai.com"]),
)
def test_no_usage_of_gpt_costs_more_than_its_bound(
    model: str, counts: list[int], n: int, tier: str, served: str, host: str
) -> None:
    fresh, read, w30m, w12h, output = counts
    prompt = fresh + read + w30m + w12h
    details = {
        "cached_tokens": read,
        "cache_write_tokens": w30m + w12h,
        "cache_write_tokens_details": {"ttl_30m_tokens": w30m, "ttl_12h_tokens": w12h},
    }
    usage = {"prompt_tokens": prompt, "prompt_tokens_details": details, "completion_tokens": n * output}
    request = {"max_completion_tokens": output, "n": n, "service_tier": tier, "prompt_cache_options": {"ttl": "12h"}}
    known = {"api": "chat", "base_url": f"https://{host}/v1", "timestamp": NOON}

    answered = tier if served == "asked" else "default"
    cost = price("openai", model, usage, **known, service_tier=answered).cost_usd
    bound = upper_bound("openai", model, request, input_tokens=prompt, max_retries=0, **known)

    if cost is not None and bound.reason is None:
        assert bound.usd is not None
        assert bound.usd >= cost
    elif cost is not None:
        assert "no rate is listed" in (bound.reason or "")


@given(st.text())
def test_a_text_never_has_more_tokens_than_its_bound(text: str) -> None:
    bound = claude({"messages": [{"role": "user", "content": text}]})

    assert bound.input_tokens >= len(text.encode("utf-8", "surrogatepass"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["tools", "max_tokens", "messages", "fallbacks", "context_management", "service_tier", "n",
                        "speed", "inference_geo", "generationConfig", "prediction", "prompt"])  # fmt: skip


@given(st.dictionaries(KEYS, JSON, max_size=6) | JSON)
def test_no_request_however_odd_raises(request_: Any) -> None:
    bound = upper_bound("anthropic", CLAUDE, request_)

    assert (bound.usd is None) == (bound.reason is not None)


def test_a_bound_costs_little_time() -> None:
    request = {**HELLO, "messages": [{"role": "user", "content": "word " * 400}] * 4}
    spent = []
    for _ in range(200):
        begun = time.perf_counter()
        upper_bound("anthropic", CLAUDE, request, api="messages", timestamp=NOON)
        spent.append(time.perf_counter() - begun)

    # 30 us on a quiet machine; the limit here only catches a plan that is made anew for every call.
    assert sorted(spent)[20] < 0.0005
