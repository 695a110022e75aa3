"""Usage and book in, receipt out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from tallystick.errors import SettingsError
from tallystick.model.receipt import CostStatus, Line, Receipt
from tallystick.model.usage import Usage
from tallystick.pricing import _names, _wire
from tallystick.pricing._book import STANDARD, Book, Discount, Found, Multiplier, Spec, load_book
from tallystick.pricing._items import EXACT, STAND_IN, UNITS
from tallystick.pricing._wire import Part, Reading, Refused

ONE, ZERO = Decimal(1), Decimal(0)
PLANS_MAX = 4096
TIMED = object()
"""Stands for a plan of a model whose price hangs on the minute: the minute is part of the key then."""

# What a value of an unexpected shape can raise on its way through the readers and the book.
MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)

TIERS = {
    "": STANDARD,
    "default": STANDARD,
    "standard": STANDARD,
    "standard_only": STANDARD,
    "auto": STANDARD,
    "on_demand": STANDARD,
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
    "batch": "batch",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a usage object cannot be read."""

    reason: str


class Case(NamedTuple):
    """The circumstances of a call that move its price."""

    when: str
    speed: str
    geo: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """What one item costs in one plan."""

    item: str
    unit: str
    per: Decimal
    per_count: int
    spec: Spec
    multiplier: Decimal
    source: str


@dataclass(slots=True)
class Plan:
    """Everything about (place, model, case, day) that does not hang on the counts; made once, kept in the book."""

    found: Found
    rates: Mapping[str, Spec]
    multiplier: Decimal
    multiplier_source: str
    doubts: tuple[str, ...]
    discount: Discount | None
    terms: dict[str, Term]


def price(
    provider: str, model: str, usage: Mapping[str, Any] | None, *, book: Book | None = None, **params: Any
) -> Receipt:
    """Return what one billable response costs, and why.  Never raises: what cannot be priced is unknown, with a reason.

    ``usage`` is the provider's own object, None when none came.  ``params``: api, base_url, service_tier,
    requested_service_tier, batch, speed, geo, cloud, region, timestamp (ISO 8601 or datetime; default: now),
    tool_usage, input_characters, audio_seconds, request_model, estimated; unknown ones are ignored.
    """
    reading: Reading | None = None
    try:
        book = book or load_book()
        place = place_for(book, provider, params)
        reading = _read(place.provider, usage, params)
        if reading.stated_usd is not None:
            return _stated(reading, provider, model, book)
        return _priced(book, place, provider, model, reading, params)
    except Refused as refused:
        reason = str(refused)
    except SettingsError as error:  # the user's own price file; who loads the book first is told in full
        reason = str(error)
    except MALFORMED as error:
        reason = f"malformed: {type(error).__name__}: {error}"
    return Receipt(
        provider=str(provider),
        model=str(model),
        status=CostStatus.UNKNOWN,
        usage=reading.usage if reading else None,
        reason=reason,
        price_version=book.version if book else "",
    )


def read_usage(provider: str, api: str, usage: Mapping[str, Any] | None, **params: Any) -> Usage | Refusal:
    """Return the counts in ``usage`` in our one convention, or why they cannot be read.  Never raises."""
    try:
        place = place_for(load_book(), provider, params)
        return _read(place.provider, usage, {**params, "api": api}).usage
    except (Refused, SettingsError) as refused:
        return Refusal(str(refused))
    except MALFORMED as error:
        return Refusal(f"malformed: {type(error).__name__}: {error}")


def place_for(book: Book, provider: str, params: Mapping[str, Any]) -> _names.Place:
    key = (provider, params.get("base_url"), params.get("cloud"), params.get("region"))
    place = book.plans.get(key)
    if place is None:
        place = _names.place_of(*key, book.hosts)
        remember(book, key, place)
    return place


def remember(book: Book, key: Any, value: Any) -> None:
    if len(book.plans) >= PLANS_MAX:
        book.plans.clear()
    book.plans[key] = value


def _read(provider: str | None, usage: Mapping[str, Any] | None, params: Mapping[str, Any]) -> Reading:
    if usage is None:
        return _wire.read_without_usage(params)
    if not isinstance(usage, Mapping):
        raise Refused(f"the usage is a {type(usage).__name__}, not an object")
    if not usage:
        raise Refused("the usage is empty")
    api = params.get("api")
    return _wire.reader_of(provider, usage, api if isinstance(api, str) else "")(usage, params)


def _stated(reading: Reading, provider: str, model: str, book: Book) -> Receipt:
    assert reading.stated_usd is not None, "the caller looked"
    line = Line(
        item="provider_reported",
        quantity=ONE,
        unit="request",
        unit_price_usd=reading.stated_usd,
        per=1,
        multiplier=ONE,
        cost_usd=reading.stated_usd,
        model=model,
        source="the response's own usage",
    )
    return Receipt(
        provider=provider,
        model=model,
        status=CostStatus.PROVIDER_REPORTED,
        cost_usd=reading.stated_usd,
        contracted_usd=reading.stated_usd,
        lines=(line,),
        usage=reading.usage,
        price_version=book.version,
        notes=reading.notes,
    )


# --- the circumstances ------------------------------------------------------------


def _case(reading: Reading, params: Mapping[str, Any]) -> Case:
    """Return the circumstances; the response decides, the request only where the response is silent."""
    doubts: list[str] = []
    tier = reading.tier or _word(params.get("service_tier"))
    if not tier and (tier := _word(params.get("requested_service_tier"))) and TIERS.get(tier) != STANDARD:
        doubts.append(f"the response does not say which tier served it; {tier} was requested")
    if tier not in TIERS:
        raise Refused(f"no rate is listed for service tier {_wire.short(tier)}")
    when = "batch" if params.get("batch") is True or TIERS[tier] == "batch" else TIERS[tier]
    speed = reading.speed or _word(params.get("speed"))
    geo = reading.geo or _word(params.get("geo") or params.get("inference_geo"))
    if reading.doubt:
        doubts.append(reading.doubt)
    if params.get("estimated") is True:
        doubts.append("the usage is not the provider's final word")
    return Case(when, "" if speed == "standard" else speed, geo, tuple(doubts))


def _word(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def moment_of(value: Any) -> datetime:
    """Return the time of the call in UTC; now when none is given."""
    if value is None:
        return datetime.now(UTC)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise Refused(f"timestamp = {_wire.short(value)} is not a time; give ISO 8601 or a datetime")
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# --- the price ------------------------------------------------------------


def _priced(
    book: Book, place: _names.Place, provider: str, model: str, reading: Reading, params: Mapping[str, Any]
) -> Receipt:
    case = _case(reading, params)
    at = moment_of(params.get("timestamp"))
    asked = params.get("request_model")
    lines: list[Line] = []
    doubts = case.doubts
    notes = reading.notes
    total = contracted = ZERO
    for part in reading.parts:
        plan = plan_of(book, place, part.model or model, asked if isinstance(asked, str) else None, case, at)
        counts = {**part.counts, "request": 1} if "request" in plan.rates else part.counts
        if part.where_listed:
            left_out = part.where_listed - plan.rates.keys()
            counts = {item: count for item, count in counts.items() if item not in left_out}
        listed = ZERO
        for item, count in counts.items():
            line = _line(book, plan, part, item, count)
            lines.append(line)
            if plan.terms[item].spec.estimated:
                doubts += (f"the rate of {item} is an estimate: {line.source}",)
            listed = EXACT.add(listed, line.cost_usd)
        total = EXACT.add(total, listed)
        if plan.discount is not None:
            notes += (f"contracted: x{plan.discount.factor} {plan.discount.source}",)
            listed = EXACT.multiply(listed, plan.discount.factor)
        contracted = EXACT.add(contracted, listed)
        doubts += plan.doubts
    return Receipt(
        provider=provider,
        model=model,
        status=CostStatus.ESTIMATED if doubts else CostStatus.EXACT,
        cost_usd=total,
        contracted_usd=contracted,
        lines=tuple(lines),
        usage=reading.usage,
        price_version=book.version,
        notes=(*dict.fromkeys(notes), *dict.fromkeys(doubts)) if notes or doubts else (),
    )


def plan_of(book: Book, place: _names.Place, model: str, asked: str | None, case: Case, at: datetime) -> Plan:
    key: tuple[Any, ...] = (place, model, asked, case.when, case.speed, case.geo, at.toordinal())
    plan = book.plans.get(key)
    if plan is None:
        plan = _make_plan(book, place, model, asked, case, at)
        remember(book, key, TIMED if plan.found.model.is_timed else plan)
    elif plan is TIMED:
        key += (at.hour, at.minute)
        plan = book.plans.get(key)
        if plan is None:
            plan = _make_plan(book, place, model, asked, case, at)
            remember(book, key, plan)
    return plan


def _make_plan(book: Book, place: _names.Place, model: str, asked: str | None, case: Case, at: datetime) -> Plan:
    found = _find(book, place, model)
    endpoint, doubts = _endpoint(book, place, found, asked)
    day = at.date().isoformat()
    circumstances = {
        "batch": case.when == "batch",
        "service_tier": case.when or "standard",
        "speed": case.speed or "standard",
        "geo": "" if found.is_clouded else case.geo,
        "host": place.host,
        "endpoint": endpoint or "",
    }
    applied = [m for m in book.multipliers if m.applies(found.model, circumstances, day)]
    doubts += tuple(f"estimated: {m.source}" for m in applied if m.estimated)
    rates, case_doubts = _rates(found, case, applied, at)
    factor = ONE
    for multiplier in applied:
        factor = EXACT.multiply(factor, multiplier.factor)
    sources = "; ".join(f"x{m.factor} {m.source}" for m in applied)
    if "request" in rates:
        doubts += ("the fee per request hangs on what the usage does not tell; the dearest is taken",)
    discount = book.discount(place.provider, found.model.id, day)
    return Plan(found, rates, factor, sources, doubts + case_doubts, discount, {})


def _find(book: Book, place: _names.Place, model: str) -> Found:
    if not isinstance(model, str) or not model.strip():
        raise Refused(f"the model is {_wire.short(model)}, which names nothing")
    if place.provider is None:
        raise Refused(f"nobody lists the host {place.host}: what it charges, if anything, is its owner's to say")
    if told := book.dispute(place.provider, model):
        raise Refused(f"sources disagree on what {model} costs: {told}")
    if place.provider not in book.providers:
        raise Refused(f"no prices of {place.provider!r} are listed; prices of your own need a [[price]]")
    found = book.find(place, model)
    if found is None:
        raise Refused(f"{place.provider} lists no model {model!r}; a name of your own needs an [[alias]]")
    return found


def _endpoint(book: Book, place: _names.Place, found: Found, asked: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Return whether a cloud's endpoint was global or regional, and what is doubtful about it."""
    if not found.is_clouded:
        return None, ()
    endpoint = found.endpoint
    if endpoint is None and asked and (request := book.find(place, asked)):
        endpoint = request.endpoint
    if endpoint is None and any("endpoint" in m.when and m.concerns(found.model) for m in book.multipliers):
        return "regional", ("whether the endpoint was global or regional is not told; the dearer is taken",)
    return endpoint, ()


def _rates(
    found: Found, case: Case, applied: list[Multiplier], at: datetime
) -> tuple[dict[str, Spec], tuple[str, ...]]:
    """Return the rates by item for the case; a case that neither the rates nor a multiplier know is refused."""
    model = found.model
    doubts: tuple[str, ...] = ()
    standard = model.rates(at, STANDARD)
    if model.is_free:
        return {}, ()
    if standard is None:
        raise Refused(f"no rate of {model.id} is in force on {at.date().isoformat()}")
    rates = standard
    if case.when and not any(_is_case(m, case) for m in applied):
        special = model.rates(at, case.when)
        if special is None and model.provider == "anthropic" and case.when == "priority":
            # Committed capacity is paid for by contract; the list price is the best that usage can tell.
            doubts = ("the priority tier is billed by contract; this is the list price",)
        elif special is None:
            raise Refused(f"no rate is listed for {model.id} in {case.when}")
        else:
            rates = special
    if case.speed and not any("speed" in m.when for m in applied):
        special = model.rates(at, case.speed)
        if special is None:
            raise Refused(f"no rate is listed for {model.id} at speed {case.speed!r}")
        rates = {**rates, **special}
    return rates, doubts


def _is_case(multiplier: Multiplier, case: Case) -> bool:
    """Tell whether ``multiplier`` is how the case's tier or batch is priced."""
    return multiplier.when.get("service_tier") == case.when or (case.when == "batch" and "batch" in multiplier.when)


def _line(book: Book, plan: Plan, part: Part, item: str, count: int | Decimal) -> Line:
    term = plan.terms.get(item) or term_of(book, plan, item)
    model = plan.found.model
    quantity = Decimal(count)
    if model.minimum and term.unit == "second" and quantity:
        quantity = max(quantity, Decimal(model.minimum))
    spec = term.spec
    unit_price = spec.at(part.prompt_tokens) if spec.steps else spec.base
    cost = EXACT.multiply(quantity, unit_price)
    if term.multiplier is not ONE:
        cost = EXACT.multiply(cost, term.multiplier)
    # By position, in half the time: every call has several.
    return Line(
        part.label + item,
        quantity,
        term.unit,
        unit_price,
        term.per_count,
        term.multiplier,
        EXACT.divide(cost, term.per),
        model.id,
        term.source,
        spec.valid_from,
    )


FREE = Spec(ZERO, (), "listed as free of charge", None)


def term_of(book: Book, plan: Plan, item: str) -> Term:
    """Return what ``item`` costs in ``plan``; raises Refused when no rate is listed."""
    term = plan.terms.get(item)
    if term is None:
        term = plan.terms[item] = _term(book, plan, item)
    return term


def _term(book: Book, plan: Plan, item: str) -> Term:
    spec = _spec(book, plan, item)
    unit, per = UNITS[item]
    # Fees per request are never multiplied: batch, geography and speed are about tokens.
    multiplied = unit == "token" and plan.multiplier != ONE
    source = f"{spec.source}; {plan.multiplier_source}" if multiplied else spec.source
    return Term(item, unit, Decimal(per), per, spec, plan.multiplier if multiplied else ONE, source)


def _spec(book: Book, plan: Plan, item: str) -> Spec:
    model = plan.found.model
    if model.is_free:
        return FREE
    for name in (item, *STAND_IN.get(item, ())):
        if spec := plan.rates.get(name):
            return spec
        if name in model.unpublished:
            raise Refused(f"no {name} rate of {model.id} has been published")
    if fee := book.fees.get((model.provider, item)):
        return fee
    raise Refused(f"no {item} rate is listed for {model.id}")
