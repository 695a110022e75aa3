"""The most that a call can cost, before it is sent: what a hard budget reserves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.errors import SettingsError
from tallystick.pricing import _names
from tallystick.pricing._book import Book, Spec, load_book, matches
from tallystick.pricing._items import EXACT, STAND_IN, UNITS
from tallystick.pricing._receipts import (
    MALFORMED,
    TIERS,
    ZERO,
    Case,
    Plan,
    moment_of,
    place_for,
    plan_of,
    remember,
)  # fmt: skip
from tallystick.pricing._request import NO_CAPS, SCALARS, Ask, Caps, Shape, Unbounded, read_request, shape_of
from tallystick.pricing._wire import Refused, amount, short

SDK_RETRIES = 2
"""What both SDKs do when they are not told otherwise (openai 3.54, anthropic 2.12)."""
LASTS = timedelta(hours=1)
"""A call that is answered later than this may have crossed into another day's prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that a call can cost, all its attempts together; ``usd`` is None when nothing bounds it."""

    usd: Decimal | None
    reason: str | None = None
    """Why there is no bound, and what would give one."""
    is_unpriced: bool = False
    """True when it is the price that is not known; tokens are bounded then, if the request bounds them."""
    attempt_usd: Decimal | None = None
    attempts: int = 1
    input_tokens: int = 0
    """The most that one attempt can read, over all passes of it."""
    output_tokens: int = 0
    """The most that one attempt can write, over all answers and passes of it."""
    price_version: str = ""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The dearest that a token or a use can be, over every tier, hour, place and class that the call can meet."""

    read: tuple[tuple[int, Decimal], ...]
    """(longer than, USD per token), ascending in both."""
    written: tuple[tuple[int, Decimal], ...]
    fees: Mapping[str, Decimal]
    """USD per use, of the items that are charged by use."""
    output_tokens: int | None
    """The most that the model writes in one answer; None when it is not listed."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What requests of one shape cost, by the length of their text and the cap on their answers."""

    ceiling: Ceiling
    more_tokens: int
    """What is read beside the text."""
    answers: int
    fees_usd: Decimal


def upper_bound(
    provider: str,
    model: str,
    request: Mapping[str, Any],
    *,
    max_retries: int = SDK_RETRIES,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    media_tokens: int | None = None,
    tool_uses: int | None = None,
    tool_tokens: int | None = None,
    book: Book | None = None,
    **params: Any,
) -> Bound:
    """Return the most that sending ``request`` to ``model`` can cost, in USD, its retries included.  Never raises.

    ``request`` is the JSON body that is about to be sent.  Where it leaves something open the caller can close it:
    ``input_tokens`` (counted exactly, by the provider's own endpoint say), ``output_tokens`` (when the request sets no
    cap), ``media_tokens`` (of each image, file or sound), ``tool_uses`` and ``tool_tokens`` (of tools that run at the
    provider's).  ``params`` are those of `price`.  What has no bound has ``usd`` None and a ``reason``.
    """
    caps = NO_CAPS
    if (input_tokens, output_tokens, media_tokens, tool_uses, tool_tokens) != (None,) * 5:
        caps = Caps(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            media_tokens=media_tokens,
            tool_uses=tool_uses,
            tool_tokens=tool_tokens,
        )
    try:
        book = book or load_book()
        place = place_for(book, provider, params)
        return _bound(book, place, model, request, caps, max_retries, params)
    except Unbounded as told:
        reason = str(told)
    except (Refused, SettingsError) as told:
        return _unpriced(str(told), provider, request, caps, max_retries, params, book.version if book else "")
    except MALFORMED as error:
        reason = f"malformed: {type(error).__name__}: {error}"
    return Bound(usd=None, reason=reason, price_version=book.version if book else "")


def _bound(
    book: Book,
    place: _names.Place,
    model: str,
    request: Mapping[str, Any],
    caps: Caps,
    retries: int,
    params: Mapping[str, Any],
) -> Bound:
    if place.provider == "openrouter":
        raise Unbounded("openrouter states its own charge and chooses who serves; no list bounds it")
    if not isinstance(request, Mapping):
        raise Unbounded(f"the request is {short(request)}, not an object")
    if type(retries) is not int or retries < 0:
        raise Unbounded(f"max_retries = {short(retries)} is no count")
    at = moment_of(params.get("timestamp"))
    counted = _by_use(request, params)
    if counted:
        once, read, written = _attempt(book, place, model, _without_tokens(), counted, at)
    else:
        once, read, written = _in_tokens(book, place, model, request, caps, params, at)
    attempts = retries + 1
    return Bound(
        usd=EXACT.multiply(once, Decimal(attempts)),
        attempt_usd=once,
        attempts=attempts,
        input_tokens=read,
        output_tokens=written,
        price_version=book.version,
    )


def _in_tokens(
    book: Book,
    place: _names.Place,
    model: str,
    request: Mapping[str, Any],
    caps: Caps,
    params: Mapping[str, Any],
    at: datetime,
) -> tuple[Decimal, int, int]:
    """Return the most that one attempt costs, reads and writes, of what is charged by tokens.

    Requests of an app are much alike: what all of one shape have in common is kept in the book for the day.
    """
    shape = shape_of(request, str(params.get("api") or "")) if caps is NO_CAPS else None
    facts = [fact for fact in params.items() if fact[0] != "timestamp"]
    if shape is None or not all(type(value) in SCALARS for _, value in facts):
        return _attempt(book, place, model, read_request(str(place.provider), request, caps, params), {}, at)
    key = ("tariff", place, model, shape.key, *facts, at.toordinal(), (at + LASTS).toordinal())
    tariff: Tariff | None = book.plans.get(key)
    if tariff is None:
        ask = read_request(str(place.provider), request, caps, params)
        if ask.loops or ask.compacts or ask.advisors or ask.fallbacks:
            return _attempt(book, place, model, ask, {}, at)
        tariff = _tariff(book, place, model, ask, shape, at)
        remember(book, key, tariff)
    read = shape.text_tokens + tariff.more_tokens
    written = _answer_tokens(shape.output_tokens, tariff.ceiling, model) * tariff.answers
    return EXACT.add(_tokens_usd(tariff.ceiling, read, written), tariff.fees_usd), read, written


def _tariff(book: Book, place: _names.Place, model: str, ask: Ask, shape: Shape, at: datetime) -> Tariff:
    ceiling = _ceiling(book, place, model, ask, {}, at)
    fees = EXACT.add(_fees_usd(ceiling, _decimals(ask.fees)), ceiling.fees.get("request", ZERO))
    return Tariff(ceiling, ask.prompt_tokens - shape.text_tokens, ask.answers, fees)


def _unpriced(
    reason: str,
    provider: str,
    request: Mapping[str, Any],
    caps: Caps,
    retries: int,
    params: Mapping[str, Any],
    version: str,
) -> Bound:
    """Return the bound of a call whose price nobody lists: in tokens, if the request alone bounds them."""
    read, written = 0, 0
    with suppress(Unbounded, *MALFORMED):
        ask = read_request(provider, request, caps, params)
        if ask.output_tokens is not None and not (ask.loops or ask.compacts or ask.advisors or ask.fallbacks):
            read, written = ask.prompt_tokens, ask.output_tokens * ask.answers
    return Bound(
        usd=None,
        reason=reason,
        is_unpriced=True,
        attempts=max(retries, 0) + 1,
        input_tokens=read,
        output_tokens=written,
        price_version=version,
    )


def _by_use(request: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what is charged by characters or seconds: both are known before the call."""
    if params.get("audio_seconds") is not None:
        return {"audio_seconds": amount(params["audio_seconds"], "audio_seconds")}
    if params.get("api") == "speech" and isinstance(request.get("input"), str):
        return {"characters": Decimal(len(request["input"]))}
    return {}


def _without_tokens() -> Ask:
    return Ask(prompt_tokens=0, output_tokens=0)


def _attempt(
    book: Book, place: _names.Place, model: str, ask: Ask, counted: Mapping[str, Decimal], at: datetime
) -> tuple[Decimal, int, int]:
    """Return the most that one attempt costs, reads and writes; its passes, advisors and fallbacks included."""
    ceiling = _ceiling(book, place, model, ask, counted, at)
    answer = _answer_tokens(ask.output_tokens, ceiling, model) * ask.answers
    advisors = [(a, _ceiling(book, place, a.model, ask, {}, at)) for a in ask.advisors]
    advice = [_answer_tokens(a.output_tokens, own, a.model) for a, own in advisors]
    added = ask.loops * ask.loop_tokens + sum(a.uses * size for (a, _), size in zip(advisors, advice, strict=True))
    passes = (1 + ask.loops) * (2 if ask.compacts else 1)
    # The first pass reads the prompt; each later one reads at most all that has been said and found until then.
    context = ask.prompt_tokens + answer * passes + added
    read = ask.prompt_tokens + (passes - 1) * context
    written = answer * passes
    total = _tokens_usd(ceiling, read, written)
    total = EXACT.add(total, _fees_usd(ceiling, [*_decimals(ask.fees), *counted.items()]))
    total = EXACT.add(total, ceiling.fees.get("request", ZERO))
    for (advisor, own), size in zip(advisors, advice, strict=True):
        total = EXACT.add(total, _tokens_usd(own, advisor.uses * context, advisor.uses * size))
    for fallback, cap in ask.fallbacks:
        own = _ceiling(book, place, fallback, ask, {}, at)
        own_answer = (cap if cap is not None else answer) * passes
        total = EXACT.add(total, _tokens_usd(own, read + passes * own_answer, own_answer))
    return total, read, written


def _fees_usd(ceiling: Ceiling, uses: Iterable[tuple[str, Decimal]]) -> Decimal:
    total = ZERO
    for item, times in uses:
        total = EXACT.add(total, EXACT.multiply(ceiling.fees[item], times))
    return total


def _decimals(fees: Mapping[str, int]) -> Iterator[tuple[str, Decimal]]:
    for item, uses in fees.items():
        yield item, Decimal(uses)


def _answer_tokens(cap: int | None, ceiling: Ceiling, model: str) -> int:
    if cap is not None:
        return cap
    if ceiling.output_tokens is None:
        raise Unbounded(f"the request sets no max_tokens, and the most that {model} writes is not listed")
    return ceiling.output_tokens


def _tokens_usd(ceiling: Ceiling, read: int, written: int) -> Decimal:
    cost_in = EXACT.multiply(_at(ceiling.read, read), Decimal(read))
    return EXACT.add(cost_in, EXACT.multiply(_at(ceiling.written, read), Decimal(written)))


def _at(steps: Sequence[tuple[int, Decimal]], tokens: int) -> Decimal:
    price = steps[0][1]
    for above, dearer in steps[1:]:
        if tokens > above:
            price = dearer
    return price


# --- the dearest rates ------------------------------------------------------------


def _ceiling(
    book: Book, place: _names.Place, model: str, ask: Ask, counted: Mapping[str, Decimal], at: datetime
) -> Ceiling:
    """Return the dearest rates for ``ask``; made once for each day and kind of request, and kept in the book."""
    uses = (*ask.fees, *counted)
    kind = (ask.items_in, ask.items_out, ask.tiers, ask.speeds, ask.geo, uses)
    key = ("ceiling", place, model, kind, at.toordinal(), (at + LASTS).toordinal())
    ceiling: Ceiling | None = book.plans.get(key)
    if ceiling is None:
        plans = list(_plans(book, place, model, ask, at))
        if not counted:
            _refuse_hidden(plans)
        ceiling = Ceiling(
            _steps(plans, ask.items_in, needed=not counted),
            _steps(plans, ask.items_out, needed=False),
            _fees(book, plans, uses),
            _output_max(book, plans[0]),
        )
        remember(book, key, ceiling)
    return ceiling


def _refuse_hidden(plans: Sequence[Plan]) -> None:
    """Refuse rates that hang on what no request limits."""
    for plan in plans:
        for item in ("output_citation", "output_reasoning"):
            if item in plan.rates:
                raise Unbounded(f"{plan.found.model.id} charges {item} beside the answer, which no request limits")


def _plans(book: Book, place: _names.Place, model: str, ask: Ask, at: datetime) -> Iterator[Plan]:
    """Yield the plans of every circumstance that the answer may turn out to have had."""
    geos = [ask.geo] if ask.geo is not None else _geos(book)
    whens = []
    for tier in ask.tiers:
        if tier not in TIERS:
            raise Refused(f"no rate is listed for service tier {short(tier)}")
        whens.append(TIERS[tier])
    yield plan_of(book, place, model, None, Case("", "", ""), at)  # what is refused here is refused always
    for moment in _moments(book, place, model, at):
        for when in dict.fromkeys(whens):
            for speed in ask.speeds:
                for geo in geos:
                    case = Case(when, "" if speed == "standard" else speed, geo or "")
                    yield plan_of(book, place, model, None, case, moment)


def _geos(book: Book) -> list[str]:
    """Return every geography that some price hangs on: a workspace may have one set that the request does not tell."""
    told = {str(m.when["geo"]) for m in book.multipliers if "geo" in m.when}
    return ["", *sorted(told)]


def _moments(book: Book, place: _names.Place, model: str, at: datetime) -> list[datetime]:
    """Return the moments whose prices can hold: now and when the answer comes, with all hours where these matter."""
    moments = [at, at + LASTS]
    found = book.find(place, model)
    if found is not None and found.model.is_timed:
        edges = {edge for row in found.model.rows for span in row.hours for edge in span}
        moments += [m.replace(hour=e.hour, minute=e.minute) for m in (at, at + LASTS) for e in edges]
    return moments


def _steps(plans: Sequence[Plan], items: Sequence[str], *, needed: bool) -> tuple[tuple[int, Decimal], ...]:
    """Return the dearest price of any of ``items`` in any of ``plans``, by the length of the prompt."""
    priced = [(spec, plan.multiplier) for plan in plans for item in items for spec in _specs(plan, item)]
    if not priced:
        if needed and not plans[0].found.model.is_free:
            raise Unbounded(f"no input rate is listed for {plans[0].found.model.id}")
        return ((0, ZERO),)
    edges = sorted({0, *(above for spec, _ in priced for above, _ in spec.steps)})
    steps, dearest = [], ZERO
    for above in edges:
        reached = max(EXACT.multiply(spec.at(above + 1), times) for spec, times in priced)
        dearest = max(dearest, reached, *(EXACT.multiply(spec.base, times) for spec, times in priced))
        steps.append((above, EXACT.divide(dearest, Decimal(1_000_000))))
    return tuple(steps)


def _specs(plan: Plan, item: str) -> Iterator[Spec]:
    """Yield the rate of ``item``, or of what stands in for it; nothing when neither is listed."""
    model = plan.found.model
    for name in (item, *STAND_IN.get(item, ())):
        if spec := plan.rates.get(name):
            yield spec
            return
        if name in model.unpublished:
            # What nobody tells may be dear, but a cached token never costs more than one that was read.
            if name.startswith("cache_read"):
                continue
            raise Unbounded(f"no {name} rate of {model.id} has been published")


def _fees(book: Book, plans: Sequence[Plan], uses: Sequence[str]) -> dict[str, Decimal]:
    fees: dict[str, Decimal] = {}
    for item in dict.fromkeys((*uses, "request")):
        provider = plans[0].found.model.provider
        specs = [spec for plan in plans if (spec := plan.rates.get(item) or book.fees.get((provider, item)))]
        if not specs and item != "request" and not plans[0].found.model.is_free:
            raise Unbounded(f"no {item} rate is listed for {plans[0].found.model.id}")
        dearest = max((max(spec.base, *(price for _, price in spec.steps), ZERO) for spec in specs), default=ZERO)
        fees[item] = EXACT.divide(dearest, Decimal(UNITS[item][1]))
    return fees


def _output_max(book: Book, plan: Plan) -> int | None:
    model = plan.found.model
    listed = [
        raw["output_tokens"]
        for raw in book.limits
        if raw["provider"] == model.provider and any(matches(pattern, model.id) for pattern in raw["models"])
    ]
    return max(listed, default=None)
