"""A billable response as it stands on a span: raw usage, what pricing needs to know, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from tallystick.instrumentation._routes import Route
from tallystick.instrumentation._wire import Answer
from tallystick.model import attributes as names
from tallystick.model.receipt import CostStatus, Receipt
from tallystick.model.usage import Usage

CHARACTERS_PER_TOKEN = 4
"""For estimates only; measured error up to 94 % on odd text, see docs/prices.md."""

_TEXT_APIS = frozenset({"messages", "chat", "completions", "responses"})
"""Where a stream's missing usage can be estimated from text; pictures and sound say nothing of theirs."""

# Made once: json.dumps makes a new encoder for each call that has separators of its own.
_to_json = json.JSONEncoder(separators=(",", ":")).encode

# From the best to the worst: a call is as sure as its weakest unit.
_WEAKER = (CostStatus.EXACT, CostStatus.PROVIDER_REPORTED, CostStatus.ESTIMATED, CostStatus.UNKNOWN)


class Unit(NamedTuple):
    """One billable response and its receipt."""

    answer: Answer
    receipt: Receipt
    facts: Mapping[str, Any]


def load_prices() -> None:
    """Load what prices: with the first answer, because an app that asks for none need not wait for it.

    Before the first stream exists, and not when it ends: the garbage collector may end one inside the import, and a
    module that is half there has no prices.
    """
    import_module("tallystick.pricing")


def price_unit(
    answer: Answer, route: Route, request: Mapping[str, Any], place: Place, at: str, *, streamed: bool
) -> Unit:
    """Return the unit of an answer.

    What an event stream did not say of its usage (it was cut, or nobody asked for it) is estimated from the request and
    the text that was streamed, and the unit is marked so.
    """
    is_open = streamed and not route.is_fetch and not answer.is_unreadable
    usage, estimated = _completed(answer, route, request) if is_open else (answer.usage, False)
    estimated = estimated or answer.is_estimated
    api = answer.api or route.api
    params = {**place.params, **_told(answer, request)}
    if api == "speech":
        params["input_characters"] = len(str(request.get("input", "")))
    if api == "videos" and request.get("seconds"):  # of a film that is made longer, the answer tells the whole length
        usage = {**(usage or {}), "video_seconds": request["seconds"]}
    if answer.is_batch:
        params["batch"] = True
    if answer.audio_seconds is not None:
        params["audio_seconds"] = answer.audio_seconds
    from tallystick.pricing import price  # see `load_prices`

    model = answer.model or request.get("model")
    receipt = price(place.provider, str(model or ""), usage, api=api, timestamp=at, **params)
    status = CostStatus.ESTIMATED if estimated and receipt.cost_usd is not None else receipt.status
    facts = {
        "id": answer.id,
        "provider": place.provider,
        "model": model,
        "api": api,
        "usage": usage,
        "params": params,
        "at": at,
        "estimated": estimated,
        "cost_usd": None if receipt.cost_usd is None else format(receipt.cost_usd, "f"),
        "cost_status": status.value,
        "price_version": receipt.price_version,
    }
    return Unit(answer=answer, receipt=receipt, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where calls of a client go, and who bills there."""

    provider: str
    params: Mapping[str, Any]
    """What pricing must know of the place: its base URL, unless the user has said who is behind it."""
    address: str
    port: int | None


def _told(answer: Answer, request: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    asked_model = request.get("model")
    if isinstance(asked_model, str) and asked_model != answer.model:  # Bedrock's answer hides the region of its price
        told["request_model"] = asked_model
    if answer.geo is not None:
        told["geo"] = answer.geo
    if answer.service_tier is not None:
        told["service_tier"] = answer.service_tier
    if isinstance(asked := request.get("service_tier"), str):  # the SDKs' "not given" is an object of their own
        told["requested_service_tier"] = asked
    if answer.tool_usage is not None:
        told["tool_usage"] = answer.tool_usage
    return told


def _completed(answer: Answer, route: Route, request: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """Return the usage of a stream, with what it did not say estimated, and whether anything was."""
    if not lacks_output(answer, route):
        return answer.usage, False
    usage = dict(answer.usage or {})
    usage.setdefault(_input_key(route.api), _tokens(len(json.dumps(_prompt(request), ensure_ascii=False, default=str))))
    usage[_output_key(route.api)] = _tokens(answer.streamed_characters)
    return usage, True


def lacks_output(answer: Answer, route: Route) -> bool:
    """Tell whether a stream of text said nothing of what it wrote."""
    return route.api in _TEXT_APIS and _output_key(route.api) not in (answer.usage or {})


def _prompt(request: Mapping[str, Any]) -> list[Any]:
    parts = [request.get(name) for name in ("system", "instructions", "messages", "input", "prompt", "tools")]
    return [part for part in parts if isinstance(part, str | list | dict)]


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _input_key(api: str) -> str:
    return "prompt_tokens" if api in {"chat", "completions"} else "input_tokens"


def _output_key(api: str) -> str:
    return "completion_tokens" if api in {"chat", "completions"} else "output_tokens"


def unit_attributes(units: Sequence[Unit], *, is_fetch: bool = False) -> dict[str, Any]:
    """Return what the units put on the span of their call.

    ``is_fetch``: they may have been told before; the ledger counts each once by its id, but who sums over spans cannot,
    so tokens and cost stand in the units alone.  Source: GenAI conventions, ``fetch_response``.
    """
    found: dict[str, Any] = {names.UNITS: _to_json([unit.facts for unit in units])}
    if not units:
        return found
    last = units[-1].answer
    if last.id is not None:
        found[names.RESPONSE_ID] = last.id
    if last.model is not None:
        found[names.RESPONSE_MODEL] = last.model
    if last.stop_reasons:
        found[names.RESPONSE_FINISH_REASONS] = tuple(last.stop_reasons)
    found |= _circumstances(last)
    found[names.COST_STATUS] = max([unit.facts["cost_status"] for unit in units], key=_WEAKER.index)
    if is_fetch:
        return found
    found |= _usage([unit.receipt.usage for unit in units])
    costs = [unit.receipt.cost_usd for unit in units if unit.receipt.cost_usd is not None]
    if len(costs) == len(units):
        found[names.COST_AMOUNT] = float(sum(costs))  # for other backends; the exact figure is in the units
        found[names.COST_CURRENCY] = "USD"
    return found


def _circumstances(answer: Answer) -> dict[str, Any]:
    """Return what moved the price of an answer away from the list: its tier, speed, place, and the tools it used."""
    usage = answer.usage or {}
    tier, speed = usage.get("service_tier") or answer.service_tier, usage.get("speed")
    geo, tools = usage.get("inference_geo"), usage.get("server_tool_use") or answer.tool_usage
    found: dict[str, Any] = {}
    if isinstance(tier, str) and tier not in {"standard", "default"}:
        found[names.SERVICE_TIER] = tier
    if isinstance(speed, str) and speed != "standard":
        found[names.SPEED] = speed
    if isinstance(geo, str) and geo not in {"", "not_available", "global"}:
        found[names.INFERENCE_GEO] = geo
    if isinstance(tools, Mapping):
        searches = tools.get("web_search_requests") or _mapping(tools.get("web_search")).get("num_requests")
        if isinstance(searches, int) and searches:
            found[names.WEB_SEARCH_REQUESTS] = searches
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _usage(usages: Iterable[Usage | None]) -> dict[str, int]:
    """Return the counts of all units; of the parts (caches, reasoning) those that are not zero."""
    read = written = cache_read = cache_written = reasoning = 0
    known = [usage for usage in usages if usage is not None]
    for usage in known:
        read += usage.input_tokens
        written += usage.output_tokens
        cache_read += usage.cache_read_tokens
        cache_written += usage.cache_write_tokens
        reasoning += usage.reasoning_tokens
    found = {names.INPUT_TOKENS: read, names.OUTPUT_TOKENS: written} if known else {}
    if cache_read:
        found[names.CACHE_READ_TOKENS] = cache_read
    if cache_written:
        found[names.CACHE_WRITE_TOKENS] = cache_written
    if reasoning:
        found[names.REASONING_TOKENS] = reasoning
    return found
