"""Is the ledger equal to the invoice?  The provider's own books on one side, the collector's answers on the other.

The two sides share no code: the mock bills with a rate table and arithmetic of its own, the collector prices what the
app's SDK saw on the wire.  What the provider never said (the usage of a cut stream) can only be estimated; it is held
apart on both sides and never counted as equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tallystick.client import Collector

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the collector says about a stretch of time."""

    calls: Sequence[Mapping[str, Any]]
    units: Sequence[Mapping[str, Any]]
    totals: Mapping[str, Any]
    groups: Sequence[Mapping[str, Any]]
    """Spend by model."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison and how it ended."""

    mark: str
    """``ok``, ``estimated`` or ``wrong``."""
    text: str
    details: tuple[str, ...] = ()


@dataclass(slots=True)
class Verdict:
    """All comparisons."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Tell whether nothing was wrong."""
        return all(finding.mark != "wrong" for finding in self.findings)

    def say(self, ok: bool, text: str, details: Sequence[str] = (), *, mark: str = "ok") -> None:
        """Note a comparison."""
        self.findings.append(Finding(mark if ok else "wrong", text, () if ok and mark == "ok" else tuple(details)))


def read_ledger(collector: Collector, start: str) -> Ledger:
    """Return the calls since ``start`` (ISO 8601), each with its units, and the collector's own sums."""
    calls = list(_calls(collector, start))
    units = [unit for call in calls for unit in _units(collector.ask(f"calls/{call['id']}"))]
    since = {"start": start}
    return Ledger(
        calls=calls,
        units=units,
        totals=collector.ask("totals", since),
        groups=collector.ask("groups", {**since, "by": "model"})["rows"],
    )


def _units(opened: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a call's units; one that has no id of its own (embeddings) takes the id of the request that brought it."""
    request_id = opened["attempts"][-1]["request_id"] if opened["attempts"] else None
    for unit in opened["units"]:
        yield unit if unit["id"] else {**unit, "id": request_id}


def _calls(collector: Collector, start: str) -> Iterator[Mapping[str, Any]]:
    cursor: str | None = None
    while True:
        params: dict[str, str | int | None] = {"start": start, "order": "started_at", "limit": PAGE, "cursor": cursor}
        page = collector.ask("calls", params)
        yield from page["rows"]
        cursor = page.get("next_cursor")
        if not cursor:
            return


def compare(
    ledger: Ledger, invoice: Mapping[str, Any], requests: Sequence[Mapping[str, Any]], calls_made: int
) -> Verdict:
    """Hold ``ledger`` against the provider's ``invoice``, its list of ``requests`` and the app's own count of calls."""
    verdict = Verdict()
    items = {item["id"]: item for item in invoice["items"]}
    units = {unit["id"]: unit for unit in ledger.units}
    whole = {key: item for key, item in items.items() if item["usd"] is not None and not item["cut"]}
    _compare_exact(verdict, whole, units, ledger)
    _compare_unpriced(verdict, [item for item in items.values() if item["usd"] is None], units)
    _compare_cut(verdict, [item for item in items.values() if item["cut"] and item["usd"] is not None], units)
    _compare_counts(verdict, ledger, items, requests, calls_made)
    return verdict


def _compare_exact(verdict: Verdict, items: Mapping[str, Any], units: Mapping[str, Any], ledger: Ledger) -> None:
    """Whole answers of models with a price: each must be the same amount, and so must the sums."""
    wrong = []
    for key, item in items.items():
        unit = units.get(key)
        told = None if unit is None else unit["cost_usd"]
        if unit is None or told is None or Decimal(told) != Decimal(item["usd"]) or unit["cost_status"] != "exact":
            status = "missing" if unit is None else unit["cost_status"]
            wrong.append(f"{item['model']} {key}: invoice ${item['usd']}, ledger {_usd(told)} ({status})")
    billed = sum((Decimal(item["usd"]) for item in items.values()), Decimal(0))
    totals = ledger.totals
    summed = Decimal(totals["spend_usd"] or 0) - Decimal(totals["estimated_usd"])
    by_model = sum(
        (Decimal(row["spend_usd"] or 0) - Decimal(row["estimated_usd"]) for row in ledger.groups), Decimal(0)
    )
    if summed != billed:
        wrong.append(f"the ledger's total is ${summed}, the invoice's ${billed}")
    if by_model != billed:
        wrong.append(f"the ledger's sum over models is ${by_model}, the invoice's ${billed}")
    verdict.say(
        not wrong,
        f"{len(items)} whole answers: ${short(summed)} = ${short(billed)}, each equal to the last digit",
        wrong,
    )


def _compare_unpriced(verdict: Verdict, items: Sequence[Mapping[str, Any]], units: Mapping[str, Any]) -> None:
    """Models without a price: unknown on both sides, never zero."""
    wrong = []
    for item in items:
        unit = units.get(item["id"])
        if unit is None or unit["cost_usd"] is not None or unit["cost_status"] != "unknown":
            wrong.append(f"{item['model']} {item['id']}: no price on the invoice, ledger {unit and unit['cost_usd']}")
    models = ", ".join(sorted({item["model"] for item in items})) or "no model"
    verdict.say(not wrong, f"{len(items)} answers of {models}: no price, so unknown on both sides, never $0", wrong)


def _compare_cut(verdict: Verdict, items: Sequence[Mapping[str, Any]], units: Mapping[str, Any]) -> None:
    """Cut streams: the provider bills what it had generated and told nobody; the ledger must say "estimated"."""
    wrong, told = [], []
    for item in items:
        unit = units.get(item["id"])
        if unit is None or unit["cost_status"] != "estimated" or unit["cost_usd"] is None:
            status = "missing" if unit is None else unit["cost_status"]
            wrong.append(f"{item['model']} {item['id']} was cut, but its unit is {status}, not estimated")
            continue
        told.append(f"{item['model']}: ledger ≈ {_usd(unit['cost_usd'])}, invoice ${short(Decimal(item['usd']))}")
    text = f"{len(items)} cut streams, kept apart: their usage was never told, so it is estimated"
    verdict.say(not wrong, text, wrong or told, mark="estimated")


def _compare_counts(
    verdict: Verdict,
    ledger: Ledger,
    items: Mapping[str, Any],
    requests: Sequence[Mapping[str, Any]],
    calls_made: int,
) -> None:
    attempts = sum(int(call["attempts"]) for call in ledger.calls)
    verdict.say(
        attempts == len(requests) and len(ledger.calls) == calls_made == ledger.totals["calls"],
        f"{len(ledger.calls)} calls, as the app counted; {attempts} attempts, as the provider counted",
        [f"the app made {calls_made} calls in {len(requests)} requests; totals say {ledger.totals['calls']} calls"],
    )
    ids = [unit["id"] for unit in ledger.units]
    strange = [f"unit {key} is on no invoice" for key in ids if key not in items]
    twice = [f"unit {key} is there {ids.count(key)} times" for key in set(ids) if ids.count(key) > 1]
    verdict.say(not strange + twice, "nothing on the ledger that was not billed, and nothing twice", strange + twice)


def _usd(text: str | None) -> str:
    return "unknown" if text is None else f"${short(Decimal(text))}"


def short(amount: Decimal) -> str:
    """Return ``amount`` with every digit that says something."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
