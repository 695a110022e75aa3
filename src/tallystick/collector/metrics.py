"""``/metrics``: the ledger and the budgets as Prometheus' text, for who watches the watcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], Any]


def text(ledger: Mapping[str, Any], budgets: Sequence[Mapping[str, Any]], *, healthy: bool) -> str:
    """Return the exposition of ``ledger`` and ``budgets``, as the API answers them.

    Labels are reasons and budgets' names only: what comes from outside without bounds (models, users) is no label.
    """
    return "".join(line + "\n" for line in _lines(ledger, budgets, healthy=healthy))


def _lines(ledger: Mapping[str, Any], budgets: Sequence[Mapping[str, Any]], *, healthy: bool) -> Iterator[str]:
    journal, prices = ledger["journal"], ledger["prices"]
    yield from _metric("healthy", "gauge", "1 when what arrives is being stored.", [({}, int(healthy))])
    for name, told in (("received", "arrived"), ("stored", "were stored"), ("duplicate", "had been stored before")):
        samples: list[Sample] = [({}, ledger[f"{name}_spans"])]
        yield from _metric(f"spans_{name}_total", "counter", f"Spans that {told}.", samples)
    yield from _metric("spans_conflicting_total", "counter", "Duplicates that said other things; the first counts.", [
        ({}, ledger["conflicting_spans"]),
    ])  # fmt: skip
    rejected = [({"reason": reason}, count) for reason, count in sorted(ledger["rejected_spans"].items())]
    yield from _metric("spans_rejected_total", "counter", "Spans that were not taken.", rejected)
    yield from _metric("spans_unaccounted", "gauge", "Received and not in the above; must be 0.", [
        ({}, ledger["unaccounted_spans"]),
    ])  # fmt: skip
    yield from _metric("calls_unaccounted", "gauge", "Calls that apps say have finished, neither here nor dropped.", [
        ({}, sum(app["unaccounted_calls"] for app in ledger["apps"])),
    ])  # fmt: skip
    dropped = [({"reason": reason}, count) for reason, count in sorted(ledger["dropped"].items())]
    yield from _metric("records_dropped_total", "counter", "Records that are lost to the tables.", dropped)
    yield from _metric("units_duplicate_total", "counter", "Accounts of a response that another one beat.", [
        ({}, ledger["duplicate_units"]),
    ])  # fmt: skip
    for name in ("segments", "bytes", "behind_bytes", "damaged_bytes"):
        yield from _metric(
            f"journal_{name}", "gauge", f"The journal's {name.replace('_', ' ')}.", [({}, journal[name])]
        )
    if forward := ledger["forward"]:
        yield from _metric("forward_behind_bytes", "gauge", "What the second endpoint has not got yet.", [
            ({}, forward["behind_bytes"]),
        ])  # fmt: skip
        yield from _metric("forward_refused_records_total", "counter", "Records that it refused for good.", [
            ({}, forward["refused_records"]),
        ])  # fmt: skip
    if prices["age_days"] is not None:
        yield from _metric("prices_age_days", "gauge", "How old the price book is.", [({}, prices["age_days"])])
    for name in ("spent_usd", "limit_usd", "unpriced_units"):
        samples = [({"budget": budget["name"]}, budget[name]) for budget in budgets if budget[name] is not None]
        yield from _metric(f"budget_{name}", "gauge", "Of the current window.", samples)
    for name in ("limit", "spent", "reserved", "left"):
        samples = [({"budget": budget["name"], "unit": budget["unit"]}, budget[name]) for budget in budgets]
        yield from _metric(f"budget_{name}", "gauge", "Of the current window and its fullest group.", samples)
    samples = [({"budget": budget["name"]}, budget["refused"]) for budget in budgets]
    yield from _metric("budget_refused", "gauge", "Calls that were refused in the current window.", samples)


def _metric(name: str, kind: str, told: str, samples: Sequence[Sample]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP tallystick_{name} {told}"
    yield f"# TYPE tallystick_{name} {kind}"
    for labels, value in samples:
        listed = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        yield f"tallystick_{name}{{{listed}}} {value}" if listed else f"tallystick_{name} {value}"


def _escaped(content: str) -> str:
    return content.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
