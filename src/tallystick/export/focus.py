"""What a FOCUS file must be: its columns by version, and what is wrong with a row.

Source: FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec, ``specification/datasets/cost_and_usage/columns`` at 1.2, 1.3 and
1.4 (2026-06-04), and its appendix "Per-Token AI Model API".  Of the columns whose presence hangs on what a provider
supports, those are here that a call of an LLM has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

VERSIONS = ("1.2", "1.3", "1.4")
OLD, NEW = frozenset({"1.2", "1.3"}), frozenset({"1.3", "1.4"})
TOLERANCE = Decimal("1e-9")
"""How far a cost may be from price x quantity: an hour is 3,600 seconds, which no decimal divides."""

Value = str | Decimal | datetime | None
Row = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the dataset."""

    name: str
    kind: str = "text"
    """``text``, ``decimal``, ``time``, ``currency``, or ``json``: an object as text."""
    is_mandatory: bool = True
    is_nullable: bool = False
    allowed: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset(VERSIONS)


CHARGE_CATEGORIES = frozenset({"Usage", "Purchase", "Tax", "Credit", "Adjustment"})
SERVICE_CATEGORIES = frozenset({
    "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools",
    "Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media", "Migration",
    "Mobile", "Networking", "Security", "Storage", "Web", "Other",
})  # fmt: skip
AI_SUBCATEGORIES = frozenset({
    "AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing",
    "Other (AI and Machine Learning)",
})  # fmt: skip

COLUMNS = (
    Column("BilledCost", "decimal"),
    Column("BillingAccountId"),
    Column("BillingAccountName", is_nullable=True),
    Column("BillingCurrency", "currency"),
    Column("BillingPeriodEnd", "time"),
    Column("BillingPeriodStart", "time"),
    Column("ChargeCategory", allowed=CHARGE_CATEGORIES),
    Column("ChargeClass", is_nullable=True, allowed=frozenset({"Correction"})),
    Column("ChargeDescription", is_nullable=True),
    Column("ChargeFrequency", is_mandatory=False, allowed=frozenset({"One-Time", "Recurring", "Usage-Based"})),
    Column("ChargePeriodEnd", "time"),
    Column("ChargePeriodStart", "time"),
    Column("ConsumedQuantity", "decimal", is_mandatory=False, is_nullable=True),
    Column("ConsumedUnit", is_mandatory=False, is_nullable=True),
    Column("ContractedCost", "decimal"),
    Column("ContractedUnitPrice", "decimal", is_mandatory=False, is_nullable=True),
    Column("EffectiveCost", "decimal"),
    Column("HostProviderName", is_nullable=True, versions=NEW),
    # Always null here: no invoice is known yet.  Copies of 1.4 call its presence mandatory, or conditional.
    Column("InvoiceDetailId", is_mandatory=False, is_nullable=True, versions=frozenset({"1.4"})),
    Column("InvoiceIssuerName"),
    Column("ListCost", "decimal"),
    Column("ListUnitPrice", "decimal", is_mandatory=False, is_nullable=True),
    Column(
        "PricingCategory",
        is_mandatory=False,
        is_nullable=True,
        allowed=frozenset({"Standard", "Dynamic", "Committed", "Other"}),
    ),
    Column("PricingQuantity", "decimal", is_nullable=True),
    Column("PricingUnit", is_nullable=True),
    Column("ProviderName", versions=OLD),  # deprecated in 1.3, gone in 1.4
    Column("PublisherName", versions=OLD),
    Column("RegionId", is_mandatory=False, is_nullable=True),
    Column("ServiceCategory", allowed=SERVICE_CATEGORIES),
    Column("ServiceName"),
    Column("ServiceProviderName", versions=NEW),
    Column("ServiceSubcategory", is_mandatory=False, allowed=AI_SUBCATEGORIES),
    Column("SkuId", is_mandatory=False, is_nullable=True),
    Column("SkuMeter", is_mandatory=False, is_nullable=True),
    Column("SkuPriceDetails", "json", is_mandatory=False, is_nullable=True),
    Column("SkuPriceId", is_mandatory=False, is_nullable=True),
    Column("SubAccountId", is_mandatory=False, is_nullable=True),
    Column("SubAccountName", is_mandatory=False, is_nullable=True),
    Column("Tags", "json", is_mandatory=False, is_nullable=True),
)
# Ours; a column that FOCUS does not know begins with x_.
OWN = ("x_Api", "x_CallId", "x_CostStatus", "x_Item", "x_Model", "x_PriceSource", "x_PriceVersion", "x_ServiceTier",
       "x_TraceId", "x_UnitId")  # fmt: skip


def columns(version: str) -> tuple[Column, ...]:
    """Return the columns of ``version`` that an export has, ours last."""
    own = (Column(name, is_mandatory=False, is_nullable=True) for name in OWN)
    return (*(column for column in COLUMNS if version in column.versions), *own)


def header_faults(names: Sequence[str], version: str) -> Iterator[str]:
    """Yield what is wrong with the columns of a file."""
    known = {column.name: column for column in columns(version)}
    everywhere = {column.name for column in COLUMNS}
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} is there twice"
    for column in known.values():
        if column.is_mandatory and column.name not in names:
            yield f"{column.name} is missing; it is mandatory in FOCUS {version}"
    for name in names:
        if name not in known and not name.startswith("x_"):
            told = "is no column of that version" if name in everywhere else "is not known here; own ones begin with x_"
            yield f"{name} {told}"


def faults(row: Row, version: str) -> Iterator[str]:
    """Yield what is wrong with ``row``, whose values have their types already; nothing when all is well."""
    found = False
    for column in columns(version):
        if column.name in row and (fault := _value_fault(column, row[column.name])):
            found = True
            yield f"{column.name} {fault}"
    if not found:  # the rules between columns need values that can be compared
        yield from _rule_faults(row)


def _value_fault(column: Column, value: Value) -> str | None:
    if value is None:
        return None if column.is_nullable else "is null, and may not be"
    wanted = {"decimal": Decimal, "time": datetime}.get(column.kind, str)
    if not isinstance(value, wanted):
        return f"= {str(value)[:40]!r} is no {column.kind}"
    if isinstance(value, Decimal):
        return None if value.is_finite() else f"= {value} is no number"
    if isinstance(value, datetime):
        return None if value.utcoffset() == UTC.utcoffset(None) else f"= {value.isoformat()} is not in UTC"
    if not value:
        return "is an empty text; null says that there is none"
    if column.allowed and value not in column.allowed:
        return f"= {value[:40]!r}; allowed: {', '.join(sorted(column.allowed))}"
    if column.kind == "currency" and not re.fullmatch(r"[A-Z]{3}", value):
        return f"= {value[:40]!r} is no ISO 4217 code"
    return _json_fault(value) if column.kind == "json" else None


def _json_fault(value: str) -> str | None:
    try:
        read = json.loads(value)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        return f"= {value[:40]!r} is no JSON object"
    deep = next((key for key, inner in read.items() if isinstance(inner, dict | list)), None)
    return None if deep is None else f"has a {deep[:40]!r} that is not a plain value"


def _rule_faults(row: Row) -> Iterator[str]:
    get = row.get
    is_usage = get("ChargeCategory") == "Usage" and get("ChargeClass") is None
    for amount, unit in (("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit")):
        if (get(amount) is None) != (get(unit) is None):
            yield f"{amount} and {unit} are null together or not at all"
    for name in ("PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "PricingCategory", "HostProviderName",
                 "SkuPriceId"):  # fmt: skip
        if is_usage and name in row and row[name] is None:
            yield f"{name} is null, and may not be where ChargeCategory is Usage"
    for cost, price in (("ListCost", "ListUnitPrice"), ("ContractedCost", "ContractedUnitPrice")):
        if (fault := _product_fault(row, cost, price)) is not None:
            yield fault
    if get("SkuPriceId") is not None and "SkuId" in row and row["SkuId"] is None:
        yield "SkuId is null where SkuPriceId is not"
    if get("SubAccountName") is not None and get("SubAccountId") is None:
        yield "SubAccountName is set where SubAccountId is null"
    if get("ServiceCategory") != "AI and Machine Learning" and get("ServiceSubcategory") in AI_SUBCATEGORIES:
        yield f"ServiceSubcategory = {get('ServiceSubcategory')!r} is none of {get('ServiceCategory')!r}"
    yield from _period_faults(row)


def _product_fault(row: Row, cost: str, price: str) -> str | None:
    amount, each, quantity = row.get(cost), row.get(price), row.get("PricingQuantity")
    if not (isinstance(amount, Decimal) and isinstance(each, Decimal) and isinstance(quantity, Decimal)):
        return None
    if abs(each * quantity - amount) <= TOLERANCE:
        return None
    return f"{cost} = {amount} is not {price} x PricingQuantity ({each} x {quantity})"


def _period_faults(row: Row) -> Iterator[str]:
    times = [
        row.get(name) for name in ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
    ]
    billed_from, start, end, billed_until = (at if isinstance(at, datetime) else None for at in times)
    if start and end and not start < end:
        yield f"ChargePeriodStart {start.isoformat()} is not before ChargePeriodEnd {end.isoformat()}"
    if billed_from and billed_until and not billed_from < billed_until:
        yield f"BillingPeriodStart {billed_from.isoformat()} is not before BillingPeriodEnd {billed_until.isoformat()}"
    if start and billed_from and billed_until and not billed_from <= start < billed_until:
        yield f"ChargePeriodStart {start.isoformat()} is outside the billing period"


def typed(cells: Mapping[str, Any], version: str) -> Row:
    """Return a row of a file with the types of its columns; a cell that is not of its type stays text, a fault."""
    kinds = {column.name: column.kind for column in columns(version)}
    return {name: _typed(kinds.get(name, "text"), cell) for name, cell in cells.items()}


def _typed(kind: str, cell: Any) -> Value:
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):  # parquet has types of its own
        return cell if isinstance(cell, Decimal | datetime) else str(cell)
    try:
        if kind == "decimal":
            return Decimal(cell) if re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", cell) else cell
        if kind == "time" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", cell):
            return datetime.fromisoformat(cell)
    except (InvalidOperation, ValueError):
        return cell
    return cell
