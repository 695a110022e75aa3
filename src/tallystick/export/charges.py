"""A unit and its receipt in, FOCUS rows out: one for each line that was charged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from tallystick.export.focus import Row

EXACT = Context(prec=38, rounding=ROUND_HALF_EVEN)
ZERO, ONE = Decimal(0), Decimal(1)
HOUR = timedelta(hours=1)

# Who bills, and what the service is called, by the ledger's name of the provider.
BILLERS = {
    "anthropic": ("Anthropic", "Claude API"),
    "openai": ("OpenAI", "OpenAI API"),
    "azure.ai.openai": ("Microsoft", "Azure OpenAI"),
    "azure.ai.inference": ("Microsoft", "Azure AI Foundry"),
    "aws.bedrock": ("Amazon Web Services", "Amazon Bedrock"),
    "gcp.vertex_ai": ("Google Cloud", "Vertex AI"),
    "gcp.gemini": ("Google", "Gemini API"),
    "x_ai": ("xAI", "xAI API"),
    "mistral_ai": ("Mistral AI", "Mistral API"),
    "deepseek": ("DeepSeek", "DeepSeek API"),
    "groq": ("Groq", "GroqCloud"),
    "openrouter": ("OpenRouter", "OpenRouter"),
    "perplexity": ("Perplexity", "Perplexity API"),
    "cohere": ("Cohere", "Cohere API"),
}
# Who made a model that somebody else serves, by a word in its name.
MAKERS = {
    "claude": "Anthropic", "gpt": "OpenAI", "whisper": "OpenAI", "gemini": "Google", "gemma": "Google",
    "llama": "Meta", "mistral": "Mistral AI", "mixtral": "Mistral AI", "grok": "xAI", "deepseek": "DeepSeek",
    "qwen": "Alibaba Cloud", "nova": "Amazon Web Services", "titan": "Amazon Web Services", "command": "Cohere",
    "kimi": "Moonshot AI",
}  # fmt: skip
UNITS = {"token": "Tokens", "request": "Requests", "second": "Seconds", "character": "Characters", "page": "Pages",
         "message": "Messages", "image": "Images"}  # fmt: skip
TAGGED = ("service", "environment", "feature", "user", "session", "prompt", "caller")


def rows(unit: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for each line of the unit's receipt, all versions' columns in it; none for a unit without a price."""
    receipt = unit["receipt"] or {}
    if unit["cost_usd"] is None or not receipt.get("lines"):
        return
    share = _share(receipt)
    common = _common(unit)
    for line in receipt["lines"]:
        yield {**common, **_charge(unit, line, share), **_own(unit, line, receipt)}


def _share(receipt: Mapping[str, Any]) -> Decimal:
    """Return what the contract makes of the list price, as a factor over all of the receipt."""
    listed, contracted = Decimal(receipt["cost_usd"]), Decimal(receipt["contracted_usd"])
    return EXACT.divide(contracted, listed) if listed else ONE


def _common(unit: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.fromisoformat(unit["at"]).astimezone(UTC)
    hour = at.replace(minute=0, second=0, microsecond=0)
    month = hour.replace(day=1, hour=0)
    biller, service = _biller(unit["provider"])
    return {
        "BillingAccountId": unit["provider"],
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": hour,
        "ChargePeriodEnd": hour + HOUR,
        "HostProviderName": biller,
        "InvoiceIssuerName": biller,
        "PricingCategory": "Standard",
        "ProviderName": biller,
        "RegionId": (unit["params"] or {}).get("region"),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": service,
        "ServiceProviderName": biller,
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": unit["key"],
        "SubAccountName": None,
        "Tags": _tags(unit),
    }


def _biller(provider: str) -> tuple[str, str]:
    return BILLERS.get(provider, (provider, f"{provider} API"))


def _maker(provider: str, model: str) -> str:
    """Return who made the model, which is not who serves it on a cloud or a router."""
    return next((maker for word, maker in MAKERS.items() if word in model.lower()), _biller(provider)[0])


def _tags(unit: Mapping[str, Any]) -> str | None:
    tags = {name: unit[name] for name in TAGGED if unit.get(name)} | dict(unit.get("tags") or {})
    return json.dumps(tags, ensure_ascii=False, sort_keys=True) if tags else None


def _charge(unit: Mapping[str, Any], line: Mapping[str, Any], share: Decimal) -> dict[str, Any]:
    quantity, per = Decimal(line["quantity"]), line["per"]
    listed = EXACT.multiply(Decimal(line["unit_price_usd"]), Decimal(line["multiplier"]))
    cost = Decimal(line["cost_usd"])
    contracted = EXACT.multiply(cost, share)
    units = UNITS.get(line["unit"], line["unit"])
    meter = _meter(line["item"], units)
    sku = f"{unit['provider']}/{line['model']}/{line['item']}"
    return {
        "BilledCost": contracted,
        "ChargeDescription": f"{line['model']}: {meter}",
        "ConsumedQuantity": quantity,
        "ConsumedUnit": units,
        "ContractedCost": contracted,
        "ContractedUnitPrice": EXACT.multiply(listed, share),
        "EffectiveCost": contracted,
        "ListCost": cost,
        "ListUnitPrice": listed,
        "PricingQuantity": EXACT.divide(quantity, Decimal(per)),
        "PricingUnit": units if per == 1 else "Hours" if (units, per) == ("Seconds", 3600) else f"{per} {units}",
        "PublisherName": _maker(unit["provider"], line["model"]),
        "SkuId": sku,
        "SkuMeter": meter,
        "SkuPriceDetails": json.dumps({"x_Multiplier": line["multiplier"], "x_ValidFrom": line["valid_from"]}),
        "SkuPriceId": f"{sku}/{listed.normalize():f}",
    }


def _meter(item: str, units: str) -> str:
    words = item.replace("_", " ").title()
    return words if item in {"characters", "web_search", "file_search", "provider_reported"} else f"{words} {units}"


def _own(unit: Mapping[str, Any], line: Mapping[str, Any], receipt: Mapping[str, Any]) -> dict[str, Any]:
    tier = (unit["usage"] or {}).get("service_tier") or (unit["params"] or {}).get("service_tier")
    return {
        "x_Api": unit["api"],
        "x_CallId": unit["call_id"],
        "x_CostStatus": unit["cost_status"],
        "x_Item": line["item"],
        "x_Model": unit["model"],
        "x_PriceSource": line["source"],
        "x_PriceVersion": receipt["price_version"],
        "x_ServiceTier": tier if isinstance(tier, str) and tier else None,
        "x_TraceId": unit["trace_id"],
        "x_UnitId": unit["id"],
    }
