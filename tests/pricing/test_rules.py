"""What moves a price besides the counts: who answers, where, how fast, in a batch, with which tools."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import pytest

from tallystick.model.receipt import CostStatus, Receipt
from tallystick.pricing import price

NOON = "2026-11-20T12:00:00Z"
MILLION = 1_000_000
ANTHROPIC = "https://api.anthropic.com"
OPENAI = "https://api.openai.com/v1"


def claude(model: str, params: dict[str, Any] | None = None, **usage: Any) -> Receipt:
    wire = {"input_tokens": 1000, "output_tokens": 1000, **usage}
    return price("anthropic", model, wire, **{"api": "messages", "timestamp": NOON, **(params or {})})


def gpt(model: str, params: dict[str, Any] | None = None, **usage: Any) -> Receipt:
    wire = {"input_tokens": 1000, "output_tokens": 1000, "total_tokens": 2000, **usage}
    return price("openai", model, wire, **{"api": "responses", "timestamp": NOON, **(params or {})})


def usd(*rates: str, factor: str = "1") -> Decimal:
    """What 1000 tokens at each of ``rates`` cost."""
    return sum((Decimal(rate) for rate in rates), Decimal(0)) * Decimal(factor) / 1000


# --- geography --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "rates", "factor"),
    [
        pytest.param("claude-opus-4-6", ("5", "25"), "1.1", id="opus-4-6-is-the-first"),
        pytest.param("claude-sonnet-4-6", ("3", "15"), "1.1", id="sonnet-4-6"),
        pytest.param("claude-haiku-5-5", ("0.10", "0.50"), "1.1", id="haiku-5-5"),
        pytest.param("claude-fable-5-2", ("8", "40"), "1.1", id="fable-5-2"),
        pytest.param("claude-mythos-5-1", ("10", "50"), "1.1", id="mythos-5-1"),
        pytest.param("claude-sonnet-5-5-20261001", ("2", "10"), "1.1", id="a-dated-name-too"),
        pytest.param("claude-opus-4-5", ("5", "25"), "1", id="opus-4-5-came-before"),
        pytest.param("claude-haiku-4-5", ("1", "5"), "1", id="haiku-4-5-came-before"),
        pytest.param("claude-opus-4-1", ("15", "75"), "1", id="opus-4-1-came-before"),
    ],
)
def test_us_inference_costs_a_tenth_more_from_4_6_on(model: str, rates: tuple[str, str], factor: str) -> None:
    assert claude(model, inference_geo="us").cost_usd == usd(*rates, factor=factor)


def test_geography_batch_and_cache_multiply_and_searches_do_not() -> None:
    receipt = claude(
        "claude-opus-5",
        {"batch": True},
        cache_read_input_tokens=1000,
        inference_geo="us",
        service_tier="batch",
        server_tool_use={"web_search_requests": 2},
    )

    assert receipt.cost_usd == usd("5", "0.50", "25", factor="0.55") + Decimal("0.02")
    assert {line.item: line.multiplier for line in receipt.lines}["web_search"] == 1


def test_the_response_says_where_it_was_served_not_the_request() -> None:
    assert claude("claude-opus-5", {"geo": "us"}, inference_geo="global").cost_usd == usd("5", "25")


@pytest.mark.parametrize(
    ("model", "host", "factor"),
    [
        pytest.param("gpt-5.4", "eu", "1.1", id="the-first-with-uplift"),
        pytest.param("gpt-5.4-mini", "us", "1.1", id="us-too"),
        pytest.param("gpt-6-sol", "eu", "1.1", id="gpt-6"),
        pytest.param("gpt-6.1-terra", "eu", "1.1", id="gpt-6.1"),
        pytest.param("gpt-5.2", "eu", "1", id="released-before"),
        pytest.param("gpt-5", "us", "1", id="gpt-5-released-before"),
        pytest.param("o3", "eu", "1", id="o3-released-before"),
    ],
)
def test_regional_openai_hosts_cost_a_tenth_more_on_newer_models(model: str, host: str, factor: str) -> None:
    plain = gpt(model, {"base_url": OPENAI}).cost_usd
    assert plain is not None

    regional = gpt(model, {"base_url": f"https://{host}.api.openai.com/v1"})

    assert regional.cost_usd == plain * Decimal(factor)


# --- clouds -----------------------------------------------------------------------------------------------------------

BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
S45 = ("3", "15")


@pytest.mark.parametrize("provider", ["anthropic", "aws.bedrock", "aws"])
@pytest.mark.parametrize(
    ("model", "rates", "factor"),
    [
        pytest.param("global.anthropic.claude-sonnet-4-5-20250929-v1:0", S45, "1", id="global-profile"),
        pytest.param("us.anthropic.claude-sonnet-4-5-20250929-v1:0", S45, "1.1", id="us-profile"),
        pytest.param("eu.anthropic.claude-opus-4-6-v1", ("5", "25"), "1.1", id="eu-profile-without-revision"),
        pytest.param("anthropic.claude-haiku-4-5-20251001-v1:0", ("1", "5"), "1.1", id="in-region"),
        pytest.param("us.anthropic.claude-opus-4-1-20250805-v1:0", ("15", "75"), "1", id="before-4.5-no-premium"),
        pytest.param("anthropic.claude-3-5-sonnet-20241022-v2:0", S45, "1", id="old-model"),
        pytest.param(
            "arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            S45, "1.1", id="profile-arn",
        ),
        pytest.param(
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-5-5", ("4", "20"), "1.1", id="model-arn",
        ),
    ],
)  # fmt: skip
def test_bedrock_prices_the_model_behind_its_id(provider: str, model: str, rates: tuple[str, str], factor: str) -> None:
    wire = {"input_tokens": 1000, "output_tokens": 1000}

    receipt = price(provider, model, wire, api="messages", base_url=BEDROCK, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, usd(*rates, factor=factor))


@pytest.mark.parametrize(
    ("provider", "params"),
    [
        pytest.param("anthropic", {"cloud": "bedrock"}, id="cloud-parameter"),
        pytest.param("aws.bedrock", {}, id="provider-name"),
        pytest.param("anthropic", {}, id="the-id-alone"),
    ],
)
def test_bedrock_needs_no_address_to_be_known(provider: str, params: dict[str, Any]) -> None:
    wire = {"input_tokens": 1000, "output_tokens": 1000}
    model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"

    assert price(provider, model, wire, timestamp=NOON, **params).cost_usd == usd(*S45, factor="1.1")


def test_a_bare_name_from_bedrock_takes_the_endpoint_from_the_request() -> None:
    params = {"base_url": BEDROCK, "request_model": "global.anthropic.claude-sonnet-4-5-20250929-v1:0"}

    told = claude("claude-sonnet-4-5-20250929", params)
    untold = claude("claude-sonnet-4-5-20250929", {"base_url": BEDROCK})

    assert (told.status, told.cost_usd) == (CostStatus.EXACT, usd(*S45))
    assert (untold.status, untold.cost_usd) == (CostStatus.ESTIMATED, usd(*S45, factor="1.1"))


def test_an_endpoint_that_makes_no_difference_leaves_no_doubt() -> None:
    receipt = claude("claude-opus-4-1-20250805", {"base_url": BEDROCK})

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, usd("15", "75"))


def test_bedrock_converse_counts_the_cache_outside() -> None:
    wire = {"inputTokens": 1000, "outputTokens": 1000, "cacheReadInputTokens": 1000, "totalTokens": 3000}

    receipt = price("aws.bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", wire, timestamp=NOON)

    assert receipt.cost_usd == usd("3", "0.30", "15")
    assert receipt.usage is not None
    assert receipt.usage.input_tokens == 2000


def test_amazons_own_models_are_on_bedrocks_list() -> None:
    wire = {"inputTokens": 1000, "outputTokens": 1000}

    for model in ("amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"):
        assert price("aws", model, wire, base_url=BEDROCK, timestamp=NOON).cost_usd == usd("0.06", "0.24")
    assert price("aws", "amazon.nova-lite-ultra-v1:0", wire, base_url=BEDROCK).status is CostStatus.UNKNOWN


@pytest.mark.parametrize(
    ("base_url", "region", "factor"),
    [
        pytest.param("https://aiplatform.googleapis.com", "global", "1", id="global"),
        pytest.param("https://aiplatform.googleapis.com/v1", None, "1", id="global-told-by-the-host"),
        pytest.param("https://us-east5-aiplatform.googleapis.com", "us-east5", "1.1", id="regional"),
        pytest.param("https://europe-west1-aiplatform.googleapis.com/v1", None, "1.1", id="regional-told-by-the-host"),
        pytest.param("https://aiplatform.eu.rep.googleapis.com/v1", None, "1.1", id="multi-region"),
    ],
)
@pytest.mark.parametrize("provider", ["anthropic", "gcp.vertex_ai"])
def test_vertex_regional_endpoints_cost_a_tenth_more(
    provider: str, base_url: str, region: str | None, factor: str
) -> None:
    wire = {"input_tokens": 1000, "output_tokens": 1000}

    receipt = price(
        provider, "claude-sonnet-4-5@20250929", wire, api="messages", base_url=base_url, region=region, timestamp=NOON
    )

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, usd(*S45, factor=factor))


def test_azure_prices_the_model_that_the_response_names() -> None:
    base_url = "https://acme-eastus.openai.azure.com/openai/v1"

    named = gpt("gpt-4o-2024-11-20", {"base_url": base_url, "deployment": "prod-chat"})
    own_name = gpt("prod-chat", {"base_url": base_url, "deployment": "prod-chat"})

    assert (named.status, named.cost_usd) == (CostStatus.EXACT, usd("2.5", "10"))
    assert own_name.status is CostStatus.UNKNOWN


# --- who answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000/v1", "http://localhost:11434/v1", "https://llm.acme.internal/v1",
        "https://api.openai.com.evil.example/v1", "127.0.0.1:8000/v1", "not a url", "http://[",
    ],
)  # fmt: skip
def test_a_host_that_nobody_lists_never_gets_a_hosted_models_price(base_url: str) -> None:
    receipt = gpt("gpt-4o", {"base_url": base_url})

    assert (receipt.status, receipt.cost_usd) == (CostStatus.UNKNOWN, None)


@pytest.mark.parametrize(
    ("sdk", "base_url", "model", "rates"),
    [
        pytest.param("openai", "https://api.groq.com/openai/v1", "openai/gpt-oss-120b", ("0.15", "0.60"), id="groq"),
        pytest.param("openai", "https://api.deepseek.com", "deepseek-v4-pro", ("0.66", "1.98"), id="deepseek"),
        pytest.param("openai", "https://api.mistral.ai/v1", "mistral-large-2512", ("0.5", "1.5"), id="mistral"),
        pytest.param("openai", "https://api.cerebras.ai/v1", "gpt-oss-120b", ("0.35", "0.75"), id="by-the-library"),
        pytest.param("127.0.0.1", "api.openai.com/v1", "gpt-4o", ("2.5", "10"), id="an-address-without-scheme"),
    ],
)  # fmt: skip
def test_the_host_decides_who_bills_not_the_sdk(sdk: str, base_url: str, model: str, rates: tuple[str, str]) -> None:
    wire = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}

    assert price(sdk, model, wire, api="chat", base_url=base_url, timestamp=NOON).cost_usd == usd(*rates)


def test_without_an_address_the_providers_name_is_believed() -> None:
    assert gpt("gpt-4o").cost_usd == usd("2.5", "10")
    nobody = price("nobody", "gpt-4o", {"prompt_tokens": 1, "completion_tokens": 1})
    assert (nobody.status, nobody.cost_usd) == (CostStatus.UNKNOWN, None)
    assert nobody.reason == "no prices of 'nobody' are listed; prices of your own need a [[price]]"


# --- tiers, speed, batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-opus-5", "claude-opus-4-8", "claude-fable-5-2"])
def test_fast_mode_doubles_every_class(model: str) -> None:
    slow = claude(model, cache_read_input_tokens=1000).cost_usd
    assert slow is not None

    assert claude(model, cache_read_input_tokens=1000, speed="fast").cost_usd == 2 * slow


def test_fast_mode_of_a_model_without_one_is_unknown() -> None:
    receipt = claude("claude-haiku-4-5", speed="fast")

    assert receipt.status is CostStatus.UNKNOWN
    assert "speed 'fast'" in (receipt.reason or "")


@pytest.mark.parametrize(
    ("model", "at", "rates"),
    [
        pytest.param("claude-opus-4-1", NOON, ("15", "75"), id="of-a-model-that-lists-none"),
        pytest.param("claude-sonnet-4-6", "2026-03-01T00:00:00Z", ("3", "15"), id="before-the-library-dates-it"),
        pytest.param("claude-3-5-haiku-20241022", "2025-01-10T00:00:00Z", ("0.8", "4"), id="long-ago"),
    ],
)
def test_anthropic_batches_cost_half(model: str, at: str, rates: tuple[str, str]) -> None:
    assert claude(model, {"timestamp": at}, service_tier="batch").cost_usd == usd(*rates, factor="0.5")


def test_openai_batches_before_the_day_they_were_checked_cost_the_same_share() -> None:
    receipt = gpt("gpt-5.6-sol", {"timestamp": "2026-08-01T00:00:00Z", "batch": True})

    assert receipt.cost_usd == usd("2.5", "15")
    assert "dated back" in receipt.lines[0].source


@pytest.mark.parametrize("tier", ["ultrafast", "scale", "flex"])
def test_a_tier_without_a_listed_rate_is_unknown(tier: str) -> None:
    receipt = gpt("gpt-4o", {"service_tier": tier})

    assert (receipt.status, receipt.cost_usd) == (CostStatus.UNKNOWN, None)
    assert tier in (receipt.reason or "")


def test_a_requested_tier_counts_only_where_the_response_is_silent() -> None:
    served = gpt("gpt-5-mini", {"service_tier": "default", "requested_service_tier": "flex"})
    silent = gpt("gpt-5-mini", {"requested_service_tier": "flex"})

    assert (served.status, served.cost_usd) == (CostStatus.EXACT, usd("0.25", "2"))
    assert (silent.status, silent.cost_usd) == (CostStatus.ESTIMATED, usd("0.125", "1"))


def test_claudes_priority_tier_is_an_estimate_because_a_contract_prices_it() -> None:
    receipt = claude("claude-opus-5", service_tier="priority")

    assert (receipt.status, receipt.cost_usd) == (CostStatus.ESTIMATED, usd("5", "25"))
    assert "billed by contract" in receipt.notes[0]


@pytest.mark.parametrize("requested", ["auto", "default", "standard_only"])
def test_asking_for_no_tier_in_particular_leaves_no_doubt(requested: str) -> None:
    assert gpt("gpt-5-mini", {"requested_service_tier": requested}).status is CostStatus.EXACT


def test_google_batches_leave_the_cache_at_its_price() -> None:
    wire = {"promptTokenCount": 2000, "cachedContentTokenCount": 1000, "candidatesTokenCount": 1000}

    receipt = price("google", "gemini-2.5-flash", wire, batch=True, timestamp=NOON)

    assert receipt.cost_usd == usd("0.15", "0.03", "1.25")


# --- tools and models inside one answer -------------------------------------------------------------------------------


def test_web_search_costs_a_cent_on_any_claude_and_any_gpt() -> None:
    tool = {"web_search": {"num_requests": 3}, "image_gen": {"input_tokens": 0, "output_tokens": 0}}

    for receipt in (
        claude("claude-3-haiku-20240307", server_tool_use={"web_search_requests": 3}),
        gpt("gpt-5.4", {"tool_usage": tool}),
        gpt("gpt-6.2-sol", {"tool_usage": tool, "base_url": "https://eu.api.openai.com/v1"}),
    ):
        fees = [line.cost_usd for line in receipt.lines if line.item == "web_search"]
        assert fees == [Decimal("0.03")]


def test_a_generated_image_inside_a_response_is_not_dropped_silently() -> None:
    receipt = gpt("gpt-5.4", {"tool_usage": {"image_gen": {"input_tokens": 50, "output_tokens": 1000}}})

    assert receipt.status is CostStatus.UNKNOWN
    assert "image generation" in (receipt.reason or "")


def iteration(kind: str, **more: Any) -> dict[str, Any]:
    counts = {
        "input_tokens": 1000,
        "output_tokens": 1000,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }
    return {"type": kind, **counts, **more}


def test_a_compaction_is_charged_beside_the_totals() -> None:
    receipt = claude("claude-opus-5", iterations=[iteration("compaction"), iteration("message")])

    assert receipt.cost_usd == usd("5", "25", "5", "25")
    assert receipt.usage is not None
    assert receipt.usage.input_tokens == 2000


def test_an_advisor_is_charged_at_its_own_models_price_with_the_calls_multipliers() -> None:
    advice = iteration("advisor_message", model="claude-opus-5-5")

    receipt = claude("claude-haiku-4-5", iterations=[iteration("message"), advice], inference_geo="us")

    assert receipt.cost_usd == usd("1", "5") + usd("4", "20", factor="1.1")
    assert {line.model for line in receipt.lines} == {"claude-haiku-4-5", "claude-opus-5-5"}


def test_an_advisor_whose_model_has_no_price_makes_the_call_unknown() -> None:
    receipt = claude("claude-sonnet-5", iterations=[iteration("advisor_message", model="claude-nobody")])

    assert (receipt.status, receipt.cost_usd, receipt.lines) == (CostStatus.UNKNOWN, None, ())


def test_fallback_models_are_each_charged_for_their_own_tokens() -> None:
    turns = [
        iteration("message", model="claude-opus-5", output_tokens=0),
        iteration("fallback_message", model="claude-haiku-4-5"),
    ]

    receipt = claude("claude-haiku-4-5", iterations=turns, input_tokens=2000, output_tokens=1000)
    untold = claude(
        "claude-haiku-4-5", iterations=[*turns, iteration("message")], input_tokens=2000, output_tokens=1000
    )

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, usd("5", "1", "5"))
    assert untold.status is CostStatus.ESTIMATED


# --- other wires ------------------------------------------------------------------------------------------------------


def test_gemini_charges_thoughts_tools_and_audio_apart() -> None:
    wire = {
        "promptTokenCount": 3000,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2000}, {"modality": "AUDIO", "tokenCount": 1000}],
        "cachedContentTokenCount": 1000,
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 1000}],
        "toolUsePromptTokenCount": 1000,
        "candidatesTokenCount": 1000,
        "thoughtsTokenCount": 1000,
        "totalTokenCount": 6000,
    }

    receipt = price("google", "models/gemini-2.5-flash", wire, api="generateContent", timestamp=NOON)

    # 2000 fresh text (one of them the tool's), 1000 audio, 1000 cached, 2000 written
    assert receipt.cost_usd == usd("0.30", "0.30", "1", "0.03", "2.5", "2.5")


def test_gemini_in_openais_clothes_bills_the_thoughts_that_only_the_total_shows() -> None:
    wire = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 3000}
    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"

    receipt = price("openai", "gemini-2.5-flash", wire, api="chat", base_url=base_url, timestamp=NOON)

    assert receipt.cost_usd == usd("0.30", "2.5", "2.5")


@pytest.mark.parametrize(
    ("model", "rate"),
    [pytest.param("gpt-image-1.5", "32", id="own-rate"), pytest.param("gpt-image-1", "40", id="only-rate")],
)
def test_the_images_api_writes_images_even_when_it_does_not_say_so(model: str, rate: str) -> None:
    wire = {"input_tokens": 0, "output_tokens": 1000, "total_tokens": 1000}

    assert price("openai", model, wire, api="images", timestamp=NOON).cost_usd == usd(rate)


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        pytest.param("gpt-audio", ("2.5", "32", "10", "64"), id="gpt-audio"),
        pytest.param("gpt-4o-audio-preview-2024-12-17", ("2.5", "40", "10", "80"), id="our-override"),
    ],
)
def test_audio_in_a_chat_has_its_own_rates(model: str, rates: tuple[str, ...]) -> None:
    split = {"audio_tokens": 1000, "text_tokens": 1000}
    wire = {"prompt_tokens": 2000, "prompt_tokens_details": split, "completion_tokens": 2000,
            "completion_tokens_details": split, "total_tokens": 4000}  # fmt: skip

    assert price("openai", model, wire, api="chat", timestamp=NOON).cost_usd == usd(*rates)


def test_transcription_in_tokens_tells_speech_from_text() -> None:
    wire = {"type": "tokens", "input_tokens": 2000, "output_tokens": 1000, "total_tokens": 3000,
            "input_token_details": {"audio_tokens": 1000, "text_tokens": 1000}}  # fmt: skip

    receipt = price("openai", "gpt-4o-mini-transcribe", wire, api="transcription", timestamp=NOON)

    assert receipt.cost_usd == usd("1.25", "3", "5")


@pytest.mark.parametrize(
    ("model", "params"),
    [
        pytest.param("gpt-4o-mini-tts", {"input_characters": 100}, id="a-model-that-is-charged-by-token"),
        pytest.param("tts-1", {}, id="nobody-counted"),
        pytest.param("tts-1", {"input_characters": -1}, id="a-negative-count"),
    ],
)
def test_speech_without_what_it_is_charged_by_is_unknown(model: str, params: dict[str, Any]) -> None:
    assert price("openai", model, None, api="speech", timestamp=NOON, **params).status is CostStatus.UNKNOWN


def test_realtime_audio_has_its_own_rates_cached_or_not() -> None:
    wire = {
        "total_tokens": 5000,
        "input_tokens": 4000,
        "input_token_details": {
            "text_tokens": 2000,
            "audio_tokens": 2000,
            "cached_tokens": 2000,
            "cached_tokens_details": {"text_tokens": 1000, "audio_tokens": 1000},
        },
        "output_tokens": 1000,
        "output_token_details": {"text_tokens": 0, "audio_tokens": 1000},
    }

    receipt = price("openai", "gpt-realtime", wire, api="realtime", timestamp=NOON)

    assert receipt.cost_usd == usd("4", "0.4", "32", "0.4", "64")


@pytest.mark.parametrize(
    ("model", "seconds", "cost"),
    [
        pytest.param("whisper-1", 60, "0.006", id="by-the-minute"),
        pytest.param("gpt-transcribe", 12.5, "0.0009375", id="fractions-of-a-second"),
    ],
)
def test_transcription_is_charged_by_the_second(model: str, seconds: float, cost: str) -> None:
    receipt = price("openai", model, {"type": "duration", "seconds": seconds}, api="transcription", timestamp=NOON)

    assert receipt.cost_usd == Decimal(cost)


def test_groq_bills_ten_seconds_at_least() -> None:
    short = price("groq", "whisper-large-v3", {"type": "duration", "seconds": 2}, timestamp=NOON)

    assert short.cost_usd == Decimal("0.111") * 10 / 3600


def test_your_own_key_at_openrouter_costs_both_charges() -> None:
    wire = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0005, "is_byok": True,
            "cost_details": {"upstream_inference_cost": 0.01}}  # fmt: skip

    receipt = price("openrouter", "anthropic/claude-sonnet-4.5", wire, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.PROVIDER_REPORTED, Decimal("0.0105"))


@pytest.mark.parametrize(("api", "names"), [("chat", ("prompt", "completion")), ("responses", ("input", "output"))])
def test_xai_states_its_charge_in_ticks(api: str, names: tuple[str, str]) -> None:
    counts = {f"{names[0]}_tokens": 100, f"{names[1]}_tokens": 10, "total_tokens": 110}

    with localcontext(prec=3):  # what an app sets for its thread must not round a charge
        receipt = price("xai", "grok-4.7", {**counts, "cost_in_usd_ticks": 37756001}, api=api, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.PROVIDER_REPORTED, Decimal("0.0037756001"))
    assert receipt.usage is not None
    assert (receipt.usage.input_tokens, receipt.usage.output_tokens) == (100, 10)


def test_a_rate_that_only_one_reseller_tells_makes_an_estimate() -> None:
    split = {"audio_tokens": 1000, "text_tokens": 0}
    wire = {"prompt_tokens": 1000, "prompt_tokens_details": split, "completion_tokens": 0, "total_tokens": 1000}

    receipt = price("openai", "gpt-4o-audio-preview-2024-10-01", wire, api="chat", timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.ESTIMATED, usd("100"))
    assert receipt.notes[0].startswith("the rate of input_audio is an estimate: the first snapshot's own rates")


def test_a_charge_that_an_unlisted_host_states_is_not_believed() -> None:
    wire = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0005}

    assert price("openai", "gpt-4o", wire, base_url="http://127.0.0.1:1/v1").status is CostStatus.UNKNOWN


def test_perplexity_without_a_stated_charge_is_an_estimate_with_its_request_fee() -> None:
    wire = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}

    receipt = price("perplexity", "sonar", wire, api="chat", timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.ESTIMATED, usd("1", "1") + Decimal("0.012"))


def test_a_model_that_is_listed_as_free_costs_zero_and_says_so() -> None:
    wire = {"promptTokenCount": 1000, "candidatesTokenCount": 1000}

    receipt = price("google", "gemma-3", wire, timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.EXACT, Decimal(0))
    assert {line.source for line in receipt.lines} == {"listed as free of charge"}


def test_a_rate_that_nobody_has_published_is_unknown_not_guessed() -> None:
    usage = {"input_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 0}}

    assert gpt("gpt-6.2-astra").cost_usd == usd("8", "40")
    receipt = gpt("gpt-6.2-astra", **usage)

    assert receipt.status is CostStatus.UNKNOWN
    assert "no cache_read rate of gpt-6.2-astra" in (receipt.reason or "")


def test_a_model_has_no_price_before_its_first_day() -> None:
    assert gpt("gpt-6.2-astra", {"timestamp": "2026-11-16T23:59:59Z"}).status is CostStatus.UNKNOWN


def test_usage_that_is_not_final_is_an_estimate() -> None:
    assert claude("claude-opus-5", {"estimated": True}).status is CostStatus.ESTIMATED


def test_a_name_on_which_sources_disagree_is_unknown() -> None:
    wire = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}

    receipt = price("mistral_ai", "mistral-large-latest", wire, api="chat", timestamp=NOON)

    assert receipt.status is CostStatus.UNKNOWN
    assert "sources disagree on what mistral-large-latest costs" in (receipt.reason or "")


def test_minutes_of_one_day_may_have_different_prices() -> None:
    wire = {"prompt_tokens": 0, "completion_tokens": 1000, "total_tokens": 1000}
    times = ["00:59", "01:00", "00:59", "01:00", "03:59", "04:00"]

    costs = [price("deepseek", "deepseek-flash", wire, timestamp=f"2026-11-18T{time}:00Z").cost_usd for time in times]

    assert costs == [usd(rate) for rate in ("0.6", "1.2", "0.6", "1.2", "1.2", "0.6")]


def test_openrouters_charge_counts_whatever_the_wires_shape() -> None:
    wire = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90, "cost": 0.001}

    receipt = price("openrouter", "anthropic/claude-sonnet-5", wire, api="messages", timestamp=NOON)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.PROVIDER_REPORTED, Decimal("0.001"))
    assert receipt.usage is not None
    assert (receipt.usage.input_tokens, receipt.usage.cache_read_tokens) == (100, 90)


def test_a_reason_holds_no_more_than_the_beginning_of_what_was_wrong() -> None:
    receipt = claude("claude-opus-5", input_tokens="somebody's text " * 100)

    assert len(receipt.reason or "") < 100


# --- work that is done apart from its request -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "usage", "cost"),
    [
        pytest.param("openai", "sora-2", {"video_seconds": "8", "size": "1280x720"}, "0.8", id="film"),
        pytest.param("openai", "sora-2-pro", {"video_seconds": "4", "size": "720x1280"}, "1.2", id="pro-film"),
        pytest.param("openai", "sora-2-pro", {"video_seconds": 4, "size": "1024x1792"}, "2", id="larger-film"),
        pytest.param("openai", "gpt-4o-2024-08-06", {"trained_tokens": 90_000}, "2.25", id="training"),
        pytest.param("openai", "gpt-4o-2024-08-06", {"trained_tokens": 9, "method": "dpo"}, "0.000225", id="dpo"),
        pytest.param("openai", "gpt-live-1", {"seconds": 120.0}, "0.1", id="live"),
        pytest.param("anthropic", "claude-opus-5-5", {"active_seconds": 1800}, "0.04", id="agent-at-work"),
    ],
)
def test_jobs_are_charged_by_what_they_tell(provider: str, model: str, usage: dict[str, Any], cost: str) -> None:
    receipt = price(provider, model, usage, timestamp=NOON)

    assert (receipt.cost_usd, receipt.status) == (Decimal(cost), CostStatus.EXACT)


@pytest.mark.parametrize(
    ("model", "usage", "reason"),
    [
        ("sora-2", {"video_seconds": "8", "size": "1920x1080"}, "no rate is listed for films of size '1920x1080'"),
        ("sora-2", {"video_seconds": "8", "size": "1024x1792"}, "no video_seconds_1024p rate is listed for sora-2"),
        ("sora-2", {"video_seconds": "soon", "size": "720x1280"}, "seconds = 'soon' is not a number"),
        ("gpt-4o-mini-2024-07-18", {"trained_tokens": 9}, "no training rate is listed for gpt-4o-mini"),
        ("o4-mini", {"trained_tokens": 9, "method": "reinforcement"}, "'reinforcement' is charged by its hours"),
    ],
)
def test_a_job_without_a_listed_price_is_unknown(model: str, usage: dict[str, Any], reason: str) -> None:
    receipt = price("openai", model, usage, timestamp=NOON)

    assert (receipt.cost_usd, receipt.status) == (None, CostStatus.UNKNOWN)
    assert reason in str(receipt.reason)
